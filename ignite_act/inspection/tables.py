"""Inspected networks -> tables of words, the same for the terminal and for the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from ignite_act.compare import Table
from ignite_act.errors import printable
from ignite_act.inspection.subjects import InspectedNetwork
from ignite_act.report import Rows
from ignite_act.sinks.tables import new_table, number, percent

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*%@"
"""The same for terminals that cannot show blocks."""
_CELLS = 13
SHAPE = (
    "shape: a histogram whose heights are square roots of counts; gradients from -max to max |grad|, "
    "activations from min to max"
)
"""What the last column means."""

Row = Mapping[str, Any]
Cell = Callable[[Row], str]


def inspection_tables(networks: Sequence[InspectedNetwork], marks: str = BLOCKS) -> list[Table]:
    """For each data set the networks, the gradients of their layers and the activations at their sites.

    Args:
        networks: the order is kept.
        marks: nine characters, from nothing to most, of which the shapes are drawn; empty for no shapes.
    """
    tables = []
    for data in dict.fromkeys(network.config.data for network in networks):
        own = [network for network in networks if network.config.data == data]
        tables += [_networks_table(own), _layers_table(own, marks), _sites_table(own, marks)]
    return [table for table in tables if table.rows]


def unseen(networks: Sequence[InspectedNetwork]) -> list[str]:
    """What was not measured, one sentence for all networks that it is true of."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for network in networks:
        for quantity, coverage in network.inspection.coverage.items():
            for place, reason in coverage["unseen"].items():
                names.setdefault((quantity.replace("_", " "), place, reason), []).append(network.name)
    return [
        f"{', '.join(having)}: {quantity}: {place} was not measured: {reason}"
        for (quantity, place, reason), having in names.items()
    ]


def terminal(table: Table) -> Group:
    """A table for the terminal; of several networks, the place stands above its lines."""
    rows, headings = table.rows, table.headings
    if headings[1] == "network":
        groups = itertools.groupby(rows, lambda row: row[0])
        rows = tuple(line for place, lines in groups for line in _below(place, lines))
        headings = (headings[0], *headings[2:])
    grid = new_table((heading.replace(" ", "\n") for heading in headings), {"shape"}, set())
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    return Group(Text(table.title, style="bold"), grid)


def rebinned(edges: Sequence[float], counts: Sequence[int], bounds: Sequence[float]) -> list[float]:
    """A histogram on other bounds; a bin that is cut by a bound is divided in proportion.

    Args:
        edges: increasing, one more than the counts.
        counts: of the histogram.
        bounds: increasing; what lies outside of them is lost.

    Returns:
        As many counts as there are pieces between the bounds; zeros for an empty histogram.
    """
    if not len(counts):
        return [0.0] * (len(bounds) - 1)
    below = np.interp(bounds, edges, np.concatenate([[0], np.cumsum(counts)]))
    return [float(count) for count in np.diff(below)]


def sparkline(counts: Sequence[float], marks: str = BLOCKS) -> str:
    """One mark a count, its height the square root of the count; the first one is for nothing."""
    largest = max(counts, default=0.0) or 1.0
    steps = len(marks) - 1
    return "".join(marks[math.ceil(steps * math.sqrt(count / largest))] for count in counts)


def _data_of(networks: Sequence[InspectedNetwork]) -> str:
    return networks[0].config.data


def _networks_table(networks: Sequence[InspectedNetwork]) -> Table:
    rows = [
        (
            network.name,
            "-" if network.inspection.loss is None else f"{network.inspection.loss:.4g}",
            number(network.inspection.gradient_ratio),
            f"{network.inspection.dead}/{network.inspection.units}" if network.inspection.units else "-",
        )
        for network in networks
    ]
    return Table(
        f"{_data_of(networks)}: networks", ("network", "loss", "gradient first/last", "dead neurons"), tuple(rows)
    )


def _layers_table(networks: Sequence[InspectedNetwork], marks: str) -> Table:
    samples = networks[0].inspection.samples["gradients"]
    columns: list[tuple[str, Cell]] = [
        ("mean |grad|", lambda row: number(row["mean_abs"])),
        ("std", lambda row: number(row["std"])),
        ("min", lambda row: number(row["min"])),
        ("max", lambda row: number(row["max"])),
        ("shape", lambda row: _shape(row, marks, symmetric=True)),
    ]
    title = f"{_data_of(networks)}: gradients of the loss of {samples:,} samples, in training mode"
    return _table(
        title, "layer", columns, [(network.name, network.inspection.gradients) for network in networks], marks
    )


def _sites_table(networks: Sequence[InspectedNetwork], marks: str) -> Table:
    samples = networks[0].inspection.samples
    columns: list[tuple[str, Cell]] = [
        ("mean", lambda row: number(row["mean"])),
        ("std", lambda row: number(row["std"])),
        ("zeros", lambda row: percent(row["zero_fraction"])),
        ("saturated", lambda row: percent(row["saturated_fraction"])),
        ("dead neurons", lambda row: f"{row['dead']}/{row['units']}" if "dead" in row else "-"),
        ("shape", lambda row: _shape(row, marks, symmetric=False)),
    ]
    title = (
        f"{_data_of(networks)}: activations of {samples['activations']:,} samples, dead neurons over "
        f"{samples['dead_neurons']:,}, in evaluation mode"
    )
    return _table(title, "site", columns, [(network.name, _site_rows(network)) for network in networks], marks)


def _site_rows(network: InspectedNetwork) -> Rows:
    dead = network.inspection.dead_neurons
    return {name: {**row, **dead.get(name, {})} for name, row in network.inspection.activations.items()}


def _table(
    title: str, place: str, columns: list[tuple[str, Cell]], networks: Sequence[tuple[str, Rows]], marks: str
) -> Table:
    """One line for each place in each network, those of a place together."""
    columns = [column for column in columns if column[0] != "shape" or marks]
    if any(row["nonfinite"] for _, rows in networks for row in rows.values()):
        columns = [*columns, ("non-finite", lambda row: str(row["nonfinite"]))]
    several = len(networks) > 1
    lines = []
    for name in dict.fromkeys(name for _, rows in networks for name in rows):
        for network, rows in networks:
            if name in rows:
                head = (name, network) if several else (name,)
                lines.append((*head, *(cell(rows[name]) for _, cell in columns)))
    headings = (place, *(("network",) if several else ()), *(heading for heading, _ in columns))
    return Table(title, headings, tuple(lines))


def _below(place: str, rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    lines = [(f" {network}", *cells) for _, network, *cells in rows]
    return [(place, *("" for _ in lines[0][1:])), *lines]


def _shape(row: Row, marks: str, *, symmetric: bool) -> str:
    edges = row["edges"]
    if not edges:
        return "-"
    low, high = edges[0], edges[-1]
    if row["min"] == row["max"]:
        return marks[-1].center(_CELLS)
    if symmetric:
        high = max(-low, high)
        low = -high
    bounds = np.linspace(low, high, _CELLS + 1).tolist()
    return sparkline(rebinned(edges, row["counts"], bounds), marks)
