"""The mean absolute value of tensors of which every process holds a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ignite_act.stats.base import on_device
from ignite_act.stats.magnitude import Magnitude

KEPT = 64
"""Steps of which a `ShardedMagnitude` remembers the numbers."""

_RECENT = ("recent_steps", "recent_means", "recent_maxima")


class ShardedMagnitude(Magnitude):
    """A `Magnitude` of parts: `unite` weights the rows of each process by the number of elements that it holds.

    A step counts as non-finite where it was in any part. The process that has another part learns of it at the end of
    the window only, and what it saw in such a step is often huge. So each row remembers its last `KEPT` finite steps
    and the numbers of its first `KEPT` non-finite ones, and `unite` leaves out what belongs to a step that was not
    finite elsewhere. That is exact unless more than `KEPT` finite steps followed, or that many were not finite.

    Steps are told apart by their numbers, which have to be the same in all processes.

    Args:
        rows: number of tensors followed.
        device: where the state lives.

    Attributes:
        sizes: number of elements of each part, ``(rows,)``.
    """

    _own = ("sizes", "oldest", "broken_steps", *_RECENT)
    _state = (*Magnitude._state, *_own)
    _by_row = (*Magnitude._by_row, *_own)

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        super().__init__(rows, device)
        self._numbers: list[int] = []  # of the waiting steps
        wide, device = self.total.dtype, self.total.device
        with torch.inference_mode(False):
            self.sizes = torch.zeros(rows, dtype=torch.int64, device=device)
            # One column more than is kept: what is not to be remembered is written there.
            self.recent_means = torch.zeros(rows, KEPT + 1, dtype=wide, device=device)
            self.recent_maxima = torch.zeros(rows, KEPT + 1, dtype=wide, device=device)
            self.recent_steps = torch.full((rows, KEPT + 1), -1, dtype=torch.int64, device=device)
            self.oldest = torch.zeros(rows, dtype=torch.int64, device=device)  # column that is written next
            self.broken_steps = torch.full((rows, KEPT + 1), -1, dtype=torch.int64, device=device)

    def update(self, means: Tensor, maxima: Tensor, iteration: int, step: int | None = None) -> None:
        """Adds one step, see `Magnitude.update`.

        Args:
            step: its number in all processes, by default the iteration.
        """
        self._numbers.append(iteration if step is None else step)
        super().update(means, maxima, iteration)

    def read_one(self, row: int, tensor: Tensor, iteration: int) -> bool:
        """Never: single steps have to be remembered."""
        return False

    def settled(self) -> Magnitude:
        """The same numbers with every step added to the sums, as they are for this process alone."""
        self._take_in()
        plain = Magnitude(self.rows, self.total.device)
        plain.tallies, plain.first_nonfinite = self.tallies.clone(), self.first_nonfinite.clone()
        there = self.recent_steps >= 0
        plain.total = self.total + torch.where(there, self.recent_means, 0.0).sum(1)
        plain.maximum = torch.maximum(self.maximum, torch.where(there, self.recent_maxima, 0.0).amax(1))
        return plain

    def compute(self) -> list[Any]:
        """See `Magnitude.compute`."""
        return self.settled().compute()

    def peaks(self) -> Tensor:
        """See `Magnitude.peaks`."""
        return self.settled().peaks()

    def merge(self, other: Magnitude) -> None:
        """Takes in the steps that another statistic of the same rows, of this process, has seen after this one."""
        self._take_in()
        if not isinstance(other, ShardedMagnitude):
            super().merge(other)
            return
        other._take_in()
        device = self.total.device
        self.sizes = torch.maximum(self.sizes, other.sizes.to(device))
        recent = [torch.cat([getattr(self, name), getattr(other, name).to(device)], 1) for name in _RECENT]
        order = recent[0].argsort(dim=1, stable=True)  # what is empty first, then the oldest
        steps, means, maxima = (values.gather(1, order) for values in recent)
        gone = steps[:, :-KEPT] >= 0
        total = torch.where(gone, means[:, :-KEPT], 0.0).sum(1)
        maximum = torch.where(gone, maxima[:, :-KEPT], 0.0).amax(1)
        for name, values, empty in zip(_RECENT, (steps, means, maxima), (-1, 0, 0), strict=True):
            setattr(self, name, torch.nn.functional.pad(values[:, -KEPT:], (0, 1), value=empty))
        self.oldest = torch.zeros_like(self.oldest)
        broken = torch.cat([self.broken_steps, other.broken_steps.to(device)], 1)
        never = torch.iinfo(broken.dtype).max
        broken = torch.where(broken < 0, never, broken).sort(1).values[:, :KEPT]
        self.broken_steps = torch.nn.functional.pad(torch.where(broken == never, -1, broken), (0, 1), value=-1)
        self.total = self.total + other.total.to(device) + total
        self.maximum = torch.stack([self.maximum, other.maximum.to(device), maximum]).amax(0)
        self.tallies = self.tallies + other.tallies.to(device)
        self.first_nonfinite = torch.minimum(self.first_nonfinite, other.first_nonfinite.to(device))

    def unite(self, others: Sequence[Magnitude]) -> None:
        """Becomes what several processes have seen of the same steps, each of its own parts.

        A process that holds nothing of a row takes no part in it; copies have equal sizes.

        Raises:
            ValueError: if one of the others has steps and does not know its sizes.
        """
        parts = []
        for other in others:
            if isinstance(other, ShardedMagnitude):
                parts.append(other)
            elif bool(other.settled().tallies.any()):
                raise ValueError("one of the processes takes its tensors for whole ones")
        if not parts:
            return
        settled = [part.settled() for part in parts]
        finite = torch.stack([part.tallies[0] for part in settled])  # (parts, rows)
        sizes = torch.stack([part.sizes for part in parts]) * (finite > 0)
        means = torch.stack([part.total for part in settled]) / finite.clamp(min=1)
        self.tallies = torch.stack([part.tallies for part in settled]).amax(0)
        self.total = (sizes * means).sum(0) / sizes.sum(0).clamp(min=1) * self.tallies[0]
        self.maximum = torch.stack([part.maximum for part in settled]).amax(0)
        self.first_nonfinite = torch.stack([part.first_nonfinite for part in settled]).amin(0)
        for row in self.tallies[1].nonzero().flatten().tolist():
            self._unite_broken(row, parts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; what was there before is dropped."""
        self._numbers.clear()
        super().load_state_dict(state)

    def _unite_broken(self, row: int, parts: Sequence[ShardedMagnitude]) -> None:
        """`unite` of a row that had steps that were not finite: they are left out everywhere."""
        broken = {step for part in parts for step in part.broken_steps[row].tolist()}
        weighted, maximum, size, steps, bad = 0.0, 0.0, 0, 0, 0
        for part in parts:
            recent = zip(*(getattr(part, name)[row].tolist() for name in _RECENT), strict=True)
            kept = [(step, mean, peak) for step, mean, peak in recent if step >= 0]
            good = [(mean, peak) for step, mean, peak in kept if step not in broken]
            finite, nonfinite = part.tallies[:, row].tolist()
            steps, bad = max(steps, finite + nonfinite), max(bad, nonfinite + len(kept) - len(good))
            finite -= len(kept) - len(good)
            if finite:
                total = float(part.total[row]) + sum(mean for mean, _ in good)
                weighted += int(part.sizes[row]) * total / finite
                maximum = max([maximum, float(part.maximum[row]), *(peak for _, peak in good)])
                size += int(part.sizes[row])
        self.tallies[:, row] = torch.tensor([steps - bad, bad])
        self.total[row] = weighted / max(size, 1) * (steps - bad)
        self.maximum[row] = maximum

    def _add(self, means: Tensor, maxima: Tensor, finite: Tensor, broken: Tensor) -> None:
        numbers = on_device(self._numbers, means.device)
        self._numbers.clear()
        numbers = numbers.expand(self.rows, -1)  # (rows, steps), as everything that follows
        finite, broken = finite.T, broken.T
        column = (self.oldest[:, None] + finite.cumsum(1) - 1) % KEPT
        column = torch.where(finite, column, KEPT)
        gone = finite & (self.recent_steps.gather(1, column) >= 0)
        self.total = self.total + torch.where(gone, self.recent_means.gather(1, column), 0.0).sum(1)
        evicted = torch.where(gone, self.recent_maxima.gather(1, column), 0.0).amax(1)
        self.maximum = torch.maximum(self.maximum, evicted)
        self.recent_steps = self.recent_steps.scatter(1, column, torch.where(finite, numbers, -1))
        self.recent_means = self.recent_means.scatter(1, column, means.T.to(self.total.dtype))
        self.recent_maxima = self.recent_maxima.scatter(1, column, maxima.T.to(self.total.dtype))
        self.oldest = (self.oldest + finite.sum(1)) % KEPT
        known = (self.broken_steps >= 0).sum(1, keepdim=True)
        column = torch.where(broken, (known + broken.cumsum(1) - 1).clamp(max=KEPT), KEPT)
        self.broken_steps = self.broken_steps.scatter(1, column, numbers)
        self.broken_steps[:, KEPT] = -1
