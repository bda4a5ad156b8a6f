"""Speed, as ratios of interleaved runs in one process: ``python scripts/benchmark.py epoch``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import torch
from ignite.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, ToTensor, v2

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, GradientStats
from ignite_act.data import Data, TensorLoader, fashion_mnist
from ignite_act.engines import create_trainer, loss_function
from ignite_act.models import MLP


@click.group()
def main() -> None:
    """Measures what the loop and the diagnostics cost: medians over rounds of ratios, the range in brackets."""


@main.command()
@click.option("--rounds", default=7, show_default=True, help="interleaved rounds")
@click.option("--data-root", type=click.Path(path_type=Path), help="where FashionMNIST lies")
def epoch(rounds: int, data_root: Path | None) -> None:
    """One epoch of FashionMNIST: our engine, a bare loop, and a DataLoader with per-sample transforms."""
    data = fashion_mnist(data_root)
    cpu = torch.device("cpu")
    loss_fn = loss_function(data.task)

    def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(42)
        model = MLP(784, (512, 256, 256, 128), 10)
        return model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def bare(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], None]:
        model, optimizer = network()

        def run() -> None:
            model.train()
            for x, y in batches:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()

        return run

    def engine(*, diagnostics: bool) -> Callable[[], None]:
        model, optimizer = network()
        trainer = create_trainer(model, optimizer, data.task, device=cpu)
        loader = TensorLoader(data.train, 256, shuffle=True, drop_last=True)
        if diagnostics:
            Diagnostics(model, optimizer).attach(trainer)

        def run() -> None:
            trainer.run(loader, max_epochs=1)

        return run

    in_memory = list(TensorLoader(data.train, 256, shuffle=True, drop_last=True))
    contenders = {
        "bare loop, batches in memory": bare(in_memory),
        "the same again (noise floor)": bare(in_memory),
        "ignite_act, diagnostics off": engine(diagnostics=False),
        "ignite_act, diagnostics on": engine(diagnostics=True),
    }
    click.echo(f"one epoch, 195 batches of 256, {torch.get_num_threads()} threads, {rounds} rounds")
    times = measure(contenders, rounds)
    show_ratios(times, "bare loop, batches in memory")

    usual = {
        "torchvision.transforms": Compose([ToTensor(), Normalize((0.5,), (0.5,))]),
        "torchvision.transforms.v2": v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,), (0.5,))]
        ),
    }
    for name, transform in usual.items():
        loader = DataLoader(transformed_images(data, transform), batch_size=256, shuffle=True, drop_last=True)
        slow = measure({"usual": bare(loader), "ours": contenders["ignite_act, diagnostics off"]}, max(1, rounds // 3))
        ratio = statistics.median(a / b for a, b in zip(slow["usual"], slow["ours"], strict=True))
        click.echo(f"a DataLoader with {name} takes {ratio:.1f} times as long as ours, diagnostics off")


@main.command()
@click.option("--rounds", default=9, show_default=True, help="interleaved rounds")
@click.option("--network", "only", type=click.Choice(["mlp", "resnet18", "transformer"]), help="this one alone")
def overhead(rounds: int, only: str | None) -> None:
    """The same training steps bare and with each handler, on three networks."""
    for network, (build, batch, steps) in NETWORKS.items():
        if only in (None, network):
            click.echo(f"{network}: epochs of {steps} steps, {torch.get_num_threads()} threads, {rounds} rounds")
            runs = {name: trained(build, batch, steps, attach) for name, attach in WATCHERS.items()}
            show_ratios(measure(runs, rounds), "bare")


Attach = Callable[[torch.nn.Module, torch.optim.Optimizer, Engine], object]

WATCHERS: dict[str, Attach] = {
    "bare": lambda model, optimizer, engine: None,
    "bare again (noise floor)": lambda model, optimizer, engine: None,
    "GradientStats": lambda model, optimizer, engine: GradientStats(model).attach(engine),
    "DeadNeurons": lambda model, optimizer, engine: DeadNeurons(model).attach(engine),
    "ActivationStats": lambda model, optimizer, engine: ActivationStats(model).attach(engine),
    "all three": lambda model, optimizer, engine: Diagnostics(model).attach(engine),
    "all three, every=1": lambda model, optimizer, engine: Diagnostics(model, every=1).attach(engine),
    "all three, every=10": lambda model, optimizer, engine: Diagnostics(model, every=10).attach(engine),
}


class Encoder(torch.nn.Module):
    """A small transformer encoder with a classifier over the mean of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(1))


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], int]] = {
    "mlp": (lambda: MLP(784, (512, 256, 256, 128), 10), (256, 784), 60),
    "resnet18": (lambda: resnet18(num_classes=10), (16, 3, 32, 32), 10),
    "transformer": (Encoder, (32, 32, 64), 20),
}


def trained(
    build: Callable[[], torch.nn.Module], batch: tuple[int, ...], steps: int, attach: Attach
) -> Callable[[], None]:
    """A training epoch of so many steps on random data, with something attached to its engine."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    data = [(torch.randn(batch), torch.randint(10, batch[:1])) for _ in range(4)]

    def step(engine: Engine, index: int) -> None:
        x, y = data[index % len(data)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    trainer = Engine(step)
    attach(model, optimizer, trainer)

    def run() -> None:
        trainer.run(range(steps), max_epochs=1)

    return run


def transformed_images(
    data: Data, transform: Callable[[Image.Image], torch.Tensor]
) -> Dataset[tuple[torch.Tensor, int]]:
    """The images as torchvision's FashionMNIST gives them: one by one, through PIL and the transform."""
    pixels = data.train.x[:, 0].add(1).mul(127.5).round().byte()

    class Images(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(pixels[index].numpy())), int(data.train.y[index])

    return Images()


def measure(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that does not count; the order turns every round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(rounds + 1):
        for name in order:
            begin = time.perf_counter()
            contenders[name]()
            if number:
                times[name].append(time.perf_counter() - begin)
        order = order[1:] + order[:1]
    return times


def show_ratios(times: dict[str, list[float]], base: str) -> None:
    """A line for each contender: the median of its ratio to the base within a round, and the range."""
    for name, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(seconds, times[base], strict=True))
        click.echo(
            f"{name:<32} {statistics.median(ratios):6.3f}  [{ratios[0]:.3f} .. {ratios[-1]:.3f}]"
            f"  {1000 * statistics.median(seconds):8.1f} ms"
        )


if __name__ == "__main__":
    main()
