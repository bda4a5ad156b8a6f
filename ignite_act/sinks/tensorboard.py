"""TensorBoard: a scalar or a histogram for every quantity of every layer, and charts over all layers of a quantity."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import custom_scalars, histogram_raw, hparams, text

from ignite_act import files
from ignite_act.report import EpochReport
from ignite_act.sinks import words

logger = logging.getLogger(__name__)

_CHARTS = {
    "mean absolute gradient": "gradients",
    "dead neurons": "dead_neurons",
    "zero fraction": "zero_fraction",
    "saturated fraction": "saturated_fraction",
    "mean activation": "activation_mean",
}
_FINDINGS = "findings"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.([0-9]{1,12})\.")

Standing = frozenset[tuple[words.Identity, str]]
"""The findings that stand, each with its severity."""

_written: WeakKeyDictionary[Any, Standing] = WeakKeyDictionary()
"""What `write_by` wrote last through each writer."""


class TensorBoardSink:
    """Writes reports as TensorBoard events; the x-axis is the epoch.

    Each report is on disk when `write` returns. (tensorboardX's ``SummaryWriter`` hands events to a thread: what it
    holds is lost with the process, and a full disk ends the thread and then blocks the training.)

    Tags: ``gradients/<layer>``, ``dead_neurons/<site>``, ``activations/<site>`` (histogram), ``zero_fraction/<site>``,
    ``saturated_fraction/<site>``, ``activation_mean/<site>``, ``<score>/<split>``; dots in names become slashes. The
    custom-scalars tab has one chart per quantity with all its layers. The text tab has ``findings``: the list of what
    is wrong, in every epoch in which that changes.

    Args:
        log_dir: directory of the event file. Create the sink in one process only.
        purge_after: epochs after this one that an earlier writer left are hidden, for a run that is resumed.
    """

    def __init__(self, log_dir: str | Path, purge_after: int | None = None) -> None:
        self._directory = Path(log_dir)
        self._purge_after = purge_after
        self._path = self._directory  # of the event file, which is made with the first event
        self._writer: RecordWriter | None = None
        self._closed = False
        self._standing: Standing = frozenset()

    def write(self, report: EpochReport) -> None:
        """Writes one report."""
        summary = Summary()
        for tag, value in scalars(report).items():
            summary.value.add(tag=tag, simple_value=value)
        for tag, histogram in histograms(report).items():
            summary.MergeFrom(histogram_raw(name=tag, **histogram))
        if has_news(report, self._standing):
            summary.MergeFrom(text(_FINDINGS, findings_markdown(report)))
        self._write_event(report.epoch, summary=summary)
        self._standing = standing(report)

    def end(self, report: EpochReport) -> None:
        """Writes the list of findings anew if some could only be made when the run was over."""
        if standing(report) != self._standing:
            self._write_event(report.epoch, summary=text(_FINDINGS, findings_markdown(report)))
            self._standing = standing(report)

    def write_outcome(self, settings: Mapping[str, Any], outcome: Mapping[str, float | None]) -> None:
        """Writes the row of this run in the table of the HParams tab, at step 0.

        Args:
            settings: names and plain values; lists become words, what is None is left out.
            outcome: names and final numbers; what is None is left out.
        """
        numbers = {f"outcome/{name}": float(value) for name, value in outcome.items() if value is not None}
        plain = {name: value if isinstance(value, (bool, int, float)) else _word(value)
                 for name, value in settings.items() if value is not None}  # fmt: skip
        for summary in hparams(plain, numbers):
            self._write_event(0, summary=summary)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._write_event(0, summary=Summary(value=values))

    def close(self) -> None:
        """Ends the event file; doing it twice is fine."""
        self._closed = True
        self._end()

    def _begin(self) -> RecordWriter:
        """Begins an event file: with what an earlier writer left and is to be hidden, and with the charts."""
        files.make_directory(self._directory)
        now = max(time.time_ns(), (_last_second(self._directory) + 1) * 10**9)  # readers go by the order of the names
        self._path = self._directory / f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._writer = writer = RecordWriter(str(self._path))
        writer.write(_record(0, file_version="brain.Event:2"))
        if self._purge_after is not None:
            writer.write(_record(self._purge_after + 1, session_log=SessionLog(status=SessionLog.START)))
        charts = {title: ["Multiline", [f"^{re.escape(prefix)}/.+"]] for title, prefix in _CHARTS.items()}
        scores = {name: ["Multiline", [f"^{name}/.+"]] for name in ("loss", "accuracy")}
        writer.write(_record(0, summary=custom_scalars({"inside the network": charts, "scores": scores})))
        writer.flush()
        self._purge_after = None
        return writer

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write_event(self, step: int, **content: Any) -> None:
        """Writes one event; into a new file if there is none any more, or the last event stopped half-way in it."""
        if self._closed:
            raise ValueError("the event file is closed")
        if self._writer is not None and not self._path.exists():
            self._end()
            logger.warning("%s was removed: what it held is lost, a new file takes the rest", self._path)
        begun = self._writer is not None
        try:
            writer = self._writer or self._begin()
            writer.write(_record(step, **content))
            writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._end()
            if not begun and self._path != self._directory:  # else every epoch on a full disk leaves an empty file
                with contextlib.suppress(OSError):
                    files.remove(self._path)
            raise


def _record(step: int, **content: Any) -> bytes:
    return bytes(Event(wall_time=time.time(), step=step, **content).SerializeToString())


def write_by(writer: Any, report: EpochReport) -> None:
    """Writes a report through a ``SummaryWriter`` of tensorboardX or torch, with the tags of `TensorBoardSink`."""
    for tag, value in scalars(report).items():
        writer.add_scalar(tag, value, report.epoch)
    for tag, histogram in histograms(report).items():
        writer.add_histogram_raw(tag, **histogram, global_step=report.epoch)
    if has_news(report, _written.get(writer, frozenset())):
        writer.add_text(_FINDINGS, findings_markdown(report), report.epoch)
    _written[writer] = standing(report)


def standing(report: EpochReport) -> Standing:
    """The findings of a report that were not cleared."""
    return frozenset((words.identity(item), item.severity) for item in report.findings if words.is_standing(item))


def has_news(report: EpochReport, before: Standing) -> bool:
    """Whether a finding appeared, became better or worse, or was cleared."""
    return standing(report) != before or any(item.cleared_epoch == report.epoch for item in report.findings)


def findings_markdown(report: EpochReport) -> str:
    """The findings of a report as a list in Markdown; names in it stay text."""
    lines = []
    for finding in filter(words.is_standing, report.findings):
        severity, said = words.headline(finding).split(" ", 1)
        lines += [f"- **{_escaped(severity)}** {_escaped(said)}"]
        lines += [f"    - {_escaped(line)}" for line in words.consequences(finding)]
    lines += [f"- {_escaped(words.cleared(item))}" for item in report.findings if item.cleared_epoch == report.epoch]
    return "\n".join(lines) or "- no findings"


def scalars(report: EpochReport) -> dict[str, float]:
    """Tag -> value."""
    values: dict[str, float] = {}
    for name, splits in report.scores.items():
        values.update({f"{_tag(name)}/{split}": value for split, value in splits.items()})
    for layer, row in report.gradients.items():
        values[f"gradients/{_tag(layer)}"] = row["mean_abs"]
    for site, row in report.dead_neurons.items():
        values[f"dead_neurons/{_tag(site)}"] = row["dead"]
    for site, row in report.activations.items():
        for quantity in ("zero_fraction", "saturated_fraction"):
            values[f"{quantity}/{_tag(site)}"] = row[quantity]
        values[f"activation_mean/{_tag(site)}"] = row["mean"]
    return values


def histograms(report: EpochReport) -> dict[str, dict[str, Any]]:
    """Tag -> a histogram by raw buckets; without those in which there is nothing to draw."""
    found = {}
    for site, row in report.activations.items():
        count = row["count"] - row["nonfinite"]
        mean, std = row["mean"], row["std"]
        squares = count * (std * std + mean * mean)
        if not count or not math.isfinite(squares):
            continue
        found[f"activations/{_tag(site)}"] = {
            "min": row["min"],
            "max": row["max"],
            "num": count,
            "sum": count * mean,
            "sum_squares": squares,
            # The first limit closes an empty bucket: TensorBoard takes a bucket to begin where the one before it ends.
            "bucket_limits": row["edges"],
            "bucket_counts": [0, *row["counts"]],
        }
    return found


def _escaped(line: str) -> str:
    """A line of text that has no meaning in Markdown or HTML; by entities, which every dialect takes in every place."""
    return re.sub(r"[^\w\s,.:;/%=+'()-]|_|^[\W\d]", lambda match: f"&#{ord(match[0])};", line)


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _tag(name: str) -> str:
    return name.replace(".", "/")


def _last_second(directory: Path) -> int:
    """The start time in the name of the newest event file in a directory, in seconds; -1 if there is none.

    The clock may be set back between a run and its resumption.
    """
    seconds = [found[1] for path in directory.iterdir() if (found := _EVENT_FILE.match(path.name))]
    return max(map(int, seconds), default=-1)
