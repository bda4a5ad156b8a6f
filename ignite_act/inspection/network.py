"""The gradients, the activations and the dead neurons of any network, as plain numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.collect import ActivationCollector, Coverage, DeadUnitCollector
from ignite_act.collect.names import clean, unwrap
from ignite_act.collect.sites import SiteCollector
from ignite_act.report import Rows, gradient_ratio, over_sites, with_coarse_histogram
from ignite_act.stats import Distribution
from ignite_act.stats.base import accumulator_dtype

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs and targets, on the device of the model."""


@dataclass(frozen=True)
class Inspection:
    """What was measured of one network, as plain numbers; None where there is no finite value.

    Attributes:
        loss: mean loss of the samples of the gradients, in training mode; None without samples.
        gradients: layer -> distribution of the elements of dL/dW: ``count, mean, std, min, max, mean_abs,
            zero_fraction, nonfinite, edges`` (B + 1), ``counts`` (B). Everything but the count is over the finite
            elements; ``zero_fraction`` is of all.
        activations: site -> a row of `ActivationStats.result`.
        dead_neurons: site -> ``dead, units, fraction, indices``.
        samples: quantity -> number of samples that it was measured on.
        coverage: quantity -> what was seen and what not, with the reason.
    """

    loss: float | None
    gradients: Rows
    activations: Rows
    dead_neurons: Rows
    samples: Mapping[str, int]
    coverage: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON, the histograms with four bins per octave as in a report."""
        coarse = {
            name: {key: with_coarse_histogram(row) for key, row in getattr(self, name).items()}
            for name in ("gradients", "activations")
        }
        return {**vars(self), **coarse}

    @property
    def gradient_ratio(self) -> float | None:
        """Mean absolute gradient of the first layer over that of the last; None if there are not two."""
        return gradient_ratio(self.gradients)

    @property
    def dead(self) -> int:
        """Dead units of all sites together."""
        return over_sites(self.dead_neurons, "dead")

    @property
    def units(self) -> int:
        """Units of all sites together."""
        return over_sites(self.dead_neurons, "units")


def inspect_network(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    gradients: Batches,
    activations: Batches,
    dead_neurons: Batches,
) -> Inspection:
    """Measures a network as it is.

    Activations and dead neurons are those of evaluation mode: batch norm uses its running statistics (in a network
    that was never trained those are 0 and 1, so that it does nothing), dropout is off. The gradients are those of
    training mode: batch norm uses the statistics of each batch, dropout and random slopes draw from torch's random
    state as it is. Half precision is not used.

    What is measured is a deep copy, and torch's random state is set back: nothing is left on the model.

    Args:
        model: gives for inputs ``(N, ...)`` what ``loss_fn`` takes.
        loss_fn: mean loss of outputs and targets.
        gradients: batches for the gradients. The gradient of several batches is that of their mean loss, every sample
            weighing the same.
        activations: batches for the distribution of the activations.
        dead_neurons: batches on all of whose samples a unit must be without slope to be called dead.

    Returns:
        The numbers.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
        model = copy.deepcopy(unwrap(model)).eval()
        distributions, seen_by, samples = _watch(ActivationCollector(model), activations)
        dead, dead_seen_by, dead_samples = _watch(DeadUnitCollector(model), dead_neurons)
        rows, coverage, loss, gradient_samples = _gradients(model.train(), loss_fn, gradients)  # changes batch norm
    return Inspection(
        loss=loss,
        gradients=rows,
        activations=distributions,
        dead_neurons={
            name: {key: row[key] for key in ("dead", "units", "fraction", "indices")} for name, row in dead.items()
        },
        samples={"gradients": gradient_samples, "activations": samples, "dead_neurons": dead_samples},
        coverage={
            "gradients": coverage.to_dict(),
            "activations": seen_by.to_dict(),
            "dead_neurons": dead_seen_by.to_dict(),
        },
    )


def _watch(collector: SiteCollector[Any], batches: Batches) -> tuple[dict[str, dict[str, Any]], Coverage, int]:
    """The rows of a collector over some batches, its coverage, and the number of samples."""
    samples = 0
    with torch.no_grad(), collector:
        for x, _ in batches:
            collector.model(x)
            samples += len(x)
        rows = collector.finish(sync=False)
    return {name: _plain(row) for name, row in rows.items()}, collector.coverage, samples


def _gradients(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], batches: Batches
) -> tuple[dict[str, dict[str, Any]], Coverage, float | None, int]:
    """Layer -> row, the coverage, the mean loss and the number of samples."""
    weights = {
        clean(name).removesuffix(".weight"): weight for name, weight in model.named_parameters() if weight.ndim > 1
    }
    trainable = {name: weight for name, weight in weights.items() if weight.requires_grad}
    means: dict[str, Tensor] = {}
    mean_loss, samples = 0.0, 0
    for x, y in batches:
        loss = loss_fn(model(x), y)
        samples += len(x)
        share = len(x) / samples
        mean_loss += (loss.item() - mean_loss) * share
        found = _of_one_batch(loss, trainable)
        means = {name: _averaged(means.get(name), found.get(name), share) for name in {**means, **found}}
    unseen = {name: _why_unseen(weight) for name, weight in weights.items() if name not in means}
    rows = {name: _gradient_row(means[name]) for name in weights if name in means}
    return rows, Coverage(tuple(rows), unseen), mean_loss if samples and math.isfinite(mean_loss) else None, samples


def _of_one_batch(loss: Tensor, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Name -> dL/dW, dense; a weight that the loss does not depend on has none."""
    if not weights or not loss.requires_grad:
        return {}
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    real = {name: own for name, own in zip(weights, found, strict=True) if own is not None and not own.is_complex()}
    return {name: own if own.layout == torch.strided else own.to_dense() for name, own in real.items()}


def _averaged(mean: Tensor | None, gradient: Tensor | None, share: float) -> Tensor:
    """The mean with a share of it replaced by a gradient; of two, the one that is None is zero."""
    known = mean if gradient is None else gradient
    zero = torch.zeros_like(known)  # type: ignore[arg-type]
    return torch.lerp(zero if mean is None else mean, zero if gradient is None else gradient, share)


def _gradient_row(gradient: Tensor) -> dict[str, Any]:
    distribution = Distribution(gradient.dtype, gradient.device)
    distribution.update(gradient)
    numbers = {name: value for name, value in distribution.compute().items() if name != "saturated_fraction"}
    finite = gradient[torch.isfinite(gradient)]
    mean_abs = float(finite.abs().mean(dtype=accumulator_dtype(gradient.device)))
    return _plain({**numbers, "mean_abs": mean_abs})


def _why_unseen(weight: nn.Parameter) -> str:
    if not weight.requires_grad:
        return "it is frozen (requires_grad is False)"
    return "its gradient is complex" if weight.is_complex() else "the loss does not depend on it"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without the note on cut windows, with None for what is not finite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
        if name != "partial"
    }
