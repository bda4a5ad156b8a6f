"""Every number that decides whether something is a finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Where a measured value begins to be a finding.

    Numbers without another source lie between the healthy and the faulty runs of the zoo in our tests, without its
    last part.

    Attributes:
        stalled: less progress than this share of the way from the loss of a constant prediction to 0 is none.
        learned: more than this share is learning.
        much_worse: a loss so far above that of a constant prediction, as a share of it, is no noise of small batches.
        vanishing_ratio: strongest backward signal of the first layers over that of the last layer, where nothing is
            learned (AUTOTRAINER, Zhang et al., ICSE 2021, takes 1e-3 for gradients of weights); 34 healthy real models
            had at least 0.015, eight layers of sigmoid that never learn have up to 1.2e-3.
        exploding_growth: of a layer's mean gradient or of the loss, over its start; TheDeepChecker (Ben Braiek and
            Khomh 2023) takes a doubling, AUTOTRAINER a ratio of 70 between layers.
        exploding_ratio: backward signal of a layer over that of the last layer, where nothing is learned (AUTOTRAINER
            takes the same for gradients of weights).
        exploding_signal: largest output of the last layer over that of the first, before the first step.
        dead_info, dead_warning: share of a site's units; SageMaker Debugger and TheDeepChecker take 50 %, healthy
            networks had up to 33 %.
        saturated_units: share of a site's units that are saturated on more than 99 % of the samples;
            TheDeepChecker takes 50 %.
        saturated_values: share of a site's values in the first epoch.
        equal_rows: share of a weight's rows that equal another one.
        collapsed: mean absolute weight over its start.
        update_small_stalled: update ratio of the fastest layer, where the loss does not move either.
        update_small, update_large: update ratio of the fastest layer, in the first half of the training or its last
            epoch, and of the median one, in the first half; both only where little is learned. About 1e-3 is the usual
            rule (Karpathy, CS231n notes), TheDeepChecker takes 1e-4 .. 1e-1.
        input_std, input_max: of the first inputs, which should be about 1 (LeCun et al., Efficient BackProp, 1998).
        input_offset: mean over standard deviation.
        input_tiny: standard deviation.
        initial_loss: first loss over that of a constant prediction, log C (Karpathy, recipe for training neural
            networks, 2019; TheDeepChecker).
        constant_output: largest standard deviation of an output over the samples, over the largest output.
        nearly_constant: the same, of a network that does no better than a constant prediction.
        collapsed_output: the same, where the loss is not known.
        target_scale: standard deviation of the targets over that of the first outputs, where nothing is learned.
        grown_outputs: largest output over that of the first forward, where the loss falls.
        collapsed_spread: variance of the directions of outputs that are normalised; healthy embeddings have 0.1 to 1.
        latent_nats: information of drawn latents about their sample; healthy autoencoders have more than 1.
        few_values: values of a channel that batch norm takes a mean over: of two, only the sign is left.
        overfit_rise: validation loss over its minimum.
        overfit_gap: training accuracy minus validation accuracy that is enough without a rise; with one, half of it.
        underfit_gap: validation accuracy minus training accuracy; a third of it while the training loss is at chance.
        dropout: rate of a dropout layer, where little is learned; usual are 0.2 to 0.5 (Srivastava et al. 2014).
        oscillation: standard deviation of the loss over its mean, within epochs; mean absolute change of the validation
            loss from epoch to epoch over its mean.
        sorted_targets: entropy of the targets within a step over that of all.
        chance: accuracy above that of a constant prediction that is no more than chance.
        accurate: accuracy above that of a constant prediction with which a high loss is that of a few sure mistakes.
        improving: share of the validation loss by which it falls within the patience, where it goes on falling.
        patience: epochs over which a trend must hold.
    """

    stalled: float = 0.05
    learned: float = 0.1
    much_worse: float = 0.5
    vanishing_ratio: float = 3e-3
    exploding_growth: float = 20.0
    exploding_signal: float = 100.0
    exploding_ratio: float = 70.0
    dead_info: float = 0.1
    dead_warning: float = 0.5
    saturated_units: float = 0.5
    saturated_values: float = 0.6
    equal_rows: float = 0.5
    collapsed: float = 0.1
    update_small: float = 1e-4
    update_small_stalled: float = 5e-4
    update_large: float = 0.1
    input_std: float = 10.0
    input_max: float = 50.0
    input_offset: float = 10.0
    input_tiny: float = 1e-2
    initial_loss: float = 2.5
    constant_output: float = 1e-5
    nearly_constant: float = 1e-2
    collapsed_output: float = 2e-3
    target_scale: float = 30.0
    grown_outputs: float = 300.0
    collapsed_spread: float = 0.01
    latent_nats: float = 0.1
    few_values: int = 4
    overfit_rise: float = 1.15
    overfit_gap: float = 0.12
    underfit_gap: float = 0.36
    dropout: float = 0.8
    oscillation: float = 0.25
    sorted_targets: float = 0.5
    chance: float = 0.05
    accurate: float = 0.3
    improving: float = 0.02
    patience: int = 3
