"""What all statistics share: a state that can be stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """``float64``, or ``float32`` on devices that have no doubles (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


class Statistic(ABC):
    """A stream accumulator whose state is the attributes named in ``_state``."""

    _state: tuple[str, ...] = ()

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Takes in the stream that another statistic of the same kind has seen."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors (copies on the CPU) and plain numbers."""
        values = {name: getattr(self, name) for name in self._state}
        return {name: value.cpu().clone() if isinstance(value, Tensor) else value for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; tensors go to this statistic's device.

        Raises:
            KeyError: if something is missing.
        """
        for name in self._state:
            value, mine = state[name], getattr(self, name)
            if isinstance(value, Tensor):
                value = value.to(mine.device, copy=True)
            setattr(self, name, value)
