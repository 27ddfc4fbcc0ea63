"""How a run ends: who may end it, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from loopkit.errors import StopTraining


class Ending:
    """What a run knows of its own end.

    Attributes:
        program: the watch is around a whole program, not a part of one.
        loop: the `Loop` that is being run, which has a `state_dict()`; None in anybody else's loop.
        step_offset: added to `steps`, it is the number of a step in its training: a `Loop` that resumes counts on.
        stops_softly: whoever runs the loop ends it when `stopping` is set: `Loop`, and `loopkit run`.
        stopping: why training is to end, once a plugin has asked for it.
        ran_on: why the loop could not be ended all the same; "" if it could.
        ending: "complete", "stopped" by a plugin or by Ctrl-C, or "failed" with an exception; as far as is known.
        on_stop: called once, when a loop is to end softly.
        fail_on: the severity from which on a finding makes the exit code 1, or "never".
        exit_code: asked at the end for the code that the program will end with; None where that is not ours to say.
    """

    def __init__(self) -> None:
        self.program = False
        self.loop: Any = None
        self.step_offset = 0
        self.stops_softly = False
        self.stopping: str | None = None
        self.ran_on = ""
        self.ending = "complete"
        self.on_stop: Callable[[], None] | None = None
        self.fail_on = "error"
        self.exit_code: Callable[[], int | None] = lambda: None
        self._over = False

    @property
    def cut_short(self) -> bool:
        """Whether the loop ended before it was through: stopped, interrupted, or with an exception."""
        return self.ending != "complete"

    @property
    def has_loop(self) -> bool:
        """Whether a `Loop` runs, which tells of evaluations and ends itself."""
        return self.loop is not None

    def stop(self, reason: str) -> None:
        """End training: before the next batch where the loop ends softly, else at once. After its end, nothing.

        Raises:
            StopTraining: through the user's loop; a plugin lets it pass.
        """
        if self._over:
            return
        first, self.stopping = self.stopping is None, self.stopping or reason
        if not self.stops_softly:
            raise StopTraining(reason)
        if first:
            self.ending = "stopped"
            if self.on_stop is not None:
                self.on_stop()

    def runs_on(self, why: str) -> None:
        """Say that the loop cannot be ended, and why."""
        if not self.ran_on:
            self.ran_on = why
            self.ending = "complete"
            self.say(f"asked to stop ({self.stopping}), but {why}: it runs on")

    def say(self, text: str) -> None:
        """Print a line to stderr, as loopkit's."""
        try:
            print(f"loopkit: {text}", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # stderr is gone, and that is no reason to fail
