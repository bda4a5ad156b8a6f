"""What the processes of a data-parallel run have measured, brought together."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def several() -> bool:
    """Whether ``torch.distributed`` runs with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(state: Any) -> list[Any]:
    """The states of all processes, in the order of their ranks: a collective call.

    Raises:
        RuntimeError: if a process cannot be reached.
    """
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states
