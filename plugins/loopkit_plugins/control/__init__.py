"""Plugins that act on a loop."""
