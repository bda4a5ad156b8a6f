"""Runs -> a comparison of variants over seeds."""

import dataclasses
import json
import math
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ignite_act.compare import compare, estimate
from ignite_act.report import gradient_ratio
from ignite_act.runs.stored import find_runs

NOTHING = [None, math.nan, math.inf, -math.inf]


def naive(values):
    """The estimate as numpy and scipy have it, for different values; one value alone has no spread."""
    if len(values) == 1:
        (value,) = values
        missing = {"std": None, "low": None, "high": None}
        return {"n": 1, "mean": value, "minimum": value, "median": value, "maximum": value, **missing}
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    exact = {"n": len(values), "minimum": min(values), "maximum": max(values)}
    rest = {
        "mean": np.mean(values),
        "std": np.std(values, ddof=1),
        "median": np.median(values),
        "low": low,
        "high": high,
    }
    near = np.abs(values).max() * 1e-12
    return exact | {name: pytest.approx(value, rel=1e-12, abs=near) for name, value in rest.items()}


def assert_is(mine, values):
    """An estimate is that of some values, as numpy and scipy have it."""
    assert asdict(mine) == naive(values)


def verdicts(runs):
    """Variant -> verdict, in the order of the comparison."""
    (comparison,) = compare(runs)
    return {variant.name: variant.verdict for variant in comparison.variants}


def variant_of(runs, name):
    """The variant of a name in the only comparison."""
    (comparison,) = compare(runs)
    return next(variant for variant in comparison.variants if variant.name == name)


# Estimates


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("scale", [1e-12, 0.01, 1.0, 1e12])
def test_estimate(n, scale):
    """An estimate has mean, sample deviation, extremes, median and the 95 % interval of Student's t distribution."""
    values = np.random.default_rng(n).normal(1.0, 0.5, n) * scale
    assert_is(estimate(values.tolist()), values)


def test_known_estimate():
    """The interval of 1, 2 and 3 is 2 ± 4.3027 / sqrt(3), from any table of the t distribution."""
    mine = estimate([3.0, 1.0, 2.0])
    assert (mine.n, mine.mean, mine.std, mine.minimum, mine.median, mine.maximum) == (3, 2.0, 1.0, 1.0, 2.0, 3.0)
    assert (
        mine.high - mine.mean == pytest.approx(mine.mean - mine.low) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    )


@pytest.mark.parametrize("value", [0, 0.25, -3.0])
def test_one_seed_has_no_interval(value):
    """One seed says nothing of the others: no deviation, no interval."""
    assert asdict(estimate([value])) == {
        "n": 1, "mean": value, "std": None, "low": None, "high": None,
        "minimum": value, "median": value, "maximum": value,
    }  # fmt: skip


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.1] * 10, [0.0] * 3, [0.10 - 0.11, 0.90 - 0.91], [-7, -7]])
def test_equal_seeds_have_no_interval(values):
    """Seeds that agree, but for rounding, do not tell how far others would be off: no interval, least of all [x, x]."""
    mine = estimate(values)
    assert (mine.low, mine.high) == (None, None)
    assert mine.std == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("missing", NOTHING, ids=str)
def test_missing_values_are_left_out(missing):
    """Missing and non-finite values are not seeds."""
    assert estimate([missing, 0.5, missing, 0.25]) == estimate([0.5, 0.25])


@pytest.mark.parametrize("values", [[], [None], NOTHING])
def test_nothing_to_estimate(values):
    """Without a value there is no estimate."""
    assert estimate(values) is None


# Statistics of a variant


def test_statistics(made):
    """Every number of a variant is numpy's and scipy's, over its seeds."""
    rng = random.Random(0)
    rows = [
        {
            "test": {"accuracy": rng.random(), "loss": rng.random()},
            "last": {"accuracy": rng.random(), "loss": rng.random()},
            "epochs": rng.randrange(1, 50),
            "best_epoch": rng.randrange(1, 50),
            "seconds": rng.random(),
            "gradients": {name: {"mean_abs": rng.random()} for name in ("a", "b", "c")},
            "dead_neurons": {name: {"dead": rng.randrange(9), "units": 9} for name in ("x", "y")},
        }
        for _ in range(7)
    ]
    variant = variant_of([made(seed=seed, summary=row) for seed, row in enumerate(rows)], "relu")
    assert_is(variant.test_accuracy, [row["test"]["accuracy"] for row in rows])
    assert_is(variant.test_loss, [row["test"]["loss"] for row in rows])
    assert_is(variant.last_accuracy, [row["last"]["accuracy"] for row in rows])
    assert_is(variant.last_loss, [row["last"]["loss"] for row in rows])
    assert_is(variant.epochs, [row["epochs"] for row in rows])
    assert_is(variant.best_epoch, [row["best_epoch"] for row in rows])
    assert_is(variant.seconds, [row["seconds"] for row in rows])
    assert_is(variant.dead, [row["dead_neurons"]["x"]["dead"] + row["dead_neurons"]["y"]["dead"] for row in rows])
    assert variant.units == 18
    ratios = [row["gradients"]["a"]["mean_abs"] / row["gradients"]["c"]["mean_abs"] for row in rows]
    assert_is(variant.gradient_ratio, ratios)
    assert list(variant.gradients) == ["a", "b", "c"]
    for name, mine in variant.gradients.items():
        assert_is(mine, [row["gradients"][name]["mean_abs"] for row in rows])
    for name, mine in variant.dead_neurons.items():
        assert_is(mine, [row["dead_neurons"][name]["dead"] for row in rows])


def test_only_runs_that_learned_count(study):
    """Where a variant learned with some seeds, its statistics are over these; the others are counted, not averaged."""
    variant = variant_of(study({"relu": [0.5, 0.1, 0.75, None, 0.1]}), "relu")
    assert (variant.learned, variant.failed, len(variant.runs)) == (2, 1, 5)
    assert_is(variant.test_accuracy, [0.5, 0.75])
    assert [run.config["seed"] for run in variant.counted] == [42, 44]
    assert [run.config["seed"] for run in variant.finished] == [42, 43, 44, 46]
    assert variant.stop_reasons == {"all 5 epochs done": 4, "OSError: no": 1}


def test_runs_that_did_not_learn_count_where_none_did(study):
    """Where no seed learned, the statistics are over all runs that have results."""
    variant = variant_of(study({"relu": [0.1, None, 0.05]}), "relu")
    assert (variant.learned, variant.failed) == (0, 1)
    assert_is(variant.test_accuracy, [0.1, 0.05])


def test_all_failed(study):
    """A variant of which every run failed has its runs and their reasons, and no numbers."""
    variant = variant_of(study({"relu": [None, None], "tanh": [0.5, 0.6]}), "relu")
    assert (variant.verdict, variant.learned, variant.failed, variant.units) == ("failed", 0, 2, 0)
    assert variant.stop_reasons == {"OSError: no": 2}
    names = ("test_accuracy", "test_loss", "last_accuracy", "last_loss", "epochs", "seconds", "dead", "gradient_ratio")
    assert {getattr(variant, name) for name in (*names, "difference")} == {None}
    assert (variant.gradients, variant.dead_neurons, variant.finished) == ({}, {}, [])


@pytest.mark.parametrize("missing", NOTHING, ids=str)
def test_missing_accuracies(made, missing):
    """A seed without an accuracy is left out of the mean and of the pairs."""
    runs = [made("relu", seed, value) for seed, value in enumerate([0.9, 0.8, 0.7, 0.6])]
    runs += [made("tanh", seed, value) for seed, value in enumerate([0.5, missing, 0.45, 0.1])]
    assert_is(variant_of(runs, "tanh").test_accuracy, [0.5, 0.45, 0.1])
    assert_is(variant_of(runs, "tanh").difference, [0.5 - 0.9, 0.45 - 0.7, 0.1 - 0.6])
    runs += [made("elu", seed, missing) for seed in range(4)]
    assert variant_of(runs, "elu").test_accuracy is None
    assert list(verdicts(runs)) == ["relu", "tanh", "elu"]


@pytest.mark.parametrize(
    ("gradients", "ratio"),
    [
        ((1.0, 2.0, 4.0), 0.25),
        ((0.0, 2.0), 0.0),
        ((2.0, 0.0), None),
        ((0.0, 0.0), None),
        ((None, 2.0), None),
        ((2.0, None), None),
        ((None, None), None),
        ((2.0,), None),
        ((), None),
    ],
)
def test_gradient_ratio(made, gradients, ratio):
    """The ratio is None where there are not two layers, the last has none, or no step was finite."""
    run = made(gradients=gradients)
    assert gradient_ratio(run.summary["gradients"]) == ratio
    mine = variant_of([run, made(seed=1, gradients=gradients)], "relu").gradient_ratio
    assert (mine and mine.median) == ratio


def test_without_diagnostics(made):
    """Runs that were not looked into have no dead neurons and no gradients: neither zero, nor a part of a mean."""
    blind = made(seed=1, dead=(), gradients=(), diagnostics=False)
    variant = variant_of([blind], "relu")
    assert (variant.dead, variant.units, variant.gradient_ratio) == (None, 0, None)
    assert (variant.gradients, variant.dead_neurons) == ({}, {})
    variant = variant_of([blind, made(seed=2), made(seed=3)], "relu")
    assert (variant.dead.n, variant.dead.mean, variant.units) == (2, 3.0, 24)
    assert variant.gradient_ratio.n == variant.gradients["layers.0"].n == 2


def test_different_networks(made):
    """Variants of different networks each have their own layers and sites; a layer that some runs lack has fewer."""
    runs = [
        made(seed=1, gradients=(1.0, 2.0), dead=((1, 16),)),
        made(seed=2, gradients=(3.0, 4.0, 5.0), dead=((3, 16), (5, 8))),
        made("tanh", seed=1, gradients=(6.0,), dead=()),
    ]
    relu, tanh = variant_of(runs, "relu"), variant_of(runs, "tanh")
    assert {name: (value.n, value.mean) for name, value in relu.gradients.items()} == {
        "layers.0": (2, 2.0), "layers.2": (2, 3.0), "layers.4": (1, 5.0),
    }  # fmt: skip
    assert {name: (value.n, value.mean) for name, value in relu.dead_neurons.items()} == {
        "layers.1": (2, 2.0), "layers.3": (1, 5.0),
    }  # fmt: skip
    assert relu.units == 24
    assert list(tanh.gradients) == ["layers.0"]


# Differences and verdicts


@pytest.mark.parametrize("n", [2, 3, 10])
def test_difference(study, n):
    """The difference is scipy's of the paired t test, and the verdict is worse where its interval is below zero."""
    rng = np.random.default_rng(n)
    for gap in (0.0, 0.01, 0.1):
        relu = rng.uniform(0.6, 0.8, n)
        tanh = relu - gap - rng.uniform(0.001, 0.05, n)
        runs = study({"relu": relu, "tanh": tanh})
        low, high = stats.ttest_rel(tanh, relu).confidence_interval(0.95)
        mine = variant_of(runs, "tanh")
        assert (mine.difference.low, mine.difference.high) == (pytest.approx(low), pytest.approx(high))
        assert mine.difference.mean == pytest.approx(np.mean(tanh - relu))
        assert mine.verdict == ("worse" if high < 0 else "not told apart")
        assert variant_of(runs, "relu").difference is None


def test_pairs_of_common_seeds(made):
    """A difference is over the seeds that both have, in whatever order the runs come."""
    runs = [made("relu", seed, accuracy) for seed, accuracy in {1: 0.9, 2: 0.8, 3: 0.7, 10: 0.95}.items()]
    runs += [made("tanh", seed, accuracy) for seed, accuracy in {2: 0.5, 3: 0.55, 4: 0.1, 10: 0.6}.items()]
    random.Random(1).shuffle(runs)
    tanh = variant_of(runs, "tanh")
    assert_is(tanh.difference, [0.5 - 0.8, 0.55 - 0.7, 0.6 - 0.95])
    assert [run.config["seed"] for run in tanh.runs] == [2, 3, 4, 10]


def test_pairs_of_seeds_that_learned(study):
    """A difference is over the seeds with which both learned."""
    runs = study({"relu": [0.9, 0.1, 0.8, 0.7], "tanh": [0.6, 0.5, 0.1, 0.65]})
    assert_is(variant_of(runs, "tanh").difference, [0.6 - 0.9, 0.65 - 0.7])


def test_no_common_seed(made):
    """Without a common seed there is no difference, and nothing is called worse."""
    runs = [made("relu", seed, 0.9 + seed / 100) for seed in (1, 2, 3)]
    runs += [made("tanh", seed, 0.1 + seed / 100) for seed in (4, 5, 6)]
    assert variant_of(runs, "tanh").difference is None
    assert verdicts(runs) == {"relu": "best", "tanh": "not told apart"}


BEST, ALIKE, WORSE, SOME, IDLE, FAILED = (
    "best", "not told apart", "worse", "learned with some seeds", "did not start to learn", "failed",
)  # fmt: skip
VERDICTS = {
    "one seed": ({"relu": [0.9], "tanh": [0.2]}, {"relu": BEST, "tanh": ALIKE}),
    "one variant": ({"relu": [0.9, 0.8]}, {"relu": BEST}),
    "two seeds": ({"relu": [0.9, 0.8], "tanh": [0.2, 0.3]}, {"relu": BEST, "tanh": ALIKE}),
    "two seeds far apart": ({"relu": [0.9, 0.91], "tanh": [0.2, 0.22]}, {"relu": BEST, "tanh": WORSE}),
    "a tie": ({"relu": [0.9, 0.8], "tanh": [0.8, 0.9]}, {"relu": BEST, "tanh": ALIKE}),
    "equal": ({"relu": [0.9, 0.8], "tanh": [0.9, 0.8]}, {"relu": BEST, "tanh": ALIKE}),
    "one sample each": (
        {"relu": [0.97, 0.96], "tanh": [0.97 - 1 / 300, 0.96 - 1 / 300]},
        {"relu": BEST, "tanh": ALIKE},
    ),
    "three seeds": ({"relu": [0.9, 0.91, 0.92], "tanh": [0.88, 0.89, 0.895]}, {"relu": BEST, "tanh": WORSE}),
    "with every seed before the mean": ({"relu": [0.9, 0.1], "tanh": [0.7, 0.7]}, {"tanh": BEST, "relu": SOME}),
    "worse with some seeds": (
        {"relu": [0.9, 0.91, 0.92], "tanh": [0.5, 0.511, 0.1]},
        {"relu": BEST, "tanh": WORSE},
    ),
    "nobody with every seed": (
        {"relu": [0.9, 0.1], "tanh": [0.1, 0.95], "elu": [0.1, 0.1]},
        {"tanh": BEST, "relu": SOME, "elu": IDLE},
    ),
    "nobody": ({"relu": [0.1, 0.1], "tanh": [0.09, 0.1]}, {"relu": IDLE, "tanh": IDLE}),
    "nobody, some failed": ({"relu": [0.1, None], "tanh": [None, None]}, {"relu": IDLE, "tanh": FAILED}),
    "all failed": ({"relu": [None], "tanh": [None]}, {"relu": FAILED, "tanh": FAILED}),
    "one failed": ({"relu": [0.9, None], "tanh": [0.2, 0.2]}, {"relu": BEST, "tanh": ALIKE}),
    "another failed": ({"relu": [0.9, 0.8], "tanh": [0.2, None]}, {"relu": BEST, "tanh": ALIKE}),
    "order": (
        {"elu": [None], "relu": [0.1], "tanh": [0.5], "selu": [0.05], "gelu": [0.9], "mish": [0.7]},
        {"gelu": BEST, "mish": ALIKE, "tanh": ALIKE, "relu": IDLE, "selu": IDLE, "elu": FAILED},
    ),
}


@pytest.mark.parametrize(("accuracies", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_verdicts(study, accuracies, expected):
    """Best is the highest mean among what always learned, worse is what is so with 95 % confidence; in this order.

    A run that failed is a missing one: it says nothing of how well the variant learns. The best one comes first, then
    what learned by its mean, then what did not start to learn, then what failed altogether.
    """
    runs = study(accuracies)
    assert list(verdicts(runs).items()) == list(expected.items())
    (comparison,) = compare(runs)
    best = [name for name, verdict in expected.items() if verdict == BEST]
    assert ([comparison.best.name] if comparison.best else []) == best


def test_what_did_not_learn_is_never_best(made):
    """A variant that did not start to learn is not the best one, whatever its accuracy: the classes are its merit."""
    runs = [made("relu", 1, 0.9, learned=False), made("relu", 2, 0.9, learned=False)]
    assert verdicts(runs) == {"relu": IDLE}
    runs += [made("tanh", 1, 0.3), made("tanh", 2, 0.2, learned=False)]
    assert verdicts(runs) == {"tanh": BEST, "relu": IDLE}


# Names


NAMES = {
    "one": ([{}], ["relu"]),
    "parameters": ([{"act": "leakyrelu:negative_slope=0.10"}, {}], ["leakyrelu-negative_slope=0.1", "relu"]),
    "written differently": ([{"act": "swish"}, {"act": "SiLU", "seed": 43}], ["silu"]),
    "another setting": ([{"lr": 0.1}, {"lr": 0.5}], ["relu, lr=0.1", "relu, lr=0.5"]),
    "several settings": (
        [{"lr": 0.1, "hidden": (16, 8)}, {"lr": 0.5, "hidden": (4,)}],
        ["relu, hidden=16-8, lr=0.1", "relu, hidden=4, lr=0.5"],
    ),
    "a setting of one": (
        [{"clip_norm": None}, {"act": "tanh"}, {"clip_norm": 1.0}],
        ["relu, clip_norm=None", "tanh, clip_norm=None", "relu, clip_norm=1.0"],
    ),
    "how one looks": (
        [{}, {"seed": 43, "every": 5, "diagnostics": False, "device": "cpu", "data_root": "x"}],
        ["relu"],
    ),
    "another set of published numbers": ([{}, {"seed": 43, "published": {"test_loss": 0.1}}], ["relu"]),
    "two places": (
        [{"root": "old"}, {"root": "a/new"}, {"act": "tanh", "root": "a/new"}],
        ["relu (old)", "relu (a/new)", "tanh (a/new)"],
    ),
    "two places, other seeds": ([{"root": "old"}, {"root": "new", "seed": 43}], ["relu"]),
    "two places, other settings": (
        [{"root": "old", "lr": 0.1}, {"root": "new", "lr": 0.5}],
        ["relu, lr=0.1", "relu, lr=0.5"],
    ),
}


@pytest.mark.parametrize(("runs", "names"), NAMES.values(), ids=NAMES)
def test_names(made, runs, names):
    """A variant is named by its activation and by what sets it apart from others of the comparison, and no more."""
    (comparison,) = compare([made(**settings) for settings in runs])
    assert {variant.name for variant in comparison.variants} == set(names)
    assert sum(len(variant.runs) for variant in comparison.variants) == len(runs)


@pytest.mark.parametrize(
    ("directories", "names"),
    [
        (["x/relu/seed-42", "x/relu-old/seed-42"], {"relu (x/relu)", "relu (x/relu-old)"}),
        (["runs/relu/seed-42", "runs/relu/copy"], {"relu (runs/relu/seed-42)", "relu (runs/relu/copy)"}),
        (["one", "two"], {"relu (one)", "relu (two)"}),
    ],
)
def test_a_copy_is_not_another_seed(made, directories, names):
    """The same seed in two places is never counted twice in one mean, wherever the directories lie."""
    runs = [dataclasses.replace(made(), directory=Path(directory)) for directory in directories]
    (comparison,) = compare(runs)
    assert {variant.name for variant in comparison.variants} == names
    assert [variant.test_accuracy.n for variant in comparison.variants] == [1, 1]


def test_foreign_activation(made):
    """Runs of an activation that is registered in their own program alone are compared all the same."""
    run = made(summary={"activation": "mine-scale=2"})
    run = dataclasses.replace(run, config={**run.config, "act": "mine:scale=2"})
    assert set(verdicts([run, made("tanh")])) == {"mine-scale=2", "tanh"}


def test_settings(made):
    """A comparison has the settings that all variants share; seed, activation and published numbers are none."""
    (comparison,) = compare([made(lr=0.1), made("tanh", lr=0.5, published={"test_loss": 0.25})])
    shared = {"data", "model", "hidden", "style", "optimizer", "momentum", "weight_decay", "batch_size", "max_epochs",
              "patience", "amp", "accumulate", "clip_norm"}  # fmt: skip
    assert shared <= set(comparison.settings)
    assert not {"act", "seed", "published", "lr"} & set(comparison.settings)
    assert comparison.settings["hidden"] == [16, 8]


def test_several_data_sets(made):
    """Each data set has a comparison of its own, in the order of first appearance."""
    runs = [made(data=name, seed=seed) for seed in (1, 2) for name in ("circles", "digits")]
    assert [(item.data, len(item.variants[0].runs)) for item in compare(runs)] == [("circles", 2), ("digits", 2)]


def test_nothing():
    """No runs are no comparison."""
    assert compare([]) == []


# Published numbers


@pytest.mark.parametrize(
    ("published", "place"),
    [(0.0, (0, 4)), (0.5, (0, 4)), (0.6, (1, 4)), (0.65, (2, 4)), (0.8, (3, 4)), (0.9, (4, 4))],
)
def test_place_of_a_published_number(study, published, place):
    """A published number has a place: how many of our runs lie below it; an equal one does not."""
    runs = study({"relu": [0.5, 0.6, 0.7, 0.8]}, published={"test_accuracy": published})
    assert variant_of(runs, "relu").place("test_accuracy") == place


def test_published_number_of_a_run_that_may_not_have_learned(study):
    """What is published is set beside all of our runs: others do not leave out what did not start to learn."""
    variant = variant_of(study({"sigmoid": [0.1, 0.85, 0.05, None]}, published={"test_accuracy": 0.1}), "sigmoid")
    assert variant.test_accuracy.n == 1
    assert variant.values("test_accuracy") == [0.1, 0.85, 0.05]
    assert variant.place("test_accuracy") == (1, 3)


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss", "last_accuracy", "last_loss", "dead"])
@pytest.mark.parametrize("missing", NOTHING, ids=str)
def test_place_without_numbers(made, metric, missing):
    """There is no place without a published number, nor without one of ours."""
    number, nothing = ({"test": {"accuracy": x, "loss": x}, "last": {"accuracy": x, "loss": x}} for x in (0.5, missing))
    nothing |= {"dead_neurons": {} if missing is None else {"a": {"dead": missing, "units": 1}}}
    number |= {"dead_neurons": {"a": {"dead": 0.5, "units": 1}}}
    assert variant_of([made(summary=number)], "relu").place(metric) is None
    assert variant_of([made(summary=nothing, published={metric: 0.5})], "relu").place(metric) is None
    runs = [made(seed=seed, summary=row, published={metric: 1}) for seed, row in enumerate([number, nothing])]
    assert variant_of(runs, "relu").place(metric) == (1, 1)


def test_published_numbers_of_some_seeds(made):
    """Numbers that were added to a study later hold for the seeds that were there, too."""
    runs = [made(seed=1), made(seed=2, published={"test_loss": 0.1, "dead": 3}), made(seed=3, published={"dead": 4})]
    assert variant_of(runs, "relu").published == {"test_loss": 0.1, "dead": 4}


# Plain types


def test_to_dict(study):
    """A comparison as plain types has every number of the variants and one row a run, and is JSON."""
    (comparison,) = compare(study({"relu": [0.5, 0.75], "tanh": [0.1, None]}))
    plain = comparison.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert (plain["data"], plain["confidence"]) == ("digits", 0.95)
    relu, tanh = plain["variants"]
    assert relu["test_accuracy"] == asdict(comparison.variants[0].test_accuracy)
    assert relu["gradients"]["layers.0"] == asdict(comparison.variants[0].gradients["layers.0"])
    assert relu["runs"][0] == {
        "directory": "runs/digits/relu/seed-42", "seed": 42, "learned": True, "stop_reason": "all 5 epochs done",
        "test_accuracy": 0.5, "test_loss": 0.25, "last_accuracy": 0.75, "last_loss": 0.5, "dead": 3,
    }  # fmt: skip
    assert tanh["runs"][1] == {
        "directory": "runs/digits/tanh/seed-43", "seed": 43, "learned": None, "stop_reason": "OSError: no",
        "test_accuracy": None, "test_loss": None, "last_accuracy": None, "last_loss": None, "dead": None,
    }  # fmt: skip


def test_real_runs(trained):
    """Runs are compared as their directories tell of them; one that became non-finite did not learn."""
    runs, left_out = find_runs([trained])
    (comparison,) = compare(runs)
    assert left_out == {}
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["data"] == "digits"
    accuracies = {}
    for variant in comparison.variants:
        accuracies[variant.act] = [item.summary["test"]["accuracy"] for item in variant.runs]
        assert len(variant.gradients) == 3
        assert list(variant.dead_neurons) == ["layers.1", "layers.3"]
        assert variant.units == 24
        if variant.act != "elu":
            assert (variant.learned, variant.stop_reasons) == (2, {"all 2 epochs done": 2})
            assert_is(variant.test_accuracy, accuracies[variant.act])
    best, other, last = comparison.variants
    assert (last.name, last.verdict) == ("elu, lr=1e+30", "did not start to learn")
    assert np.mean(accuracies[best.act]) >= np.mean(accuracies[other.act])
    assert_is(other.difference, np.subtract(accuracies[other.act], accuracies[best.act]))


def test_first_gradients(trained):
    """The gradients of the first epoch are those of the first line of each run's reports, layer by layer."""
    (comparison,) = compare(find_runs([trained])[0])
    for variant in comparison.variants:
        lines = [(run.directory / "epochs.jsonl").read_text(encoding="utf-8").splitlines()[0] for run in variant.runs]
        rows = [json.loads(line)["gradients"] for line in lines]
        assert list(variant.first_gradients) == list(rows[0]) == ["layers.0", "layers.2", "layers.4"]
        for layer, value in variant.first_gradients.items():
            assert_is(value, [row[layer]["mean_abs"] for row in rows])
        if variant.act != "elu":  # one epoch was all it had
            assert variant.first_gradients != variant.gradients
