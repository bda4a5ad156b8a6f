from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from ignite_act.collect import GradientCollector, UpdateCollector
from ignite_act.testing import FunctionalMLP, batches


class Decaying(SGD):
    """Does something of its own before the step of its base class."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)
        return super().step(closure)


def test_a_step_that_calls_that_of_its_base_class_is_one_step() -> None:
    """``super().step()`` runs the hooks of all optimizers once more: the step is one, from its beginning to its end."""
    torch.manual_seed(0)
    model, other = FunctionalMLP(), nn.Linear(2, 2)
    SGD(other.parameters(), lr=0.1)  # torch puts its hooks around the base class with the first instance
    optimizer = Decaying(model.parameters(), lr=0.01)
    ratios = []
    with GradientCollector(model) as gradients, UpdateCollector(model) as updates:
        for x, y in batches(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            before = copy.deepcopy(model.fc1.weight.detach())
            optimizer.step()
            ratios.append(((model.fc1.weight - before).abs().mean() / before.abs().mean()).item())
        row, steps = updates.finish()["fc1"], gradients.finish()["fc1"]["steps"]
    assert (steps, row["present"], row["steps"]) == (4, 4, 3)
    assert abs(row["ratio"] - (ratios[0] + ratios[1] + ratios[3]) / 3) < 1e-6
