"""The training loss over the steps of a window, as the loop tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.collect.base import Collector
from ignite_act.guard import guarded
from ignite_act.stats import Course

ROW = "loss"


class LossCollector(Collector):
    """The course of the training loss; see `Course` for the names in its one row, ``loss``."""

    _course: Course
    _steps: int

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._begin()

    def record(self, loss: Tensor | float) -> None:
        """Adds the loss of a step: a number, or a tensor with one element, which stays where it is."""
        if not self.started:
            return
        with guarded(self, "the loss of some steps"):
            if isinstance(loss, Tensor):
                loss = loss.detach().clone()  # it is read later, and may be overwritten until then
                if loss.device != self._course.values.device:
                    self._course.follow(loss.device)
            self._steps += 1
            self._course.update(loss, self.clock() or self._steps)

    def missing(self, reason: str) -> None:
        """Notes why the loss of a step is not known."""
        self._missing = reason

    def _begin(self) -> None:
        super()._begin()
        self._missing = ""
        self._course = Course()
        self._steps = 0

    def _watch(self) -> None:
        pass

    def _unwatch(self) -> None:
        pass

    def _numbers(self) -> dict[str, dict[str, Any]]:
        return {ROW: {**self._course.compute()}} if self._course.compute()["steps"] else {}

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        if self._missing:
            return {"the loss of some steps": self._missing}
        return {} if seen else {"the loss": "no loss was recorded in this window"}

    def _state(self) -> dict[str, Any]:
        return {"course": self._course.state_dict(), "steps": self._steps}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._course = _restored(state)
        self._steps = int(state["steps"])

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        """The mean of the processes' losses, step by step, where they made as many steps."""
        courses = [course for state in states if (course := _restored(state)).steps]
        if not courses:
            return
        self._course = first = courses[0]
        alike = [course for course in courses if course.values.shape == first.values.shape]
        first.values = torch.stack([course.values for course in alike]).sum(0)
        numbers = torch.stack([course.numbers for course in alike])
        first.numbers = torch.cat([numbers[:, :2].mean(0), numbers[:, 2:3].amin(0), numbers[:, 3:].amax(0)])
        first.nonfinite = torch.stack([course.nonfinite for course in alike]).amax()
        first.first_nonfinite_iteration = torch.stack([course.first_nonfinite_iteration for course in alike]).amin()


def _restored(state: Mapping[str, Any]) -> Course:
    course = Course()
    course.load_state_dict(state["course"])
    return course


def loss_of(output: Any) -> Tensor | float | None:
    """The loss in what a training step returned: a number, a tensor with one element, ``output["loss"]``, or the
    first of a tuple; None if it is nothing of these.

    >>> loss_of(0.5), loss_of({"loss": 0.5, "y": None}), loss_of((0.5, "more")), loss_of(None)
    (0.5, 0.5, 0.5, None)
    """
    if isinstance(output, Mapping):
        output = output.get("loss")
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if isinstance(output, bool):
        return None
    if isinstance(output, Tensor):
        return output if output.numel() == 1 and not output.is_complex() else None
    try:
        return float(output) if output is not None and not isinstance(output, str) else None
    except (TypeError, ValueError):
        return None
