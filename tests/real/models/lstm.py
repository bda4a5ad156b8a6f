"""A text classifier with an LSTM over packed sequences, as in PyTorch's tutorials."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from real.case import Case


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(19, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(24, 16), nn.LeakyReLU(0.1), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(packed)
        return self.head(torch.cat([hidden[-2], hidden[-1]], dim=1).tanh())


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randint(19, (5, 7), generator=generator), torch.randint(1, 8, (5,), generator=generator)), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, args[0][:, 0] % 4)


CASE = Case("lstm with packed sequences", Classifier, _batch, _loss, hidden=(nn.LSTM,), unseen=("lstm",))
