"""Findings as the messages of failed tests show them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from loopkit.finding import Finding


def where(finding: Finding, folder: str | None = None) -> str:
    """File and line, as one would type it from `folder`; the working directory if that is None."""
    if finding.place is None:
        return "(no line)"
    file = finding.place.file
    start = folder if folder is not None else os.getcwd()
    if not file.startswith("<") and Path(file).is_relative_to(start):
        file = os.path.relpath(file, start)
    return f"{file}:{finding.place.line}"


def headline(finding: Finding, folder: str | None = None) -> str:
    """One finding in one line."""
    return f"{where(finding, folder)}  {finding.severity}  {finding.rule}: {finding.seen}"


def listed(findings: Iterable[Finding]) -> str:
    """What was found, a line each; that nothing was, if so."""
    lines = [f"  {headline(finding)}" for finding in findings]
    return "\n".join(["found:", *lines]) if lines else "nothing was found"


def told(finding: Finding, quiet: str, folder: str | None = None) -> str:
    """One finding in full.

    Args:
        finding: it.
        quiet: how to silence it, where this is read.
        folder: which its file is relative to.
    """
    step = f", step {finding.step}" if finding.step is not None else ""
    return "\n".join(
        [
            f"{where(finding, folder)}  {finding.severity}  {finding.rule}  ({finding.confidence}{step})",
            f"  seen   {finding.seen}",
            f"  why    {finding.why}",
            f"  try    {finding.remedy}",
            f"  quiet  {quiet}",
        ]
    )
