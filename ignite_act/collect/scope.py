"""Which forwards belong to a window: those of the highest kind that there is."""

from __future__ import annotations

import torch
from torch import nn

NOTHING_YET = -1


def forward_kind(module: nn.Module) -> int:
    """How much a forward counts: 3 for training with gradients, 2 for training without, 1 and 0 for evaluation.

    Whether it is training is read off the modules that have no submodules: a container may be in a mode that nobody
    has set, and a network that is trained may have parts in evaluation mode.

    Args:
        module: the outermost module that is called.
    """
    return 2 * is_training(module) + torch.is_grad_enabled()


def is_training(module: nn.Module) -> bool:
    """Whether any module without submodules, of a module, is in training mode.

    >>> model = nn.ModuleDict({"net": nn.Linear(2, 2).eval()})
    >>> model.training, is_training(model)
    (True, False)
    """
    leaves = (part for part in module.modules() if next(part.children(), None) is None)
    return any(leaf.training for leaf in leaves)


class Precedence:
    """Keeps forwards of different kinds apart: a window holds those of one kind, the highest that came.

    Training goes before evaluation, and forwards with gradients before those without: a window with training steps in
    it holds no evaluation, and no generation of samples without gradients.
    """

    def __init__(self) -> None:
        self.kind = NOTHING_YET

    def admits(self, kind: int) -> bool:
        """Whether a forward of this kind belongs to the window."""
        return kind >= self.kind

    def replaces(self, kind: int) -> bool:
        """Whether a forward of this kind drops what the window holds of lower ones; from now on it is the highest."""
        higher = kind > self.kind
        if higher:
            self.kind = kind
        return higher
