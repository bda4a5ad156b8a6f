"""The trainings on text of the exam half of the real part of the zoo: healthy ones, and each with single mistakes."""

from __future__ import annotations

from functools import partial

from zoo import exam_text_heard
from zoo.base import Case
from zoo.exam_text_runs import decoder, encoders, low_rank, masked, one_epoch, tagger, translator
from zoo.real_base import faulty, healthy

CASES: tuple[Case, ...] = (
    healthy("x_decoder", decoder),
    faulty("x_decoder", "softmax", "output_probabilities", partial(decoder, mistake="softmax")),
    faulty("x_decoder", "other_targets", "labels_mismatch", partial(decoder, mistake="other_targets"), "plateau"),
    faulty(
        "x_decoder", "epochs_as_steps", "never_updated", partial(decoder, mistake="epochs_as_steps"), "update_too_small"
    ),
    faulty(
        "x_decoder", "large_rate", "update_too_large", partial(decoder, lr=0.5), "oscillation", "plateau", "exploding"
    ),
    healthy("x_one_epoch", one_epoch, epochs=1),
    faulty(
        "x_one_epoch",
        "large_embedding",
        "initial_loss",
        partial(one_epoch, mistake="large_embedding"),
        "exploding",
        epochs=1,
    ),
    faulty("x_one_epoch", "decay_in_adam", "weight_collapse", partial(one_epoch, mistake="decay_in_adam"), epochs=1),
    faulty("x_one_epoch", "tanh_logits", "output_activation", partial(one_epoch, mistake="tanh_logits"), epochs=1),
    healthy("x_low_rank", low_rank),
    faulty("x_low_rank", "zero_factors", "no_gradient", partial(low_rank, mistake="zero_factors"), "symmetry"),
    faulty("x_low_rank", "optimizer_before", "never_updated", partial(low_rank, mistake="optimizer_before")),
    healthy("x_translator", translator),
    faulty(
        "x_translator",
        "attention_scale",
        "saturated_units",
        partial(translator, mistake="attention_scale"),
        layers=("look*", "read", "read.*", "write*"),
    ),
    faulty("x_translator", "memory", "constant_output", partial(translator, mistake="memory_of_batch")),
    healthy("x_masked", masked, epochs=6),
    faulty(
        "x_masked",
        "in_place",
        "labels_mismatch",
        partial(masked, mistake="masked_in_place"),
        "constant_output",
        epochs=6,
    ),
    faulty("x_masked", "large_spread", "initial_loss", partial(masked, mistake="large_spread"), epochs=6),
    faulty("x_masked", "adam_decay", "weight_collapse", partial(masked, mistake="adam_decay"), epochs=6),
    healthy("x_encoders", encoders),
    faulty("x_encoders", "unpaired", "labels_mismatch", partial(encoders, mistake="unpaired")),
    faulty("x_encoders", "inverted_mask", "constant_output", partial(encoders, mistake="inverted_mask"), "no_gradient"),
    faulty("x_encoders", "only_positives", "constant_output", partial(encoders, mistake="only_positives")),
    healthy("x_tagger", tagger),
    faulty("x_tagger", "decay_every_step", "update_too_small", partial(tagger, mistake="decay_every_step")),
    faulty("x_tagger", "small_rate", "update_too_small", partial(tagger, mistake="small_rate")),
    faulty("x_tagger", "dropout", "over_regularised", partial(tagger, mistake="dropout")),
    *exam_text_heard.CASES,
)
