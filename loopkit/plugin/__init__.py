"""Plugins, one at a time: where they are offered, how one is fetched, whether it fits, what guards it."""
