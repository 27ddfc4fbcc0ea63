"""The checks, sinks and controls that ship with loopkit, written against its public hooks only.

PYTEST_DONT_REWRITE: under `loopkit run -m pytest` this is imported before pytest is, which would warn of it.
"""
