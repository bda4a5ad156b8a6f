"""Reports of runs that never were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ignite_act.report import EpochReport

Numbers = dict[str, Any]
Change = Callable[[Numbers], object]
LAYERS = ("fc1", "fc2", "fc3")
SITES = ("relu", "relu#2")
CONSTANT = math.log(10)


def healthy(epoch: int) -> Numbers:
    """The numbers of an epoch of a well-behaved run: ten classes, three layers, the loss falls from log 10."""
    loss = CONSTANT * 0.6**epoch
    course = [loss * (1 + 0.02 * (-1) ** i) for i in range(8)]
    signal = {"first_max_abs": 2.0, "mean_abs": 0.5, "max_abs": 3.0, "calls": 40, "nonfinite": 0}
    signal["first_nonfinite_iteration"] = None
    return {
        "epoch": epoch,
        "iteration": 40 * epoch,
        "scores": {
            "loss": {"validation": 1.05 * loss},
            "accuracy": {"validation": 1 - 0.6**epoch * 0.9, "train": 1 - 0.6**epoch * 0.9},
        },
        "gradients": {
            name: {"mean_abs": mean, "max_abs": 20 * mean, "nonfinite": 0, "steps": 40,
                   "first_nonfinite_iteration": None, "skipped_steps": 0, "partial": False}
            for name, mean in zip(LAYERS, (1e-3, 8e-4, 2e-3), strict=True)
        },
        "activations": {
            name: {"saturated_fraction": 0.4, "saturated_units": 0, "units": 32, "both_ends": False} for name in SITES
        },
        "dead_neurons": {
            name: {"dead": 1, "units": 32, "fraction": 1 / 32, "born": 0, "revived": 0} for name in SITES
        },
        "updates": {
            name: {"ratio": 5e-3, "first_ratio": 8e-3, "steps": 6, "weight_start": 0.05, "weight": 0.06, "missing": 0,
                   "present": 6, "nonzero": True, "moved": True, "uncleared": 0, "cleared": 6, "against": 0,
                   "equal_rows": 0.0,
                   "equal_rows_start": 0.0, "nonfinite": 0, "trainable": True, "owned": True, "stepped": True,
                   "learning_rate": 0.1, "gradient_left": True}
            for name in LAYERS
        },
        "signal": {
            "input": {**signal, "mean": 0.1, "std": 1.0, "continuous": True, "others": {}},
            **{name: {**signal, "backward": 0.1} for name in LAYERS},
            "output": dict(signal),
        },
        "output": {
            "units": 10, "forwards": 6, "min": -3.0, "max": 4.0, "variation": 1.0, "scale": 4.0, "probabilities": 0.0,
            "function": "", "producer": "fc3", "hidden_softmax": "", "attention": {}, "latents": {}, "normed": {},
            "spread": 0.9, "unit_norm": False,
            "dropout": 0.5, "dropout_layer": "drop",
            "backwards": 6, "loss_applies": "softmax",
            "maximised": False, "constant_loss": CONSTANT, "first_loss": loss if epoch > 1 else CONSTANT,
            "mean_loss": loss,
            "accuracy": 0.5, "majority": 0.1, "rows": 320.0, "entropy_within": 2.2, "entropy": CONSTANT,
            "blocked": 0.0, "squared_loss": 7.0,
            "target_variance": 0.3, "target_variance_maximised": 0.3, "beyond": 0.0,
            "linear_loss": 3.0, "logarithms": False, "one_target": False,
            "applies_again": "", "takes_logarithms_of": "", "normalises": False, "distance": False, "pairs": False,
        },
        "loss": {
            "steps": 40, "first": CONSTANT if epoch == 1 else loss, "last": loss, "mean": loss, "min": 0.9 * loss,
            "max": CONSTANT if epoch == 1 else 1.1 * loss, "nonfinite": 0, "first_nonfinite_iteration": None,
            "course": course,
        },
        "coverage": {"activations": {"seen": list(SITES), "unseen": {}}},
    }  # fmt: skip


def stalled(numbers: Numbers) -> None:
    """The network stays a constant predictor."""
    numbers["loss"] |= {
        "mean": CONSTANT,
        "first": CONSTANT,
        "last": CONSTANT,
        "max": CONSTANT,
        "course": [CONSTANT] * 8,
    }
    numbers["scores"] = {"loss": {"validation": CONSTANT}, "accuracy": {"validation": 0.1, "train": 0.1}}
    numbers["output"] |= {"first_loss": CONSTANT, "mean_loss": CONSTANT, "accuracy": 0.1, "variation": 0.2}


def made_up_run(*changes: Change, epochs: int = 5) -> list[EpochReport]:
    """The reports of a run: healthy ones, each changed by functions of its numbers."""
    reports = []
    for epoch in range(1, epochs + 1):
        numbers = healthy(epoch)
        for change in changes:
            change(numbers)
        reports.append(EpochReport(**numbers))
    return reports
