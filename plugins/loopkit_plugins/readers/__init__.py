"""Readers of what other tools wrote, for `loopkit curves`."""
