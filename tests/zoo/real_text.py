"""Healthy runs of the real part of the zoo on tokens."""

from __future__ import annotations

from zoo.base import Case
from zoo.real_base import healthy
from zoo.real_text_runs import (
    bert_classes,
    bert_fine_tuned,
    bert_masked,
    bert_probe,
    experts,
    gpt,
    gpt_autocast,
    gpt_one_epoch,
    gru_tags,
    lora,
    lstm_language,
    lstm_reviews,
    towers,
    translator,
)

CASES: tuple[Case, ...] = (
    healthy("text_gpt", gpt),
    healthy("text_gpt_autocast", gpt_autocast),
    healthy("text_gpt_one_epoch", gpt_one_epoch, epochs=1),
    healthy("text_bert_masked", bert_masked, epochs=6),
    healthy("text_bert_classes", bert_classes, epochs=6),
    healthy("text_bert_fine_tuned", bert_fine_tuned, epochs=4),
    healthy("text_bert_probe", bert_probe),
    healthy("text_lora", lora),
    healthy("text_lstm_reviews", lstm_reviews),
    healthy("text_gru_tags", gru_tags),
    healthy("text_translator", translator, epochs=8),
    healthy("text_experts", experts, epochs=6),
    healthy("text_towers", towers, epochs=6),
    healthy("text_lstm_language", lstm_language),
)
