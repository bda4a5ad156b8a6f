"""Several seeds as the traces of one variant."""

import itertools
import math
from types import SimpleNamespace

import pytest

from ignite_act.html.history import History, spread
from ignite_act.html.series import traces
from ignite_act.html.styles import styles
from ignite_act.report import EpochReport

STYLE = styles(["<b>"])["<b>"]


def history(*runs, left_out=()):
    """A variant of runs that are given by their losses, epoch by epoch."""
    reports = [[EpochReport(epoch, 0, cost=loss) for epoch, loss in enumerate(run, 1)] for run in (*runs, *left_out)]
    return History(STYLE, SimpleNamespace(), reports[: len(runs)], reports[len(runs) :])


def drawn(*runs, left_out=(), **options):
    """The bands, the thin lines and the line, each as x -> y or as its points."""
    made = traces(history(*runs, left_out=left_out), lambda report: report.cost, **options)
    bands = [list(zip(trace["x"], trace["y"], strict=True)) for trace in made if "fill" in trace]
    thin = [(trace["line"]["dash"], dict(zip(trace["x"], trace["y"], strict=True)))
            for trace in made if "fill" not in trace and "name" not in trace]  # fmt: skip
    lines = [dict(zip(trace["x"], trace["y"], strict=True)) for trace in made if "name" in trace]
    return bands, thin, lines


def test_a_line_is_the_middle_of_the_seeds_and_a_band_their_range():
    """The line is what it is asked to be, by default the mean; the band goes from the lowest to the highest seed."""
    bands, thin, lines = drawn([1.0, 4.0], [2.0, 4.0], [6.0, 10.0])
    assert lines == [{1: 3.0, 2: 6.0}]
    assert bands == [[(1, 6.0), (2, 10.0), (2, 4.0), (1, 1.0)]]
    assert thin == []
    assert drawn([1.0], [2.0], [6.0], middle=lambda values: sorted(values)[1])[2] == [{1: 2.0}]


def test_one_seed_has_no_band():
    """One seed is a line and nothing else."""
    assert drawn([1.0, 2.0]) == ([], [], [{1: 1.0, 2: 2.0}])


def test_after_the_first_seed_stopped_the_others_are_alone():
    """The line ends with the shortest run; each longer one goes on from there as a thin line."""
    _, thin, lines = drawn([1.0, 2.0], [3.0, 4.0, 5.0, 6.0])
    assert lines == [{1: 2.0, 2: 3.0}]
    assert thin == [("solid", {2: 4.0, 3: 5.0, 4: 6.0})]


def test_what_is_left_out_is_dotted():
    """A run that does not count is a thin dotted line and changes nothing else."""
    bands, thin, lines = drawn([1.0], left_out=[[9.0, 9.0]])
    assert (bands, lines) == ([], [{1: 1.0}])
    assert thin == [("dot", {1: 9.0, 2: 9.0})]


def test_nonfinite_values_are_gaps():
    """An epoch in which a seed has no finite value is a gap, in the band too; a run without any is not there at all."""
    bands, _, lines = drawn([1.0, math.nan, 3.0], [2.0, 2.0, 5.0], [math.inf, math.nan])
    assert lines == [{1: 1.5, 2: None, 3: 4.0}]
    assert bands == [[(1, 2.0), (3, 5.0), (3, 3.0), (1, 1.0)]]


def test_a_run_that_diverged_ends_the_line():
    """A run whose last values are not finite counts up to its last finite one."""
    _, thin, lines = drawn([1.0, math.nan, math.nan], [3.0, 4.0, 5.0])
    assert lines == [{1: 2.0}]
    assert thin == [("solid", {1: 3.0, 2: 4.0, 3: 5.0})]


def test_every_trace_belongs_to_its_variant_and_its_name_is_text():
    """Every trace carries the variant's number, and what Plotly would read as HTML is escaped."""
    made = traces(history([1.0], [2.0], left_out=[[3.0]]), lambda report: report.cost)
    assert {trace["meta"] for trace in made} == {0}
    assert [trace["name"] for trace in made if "name" in trace] == ["&lt;b&gt;"]


@pytest.mark.parametrize("epochs", [1, 2, 39, 40, 41, 300])
def test_the_slider_has_few_positions(epochs):
    """At most forty epochs are kept, evenly spread, the first and the last among them."""
    kept = spread(epochs)
    assert len(kept) == min(epochs, 40)
    assert (kept[0], kept[-1]) == (1, epochs)
    steps = {after - before for before, after in itertools.pairwise(kept)}
    assert steps == set() or max(steps) - min(steps) <= 1


def test_many_variants_can_be_told_apart():
    """No two of forty variants have the same colour, dash and marker, and neighbours differ in colour and marker."""
    made = list(styles(str(number) for number in range(40)).values())
    assert len({(style.color, style.dash, style.symbol) for style in made}) == 40
    assert all(a.color != b.color and a.symbol != b.symbol for a, b in itertools.pairwise(made))
