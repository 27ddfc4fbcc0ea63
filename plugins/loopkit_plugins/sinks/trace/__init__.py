"""`loopkit trace`: hears every event of a loop, and says what an update consists of, where, how often, how long."""

from __future__ import annotations

from .tracer import Tracer as Tracer
