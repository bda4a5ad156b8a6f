"""Which parameters are layers, by which names they are chosen, and what is said of those that are left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim import SGD

from ignite_act.collect import GradientCollector

VECTOR = "it has one dimension: choose it by its name to measure it"


class Tied(nn.Module):
    """An embedding tied to the output layer, and to one that holds it under another attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.decoder.weight = self.embedding.weight
        self.heads = nn.ModuleList([nn.Bilinear(2, 2, 2), nn.Module()])
        self.heads[1].table = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(F.gelu(self.embedding(tokens))).flatten(0, 1)


def one_step(model: nn.Module, given: Tensor, layers: Any = None) -> tuple[list[str], dict[str, str]]:
    """The names of the rows after one step, and what was unseen."""
    with GradientCollector(model, layers=layers) as collector:
        model(given).square().mean().backward()
        if trainable := [parameter for parameter in model.parameters() if parameter.requires_grad]:
            SGD(trainable, lr=0.1).step()
        rows = collector.finish()
    return list(rows), dict(collector.coverage.unseen)


@pytest.mark.parametrize(
    "choice",
    [
        "embedding",
        "embedding.weight",
        "decoder",
        "decoder.weight",
        "dec*",
        "heads.1.table",
        "heads.*",
        nn.Embedding,
        nn.Linear,
        [nn.Linear, "embedding"],
    ],
)
def test_every_name_of_a_tied_weight_chooses_it(choice: Any) -> None:
    """Each qualified name, of layer or parameter, each glob and each owner's type gives the one row it has."""
    rows, unseen = one_step(Tied(), torch.randint(20, (4, 5)), choice)
    assert rows == ["embedding"]
    assert unseen.keys() <= {"heads.0"}  # a glob fits that one, too, and it is not used


def test_a_tied_weight_has_one_row() -> None:
    """By default it is measured once, under its first name."""
    assert one_step(Tied(), torch.randint(20, (4, 5)))[0] == ["embedding"]


@pytest.mark.parametrize("choice", ["encoder.proj", "copy.proj", "copy.*", "again.proj.weight", nn.Linear])
def test_every_name_of_a_shared_module_chooses_it(choice: Any) -> None:
    """A module that is registered under several names is chosen by each of them."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"proj": nn.Linear(4, 4)})
            self.copy, self.again = self.encoder, nn.ModuleDict({"proj": self.encoder["proj"]})

        def forward(self, x: Tensor) -> Tensor:
            return self.copy["proj"](x)

    assert one_step(Shared(), torch.ones(2, 4), choice) == (["encoder.proj"], {})


def test_tied_parametrised_weights_are_chosen_by_the_layers_they_belong_to() -> None:
    """Where a tied weight is parametrised, the name of either layer chooses what it is made of."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    nn.utils.parametrizations.weight_norm(model[0])
    model[1].parametrizations = model[0].parametrizations
    names = ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"]
    assert one_step(model[0], torch.ones(2, 4))[0] == [name[2:] for name in names]
    for choice in ("0", "1"):
        with GradientCollector(model, layers=choice) as collector:
            model[0](torch.ones(2, 4)).sum().backward()
            SGD(model.parameters(), lr=0.1).step()
            assert list(collector.finish()) == names


def test_wrappers_are_no_part_of_a_name() -> None:
    """A layer below activation checkpointing is chosen by the name that it has without."""
    model = nn.Sequential(checkpoint_wrapper(nn.Sequential(nn.Linear(3, 3))), nn.Linear(3, 1))
    assert one_step(model, torch.ones(2, 3, requires_grad=True), "0.0") == (["0.0"], {})


class Flat(nn.Module):
    """All weights in one tensor of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.scale = nn.Parameter(torch.randn(12)), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.flat.view(3, 4) * self.scale


def test_vectors_are_named_where_nothing_else_is_left() -> None:
    """A model that has nothing but tensors of one dimension gives no rows and a reason for each of them."""
    assert one_step(Flat(), torch.ones(2, 3)) == ([], dict.fromkeys(["flat", "scale"], VECTOR))
    norms = nn.Sequential(nn.LayerNorm(3), nn.PReLU())
    assert one_step(norms, torch.ones(2, 3)) == ([], dict.fromkeys(["0", "0.bias", "1"], VECTOR))
    assert one_step(Flat(), torch.ones(2, 3), "flat") == (["flat"], {})


def test_vectors_are_not_named_beside_layers() -> None:
    """Where there are layers, biases and norms are left out without a word."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    assert one_step(model, torch.ones(2, 3)) == (["0"], {})


@pytest.mark.parametrize("choice", ["0*", "norm.*", nn.Linear])
def test_a_choice_that_vectors_alone_fit_says_so(choice: Any) -> None:
    """A glob or a type that reaches nothing but biases, without asking for them, is told what to do."""
    bias = nn.Linear(3, 3)
    del bias._parameters["weight"]
    bias.weight = torch.ones(3, 3)
    model = nn.Sequential(bias)
    model.add_module("norm", nn.LayerNorm(3))
    rows, unseen = one_step(model, torch.ones(2, 3), choice)
    if choice == "0*":  # a glob that ends in more than a mere star means what it fits
        assert rows == ["0.bias"]
        return
    assert (rows, list(unseen)) == ([], [getattr(choice, "__name__", choice)])
    assert "only tensors of one dimension fit this choice" in next(iter(unseen.values()))


def test_a_model_that_is_frozen_says_so() -> None:
    """Layers none of which is trained are listed as frozen, not as without an optimizer."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).requires_grad_(False)
    assert one_step(model, torch.ones(2, 3, requires_grad=True)) == (
        [],
        dict.fromkeys(["0", "1"], "it is frozen (requires_grad is False)"),
    )


def test_a_model_without_parameters_says_so() -> None:
    """No parameters are no silence."""
    assert one_step(nn.Sequential(nn.ReLU()), torch.ones(2, 3, requires_grad=True)) == (
        [],
        {"the model": "it has no parameters"},
    )
    assert one_step(nn.ReLU(), torch.ones(1, requires_grad=True), "fc")[1] == {
        "fc": "no parameter of the model fits this choice"
    }


@pytest.mark.parametrize("choice", [None, "0", nn.Linear])
def test_lazy_layers_that_were_never_used_are_named(choice: Any) -> None:
    """A layer without a shape at the end of the window is listed, beside layers that were measured too."""
    model = nn.ModuleList([nn.LazyLinear(3), nn.Linear(2, 1)])
    with GradientCollector(model, layers=choice) as collector:
        model[1](torch.ones(1, 2)).sum().backward()
        SGD(model[1].parameters(), lr=0.1).step()
        rows = collector.finish()
    assert "1" in rows or choice == "0"
    assert collector.coverage.unseen["0"] == "it takes shape in its first forward, which was not made"


def test_layers_that_are_partly_frozen_or_empty_have_their_own_reasons() -> None:
    """Each layer that is not measured has the reason that is its own."""
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "frozen": nn.Linear(3, 3).requires_grad_(False)})
    model["idle"] = nn.Linear(3, 3)
    model.register_parameter("none", nn.Parameter(torch.empty(0, 3)))
    model.register_parameter("whole", nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False))
    with GradientCollector(model) as collector:
        model["used"](torch.ones(1, 3)).sum().backward()
        SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        assert list(collector.finish()) == ["used"]
    unseen = collector.coverage.unseen
    assert {name: reason.split()[2] for name, reason in unseen.items()} == {
        "none": "no",
        "whole": "whole",
        "frozen": "frozen",
        "idle": "no",
    }
    assert unseen["whole"] == "it holds whole numbers (torch.int8), which have no gradient"


def test_each_choice_has_its_own_reason() -> None:
    """A choice that finds nothing does not hide that another one finds nothing, for another reason."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LazyLinear(2))
    with GradientCollector(model, layers=["no", "1.*", "2"]) as collector:
        assert collector.finish() == {}
    unseen = collector.coverage.unseen
    assert list(unseen) == ["2", "no", "1.*"]
    assert len(set(unseen.values())) == 3
