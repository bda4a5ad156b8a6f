"""The findings of a run as it goes on, with the real rules on reports of runs that never were."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
from made_up_reports import Change, Numbers, made_up_run, stalled

from ignite_act.findings import Journal, Thresholds, judge
from ignite_act.report import EpochReport, Finding


def dead(share: float, *epochs: int, site: str = "relu") -> Change:
    """A share of a site's units is dead in some epochs; in all of them if none is named."""

    def apply(numbers: Numbers) -> None:
        if not epochs or numbers["epoch"] in epochs:
            numbers["dead_neurons"][site] |= {"dead": int(32 * share), "fraction": share}

    return apply


def filled(report: EpochReport) -> EpochReport:
    """With what reports of real runs have besides: histograms, lists of units, scores that are not finite."""
    activations = {name: {**row, "edges": [0.5] * 101, "counts": [7] * 100} for name, row in report.activations.items()}
    units = {name: {**row, "indices": list(range(32))} for name, row in report.dead_neurons.items()}
    updates = {name: {**row, "first_ratio": math.nan} for name, row in report.updates.items()}
    return dataclasses.replace(report, activations=activations, dead_neurons=units, updates=updates, cost=0.1)


def told(journal: Journal, reports: list[EpochReport]) -> list[list[tuple[str, str | None, int, int | None]]]:
    """Kind, layer, since when and until when of what each report brings."""
    return [
        [(item.kind, item.layer, item.since_epoch, item.cleared_epoch) for item in journal.add(report)]
        for report in reports
    ]


def size(journal: Journal) -> int:
    return len(json.dumps(journal.state_dict()))


def test_a_journal_judges_as_the_rules_do() -> None:
    """After each of a few reports, what stands is what `judge` finds in all of them."""
    for changes in ((), (dead(0.6),), (stalled,), (dead(1.0), stalled)):
        reports, journal = made_up_run(*changes, epochs=8), Journal()
        for number, report in enumerate(reports, 1):
            assert journal.add(report) == judge(reports[:number])
        assert journal.end() == judge(reports, ended=True)


def test_an_empty_journal() -> None:
    """Without a report there is nothing to find, at the end neither."""
    journal = Journal()
    assert (journal.all, journal.end()) == ((), ())
    assert Journal().state_dict() == journal.state_dict()


def test_thresholds_reach_the_rules() -> None:
    """Other thresholds give other findings."""
    report = made_up_run(dead(0.3), stalled)[0]
    assert [item.severity for item in Journal().add(report)] == ["info"]
    assert [item.severity for item in Journal(Thresholds(dead_warning=0.2)).add(report)] == ["warning"]
    assert Journal(Thresholds(dead_info=0.4)).add(report) == ()


def test_since_epoch_is_kept() -> None:
    """A finding that goes on has the epoch in which it began, also if its severity changes; its numbers are new."""
    reports = made_up_run(dead(0.4, 3), dead(0.6, 4, 5), stalled, epochs=6)
    journal = Journal()
    found = [journal.add(report) for report in reports[:5]]
    assert found[:2] == [(), ()]
    assert [(item.since_epoch, item.severity) for (item,) in found[2:]] == [
        (3, "info"), (3, "error"), (3, "error"),
    ]  # fmt: skip
    assert [item.evidence["value"] for (item,) in found[2:]] == [0.4, 0.6, 0.6]


def test_since_epoch_outlives_the_reports() -> None:
    """In a long run, a finding keeps the epoch in which it began when the report of that epoch is kept no more."""
    journal = Journal()
    for report in made_up_run(dead(0.6, *range(6, 61)), epochs=60):
        found = journal.add(report)
    assert 6 not in [report["epoch"] for report in journal.state_dict()["reports"]]
    assert [item.since_epoch for item in found] == [6]


def test_cleared_and_back_again() -> None:
    """A finding that is over is told in that epoch with its number, later only by `all`; if it comes back, it begins
    anew and is over no more."""
    journal = Journal()
    epochs = told(journal, made_up_run(dead(0.6, 2, 3, 6), epochs=6))
    assert epochs == [
        [],
        [("dead_units", "relu", 2, None)],
        [("dead_units", "relu", 2, None)],
        [("dead_units", "relu", 2, 4)],
        [],
        [("dead_units", "relu", 6, None)],
    ]
    assert [(item.since_epoch, item.cleared_epoch) for item in journal.all] == [(6, None)]


def test_a_cause_is_not_over_while_its_harm_lasts() -> None:
    """A number may fall back; the error stands, in its place, until the network learns."""

    def learned(numbers: Numbers) -> None:
        if numbers["epoch"] < 4:
            stalled(numbers)

    reports, journal = made_up_run(learned, dead(1.0, 1, 2), epochs=5), Journal()
    kinds = [[(item.kind, item.cleared_epoch) for item in journal.add(report)] for report in reports]
    assert [row[0] for row in kinds[:3]] == [("dead_units", None)] * 3
    assert ("dead_units", 4) in kinds[3]
    assert not any(item.kind == "dead_units" for item in judge(reports[:3]))


def test_what_stands_comes_before_what_is_over() -> None:
    """Of several sites each has its own life; those that were cleared come last, everywhere."""
    journal = Journal()
    reports = made_up_run(dead(0.6, 1, 2), dead(0.7, 2, 3, 4, site="relu#2"), epochs=4)
    epochs = told(journal, reports)
    assert epochs[1:] == [
        [("dead_units", "relu", 1, None), ("dead_units", "relu#2", 2, None)],
        [("dead_units", "relu#2", 2, None), ("dead_units", "relu", 1, 3)],
        [("dead_units", "relu#2", 2, None)],
    ]
    assert [(item.layer, item.cleared_epoch) for item in journal.all] == [("relu#2", None), ("relu", 3)]


def test_the_end_brings_what_only_it_can() -> None:
    """A plateau is found when the run is over, once, and asking again changes nothing."""
    journal = Journal()
    for report in made_up_run(stalled, epochs=6):
        assert "plateau" not in [item.kind for item in journal.add(report)]
    ended = journal.end()
    assert "plateau" in [item.kind for item in ended]
    assert journal.end() == ended == journal.all


def test_scores_that_come_late() -> None:
    """`amend` gives the last report another content; the next judgement takes it in, the findings so far stay."""
    reports = made_up_run(epochs=4)
    straight, journal = Journal(), Journal()
    for report in reports:
        straight.add(report)
        bare = dataclasses.replace(report, scores={})
        journal.add(bare)
        journal.amend(report)
    assert journal.state_dict()["reports"] == straight.state_dict()["reports"]
    assert journal.end() == straight.end()


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """Two thousand reports leave few, without their histograms, and as much as fifty do; the best one is among them."""
    journal, sizes = Journal(), {}
    (numbers,) = made_up_run(dead(0.6), epochs=1)
    losses = [1.0 + random.Random(0).random() for _ in range(2000)]
    losses[777] = 0.25
    for epoch, loss in enumerate(losses, 1):
        report = dataclasses.replace(numbers, epoch=epoch, scores={"loss": {"validation": loss}})
        journal.add(filled(report))
        if epoch in (50, 2000):
            sizes[epoch] = size(journal)
    kept = journal.state_dict()["reports"]
    assert len(kept) == 17
    assert [report["epoch"] for report in kept] == [1, 2, 3, 4, 778, *range(1989, 2001)]
    assert sizes[2000] < 1.05 * sizes[50]
    assert all("edges" not in row for report in kept for row in report["activations"].values())
    assert all("indices" not in row for report in kept for row in report["dead_neurons"].values())


def test_a_best_report_is_any_where_no_loss_is_finite() -> None:
    """NaN is never the best; without a validation loss one of those in between is kept, and nothing fails."""
    for loss in (math.nan, math.inf, None):
        journal = Journal()
        (numbers,) = made_up_run(epochs=1)
        for epoch in range(1, 40):
            scores = {} if loss is None else {"loss": {"validation": loss if epoch != 9 else 0.5}}
            journal.add(dataclasses.replace(numbers, epoch=epoch, scores=scores))
        kept = [report["epoch"] for report in journal.state_dict()["reports"]]
        assert kept == [1, 2, 3, 4, 5 if loss is None else 9, *range(28, 40)]


@pytest.mark.parametrize("at", [0, 1, 3, 6, 20])
def test_the_state_goes_through_json(at: int) -> None:
    """Interrupted after any report and restored from a file of plain types, a run has the findings as if it was not."""
    changes = (dead(0.6, *range(2, 6), 9), dead(0.4, *range(18, 25), site="relu#2"), stalled)
    reports = [filled(report) for report in made_up_run(*changes, epochs=25)]
    straight, first, second = Journal(), Journal(), Journal()
    expected = [straight.add(report) for report in reports]
    for report in reports[:at]:
        first.add(report)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert second.all == first.all
    assert [second.add(report) for report in reports[at:]] == expected[at:]
    assert second.end() == straight.end()
    assert second.all == straight.all
    assert json.dumps(second.state_dict()) == json.dumps(straight.state_dict())


def test_loading_forgets_what_was_there() -> None:
    """A state replaces another one."""
    journal, other = Journal(), Journal()
    for report in made_up_run(dead(0.6), stalled):
        journal.add(report)
    journal.load_state_dict(other.state_dict())
    assert (journal.all, journal.end()) == ((), ())


def test_the_state_does_not_change_afterwards() -> None:
    """What `state_dict` gave stays as it was while the run goes on."""
    journal = Journal()
    reports = made_up_run(dead(0.6, 1), epochs=3)
    journal.add(reports[0])
    state = journal.state_dict()
    before = json.dumps(state)
    for report in reports[1:]:
        journal.add(report)
    assert json.dumps(state) == before
    assert [Finding.from_dict(item).cleared_epoch for item in state["standing"]] == [None]


def test_the_reports_given_are_left_alone() -> None:
    """The journal keeps copies: a report is as it was."""
    report = filled(made_up_run(dead(0.6), epochs=1)[0])
    before = repr(report)
    Journal().add(report)
    assert repr(report) == before


def test_numbers_that_end_in_nan_are_judged_all_the_same() -> None:
    """Nothing is known of the outputs any more; no rule fails for it."""

    def squared(numbers: Numbers) -> None:
        broken = numbers["epoch"] > 2
        loss = math.nan if broken else 0.5
        numbers["loss"] |= {"first": loss, "mean": loss, "nonfinite": 40 * broken, "first_nonfinite_iteration": 90}
        names = ("squared_loss", "target_variance", "target_variance_maximised")
        numbers["output"] |= dict.fromkeys(names, None if broken else 0.5) | {"loss_applies": "unknown"}

    journal = Journal()
    found = [journal.add(report) for report in made_up_run(squared)]
    assert [item.kind for item in found[-1]][:1] == ["nonfinite"]
    assert journal.failed == {}
