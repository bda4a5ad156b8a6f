"""The networks for text in the exam half of the real part of the zoo."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class RootMeanSquare(nn.Module):
    """A norm without a mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The values at a root mean square of the weight."""
        return x * x.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt() * self.weight


def rotary(x: Tensor) -> Tensor:
    """Turns pairs of features by an angle that grows with the place."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(length)[:, None] * 0.1 ** torch.linspace(0, 2, half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)


class Attention(nn.Module):
    """Attention of several heads between two sequences."""

    def __init__(self, width: int, heads: int = 4, *, turn: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.turn, self.causal, self.scale = heads, turn, causal, (width // heads) ** -0.5
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.v, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """What the sequence reads from the memory, or from itself."""
        memory = x if memory is None else memory
        q, k, v = (
            layer(values).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, values in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        if self.turn:
            q, k = rotary(q), rotary(k)
        logits = q @ k.mT * self.scale
        if self.causal:
            logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
        return self.o((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """A block of linear layers with a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """The gated values."""
        return self.down(self.act(self.gate(x)) * self.up(x))


class DecoderBlock(nn.Module):
    """Attention and gated layers, each behind a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_layers = RootMeanSquare(width), RootMeanSquare(width)
        self.attention, self.layers = Attention(width, turn=True, causal=True), Gated(width)

    def forward(self, x: Tensor) -> Tensor:
        """The sequence with what the block adds."""
        x = x + self.attention(self.before_attention(x))
        return x + self.layers(self.before_layers(x))


class Decoder(nn.Module):
    """A small language model with turned places and gated layers."""

    def __init__(self, vocabulary: int = 24, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([DecoderBlock(width) for _ in range(depth)])
        self.norm, self.head = RootMeanSquare(width), nn.Linear(width, vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if "norm" not in name and "before" not in name:
                nn.init.normal_(weight, std=0.02 if name == "embed.weight" else width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token that follows each."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Adapter(nn.Module):
    """A linear layer that is frozen, with a correction of low rank that begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, corrected."""
        return self.base(x) + 2 * (x @ self.lora_a.mT @ self.lora_b.mT)


def adapted(model: nn.Module) -> nn.Module:
    """Freezes a model and gives adapters to the linear layers of its blocks."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(module, Adapter):
                setattr(module, name, Adapter(child))
    return model


class Translator(nn.Module):
    """An encoder and a decoder in the style of T5, which share an embedding."""

    def __init__(self, vocabulary: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.read, self.read_layers = Attention(width, turn=True), Gated(width)
        self.write, self.look = Attention(width, turn=True, causal=True), Attention(width)
        self.write_layers = Gated(width)
        self.norms = nn.ModuleList([RootMeanSquare(width) for _ in range(6)])
        self.head = nn.Linear(width, vocabulary)

    def encode(self, source: Tensor) -> Tensor:
        """The memory of a source."""
        x = self.embed(source)
        x = x + self.read(self.norms[0](x))
        return x + self.read_layers(self.norms[1](x))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of the target's next tokens."""
        memory, y = self.encode(source), self.embed(target)
        y = y + self.write(self.norms[2](y))
        y = y + self.look(self.norms[3](y), memory)
        y = y + self.write_layers(self.norms[4](y))
        return self.head(self.norms[5](y))


class MaskedModel(nn.Module):
    """A model in the style of BERT that fills gaps, whose head is tied to its embedding."""

    def __init__(self, vocabulary: int, length: int, width: int = 32, spread: float = 0.02) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Parameter(spread * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 64, 0.1, "gelu", batch_first=True), 2, enable_nested_tensor=False
        )
        self.transform, self.transform_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embed.weight, std=spread)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every place's token."""
        x = self.encoder(self.norm(self.embed(tokens) + self.place))
        return self.transform_norm(F.gelu(self.transform(x))) @ self.embed.weight.mT + self.bias


class Sentences(nn.Module):
    """A vector of length one for each sentence: the mean over its words."""

    def __init__(self, vocabulary: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """The vectors; only known words count."""
        x = self.embed(tokens)
        x = self.norm(x + self.layers(x))
        weight = known[..., None].to(x.dtype)
        return F.normalize(self.project((x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)), dim=-1)


class Tagger(nn.Module):
    """An LSTM in both directions over packed sequences."""

    def __init__(self, vocabulary: int, tags: int, width: int = 24) -> None:
        super().__init__()
        self.embed, self.dropout = nn.Embedding(vocabulary, width, padding_idx=0), nn.Dropout(0.2)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, tags)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits of every word's tag."""
        packed = pack_padded_sequence(self.dropout(self.embed(tokens)), lengths, True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.head(self.dropout(states))


class Listener(nn.Module):
    """Convolutions and a GRU that hear letters in frames."""

    def __init__(self, features: int, letters: int, width: int = 24) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(features, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU())
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, letters + 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of the letters and of the blank, which comes first."""
        return self.head(self.gru(self.conv(frames.mT).mT)[0])
