"""What a comparison says in sentences."""

import shutil

import pytest

from ignite_act.compare import compare
from ignite_act.html.verdict import verdict
from ignite_act.runs.stored import find_runs

LEAKY = "leakyrelu-negative_slope=0.1"


@pytest.fixture
def judged(runs, alter):
    """The verdict on runs with these test accuracies in percent, seed by seed; None for a run that did not learn."""

    def judge(**accuracies):
        for name, directory in (("relu", "relu"), ("tanh", "tanh"), ("leaky", LEAKY)):
            values = accuracies.get(name, ())
            for seed, value in enumerate(values, 1):
                accuracy = 0.1 if value is None else value / 100
                alter(
                    runs / directory / f"seed-{seed}",
                    test={"accuracy": accuracy, "loss": 1.0},
                    learned=value is not None,
                )
            for seed in range(len(values) + 1, 3):
                shutil.rmtree(runs / directory / f"seed-{seed}")
        (comparison,) = compare(find_runs([runs])[0])
        return verdict(comparison)

    return judge


def test_best_alike_and_worse(judged):
    """The best variant comes first, then what cannot be told apart from it, then what is worse and by how much."""
    sentences = judged(relu=[90, 92], tanh=[89, 92.5], leaky=[80.1, 82])
    assert sentences[0].startswith("relu is best: test accuracy 91.00 ± ")
    assert sentences[0].endswith(" % over 2 seeds.")
    assert sentences[1:] == ["The runs cannot tell it apart from tanh.", f"Worse: {LEAKY} (by 9.95 points)."]


def test_what_learned_with_some_seeds_only(judged):
    """A variant that did not learn with every seed is said to, and one that learned with none."""
    sentences = judged(relu=[90, 92], tanh=[93, None], leaky=[None, None])
    assert sentences[0].startswith("relu is best")
    assert f"{LEAKY} did not start to learn." in sentences
    assert "tanh started to learn with 1 of 2 seeds: its numbers are over the seeds with which it did." in sentences


def test_nothing_learned(judged):
    """If nothing learned, no variant is best."""
    assert judged(relu=[None, None], tanh=[None, None]) == [
        "No variant started to learn.",
        "relu and tanh did not start to learn.",
    ]


def test_one_seed(judged):
    """With one seed a number has no interval and the order proves nothing."""
    sentences = judged(relu=[90], tanh=[80])
    assert sentences[0] == "relu is best: test accuracy 90.00 %."
    assert sentences[-1] == "With one seed this proves nothing: another seed can turn the order round."


def test_one_run(judged):
    """A run alone is told as what it is."""
    assert judged(relu=[90]) == [
        "relu reaches a test accuracy of 90.00 %.",
        "This is one run: another seed gives another number.",
    ]
