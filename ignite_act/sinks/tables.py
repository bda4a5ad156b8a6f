"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ignite_act.errors import one_line, printable
from ignite_act.findings.kinds import KINDS
from ignite_act.findings.measured import Measured, Measurement
from ignite_act.report import Finding
from ignite_act.sinks import words

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def layers_table(title: str, gradients: Mapping[str, Row]) -> Group:
    """The gradients of a report or summary, one line a layer."""
    return _table(
        title,
        [{"layer": name, **row} for name, row in gradients.items()],
        ("layer", lambda row: row["layer"]),
        ("mean |grad|", lambda row: number(row["mean_abs"])),
        ("max |grad|", lambda row: number(row["max_abs"])),
        ("steps", lambda row: str(row["steps"])),
        ("skipped", lambda row: str(row["skipped_steps"])),
        ("non-finite", lambda row: str(row["nonfinite"])),
    )


def sites_table(title: str, activations: Mapping[str, Row], dead_neurons: Mapping[str, Row]) -> Group:
    """The activations of a report or summary, one line a site."""
    return _table(
        title,
        [{"site": name, **row, **dead_neurons.get(name, {})} for name, row in activations.items()],
        ("site", lambda row: row["site"]),
        ("mean", lambda row: number(row["mean"])),
        ("std", lambda row: number(row["std"])),
        ("min", lambda row: number(row["min"])),
        ("max", lambda row: number(row["max"])),
        ("zeros", lambda row: percent(row["zero_fraction"])),
        ("saturated", lambda row: percent(row["saturated_fraction"])),
        ("dead\nneurons", lambda row: f"{row['dead']}/{row['units']}" if "dead" in row else "-"),
        ("non-\nfinite", lambda row: str(row["nonfinite"])),
    )


def findings_table(findings: Iterable[Finding], title: str = "findings") -> Group:
    """What was found in a run, one line a finding."""
    columns: dict[str, Callable[[Finding], str]] = {
        "severity": lambda finding: finding.severity,
        "layer": lambda finding: "-" if finding.layer is None else one_line(finding.layer),
        "what": words.title,
        "since\nepoch": words.span,
        "measured\n/ threshold": _measured,
        "what to try": lambda finding: "\n".join(map(one_line, finding.advice)),
    }
    table = new_table(columns, columns, set(columns) - {"severity"})
    for finding in findings:
        table.add_row(*(Text(cell(finding)) for cell in columns.values()))
    return Group(Text(one_line(title), style="bold"), table)


def _measured(finding: Finding) -> str:
    """The quantity, and in a line of their own the value and its threshold."""
    value, limit = words.measured(finding), words.threshold(finding)
    return f"{words.quantity(finding)}\n{value}" + (f" / {limit}" if limit else "") if value else "-"


def activations_table(rows: Iterable[Row]) -> Group:
    """The registry, one line a function."""
    return _table(
        "activation functions",
        rows,
        ("name", _activation_cell),
        ("slope 0 where", lambda row: intervals(row["flat"])),
        ("saturated where", lambda row: intervals(row["saturated"])),
        ("", lambda row: row["description"]),
    )


def kinds_table(measured: Measurement) -> Table:
    """The kinds of findings, causes before consequences: what each says and needs, and how often it was right."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, kind in KINDS.items():
        counted = measured.kinds.get(name, Measured(0, 0, 0))
        right = f"right first in {counted.first}/{counted.runs} faulty runs, " if counted.runs else ""
        alarms = f"false alarm in {counted.alarms}/{measured.healthy} healthy runs"
        table.add_row(name, f"{kind.meaning}\nneeds: {kind.needs}\n{right}{alarms}")
    return table


def _activation_cell(row: Row) -> str:
    also = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
    parameters = [
        f"  {name}={value:.4g}" if isinstance(value, float) else f"  {name}={value}"
        for name, value in row["parameters"].items()
    ]
    return "\n".join([row["name"] + also, *parameters])


def number(value: float | None) -> str:
    """Three significant digits; a dash where there is no value."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share in percent; a dash where there is no value."""
    return "-" if value is None else f"{100 * value:.2f} %"


def intervals(pieces: Iterable[tuple[float, float]] | None) -> str:
    """Intervals of z in words."""
    if pieces is None:
        return "unknown"
    parts = []
    for low, high in pieces:
        if low == -float("inf"):
            parts.append(f"z <= {high:.4g}")
        elif high == float("inf"):
            parts.append(f"z >= {low:.4g}")
        else:
            parts.append(f"{low:.4g} <= z <= {high:.4g}")
    return "\n".join(parts) or "nowhere"


def new_table(headings: Iterable[str], words: Container[str], wrapped: Container[str]) -> Table:
    """An empty table; the columns of ``words`` and the first one are set left, those of ``wrapped`` may wrap."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        left, wraps = index == 0 or heading in words, index == 0 or heading in wrapped
        justify: Literal["left", "right"] = "left" if left else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=not wraps)
    return table


def _table(title: str, rows: Iterable[Row], *columns: Column) -> Group:
    table = new_table((heading for heading, _ in columns), {"", "slope 0 where", "saturated where"}, {""})
    for row in rows:
        table.add_row(*(Text(printable(cell(row))) for _, cell in columns))
    return Group(Text(one_line(title), style="bold"), table)
