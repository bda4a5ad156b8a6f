"""The networks of the real part of the zoo that read tokens."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Attention(nn.Module):
    """Attention of several heads, with a causal mask or a mask of the padding."""

    def __init__(self, width: int, heads: int, causal: bool, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.scale = scale or 1 / math.sqrt(width // heads)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        n, places, width = x.shape
        parts = self.mixed(x).view(n, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * self.scale
        if self.causal:
            later = torch.ones(places, places, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None, :], -1e9)
        mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(n, places, width))


class Block(nn.Module):
    """A block of a transformer whose norms come first."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float = 0.0, scale: float | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal, scale)
        self.mlp: nn.Module = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), hidden))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    """A small GPT whose head shares its weight with the embedding.

    Args:
        vocabulary: number of tokens.
        width, depth, places: sizes.
        dropout: on the branches.
        spread: standard deviation of the initial weights.
        registered: whether the blocks are in a ``ModuleList``.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 32,
        depth: int = 2,
        places: int = 20,
        dropout: float = 0.0,
        spread: float = 0.02,
        registered: bool = True,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        blocks = [Block(width, 2, causal=True, dropout=dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks) if registered else blocks
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=spread)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class BERT(nn.Module):
    """A small BERT with a pooler on the first place; token 0 is padding.

    Args:
        vocabulary: number of tokens.
        outputs: of the head; 0 for a head that guesses the token at every place.
        width, depth: sizes.
        dropout: on the branches and before the head.
        scale: of the attention's scores, if not the usual one.
        inverted: whether the mask hides the words instead of the padding.
        detached: whether the head gets what it reads without its gradient.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        width: int = 32,
        depth: int = 2,
        dropout: float = 0.1,
        scale: float | None = None,
        inverted: bool = False,
        detached: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width, padding_idx=0), nn.Embedding(24, width)
        self.enter = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, 2, False, dropout, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs or vocabulary)
        self.every_place, self.inverted, self.detached = not outputs, inverted, detached

    def encode(self, tokens: Tensor) -> Tensor:
        """What comes out of the last block, a vector a place."""
        hidden = (tokens != 0) if self.inverted else (tokens == 0)
        x = self.enter(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x, hidden)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encode(tokens).detach() if self.detached else self.encode(tokens)
        return self.head(self.dropout(self.pooler(x if self.every_place else x[:, 0])))


class Packed(nn.Module):
    """A recurrent net over packed sequences, with a head on the last state or on every place.

    Args:
        cell: the recurrent layer.
        vocabulary, outputs, width: sizes.
        every_place: whether the head is on every place.
        both: whether it also reads backwards.
        spread: standard deviation of the embedding.
        act: between the states and the head.
        last: behind the head.
    """

    def __init__(
        self,
        cell: Literal["lstm", "gru"],
        vocabulary: int,
        outputs: int,
        width: int = 32,
        every_place: bool = False,
        both: bool = False,
        spread: float = 1.0,
        act: nn.Module | None = None,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.embed.weight.mul_(spread)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.cell = kind(width, width, batch_first=True, bidirectional=both)
        self.act, self.last = act or nn.Identity(), last or nn.Identity()
        self.head = nn.Linear(2 * width if both else width, outputs)
        self.every_place = every_place

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = (tokens != 0).sum(1)
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        states, last = self.cell(packed)
        if self.every_place:
            return self.head(self.act(pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])[0]))
        last = last[0] if isinstance(last, tuple) else last
        return self.last(self.head(self.act(torch.cat(list(last), 1))))


class Additive(nn.Module):
    """Attention whose scores come from a small network.

    Args:
        width: of the states.
        axis: of the softmax.
    """

    def __init__(self, width: int, axis: int = 1) -> None:
        super().__init__()
        self.asked, self.offered = nn.Linear(width, width), nn.Linear(width, width)
        self.act, self.score, self.axis = nn.Tanh(), nn.Linear(width, 1), axis

    def forward(self, state: Tensor, memory: Tensor) -> Tensor:
        scores = self.score(self.act(self.asked(state)[:, None] + self.offered(memory)))
        return (scores.softmax(self.axis) * memory).sum(1)


class Translator(nn.Module):
    """A sequence-to-sequence net of two recurrent parts with attention, taught with the right prefix.

    Args:
        vocabulary, width: sizes.
        axis: of the attention's softmax.
    """

    def __init__(self, vocabulary: int, width: int = 32, axis: int = 1) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.encoder = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.attention = Additive(width, axis)
        self.decoder = nn.GRUCell(2 * width, width)
        self.head = nn.Linear(2 * width, vocabulary)

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        state = torch.cat(list(last), 1)
        outputs = []
        for word in self.target(prefix).unbind(1):
            seen = self.attention(state, memory)
            state = self.decoder(torch.cat([word, seen], 1), state)
            outputs.append(self.head(torch.cat([state, seen], 1)))
        return torch.stack(outputs, 1)


class Experts(nn.Module):
    """A mixture of experts: every token goes to one of them, unless that one is full.

    Args:
        width, count: sizes.
        room: tokens that an expert takes, as a multiple of its fair share.
        bias: of the router for the first expert.
    """

    def __init__(self, width: int, count: int = 4, room: float = 1.5, bias: float = 0.0) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        with torch.no_grad():
            self.router.bias[0] += bias
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(count)
        )
        self.room, self.balance = room, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        chances = self.router(flat).softmax(1)
        best, chosen = chances.max(1)
        count = len(self.experts)
        shares = F.one_hot(chosen, count).float().mean(0)
        self.balance = count * (shares * chances.mean(0)).sum()
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            taken = (chosen == index).nonzero()[: int(self.room * len(flat) / count), 0]
            if len(taken):
                out = out.index_add(0, taken, best[taken, None] * expert(flat[taken]))
        return out.view_as(x)


class LowRank(nn.Module):
    """A linear layer that stays as it is, and a trained product of two thin matrices beside it (LoRA)."""

    def __init__(self, linear: nn.Linear, rank: int = 4, spread: float = 0.2) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(spread * torch.randn(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + 2.0 * (x @ self.down.T @ self.up.T)


class Towers(nn.Module):
    """Two encoders of bags of words, for texts that belong together."""

    def __init__(self, vocabulary: int, width: int = 24) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.EmbeddingBag(vocabulary, width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
            for _ in range(2)
        )

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.left(left), dim=1), F.normalize(self.right(right), dim=1)


class LanguageLSTM(nn.Module):
    """A language model of stacked recurrent layers with dropout between them."""

    def __init__(self, vocabulary: int, width: int = 48, dropout: float = 0.2) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(vocabulary, width), nn.Dropout(dropout)
        self.cells = nn.LSTM(width, width, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.cells(self.drop(self.embed(tokens)))[0]))
