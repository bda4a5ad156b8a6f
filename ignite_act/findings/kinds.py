"""What a finding can be about: names for people, and where on the page its evidence is drawn."""

from __future__ import annotations

from typing import Literal, NamedTuple

Figure = Literal["learning", "gradients", "depth", "dead", "distributions", "updates", "none"]
"""Anchors of the page's figures."""


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        title: what is wrong, in a few words.
        figure: the figure of the page that shows the evidence; ``"none"`` where there is none.
    """

    title: str
    figure: Figure


KINDS: dict[str, Kind] = {
    "never_updated": Kind("a layer that is never updated", "gradients"),
    "no_gradient": Kind("a layer gets no gradient", "gradients"),
    "uncleared_gradient": Kind("gradients are not cleared between steps", "gradients"),
    "loss_rising": Kind("the loss is maximised", "learning"),
    "output_probabilities": Kind("probabilities and logits are mixed up", "learning"),
    "output_activation": Kind("an activation function on the logits", "distributions"),
    "hidden_softmax": Kind("a softmax between two layers", "gradients"),
    "symmetry": Kind("units with equal weights", "gradients"),
    "input_scale": Kind("inputs on an unusual scale", "distributions"),
    "nonfinite": Kind("NaN or infinite numbers", "gradients"),
    "no_nonlinearity": Kind("no activation function between the layers", "none"),
    "weight_collapse": Kind("weights shrink to nothing", "updates"),
    "exploding": Kind("the signal or its gradient explodes", "gradients"),
    "initial_loss": Kind("the loss starts far above chance", "learning"),
    "update_too_large": Kind("updates too large", "updates"),
    "saturated_units": Kind("saturated neurons", "distributions"),
    "vanishing_gradient": Kind("the gradient vanishes on its way back", "depth"),
    "dead_units": Kind("dead neurons", "dead"),
    "constant_output": Kind("the output does not depend on the input", "learning"),
    "update_too_small": Kind("updates too small", "updates"),
    "oscillation": Kind("the loss oscillates", "learning"),
    "over_regularised": Kind("the network is regularised too much", "learning"),
    "overfitting": Kind("overfitting", "learning"),
    "labels_mismatch": Kind("labels that do not belong to the inputs", "learning"),
    "plateau": Kind("the network never did better than a constant", "learning"),
}
"""Every kind by its identifier, causes before their consequences."""
