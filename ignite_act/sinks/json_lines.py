"""One JSON object a line, one line a report."""

from __future__ import annotations

import json
from pathlib import Path

from ignite_act.report import EpochReport


class JsonLinesSink:
    """Appends each report to a file as the epoch ends; the file is created with the first one.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, report: EpochReport) -> None:
        """Appends one line in one write, so that a reader never sees half of it while the process lives."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_line(report))


def json_line(report: EpochReport) -> str:
    """A report as one line of JSON, its end included."""
    return json.dumps(report.to_dict(), allow_nan=False, separators=(",", ":")) + "\n"


def read_reports(path: str | Path) -> list[EpochReport]:
    """The reports of a file that `JsonLinesSink` wrote; a last line that was cut off is left out.

    Raises:
        ValueError: if a line before the last one is not a report.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    reports = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a report: {error}") from error
        reports.append(EpochReport.from_dict(data))
    return reports
