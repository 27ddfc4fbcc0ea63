"""The report as one JSON object, always whole on disk, so that a killed run keeps what it had found."""

from __future__ import annotations

import json

from loopkit import Report, ReportWriter


class Json(ReportWriter):
    """Writes the report as JSON, from which `loopkit report` makes any other format."""

    def text(self, report: Report) -> str:
        """The report under its contract, which is in the README."""
        return json.dumps(report.to_dict(), indent=1)
