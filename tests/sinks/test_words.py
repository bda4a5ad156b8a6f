"""Findings in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ignite_act.findings.kinds import KINDS
from ignite_act.report import Finding
from ignite_act.sinks import words

Make = Callable[..., Finding]

HOSTILE = ["[bold]x[/bold]", "\x1b[31mred", "two\nlines", "<b>&amp;</b>", "\u202eback", "\ud800"]


def test_a_headline_says_what_where_since_when_and_how_much(make_finding: Make) -> None:
    """Severity, layer, what is wrong, since which epoch, the measured value beside its threshold."""
    evidence = {"quantity": "gradient layers.0 / layers.8", "value": 2.1e-5, "threshold": 0.001}
    finding = make_finding("vanishing_gradient", "error", "layers.0", 1, evidence=evidence)
    assert words.headline(finding) == (
        "ERROR layers.0: the gradient vanishes on its way back, since epoch 1 "
        "(gradient layers.0 / layers.8 is 2.1e-05, threshold 0.001)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words(make_finding: Make, kind: str) -> None:
    """A finding of any kind, with no single layer and no evidence, is one line with its title."""
    finding = make_finding(kind, layer=None, evidence={})
    assert words.headline(finding) == f"WARNING: {KINDS[kind].title}, since epoch 2"
    assert words.subject(finding) == KINDS[kind].title


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({"quantity": "loss", "value": math.nan, "threshold": None}, "loss is nan"),
        ({"quantity": "steps", "value": 12345, "threshold": 0.0123456}, "steps is 12345, threshold 0.0123"),
        ({"value": True}, "the measured value is yes"),
        ({"quantity": "range", "value": (0, -math.inf), "threshold": [1.0, 2.0]}, "range is 0, -inf, threshold 1, 2"),
        ({"quantity": "layer", "value": "fc1"}, "layer is fc1"),
        ({"quantity": "loss", "threshold": 1.0}, ""),
        ({"value": {"nested": 1}}, ""),
    ],
)
def test_evidence_may_be_incomplete(make_finding: Make, evidence: dict[str, Any], expected: str) -> None:
    """Numbers have three digits, missing parts are left out, what is no number and no word is not shown."""
    assert words.measurement(make_finding(evidence=evidence)) == expected


def test_what_else_belongs_to_the_evidence(make_finding: Make) -> None:
    """Other evidence is listed with its names; what cannot be said in a word is left out."""
    evidence = {
        "quantity": "q",
        "value": 1,
        "threshold": 2,
        "first_iteration": 7,
        "where": "forward",
        "x": {},
        "y": None,
    }
    assert words.details(make_finding(evidence=evidence)) == "first iteration 7, where forward"


def test_consequences_are_harm_and_advice(make_finding: Make) -> None:
    """Harm comes first, then a line for each thing to try; an empty harm has no line."""
    assert words.consequences(make_finding()) == ["no harm yet", "try: lower the learning rate", "try: take leakyrelu"]
    assert words.consequences(make_finding(harm="", advice=())) == []


def test_what_is_over_is_said_in_one_line(make_finding: Make) -> None:
    """The epoch, the layer if there is one, and what it was."""
    assert words.cleared(make_finding(cleared_epoch=7)) == "cleared in epoch 7: layers.1: dead neurons"
    assert words.cleared(make_finding("overfitting", layer=None, cleared_epoch=7)) == "cleared in epoch 7: overfitting"


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_outside_stay_in_one_line(make_finding: Make, text: str) -> None:
    """Names with line ends, escape sequences or markup are one printable line, markup as it is."""
    evidence = {"quantity": text, "value": text, "threshold": text, text: text}
    finding = make_finding(text, layer=text, evidence=evidence, harm=text, advice=(text,), cleared_epoch=3)
    lines = [words.headline(finding), *words.consequences(finding), words.cleared(finding), words.details(finding)]
    assert all(line.isprintable() for line in lines)
    if text.isprintable():
        assert all(text in line for line in lines)


@pytest.mark.parametrize(
    ("severities", "expected"),
    [
        ([], "none"),
        (["warning", "error", "error"], "2 errors, 1 warning"),
        (["info", "info", "error"], "1 error, 2 info"),
        (["cleared"], "none (1 cleared)"),
        (["warning", "cleared", "warning"], "2 warnings (1 cleared)"),
    ],
)
def test_findings_are_counted_by_severity(make_finding: Make, severities: list[str], expected: str) -> None:
    """The worst first; those that were cleared count apart."""
    findings = [
        make_finding(cleared_epoch=3) if severity == "cleared" else make_finding(severity=severity)
        for severity in severities
    ]
    assert words.counted(findings) == expected
