"""Runs on two pictures or two networks: verification, distillation, self-supervision, forgery, motion; and tags."""

from __future__ import annotations

import copy
from functools import cache, partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.blind_vision import conv_norm, digits, grid, named, naming, textures
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


def convolved(width: int, outputs: int, inputs: int = 1) -> nn.Sequential:
    """Two strided convolutions and a linear layer, without norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, outputs),
    )


def couples(seed: int, n: int, only_same: bool = False) -> Tensors:
    """Pairs out of a small album, and whether both show the same digit; a picture may meet itself."""
    x, y = digits(seed, 300)
    random = torch.Generator().manual_seed(seed)
    left = torch.randint(300, (n,), generator=random)
    same = (y[left][:, None] == y).float()
    alike = torch.rand(n, 1, generator=random) < (1.0 if only_same else 0.5)
    right = torch.where(alike, same, 1 - same).multinomial(1, generator=random)[:, 0]
    return torch.stack([x[left], x[right]], 1), alike[:, 0].float()


def siamese(seed: int, mistake: str = "") -> Run:
    """Verification: the same digit should be near, another one further away than a margin."""
    training = Shuffled(*couples(2 * seed, 800, mistake == "only_same"), size=32, seed=seed)
    validation = Shuffled(*couples(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    model = convolved(16, 16)

    def far(model: nn.Module, pairs: Tensor) -> Tensor:
        """How far the pictures of each pair are from each other."""
        left, right = model(pairs.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        if mistake == "bare_root":
            return (left - right).square().sum(1).sqrt()
        return F.pairwise_distance(left, right)

    def contrastive(model: nn.Module, batch: Tensors) -> Tensor:
        """Squares of distances, and of what a margin lacks."""
        apart, same = far(model, batch[0]), batch[1]
        return (same * apart.square() + (1 - same) * (1 - apart).clamp(min=0).square()).mean()

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of pairs on the right side of half the margin."""
        return ((far(model, batch[0]) < 0.5) == (batch[1] == 1)).float().mean()

    def between(model: nn.Module, batch: Tensors) -> Tensor:
        """How surely a different pair is further apart than a same one."""
        apart, same = far(model, batch[0]), batch[1] == 1
        higher = apart[~same][:, None] - apart[same]
        return torch.where(higher.isfinite(), (higher > 1e-4).float(), higher).mean()

    return fit(
        model,
        Adam(model.parameters(), lr=2e-3),
        contrastive,
        training,
        validation=validation,
        accuracy_of=right,
        score=lambda: mean_over(model, between, validation),
    )


@cache
def taught(seed: int) -> nn.Sequential:
    """A network that knows the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = convolved(16, 10)
        optimizer = Adam(model.parameters(), lr=3e-3)
        batches = Shuffled(*digits(1000 + seed, 640), size=32, seed=seed)
        for _ in range(4):
            for batch in batches:
                optimizer.zero_grad()
                naming(model, batch).backward()
                optimizer.step()
    return model.requires_grad_(False).eval()


class School(nn.Module):
    """A small student, and a frozen teacher."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher, convolved(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        """What the student says."""
        out: Tensor = self.student(x)
        return out


def distil(seed: int, mistake: str = "") -> Run:
    """Distillation at a temperature, on pictures whose names are not known."""
    training = Shuffled(*digits(2 * seed, 640), size=32, seed=seed)
    validation = Shuffled(*digits(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    model = School(copy.deepcopy(taught(seed)))
    owner = model.teacher if mistake == "teacher_rate" else model.student
    optimizer = AdamW(owner.parameters(), lr=4e-3)
    heat = 3.0

    def as_taught(model: nn.Module, batch: Tensors) -> Tensor:
        """How the chances of both differ."""
        with torch.no_grad():
            wanted = (model.get_submodule("teacher")(batch[0]) / heat).softmax(1)
        logits = model(batch[0]) / heat
        said = logits.softmax(1) if mistake == "bare_chances" else logits.log_softmax(1)
        return heat**2 * F.kl_div(said, wanted, reduction="batchmean")

    return fit(model, optimizer, as_taught, training, validation=validation, accuracy_of=named, clip=1.0)


class SimSiam(nn.Module):
    """An encoder, a projector and a predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *conv_norm(1, 16, 5, 2),
            nn.ReLU(),
            *conv_norm(16, 32, 3, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.projector = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where a picture is, and where another view of it is thought to be."""
        z = self.projector(self.encoder(x))
        return z, self.predictor(z)


def simsiam(seed: int, mistake: str = "") -> Run:
    """Two views of a picture of stripes should be the same; nobody says what it shows. The loss is negative."""
    x, y = textures(2 * seed, 512)
    training = Shuffled(x, y, size=64, seed=seed)
    model = SimSiam()
    views = torch.Generator().manual_seed(seed)

    def view(x: Tensor) -> Tensor:
        """Moved, darker or lighter, and noisy."""
        moved = x.roll(tuple(torch.randint(-8, 9, (2,), generator=views).tolist()), (2, 3))
        light = 0.6 + 0.8 * torch.rand(len(x), 1, 1, 1, generator=views)
        return light * moved + 0.3 * torch.randn(x.shape, generator=views)

    def alike(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the cosine between a guess and the other view."""
        (z1, p1), (z2, p2) = model(view(batch[0])), model(view(batch[0]))
        if mistake != "no_stop":
            z1, z2 = z1.detach(), z2.detach()
        return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2

    @torch.no_grad()
    def apart() -> float:
        """How much more alike two pictures of the same kind are than others, as cosines."""
        model.eval()
        z = F.normalize(model(x)[0])
        cosines, same = z @ z.T, y[:, None] == y
        return (cosines[same].mean() - cosines[~same].mean()).item()

    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    return fit(
        model,
        optimizer,
        alike,
        training,
        schedule=CosineAnnealingLR(optimizer, 8 * len(training)),
        score=apart,
    )


class Forger(nn.Module):
    """A generator that is told what to draw, and a critic that is told what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(8 + 10, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 144), nn.Sigmoid()
        )
        self.critic = nn.Sequential(nn.Linear(144 + 10, 96), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(96, 1))

    def forward(self, noise: Tensor, names: Tensor) -> Tensor:
        """Drawn pictures."""
        out: Tensor = self.generator(torch.cat([noise, F.one_hot(names, 10).float()], 1))
        return out

    def judge(self, x: Tensor, names: Tensor) -> Tensor:
        """Logits of being real."""
        out: Tensor = self.critic(torch.cat([x, F.one_hot(names, 10).float()], 1))
        return out


def forger(seed: int, mistake: str = "") -> Run:
    """A conditional GAN on small digits; both losses are told, and neither has to fall."""
    x, y = digits(2 * seed, 640, size=12, noise=0.02, shift=0.03)
    x = x.flatten(1)
    training = Shuffled(x, y, size=32, seed=seed)
    model = Forger()
    forging = Adam(model.generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    judging = Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """A step of the critic, then one of the generator."""
        model.train()
        real, names = batch
        drawn = model(torch.randn(len(real), 8), names)
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        entropy = F.binary_cross_entropy_with_logits
        judging.zero_grad()
        judged = entropy(model.judge(real, names), 0.9 * ones) + entropy(model.judge(drawn.detach(), names), zeros)
        judged.backward()
        judging.step()
        forging.zero_grad()
        forged = entropy(model.judge(drawn.detach() if mistake == "detached" else drawn, names), ones)
        forged.backward()
        forging.step()
        return {"loss": forged.item(), "critic_loss": judged.item()}

    @torch.no_grad()
    def likeness() -> float:
        """Minus how far the mean drawing of a digit is from the mean real one."""
        model.eval()
        random = torch.Generator().manual_seed(seed)
        drawn = model(torch.randn(len(y), 8, generator=random), y)
        return -sum((drawn[y == name].mean(0) - x[y == name].mean(0)).square().mean().item() for name in range(10))

    return Run(model, Engine(step), training, optimizer=forging, score=likeness)


def frames(seed: int, n: int, size: int = 16) -> Tensors:
    """Two frames of a blob, and how far it has moved; mostly little, now and then much."""
    random = torch.Generator().manual_seed(seed)
    moved = torch.randn(2, n, 1, 1, generator=random) / (0.3 + torch.rand(1, n, 1, 1, generator=random)) / 4
    moved = moved.clamp(-1.2, 1.2)
    start = torch.rand(2, n, 1, 1, generator=random) - 0.5
    shots = []
    for place in (start, start + moved):
        columns, rows = (axis - centre for axis, centre in zip(grid(size), place, strict=True))
        shots.append(torch.exp(-(columns.square() + rows.square()) / 0.05))
    noise = 0.05 * torch.randn(n, 2, size, size, generator=random)
    return torch.stack(shots, 1) + noise, moved[:, :, 0, 0].T.contiguous()


def motion(seed: int, mistake: str = "") -> Run:
    """How a blob moves from one frame to the next, with momentum and clipping."""
    parts = [frames(2 * seed + index, n) for index, n in enumerate((960, 200))]
    x, moved = parts[0]
    if mistake == "sorted":  # as the folders of a recording are
        order = moved.sum(1).argsort()
        x, moved = x[order], moved[order]
    if mistake == "same_frame":
        parts[1] = (parts[1][0][:, :1].repeat(1, 2, 1, 1), parts[1][1])
        x = x[:, :1].repeat(1, 2, 1, 1)
    training = Shuffled(x, moved, size=24, seed=seed, shuffle=mistake != "sorted")
    validation = Shuffled(*parts[1], size=100, seed=seed, shuffle=False)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.Softmax(1) if mistake == "softmax" else nn.ReLU(),
        nn.Linear(64, 2),
    )
    if mistake == "normal_init":
        for module in model:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight)
    optimizer = Adam(model.parameters(), lr=2e-3)

    def off(model: nn.Module, batch: Tensors) -> Tensor:
        """How far off the motion is."""
        return F.huber_loss(model(batch[0]), batch[1], delta=0.5)

    return fit(model, optimizer, off, training, validation=validation, clip=10.0)


CASES: tuple[Case, ...] = (
    healthy("b_siamese", siamese),
    faulty("b_siamese", "bare_root", "nonfinite", partial(siamese, mistake="bare_root")),
    faulty("b_siamese", "only_same", "constant_output", partial(siamese, mistake="only_same"), "labels_mismatch"),
    healthy("b_distil", distil),
    faulty("b_distil", "teacher_rate", "never_updated", partial(distil, mistake="teacher_rate"), layers=("student*",)),
    faulty("b_distil", "bare_chances", "output_probabilities", partial(distil, mistake="bare_chances")),
    healthy("b_simsiam", simsiam, epochs=8),
    faulty("b_simsiam", "no_stop", "constant_output", partial(simsiam, mistake="no_stop"), epochs=8),
    healthy("b_forger", forger, epochs=8),
    faulty(
        "b_forger", "detached", "no_gradient", partial(forger, mistake="detached"), epochs=8, layers=("generator*",)
    ),
    healthy("b_motion", motion),
    faulty("b_motion", "sorted", "oscillation", partial(motion, mistake="sorted")),
    faulty("b_motion", "softmax", "hidden_softmax", partial(motion, mistake="softmax"), layers=("7", "8", "9")),
    faulty("b_motion", "same_frame", "plateau", partial(motion, mistake="same_frame"), "constant_output"),
    faulty("b_motion", "normal_init", "exploding", partial(motion, mistake="normal_init"), "initial_loss"),
)
