"""Numbers on their way from a device to the host, without waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


class Arrival:
    """A copy of a tensor that the host may read once it is there.

    Args:
        tensor: of a few numbers; what is done to it later does not change the copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True, copy=True)
        self._event = None
        if tensor.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
        self._must_wait = not (tensor.is_cuda or tensor.is_cpu)

    @property
    def is_there(self) -> bool:
        """Whether the numbers can be read without waiting."""
        return not self._must_wait and (self._event is None or self._event.query())

    def values(self) -> list[float]:
        """The numbers; waits for the device if they are not there."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy.tolist()
