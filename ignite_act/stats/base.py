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


def on_device(numbers: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Plain numbers as a tensor on a device, without waiting for it as ``torch.tensor(..., device=)`` does."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


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

    def follow(self, device: torch.device) -> None:
        """Moves the state to where the values are: a model may be moved, and what was restored is on the CPU."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                doubles = value.dtype == torch.float64
                setattr(self, name, value.to(device, accumulator_dtype(device) if doubles else value.dtype))
            elif isinstance(value, Statistic):
                value.follow(device)
