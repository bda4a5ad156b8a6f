"""What was found in the runs of a comparison."""

import pytest
from rich.console import Console

from ignite_act.compare import compare, findings_table, shared_findings, terminal
from ignite_act.compare.findings import _merged


@pytest.fixture
def compared(made):
    """The comparison of runs with findings: (activation, seed) -> findings."""

    def make(found, **settings):
        runs = [
            made(act, seed, summary={"findings": [item.to_dict() for item in findings]}, **settings)
            for (act, seed), findings in found.items()
        ]
        (comparison,) = compare(runs)
        return comparison

    return make


def test_seeds_of_a_variant_share_a_finding(compared, make_finding):
    """The same kind in the same layer is one finding of all seeds that have it, as bad as in the worst of them."""
    mild, bad = make_finding(since_epoch=3), make_finding(severity="error", since_epoch=5, harm="it is stuck")
    (item,) = shared_findings(
        compared({("relu", 42): [mild], ("relu", 43): [bad], ("relu", 44): [], ("relu", 45): [bad], ("relu", 46): []})
    )
    assert item.seeds == "3 of 5 seeds (42, 43, 45)"
    assert item.since == "3 to 5"
    assert (item.worst, item.is_standing, item.over) == (bad, True, "")


def test_a_single_run_is_named_by_its_seed(compared, make_finding):
    """With one run there is nothing to count."""
    (item,) = shared_findings(compared({("relu", 7): [make_finding()]}))
    assert (item.seeds, item.since) == ("seed 7", "2")


def test_other_layers_and_kinds_and_cleared_ones_are_other_findings(compared, make_finding):
    """Kind, layer and whether it is over tell findings apart; those that are over come last."""
    over = make_finding(cleared_epoch=4)
    found = [make_finding(), make_finding(layer="layers.3"), make_finding("plateau", "info", None)]
    items = shared_findings(compared({("relu", 1): [over], ("relu", 2): [*found, make_finding(cleared_epoch=6)]}))
    assert [item.worst for item in items] == [*found, over]
    assert [item.seeds for item in items][-1] == "2 of 2 seeds (1, 2)"
    assert [item.over for item in items] == ["", "", "", "4 to 6"]


def test_the_variant_with_the_worst_finding_comes_first(compared, make_finding):
    """Variants are ordered by their worst standing finding, then as they are compared; causes stay before effects."""
    info, error = make_finding(severity="info"), make_finding("plateau", "error")
    over = make_finding("exploding", "error", cleared_epoch=3)
    items = shared_findings(
        compared({("relu", 1): [info], ("tanh", 1): [info, error], ("elu", 1): [make_finding(), over]})
    )
    assert [(item.variant.name, item.worst.kind) for item in items] == [
        ("tanh", "dead_units"), ("tanh", "plateau"), ("elu", "dead_units"), ("relu", "dead_units"),
        ("elu", "exploding"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("orders", "merged"),
    [
        ([], ""), (["abc"], "abc"), (["c", "ac"], "ac"), (["ad", "abcd", "xa"], "xabcd"), (["a", "b"], "ab"),
        (["ab", "ba"], "ab"), (["", "ab", ""], "ab"), (["ac", "abe"], "acbe"),
    ],
)  # fmt: skip
def test_orders_are_merged(orders, merged):
    """What comes before something in one run comes before it in all, where runs do not contradict each other."""
    assert "".join(_merged(orders)) == merged


def test_failed_runs_have_no_findings(made, make_finding):
    """A run that failed counts among the seeds and has nothing to add."""
    found = made("relu", 1, summary={"findings": [make_finding().to_dict()]})
    (comparison,) = compare([found, made("relu", 2, error="OSError: no")])
    assert [item.seeds for item in shared_findings(comparison)] == ["1 of 2 seeds (1)"]


def test_the_table_over_runs(compared, make_finding, capsys):
    """A line a finding, its names as they are; without findings there are no lines."""
    odd = make_finding(layer="[red]x\n", severity="error", since_epoch=1)
    table = findings_table(compared({("relu", 1): [make_finding(cleared_epoch=4)], ("relu", 2): [odd]}))
    assert table.headings == ("activation", "seeds", "severity", "what", "layer", "since epoch")
    assert table.rows == (
        ("relu", "2", "error", "dead neurons", "[red]x", "1"),
        ("relu", "1", "warning", "dead neurons", "layers.1", "2, over in 4"),
    )
    Console(width=80).print(terminal(table))
    assert "[red]x" in capsys.readouterr().out
    assert findings_table(compared({("relu", 1): []})).rows == ()
