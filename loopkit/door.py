"""A watch for callbacks, which are told when training begins and when it ends, but have no block to put it around."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Sequence
from typing import Any

from loopkit.run import Run
from loopkit.taps.patch import hide_this_frame
from loopkit.watching import Watch, current_run


class Door:
    """Opens a watch inside another trainer, or joins the run that is open already, which then does the reporting.

    A plugin that asks for the end of training ends the passes over the training DataLoader, as under `loopkit run`.

    Args:
        select, ignore, plugins, autoload, skip, probe: as `watch` takes them.

    Attributes:
        run: the run that is watched, or was watched last; None before.
    """

    def __init__(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        plugins: Sequence[Any] = (),
        autoload: bool = True,
        skip: Iterable[str] = (),
        probe: bool = False,
    ) -> None:
        self.run: Run | None = None
        self._options: dict[str, Any] = {
            "select": select if select is None else list(select),
            "ignore": list(ignore),
            "plugins": plugins,
            "autoload": autoload,
            "skip": list(skip),
            "probe": probe,
        }
        self._watch: Watch | None = None
        self._guards: list[_Guard] = []
        Watch(**self._options)  # what is named wrong is refused here, not when training begins

    def open(self) -> None:
        """Training begins."""
        if self._watch is not None:
            self.close(RuntimeError("the training before this one did not come to its end"))
        joins = current_run() is not None
        watch = Watch(**self._options | {"autoload": self._options["autoload"] and not joins}, program=not joins)
        run = watch.__enter__()
        if not joins:
            run.program = False  # what comes after training goes on
        self.run, self._watch = run, watch
        atexit.register(self._ended_open)

    def close(self, error: BaseException | None = None) -> None:
        """Training ended, with an exception or without. A second call does nothing."""
        watch, self._watch = self._watch, None
        while self._guards:
            self._guards.pop().undo()
        if watch is not None:
            atexit.unregister(self._ended_open)
            watch.__exit__(None if error is None else type(error), error, None)

    def close_if_it_raises(self, owner: Any, method: str) -> None:
        """For trainers that tell nobody of an exception: close when one leaves this method of `owner`.

        The wrapper stands in the instance until the watch closes.
        """
        self._guards.append(_Guard(self, owner, method))

    def _ended_open(self) -> None:
        """The process ends, and nobody said that training did."""
        self.close(RuntimeError("training did not come to its end"))


class _Guard:
    """A wrapper around a method of one object."""

    def __init__(self, door: Door, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name
        original = getattr(owner, name)
        self._own = vars(owner).get(name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                hide_this_frame(error)
                door.close(error)
                raise

        self._wrapper = guarded
        vars(owner)[name] = guarded

    def undo(self) -> None:
        """Leave the object as it was, unless somebody has put another in our place."""
        attributes = vars(self._owner)
        if attributes.get(self._name) is not self._wrapper:
            return
        if self._own is None:
            del attributes[self._name]
        else:
            attributes[self._name] = self._own
