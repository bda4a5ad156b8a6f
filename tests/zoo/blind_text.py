"""Transformers on synthetic languages, written without knowledge of the rules."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]
WORDS = 20


def language(seed: int, n: int, length: int, dialect: int = 0) -> Tensor:
    """Sentences in which a word follows from the last one and the class of the one before, six times in ten."""
    known = torch.Generator().manual_seed(100 + dialect)
    follows = torch.stack([torch.randperm(WORDS, generator=known) for _ in range(3)])
    random = torch.Generator().manual_seed(seed)
    words = [torch.randint(WORDS, (n,), generator=random) for _ in range(2)]
    for _ in range(length - 2):
        rule = follows[words[-2] % 3, words[-1]]
        other = torch.randint(WORDS, (n,), generator=random)
        words.append(torch.where(torch.rand(n, generator=random) < 0.65, rule, other))
    return torch.stack(words, 1)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions for queries or keys, ``(batch, heads, time, size)``."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * angles.cos() - right * angles.sin(), left * angles.sin() + right * angles.cos()], -1)


class CausalAttention(nn.Module):
    """Attention to earlier words, with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query: nn.Module
        self.value: nn.Module
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What each place has found."""
        q, k, v = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2)
            for part in (self.query(x), self.key(x), self.value(x))
        )
        found = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of a decoder, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """The stream after attention and feed-forward."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Decoder(nn.Module):
    """A small GPT whose head shares the weight of the embedding."""

    def __init__(self, width: int = 48, heads: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WORDS, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        """Logits of the word after each word."""
        return self.head(self.norm(self.blocks(self.embedding(words))))


def next_loss(model: nn.Module, batch: Tensors, shift: int = 1) -> Tensor:
    """The loss of the words that follow."""
    (words,) = batch
    return F.cross_entropy(model(words[:, :-shift]).flatten(0, 1), words[:, shift:].flatten())


def next_right(model: nn.Module, batch: Tensors) -> Tensor:
    """How often the next word is the likeliest."""
    (words,) = batch
    return (model(words[:, :-1]).argmax(-1) == words[:, 1:])[:, 1:].float().mean()


def gpt(seed: int, mistake: str = "") -> Run:
    """A language model with warm-up from zero, cosine and clipping."""
    training = Shuffled(language(2 * seed, 320, 20), size=16, seed=seed)
    validation = Shuffled(language(2 * seed + 1, 160, 20), size=40, seed=seed, shuffle=False)
    model = Decoder()
    if mistake == "wide_attention":
        for name, weight in model.named_parameters():
            if "query" in name or "key" in name:
                nn.init.normal_(weight, std=48**0.5)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=5e-3, weight_decay=0.1)
    warm, steps = 20000 if mistake == "long_warmup" else 15, 6 * len(training)

    def rate(step: int) -> float:
        """Part of the full rate."""
        return step / warm if step < warm else 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / steps, 1)))

    return fit(
        model,
        optimizer,
        partial(next_loss, shift=2 if mistake == "shifted_twice" else 1),
        training,
        validation=validation,
        accuracy_of=next_right,
        schedule=LambdaLR(optimizer, rate),
        clip=1.0,
        score=lambda: -mean_over(model, next_loss, validation),
    )


class Masked(nn.Module):
    """A small BERT; the pooler of the library is there, but nobody asks it."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS + 2, width), nn.Embedding(14, width)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.pooler = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, WORDS))

    def forward(self, words: Tensor, ignored: Tensor) -> Tensor:
        """Logits of the words at each place."""
        x = self.norm(self.words(words) + self.places.weight)
        return self.head(self.encoder(x, src_key_padding_mask=ignored))


def scales(seed: int, n: int) -> Tensors:
    """Rows of words in steps of one or two, of which some are hidden; these; and where there are words."""
    random = torch.Generator().manual_seed(seed)
    first, step = torch.randint(WORDS, (n, 1), generator=random), torch.randint(1, 3, (n, 1), generator=random)
    words = (first + step * torch.arange(14)) % WORDS
    there = torch.arange(14) < torch.randint(8, 15, (n, 1), generator=random)
    hidden = there & (torch.rand(n, 14, generator=random) < 0.25)
    seen = words.masked_fill(hidden, WORDS).masked_fill(~there, WORDS + 1)
    return seen, words.masked_fill(~hidden, -100), there


def mlm(seed: int, mistake: str = "") -> Run:
    """A masked language model with padding, and two batches to a step."""
    training = Shuffled(*scales(2 * seed, 640), size=16, seed=seed)
    validation = Shuffled(*scales(2 * seed + 1, 256), size=64, seed=seed, shuffle=False)
    model = Masked()
    if mistake == "softmax":
        model.head.append(nn.Softmax(-1))
    optimizer = AdamW(model.parameters(), lr=5e-3)

    def logits_of(model: nn.Module, batch: Tensors) -> Tensor:
        """Of all places."""
        return model(batch[0], batch[2] if mistake == "inverted_mask" else ~batch[2])

    def hidden_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Of the hidden words."""
        return F.cross_entropy(logits_of(model, batch).flatten(0, 1), batch[1].flatten(), ignore_index=-100)

    def hidden_right(model: nn.Module, batch: Tensors) -> Tensor:
        """How many hidden words are found."""
        logits = logits_of(model, batch)
        right = (logits.argmax(-1) == batch[1])[batch[1] >= 0].float().mean()
        return right + 0 * logits.float().sum()

    return fit(model, optimizer, hidden_loss, training, validation=validation, accuracy_of=hidden_right, every=2)


class Translator(nn.Module):
    """An encoder and a decoder that share their embedding."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS + 1, width), nn.Embedding(6, width)
        one = nn.TransformerEncoderLayer(width, 4, 96, dropout, batch_first=True, norm_first=True)
        two = nn.TransformerDecoderLayer(width, 4, 96, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(one, 1, nn.LayerNorm(width), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(two, 1, nn.LayerNorm(width))
        self.head = nn.Linear(width, WORDS)

    def embed(self, words: Tensor) -> Tensor:
        """Words at their places."""
        return self.words(words) + self.places.weight[: words.shape[1]]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of a translation, of which each place sees only earlier words."""
        memory = self.encoder(self.embed(source))
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.decoder(self.embed(target), memory, tgt_mask=mask, tgt_is_causal=True))


def translations(seed: int, n: int) -> Tensors:
    """Sentences, and a translation in which each word depends on the next one as well."""
    random = torch.Generator().manual_seed(seed)
    source = torch.randint(12, (n, 6), generator=random)
    return source, source + 7 * (source.roll(-1, 1) % 2)


def t5(seed: int, mistake: str = "") -> Run:
    """A translator with label smoothing."""
    training = Shuffled(*translations(2 * seed, 504), size=24, seed=seed)
    validation = Shuffled(*translations(2 * seed + 1, 240), size=60, seed=seed, shuffle=False)
    model = Translator(0.8 if mistake == "dropout" else 0.0)
    if mistake == "constant_init":
        for weight in model.parameters():
            if weight.ndim > 1:
                nn.init.constant_(weight, 0.02)
    optimizer = AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.98))

    def translated(model: nn.Module, batch: Tensors) -> Tensor:
        """Logits with the right words so far given."""
        source, target = batch
        begun = F.pad(target[:, :-1], (1, 0), value=WORDS)
        return model(source, begun)

    def smooth_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Of all words."""
        return F.cross_entropy(translated(model, batch).flatten(0, 1), batch[1].flatten(), label_smoothing=0.1)

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """How many words are right."""
        return (translated(model, batch).argmax(-1) == batch[1]).float().mean()

    return fit(model, optimizer, smooth_loss, training, validation=validation, accuracy_of=right, clip=1.0)


CASES: tuple[Case, ...] = (
    healthy("b_gpt", gpt, epochs=6),
    faulty(
        "b_gpt",
        "wide_attention",
        "saturated_units",
        partial(gpt, mistake="wide_attention"),
        epochs=6,
        layers=("blocks.*.attention", "blocks.*.attention.*"),
    ),
    faulty("b_gpt", "long_warmup", "update_too_small", partial(gpt, mistake="long_warmup"), epochs=6),
    faulty("b_gpt", "shifted_twice", "labels_mismatch", partial(gpt, mistake="shifted_twice"), epochs=6),
    healthy("b_mlm", mlm, epochs=6),
    faulty(
        "b_mlm", "softmax", "output_probabilities", partial(mlm, mistake="softmax"), epochs=6, layers=("head", "head.*")
    ),
    faulty(
        "b_mlm",
        "inverted_mask",
        "nonfinite",
        partial(mlm, mistake="inverted_mask"),
        epochs=6,
        layers=("encoder", "encoder.*"),
    ),
    healthy("b_t5", t5, epochs=6),
    faulty("b_t5", "dropout", "over_regularised", partial(t5, mistake="dropout"), epochs=6),
    faulty(
        "b_t5",
        "constant_init",
        "symmetry",
        partial(t5, mistake="constant_init"),
        "constant_output",
        "no_gradient",
        epochs=6,
    ),
)
