"""Ignite: `LoopkitHandler().attach(trainer)`."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

from loopkit import Door


class LoopkitHandler:
    """Watches each `run` of the engine it is attached to.

    Args:
        options: as `loopkit.watch` takes them.

    Attributes:
        door: `door.run` is the run that is watched, or was watched last.
    """

    def __init__(self, **options: Any) -> None:
        self.door = Door(**options)

    def attach(self, engine: Engine) -> None:
        """Watch this engine."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.COMPLETED, self._ended)
        engine.add_event_handler(Events.INTERRUPT, self._ended)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raised)

    def _started(self, engine: Engine) -> None:
        self.door.open()

    def _ended(self, engine: Engine) -> None:
        self.door.close()

    def _raised(self, engine: Engine, error: BaseException) -> None:
        """An engine with a handler for exceptions leaves them to it: without another one, it goes on as it would."""
        self.door.close(error)
        handlers = getattr(engine, "_event_handlers", {}).get(Events.EXCEPTION_RAISED, ())
        if len(handlers) <= 1:
            raise error
