"""One JSON object a line, one line a report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ignite_act.files import LARGEST_TEXT, appending, reading, sync_directory
from ignite_act.report import EpochReport


class JsonLinesSink:
    """Appends each report to a file as the epoch ends; the file is created with the first one.

    A link is followed if it is there when the sink is made; one that takes the file's place later is not.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._follow_links = self.path.is_symlink()

    def write(self, report: EpochReport) -> None:
        """Appends one line, complete or not at all, even after a power cut; a cut-off last line is removed first."""
        line = json_line(report).encode()
        with appending(self.path, follow_links=self._follow_links) as file:
            end = _end_of_lines(self.path)
            if end is not None and end < file.tell():
                file.truncate(end)
            try:
                while line:  # a disk that is nearly full takes a part
                    line = line[file.write(line) :]
            except BaseException:
                if end is not None:
                    file.truncate(end)
                raise
            if end is not None:
                os.fsync(file.fileno())
        if end == 0:
            sync_directory(self.path.parent)


def _end_of_lines(path: Path) -> int | None:
    """Size of a file without a last line that was cut off; None for a pipe or a device."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - 4096)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def json_line(report: EpochReport) -> str:
    """A report as one line of JSON, its end included.

    Its cost is left out: a run that is repeated or resumed writes the same bytes.
    """
    content = report.to_dict()
    del content["cost"]
    return json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"


def read_reports(path: str | Path) -> list[EpochReport]:
    """The reports of a file that `JsonLinesSink` wrote; a last line that was cut off is left out.

    Raises:
        ValueError: if a line before the last one is not a report.
    """
    return list(each_report(path))


def each_report(path: str | Path) -> Iterator[EpochReport]:
    """`read_reports`, one at a time: a long run does not fit into the memory."""
    for report, _ in _lines(Path(path)):
        yield report


def end_of_epoch(path: str | Path, epoch: int) -> int:
    """Size in bytes up to the end of the last report of this epoch or an earlier one.

    Raises:
        ValueError: if a line before the last one is not a report.
    """
    return max((end for report, end in _lines(Path(path)) if report.epoch <= epoch), default=0)


def _lines(path: Path) -> Iterator[tuple[EpochReport, int]]:
    """The reports, each with the size in bytes up to its end."""
    end = 0
    with reading(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST_TEXT), b""), start=1):
            end += len(line)
            if line == b"\n":
                continue
            if len(line) == LARGEST_TEXT:
                raise ValueError(f"{path}, line {number} is not a report: larger than {LARGEST_TEXT >> 20} MB")
            try:
                data = json.loads(line.decode())
            except json.JSONDecodeError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}, line {number} is not a report: {error}") from error
            yield EpochReport.from_dict(data), end
