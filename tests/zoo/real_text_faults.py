"""Runs of the real part of the zoo on tokens that have one mistake each."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.base import Case
from zoo.real_base import faulty
from zoo.real_text_runs import (
    bert_classes,
    bert_fine_tuned,
    bert_masked,
    bert_probe,
    gpt,
    gpt_one_epoch,
    gru_tags,
    lora,
    lstm_language,
    lstm_reviews,
    towers,
    translator,
)

CASES: tuple[Case, ...] = (
    faulty("text_gpt", "huge_rate", "update_too_large", partial(gpt, rate=0.3), "exploding", "oscillation", "plateau"),
    faulty("text_gpt", "wide_start", "initial_loss", partial(gpt, spread=1.0), "exploding", "saturated_units"),
    faulty("text_gpt_one_epoch", "plain_list", "never_updated", partial(gpt_one_epoch, registered=False), epochs=1),
    faulty(
        "text_gpt",
        "decay_inside",
        "weight_collapse",
        partial(gpt, coupled=True),
        "over_regularised",
        "constant_output",
        "plateau",
    ),
    faulty("text_gpt", "short_schedule", "update_too_small", partial(gpt, total=16), "never_updated", "plateau"),
    faulty(
        "text_gpt_one_epoch", "tiny_rate", "update_too_small", partial(gpt_one_epoch, rate=3e-6), "plateau", epochs=1
    ),
    faulty("text_bert_masked", "others_labels", "labels_mismatch", partial(bert_masked, shift=1), "plateau", epochs=6),
    faulty(
        "text_bert_classes",
        "inverted_mask",
        "constant_output",
        partial(bert_classes, inverted=True),
        "plateau",
        epochs=6,
    ),
    faulty(
        "text_bert_classes",
        "detached",
        "no_gradient",
        partial(bert_classes, detached=True),
        epochs=6,
        layers=("tokens", "places", "enter", "norm", "blocks.*"),
    ),
    faulty(
        "text_bert_classes",
        "loud_scores",
        "saturated_units",
        partial(bert_classes, scale=25.0),
        "exploding",
        "vanishing_gradient",
        epochs=6,
        layers=("blocks.*",),
    ),
    faulty("text_bert_classes", "dropout", "over_regularised", partial(bert_classes, dropout=0.9), "plateau", epochs=6),
    faulty("text_bert_classes", "few_texts", "overfitting", partial(bert_classes, texts=48), epochs=40),
    faulty(
        "text_bert_fine_tuned",
        "huge_rate",
        "update_too_large",
        partial(bert_fine_tuned, rate=0.1),
        "exploding",
        "plateau",
        "constant_output",
        epochs=4,
    ),
    faulty(
        "text_bert_probe",
        "schedule_per_sample",
        "update_too_small",
        partial(bert_probe, calls=100),
        "never_updated",
        "plateau",
    ),
    faulty("text_lora", "zeros_twice", "no_gradient", partial(lora, spread=0.0), "symmetry", layers=("blocks.*",)),
    faulty(
        "text_lstm_reviews",
        "sigmoid",
        "output_probabilities",
        partial(lstm_reviews, squashed=True),
        "output_activation",
        layers=("last", "head"),
    ),
    faulty(
        "text_lstm_reviews",
        "sorted_alone",
        "labels_mismatch",
        partial(lstm_reviews, sorted_alone=True),
        "plateau",
        "overfitting",
    ),
    faulty(
        "text_lstm_reviews",
        "loud_embedding",
        "saturated_units",
        partial(lstm_reviews, spread=300.0),
        "exploding",
        "vanishing_gradient",
        layers=("cell", "cell.*", "embed"),
    ),
    faulty("text_gru_tags", "raw_logits", "output_probabilities", partial(gru_tags, form=""), "exploding"),
    faulty(
        "text_gru_tags",
        "hidden_softmax",
        "hidden_softmax",
        lambda seed: gru_tags(seed, act=nn.Softmax(-1)),
        layers=("act",),
    ),
    faulty(
        "text_translator",
        "score_axis",
        "no_gradient",
        partial(translator, axis=2),
        "constant_output",
        epochs=8,
        layers=("attention", "attention.*"),
    ),
    faulty("text_translator", "softmax", "output_probabilities", partial(translator, probabilities=True), epochs=8),
    faulty(
        "text_towers",
        "first_answer",
        "labels_mismatch",
        partial(towers, first=True),
        "constant_output",
        "plateau",
        epochs=6,
    ),
    faulty("text_towers", "alone", "constant_output", partial(towers, alone=True), epochs=6),
    faulty("text_lstm_language", "ascends", "loss_rising", partial(lstm_language, ascends=True), "exploding"),
)
