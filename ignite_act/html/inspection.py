"""The page that shows what networks look like inside at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ignite_act import __version__
from ignite_act.compare import Table
from ignite_act.html.distributions import still_panel
from ignite_act.html.figure import Figure, Panel, Trace, literal, rounded
from ignite_act.html.page import write_page
from ignite_act.html.styles import Style, styles
from ignite_act.inspection import InspectedNetwork, inspection_tables, rebinned, unseen

_BINS = 61
"""Of a histogram of gradients: odd, so that zero lies in the middle of one."""
_GRADIENT = {"title": {"text": "gradient"}, "exponentformat": "power", "hoverformat": ".3g", "nticks": 6}
_DENSITY = {"type": "log", "title": {"text": "density (log scale)"}, "exponentformat": "power", "hoverformat": ".3g"}


def write_inspection(networks: Sequence[InspectedNetwork], path: Path) -> Path:
    """Writes one self-contained page that lays the networks over each other.

    Args:
        networks: of one or several data sets.
        path: the file.

    Returns:
        The path.

    Raises:
        UserError: if the file cannot be written.
    """
    looks = styles(network.name for network in networks)
    of_data = {data: [own for own in networks if own.config.data == data] for data in _data_sets(networks)}
    return write_page(
        path,
        "inspection.html",
        title="Inside the network" if len(looks) == 1 else f"Inside {len(looks)} networks",
        styles=looks,
        sections=[_section(data, own, looks) for data, own in of_data.items()],
        unseen=unseen(networks),
        version=__version__,
    )


def _section(data: str, networks: Sequence[InspectedNetwork], looks: Mapping[str, Style]) -> dict[str, Any]:
    """What the template shows of a data set, in its order."""
    overview, *tables = inspection_tables(networks, marks="")
    return {
        "data": data,
        "overview": [overview],
        "depth": depth_figure(networks, looks),
        "gradients": gradient_figure(networks, looks),
        "activations": activation_figure(networks, looks),
        "dead": dead_figure(networks, looks),
        "numbers": [*(_by_network(table) for table in tables), sources_table(networks)],
    }


def sources_table(networks: Sequence[InspectedNetwork]) -> Table:
    """What was built, and where the weights come from."""
    rows = tuple(
        (
            network.name,
            network.config.model,
            ", ".join(map(str, network.config.hidden)),
            network.config.act,
            str(network.config.seed),
            "fresh" if network.source is None else str(network.source),
        )
        for network in networks
    )
    return Table("Networks and where they are", ("network", "model", "hidden", "activation", "seed", "from"), rows)


def depth_figure(networks: Sequence[InspectedNetwork], looks: Mapping[str, Style]) -> Figure | None:
    """Mean absolute gradient against depth."""
    layers = _places(networks, "gradients")
    lines: list[dict[str, Any]] = [
        {
            "x": [literal(layer) for layer in network.inspection.gradients],
            "y": rounded(row["mean_abs"] for row in network.inspection.gradients.values()),
            "mode": "lines+markers",
            "line": looks[network.name].line(),
            "marker": looks[network.name].marker(),
            **_belongs_to(looks[network.name]),
        }
        for network in networks
    ]
    axis = {
        "title": {"text": "layer, from input to output"},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [*map(literal, layers)],
    }
    size = {"type": "log", "title": {"text": "mean |gradient|"}, "hoverformat": ".3g", "exponentformat": "power"}
    caption = (
        f"Mean over the weights of a layer, for {_samples(networks, 'gradients')} in training mode. A line that falls "
        "towards the input is a gradient that vanishes on its way back."
    )
    panel = Panel("", lines, {"xaxis": axis, "yaxis": size}, scale="depth")
    drawn = len(layers) > 1 and any(value for line in lines for value in line["y"])
    return Figure("Gradients by depth", caption, [panel]) if drawn else None


def gradient_figure(networks: Sequence[InspectedNetwork], looks: Mapping[str, Style]) -> Figure | None:
    """Distribution of the gradient's elements, layer by layer."""
    panels = []
    for layer in _places(networks, "gradients"):
        rows = {network.name: network.inspection.gradients.get(layer) for network in networks}
        curves = [_curve(looks[name], row) for name, row in rows.items() if row and _has_width(row)]
        if curves:
            panels.append(Panel(layer, curves, {"hovermode": "closest", "xaxis": _GRADIENT, "yaxis": _DENSITY}))
    caption = (
        f"Density of the elements of the gradient of each weight tensor, for {_samples(networks, 'gradients')} in "
        f"training mode: the share of the weights in a bin over the width of the bin. Each network has {_BINS} bins of "
        f"its own as far as its largest gradient; the axes fit the networks that are shown. {_undrawn(networks)}"
    )
    return Figure("Distributions of the gradients", caption, panels) if panels else None


def activation_figure(networks: Sequence[InspectedNetwork], looks: Mapping[str, Style]) -> Figure | None:
    """Distribution of the activations, site by site."""
    panels = []
    for site in _places(networks, "activations"):
        rows = {network.name: network.inspection.activations.get(site) for network in networks}
        drawn = {looks[name]: row for name, row in rows.items() if row and row["edges"]}
        if drawn:
            panels.append(still_panel(site, drawn))
    caption = (
        f"Each row is a network: the density of the outputs of its activation function for "
        f"{_samples(networks, 'activations')} in evaluation mode, scaled to its own peak. Exact zeros, a spike without "
        "a width, are not in the curve but in words. The axis leaves out the outermost 0.5 % at each end, more where "
        "one network would make the others vanish."
    )
    return Figure("Distributions of the activations", caption, panels) if panels else None


def dead_figure(networks: Sequence[InspectedNetwork], looks: Mapping[str, Style]) -> Figure | None:
    """Dead neurons, site by site."""
    sites = _places(networks, "dead_neurons")
    bars = [_bars(looks[network.name], network.inspection.dead_neurons) for network in networks]
    layout = {
        "xaxis": {"type": "category", "categoryorder": "array", "categoryarray": [*map(literal, sites)]},
        "yaxis": {"title": {"text": "dead units"}, "tickformat": ".0%", "rangemode": "tozero"},
        "uniformtext": {"mode": "hide", "minsize": 9},
    }
    caption = (
        f"Units whose derivative is exactly zero on every one of {_samples(networks, 'dead_neurons')} in evaluation "
        "mode, as a share of the site's units."
    )
    return Figure("Dead neurons", caption, [Panel("", bars, layout)]) if sites else None


def _bars(style: Style, rows: Mapping[str, Mapping[str, Any]]) -> Trace:
    return {
        "type": "bar",
        "x": [literal(site) for site in rows],
        "y": rounded(row["fraction"] for row in rows.values()),
        "text": [f"{row['dead']}/{row['units']}" for row in rows.values()],
        "textposition": "outside",
        "hovertemplate": "%{text}",
        "marker": {"color": style.color},
        "cliponaxis": False,
        **_belongs_to(style),
    }


def _curve(style: Style, row: Mapping[str, Any]) -> Trace:
    """The density as steps; a bin without elements is a gap, for which a log scale has no place."""
    largest = max(-row["edges"][0], row["edges"][-1])
    bounds = np.linspace(-largest, largest, _BINS + 1)
    shares = np.array(rebinned(row["edges"], row["counts"], bounds.tolist())) / sum(row["counts"])
    densities = [density or None for density in shares / np.diff(bounds)]
    return {
        "x": rounded(bounds),
        "y": rounded([*densities, densities[-1]]),
        "mode": "lines",
        "line": {**style.line(), "shape": "hv"},
        **_belongs_to(style),
    }


def _has_width(row: Mapping[str, Any]) -> bool:
    """Whether there are finite elements that are not all zero, which is what an axis can show."""
    return bool(row["edges"]) and not row["min"] == row["max"] == 0


def _undrawn(networks: Sequence[InspectedNetwork]) -> str:
    layers = {
        network.name: [layer for layer, row in network.inspection.gradients.items() if not _has_width(row)]
        for network in networks
    }
    listed = "; ".join(f"{name} ({', '.join(found)})" for name, found in layers.items() if found)
    return f"Not drawn, because every element is zero or none is finite: {listed}." if listed else ""


def _belongs_to(style: Style) -> dict[str, Any]:
    return {"name": literal(style.name), "meta": style.number}


def _data_sets(networks: Sequence[InspectedNetwork]) -> list[str]:
    return list(dict.fromkeys(network.config.data for network in networks))


def _places(networks: Sequence[InspectedNetwork], quantity: str) -> list[str]:
    return list(dict.fromkeys(place for network in networks for place in getattr(network.inspection, quantity)))


def _samples(networks: Sequence[InspectedNetwork], quantity: str) -> str:
    """How many samples in words; the same for all networks of a data set."""
    return f"{networks[0].inspection.samples[quantity]:,} training samples"


def _by_network(table: Table) -> Table:
    """The table with the network first, by which the page's switches know a row."""
    if table.headings[1] != "network":
        return table
    rows = tuple((network, place, *cells) for place, network, *cells in table.rows)
    return Table(table.title, ("network", table.headings[0], *table.headings[2:]), rows)
