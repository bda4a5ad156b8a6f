"""What a comparison says, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from ignite_act.compare import Comparison, Variant
from ignite_act.sinks.tables import percent


def verdict(comparison: Comparison) -> list[str]:
    """Which variant is best, which cannot be told apart from it, which are worse, what did not learn, what failed."""
    sentences = [
        _best(comparison),
        _alike(comparison),
        _worse(comparison),
        _idle(comparison),
        *map(_partly, comparison.variants),
        _one_seed(comparison),
    ]
    return [sentence for sentence in sentences if sentence]


def _best(comparison: Comparison) -> str:
    best = comparison.best
    if best is None or best.test_accuracy is None:
        return "No variant started to learn."
    accuracy = best.test_accuracy
    score = percent(accuracy.mean)
    if accuracy.high is not None:
        score = f"{100 * accuracy.mean:.2f} ± {100 * (accuracy.high - accuracy.mean):.2f} % over {accuracy.n} seeds"
    if len(comparison.variants) == 1:
        return f"{best.name} reaches a test accuracy of {score}."
    return f"{best.name} is best: test accuracy {score}."


def _alike(comparison: Comparison) -> str:
    names = [variant.name for variant in comparison.variants if variant.verdict == "not told apart"]
    return f"The runs cannot tell it apart from {_listed(names)}." if names else ""


def _worse(comparison: Comparison) -> str:
    named = [
        f"{variant.name} (by {-100 * variant.difference.mean:.2f} points)"
        for variant in comparison.variants
        if variant.verdict == "worse" and variant.difference is not None
    ]
    return f"Worse: {_listed(named)}." if named else ""


def _idle(comparison: Comparison) -> str:
    """What did not learn and what failed, with all seeds."""
    idle = [variant.name for variant in comparison.variants if variant.verdict == "did not start to learn"]
    failed = [variant.name for variant in comparison.variants if variant.verdict == "failed"]
    words = [f"{_listed(idle)} did not start to learn" if idle else "", f"{_listed(failed)} failed" if failed else ""]
    return "; ".join(word for word in words if word) + "." if idle or failed else ""


def _partly(variant: Variant) -> str:
    """Runs that are missing from a variant's numbers."""
    if not variant.learned or variant.learned == len(variant.runs):
        return ""
    failed = f", {variant.failed} failed" if variant.failed else ""
    return (
        f"{variant.name} started to learn with {variant.learned} of {len(variant.runs)} seeds{failed}: "
        "its numbers are over the seeds with which it did."
    )


def _one_seed(comparison: Comparison) -> str:
    if any(len(variant.runs) > 1 for variant in comparison.variants):
        return ""
    if len(comparison.variants) == 1:
        return "This is one run: another seed gives another number."
    return "With one seed this proves nothing: another seed can turn the order round."


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
