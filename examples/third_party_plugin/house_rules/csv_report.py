"""The findings as a table, for a spreadsheet."""

from __future__ import annotations

import csv
import io

from loopkit import Report, ReportWriter


class Csv(ReportWriter):
    """Writes a row for each finding. A format says a report as text; when and where it is written is loopkit's."""

    def text(self, report: Report) -> str:
        """The table."""
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["rule", "severity", "file", "line", "step", "updates", "seen"])
        for finding in report.findings:
            file = line = ""
            if finding.place is not None:
                file, line = report.where(finding.place.file) or finding.place.file, str(finding.place.line)
            step = "" if finding.step is None else finding.step
            rows.writerow([finding.rule, finding.severity, file, line, step, finding.count, finding.seen])
        return table.getvalue()
