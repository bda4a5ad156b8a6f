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
        meaning: what is said to be so.
        needs: what must be seen of a training; where it is not, nothing is said.
    """

    title: str
    figure: Figure
    meaning: str
    needs: str


KINDS: dict[str, Kind] = {
    "never_updated": Kind(
        "a layer that is never updated",
        "gradients",
        "a trainable weight has a gradient and stays what it was, or the model has not registered it",
        "gradients and weights at the ends of a window; a step of an optimizer",
    ),
    "no_gradient": Kind(
        "a layer gets no gradient",
        "gradients",
        "a trainable weight gets no gradient, or one that is exactly 0, in every step",
        "the steps of an optimizer",
    ),
    "uncleared_gradient": Kind(
        "gradients are not cleared between steps",
        "gradients",
        "the gradients of the last step are still there when the next backward begins",
        "sampled steps of an optimizer",
    ),
    "loss_rising": Kind(
        "the loss is maximised",
        "learning",
        "the steps go away from the targets, or up along the gradient, or the loss only rises",
        "a loss that is known, or one on validation samples",
    ),
    "output_probabilities": Kind(
        "probabilities and logits are mixed up",
        "learning",
        "probabilities go into a loss of logits, or logits into one of log-probabilities",
        "the graph of the loss, or the gradient at the model's output",
    ),
    "output_activation": Kind(
        "an activation function on the logits",
        "distributions",
        "an activation function cuts off outputs that the loss needs",
        "the gradient at the model's output, by which the loss is known",
    ),
    "hidden_softmax": Kind(
        "a softmax between two layers",
        "gradients",
        "a softmax feeds a layer: its outputs compete and are small",
        "calls of layers, not in compiled code",
    ),
    "symmetry": Kind(
        "units with equal weights",
        "gradients",
        "units of a layer begin equal, get equal gradients and stay equal",
        "the weights before the first step",
    ),
    "input_scale": Kind(
        "inputs on an unusual scale",
        "distributions",
        "inputs far from a mean of 0 and a deviation of 1",
        "inputs that are numbers, from the first step on",
    ),
    "nonfinite": Kind(
        "NaN or infinite numbers",
        "gradients",
        "the first NaN or infinity: its iteration, and where it arose",
        "nothing; where it arose is known on the CPU",
    ),
    "no_nonlinearity": Kind(
        "no activation function between the layers",
        "none",
        "two layers or more and no activation function between them",
        "calls of activation functions, not in compiled code",
    ),
    "weight_collapse": Kind(
        "weights shrink to nothing",
        "updates",
        "weights have shrunk to a tenth or less while the network learns nothing or gets worse",
        "the weights from the first step on; a loss that is known",
    ),
    "exploding": Kind(
        "the signal or its gradient explodes",
        "gradients",
        "the signal, its gradient or the loss grows many times over",
        "the outputs of layers from the first step on; a loss that is known",
    ),
    "initial_loss": Kind(
        "the loss starts far above chance",
        "learning",
        "the first loss is far above that of a constant prediction, or the targets are far from the outputs",
        "a loss, from the first step on",
    ),
    "update_too_large": Kind(
        "updates too large",
        "updates",
        "steps change the weights by a large part of themselves, and the loss does not bear it",
        "sampled steps of an optimizer; a loss",
    ),
    "saturated_units": Kind(
        "saturated neurons",
        "distributions",
        "units are always near a flat end, or attention looks at one key from the beginning",
        "calls of activation functions; the graph of a forward",
    ),
    "vanishing_gradient": Kind(
        "the gradient vanishes on its way back",
        "depth",
        "next to nothing of what sets out at the last layer comes back to the first ones, and nothing is learned",
        "the gradients at the outputs of layers, not in compiled code; a loss",
    ),
    "dead_units": Kind(
        "dead neurons",
        "dead",
        "units whose derivative was exactly 0 on every sample",
        "calls of activation functions with a flat piece",
    ),
    "constant_output": Kind(
        "the output does not depend on the input",
        "learning",
        "the output is the same for all samples, vectors point all the same way, or latents are noise",
        "the model's output",
    ),
    "update_too_small": Kind(
        "updates too small",
        "updates",
        "steps hardly change any weight, and much is left to learn",
        "sampled steps of an optimizer; a loss",
    ),
    "oscillation": Kind(
        "the loss oscillates",
        "learning",
        "the loss swings and comes no further, the samples come sorted, or batch norm sees only two",
        "a loss that is known, over several epochs",
    ),
    "over_regularised": Kind(
        "the network is regularised too much",
        "learning",
        "training scores stay far below validation scores, or dropout leaves nothing",
        "accuracies of both splits, or a dropout module",
    ),
    "overfitting": Kind(
        "overfitting",
        "learning",
        "the validation loss rises while the training loss falls far below it",
        "an evaluator with `loss`, over several epochs",
    ),
    "labels_mismatch": Kind(
        "labels that do not belong to the inputs",
        "learning",
        "the labels do not belong to their inputs, are the same for all, or all pairs are compared",
        "a loss; an evaluator",
    ),
    "plateau": Kind(
        "the network never did better than a constant",
        "learning",
        "the run is over and never did better than a constant prediction",
        "a loss that is known, or one on validation samples",
    ),
}
"""Every kind by its identifier, causes before their consequences."""
