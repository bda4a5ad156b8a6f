"""Ignite engines for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.metrics import Accuracy, Average, Loss
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act.collect.names import unwrap

Task = Literal["classification", "binary"]
Batch = tuple[Tensor, Tensor]


def loss_function(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of logits and targets: cross-entropy, or binary cross-entropy."""
    return F.cross_entropy if task == "classification" else F.binary_cross_entropy_with_logits


def create_trainer(
    model: nn.Module,
    optimizer: Optimizer,
    task: Task,
    *,
    device: torch.device,
    amp: bool = False,
    accumulate: int = 1,
    clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Engine:
    """An engine that trains; its output is ``{"loss", "y_pred", "y"}``, its metrics ``loss`` and ``accuracy``.

    Args:
        model: gives logits.
        optimizer: of the model's parameters.
        task: what the targets are.
        device: of the model and the batches.
        amp: compute the forward in half precision.
        accumulate: batches whose mean gradient makes one optimizer step; the last group of an epoch may be smaller.
        clip_norm: largest norm of all gradients together.
        scaler: of the loss, for float16.
    """
    loss_fn = loss_function(task)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    inner = unwrap(model)

    def step(engine: Engine, batch: Batch) -> dict[str, Tensor]:
        length = engine.state.epoch_length or 1
        position = (engine.state.iteration - 1) % length
        in_group = position % accumulate
        group_size = min(accumulate, length - (position - in_group))
        if not inner.training:  # an evaluator switches the model itself, not what it is wrapped in
            model.train()
        if in_group == 0:
            optimizer.zero_grad()
        x, y = batch
        with torch.autocast(device.type, dtype=_half(device), enabled=amp):
            y_pred = model(x)
            loss = loss_fn(y_pred, y)
        scaler.scale(loss / group_size if group_size > 1 else loss).backward()
        if in_group == group_size - 1:
            if clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            scaler.step(optimizer)
            scaler.update()
        return {"loss": loss.detach(), "y_pred": y_pred.detach().float(), "y": y}

    trainer = Engine(step)
    Average(output_transform=lambda output: output["loss"], device=device).attach(trainer, "loss")
    _accuracy(task, device, lambda output: (output["y_pred"], output["y"])).attach(trainer, "accuracy")
    return trainer


def create_evaluator(model: nn.Module, task: Task, *, device: torch.device, amp: bool = False) -> Engine:
    """An engine that evaluates a fixed model; its metrics are ``loss`` and ``accuracy`` over the whole data."""

    @torch.inference_mode()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        x, y = batch
        with torch.autocast(device.type, dtype=_half(device), enabled=amp):
            y_pred = model(x)
        return y_pred.float(), y

    evaluator = Engine(step)
    Loss(loss_function(task), device=device).attach(evaluator, "loss")
    _accuracy(task, device, lambda output: output).attach(evaluator, "accuracy")
    return evaluator


def create_scaler(device: torch.device, *, amp: bool) -> torch.amp.GradScaler:
    """A loss scaler, enabled where half precision means float16."""
    return torch.amp.GradScaler(device.type, enabled=amp and _half(device) == torch.float16)


def _half(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def _accuracy(task: Task, device: torch.device, pair: Callable[[Any], Batch]) -> Accuracy:
    def binary(output: Any) -> Batch:
        y_pred, y = pair(output)
        return (y_pred > 0).float(), y

    return Accuracy(output_transform=binary if task == "binary" else pair, device=device)
