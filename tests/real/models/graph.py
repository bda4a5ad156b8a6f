"""A graph network as PyTorch Geometric has it: messages added up with index_add, labels on some nodes only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class MessagePassing(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin_l, self.lin_r = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        total = torch.zeros_like(x).index_add(0, target, x[source])
        degree = torch.zeros(len(x)).index_add(0, target, torch.ones(len(target)))
        return self.lin_l(total / (degree[:, None] + 1)) + self.lin_r(x)


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([MessagePassing(6, 24), MessagePassing(24, 24), MessagePassing(24, 3)])
        self.act = nn.PReLU(24)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.relu(self.convs[0](x, edge_index))
        x = self.act(self.convs[1](F.dropout(x, 0.3, self.training), edge_index))
        return self.convs[2](x, edge_index).log_softmax(dim=-1)


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(14, 6, generator=generator), torch.randint(14, (2, 40), generator=generator)), {}


def _loss(scores: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.nll_loss(scores[:5], torch.arange(5) % 3)


CASE = Case("graph network", GraphNet, _batch, _loss)
