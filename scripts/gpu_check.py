"""What ``gpu_check.sh`` runs: the tests, waits for the device, time, kernels and memory. Prints Markdown tables.

``python scripts/gpu_check.py SECTION [--device cuda] [--seconds N] [--small]``, with a section of `SECTIONS`. It needs
PyTorch, pytorch-ignite and what ignite_act imports; torchvision for ResNet-50 alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, GradientStats
from ignite_act.stats import kernels

ROOT = Path(__file__).resolve().parent.parent
SAMPLED = 10
"""`Diagnostics` measures activations in one step of so many: what is counted or timed covers whole rounds of them."""

Attach = Callable[[nn.Module, Engine], AbstractContextManager[object]]

WATCHERS: dict[str, Attach] = {
    "bare": lambda model, engine: nullcontext(),
    "GradientStats": lambda model, engine: GradientStats(model).attach(engine),
    "ActivationStats": lambda model, engine: ActivationStats(model).attach(engine),
    "DeadNeurons": lambda model, engine: DeadNeurons(model).attach(engine),
    "Diagnostics": lambda model, engine: Diagnostics(model).attach(engine),
    "Diagnostics, every=1": lambda model, engine: Diagnostics(model, every=1).attach(engine),
    "Diagnostics, every=10": lambda model, engine: Diagnostics(model, every=10).attach(engine),
}


@dataclass(frozen=True)
class Place:
    """Where it runs, how long it may take, and whether it only shows that it works."""

    device: torch.device
    seconds: float
    small: bool

    @property
    def cuda(self) -> bool:
        """Whether there are kernels and synchronisations to count."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Waits until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


@dataclass
class Training:
    """A model, its optimizer and a step that waits for nothing."""

    name: str
    model: nn.Module
    optimizer: Optimizer
    batches: list[tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    bf16: bool

    def step(self, engine: Engine, number: int) -> Tensor:
        """One optimizer step."""
        x, y = self.batches[number % len(self.batches)]
        self.optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Block(nn.Module):
    """A block of GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU("tanh")

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(attended.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_proj(self.act(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """A language model of GPT-2's shape; the head is the token embedding."""

    def __init__(self, tokens: int, context: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.h, self.ln_f = nn.ModuleList(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, tokens, bias=False)
        nn.init.normal_(self.wte.weight, std=0.02)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.size(1)]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def mlp(place: Place) -> Training:
    """The README's MLP, float32."""
    widths = (784, 64, 32, 10) if place.small else (784, 512, 256, 256, 128, 10)
    layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).to(place.device)
    size = 16 if place.small else 256
    return Training(
        f"MLP, batch {size}, float32",
        model,
        SGD(model.parameters(), lr=0.01, momentum=0.9),
        [(torch.randn(size, 784), torch.randint(10, (size,))) for _ in range(4)],
        F.cross_entropy,
        bf16=False,
    )


def resnet(place: Place) -> Training:
    """torchvision's ResNet-50, channels last, bf16."""
    models = import_module("torchvision.models")
    if place.small:
        name, size, side = "a ResNet of four blocks", 2, 16
        model: nn.Module = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=1000)
    else:
        name, size, side = "ResNet-50", 64, 224
        model = models.resnet50(weights=None)
    model = model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = [torch.randn(size, 3, side, side).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    return Training(
        f"{name}, batch {size} of {side} x {side}, channels last, {'bf16 autocast' if place.cuda else 'float32'}",
        model,
        SGD(model.parameters(), lr=0.01, momentum=0.9),
        [(x, torch.randint(1000, (size,))) for x in images],
        F.cross_entropy,
        bf16=place.cuda,  # convolutions of a CPU are slow in it
    )


def gpt(place: Place) -> Training:
    """GPT-2's size, bf16; with SGD on a CPU, where AdamW's own counters of steps would look like waits."""
    tokens, context, width, heads, depth = (500, 32, 32, 2, 2) if place.small else (50257, 512, 768, 12, 12)
    size = 2 if place.small else 8
    model = GPT(tokens, context, width, heads, depth).to(place.device)
    texts = [torch.randint(tokens, (size, context + 1)) for _ in range(4)]
    return Training(
        f"GPT, {depth} layers, {width} wide, {tokens} tokens, batch {size} x {context}, bf16 autocast",
        model,
        AdamW(model.parameters(), lr=1e-4) if place.cuda else SGD(model.parameters(), lr=1e-3),
        [(text[:, :-1].contiguous(), text[:, 1:].contiguous()) for text in texts],
        lambda logits, y: F.cross_entropy(logits.flatten(0, 1), y.flatten()),
        bf16=True,
    )


TRAININGS: dict[str, Callable[[Place], Training]] = {"mlp": mlp, "resnet50": resnet, "gpt2": gpt}


def prepare(name: str, place: Place) -> Training:
    """A training with its batches on the device."""
    torch.manual_seed(0)
    training = TRAININGS[name](place)
    training.batches = [(x.to(place.device), y.to(place.device)) for x, y in training.batches]
    return training


@contextlib.contextmanager
def gpu_path(place: Place) -> Iterator[None]:
    """On the CPU, the operations that every GPU takes instead of compiled loops."""
    if place.cuda:
        yield
        return
    with patch.object(kernels, "compiled", lambda: None), patch.object(kernels, "on_host", lambda tensor: False):
        yield


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |")
    sys.stdout.flush()


# Environment.


def environment(place: Place) -> bool:
    """The machine and the versions."""
    rows: list[tuple[str, object]] = [
        ("time", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("system", f"{platform.platform()}, {os.cpu_count()} cores"),
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
    ]
    rows += [(name, version(name)) for name in ("triton", "torchvision", "ignite", "numpy", "ignite_act")]
    if place.cuda:
        own = torch.cuda.get_device_properties(place.device)
        rows += [
            ("GPU", f"{own.name}, {own.total_memory / 2**30:.0f} GiB, {own.multi_processor_count} multiprocessors"),
            ("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"),
        ]
        asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        rows.append((asked.replace(",", ", "), first_output(command)))
    rows.append(("commit", first_output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])))
    table(("what", "value"), rows)
    return True


def version(name: str) -> str:
    """A package's version, or why there is none."""
    try:
        return str(import_module(name).__version__)
    except Exception as error:
        return f"none ({type(error).__name__})"


def first_output(command: list[str]) -> str:
    """What a program prints first; ``unknown`` where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


# Tests.


def tests(place: Place) -> bool:
    """The tests that compare devices and types."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        file = ROOT / "tests" / "cuda" / "test_cuda.py"
        chosen = "on_gpu" if place.cuda else "on_cpu and (float32 or bfloat16)" if place.small else "on_cpu"
        command = [sys.executable, "-m", "pytest", str(file), "-q", "-k", chosen, f"--junitxml={found}"]
        command += ["-c", os.devnull, f"--rootdir={ROOT}", f"--confcutdir={file.parent}", "-p", "no:cacheprovider"]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the machine's plugins may want another pytest
        limit = max(place.seconds, 1)
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=alone)
        if not found.exists():
            print(done.stdout[-3000:], done.stderr[-3000:])
            return False
        cases = list(ElementTree.parse(found).getroot().iter("testcase"))
    outcomes: dict[str, Counter[str]] = {}
    for case in cases:
        outcome = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")
        outcomes.setdefault(str(case.get("name")).partition("[")[0], Counter())[outcome] += 1
    kinds = ("passed", "failure", "error", "skipped")
    table(("test", *kinds), [(name, *(count[kind] for kind in kinds)) for name, count in outcomes.items()])
    bad = [(case, part) for case in cases for part in case if part.tag in ("failure", "error")]
    if bad:
        table(("what failed", "how"), [(c.get("name"), " ".join(str(p.get("message")).split())[:300]) for c, p in bad])
    return not bad and any(count["passed"] for count in outcomes.values())


# Waiting.

WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2"}
"""ATen operations whose result the host must know; a boolean index is a ``nonzero``."""

ONLY_ON_CPU = ("one_hot(",)
"""What looks at its values on a CPU and leaves that to the kernel on a GPU, in the line that calls it."""


class Waits(TorchDispatchMode):
    """Notes every operation that would make the host wait if the tensors were on a GPU."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(own, Tensor) and own.dtype is torch.bool for own in args[1]
        )
        if name in WAITING or masks:
            place = caller()
            if not any(word in place.partition(" < ")[0] for word in ONLY_ON_CPU):
                self._places[f"{name}: {place}"] += 1
        return func(*args, **(kwargs or {}))


def caller() -> str:
    """The three innermost lines that are not torch's, for ignite_act calls the model's functions in its place."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename not in (__file__, warnings.__file__)]
    chosen = [frame for frame in frames if "/torch/" not in frame.filename][-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in reversed(chosen))


@contextlib.contextmanager
def noting_waits(place: Place, places: Counter[str]) -> Iterator[None]:
    """Notes where the host waits for the device: CUDA's own debug mode, or a dispatch mode on the CPU."""
    if not place.cuda:
        methods = {name: getattr(Tensor, name) for name in ("tolist", "cpu", "item")}

        def noting(name: str) -> Callable[..., Any]:
            def noted(*args: Any, **kwargs: Any) -> Any:
                places[f"{name}: {caller()}"] += 1
                return methods[name](*args, **kwargs)

            return noted

        def noting_where(made: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def noted(*args: Any, **kwargs: Any) -> Tensor:
                if "device" in kwargs:  # numbers of the host that go straight to a device
                    places[f"{made.__name__}: {caller()}"] += 1
                return made(*args, **kwargs)

            return noted

        with contextlib.ExitStack() as stack:
            for name in methods:
                stack.enter_context(patch.object(Tensor, name, noting(name)))
            for made in (torch.tensor, torch.as_tensor):
                stack.enter_context(patch.object(torch, made.__name__, noting_where(made)))
            stack.enter_context(Waits(places))
            yield
        return

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            places[f"wait: {caller()}"] += 1

    with warnings.catch_warnings(), patch.object(warnings, "showwarning", note):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def window(training: Training, attach: Attach, steps: int, inside: Callable[[], AbstractContextManager[Any]]) -> Engine:
    """An epoch, of which the steps after the first and before the last run inside a context."""
    engine, stack = Engine(training.step), contextlib.ExitStack()
    engine.add_event_handler(Events.ITERATION_STARTED(once=steps), lambda: stack.close())
    with stack, attach(training.model, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: stack.enter_context(inside()))
        engine.run(range(steps), max_epochs=1)
    return engine


class Lines(logging.Handler):
    """Keeps what ignite_act logs: a diagnostic that fails does so there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().splitlines()[0])


@contextlib.contextmanager
def refusing_waits() -> Iterator[None]:
    """Makes CUDA raise where the host would wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(place: Place) -> bool:
    """Whether a step between the first and the last of a window waits for the device."""
    rows: list[tuple[object, ...]] = []
    places: dict[str, Counter[str]] = {}
    deadline = time.monotonic() + place.seconds
    steps = 4 * SAMPLED + 3  # some statistics keep 32 steps before they add them
    own: set[str] = set()
    for model in ("mlp", "gpt2"):
        training = prepare(model, Place(place.device, place.seconds, small=True))
        for name, attach in WATCHERS.items():
            if time.monotonic() > deadline:
                rows.append((model, name, "no time left", ""))
                continue
            found: Counter[str] = Counter()
            lines = Lines()
            logging.getLogger("ignite_act").addHandler(lines)
            raised = "not tried"
            try:
                with gpu_path(place):
                    window(training, attach, steps, partial(noting_waits, place, found))
                    if place.cuda:
                        lines.lines.clear()
                        window(training, attach, steps, refusing_waits)
                        raised = lines.lines[0] if lines.lines else "nothing"
            except Exception as error:
                raised = f"{type(error).__name__}: {error}".splitlines()[0]
            finally:
                logging.getLogger("ignite_act").removeHandler(lines)
            rows.append((model, name, f"{sum(found.values()) / (steps - 2):.2f}", raised))
            if name == "bare":
                own |= {line.partition(": ")[2].partition(" < ")[0] for line in found}
            for line, count in found.items():
                places.setdefault(line, Counter())[f"{model}, {name}"] += count
    how = "CUDA's debug mode" if place.cuda else "a dispatch mode on the CPU"
    table(("model", "watched by", f"waits per step, by {how}", "raised in error mode"), rows)
    if places:
        called = [(line, "; ".join(count), sum(count.values())) for line, count in places.items()]
        table(("which call waited", "in", "how often"), called)
    foreign = [line for line in places if not any(known in line for known in own)]  # not the model's own waits
    return not foreign and all(row[3] in ("nothing", "not tried") for row in rows if row[1] != "bare")


# Cost.


class Operations(TorchDispatchMode):
    """Counts operations, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        views = (own.alias_info is not None and not own.alias_info.is_write for own in func._schema.returns)
        self.count += not any(views)
        return func(*args, **(kwargs or {}))


def operations_per_step(training: Training, attach: Attach) -> float:
    """Operations of a step, mean of a round of sampled and other steps, after the first step of a window."""
    mode = Operations()
    window(training, attach, SAMPLED + 2, lambda: mode)
    return mode.count / SAMPLED


def launches_per_step(training: Training, attach: Attach) -> tuple[float, float]:
    """Kernels launched and copies started in a step, likewise."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    window(training, attach, SAMPLED + 2, lambda: profiler)
    counts = Counter[str]()
    for event in profiler.key_averages():
        counts[event.key] += event.count
    kernels_ = sum(count for key, count in counts.items() if key.startswith(("cudaLaunch", "cuLaunch")))
    copies = sum(count for key, count in counts.items() if key.startswith(("cudaMemcpy", "cudaMemset")))
    return kernels_ / SAMPLED, copies / SAMPLED


def seconds_per_step(training: Training, attach: Attach, place: Place, rounds: int) -> tuple[float, float]:
    """Seconds of a step between the first and the last of a window, and of the whole end of the window."""
    marks: list[Any] = []

    def mark() -> None:
        if place.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append(event)
        else:
            marks.append(time.perf_counter())

    steps = rounds * SAMPLED
    engine = Engine(training.step)
    ended = [0.0]

    def before_end() -> None:
        place.synchronize()
        ended[0] = time.perf_counter()

    with attach(training.model, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=steps + 1), mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=steps + 1), before_end)
        engine.run(range(steps + 1), max_epochs=1)
        place.synchronize()
        end = time.perf_counter() - ended[0]
    first, last = marks[0], marks[-1]
    return (first.elapsed_time(last) / 1000 if place.cuda else last - first) / steps, end


def cost(name: str, place: Place) -> bool:
    """Time, operations, kernels and memory of every way of watching one model."""
    deadline = time.monotonic() + place.seconds
    training = prepare(name, place)
    with gpu_path(place):
        counted: dict[str, tuple[str, str, str, str]] = {}
        times: dict[str, list[tuple[float, float]]] = {watcher: [] for watcher in WATCHERS}
        first = sorted(WATCHERS, key=("Diagnostics", "bare").__contains__, reverse=True)  # where time may run out
        for watcher in first:
            in_time = time.monotonic() < deadline - place.seconds / 2
            counted[watcher] = counts(training, WATCHERS[watcher], place) if in_time else ("-",) * 4
        length = 1 if place.small else 10 if name == "mlp" else 2
        order = list(WATCHERS)
        for number in range(1, 2) if place.small else range(8):  # the first round, number 0, warms up
            if number > 1 and time.monotonic() > deadline:
                break
            for watcher in order:
                timed = seconds_per_step(training, WATCHERS[watcher], place, length)
                if number:
                    times[watcher].append(timed)
            order = order[1:] + order[:1]
    bare = times["bare"]
    rows = []
    for watcher, own in times.items():
        ratios = sorted(a[0] / b[0] for a, b in zip(own, bare, strict=True))
        step = 1000 * statistics.median(a[0] for a in own)
        end = 1000 * statistics.median(a[1] for a in own)
        spread = f"{statistics.median(ratios):.3f} [{ratios[0]:.3f} .. {ratios[-1]:.3f}]"
        rows.append((watcher, f"{step:.3f}", spread, f"{end:.1f}", *counted[watcher]))
    print(f"\n{training.name}; {len(bare)} interleaved rounds of {length * SAMPLED} steps, medians")
    head = ("watched by", "ms a step", "bare = 1", "ms to end the window", "operations a step")
    table((*head, "kernels a step", "copies a step", "peak MiB"), rows)
    return True


def counts(training: Training, attach: Attach, place: Place) -> tuple[str, str, str, str]:
    """Operations, kernels, copies and peak memory, as they are printed."""
    operations = f"{operations_per_step(training, attach):.1f}"
    if not place.cuda:
        return operations, "-", "-", "-"
    torch.cuda.reset_peak_memory_stats(place.device)
    window(training, attach, SAMPLED + 2, nullcontext)
    peak = torch.cuda.max_memory_allocated(place.device) / 2**20
    launched, copied = launches_per_step(training, attach)
    return operations, f"{launched:.1f}", f"{copied:.1f}", f"{peak:.0f}"


SECTIONS: dict[str, tuple[str, Callable[[Place], bool]]] = {
    "environment": ("Environment", environment),
    "tests": ("The same statistics as on the CPU in float64", tests),
    "waits": ("Steps that wait for the device", waits),
    "mlp": ("Cost on the MLP", lambda place: cost("mlp", place)),
    "resnet50": ("Cost on ResNet-50", lambda place: cost("resnet50", place)),
    "gpt2": ("Cost on a model of GPT-2's size", lambda place: cost("gpt2", place)),
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one section; 1 if it found something wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=120.0, help="stop measuring after about so long")
    parser.add_argument("--small", action="store_true", help="tiny models and one round: shows that it works")
    given = parser.parse_args(words)
    title, run = SECTIONS[given.section]
    print(f"\n## {title}", flush=True)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("\nThere is no CUDA device here: try --device cpu --small.")
        return 1
    right = run(Place(torch.device(given.device), given.seconds, given.small))
    if not right:
        print("\nNot right: see above.")
    return not right


if __name__ == "__main__":
    sys.exit(main())
