"""Runs -> a table: one row a variant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ignite_act.experiment import RunResult


def variant_rows(results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """One row a run: plain numbers, best test accuracy first."""
    rows = [_row(result) for result in results]
    return sorted(rows, key=lambda row: -row["test_accuracy"] if row["test_accuracy"] is not None else math.inf)


def _row(result: RunResult) -> dict[str, Any]:
    summary = result.summary
    dead = summary["dead_neurons"].values()
    return {
        "activation": summary["activation"],
        "seed": summary["seed"],
        "test_accuracy": summary["test"]["accuracy"],
        "test_loss": summary["test"]["loss"],
        "validation_accuracy": summary["validation"]["accuracy"],
        "epochs": summary["epochs"],
        "best_epoch": summary["best_epoch"],
        "gradient_ratio": _ratio([row["mean_abs"] for row in summary["gradients"].values()]),
        "dead": sum(row["dead"] for row in dead),
        "units": sum(row["units"] for row in dead),
        "seconds": summary["seconds"],
        "cost": summary["cost"],
        "stop_reason": summary["stop_reason"],
        "directory": result.directory,
    }


def _ratio(gradients: list[float | None]) -> float | None:
    """First over last; None where either is missing (no finite step) or the last one is zero."""
    first, last = (gradients[0], gradients[-1]) if len(gradients) > 1 else (None, None)
    return first / last if first is not None and last else None
