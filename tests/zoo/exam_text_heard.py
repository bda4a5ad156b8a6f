"""Letters heard in frames, in the exam half of the real part of the zoo."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from zoo.base import Case, Run
from zoo.exam_text_models import Listener
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


def heard(seed: int, n: int) -> Tensors:
    """Four letters of eight, each a sound of twelve features that lasts two to four frames, with noise and silence."""
    random = torch.Generator().manual_seed(seed)
    sounds = torch.randn(8, 12, generator=torch.Generator().manual_seed(9))
    letters = torch.randint(8, (n, 4), generator=random)
    frames = 0.3 * torch.randn(n, 18, 12, generator=random)
    for row in range(n):
        lasting = torch.randint(2, 5, (4,), generator=random)
        spoken = sounds[letters[row]].repeat_interleave(lasting, 0)
        frames[row, 2 : 2 + len(spoken)] += spoken
    return frames, letters + 1


def heard_loss(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The loss of a sequence of letters in any places."""
    frames, letters = batch
    n, length = frames.shape[:2]
    scores = model(frames)
    log = scores.softmax(-1) if mistake == "softmax" else scores.log_softmax(-1)
    return F.ctc_loss(log.transpose(0, 1), letters, torch.full((n,), length), torch.full((n,), 4))


def listener(seed: int, mistake: str = "") -> Run:
    """Letters heard in frames, with warm restarts of the learning rate."""
    training_frames, training_letters = heard(2 * seed, 400)
    if mistake == "other_frames":
        training_frames = training_frames[torch.randperm(400, generator=torch.Generator().manual_seed(seed))]
    training = Shuffled(training_frames, training_letters, size=16, seed=seed)
    validation = Shuffled(*heard(2 * seed + 1, 96), size=32, seed=seed, shuffle=False)
    model = Listener(12, 8)
    optimizer = Adam(model.parameters(), lr=1e-2)
    return fit(
        model,
        optimizer,
        partial(heard_loss, mistake=mistake),
        training,
        validation=validation,
        schedule=CosineAnnealingWarmRestarts(optimizer, len(training)),
        score=lambda: -mean_over(model, heard_loss, validation),
    )


CASES: tuple[Case, ...] = (
    healthy("x_listener", listener, epochs=5),
    faulty("x_listener", "softmax", "output_probabilities", partial(listener, mistake="softmax"), "plateau", epochs=5),
    faulty(
        "x_listener", "other_frames", "labels_mismatch", partial(listener, mistake="other_frames"), "plateau", epochs=5
    ),
)
