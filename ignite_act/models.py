"""The networks of the studies, in the styles that people write."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.activations import Parameter, get_activation, make_activation

Style = Literal["module", "shared", "functional"]


class MLP(nn.Module):
    """Linear layers with an activation function between them; inputs are flattened.

    Weights are drawn as plain PyTorch draws them, in the order of the layers, whatever the style.

    Args:
        in_features: numbers in a sample.
        hidden: widths of the hidden layers.
        out_features: number of outputs (logits).
        act: name of the activation function.
        parameters: its parameters.
        style: ``"module"`` (a module in every place), ``"shared"`` (one module in every place) or ``"functional"``
            (calls in ``forward``).

    Raises:
        ValueError: if the function does not exist, refuses the parameters or has no functional form.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        act: str = "relu",
        parameters: Mapping[str, Parameter] | None = None,
        style: Style = "module",
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        linear = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        self.activation_fn: Callable[[Tensor], Tensor] | None = None
        if style == "functional":
            self.activation_fn = _functional(act, parameters or {})
            self.layers: nn.Module = nn.ModuleList(linear)
            return
        make = _factory(act, parameters or {}, shared=style == "shared")
        between = [module for layer in linear[:-1] for module in (layer, make())]
        self.layers = nn.Sequential(*between, linear[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)`` of samples ``(N, ...)``."""
        x = x.flatten(1)
        if self.activation_fn is None:
            return self.layers(x)
        *hidden, last = self.layers.children()
        for layer in hidden:
            x = self.activation_fn(layer(x))
        return last(x)


class CNN(nn.Module):
    """Blocks of convolution, batch norm, activation and pooling, then one linear layer.

    Args:
        in_channels: channels of an image.
        channels: output channels of the blocks; each block halves the image.
        out_features: number of outputs (logits).
        act, parameters, style: see `MLP`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        out_features: int,
        act: str = "relu",
        parameters: Mapping[str, Parameter] | None = None,
        style: Style = "module",
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(*pair, kernel_size=3, padding=1, bias=False) for pair in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels)
        if style == "functional":
            call = _functional(act, parameters or {})
            self._calls: Sequence[Callable[[Tensor], Tensor]] = [call] * len(channels)
        else:
            make = _factory(act, parameters or {}, shared=style == "shared")
            self.acts = nn.ModuleList(make() for _ in channels)
            self._calls = []
        self.head = nn.Linear(widths[-1], out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)`` of images ``(N, C, H, W)``."""
        calls = self._calls or list(self.acts)
        for conv, norm, call in zip(self.convs, self.norms, calls, strict=True):
            x = call(norm(conv(x)))
            if min(x.shape[2:]) > 1:
                x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


def build_model(
    name: str,
    sample_shape: Sequence[int],
    hidden: Sequence[int],
    outputs: int,
    act: str,
    parameters: Mapping[str, Parameter],
    style: Style,
) -> nn.Module:
    """The network called ``"mlp"`` or ``"cnn"`` for samples of a shape."""
    if name == "cnn":
        return CNN(sample_shape[0], hidden, outputs, act, parameters, style)
    return MLP(math.prod(sample_shape), hidden, outputs, act, parameters, style)


def _factory(act: str, parameters: Mapping[str, Parameter], *, shared: bool) -> Callable[[], nn.Module]:
    if not shared:
        return lambda: make_activation(act, **parameters)
    only = make_activation(act, **parameters)
    return lambda: only


def _functional(act: str, parameters: Mapping[str, Parameter]) -> Callable[[Tensor], Tensor]:
    entry = get_activation(act)
    make_activation(act, **parameters)  # refuses what the function does not take
    function = entry.functional
    if function is None:
        raise ValueError(f"activation {entry.name!r} has no functional form; use --style module")
    return functools.partial(function, **parameters)
