"""TensorBoard: a scalar or a histogram for every quantity of every layer, and charts over all layers of a quantity."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from ignite_act.report import EpochReport

_CHARTS = {
    "mean absolute gradient": "gradients",
    "dead neurons": "dead_neurons",
    "zero fraction": "zero_fraction",
    "saturated fraction": "saturated_fraction",
    "mean activation": "activation_mean",
}


class TensorBoardSink:
    """Writes reports as TensorBoard events; the x-axis is the epoch.

    Tags: ``gradients/<layer>``, ``dead_neurons/<site>``, ``activations/<site>`` (histogram), ``zero_fraction/<site>``,
    ``saturated_fraction/<site>``, ``activation_mean/<site>``, ``<score>/<split>``; dots in names become slashes. The
    custom-scalars tab has one chart per quantity with all its layers.

    Args:
        log_dir: directory of the event file. Create the sink in one process only.
        purge_after: epochs after this one that an earlier writer left are hidden, for a run that is resumed.
    """

    def __init__(self, log_dir: str | Path, purge_after: int | None = None) -> None:
        self._writer = SummaryWriter(
            str(log_dir), purge_step=None if purge_after is None else purge_after + 1, flush_secs=30
        )
        charts = {title: ["Multiline", [f"^{re.escape(prefix)}/.+"]] for title, prefix in _CHARTS.items()}
        scores = {name: ["Multiline", [f"^{name}/.+"]] for name in ("loss", "accuracy")}
        self._writer.add_custom_scalars({"inside the network": charts, "scores": scores})

    def write(self, report: EpochReport) -> None:
        """Writes one report."""
        scalars: dict[str, float] = {}
        for name, splits in report.scores.items():
            scalars.update({f"{_tag(name)}/{split}": value for split, value in splits.items()})
        for layer, row in report.gradients.items():
            scalars[f"gradients/{_tag(layer)}"] = row["mean_abs"]
        for site, row in report.dead_neurons.items():
            scalars[f"dead_neurons/{_tag(site)}"] = row["dead"]
        for site, row in report.activations.items():
            for quantity in ("zero_fraction", "saturated_fraction"):
                scalars[f"{quantity}/{_tag(site)}"] = row[quantity]
            scalars[f"activation_mean/{_tag(site)}"] = row["mean"]
            self._write_histogram(f"activations/{_tag(site)}", row, report.epoch)
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, report.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()

    def _write_histogram(self, tag: str, row: Any, epoch: int) -> None:
        count = row["count"] - row["nonfinite"]
        if not count:
            return
        mean, std = row["mean"], row["std"]
        squares = count * (std * std + mean * mean)
        if not math.isfinite(squares):
            return
        # The first limit closes an empty bucket: TensorBoard takes a bucket to begin where the one before it ends.
        self._writer.add_histogram_raw(
            tag=tag,
            min=row["min"],
            max=row["max"],
            num=count,
            sum=count * mean,
            sum_squares=squares,
            bucket_limits=row["edges"],
            bucket_counts=[0, *row["counts"]],
            global_step=epoch,
        )


def _tag(name: str) -> str:
    return name.replace(".", "/")
