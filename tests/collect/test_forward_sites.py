from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ignite_act.collect import ActivationCollector, DeadUnitCollector, GradientCollector
from ignite_act.testing import (
    ChannelsLastBlock,
    FunctionalMLP,
    Gate,
    HandWrittenReLU,
    InPlaceCNN,
    LinearModel,
    ResidualCNN,
    SharedReLU,
    Transformer,
    TupleLSTM,
    train,
)

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(15).remainder(11).view(3, 5)


class Lambda(nn.Module):
    """A forward given as a function of the module."""

    def __init__(self, function: Callable[..., Tensor], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def sites(model: nn.Module, x: Tensor = X, **options: Any) -> list[str]:
    """The names of the sites of one forward, in their order."""
    with DeadUnitCollector(model, **options) as collector:
        model(x)
        return list(collector.finish())


def units(model: nn.Module, x: Tensor, **options: Any) -> dict[str, int]:
    with DeadUnitCollector(model, **options) as collector:
        model(x)
        return {name: row["units"] for name, row in collector.finish().items()}


NAMES: dict[str, tuple[nn.Module, Tensor, list[str]]] = {
    "modules": (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh()), X, ["1", "3"]),
    "one object under two names": (SharedReLU(), X, ["layers.1", "layers.3"]),
    "one object called twice": (ResidualCNN(), IMAGES, ["block.relu", "block.relu#2"]),
    "functional calls at the root": (FunctionalMLP(), X, ["relu", "relu#2"]),
    "functional calls below the root": (
        nn.Sequential(FunctionalMLP(out_features=4), LinearModel()),
        X,
        ["0.relu", "0.relu#2"],
    ),
    "in-place module and method": (InPlaceCNN(), IMAGES, ["act1", "relu"]),
    "the model itself is an activation": (nn.ReLU(), X, ["ReLU"]),
    "a hand-written product with a known call": (nn.Sequential(Gate()), X, ["0.sigmoid"]),
    "every form of one function": (
        Lambda(lambda self, x: F.relu(torch.relu(x.relu().relu_())) + F.relu_(x.clone())),
        X,
        ["relu", "relu#2", "relu#3", "relu#4", "relu#5"],
    ),
    "several functions": (
        Lambda(lambda self, x: torch.tanh(F.leaky_relu(x.sigmoid(), 0.1)).tanh()),
        X,
        ["sigmoid", "leaky_relu", "tanh", "tanh#2"],
    ),
    "a module called four times": (
        Lambda(lambda self, x: self.act(self.act(self.act(self.act(x)))), act=nn.ReLU()),
        X,
        ["act", "act#2", "act#3", "act#4"],
    ),
    "a module and a function of one name": (
        Lambda(lambda self, x: F.relu(self.relu(x)), relu=nn.ReLU()),
        X,
        ["relu", "relu#2"],
    ),
    "a block called twice": (
        Lambda(lambda self, x: self.block(self.block(x)), block=Lambda(lambda self, x: F.relu(x))),
        X,
        ["block.relu", "block.relu#2"],
    ),
    "a block under two names": (
        Lambda(lambda self, x: self.b(self.a(x)), **dict.fromkeys("ab", Lambda(lambda self, x: F.relu(x)))),  # type: ignore[arg-type]
        X,
        ["a.relu", "b.relu"],
    ),
    "three names, called twice": (
        Lambda(lambda self, x: self.b(self.a(x)), **dict.fromkeys("abc", nn.ReLU())),  # type: ignore[arg-type]
        X,
        ["a", "a#2"],
    ),
    "no activation": (LinearModel(), X, []),
    "a placeholder": (nn.Sequential(nn.Identity(), nn.Linear(4, 2)), X, []),
    "an encoder in training mode": (Transformer(), TOKENS, ["encoder.layers.0.relu", "encoder.layers.1.relu"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_sites_are_named_as_the_design_says(case: str) -> None:
    """A site is one call, named after its module or after the enclosing module and the function, in call order."""
    model, x, expected = NAMES[case]
    assert sites(model.train(), x) == expected


@pytest.mark.parametrize("case", NAMES)
def test_names_are_the_same_in_the_second_forward_and_window(case: str) -> None:
    """The k-th call has the same name in every forward, so one site collects the whole window."""
    model, x, expected = NAMES[case]
    with ActivationCollector(model.train()) as collector:
        model(x)
        once = collector.finish()
        for _ in range(3):
            model(x)
        thrice = collector.finish()
    assert list(once) == list(thrice) == expected
    assert [row["count"] for row in thrice.values()] == [3 * row["count"] for row in once.values()]


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 17), ("resnet50", 49)])
def test_resnets_have_all_their_sites(name: str, expected: int) -> None:
    """ReLU objects that a ResNet uses two and three times are as many sites, each with its own channels."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    with torch.no_grad():
        found = units(model, torch.randn(1, 3, 32, 32))
    assert len(found) == expected
    if name == "resnet50":
        assert [found[f"layer1.0.relu{suffix}"] for suffix in ("", "#2", "#3")] == [64, 64, 256]


def wrapped_body() -> nn.Module:
    model = SharedReLU()
    model.layers = nn.DataParallel(model.layers)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_prefixes_of_wrappers_are_stripped(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Names under DataParallel and torch.compile are those of the bare model."""
    model = wrap(SharedReLU())
    collector = GradientCollector(model)
    with collector:
        inner = collector.model
        train(inner, [(X, torch.zeros(5, dtype=torch.long))])
        rows = collector.finish()
    assert isinstance(inner, SharedReLU)
    assert list(rows) == ["layers.0", "layers.2", "layers.4"]


def test_sites_below_data_parallel_have_bare_names() -> None:
    """Watching the wrapper sees the forwards that go through it."""
    assert sites(nn.DataParallel(SharedReLU())) == ["layers.1", "layers.3"]


def test_a_process_group_wrapper_is_looked_through(tmp_path: Any) -> None:
    """Names under DistributedDataParallel are those of the bare model."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(SharedReLU())
        with GradientCollector(model) as gradients, DeadUnitCollector(model) as dead_units:
            train(model, [(X, torch.zeros(5, dtype=torch.long))])
            assert list(gradients.finish()) == ["layers.0", "layers.2", "layers.4"]
            assert list(dead_units.finish()) == ["layers.1", "layers.3"]
    finally:
        torch.distributed.destroy_process_group()


CHANNELS = 4
CONV1D = nn.Conv1d(3, CHANNELS, 3)
CONV2D = nn.Conv2d(1, CHANNELS, 3)
LAYOUTS: dict[str, tuple[nn.Module, Tensor, list[int]]] = {
    "(N, F)": (nn.Sequential(nn.Linear(4, 6), nn.ReLU()), X, [6]),
    "(N, T, F)": (nn.Sequential(nn.Linear(4, 6), nn.ReLU()), torch.randn(2, 5, 4), [6]),
    "(F,)": (nn.Sequential(nn.Linear(4, 6), nn.ReLU()), torch.randn(4), [6]),
    "conv1d": (nn.Sequential(CONV1D, nn.ReLU()), torch.randn(2, 3, 9), [CHANNELS]),
    "conv2d": (nn.Sequential(CONV2D, nn.ReLU()), IMAGES, [CHANNELS]),
    "one unbatched image": (nn.Sequential(CONV2D, nn.ReLU()), IMAGES[0], [CHANNELS]),
    "transposed convolution": (nn.Sequential(nn.ConvTranspose2d(1, CHANNELS, 3), nn.ReLU()), IMAGES, [CHANNELS]),
    "batch norm behind conv": (nn.Sequential(CONV2D, nn.BatchNorm2d(CHANNELS), nn.ReLU()), IMAGES, [CHANNELS]),
    "group norm behind conv": (nn.Sequential(CONV2D, nn.GroupNorm(2, CHANNELS), nn.ReLU()), IMAGES, [CHANNELS]),
    "dropout and pooling between": (
        nn.Sequential(CONV2D, nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Tanh()),
        IMAGES,
        [CHANNELS, CHANNELS],
    ),
    "a chain of activations": (nn.Sequential(CONV2D, nn.ReLU(), nn.Sigmoid()), IMAGES, [CHANNELS, CHANNELS]),
    "linear behind flattened conv": (
        nn.Sequential(CONV2D, nn.ReLU(), nn.Flatten(), nn.Linear(CHANNELS * 36, 6), nn.ReLU()),
        IMAGES,
        [CHANNELS, 6],
    ),
    "flattened conv itself": (nn.Sequential(CONV2D, nn.Flatten(), nn.ReLU()), IMAGES, [CHANNELS * 36]),
    "flattened positions": (nn.Sequential(CONV2D, nn.Flatten(2), nn.ReLU()), IMAGES, [CHANNELS]),
    "residual sums": (ResidualCNN(CHANNELS), IMAGES, [CHANNELS, CHANNELS]),
    "concatenated branches": (
        Lambda(lambda self, x: F.relu(torch.cat([self.c(x), self.c(x)], 1)), c=CONV2D),
        IMAGES,
        [8],
    ),
    "channels-last and back": (ChannelsLastBlock(CHANNELS, 6), IMAGES, [6, CHANNELS]),
    "patches become tokens": (
        Lambda(lambda self, x: F.gelu(self.c(x).flatten(2).transpose(1, 2)), c=CONV2D),
        IMAGES,
        [CHANNELS],
    ),
    "global pooling": (Lambda(lambda self, x: F.relu(self.c(x).mean((2, 3))), c=CONV2D), IMAGES, [CHANNELS]),
    "a hand-written module behind conv": (nn.Sequential(CONV2D, HandWrittenReLU()), IMAGES, [CHANNELS]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_units_lie_on_the_axis_that_the_design_says(case: str) -> None:
    """The units are on the last axis, and on axis 1 where the input comes from a convolution."""
    model, x, expected = LAYOUTS[case]
    chosen = {"sites": [HandWrittenReLU]} if "hand-written" in case else {}
    assert list(units(model, x, **chosen).values()) == expected


@pytest.mark.parametrize("case", ["conv2d", "channels-last and back", "residual sums"])
def test_memory_format_does_not_move_the_units(case: str) -> None:
    """Channels-last memory is no other layout."""
    model, x, expected = LAYOUTS[case]
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert list(units(model, x.to(memory_format=torch.channels_last)).values()) == expected


@pytest.mark.parametrize(
    ("unit_dim", "expected"),
    [(0, [2, 2]), (1, [4, 5]), (-1, [6, 4]), ({"1": 2}, [6, 4]), ({"*": 1}, [4, 5]), ({"other": 1}, [4, 4])],
)
def test_unit_dim_overrides_the_rule(unit_dim: Any, expected: list[int]) -> None:
    """One axis for all sites, or one per name or glob; the others keep the rule."""
    conv, tokens = (
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Tanh()),
    )
    first = list(units(conv, torch.randn(2, 3, 8), unit_dim=unit_dim).values())
    second = list(units(tokens, torch.randn(2, 5, 3), unit_dim=unit_dim).values())
    assert first + second == expected


def test_an_axis_that_does_not_exist_is_said_in_the_coverage() -> None:
    """A wrong unit_dim gives the site up and says why; the forward goes on."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with DeadUnitCollector(model, unit_dim=2) as collector:
        assert model(X).shape == (5, 3)
        assert collector.finish() == {}
    assert "unit_dim 2 does not exist" in collector.coverage.unseen["1"]


class Mixed(nn.Module):
    """Two recognised modules, a functional call, two hand-written ones and a fused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
        self.hand = HandWrittenReLU()
        self.gates = nn.ModuleList([Gate(), Gate()])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.hand(self.head(x)))
        for gate in self.gates:
            x = gate(x)
        return x


DEFAULT = ["head.1", "head.3", "relu", "gates.0.sigmoid", "gates.1.sigmoid"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, DEFAULT),
        ("head.1", ["head.1"]),
        (["head.3", "relu"], ["head.3", "relu"]),
        ("head.*", ["head.1", "head.3"]),
        (nn.Tanh, ["head.3"]),
        ([nn.Tanh, "relu"], ["head.3", "relu"]),
        ("hand", ["hand"]),
        (HandWrittenReLU, ["hand"]),
        (Gate, ["gates.0", "gates.1"]),
        ("gates.1", ["gates.1"]),
        ("gates.*", ["gates.0", "gates.1"]),
        ("gates.*.sigmoid", ["gates.0.sigmoid", "gates.1.sigmoid"]),
        ("*.sigmoid", ["gates.0.sigmoid", "gates.1.sigmoid"]),
        ("head", ["head"]),
        ("hea", []),
        ([], []),
    ],
)
def test_sites_are_selected_by_name_glob_and_type(selection: Any, expected: list[str]) -> None:
    """A chosen module that is no known activation is one site, and what it calls inside is none."""
    assert sites(Mixed(), sites=selection) == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("act", ["act", "act#2", "act#3"]),
        ("act#2", ["act#2"]),
        ("act#*", ["act#2", "act#3"]),
        ("act*", ["act", "act#2", "act#3"]),
    ],
)
def test_one_call_of_several_can_be_chosen(selection: str, expected: list[str]) -> None:
    """`name` chooses all calls of a module, `name#2` the second one."""
    model = Lambda(lambda self, x: self.act(self.act(self.act(x))), act=nn.ReLU())
    assert sites(model, sites=selection) == expected


def test_one_name_of_a_shared_object_can_be_chosen() -> None:
    """Of one object under two names the chosen name is measured alone."""
    assert sites(SharedReLU(), sites="layers.3") == ["layers.3"]


@pytest.mark.parametrize("wrong", [3, [nn.ReLU()], int])
def test_a_selection_that_is_none_is_refused(wrong: Any) -> None:
    """Anything but names, globs and module types is a clear error at once."""
    with pytest.raises(TypeError):
        DeadUnitCollector(LinearModel(), sites=wrong)


def test_a_chosen_fused_layer_is_measured_by_its_first_output() -> None:
    """An LSTM that was chosen is one site with its hidden units, though it returns a tuple of tuples."""
    assert units(TupleLSTM(hidden=6), torch.randn(2, 5, 4), sites=nn.LSTM) == {"lstm": 6}


def test_a_fused_layer_is_listed_as_unseen() -> None:
    """Silence is never health: what is computed inside a kernel is said to be unseen."""
    model = TupleLSTM()
    with DeadUnitCollector(model) as collector:
        model(torch.randn(2, 5, 4))
        assert collector.finish() == {}
    assert collector.coverage.unseen == {"lstm": "its activations are computed inside a fused kernel"}


def test_modules_that_were_not_called_are_listed_as_unseen() -> None:
    """An activation module that no forward reached is in the coverage with the reason."""
    model = Lambda(lambda self, x: self.used(x), used=nn.ReLU(), unused=nn.ReLU(), soft=nn.Softmax(-1))
    with DeadUnitCollector(model) as collector:
        model(X)
        collector.finish()
    assert collector.coverage.seen == ("used",)
    assert list(collector.coverage.unseen) == ["unused"]
    assert "not called" in collector.coverage.unseen["unused"]


def test_an_encoder_in_evaluation_mode_is_seen_or_listed() -> None:
    """The fused fast path of an encoder layer may hide the activation, but not from the coverage."""
    model = Transformer().eval()
    names = {"encoder.layers.0", "encoder.layers.1"}
    with torch.inference_mode(), DeadUnitCollector(model) as collector:
        model(TOKENS)
        collector.finish()
    mentioned = {name.removesuffix(".relu") for name in (*collector.coverage.seen, *collector.coverage.unseen)}
    assert names <= mentioned


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, mode) for case in (*NAMES, "lstm") for mode in ("train", "eval")],
)
def test_watching_does_not_change_an_output(case: str, mode: str) -> None:
    """Outputs are bit-identical with and without collectors, in training and in evaluation."""
    model, x = (TupleLSTM(), torch.randn(2, 5, 4)) if case == "lstm" else NAMES[case][:2]
    model.train(mode == "train")
    with torch.set_grad_enabled(mode == "train"):
        expected = model(x.clone())
        with ActivationCollector(model), DeadUnitCollector(model):
            watched = model(x.clone())
    assert torch.equal(watched, expected)


def test_an_encoder_in_evaluation_mode_with_gradients_is_seen() -> None:
    """Where torch does not fuse the layer, its activation is a site in evaluation mode, too."""
    model = Transformer().eval()
    with DeadUnitCollector(model) as collector:
        model(TOKENS)
        assert list(collector.finish()) == ["encoder.layers.0.relu", "encoder.layers.1.relu"]


def test_an_exception_in_a_forward_leaves_the_next_one_right() -> None:
    """After a forward that failed half-way names and counts go on as if it had not begun."""
    fail = [True]

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.first(x)
        if fail.pop() if fail else False:
            raise RuntimeError("half-way")
        return self.second(x)

    model = Lambda(forward, first=nn.ReLU(), second=Lambda(lambda self, x: F.relu(x)))
    with DeadUnitCollector(model) as collector:
        with pytest.raises(RuntimeError, match="half-way"):
            model(X)
        model(X)
        assert list(collector.finish()) == ["first", "second.relu"]


def test_integers_and_complex_numbers_are_given_up_with_a_reason() -> None:
    """An output that is no real floating-point number is listed as unseen, and training goes on."""
    model = nn.Sequential(nn.Tanh())
    with DeadUnitCollector(model) as collector:
        model(torch.zeros(2, 3, dtype=torch.complex64))
        assert collector.finish() == {}
    assert "complex64" in collector.coverage.unseen["0"]


def test_a_site_whose_units_change_in_number_is_given_up_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Units that cannot be told apart from batch to batch are listed as unseen, with one line in the log."""
    model = nn.Sequential(nn.ReLU())
    with DeadUnitCollector(model) as collector:
        for width in (3, 4, 5):
            model(torch.ones(2, width))
        assert collector.finish() == {}
    assert "measuring it failed" in collector.coverage.unseen["0"]
    assert len(caplog.records) == 1


def test_other_models_are_not_seen() -> None:
    """Only calls inside the watched model's own forward are sites."""
    model, other = SharedReLU(), FunctionalMLP()
    with ActivationCollector(model) as collector:
        other(X)
        F.relu(X)
        model(X)
        rows = collector.finish()
    assert {name: row["count"] for name, row in rows.items()} == {"layers.1": 30, "layers.3": 30}


def test_a_model_that_shares_a_submodule_counts_no_foreign_root() -> None:
    """A part of the model that is called by itself is measured under its own name."""
    model = SharedReLU()
    with ActivationCollector(model) as collector:
        model.layers(X)
        assert list(collector.finish()) == ["layers.1", "layers.3"]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (1, "no activation function was called in the model's forwards"),
        (0, "no forward of the model was seen in this window"),
    ],
)
def test_nothing_measured_is_said(calls: int, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """A window in which there was no site says why, in the coverage and once in the log."""
    model = nn.Sequential(nn.Linear(3, 2))
    with DeadUnitCollector(model) as collector:
        for _ in range(2):
            for _ in range(calls):
                model(torch.randn(4, 3))
            assert collector.finish() == {}
            assert collector.coverage.unseen == {"Sequential": reason}
    assert [record.message for record in caplog.records] == [f"DeadUnitCollector measured nothing: {reason}"]
