"""One function a kind of finding: history -> findings."""

from ignite_act.findings.rule import Rule
from ignite_act.findings.rules.numbers import exploding, nonfinite
from ignite_act.findings.rules.outcome import labels_mismatch, oscillation, over_regularised, overfitting, plateau
from ignite_act.findings.rules.start import initial_loss, input_scale
from ignite_act.findings.rules.steps import update_too_large, update_too_small, vanishing_gradient
from ignite_act.findings.rules.units import dead_units, saturated_units
from ignite_act.findings.rules.wiring import (
    constant_output,
    hidden_softmax,
    loss_rising,
    never_updated,
    no_gradient,
    no_nonlinearity,
    output_activation,
    output_probabilities,
    symmetry,
    uncleared_gradient,
    weight_collapse,
)

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        constant_output,
        dead_units,
        exploding,
        hidden_softmax,
        initial_loss,
        input_scale,
        labels_mismatch,
        loss_rising,
        never_updated,
        no_gradient,
        no_nonlinearity,
        nonfinite,
        oscillation,
        output_activation,
        output_probabilities,
        over_regularised,
        overfitting,
        plateau,
        saturated_units,
        symmetry,
        uncleared_gradient,
        update_too_large,
        update_too_small,
        vanishing_gradient,
        weight_collapse,
    )
}
"""Kind -> the rule that finds it."""

__all__ = ["RULES"]
