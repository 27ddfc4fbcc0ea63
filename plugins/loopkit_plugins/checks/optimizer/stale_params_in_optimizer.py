"""The optimizer holds tensors that the model no longer uses."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Ledger, Run, Severity, Site, Stray, Update, hookimpl

_WALKS = 3  # walked losses that show it before it is said in mid-run: an optimizer may be built a little later


class StaleParamsInOptimizer:
    """Parameters were replaced after the optimizer was constructed, which goes on with the old ones.

    What it looks for
        Parameters of a trained model that the loss reaches and no optimizer owns, while the optimizer of that model
        holds as many of the same shape that are in no module and that no loss reaches.

    Why that hurts
        The optimizer updates tensors that nobody uses any more. What has replaced them is never trained: a new head,
        resized embeddings, a weight that is constrained by assigning it anew, a model that was copied.

    A loop that has it
        optimizer = Adam(model.parameters())
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
            model.weight = nn.Parameter(model.weight.detach().clamp(min=0))

    The repair
        Construct the optimizer after the last change to the model. Change values in place, under `torch.no_grad()`:
        `model.weight.clamp_(min=0)`; load with `assign=False`.

    Left alone
        Tensors outside of modules (latents, images, temperatures): the loss reaches them. Modules that are not used
        now. A replaced parameter that an optimizer owns again, however late in the run. Conversions by `module.to()`
        and `half()`, which keep the objects. Sharded models.

    What it costs
        As `unregistered-params`: nothing while all that the loss reaches is owned.
    """

    rule = "stale-params-in-optimizer"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: dict[Site, dict[str, tuple[Stray, Finding]]] = {}
        self._walks: dict[str, int] = {}

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Note what each walked loss reaches, and report what several have shown."""
        for event, loss in update.losses():
            if not loss.walked or event.site is None:
                continue
            still = self._suspects[event.site] = {}
            for stray in loss.strays:
                if stray.replaced and stray.training and not stray.loose:
                    found = self._finding(event, stray, update.number)
                    still[stray.name] = stray, found
                    walks = self._walks[stray.name] = self._walks.get(stray.name, 0) + 1
                    if walks >= _WALKS:
                        yield found

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report what no optimizer has come to own since."""
        ledger = run.instrument(Ledger)
        owned = ledger.once_owned.union(*(owner.ids for owner in ledger.owners()))
        for suspects in self._suspects.values():
            for stray, found in suspects.values():
                if owned.isdisjoint(stray.ids) and self._walks[stray.name] < _WALKS:
                    yield found

    def _finding(self, event: Event, stray: Stray, number: int) -> Finding:
        assert event.site is not None
        places = {"backward": event.site.place}
        if stray.made is not None:
            places["optimizer constructed"] = stray.made.place
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=places.get("optimizer constructed", event.site.place),
            places=places,
            subject=stray.name,
            seen=f"{stray.optimizer} holds {stray.replaced} parameters that no module has any more, while the loss "
            f"reaches {stray.parameters} of {stray.name} that are in no optimizer (first: {stray.first}): they were "
            "replaced after the optimizer was constructed",
            why="the optimizer updates tensors that nobody uses; their replacements are never trained",
            remedy="construct the optimizer after the last change to the model, and change values in place under "
            "torch.no_grad() instead of assigning a new nn.Parameter",
            evidence={
                "module": stray.name,
                "first": stray.first,
                "parameters": stray.parameters,
                "replaced": stray.replaced,
                "optimizer": stray.optimizer,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
