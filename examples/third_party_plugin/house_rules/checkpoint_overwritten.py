"""A checkpoint is written over the one before it."""

from __future__ import annotations

from typing import Any

from loopkit import Confidence, Finding, Place, Severity, Site, file_named, hookimpl


class CheckpointOverwritten:
    """Two checkpoints of one run are saved under one name, so only the last is left.

    What it looks for
        `torch.save` to a file that this run has saved to before.

    Why that hurts
        In this house each checkpoint is kept: when a run goes wrong late, there is nothing to go back to.

    A loop that has it
        for epoch in range(10):
            train(model)
            torch.save(model.state_dict(), "model.pt")

    The repair
        Put the epoch or the step into the name: `f"model-{epoch}.pt"`.

    Left alone
        Buffers in memory; a file that an earlier run wrote.

    What it costs
        One look-up a save.
    """

    rule = "checkpoint-overwritten"
    severity = Severity.WARNING
    confidence = Confidence.FACT
    api_version = 1

    def __init__(self) -> None:  # made afresh for each run
        self._saved: dict[str, Place] = {}

    @hookimpl
    def state_saved(self, file: Any, site: Site) -> Finding | None:
        """Report the second save of a file."""
        name = file_named(file)
        if name.startswith("<"):
            return None
        first = self._saved.get(name)
        if first is None:
            self._saved[name] = site.place
            return None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"first_saved": first},
            subject=name,
            seen=f"a checkpoint was saved to {name}, where {first} had saved one before",
            why="only the last checkpoint of the run is left",
            remedy="put the epoch or the step into the file's name",
            evidence={"file": name},
        )
