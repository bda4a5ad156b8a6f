"""Speed, as ratios of interleaved runs in one process: ``python scripts/benchmark.py epoch``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToPILImage, ToTensor

from ignite_act import Diagnostics
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

    usual = DataLoader(transformed_images(data), batch_size=256, shuffle=True, drop_last=True)
    slow = measure({"usual": bare(usual), "ours": contenders["ignite_act, diagnostics off"]}, max(1, rounds // 3))
    ratio = statistics.median(a / b for a, b in zip(slow["usual"], slow["ours"], strict=True))
    click.echo(f"a DataLoader with per-sample transforms takes {ratio:.1f} times as long as ours, diagnostics off")


def transformed_images(data: Data) -> Dataset[tuple[torch.Tensor, int]]:
    """The images as the tutorials take them: one by one, from PIL through torchvision's transforms."""
    to_image = ToPILImage()
    images = [to_image(image) for image in data.train.x.add(1).mul(127.5).round().byte()]
    targets = data.train.y.tolist()
    transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])

    class Images(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(images[index]), targets[index]

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
