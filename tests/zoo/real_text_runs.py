"""Trainings of the real part of the zoo on tokens; each argument that is not used by a healthy run is a mistake."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from zoo.base import Run
from zoo.real_base import LossOf, Shuffled, fit, mean_over, measured
from zoo.real_text_models import BERT, GPT, Experts, LanguageLSTM, LowRank, Packed, Towers, Translator
from zoo.real_text_tasks import VOCABULARY, WORDS, language, paired, sentences, tagged, translated


def next_word(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of the next word."""
    (texts,) = batch
    return F.cross_entropy(model(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())


def right(model: nn.Module, batch: Any) -> Tensor:
    """Share of the samples, or of the places with a label, whose class has the highest logit."""
    x, y = batch
    known = y != -100
    return (model(x).argmax(-1) == y)[known].float().mean()


def classes_loss(smooth: float = 0.0) -> LossOf:
    """Cross-entropy of a class, with label smoothing."""

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y, label_smoothing=smooth)

    return loss_of


def warm_up(optimizer: torch.optim.Optimizer, steps: int, total: int) -> LambdaLR:
    """The learning rate rises from zero, and falls to zero until the end."""
    return LambdaLR(optimizer, lambda step: min(step / steps, max(0.0, (total - step) / (total - steps))))


def gpt(
    seed: int,
    rate: float = 4e-3,
    spread: float = 0.02,
    coupled: bool = False,
    total: int = 165,
) -> Run:
    """A GPT with warm-up, decay of the learning rate and clipped gradients.

    Args:
        seed: of everything.
        rate: of learning.
        spread: standard deviation of the initial weights.
        coupled: whether the decay of the weights is part of Adam's gradients.
        total: steps until the learning rate is zero.
    """
    model = GPT(WORDS, spread=spread)
    optimizer = (Adam if coupled else AdamW)(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1)
    training = Shuffled(language(seed), size=16, seed=seed)
    validation = Shuffled(language(seed + 50, 128), size=64, seed=0, shuffle=False)
    schedule = warm_up(optimizer, total // 8, total)
    return fit(model, optimizer, next_word, training, validation=validation, schedule=schedule, clip=1.0)


def gpt_autocast(seed: int) -> Run:
    """A GPT in bfloat16, with accumulated gradients and a slow copy."""
    model = GPT(WORDS, depth=1, dropout=0.1)
    ema = copy.deepcopy(model)
    optimizer = AdamW(model.parameters(), 4e-3)
    return fit(
        model,
        optimizer,
        next_word,
        Shuffled(language(seed), size=16, seed=seed),
        validation=Shuffled(language(seed + 50, 128), size=64, seed=0, shuffle=False),
        schedule=CosineAnnealingLR(optimizer, 80),
        every=2,
        bf16=True,
        ema=ema,
    )


def gpt_one_epoch(seed: int, rate: float = 3e-3, registered: bool = True) -> Run:
    """A GPT that sees every text once, without validation."""
    model = GPT(WORDS, registered=registered)
    optimizer = AdamW(model.parameters(), rate, weight_decay=0.01)
    kept = Shuffled(language(seed + 50, 128), size=64, seed=0, shuffle=False)
    training = Shuffled(language(seed, 2880), size=16, seed=seed)
    return fit(model, optimizer, next_word, training, clip=1.0, score=lambda: -mean_over(model, next_word, kept))


def masked_words(seed: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Hides a fifth of the words behind token 3; the labels are -100 elsewhere."""
    random = torch.Generator().manual_seed(seed)

    def hide(texts: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(texts.shape, generator=random) < 0.2
        chosen[:, 1] = True
        return texts.masked_fill(chosen, 0), texts.masked_fill(~chosen, -100)

    return hide


def bert_masked(seed: int, shift: int = 0) -> Run:
    """A BERT that guesses hidden words; ``shift`` moves the labels by so many sentences."""
    model = BERT(WORDS + 2, 0, dropout=0.05)
    hide = masked_words(seed)

    def loss_at(sentences: int) -> LossOf:
        def loss_of(model: nn.Module, batch: Any) -> Tensor:
            hidden, labels = hide(batch[0] + 2)
            hidden = hidden.masked_fill(hidden == 0, 1)
            return F.cross_entropy(model(hidden).flatten(0, 1), labels.roll(sentences, 0).flatten())

        return loss_of

    kept = Shuffled(language(seed + 50, 256), size=64, seed=0, shuffle=False)
    return fit(
        model,
        AdamW(model.parameters(), 3e-3),
        loss_at(shift),
        Shuffled(language(seed, 512), size=16, seed=seed),
        validation=kept,
        score=lambda: -mean_over(model, loss_at(0), kept),
    )


def bert_classes(
    seed: int,
    inverted: bool = False,
    detached: bool = False,
    scale: float | None = None,
    dropout: float = 0.1,
    texts: int = 512,
) -> Run:
    """A BERT with a pooler that tells the class of a padded sentence, with label smoothing and dropout.

    Args:
        seed: of everything.
        inverted, detached, scale, dropout: see `BERT`.
        texts: number of sentences.
    """
    model = BERT(VOCABULARY, 4, dropout=dropout, scale=scale, inverted=inverted, detached=detached)
    return fit(
        model,
        AdamW(model.parameters(), 1e-3),
        classes_loss(0.1),
        Shuffled(*sentences(seed, texts), size=16, seed=seed),
        validation=Shuffled(*sentences(seed + 50, 256), size=64, seed=0, shuffle=False),
        accuracy_of=right,
        clip=1.0,
    )


def pretrained(seed: int) -> BERT:
    """A BERT that has learned for a while to tell the four classes of sentences, with a new head."""
    model = BERT(VOCABULARY, 4, dropout=0.0)
    optimizer = AdamW(model.parameters(), 3e-3)
    x, y = sentences(seed + 90, 16 * 120)
    for part, labels in zip(x.split(16), y.split(16), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(part), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.head = nn.Linear(model.head.in_features, 2)
    return model


def other_classes(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Sentences with two classes instead of four."""
    x, y = sentences(seed, n, clues=1)
    return x, torch.tensor([0, 1, 1, 0])[y]


def bert_fine_tuned(seed: int, rate: float = 5e-4) -> Run:
    """A trained BERT on a new task, with a smaller learning rate for what is there already."""
    model = pretrained(seed)
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    groups = [{"params": list(model.head.parameters()), "lr": 5e-3}, {"params": rest, "lr": rate}]
    optimizer = AdamW(groups)
    return fit(
        model,
        optimizer,
        classes_loss(),
        Shuffled(*other_classes(seed, 384), size=16, seed=seed),
        validation=Shuffled(*other_classes(seed + 50, 256), size=64, seed=0, shuffle=False),
        accuracy_of=right,
        schedule=warm_up(optimizer, 10, 96),
    )


def bert_probe(seed: int, calls: int = 1) -> Run:
    """A head on a trained BERT that stays as it is; ``calls`` is how often the schedule is asked a step."""
    model = pretrained(seed).requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = SGD(model.head.parameters(), 1e-2, momentum=0.9)
    schedule = LambdaLR(optimizer, lambda step: 0.5 ** (step * calls // 50))
    return fit(
        model,
        optimizer,
        classes_loss(),
        Shuffled(*other_classes(seed, 384), size=16, seed=seed),
        validation=Shuffled(*other_classes(seed + 50, 256), size=64, seed=0, shuffle=False),
        accuracy_of=right,
        schedule=schedule,
    )


def lora(seed: int, spread: float = 0.2) -> Run:
    """A trained GPT that learns another dialect through low-rank matrices alone."""
    model = GPT(WORDS)
    optimizer = AdamW(model.parameters(), 4e-3)
    for texts in language(seed + 90, 1600).split(16):
        optimizer.zero_grad()
        next_word(model, (texts,)).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.startswith("blocks"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, LowRank(module, spread=spread))
    tuned = AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    return fit(
        model,
        tuned,
        next_word,
        Shuffled(language(seed, 512, dialect=1), size=16, seed=seed),
        validation=Shuffled(language(seed + 50, 128, dialect=1), size=64, seed=0, shuffle=False),
    )


def lstm_reviews(seed: int, squashed: bool = False, sorted_alone: bool = False, spread: float = 1.0) -> Run:
    """A packed LSTM that tells good sentences from bad ones by one logit.

    Args:
        seed: of everything.
        squashed: whether a sigmoid stands before the loss of logits.
        sorted_alone: whether the sentences of a batch are sorted by their length, and the labels are not.
        spread: standard deviation of the embedding.
    """
    model = Packed("lstm", VOCABULARY, 1, spread=spread, last=nn.Sigmoid() if squashed else None)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        if sorted_alone:
            x = x[(x != 0).sum(1).argsort(descending=True)]
        return F.binary_cross_entropy_with_logits(model(x)[:, 0], y.float())

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        outputs = model(x)[:, 0]
        return ((outputs > 0) == (y == 1)).float().mean()

    return fit(
        model,
        Adam(model.parameters(), 5e-3),
        loss_of,
        Shuffled(*other_classes(seed, 512), size=16, seed=seed),
        validation=Shuffled(*other_classes(seed + 50, 256), size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
        clip=5.0,
    )


def gru_tags(seed: int, form: str = "log_softmax", act: nn.Module | None = None) -> Run:
    """A packed GRU with a tag a word; ``form`` is what the logits go through before the loss of log-probabilities."""
    model = Packed("gru", VOCABULARY, 6, every_place=True, both=True, act=act)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0]).flatten(0, 1)
        outputs = logits if not form else getattr(F, form)(logits, -1)
        return F.nll_loss(outputs, batch[1].flatten(), ignore_index=-100)

    return fit(
        model,
        RMSprop(model.parameters(), 1e-2),
        loss_of,
        Shuffled(*tagged(seed), size=16, seed=seed),
        validation=Shuffled(*tagged(seed + 50, 192), size=64, seed=0, shuffle=False),
        accuracy_of=right,
    )


def translator(seed: int, axis: int = 1, probabilities: bool = False) -> Run:
    """A sequence-to-sequence net with attention."""
    model = Translator(14, axis=axis)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        logits = model(source, target[:, :-1]).flatten(0, 1)
        return F.cross_entropy(logits.softmax(1) if probabilities else logits, target[:, 1:].flatten())

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        return (model(source, target[:, :-1]).argmax(-1) == target[:, 1:]).float().mean()

    return fit(
        model,
        Adam(model.parameters(), 1e-2),
        loss_of,
        Shuffled(*translated(seed), size=32, seed=seed),
        validation=Shuffled(*translated(seed + 50, 128), size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
        clip=1.0,
    )


def experts(seed: int) -> Run:
    """A GPT whose feed-forward parts are mixtures of experts, with a loss that keeps their shares equal."""
    model = GPT(WORDS, spread=0.1)
    for block in model.blocks:
        block.mlp = Experts(32)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        loss = next_word(model, batch)
        return loss + 0.02 * sum(part.balance for part in model.modules() if isinstance(part, Experts))

    kept = Shuffled(language(seed + 50, 128), size=64, seed=0, shuffle=False)
    return fit(
        model,
        AdamW(model.parameters(), 4e-3),
        loss_of,
        Shuffled(language(seed, 384), size=16, seed=seed),
        validation=kept,
        clip=1.0,
        score=lambda: -mean_over(model, next_word, kept),
    )


def towers(seed: int, first: bool = False, alone: bool = False) -> Run:
    """Two encoders whose vectors of the same pair are to be the nearest ones.

    Args:
        seed: of everything.
        first: whether the right answer is said to be the first one of every batch.
        alone: whether pairs are only drawn together and nothing is pushed apart.
    """
    model = Towers(VOCABULARY)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        left, right = model(*batch)
        if alone:
            return (1 - (left * right).sum(1)).mean()
        alike = left @ right.T / 0.1
        y = torch.zeros(len(alike), dtype=torch.long) if first else torch.arange(len(alike))
        return (F.cross_entropy(alike, y) + F.cross_entropy(alike.T, y)) / 2

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        left, right = model(*batch)
        return ((left @ right.T).argmax(1) == torch.arange(len(left))).float().mean()

    return fit(
        model,
        Adam(model.parameters(), 5e-3),
        loss_of,
        Shuffled(*paired(seed, 1024), size=32, seed=seed),
        validation=Shuffled(*paired(seed + 50, 192), size=32, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
    )


def lstm_language(seed: int, ascends: bool = False) -> Run:
    """A language model trained by SGD with a large learning rate and small clipped gradients."""
    model = LanguageLSTM(WORDS)
    optimizer = SGD(model.parameters(), 2.0, maximize=ascends)
    kept = Shuffled(language(seed + 50, 128), size=64, seed=0, shuffle=False)

    def step(engine: Engine, batch: Any) -> Tensor:
        model.train()
        optimizer.zero_grad()
        loss = next_word(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        return loss.detach()

    training = Shuffled(language(seed, 640), size=16, seed=seed)
    return Run(
        model,
        Engine(step),
        training,
        measured(model, next_word),
        kept,
        optimizer,
        lambda: -mean_over(model, next_word, kept),
    )
