"""A model as transformers writes it, called with its labels: it returns its loss first, then what it was made of."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case, adamw


class SwiGLU(nn.Module):
    """The feed-forward of LLaMA."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, 20, bias=False), nn.Linear(width, 20, bias=False)
        self.down_proj, self.act_fn = nn.Linear(20, width, bias=False), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class ForSequenceClassification(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(17, 8)
        self.norms = nn.ModuleList(nn.RMSNorm(8) for _ in range(2))
        self.mlps = nn.ModuleList(SwiGLU(8) for _ in range(2))
        self.score = nn.Linear(8, 3, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        states = [self.embed_tokens(input_ids)]
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            states.append(states[-1] + mlp(norm(states[-1])))
        logits = self.score(states[-1].mean(1))
        loss = () if labels is None else (F.cross_entropy(logits, labels, ignore_index=-100),)
        return (*loss, logits, tuple(states))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = torch.randint(17, (8, 6), generator=generator)
    return (ids,), {"labels": (ids[:, 0] % 3).masked_fill(ids[:, 1] < 4, -100)}


def _loss(output: tuple[Any, ...], args: tuple[Any, ...]) -> Tensor:
    return output[0]


CASE = Case("loss first", ForSequenceClassification, _batch, _loss, optimizer=adamw)
