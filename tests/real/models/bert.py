"""An encoder as transformers writes it: keyword arguments, a padding mask, a pooler, an output dataclass."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case, adamw


@dataclass
class ModelOutput(OrderedDict[str, Tensor]):
    """As transformers has it: a dataclass and a dict at once."""

    last_hidden_state: Tensor
    pooler_output: Tensor
    logits: Tensor

    def __post_init__(self) -> None:
        for field in fields(self):
            self[field.name] = getattr(self, field.name)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.intermediate, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.intermediate_act_fn = F.gelu

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)
        x = self.norms[0](x + attended)
        return self.norms[1](x + self.output(self.intermediate_act_fn(self.intermediate(x))))


class Pooler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.activation = nn.Linear(width, width), nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states[:, 0]))


class Bert(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {"word": nn.Embedding(23, width, padding_idx=0), "position": nn.Embedding(9, width)}
        )
        self.encoder = nn.ModuleList(Layer(width) for _ in range(2))
        self.pooler, self.dropout, self.classifier = Pooler(width), nn.Dropout(0.1), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        x = self.embeddings["word"](input_ids) + self.embeddings["position"](torch.arange(input_ids.size(1)))
        for layer in self.encoder:
            x = layer(x, attention_mask == 0)
        pooled = self.pooler(x)
        return ModelOutput(x, pooled, self.classifier(self.dropout(pooled)))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = torch.randint(1, 23, (6, 9), generator=generator)
    lengths = torch.randint(3, 10, (6, 1), generator=generator)
    mask = (torch.arange(9) < lengths).long()
    return (), {"input_ids": ids * mask, "attention_mask": mask}


def _loss(output: ModelOutput, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(output.logits, torch.arange(6) % 3)


CASE = Case("bert", Bert, _batch, _loss, optimizer=adamw)
