"""Sinks: plugins that show or store findings. Those listed here need no argument and are always loaded."""

SINKS = ("loopkit_plugins.sinks.console:Console",)
