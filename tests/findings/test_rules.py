"""Each rule on numbers just beyond and just within its threshold."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made_up_reports import CONSTANT, LAYERS, SITES, Change, Numbers, healthy, made_up_run, stalled

from ignite_act.findings import KINDS, Finding, Thresholds, judge
from ignite_act.findings.history import History
from ignite_act.findings.rules import RULES
from ignite_act.report import EpochReport

T = Thresholds()


def change(*path: str, **values: object) -> Change:
    """Replaces numbers of a row; a star in the path stands for all rows."""

    def apply(numbers: Numbers) -> None:
        rows = [numbers]
        for name in path:
            rows = [row[key] for row in rows for key in (row if name == "*" else [name])]
        for row in rows:
            row.update(values)

    return apply


def since(epoch: int, *changes: Change) -> Change:
    """The changes from an epoch on."""

    def apply(numbers: Numbers) -> None:
        for own in changes if numbers["epoch"] >= epoch else ():
            own(numbers)

    return apply


def losses(train: list[float], validation: list[float] | None = None) -> Change:
    """A course of the losses, epoch by epoch, without any swing."""

    def apply(numbers: Numbers) -> None:
        value = train[numbers["epoch"] - 1]
        numbers["loss"] |= {"mean": value, "last": value, "max": max(value, CONSTANT), "course": [value] * 8}
        numbers["output"]["mean_loss"] = value
        numbers["scores"]["loss"] = {"validation": (validation or train)[numbers["epoch"] - 1]}

    return apply


def accuracies(train: list[float], validation: list[float]) -> Change:
    """A course of the accuracies."""

    def apply(numbers: Numbers) -> None:
        at = numbers["epoch"] - 1
        numbers["scores"]["accuracy"] = {"train": train[at], "validation": validation[at]}

    return apply


def swing(numbers: Numbers) -> None:
    """The loss goes up and down slowly within each epoch."""
    course = [CONSTANT * (0.8 + 0.5 * math.sin(i / 1.5)) for i in range(16)]
    numbers["loss"] |= {"mean": sum(course) / 16, "course": course, "max": max(course)}
    numbers["scores"] = {"loss": {"validation": CONSTANT}, "accuracy": {"validation": 0.3, "train": 0.3}}
    numbers["output"] |= {"mean_loss": CONSTANT, "accuracy": 0.3}


def swing_less(numbers: Numbers) -> None:
    swing(numbers)
    course = [CONSTANT * (0.8 + 0.2 * math.sin(i / 1.5)) for i in range(16)]
    numbers["loss"] |= {"mean": sum(course) / 16, "course": course, "max": max(course)}


def no_loss(numbers: Numbers) -> None:
    """Nobody tells of a loss, and the outputs' gradient does not either."""
    numbers |= {"loss": {}, "scores": {}}
    numbers["output"] |= dict.fromkeys(("constant_loss", "first_loss", "mean_loss", "accuracy", "majority"))


def way_back(*strengths: float) -> Change:
    def apply(numbers: Numbers) -> None:
        for name, strength in zip(LAYERS, strengths, strict=True):
            numbers["signal"][name]["backward"] = strength

    return apply


def named(findings: tuple[Finding, ...], kind: str) -> Finding | None:
    return next((finding for finding in findings if finding.kind == kind), None)


NO_GRADIENT = {"present": 0, "missing": 6, "nonzero": False}
FITTED = [1.0, 0.5, 0.2, 0.1, 0.05]
BY_HEART = [2.30, 2.2, 2.1, 2.0, 1.9]
CASES: dict[str, tuple[list[Change], list[Change], str | None]] = {
    # kind: changes beyond the threshold, changes within it, layer to blame
    "never_updated": ([change("updates", "fc1", owned=False, learning_rate=None, steps=0, ratio=None, moved=False)],
                      [change("updates", "fc1", trainable=False, owned=False, **NO_GRADIENT, gradient_left=False)],
                      "fc1"),
    "no_gradient": ([change("updates", "fc1", **NO_GRADIENT), change("updates", "fc2", **NO_GRADIENT)],
                    [change("updates", "fc1", present=1, missing=5)], "fc2"),
    "uncleared_gradient": ([change("updates", "*", cleared=0, uncleared=6)],
                           [change("updates", "*", cleared=1, uncleared=5)], None),
    "loss_rising": ([stalled, change("output", maximised=True)], [change("output", maximised=True)], None),
    "output_probabilities": ([change("output", probabilities=1.0, function="softmax", producer="end")],
                             [change("output", probabilities=1.0, loss_applies="nothing", function="softmax")], "end"),
    "output_activation": ([change("output", function="relu", producer="end", min=0.0)],
                          [change("output", function="log_softmax", producer="end", max=0.0)], "end"),
    "hidden_softmax": ([change("output", hidden_softmax="act")], [], "act"),
    "no_nonlinearity": ([change("coverage", "activations", seen=[])],
                        [change("coverage", "activations", seen=[], unseen={"rnn": "a fused kernel"})], None),
    "symmetry": ([change("updates", "fc2", equal_rows=1.0, equal_rows_start=1.0)],
                 [change("updates", "fc2", equal_rows=1.0, equal_rows_start=0.0)], "fc2"),
    "input_scale": ([change("signal", "input", std=12.0, first_max_abs=40.0),
                     change("signal", "fc1", first_max_abs=30.0)],
                    [change("signal", "input", std=12.0, first_max_abs=40.0, continuous=False)], "fc1"),
    "nonfinite": ([since(3, change("signal", "fc2", nonfinite=1, first_nonfinite_iteration=97))], [], "fc2"),
    "weight_collapse": ([stalled, since(3, change("updates", "fc2", weight=0.9 * T.collapsed * 0.05))],
                        [stalled, since(3, change("updates", "fc2", weight=1.1 * T.collapsed * 0.05))], "fc2"),
    "exploding": ([stalled, way_back(1.1 * T.exploding_ratio * 1e-3, 1e-3, 1e-3)],
                  [stalled, way_back(0.9 * T.exploding_ratio * 1e-3, 1e-3, 1e-3)], "fc2"),
    "initial_loss": ([change("output", first_loss=1.1 * T.initial_loss * CONSTANT)],
                     [change("output", first_loss=0.9 * T.initial_loss * CONSTANT)], "fc3"),
    "update_too_large": ([stalled, change("updates", "*", ratio=1.1 * T.update_large)],
                         [stalled, change("updates", "*", ratio=0.9 * T.update_large)], None),
    "saturated_units": ([stalled, change("activations", "relu", both_ends=True, saturated_units=17)],
                        [stalled, change("activations", "relu", both_ends=True, saturated_units=15)], "relu"),
    "vanishing_gradient": ([stalled, way_back(0.9 * T.vanishing_ratio * 1e-3, 1e-5, 1e-3)],
                           [stalled, way_back(1.1 * T.vanishing_ratio * 1e-3, 1e-5, 1e-3)], "fc1"),
    "dead_units": ([change("dead_neurons", "relu", dead=17, fraction=17 / 32)],
                   [change("dead_neurons", "relu", dead=3, fraction=3 / 32)], "relu"),
    "constant_output": ([change("output", variation=0.9 * T.constant_output * 4.0)],
                        [change("output", variation=1.1 * T.constant_output * 4.0)], "fc3"),
    "update_too_small": ([stalled, change("updates", "*", ratio=0.9 * T.update_small_stalled)],
                         [stalled, change("updates", "*", ratio=1.1 * T.update_small_stalled)], None),
    "oscillation": ([swing], [swing_less], None),
    "over_regularised": ([losses([1.6] * 5, [1.2] * 5), accuracies([0.3] * 5, [0.31 + T.underfit_gap] * 5)],
                         [losses([1.6] * 5, [1.2] * 5), accuracies([0.3] * 5, [0.29 + T.underfit_gap] * 5)], None),
    "overfitting": ([losses(FITTED, [1.0, 0.8, 0.9, 0.95, 1.0]), accuracies([0.99] * 5, [0.8] * 5)],
                    [losses(FITTED, [1.0, 0.8, 0.81, 0.82, 0.83]), accuracies([0.99] * 5, [0.9] * 5)], None),
    "labels_mismatch": ([losses(BY_HEART, [2.31, 2.32, 2.34, 2.36, 2.4]), accuracies([0.3] * 5, [0.1] * 5)],
                        [losses(BY_HEART, [2.3, 2.2, 2.1, 2.0, 2.0]), accuracies([0.3] * 5, [0.3] * 5)], None),
    "plateau": ([stalled], [losses([2.3, 2.2, 2.1, 2.0, 1.9])], None),
}  # fmt: skip


def test_every_kind_has_a_rule_and_a_case_here() -> None:
    """The kinds, the rules and these cases are the same list."""
    assert set(KINDS) == set(RULES) == set(CASES)


def test_a_healthy_run_has_no_findings() -> None:
    """Whatever the number of epochs, and when it is over."""
    for epochs in range(1, 9):
        for ended in (False, True):
            assert judge(made_up_run(epochs=epochs), ended=ended) == ()


@pytest.mark.parametrize("kind", CASES)
def test_beyond_the_threshold(kind: str) -> None:
    """There is a finding that says what was measured, where, since when, what harm it does and what to try."""
    changes, _, layer = CASES[kind]
    finding = named(judge(made_up_run(*changes), ended=True), kind)
    assert finding is not None
    assert finding.layer == layer
    assert {"quantity", "value", "threshold"} <= set(finding.evidence)
    assert 1 <= finding.since_epoch <= 5
    assert finding.harm
    assert finding.advice
    assert all(finding.advice)
    assert finding.source
    assert Finding.from_dict(finding.to_dict()) == finding


@pytest.mark.parametrize("kind", CASES)
def test_within_the_threshold(kind: str) -> None:
    """There is none, or one that says that there is no harm."""
    _, changes, _ = CASES[kind]
    finding = named(judge(made_up_run(*changes), ended=True), kind)
    assert finding is None or finding.severity == "info"


@pytest.mark.parametrize("kind", CASES)
def test_a_rule_without_its_evidence_says_nothing(kind: str) -> None:
    """Where a quantity was not measured at all, no rule fails and none makes something up."""
    for quantity in ("updates", "signal", "output", "loss", "gradients", "activations", "dead_neurons", "scores"):
        changes, _, _ = CASES[kind]
        reports = [dataclasses.replace(report, **{quantity: {}}) for report in made_up_run(*changes)]
        for name in RULES:
            found = list(RULES[name](history(reports)))
            assert name == kind or not [item for item in found if item.severity != "info"] or name in consequences(kind)


def consequences(kind: str) -> set[str]:
    """What follows from the numbers of a case besides its own kind."""
    changes, _, _ = CASES[kind]
    return {finding.kind for finding in judge(made_up_run(*changes), ended=True)} | {"labels_mismatch", "plateau"}


def history(reports: list[EpochReport]) -> History:
    return History(reports, T, ended=True)


@pytest.mark.parametrize(("share", "severity"), [(1, None), (4, "info"), (16, "info"), (17, "error"), (32, "error")])
def test_dead_units_by_their_share(share: int, severity: str | None) -> None:
    """From 10 % of a layer on they are worth knowing, above 50 % they are to blame if nothing is learned."""
    dead = change("dead_neurons", "relu", dead=share, fraction=share / 32)
    for harm in ("error", "info"):
        finding = named(judge(made_up_run(dead, *([stalled] if harm == "error" else []))), "dead_units")
        expected = "info" if severity is not None and harm == "info" else severity
        assert (finding.severity if finding else None) == expected


INSIDE = {
    "never_updated", "no_gradient", "hidden_softmax", "symmetry", "initial_loss", "dead_units",
    "constant_output", "no_nonlinearity",
}  # fmt: skip
"""Kinds whose evidence, as it is made up here, may go with a network that learns all the same."""


@pytest.mark.parametrize("kind", sorted(INSIDE))
def test_severity_follows_harm(kind: str) -> None:
    """While the network learns an information; at its first report a warning; an error if it comes no further."""
    changes = CASES[kind][0]

    def severity(*more: Change, epochs: int = 5) -> str | None:
        found = named(judge(made_up_run(*more, *changes, epochs=epochs)), kind)
        return found.severity if found else None

    assert severity() == "info"
    worst = "warning" if kind == "initial_loss" else "error"
    assert severity(stalled) == worst
    assert severity(stalled, epochs=1) in ("warning", "info")
    assert severity(no_loss) in ("warning", "info", None)


def test_what_goes_on_keeps_its_severity() -> None:
    """A network that has begun to learn is not told that it stalls because an epoch is a little worse."""
    course = [2.30, 2.0, 2.15, 2.0, 2.15]  # progress of 0, 13, 7, 13, 7 %
    reports = made_up_run(losses(course), accuracies([0.1] * 5, [0.1] * 5), *CASES["hidden_softmax"][0])
    found = [named(judge(reports[:epochs]), "hidden_softmax").severity for epochs in range(1, 6)]
    assert found == ["warning", "info", "info", "info", "info"]


def test_dead_units_do_not_come_and_go_at_the_threshold() -> None:
    """What was found stands until the share has clearly fallen."""
    shares = iter([4, 3, 4, 3, 2])
    reports = made_up_run(lambda n: n["dead_neurons"]["relu"].update(fraction=(dead := next(shares)) / 32, dead=dead))
    found = [named(judge(reports[:epochs]), "dead_units") is not None for epochs in range(1, 6)]
    assert found == [True, True, True, True, False]


def test_when_units_died_and_by_what() -> None:
    """A finding of dead units tells dying from being born dead, and the update ratio of the time."""
    dying = made_up_run(
        since(3, change("dead_neurons", "relu", dead=32, fraction=1.0)), change("updates", "fc2", ratio=0.4)
    )
    finding = named(judge(dying), "dead_units")
    assert (finding.since_epoch, finding.evidence["when"], finding.evidence["update_ratio"]) == (
        3,
        "during training",
        0.4,
    )
    born = named(judge(made_up_run(change("dead_neurons", "relu", dead=32, fraction=1.0))), "dead_units")
    assert (born.since_epoch, born.evidence["when"]) == (1, "from the beginning")
    assert born.advice != finding.advice


NONFINITE = {"nonfinite": 1, "first_nonfinite_iteration": 50}


@pytest.mark.parametrize(
    ("changes", "place", "layer", "direction", "iteration"),
    [
        ([change("signal", "input", **NONFINITE), change("signal", "*", **NONFINITE)], "input", "fc1", "forward", 50),
        ([change("signal", "fc2", **NONFINITE), change("signal", "fc3", **NONFINITE)],
         "activation", "fc2", "forward", 50),
        ([change("signal", "fc2", **NONFINITE), change("updates", "fc2", nonfinite=3, weight_start=math.nan)],
         "weight", "fc2", "forward", 50),
        ([change("gradients", "fc1", **NONFINITE), change("gradients", "fc2", **NONFINITE),
          change("signal", "*", nonfinite=1, first_nonfinite_iteration=51)], "gradient", "fc2", "backward", 50),
        ([change("loss", **NONFINITE)], "loss", None, "forward", 50),
    ],
)  # fmt: skip
def test_where_the_first_nan_is(changes, place, layer, direction, iteration) -> None:
    """Input, weight, activation, loss or gradient, whichever comes first; the layer, the direction, the iteration."""
    finding = named(judge(made_up_run(since(2, *changes))), "nonfinite")
    assert finding.evidence["place"] == place
    assert finding.layer == layer
    assert (finding.evidence["direction"], finding.evidence["iteration"]) == (direction, iteration)
    assert (finding.since_epoch, finding.severity) == (2, "error")


def test_nonfinite_numbers_that_are_over_are_no_error() -> None:
    """A single bad batch that a scaler skipped is a warning once later epochs are fine."""
    reports = made_up_run(lambda n: n["epoch"] == 2 and n["gradients"]["fc1"].update(NONFINITE))
    finding = named(judge(reports), "nonfinite")
    assert (finding.severity, finding.since_epoch) == ("warning", 2)


def test_without_a_loss_harm_is_not_made_up() -> None:
    """Vanishing gradients are not called so, and dead units say that their harm is not known."""
    vanishing = made_up_run(no_loss, way_back(1e-9, 1e-5, 1e-3))
    assert judge(vanishing, ended=True) == ()
    dead = named(judge(made_up_run(no_loss, change("dead_neurons", "relu", dead=20, fraction=20 / 32))), "dead_units")
    assert "not known" in dead.harm


@pytest.mark.parametrize(("rate", "layer"), [(0.8, "drop"), (0.79, None)])
def test_a_dropout_that_leaves_nothing(rate: float, layer: str | None) -> None:
    """A rate of 80 % is too much where the network does not learn, wherever validation stands."""
    reports = made_up_run(stalled, change("output", dropout=rate))
    finding = named(judge(reports), "over_regularised")
    assert (finding.layer if finding else None) == layer
    assert named(judge(made_up_run(change("output", dropout=0.95))), "over_regularised") is None


def test_weights_that_begin_equal_and_are_kept_apart_by_biases_only() -> None:
    """Equal rows of most layers at the start are a symmetry, though biases make them differ later; of one layer not."""
    begun = [stalled, *(change("updates", name, equal_rows_start=1.0) for name in ("fc1", "fc2"))]
    assert named(judge(made_up_run(*begun)), "symmetry").layer == "fc1"
    assert named(judge(made_up_run(*begun[:2])), "symmetry") is None


def test_a_dead_network_does_not_hide_an_uncleared_gradient() -> None:
    """The last epoch that tells whether gradients were cleared decides: gradients of 0 tell nothing."""
    uncleared = change("updates", "*", cleared=0, uncleared=6)
    reports = made_up_run(uncleared, since(3, change("updates", "*", cleared=0, uncleared=0)))
    assert named(judge(reports), "uncleared_gradient").since_epoch == 1


def test_frozen_layers_are_an_information() -> None:
    """What requires no gradient is named, without an alarm."""
    reports = made_up_run(
        change("updates", "fc1", trainable=False, owned=False, present=0, nonzero=False, gradient_left=False)
    )
    (finding,) = judge(reports)
    assert (finding.kind, finding.severity, finding.layer) == ("no_gradient", "info", "fc1")


def test_thresholds_are_the_callers_to_set() -> None:
    """A rule compares with the thresholds that it is given."""
    reports = made_up_run(change("dead_neurons", "relu", dead=3, fraction=3 / 32))
    assert judge(reports) == ()
    assert named(judge(reports, thresholds=Thresholds(dead_info=0.05)), "dead_units") is not None


def test_causes_come_before_consequences() -> None:
    """A dead layer is put before the constant output and the missing gradients that follow from it."""
    reports = made_up_run(
        stalled,
        change("dead_neurons", "relu#2", dead=32, fraction=1.0),
        change("output", variation=0.0),
        change("updates", "fc1", nonzero=False),
        change("updates", "fc2", nonzero=False),
    )
    kinds = [finding.kind for finding in judge(reports, ended=True)]
    assert kinds == ["dead_units", "constant_output", "no_gradient", "plateau"]


def test_what_does_no_harm_comes_last() -> None:
    """Informations follow warnings and errors, whatever their kind."""
    frozen = change("updates", "fc1", trainable=False, owned=False, present=0, nonzero=False, gradient_left=False)
    reports = made_up_run(frozen, stalled, change("dead_neurons", SITES[0], dead=20, fraction=20 / 32))
    assert [finding.severity for finding in judge(reports)] == ["error", "info"]


def test_a_rule_that_fails_is_said_once_and_costs_nothing_else(monkeypatch, caplog) -> None:
    """Training never dies of its diagnostics."""

    def broken(history):
        raise RuntimeError("broken")

    monkeypatch.setitem(RULES, "plateau", broken)
    monkeypatch.setattr("ignite_act.findings.judging._failed", set())
    reports = made_up_run(change("dead_neurons", "relu", dead=20, fraction=20 / 32))
    for _ in range(2):
        assert [finding.kind for finding in judge(reports, ended=True)] == ["dead_units"]
    assert len(caplog.records) == 1
    assert "plateau" in caplog.text


def test_a_branch_that_is_weak_closes_no_way_back() -> None:
    """A gate's, a query's or a table's own signal may be next to nothing: others come back to the layers before it."""
    branch = judge(made_up_run(stalled, way_back(1e-3, 1e-9, 1e-3)), ended=True)
    assert named(branch, "vanishing_gradient") is None
    closed = judge(made_up_run(stalled, way_back(1e-9, 1e-9, 1e-3)), ended=True)
    assert named(closed, "vanishing_gradient").layer == "fc1"


@pytest.mark.parametrize("missing", [None, 0.0])
def test_without_a_backward_signal_nothing_is_said_of_the_way_back(missing: float | None) -> None:
    """Of compiled and checkpointed layers no gradient of the output is known; a layer nobody uses has none."""
    kinds = {own.kind for own in judge(made_up_run(stalled, way_back(missing, missing, 1e-3)), ended=True)}
    assert not kinds & {"vanishing_gradient", "exploding"}


def test_a_way_back_that_opens_a_little_is_closed_still() -> None:
    """What was found stands while nothing is learned, until clearly more comes back."""
    for opened, stands in ((3.0, True), (30.0, False)):
        later = since(3, way_back(opened * T.vanishing_ratio * 1e-3, 1e-5, 1e-3))
        found = judge(made_up_run(stalled, way_back(0.9 * T.vanishing_ratio * 1e-3, 1e-5, 1e-3), later), ended=True)
        assert (named(found, "vanishing_gradient") is not None) == stands


def found_with(kind: str, *changes: Change) -> Finding | None:
    return named(judge(made_up_run(*changes), ended=True), kind)


@pytest.mark.parametrize(("share", "layer"), [(0.9, "fc2"), (0.5, None)])
def test_attention_that_looks_at_one_key_from_the_beginning(share: float, layer: str | None) -> None:
    """It is saturated where nothing is learned; later it may be what was learned."""
    finding = found_with("saturated_units", stalled, change("output", attention={"fc2": share}))
    assert (finding.layer if finding else None) == layer
    learned = found_with("saturated_units", since(2, change("output", attention={"fc2": share})))
    assert learned is None


def test_attention_is_no_line() -> None:
    """A network whose only function is the softmax of its attention is not linear."""
    nothing = change("coverage", "activations", seen=[])
    assert found_with("no_nonlinearity", nothing, change("output", attention={"fc2": 0.1})) is None


def test_targets_that_all_samples_of_a_step_share() -> None:
    """They are found where the model is called once a step: a discriminator sees one class at a time."""
    shared = change("output", one_target=True, units=1, constant_loss=None, loss_applies="unknown")
    finding = found_with("labels_mismatch", stalled, shared)
    assert finding is not None
    assert finding.evidence["all_alike"]
    twice = found_with("labels_mismatch", stalled, shared, change("signal", "*", calls=80))
    assert twice is None or not twice.evidence.get("all_alike")


def test_samples_that_come_sorted() -> None:
    """The finding is of the order of the samples, as long as nothing is learned."""
    for within, expected in ((0.4, True), (0.6, False)):
        finding = found_with("oscillation", stalled, change("output", entropy_within=within * CONSTANT))
        assert (finding is not None) == expected
    assert found_with("oscillation", change("output", entropy_within=0.1)).severity == "info"


def test_few_samples_of_many_classes_are_not_sorted() -> None:
    """A step of sixteen samples has at most sixteen of a thousand classes, however well they are shuffled."""
    few = change("output", entropy=math.log(1000), entropy_within=math.log(16), rows=16.0)
    assert found_with("oscillation", stalled, few) is None
    assert found_with("oscillation", stalled, few, change("output", entropy_within=0.3)) is not None


@pytest.mark.parametrize(("spread", "found"), [(1.1, True), (0.9, False)])
def test_targets_on_another_scale_than_the_outputs(spread: float, found: bool) -> None:
    """A squared error whose targets are out of reach is told from labels that cannot be learned."""
    variance = (spread * T.target_scale * 1.0) ** 2
    loss = change("loss", mean=variance, first=variance, last=variance, max=variance, course=[variance] * 8)
    far = change("output", squared_loss=variance, target_variance=variance, variation=1.0, loss_applies="unknown",
                 constant_loss=None, maximised=None)  # fmt: skip
    finding = found_with(
        "initial_loss", stalled, loss, far, lambda n: n["scores"].update(loss={"validation": variance})
    )
    assert (finding is not None) == found


def test_nll_of_what_is_no_logarithm() -> None:
    """A loss that is a sum of outputs takes them for logarithms of probabilities."""
    linear = change("output", loss_applies="nothing", linear_loss=CONSTANT, logarithms=False)
    first = change("loss", first=CONSTANT)
    assert found_with("output_probabilities", stalled, first, linear).severity == "error"
    assert found_with("output_probabilities", linear, first, change("output", logarithms=True)) is None


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("output_probabilities", {"applies_again": "softmax"}),
        ("output_probabilities", {"takes_logarithms_of": "layer"}),
        ("labels_mismatch", {"pairs": True}),
    ],
)
def test_what_the_graph_shows_of_the_loss_needs_no_number(kind: str, fact: dict[str, object]) -> None:
    """A mistake, and no alarm as long as the loss is sound."""
    unknown = change("output", loss_applies="unknown", maximised=None, constant_loss=None)
    finding = found_with(kind, unknown, change("output", **fact))
    assert finding is not None
    assert finding.severity == "warning"
    assert found_with(kind, unknown) is None


def test_one_too_many_in_one_of_several_heads() -> None:
    """Each output that the loss reads is judged."""
    head = {**healthy(5)["output"], "applies_again": "sigmoid", "producer": "tags"}
    assert found_with("output_probabilities", change("output", heads={"1": head})).layer == "tags"


def test_a_distance_to_targets_that_a_function_cannot_reach() -> None:
    """Of a robust loss the outputs' gradient tells on which side the targets lie."""
    beyond = change("output", function="softmax", producer="out", loss_applies="unknown", beyond=0.5)
    half = lambda n: n["output"].update(squared_loss=n["loss"]["first"] / 2)  # noqa: E731
    assert found_with("output_activation", beyond, half) is None
    assert found_with("output_activation", beyond, change("output", distance=True)) is None  # a sum of errors, say
    assert found_with("output_activation", beyond, half, change("output", distance=True)).layer == "out"


def test_an_output_that_is_never_anything_but_0_is_cut_by_no_function() -> None:
    """Weights of 0 do that; a network whose outputs are cut has others, or a function that is known."""
    cut = change("output", min=0.0, blocked=0.3)
    assert found_with("output_activation", cut) is not None
    assert found_with("output_activation", cut, change("output", max=0.0)) is None
    assert found_with("output_activation", cut, change("output", max=0.0, function="relu")) is not None


def test_a_validation_loss_that_goes_on_falling_is_learning() -> None:
    """Then neither the labels nor the network are blamed, however little it is; it is once the loss stays."""
    slow = losses([2.33, 2.31, 2.3, 2.29, 2.28], [2.6, 2.5, 2.4, 2.38, 2.32])
    flat = losses([2.33, 2.31, 2.3, 2.29, 2.28], [2.6, 2.5, 2.4, 2.4, 2.4])
    unknown = change("output", constant_loss=None, loss_applies="unknown", first_loss=None, mean_loss=None)
    at_chance = accuracies([0.1] * 5, [0.1] * 5)
    for course, kinds in ((slow, set()), (flat, {"labels_mismatch", "plateau"})):
        reports = made_up_run(stalled, course, unknown, at_chance)
        assert {own.kind for own in judge(reports, ended=True)} & {"labels_mismatch", "plateau"} == kinds


def test_samples_learned_by_heart_under_a_loss_that_is_not_known() -> None:
    """Validation never was better than without any learning; where it was, that is overfitting."""
    unknown = change("output", constant_loss=None, loss_applies="unknown", first_loss=None, mean_loss=None)
    train = [2.3, 2.0, 1.5, 0.9, 0.7]
    kinds = {
        values[0]: {
            own.kind for own in judge(made_up_run(unknown, losses(train, values), accuracies([0.5] * 5, [0.1] * 5)))
        }
        for values in ([2.31, 2.4, 2.6, 2.9, 3.3], [1.9, 1.8, 2.2, 2.7, 3.3])
    }
    assert "labels_mismatch" in kinds[2.31] - kinds[1.9]
    assert "overfitting" in kinds[1.9] - kinds[2.31]


def test_a_schedule_that_has_ended_the_learning() -> None:
    """Its rate is next to nothing for a third of the run, and much is left to learn."""
    partly = losses([2.2, 1.9, 1.8, 1.8, 1.8])
    sunk = since(3, change("updates", "*", ratio=1e-6, learning_rate=1e-6))
    assert found_with("update_too_small", partly, sunk) is not None
    assert found_with("update_too_small", losses([2.0, 0.5, 0.4, 0.4, 0.4]), sunk) is None
    assert found_with("update_too_small", partly, since(3, change("updates", "*", ratio=1e-6))) is None


def test_weights_that_shrink_while_the_loss_rises_again() -> None:
    """What was learned before does not excuse them."""
    small = since(4, change("updates", "*", weight=1e-4))
    assert found_with("weight_collapse", small, losses([2.2, 1.8, 1.7, 1.7, 1.65])) is None
    assert found_with("weight_collapse", small, losses([2.2, 1.8, 1.7, 1.9, 2.0])) is not None


def test_a_likelihood_below_zero_has_another_sign() -> None:
    """It is no progress, however low it gets."""
    rising = [2.3, 3.0, 4.0, 5.0, 6.0]
    negated = losses([-value for value in rising], rising)
    assert found_with("loss_rising", negated, change("output", maximised=True)).severity == "error"


def test_momentum_is_no_maximised_loss() -> None:
    """Steps go along the gradient from the first epoch on, or nothing is said of the sign."""
    unknown = change("output", maximised=None)
    uphill = change("updates", "*", steps=10, against=10)
    assert found_with("loss_rising", stalled, unknown, uphill) is not None
    assert found_with("loss_rising", stalled, unknown, since(2, uphill)) is None


def test_another_input_on_an_unusual_scale() -> None:
    """The time of a diffusion step in thousands, say, unless the first layer makes up for it."""
    steps = change("signal", "input", others={"t": 999.0})
    assert found_with("input_scale", steps, change("signal", "fc1", first_max_abs=100.0)).evidence["value"] == 999.0
    for size in (1.0, 40.0):  # the network scales it, or something else is as large
        assert found_with("input_scale", steps, change("signal", "fc1", first_max_abs=size)) is None


def test_outputs_that_have_to_grow_to_their_targets() -> None:
    """Prices, under a loss that is not known."""
    unknown = change("output", constant_loss=None, loss_applies="unknown", first_loss=None, mean_loss=None)
    course = losses([2.2, 2.1, 2.0, 2.0, 1.9])
    assert found_with("initial_loss", unknown, course, change("output", scale=1e5)).evidence["value"] > 1e4
    assert found_with("initial_loss", unknown, course, change("output", scale=50.0)) is None


@pytest.mark.parametrize(("first", "found"), [(8000.0, True), (500.0, False)])
def test_errors_of_a_size_that_only_far_targets_have(first: float, found: bool) -> None:
    """An absolute or a robust error; of another loss nobody knows what its size means."""
    unknown = change("output", constant_loss=None, loss_applies="unknown", first_loss=None, mean_loss=None)
    level = change("loss", first=first, mean=first, last=first, max=first, course=[first] * 8)
    course = [stalled, unknown, level, lambda n: n["scores"].update(loss={"validation": first})]
    distance = change("output", distance=True)
    assert (found_with("initial_loss", *course, distance) is not None) == found
    assert found_with("initial_loss", *course) is None


def test_batch_norm_on_next_to_no_samples() -> None:
    """In all of its layers; one behind a mean over the picture is usual."""
    assert found_with("oscillation", change("output", normed={"bn1": 2, "bn2": 2})).layer == "bn1"
    assert found_with("oscillation", change("output", normed={"bn1": 512, "pooled": 2})) is None


def test_vectors_that_have_become_one_point() -> None:
    """They have the same length and differ less than at their start."""
    unknown = change("output", constant_loss=None, loss_applies="unknown", unit_norm=True, units=32)
    narrow = since(3, change("output", spread=0.004))
    assert found_with("constant_output", unknown, narrow).severity == "warning"
    assert found_with("constant_output", unknown, since(3, change("output", spread=0.05))) is None
    assert found_with("constant_output", unknown, narrow, change("output", unit_norm=False)) is None
    widening = lambda numbers: numbers["output"].update(spread=0.001 * numbers["epoch"])  # noqa: E731
    assert found_with("constant_output", unknown, widening) is None


def test_latents_that_carry_nothing() -> None:
    """For as long as a trend must hold: in the beginning they may well be noise."""
    asleep = change("output", latents={"decode": 0.01})
    assert found_with("constant_output", asleep).layer == "decode"
    assert found_with("constant_output", asleep, since(5, change("output", latents={"decode": 1.5}))) is None
    assert found_with("constant_output", change("output", latents={"decode": 1.5}), since(4, asleep)) is None


def test_a_weight_whose_steps_are_lost_in_rounding() -> None:
    """An expert that the router never asks, say."""
    lost = change("updates", "fc2", ratio=0.0, moved=False, learning_rate=0.1)
    finding = found_with("no_gradient", lost)
    assert (finding.layer, finding.severity) == ("fc2", "info")


def test_a_loss_below_zero_is_not_many_times_its_start() -> None:
    """Neither is one that nobody knows called stalled."""
    below = losses([-0.3, -0.8, -0.9, -1.0, -1.0])
    unknown = change("output", constant_loss=None, loss_applies="unknown", first_loss=None, mean_loss=None)
    start = change("loss", first=-0.2)
    kinds = {own.kind for own in judge(made_up_run(below, start, unknown), ended=True) if own.severity != "info"}
    assert kinds == set()


def test_labels_are_not_blamed_where_a_part_does_not_learn() -> None:
    """An information that explains it is enough."""
    wrong = [losses(BY_HEART, [2.31, 2.32, 2.34, 2.36, 2.4]), accuracies([0.3] * 5, [0.1] * 5)]
    assert found_with("labels_mismatch", *wrong) is not None
    left = change("updates", "fc1", owned=False, learning_rate=None, steps=0, ratio=None, moved=False)
    assert found_with("labels_mismatch", *wrong, left) is None
