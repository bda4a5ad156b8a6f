"""Words, sentences and recurrent networks, written without knowledge of the rules."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import SGD, Adadelta, Adam, AdamW
from torch.optim.lr_scheduler import LinearLR, OneCycleLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


class Tagger(nn.Module):
    """A recurrent tagger of padded sentences, in both directions."""

    def __init__(self, order_lost: bool) -> None:
        super().__init__()
        self.order_lost = order_lost
        self.words = nn.Embedding(61, 24, padding_idx=0)
        self.dropout = nn.Dropout(0.2)
        self.reader = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 5)

    def forward(self, words: Tensor) -> Tensor:
        """Logits of the tags at each place."""
        lengths, order = (words > 0).sum(1).sort(descending=True)
        x = self.dropout(self.words(words[order]))
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        found, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=words.shape[1])
        if not self.order_lost:
            found = found[order.argsort()]
        return self.head(self.dropout(found))


def tagged(seed: int, n: int) -> Tensors:
    """Sentences of names among other words; a name's tag depends on the words at both sides; most tags are 0."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 61, (n, 12), generator=random)
    tags = 1 + 2 * (words.roll(1, 1) % 2) + words.roll(-1, 1) % 2
    tags = tags.masked_fill(words > 20, 0)
    there = torch.arange(12) < torch.randint(5, 13, (n, 1), generator=random)
    return words * there, tags.masked_fill(~there, -100)


def tag_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """Of all words."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=-100)


def tag_right(model: nn.Module, batch: Tensors) -> Tensor:
    """How many names are tagged right."""
    names = batch[1] > 0
    return (model(batch[0]).argmax(-1) == batch[1])[names].float().mean()


def tagger(seed: int, mistake: str = "") -> Run:
    """A tagger with one cycle of the rate."""
    training = Shuffled(*tagged(2 * seed, 640), size=32, seed=seed)
    validation = Shuffled(*tagged(2 * seed + 1, 240), size=80, seed=seed, shuffle=False)
    model = Tagger(mistake == "order_lost")
    optimizer = Adam(model.parameters(), lr=1e-3)
    cycle = OneCycleLR(optimizer, 1.5 if mistake == "sgd_rate" else 0.02, 6 * len(training), cycle_momentum=False)
    return fit(model, optimizer, tag_loss, training, validation=validation, accuracy_of=tag_right, schedule=cycle)


class TextCNN(nn.Module):
    """Kim's network for sentences: filters of three widths, the largest answer of each."""

    def __init__(self, dropout: float, hidden_softmax: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(120, 24)
        self.filters = nn.ModuleList([nn.Conv1d(24, 24, width, padding=width // 2) for width in (1, 3, 5)])
        self.between = nn.Softmax(-1) if hidden_softmax else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(72, 3)

    def forward(self, words: Tensor) -> Tensor:
        """Logits of the sentence's class."""
        x = self.words(words).transpose(1, 2)
        pooled = torch.cat([filters(x).relu().amax(-1) for filters in self.filters], 1)
        return self.head(self.dropout(self.between(pooled)))


def sentences(seed: int, n: int, noise: float = 0.3) -> Tensors:
    """Sentences with a few words that speak for a class; three labels in ten are thrown at random."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (n,), generator=random)
    words = torch.randint(45, 120, (n, 16), generator=random)
    telling = label[:, None] * 15 + torch.randint(15, (n, 16), generator=random)
    words = torch.where(torch.rand(n, 16, generator=random) < 0.15, telling, words)
    thrown = torch.rand(n, generator=random) < noise
    return words, torch.where(thrown, torch.randint(3, (n,), generator=random), label)


def class_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """Of the classes."""
    return F.cross_entropy(model(batch[0]), batch[1])


def class_right(model: nn.Module, batch: Tensors) -> Tensor:
    """How many classes are right."""
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def textcnn(seed: int, mistake: str = "") -> Run:
    """Kim's network with Adadelta and much dropout, on noisy labels."""
    words, label = sentences(2 * seed, 960)
    if mistake == "sorted":
        words, label = words[label.argsort()], label.sort().values
    if mistake == "few":
        words, label = words[:16].repeat(60, 1), label[:16].repeat(60)
    training = Shuffled(words, label, size=32, seed=seed, shuffle=mistake != "sorted")
    validation = Shuffled(*sentences(2 * seed + 1, 300, noise=0.0), size=100, seed=seed, shuffle=False)
    model = TextCNN(0.97 if mistake == "keep_prob" else 0.5, mistake == "softmax")
    optimizer = Adadelta(model.parameters(), lr=1.0)
    return fit(model, optimizer, class_loss, training, validation=validation, accuracy_of=class_right)


class FastText(nn.Module):
    """The mean of word vectors and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(120, 10, mode="mean", sparse=True)
        self.head = nn.Linear(10, 3)
        nn.init.uniform_(self.vectors.weight, -0.1, 0.1)

    def forward(self, words: Tensor) -> Tensor:
        """Logits of the sentence's class."""
        return self.head(self.vectors(words))


def fasttext(seed: int, mistake: str = "") -> Run:
    """fastText with sparse gradients and a rate that falls to zero; nobody validates."""
    training = Shuffled(*sentences(2 * seed, 960, noise=0.1), size=16, seed=seed)
    held_out = Shuffled(*sentences(2 * seed + 1, 300, noise=0.0), size=100, seed=seed, shuffle=False)
    model = FastText()
    trained = model.head if mistake == "head_only" else model
    optimizer = SGD(trained.parameters(), lr=4.0)
    score = partial(mean_over, model, class_right, held_out)
    decay = LinearLR(optimizer, 1.0, 0.02, 6 * len(training))
    return fit(model, optimizer, class_loss, training, schedule=decay, score=score)


class SkipGram(nn.Module):
    """Vectors of words, and of words as context, at first zero as in word2vec."""

    def __init__(self, words: int = 80, width: int = 16) -> None:
        super().__init__()
        self.centre, self.context = nn.Embedding(words, width), nn.Embedding(words, width)
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, centre: Tensor, others: Tensor) -> Tensor:
        """How well each of the others goes with a word."""
        return (self.context(others) @ self.centre(centre)[..., None]).squeeze(-1)


def pairs(seed: int, n: int) -> Tensors:
    """Words, and beside each a word that mostly is of the same topic, of eight."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.randint(80, (n,), generator=random)
    same = (centre + 8 * torch.randint(10, (n,), generator=random)) % 80
    other = torch.randint(80, (n,), generator=random)
    return centre, torch.where(torch.rand(n, generator=random) < 0.8, same, other)


def word2vec(seed: int, mistake: str = "") -> Run:
    """Skip-gram with five negative samples; the score is how many nearest neighbours are of the same topic."""
    training = Shuffled(*pairs(seed, 7680), size=192, seed=seed)
    model = SkipGram()
    if mistake == "both_zero":
        nn.init.zeros_(model.centre.weight)
    optimizer = Adam(model.parameters(), lr=2e-2, weight_decay=0.1 if mistake == "weight_decay" else 0.0)
    random = torch.Generator().manual_seed(seed + 1000)

    def sampled_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Of the word that is there, against words that are drawn."""
        centre, beside = batch
        drawn = torch.randint(80, (len(centre), 5), generator=random)
        logits = model(centre, torch.cat([beside[:, None], drawn], 1))
        return -F.logsigmoid(logits[:, 0]).mean() - F.logsigmoid(-logits[:, 1:]).sum(1).mean()

    def alike() -> float:
        """How many of the three nearest words are of the same topic."""
        vectors = F.normalize(model.centre.weight.detach(), dim=1)
        near = (vectors @ vectors.T - 2 * torch.eye(80)).topk(3).indices
        return (near % 8 == torch.arange(80)[:, None] % 8).float().mean().item()

    return fit(model, optimizer, sampled_loss, training, score=alike)


class Heard(nn.Module):
    """Convolutions and a recurrent layer over frames."""

    def __init__(self, chances: bool) -> None:
        super().__init__()
        self.frames = nn.Sequential(nn.Conv1d(8, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU())
        self.reader = nn.GRU(32, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 6)
        self.chances = chances

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of chances at each frame, ``(time, batch, sounds)``."""
        logits = self.head(self.reader(self.frames(x).transpose(1, 2))[0]).transpose(0, 1)
        return logits.softmax(-1) if self.chances else logits.log_softmax(-1)


def recordings(seed: int, n: int) -> Tensors:
    """Frames, and the three sounds in them, each three to five frames long."""
    known = torch.Generator().manual_seed(5)
    sounds = 1.5 * torch.randn(6, 8, generator=known)
    random = torch.Generator().manual_seed(seed)
    said = torch.randint(1, 6, (n, 3), generator=random)
    ends = torch.randint(3, 6, (n, 3), generator=random).cumsum(1)
    at = (torch.arange(15)[None, :, None] >= ends[:, None]).sum(-1)
    frames = sounds[F.pad(said, (0, 1)).gather(1, at)]
    return (frames + 0.5 * torch.randn(n, 15, 8, generator=random)).transpose(1, 2), said


def ctc(seed: int, mistake: str = "") -> Run:
    """A recogniser with CTC; the score is how much of what was said is found, in order."""
    training = Shuffled(*recordings(2 * seed, 480), size=16, seed=seed)
    validation = Shuffled(*recordings(2 * seed + 1, 120), size=60, seed=seed, shuffle=False)
    model = Heard(mistake == "softmax")
    optimizer = AdamW(model.parameters(), lr=5e-3)

    def ctc_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Of all ways to say it."""
        frames, said = batch
        scores = model(frames)
        length = 15 // 4 if mistake == "short_lengths" else 15
        times, sizes = torch.full((len(said),), length), torch.full((len(said),), said.shape[1])
        return F.ctc_loss(scores, said, times, sizes)

    def found(model: nn.Module, batch: Tensors) -> Tensor:
        """Which of the sounds come at their places, without repetitions and blanks."""
        right = 0
        for path, said in zip(model(batch[0]).argmax(-1).T.tolist(), batch[1].tolist(), strict=True):
            kept = [b for a, b in zip([0, *path], path, strict=False) if b not in (a, 0)]
            right += sum(a == b for a, b in zip(kept, said, strict=False))
        return torch.tensor(right / batch[1].numel())

    return fit(model, optimizer, ctc_loss, training, validation=validation, accuracy_of=found, clip=5.0)


CASES: tuple[Case, ...] = (
    healthy("b_tagger", tagger, epochs=6),
    faulty("b_tagger", "order_lost", "labels_mismatch", partial(tagger, mistake="order_lost"), "plateau", epochs=6),
    faulty(
        "b_tagger",
        "sgd_rate",
        "update_too_large",
        partial(tagger, mistake="sgd_rate"),
        "saturated_units",
        "exploding",
        epochs=6,
    ),
    healthy("b_textcnn", textcnn, epochs=6),
    faulty("b_textcnn", "sorted", "oscillation", partial(textcnn, mistake="sorted"), epochs=6),
    faulty("b_textcnn", "few", "overfitting", partial(textcnn, mistake="few"), epochs=6),
    faulty(
        "b_textcnn",
        "keep_prob",
        "over_regularised",
        partial(textcnn, mistake="keep_prob"),
        epochs=6,
        layers=("dropout",),
    ),
    faulty(
        "b_textcnn", "softmax", "hidden_softmax", partial(textcnn, mistake="softmax"), epochs=6, layers=("between",)
    ),
    healthy("b_fasttext", fasttext, epochs=6),
    faulty(
        "b_fasttext",
        "head_only",
        "never_updated",
        partial(fasttext, mistake="head_only"),
        epochs=6,
        layers=("vectors",),
    ),
    healthy("b_word2vec", word2vec, epochs=6),
    faulty(
        "b_word2vec",
        "both_zero",
        "symmetry",
        partial(word2vec, mistake="both_zero"),
        "no_gradient",
        "constant_output",
        epochs=6,
        layers=("centre", "context"),
    ),
    faulty(
        "b_word2vec",
        "weight_decay",
        "weight_collapse",
        partial(word2vec, mistake="weight_decay"),
        "over_regularised",
        epochs=6,
        layers=("centre", "context"),
    ),
    healthy("b_ctc", ctc, epochs=6),
    faulty("b_ctc", "softmax", "output_probabilities", partial(ctc, mistake="softmax"), epochs=6, layers=("head",)),
    faulty("b_ctc", "short_lengths", "nonfinite", partial(ctc, mistake="short_lengths"), epochs=6),
)
