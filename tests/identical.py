"""What has the same structure and the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def assert_identical(one: Any, other: Any, where: str = "") -> None:
    """The same structure and the same bits; NaN is NaN."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        one, other = (tensor.detach().reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), where
    elif isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_identical(left, right, f"{where}[{index}]")
    else:
        assert one == other, where
