"""The checks, sinks and controls that ship with loopkit, written against its public hooks only."""
