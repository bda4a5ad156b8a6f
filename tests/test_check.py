"""A model of the user's own, judged in a few hundred steps."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from ignite_act.check import check, load_model, load_own_data, windows
from ignite_act.cli import main
from ignite_act.data import TensorLoader, load_data
from ignite_act.errors import UserError
from ignite_act.testing import global_hooks

NETS = '''
"""What a user may have."""
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    """Flattens by itself and calls F.relu."""
    def __init__(self, width=32):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, width), nn.Linear(width, 10)
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

class Stops(Net):
    """Its step raises after a while."""
    steps = 0
    def forward(self, x):
        self.steps += self.training
        if self.steps == 40:
            raise self.error
        return super().forward(x)

class Boom(Stops):
    error = RuntimeError("boom\\nand the rest of it")

class Asserts(Stops):
    error = AssertionError("four axes are needed")

class RefusesNaN(Net):
    """Becomes NaN after a while, and does not stand it."""
    steps = 0
    def forward(self, x):
        self.steps += self.training
        if self.steps == 40:
            with torch.no_grad():
                self.fc1.weight[0, 0] = float("nan")
        y = super().forward(x)
        if y.isnan().any():
            raise ValueError("NaN is refused")
        return y

class NeedsWidth(nn.Module):
    def __init__(self, width):
        super().__init__()

class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class Text(nn.Module):
    def forward(self, x):
        return "logits"

def flat():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10))

def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

def norm():
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

def softmax():
    return nn.Sequential(*flat(), nn.Softmax(1))

def sigmoids():
    deep = [part for _ in range(8) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    return nn.Sequential(*deep, nn.Linear(64, 10))

def wide():
    return nn.Sequential(nn.Linear(64, 7))

def two(outputs=2):
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs))

def one():
    return two(1)

instance = Net()
number = 3
x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
right = (x[:, 0] > 0)

def classes():
    return x, right.long()

def floats():
    return x, right.float()

def column():
    return [x, right.double()[:, None]]

def bools():
    return x, right

pair = (x, right)

def one_hot():
    return x, F.one_hot(right.long())

def one_hot_floats():
    return x, F.one_hot(right.long()).float()

def negative():
    return x, right.long() - 1

def regression():
    return x, x[:, 0]

def complex_targets():
    return x, right.to(torch.complex64)

def few():
    return x[:9], right[:9]

def unequal():
    return x, right[:100]

def scalars():
    return torch.tensor(1.0), torch.tensor(1)

def arrays():
    return x.numpy(), right.numpy()

def fails():
    raise OSError("no disk\\nat all")

def nothing():
    return None
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with modules of a user's, which is the current one."""
    (tmp_path / "own_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/small.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "nets/random.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("import torch\n1 / 0\n", encoding="utf-8")
    (tmp_path / "own_script.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    (tmp_path / "own_syntax.py").write_text("def f(:\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "checked_")):
            del sys.modules[name]


@pytest.fixture
def invoke(place, monkeypatch):
    """Calls the command there, on a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(main, ["check", *map(str, arguments)])


def words(output):
    """The findings' table folds: the words of it, in order."""
    return " ".join(output.split())


def command(*arguments):
    """Calls the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ignite_act", "check", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
    )  # fmt: skip


# What works


@pytest.mark.slow
def test_the_command(place):
    """The real command trains a model from the current directory and says what is wrong, quietly and without files."""
    before = sorted(place.rglob("*"))
    done = command("own_nets:softmax", "--fail-on", "warning")
    assert (done.returncode, done.stderr) == (
        3, "--fail-on warning: 3: probabilities and logits are mixed up\n",
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "own_nets:softmax on digits: 300 steps of 32, adam 0.001, in 10 windows"
    assert [line.split(" |")[0] for line in lines if line.startswith("window")] == [
        f"window {number}" for number in range(1, 11)
    ]
    assert lines[2].startswith("  WARNING 3: probabilities and logits are mixed up, since")
    assert lines[-1] == "findings       1 warning"
    assert sorted(place.rglob("*")) == before


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "target",
    [
        "own_nets:flat", "own_nets:Net", "own_nets:instance", "own_nets:conv", "own_nets:lazy", "nets/small.py:Net",
        "./nets/random.py:flat", "nets.small:Net",
    ],
)  # fmt: skip
def test_targets(invoke, place, target):
    """A module of the current directory or the path of a file; a class, an instance or a function; none is alarmed."""
    before = sorted(place.rglob("*"))
    done = invoke(target, "--steps", 150, "--fail-on", "info")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[0] == f"{target} on digits: 150 steps of 32, adam 0.001, in 10 windows"
    assert done.stdout.splitlines()[-1] == "findings       none"
    assert sorted(place.rglob("*")) == before
    assert global_hooks() == []


def test_a_file_does_not_take_the_place_of_a_module(place):
    """A file of the user's that is called like a module of Python's leaves that one alone."""
    import random

    assert isinstance(load_model("nets/random.py:Net"), nn.Module)
    assert sys.modules["random"] is random


@pytest.mark.slow
def test_a_deep_stack_of_sigmoids(invoke):
    """The gradient that vanishes on its way back is the first finding, and names the first layer."""
    done = invoke("own_nets:sigmoids", "--fail-on", "error")
    assert done.exit_code == 3
    assert done.stderr.startswith("--fail-on error: 0: the gradient vanishes on its way back")
    assert "never did better than a constant" in words(done.stdout)


@pytest.mark.few(2)
@pytest.mark.parametrize(("fail_on", "code"), [(None, 0), ("error", 0), ("warning", 3), ("info", 3)])
def test_fail_on(invoke, fail_on, code):
    """A finding of that severity or a worse one is exit code 3 and a line; without the option findings are no error."""
    options = ["--fail-on", fail_on] if fail_on else []
    done = invoke("own_nets:softmax", "--steps", 200, *options)
    said = f"--fail-on {fail_on}: 3: probabilities and logits are mixed up\n"
    assert (done.exit_code, done.stderr) == (code, said if code else "")
    assert done.stdout.splitlines()[-1] == "findings       1 warning"


@pytest.mark.few(2)
@pytest.mark.parametrize("target", ["circles", "own_nets:floats", "own_nets:column", "own_nets:pair"])
@pytest.mark.parametrize("model", ["own_nets:one", "own_nets:two"])
def test_own_data(invoke, target, model):
    """Two classes go with one logit or with two, from data of ours and of the user's: a function's or a pair."""
    if (model, target) == ("own_nets:one", "own_nets:pair"):
        target = "nets/small.py:floats"  # whole numbers and one logit do not go together
    done = invoke(model, "--data", target, "--lr", 0.02, "--batch-size", 16, "--optimizer", "adamw", "--steps", 100)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[0] == f"{model} on {target}: 100 steps of 16, adamw 0.02, in 10 windows"
    if target != "circles":
        assert done.stdout.splitlines()[-1] == "findings       none"
        assert float(done.stdout.split("val ")[-1].split()[0]) > 0.9


def test_some_steps(invoke):
    """The number of steps that is said is the number that is made: as many as were asked for, in whole windows."""
    for asked, made, count in ((1, 1, 1), (4, 4, 4), (15, 16, 8), (100, 100, 10)):
        done = invoke("own_nets:Net", "--steps", asked)
        assert done.exit_code == 0
        assert f" {made} steps of 32, adam 0.001, in {count} windows\n" in done.stdout
        assert sum(line.startswith("window") for line in done.stdout.splitlines()) == count


def test_windows():
    """For any number of steps: at most ten windows, never fewer steps than asked, less than one window too many."""
    for steps in range(1, 400):
        count, length = windows(steps)
        assert count <= 10
        assert steps <= count * length < steps + length


# A step that fails


@pytest.mark.parametrize(
    ("model", "said"),
    [("Boom", "RuntimeError: boom"), ("Asserts", "AssertionError: four axes are needed")],
)
def test_a_step_that_raises(invoke, model, said):
    """What the model raises in the middle is exit code 1 and one line with the step; what was seen before is shown."""
    done = invoke(f"own_nets:{model}", "--fail-on", "info")
    assert (done.exit_code, done.stderr) == (1, f"error: step 40: {said}\n")
    lines = [line for line in done.stdout.splitlines() if line.startswith("window")]
    assert ["(partial)" in line for line in lines] == [False, True]
    assert global_hooks() == []


@pytest.mark.slow
def test_a_step_that_refuses_nan(place):
    """The finding names the layer and the step of the first NaN, although the step never ended."""
    done = command("own_nets:RefusesNaN")  # where nobody has set up logging
    assert (done.returncode, done.stderr) == (1, "error: step 40: ValueError: NaN is refused\n")
    assert "ERROR fc1: NaN or infinite numbers, since epoch 2" in done.stdout
    assert "the first NaN or infinity is in the weight; its iteration is 40)" in done.stdout
    assert done.stdout.splitlines()[-1] == "findings       1 error"


def test_a_batch_too_small_for_batch_norm(invoke):
    """An error that only training shows is said in the line."""
    done = invoke("own_nets:norm", "--batch-size", 1)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: step 1: ValueError: Expected more than 1 value per channel")


# Bad input

BAD = {
    "own_nets": "'own_nets' does not name anything: MODULE:NAME is expected",
    ":Net": "does not name anything",
    "own_nets:": "does not name anything",
    "own_nets:Nett": "own_nets has no 'Nett' (it has: ",
    "own_nets:Net.nothing": "own_nets has no 'Net.nothing'",
    "own_nowhere:Net": "own_nowhere cannot be imported: ModuleNotFoundError: No module named 'own_nowhere'",
    ".own_nets:Net": ".own_nets cannot be imported: TypeError",
    "nowhere/nets.py:Net": "there is no file nowhere/nets.py",
    "nets.py:Net": "there is no file nets.py",
    "own_broken:Net": "own_broken cannot be imported: ZeroDivisionError: division by zero",
    "own_broken.py:Net": "own_broken.py cannot be imported: ZeroDivisionError: division by zero",
    "own_script:Net": "own_script cannot be imported: SystemExit: 0",
    "own_syntax.py:Net": "own_syntax.py cannot be imported: SyntaxError: invalid syntax",
    "own_nets:number": "own_nets:number is int: a torch.nn.Module or a function that makes one is expected",
    "own_nets:NeedsWidth": "own_nets:NeedsWidth() failed: TypeError: ",
    "own_nets:fails": "own_nets:fails() failed: OSError: no disk",
    "own_nets:nothing": "own_nets:nothing() returned NoneType: a torch.nn.Module is expected",
    "own_nets:classes": "own_nets:classes() returned tuple: a torch.nn.Module is expected",
    "own_nets:Text": "the model returned str: a tensor of logits is expected",
    "own_nets:wide": "the model gives outputs of shape (N, 7), digits needs (N, 10)",
    "own_nets:one": "the model cannot be called with inputs of shape (2, 1, 8, 8): RuntimeError: ",
    "own_nets:Frozen": "the model has no parameter that can be trained",
}
BAD_DATA = {
    "nosuch": "unknown data set 'nosuch' (known: digits, circles, fashionmnist)",
    "own_nets:one_hot": "own_nets:one_hot gives targets of shape (200, 2) and type torch.int64: a class",
    "own_nets:one_hot_floats": "own_nets:one_hot_floats gives targets of shape (200, 2) and type torch.float32",
    "own_nets:complex_targets": "own_nets:complex_targets gives targets of shape (200,) and type torch.complex64",
    "own_nets:negative": "the targets of own_nets:negative must be classes, counted from 0: there is -1",
    "own_nets:regression": "the targets of own_nets:regression must be classes (whole numbers), or 0.0 and 1.0",
    "own_nets:few": "own_nets:few gives 9 inputs and 9 targets: as many of both, at least 10, are expected",
    "own_nets:unequal": "own_nets:unequal gives 200 inputs and 100 targets",
    "own_nets:scalars": "own_nets:scalars gives 1 inputs and 1 targets",
    "own_nets:arrays": "own_nets:arrays must give two tensors, inputs and targets",
    "own_nets:number": "own_nets:number must give two tensors",
    "own_nets:nothing": "own_nets:nothing must give two tensors",
    "own_nets:fails": "own_nets:fails() failed: OSError: no disk",
    "own_nets:nowhere": "own_nets has no 'nowhere'",
}


def assert_refused(done, said, place, before):
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"error: {said}") or said in done.stderr
    assert (done.stderr.startswith("error: "), done.stderr.count("\n")) == (True, 1)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("target", BAD)
def test_bad_models(invoke, place, target):
    """What cannot be had or be trained is one line that says why, with exit code 2."""
    before = sorted(place.rglob("*"))
    assert_refused(invoke(target), BAD[target], place, before)


@pytest.mark.parametrize("target", BAD_DATA)
def test_bad_data(invoke, place, target):
    """Data that does not fit is one line that says what is expected, with exit code 2."""
    before = sorted(place.rglob("*"))
    assert_refused(invoke("own_nets:two", "--data", target), BAD_DATA[target], place, before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lr", "nan"], "the learning rate must be a finite number above 0, got nan"),
        (["--lr", "inf"], "the learning rate must be a finite number above 0, got inf"),
        (["--lr", "0"], "Invalid value for '--lr'"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--optimizer", "lion"], "Invalid value for '--optimizer'"),
        (["--fail-on", "all"], "Invalid value for '--fail-on'"),
        (["--data", "fashionmnist", "--data-root", "nowhere"], "nowhere"),
    ],
)
def test_bad_options(invoke, place, monkeypatch, options, said):
    """Options out of their range are one line, with exit code 2."""
    from ignite_act import data

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", place / "nowhere either")
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    done = invoke("own_nets:Net", *options)
    assert done.exit_code == 2, done.output
    assert (done.stderr.startswith("error: "), done.stderr.count("\n")) == (True, 1)
    assert said in done.stderr


# From Python


class Counting(nn.Module):
    """Counts its forwards in a buffer and draws random numbers in each of them."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.register_buffer("forwards", torch.tensor(0))

    def forward(self, x):
        self.forwards += 1
        return self.fc(x) + 0.01 * torch.randn(len(x), 10)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))


def test_check_trains_as_plain_torch():
    """The weights are bit for bit those of a plain loop over the same batches: looking changes nothing."""
    mine, other, data = network(), network(), load_data("digits")
    checked = check(mine, data, optimizer="sgd", lr=0.1, steps=20, seed=7)
    assert (checked.steps, checked.error) == (20, "")
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    loader = TensorLoader(data.train, 32, shuffle=True, drop_last=True, seed=7)
    for _, (x, y) in zip(range(20), loader, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(other(x.flatten(1)), y).backward()
        optimizer.step()
    for (name, weight), twin in zip(mine.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, twin), name


def test_the_first_look_leaves_no_trace():
    """Finding the shapes changes neither the model's buffers nor the random numbers of the training."""
    data, model, twin = load_data("digits"), Counting(), Counting()
    twin.load_state_dict(model.state_dict())
    checked = check(model, data, steps=1, seed=5)
    assert (checked.steps, int(model.forwards)) == (1, 2)  # the validation is the second one
    torch.manual_seed(5)
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3)
    x, y = next(iter(TensorLoader(data.train, 32, shuffle=True, seed=5)))
    F.cross_entropy(twin(x.flatten(1)), y).backward()
    optimizer.step()
    assert torch.equal(model.fc.weight, twin.fc.weight)


def test_layers_that_are_lazy():
    """Layers that learn their shapes from the first input get them from the first look."""
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1))
    checked = check(model, load_data("circles"), steps=3)
    assert (checked.steps, checked.error, model[0].in_features) == (3, "", 2)


def test_check_again():
    """The same model with the same seed gives the same findings and numbers."""
    reports = [check(network(), load_data("digits"), steps=30, seed=3).report.to_dict() for _ in range(2)]
    for report in reports:
        report.pop("cost")
    assert reports[0] == reports[1]


def test_an_optimizer_of_ones_own():
    """An optimizer that owns a part of the model leaves the rest alone, which is found."""
    model = network()
    optimizer = torch.optim.SGD(model[3].parameters(), 0.1)
    before = model[0].weight.clone()
    checked = check(model, load_data("digits"), optimizer=optimizer, lr=float("nan"), steps=100)
    assert torch.equal(model[0].weight, before)
    assert [(finding.kind, finding.layer) for finding in checked.findings[:1]] == [("never_updated", "0")]


def test_findings_that_stand_come_first():
    """The findings of the check are those that stand at its end, then those that were over before."""

    class Late(nn.Module):
        """Its first layer is cut off at the beginning."""

        def __init__(self):
            super().__init__()
            self.body, self.head, self.steps = network()[:3], nn.Linear(16, 10), 0

        def forward(self, x):
            self.steps += self.training
            y = self.body(x)
            return F.softmax(self.head(y.detach() if self.steps <= 20 else y), 1)

    torch.manual_seed(0)
    findings = check(Late(), load_data("digits"), lr=0.01, steps=100).findings
    kinds = {finding.kind: finding.cleared_epoch for finding in findings}
    assert kinds["no_gradient"] is not None
    assert kinds["output_probabilities"] is None
    over = [finding.cleared_epoch is not None for finding in findings]
    assert over == sorted(over)


@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_one_logit(shape, place):
    """One logit may be a column or flat: the numbers are the same, those of a binary cross-entropy."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x):
            return self.net(x).flatten() if shape == "(N,)" else self.net(x)

    data = load_own_data("own_nets:floats")
    assert (data.task, data.outputs, len(data.train), len(data.validation)) == ("binary", 1, 160, 40)
    model = Flat()
    report = check(model, data, steps=40).report
    with torch.no_grad():
        loss = F.binary_cross_entropy_with_logits(model.net(data.validation.x), data.validation.y)
    assert report.scores["loss"]["validation"] == pytest.approx(float(loss), rel=1e-6)
    assert report.output["loss_applies"] == "sigmoid"


def test_two_logits_equal_one(place):
    """For two classes, a logit of 0 beside another one trains as that one does alone."""

    class Pair(nn.Module):
        def __init__(self, both):
            super().__init__()
            torch.manual_seed(0)
            self.net, self.both = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), both

        def forward(self, x):
            y = self.net(x)
            return torch.cat([torch.zeros_like(y), y], 1) if self.both else y

    one, two = (check(Pair(both), load_own_data("own_nets:floats"), steps=40).report for both in (False, True))
    for split in ("train", "validation"):
        assert one.scores["loss"][split] == pytest.approx(two.scores["loss"][split], rel=1e-4)
        assert one.scores["accuracy"][split] == two.scores["accuracy"][split]


def test_own_data_is_divided(place):
    """A fifth of the user's samples is held out, each sample is in one part only, with its own target."""
    data = load_own_data("own_nets:bools")
    assert (data.task, data.outputs) == ("classification", 2)
    x = torch.cat([data.train.x, data.validation.x])
    assert len({tuple(row) for row in x.tolist()}) == len(x) == 200
    for part in (data.train, data.validation):
        assert torch.equal(part.y, (part.x[:, 0] > 0).long())


def test_the_model_is_made_with_the_seed(place):
    """Weights that a function makes follow from the seed, whatever the random state was."""
    weights = [load_model("own_nets:flat", seed)[0].weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_wrong_shapes_are_named():
    """The error says what the model gives and what the data needs, a number instead of a tensor's shape included."""

    class Gives(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, x):
            return torch.zeros(self.shape)

    for shape, data, said in (
        ((2, 3, 10), "digits", r"outputs of shape \(N, 3, 10\), digits needs \(N, 10\)"),
        ((), "digits", r"outputs of shape a single number, digits needs"),
        ((2, 3), "circles", r"outputs of shape \(N, 3\), circles needs \(N, 1\) or \(N,\)"),
    ):
        with pytest.raises(UserError, match=said):
            check(Gives(*shape), load_data(data), steps=1)
