"""How sharp attention is, whoever computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.collect.attention import sharpness
from ignite_act.collect.graphs import nodes_behind
from ignite_act.internals import attention_of

WIDTH, PLACES, HEADS = 8, 6, 2


class Attention(nn.Module):
    """Attention by hand, or by torch's function."""

    def __init__(self, how: str, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.asked, self.offered, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.how, self.scale = how, scale

    def heads(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def scores(self, x: Tensor) -> Tensor:
        query, key = self.heads(self.asked, x), self.heads(self.offered, x)
        scores = self.scale * query @ key.mT
        return scores.masked_fill(self.mask(x), -torch.inf)

    def mask(self, x: Tensor) -> Tensor:
        places = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
        return {"causal": places.triu(1), "mask": places.tril(-3)}.get(self.how, torch.zeros_like(places))

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.heads(self.asked, x), self.heads(self.offered, x)
        if self.how == "by hand":
            mixed = self.scores(x).softmax(-1) @ key
        else:
            mask = None if self.how != "mask" else ~self.mask(x)
            causal = self.how == "causal"
            mixed = F.scaled_dot_product_attention(query, key, key, mask, is_causal=causal, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


def names(model: nn.Module) -> dict[int, str]:
    return {id(own): name.removesuffix(".weight") for name, own in model.named_parameters() if own.ndim > 1}


@pytest.mark.parametrize("how", ["by hand", "plain", "causal", "mask"])
@pytest.mark.parametrize("scale", [0.3, 300.0])
def test_the_share_of_queries_with_one_key(how: str, scale: float) -> None:
    """It is that of the weights as they are written in books; a query with one key to look at does not count."""
    model, x = Attention(how, scale), torch.randn(2, PLACES, WIDTH, generator=torch.Generator().manual_seed(1))
    weights = model.scores(x).softmax(-1)
    several = (~model.mask(x)).sum(-1).expand(weights.shape[:-1]) > 1
    free = several & ((weights > 0).sum(-1) > 1)
    expected = ((weights.amax(-1) > 0.99) & free).sum() / free.sum().clamp(min=1)
    ((name, share),) = sharpness([model(x)], names(model)).items()
    assert name in ("asked", "offered")
    assert float(share) == pytest.approx(float(expected), abs=1e-6)
    assert (float(share) > 0.5) == (scale > 100)


def test_groups_of_queries_share_keys() -> None:
    """Fewer heads of keys than of queries, as language models have them, are read as if each were repeated."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, PLACES, 4, generator=generator, requires_grad=True) for heads in (4, 2))
    output = F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    (weights,) = (own for node in nodes_behind([output]) if (own := attention_of(node)) is not None)
    scores = query @ key.repeat_interleave(2, 1).mT / 2
    causal = torch.ones(PLACES, PLACES, dtype=torch.bool).triu(1)
    assert torch.allclose(weights, scores.masked_fill(causal, -torch.inf).softmax(-1), atol=1e-6)


@pytest.mark.parametrize("how", ["by hand", "causal", "mask"])
def test_of_a_long_text_some_queries_are_looked_at(how: str) -> None:
    """They are spread over it, with the masks that belong to them; so the cost does not grow with its square."""
    model, x = Attention(how), torch.randn(3, 70, WIDTH, generator=torch.Generator().manual_seed(1))
    (weights,) = (own for node in nodes_behind([model(x)]) if (own := attention_of(node)) is not None)
    rows = torch.linspace(0, 69, 32).long()
    assert torch.allclose(weights, model.scores(x).softmax(-1)[:2, :, rows], atol=1e-6)


def test_torch_keeps_what_is_read() -> None:
    """The nodes of the graph hold the weights, or queries and keys: a version that does not fails here."""
    for how in ("by hand", "plain", "causal", "mask"):
        model, x = Attention(how), torch.randn(2, PLACES, WIDTH)
        (weights,) = (own for node in nodes_behind([model(x)]) if (own := attention_of(node)) is not None)
        assert weights.shape == (2, HEADS, PLACES, PLACES)
        assert torch.allclose(weights, model.scores(x).softmax(-1), atol=1e-6)


def test_a_softmax_over_classes_is_none() -> None:
    """Neither are gates over channels of a matrix, nor what a checkpoint hides."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2))
    assert sharpness([model(torch.randn(3, 4))], names(model)) == {}
    attention = Attention("plain")
    with torch.autograd.graph.save_on_cpu():
        assert sharpness([attention(torch.randn(2, PLACES, WIDTH))], names(attention)) == {}
