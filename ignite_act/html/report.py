"""The page that compares runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite_act import __version__
from ignite_act.compare import Comparison, compare
from ignite_act.compare.tables import Table, dead_table, gradients_table, published_table, scores_table, training_table
from ignite_act.html.curves import dead_figure, depth_figure, gradient_figure, learning_figure
from ignite_act.html.distributions import distribution_figure
from ignite_act.html.functions import activation_figure
from ignite_act.html.history import read_histories
from ignite_act.html.page import write_page
from ignite_act.html.styles import Style, styles
from ignite_act.html.verdict import verdict
from ignite_act.run_files import StoredRun


def write_report(runs: Sequence[StoredRun], path: Path, *, left_out: Mapping[Path, str] | None = None) -> Path:
    """Writes one self-contained page that compares the runs.

    Args:
        runs: on one or several data sets; those that failed are named.
        path: the file.
        left_out: directory -> why its run is not among them, as `find_runs` tells.

    Returns:
        The path.

    Raises:
        UserError: if the file cannot be written.
    """
    comparisons = compare(runs)
    looks = styles(variant.name for comparison in comparisons for variant in comparison.variants)
    return write_page(
        path,
        "comparison.html",
        title=f"Activation functions on {' and '.join(comparison.data for comparison in comparisons) or 'no data'}",
        styles=looks,
        sections=[section(comparison, looks) for comparison in comparisons],
        left_out={str(directory): reason for directory, reason in (left_out or {}).items()},
        version=__version__,
    )


def section(comparison: Comparison, looks: dict[str, Style]) -> dict[str, Any]:
    """What the template shows of a comparison."""
    histories = read_histories(comparison, looks)
    variants = histories.variants
    return {
        "data": comparison.data,
        "verdict": verdict(comparison),
        "tables": _filled(scores_table(comparison), published_table(comparison), training_table(comparison)),
        "learning": learning_figure(variants),
        "gradients": gradient_figure(variants),
        "depth": depth_figure(variants),
        "gradient_tables": _filled(gradients_table(comparison)),
        "dead": dead_figure(variants),
        "dead_tables": _filled(dead_table(comparison)),
        "distributions": distribution_figure(histories),
        "functions": activation_figure({variant.name: variant.act for variant in comparison.variants}, looks),
        "settings": _settings(comparison),
        "runs": _runs(comparison),
        "unreadable": histories.unreadable,
    }


def _filled(*tables: Table) -> list[Table]:
    return [table for table in tables if table.rows]


def _settings(comparison: Comparison) -> Table:
    """The shared settings and the versions; a version that differs is shown with all its values."""
    used: dict[str, dict[str, None]] = {}
    for variant in comparison.variants:
        for run in variant.runs:
            for package, version in run.versions.items():
                used.setdefault(package, {})[version] = None
    rows = [(name, _word(value)) for name, value in comparison.settings.items()]
    rows += [(package, ", ".join(versions)) for package, versions in used.items()]
    return Table("Settings that all runs share, and versions", ("setting", "value"), tuple(rows))


def _runs(comparison: Comparison) -> Table:
    rows = [
        (variant.name, str(run.config["seed"]), str(run.summary.get("epochs", "")), str(run.summary["stop_reason"]),
         str(run.directory))
        for variant in comparison.variants
        for run in variant.runs
    ]  # fmt: skip
    return Table("Runs", ("activation", "seed", "epochs", "stopped", "directory"), tuple(rows))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
