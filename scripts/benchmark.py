"""Speed, as ratios of interleaved runs in one process, and how often findings are right.

``python scripts/benchmark.py epoch``, ``overhead``, ``long``, ``findings``.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import click
import joblib
import torch
from ignite.engine import Engine, Events
from ignite.handlers.tensorboard_logger import GradsHistHandler, GradsScalarHandler, TensorboardLogger
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models import densenet121, mobilenet_v3_small, resnet18
from torchvision.transforms import Compose, Normalize, ToTensor, v2

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, Finding, GradientStats, experiment
from ignite_act.config import run_config
from ignite_act.data import Data, TensorLoader, fashion_mnist
from ignite_act.engines import create_trainer, loss_function
from ignite_act.findings import KINDS, measured
from ignite_act.models import MLP


@click.group()
def main() -> None:
    """Measures what the loop and the diagnostics cost (medians over rounds of ratios, the range in brackets), and how
    often findings are right."""


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
@click.option("--others", is_flag=True, help="also Ignite's own handlers, and fastai and wandb where installed")
def overhead(rounds: int, only: str | None, others: bool) -> None:
    """The same training steps bare and with each handler, on three networks."""
    watchers = WATCHERS | (other_tools() if others else {})
    for network, (build, batch, steps) in NETWORKS.items():
        if only in (None, network):
            click.echo(f"{network}: epochs of {steps} steps, {torch.get_num_threads()} threads, {rounds} rounds")
            with ExitStack() as stack:
                runs = {
                    name: stack.enter_context(trained(build, batch, steps, attach)) for name, attach in watchers.items()
                }
                show_ratios(measure(runs, rounds), "bare")


@main.command()
@click.option("--rounds", default=25, show_default=True, help="interleaved rounds of short epochs")
@click.option("--network", "only", multiple=True, help="these alone  [default: all six]")
def cost(rounds: int, only: tuple[str, ...]) -> None:
    """The cost that ``Diagnostics`` prints beside the true one: the share of an epoch that goes when it is detached."""
    click.echo(f"{torch.get_num_threads()} threads, {rounds} rounds; medians of the shares in each round")
    click.echo("| network | printed | true | printed / true |")
    click.echo("| --- | --- | --- | --- |")
    for network, (build, batch, steps) in (NETWORKS | OTHER_NETWORKS).items():
        if only and network not in only:
            continue
        steps = max(steps // 7, 3)  # the speed of a machine wanders: neighbours in time are compared
        printed: list[float] = []
        with trained(build, batch, steps, WATCHERS["bare"]) as bare, ExitStack() as stack:
            attached: list[Diagnostics] = []

            def attach(model: Any, optimizer: Any, engine: Engine, kept: Any = attached) -> Diagnostics:
                kept.append(Diagnostics(model).attach(engine))
                return kept[-1]

            run = stack.enter_context(trained(build, batch, steps, attach))

            def watched(run: Any = run, kept: Any = attached, costs: Any = printed) -> None:
                run()
                costs.append(kept[0].cost)

            times = measure({"bare": bare, "watched": watched}, rounds)
        true = statistics.median(1 - a / b for a, b in zip(times["bare"], times["watched"], strict=True))
        shown = statistics.median(printed[1:])  # the first round does not count
        click.echo(f"| {network} | {shown:.1%} | {true:.1%} | {shown / true:.2f} |")


Attach = Callable[[torch.nn.Module, torch.optim.Optimizer, Engine], AbstractContextManager[object]]

WATCHERS: dict[str, Attach] = {
    "bare": lambda model, optimizer, engine: nullcontext(),
    "bare again (noise floor)": lambda model, optimizer, engine: nullcontext(),
    "GradientStats": lambda model, optimizer, engine: GradientStats(model).attach(engine),
    "DeadNeurons": lambda model, optimizer, engine: DeadNeurons(model).attach(engine),
    "ActivationStats": lambda model, optimizer, engine: ActivationStats(model).attach(engine),
    "all three": lambda model, optimizer, engine: Diagnostics(model).attach(engine),
    "all three, every=1": lambda model, optimizer, engine: Diagnostics(model, every=1).attach(engine),
    "all three, every=10": lambda model, optimizer, engine: Diagnostics(model, every=10).attach(engine),
}


@main.command("long")
@click.option("--epochs", default=10_000, show_default=True, help="of a tiny network on the digits")
def long_run(epochs: int) -> None:
    """A long run of the experiment: what an epoch takes, and the most memory so far, along the way."""
    ends: list[float] = []
    memory: list[int] = []
    decide = experiment._Run._decide

    def at_end(run: Any, engine: Engine) -> None:
        decide(run, engine)
        ends.append(time.perf_counter())
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    config = run_config({"hidden": (4,), "batch_size": 512, "max_epochs": epochs, "patience": 0})
    with TemporaryDirectory() as place, patch.object(experiment._Run, "_decide", at_end):
        experiment.run(config, Path(place), quiet=True)
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    hundreds = (*range(0, epochs - 100, max(100, epochs // 10)), epochs - 101)
    for begin in hundreds:
        took = statistics.median(seconds[begin : begin + 100])
        click.echo(f"epochs {begin + 1:>6,} to {begin + 100:>6,}: {took * 1e3:.1f} ms, {memory[begin + 99]} MB")


def tensorboard(handler: Callable[[torch.nn.Module], Callable[..., None]]) -> Attach:
    """A handler of Ignite's own at every iteration; the epoch ends when its events are in the file."""

    @contextmanager
    def attach(model: torch.nn.Module, optimizer: torch.optim.Optimizer, engine: Engine) -> Iterator[None]:
        with TemporaryDirectory() as directory, closing(TensorboardLogger(log_dir=directory)) as logger:
            logger.attach(engine, handler(model), Events.ITERATION_COMPLETED)
            engine.add_event_handler(Events.EPOCH_COMPLETED, logger.writer.flush)
            yield

    return attach


def fastai_stats(*, with_hist: bool) -> Attach:
    """fastai's `ActivationStats` around the same step as all others: its hooks and its events, called by our engine.

    fastai's own Learner would be another loop, of which the ratio to our bare one says nothing about watching. The
    options are fastai's defaults: every step, the outputs of all modules with parameters.
    """

    @contextmanager
    def attach(model: torch.nn.Module, optimizer: torch.optim.Optimizer, engine: Engine) -> Iterator[None]:
        callback = import_module("fastai.callback.hook").ActivationStats(with_hist=with_hist)
        callback.learn = SimpleNamespace(model=model, training=True)
        engine.add_event_handler(Events.STARTED, callback.before_fit)
        engine.add_event_handler(Events.ITERATION_STARTED, callback.before_batch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, callback.after_batch)
        engine.add_event_handler(Events.COMPLETED, callback.after_fit)
        try:
            yield
        finally:
            callback.after_fit()

    return attach


@contextmanager
def wandb_watch(model: torch.nn.Module, optimizer: torch.optim.Optimizer, engine: Engine) -> Iterator[None]:
    """``wandb.watch`` of gradients and parameters at every step, which an empty ``log`` ends; offline, no telemetry."""
    wandb = import_module("wandb")
    with (
        TemporaryDirectory() as directory,
        patch.dict(os.environ, WANDB_CACHE_DIR=directory, WANDB_ERROR_REPORTING="false"),
    ):
        settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
        try:
            with wandb.init(mode="offline", dir=directory, settings=settings) as run:
                run.watch(model, log="all", log_freq=1)
                engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: run.log({}))
                yield
                run.unwatch(model)
        finally:
            wandb.teardown()


OTHERS: dict[str, dict[str, Attach]] = {
    "tensorboardX": {
        "Ignite GradsScalarHandler": tensorboard(GradsScalarHandler),
        "Ignite GradsHistHandler": tensorboard(GradsHistHandler),
    },
    "fastai.callback.hook": {
        "fastai ActivationStats": fastai_stats(with_hist=False),
        "fastai ActivationStats, hist": fastai_stats(with_hist=True),
    },
    "wandb": {"wandb.watch, log=all, log_freq=1": wandb_watch},
}


def other_tools() -> dict[str, Attach]:
    """The rows of the tools that can be imported; a line says which cannot, and why."""
    rows: dict[str, Attach] = {}
    missing: list[str] = []
    for module, attachers in OTHERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(module)
            rows |= attachers
        except ImportError as error:
            missing.append(str(error))
    if missing:
        click.echo(f"left out: {', '.join(missing)}")
    return rows


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
    "mlp": (lambda: MLP(784, (512, 256, 256, 128), 10), (256, 784), 195),
    "resnet18": (lambda: resnet18(num_classes=10), (16, 3, 32, 32), 40),
    "transformer": (Encoder, (32, 32, 64), 100),
}


class Causal(torch.nn.Module):
    """A small causal language model: its inputs are read as tokens, its last position is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(256, 64)
        layer = torch.nn.TransformerEncoderLayer(
            64, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = torch.nn.Linear(64, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = (x.abs() * 64).long() % 256
        mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.blocks(self.tokens(tokens), mask=mask, is_causal=True))[:, -1]


OTHER_NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], int]] = {
    "mobilenet_v3_small": (lambda: mobilenet_v3_small(num_classes=10), (16, 3, 32, 32), 20),
    "densenet121": (lambda: densenet121(num_classes=10), (8, 3, 32, 32), 10),
    "causal language model": (Causal, (16, 48), 60),
}


@contextmanager
def trained(
    build: Callable[[], torch.nn.Module], batch: tuple[int, ...], steps: int, attach: Attach
) -> Iterator[Callable[[], None]]:
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

    def run() -> None:
        trainer.run(range(steps), max_epochs=1)

    with attach(model, optimizer, trainer):
        yield run


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


PARTS = ("tuned", "held_out", "kept_out", "unseen", "fresh", "real", "exam", "blind")
"""Parts of the zoo in ``tests/zoo``: thresholds were set on the others, the last one was never looked at."""


@main.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="this part of the zoo  [default: all]")
@click.option("--seeds", default=3, show_default=True, help="runs of each case")
@click.option("--jobs", default=2, show_default=True, help="processes, with one thread each")
@click.option("--misses", is_flag=True, help="name every run that was judged wrongly")
@click.option("--save", metavar="WHEN", help="keep the figures for `ignite-act findings`; say when they are counted")
def findings(parts: tuple[str, ...], seeds: int, jobs: int, misses: bool, save: str | None) -> None:
    """Judges every run of the zoo: how often the right kind comes first, how often healthy runs raise an alarm."""
    everything: list[Any] = []
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    for part in parts or PARTS:
        names = [case.name for case in import_module(f"zoo.{part}").CASES]
        begin = time.perf_counter()
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            calls = [joblib.delayed(judged)(sys.path[0], part, name, seed) for name in names for seed in range(seeds)]
            outcomes = joblib.Parallel(n_jobs=jobs)(calls)
        show_outcomes(part, outcomes, time.perf_counter() - begin, misses=misses)
        everything += outcomes
    if save:
        options = "".join(f" --part {part}" for part in parts) + f" --seeds {seeds}"
        save_outcomes(f"python scripts/benchmark.py findings{options}", save, everything)


def save_outcomes(command: str, when: str, outcomes: Sequence[Any]) -> None:
    """Writes what `ignite_act.findings.measured` reads."""
    healthy = [outcome for outcome in outcomes if outcome.kind == "healthy"]
    kinds = {
        kind: {
            "runs": sum(outcome.kind == kind for outcome in outcomes),
            "first": sum(outcome.kind == kind and outcome.right for outcome in outcomes),
            "alarms": sum(any(alarm.kind == kind for alarm in outcome.alarms) for outcome in healthy),
        }
        for kind in KINDS
    }
    path = Path(measured.__file__).with_name("measured.json")
    content = {"command": command, "when": when, "healthy": len(healthy), "kinds": kinds}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def judged(place: str, part: str, name: str, seed: int) -> Any:
    """The outcome of one run; made in a process that may not have seen the zoo yet."""
    torch.set_num_threads(1)
    if place not in sys.path:
        sys.path.insert(0, place)
    (case,) = (case for case in import_module(f"zoo.{part}").CASES if case.name == name)
    return import_module("zoo.judged").judge_case(case, seed, part)


def show_outcomes(part: str, outcomes: Sequence[Any], seconds: float, *, misses: bool) -> None:
    """A Markdown table with a line for each kind, then the sums."""
    click.echo(f"\n{part}: {len(outcomes)} runs in {seconds:.0f} s\n")
    click.echo("| kind | runs | right kind first | right layer | what came first instead |")
    click.echo("| --- | --- | --- | --- | --- |")
    for kind in sorted({outcome.kind for outcome in outcomes} - {"healthy"}):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        instead = Counter(_kind(outcome.first) for outcome in own if not outcome.right)
        words = ", ".join(f"{count} x {name}" for name, count in instead.most_common())
        click.echo(f"| {kind} | {len(own)} | {_share(o.right for o in own)} | {_share(_layers(own))} | {words} |")
    faulty = [outcome for outcome in outcomes if outcome.kind != "healthy"]
    healthy = [outcome for outcome in outcomes if outcome.kind == "healthy"]
    click.echo(f"| all faulty runs | {len(faulty)} | {_share(o.right for o in faulty)} | {_share(_layers(faulty))} | |")
    alarms = Counter(finding.kind for outcome in healthy for finding in outcome.alarms)
    raised = ", ".join(f"{count} x {name}" for name, count in alarms.most_common())
    click.echo(
        f"\nhealthy runs with a warning or an error: {sum(not o.right for o in healthy)} of {len(healthy)} {raised}"
    )
    costs = sorted(outcome.cost for outcome in outcomes)
    middle = statistics.median(outcome.seconds for outcome in outcomes)
    click.echo(f"a run takes {middle:.2f} s, measuring and judging {statistics.median(costs):.0%} of it (medians)")
    for outcome in outcomes if misses else ():
        if not outcome.right or outcome.right_layer is False:
            found = ", ".join(f"{alarm.kind} {alarm.layer or ''}" for alarm in outcome.alarms)
            click.echo(f"  {outcome.name} seed {outcome.seed}, {outcome.kind}: {_kind(outcome.first)} first ({found})")


def _kind(finding: Finding | None) -> str:
    return finding.kind if finding is not None else "nothing"


def _layers(outcomes: Iterable[Any]) -> list[bool]:
    return [outcome.right_layer for outcome in outcomes if outcome.right_layer is not None]


def _share(right: Iterable[bool]) -> str:
    values = list(right)
    return f"{sum(values)}/{len(values)}" if values else "-"


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
