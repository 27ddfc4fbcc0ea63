"""What could not be checked in a run, and why: as plugins said, and as the run itself knows."""

from __future__ import annotations

import sys

from loopkit.recorder import Recorder

COMPILED = "regions inside torch.compile are opaque"
Note = tuple[str, str]
"""A rule, "*" for all, and the reason."""


class Notes:
    """Begins with the run: what was compiled before is no obstacle to it."""

    def __init__(self) -> None:
        self._said: dict[Note, None] = {}
        self._graphs_before = graphs_compiled()

    def add(self, rule: str, why: str) -> None:
        """Repeats are one."""
        self._said.setdefault((rule, why))

    def said(self) -> list[Note]:
        """What was added."""
        return list(self._said)

    def obstacles(self, recorder: Recorder) -> list[Note]:
        """What kept rules from being judged."""
        notes = self.said()
        if recorder.losses.error is not None:
            notes.append(("*", f"the graph of a loss could not be read: {recorder.losses.error!r}"))
        if recorder.losses.making.error is not None:
            notes.append(("*", f"the loss functions of a graph could not be read: {recorder.losses.making.error!r}"))
        if recorder.losses.survey.error is not None:
            notes.append(("*", f"the model could not be searched: {recorder.losses.survey.error!r}"))
        for owner in recorder.ledger.owners():
            for how in owner.doubt.hidden():
                notes.append(("*", f"gradients of {owner.label} are {how} through .data, which leaves no trace"))
        if graphs_compiled() > self._graphs_before:
            notes.append(("*", COMPILED))
        return notes

    def all(self, recorder: Recorder, *, others_train: bool) -> list[Note]:
        """Also what is merely not known, such as where batches come from."""
        notes = []
        if not recorder.steps and not others_train:
            notes.append(("*", "no optimizer step was seen"))
        elif recorder.steps and not recorder.batches:
            notes.append(("*", "no DataLoader was seen: batches are unknown (loopkit.batches(iterable) shows them)"))
        if recorder.steps and not recorder.forwards:
            notes.append(("*", "no module was called with gradients on: forward passes are unknown"))
        return list(dict.fromkeys([*self.said(), *notes, *self.obstacles(recorder)]))


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None)
    return int(counters["stats"]["unique_graphs"]) if counters else 0
