"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite_act import __version__
from ignite_act.compare import Comparison, compare
from ignite_act.compare.tables import Table, dead_table, first_gradients_table, gradients_table, overview_tables
from ignite_act.html.curves import dead_figure, depth_figure, gradient_figure, learning_figure, updates_figure
from ignite_act.html.distributions import distribution_figure
from ignite_act.html.findings import nothing_found, shown_findings
from ignite_act.html.functions import activation_figure
from ignite_act.html.history import is_blind, read_histories
from ignite_act.html.notes import runs_table, settings_table, unseen_table, versions_table
from ignite_act.html.page import write_page
from ignite_act.html.styles import Style, styles
from ignite_act.html.verdict import verdict
from ignite_act.runs.stored import StoredRun


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
        title="Activation functions compared" if len(looks) > 1 else f"Inside a network with {next(iter(looks))}",
        summary=f"{_counted(len(runs), 'run')} of {_counted(len(looks), 'variant')}",
        styles=looks,
        sections=[_section(comparison, looks) for comparison in comparisons],
        left_out=_left_out(left_out or {}),
        version=__version__,
    )


def _section(comparison: Comparison, looks: Mapping[str, Style]) -> dict[str, Any]:
    """What the template shows of a comparison, in its order."""
    histories = read_histories(comparison, looks)
    variants = histories.variants
    figures = {
        "learning": learning_figure(variants),
        "gradients": gradient_figure(variants),
        "depth": depth_figure(variants),
        "updates": updates_figure(variants),
        "dead": dead_figure(variants),
        "distributions": distribution_figure(histories),
    }
    unseen = _filled(unseen_table(comparison))
    return {
        "data": comparison.data,
        "verdict": verdict(comparison),
        "findings": shown_findings(comparison, looks, figures),
        "nothing_found": nothing_found(histories, unseen=bool(unseen)),
        "tables": overview_tables(comparison),
        "unseen": unseen,
        **figures,
        "gradient_tables": _filled(first_gradients_table(comparison), gradients_table(comparison)),
        "dead_tables": _filled(dead_table(comparison)),
        "functions": activation_figure({variant.name: variant.act for variant in comparison.variants}, looks),
        "settings": _filled(settings_table(comparison), versions_table(comparison)),
        "runs": _filled(runs_table(comparison)),
        "unreadable": histories.unreadable,
        "blind": [history.variant.name for history in variants if is_blind(history)],
    }


def _filled(*tables: Table) -> list[Table]:
    return [table for table in tables if table.rows]


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _left_out(directories: Mapping[Path, str]) -> list[Table]:
    rows = tuple((str(directory), reason) for directory, reason in directories.items())
    return _filled(Table("Runs that are not on this page", ("directory", "reason"), rows))
