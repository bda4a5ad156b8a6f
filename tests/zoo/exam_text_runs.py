"""Trainings on text in the exam half of the real part of the zoo, each with the mistakes that it can have."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, OneCycleLR

from zoo.base import Run
from zoo.exam_text_models import Adapter, Decoder, MaskedModel, Sentences, Tagger, Translator, adapted
from zoo.real_base import Shuffled, fit, mean_over

Tensors = tuple[Tensor, ...]


def chains(seed: int, n: int, *, length: int = 20, vocabulary: int = 24) -> Tensor:
    """Sequences in which most tokens follow from the one two places before; the thousands of the seed give the rule."""
    random = torch.Generator().manual_seed(seed)
    follows = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed // 1000))
    tokens = torch.randint(vocabulary, (n, length), generator=random)
    sure = torch.rand(n, length, generator=random) < 0.9
    for place in range(2, length):
        tokens[:, place] = torch.where(sure[:, place], follows[tokens[:, place - 2]], tokens[:, place])
    return tokens


def next_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The cross-entropy of the next tokens."""
    (tokens,) = batch
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def warm_cosine(optimizer: torch.optim.Optimizer, warm: int, steps: int) -> LRScheduler:
    """A warm-up from zero and half a cosine down to zero."""

    def rate(step: int) -> float:
        """The share of the learning rate at a step."""
        return step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / (steps - warm))))

    return LambdaLR(optimizer, rate)


def decoder(seed: int, mistake: str = "", *, lr: float = 4e-3) -> Run:
    """A small language model with a warm-up, a cosine and clipped gradients."""
    training = Shuffled(chains(1000 * seed + 1, 400), size=16, seed=seed)
    validation = Shuffled(chains(1000 * seed + 2, 96), size=32, seed=seed, shuffle=False)
    model: nn.Module = Decoder()
    if mistake == "softmax":
        model = nn.Sequential(model, nn.Softmax(-1))
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    steps = 5 if mistake == "epochs_as_steps" else 5 * len(training)  # the scheduler moves on after every step

    def other_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """The loss on targets of which the order of the sequences has been changed."""
        (tokens,) = batch
        wanted = tokens[torch.randperm(len(tokens))]
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), wanted[:, 1:].flatten())

    return fit(
        model,
        optimizer,
        other_loss if mistake == "other_targets" else next_loss,
        training,
        validation=validation,
        schedule=warm_cosine(optimizer, 4 if mistake == "epochs_as_steps" else 20, steps),
        clip=1.0,
        score=lambda: -mean_over(model, next_loss, validation),
    )


def one_epoch(seed: int, mistake: str = "") -> Run:
    """A small language model that sees everything once, in bf16 and with accumulated gradients."""
    training = Shuffled(chains(1000 * seed + 3, 1440), size=16, seed=seed)
    validation = Shuffled(chains(1000 * seed + 4, 96), size=32, seed=seed, shuffle=False)
    model = Decoder(depth=1)
    if mistake == "tanh_logits":
        model.head = nn.Sequential(model.head, nn.Tanh())  # type: ignore[assignment]
    if mistake == "large_embedding":
        nn.init.normal_(model.embed.weight, std=1.0)
        nn.init.normal_(model.head.weight, std=30.0)
    optimizer = Adam(model.parameters(), lr=6e-3, weight_decay=0.1 if mistake == "decay_in_adam" else 0.0)
    return fit(model, optimizer, next_loss, training, validation=validation, every=2, clip=1.0, bf16=True)


def low_rank(seed: int, mistake: str = "") -> Run:
    """A language model that has learnt one rule, and learns another with adapters of low rank."""
    model: nn.Module = Decoder()
    optimizer: torch.optim.Optimizer = AdamW(model.parameters(), lr=8e-3)
    for batch in Shuffled(chains(1000 * seed + 5, 720), size=16, seed=seed):
        optimizer.zero_grad()
        next_loss(model, batch).backward()
        optimizer.step()
    before = list(model.parameters())
    model = adapted(model)
    if mistake == "zero_factors":
        for module in model.modules():
            if isinstance(module, Adapter):
                nn.init.zeros_(module.lora_a)
    training = Shuffled(chains(1000 * seed + 1006, 240), size=16, seed=seed)
    validation = Shuffled(chains(1000 * seed + 1007, 96), size=32, seed=seed, shuffle=False)
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = AdamW(before if mistake == "optimizer_before" else adapters, lr=1e-2)
    return fit(model, optimizer, next_loss, training, validation=validation)


def sorting(seed: int, n: int) -> Tensors:
    """Six letters in any order, and the same in the alphabet's order between a start and an end."""
    random = torch.Generator().manual_seed(seed)
    source = torch.stack([torch.randperm(14, generator=random)[:6] for _ in range(n)]) + 2
    start, end = torch.zeros(n, 1, dtype=torch.int64), torch.ones(n, 1, dtype=torch.int64)
    return source, torch.cat([start, source.sort(1).values, end], 1)


def sort_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The smoothed cross-entropy of a sorted sequence."""
    source, target = batch
    logits = model(source, target[:, :-1]).flatten(0, 1)
    return F.cross_entropy(logits, target[:, 1:].flatten(), label_smoothing=0.1 if model.training else 0.0)


def sort_accuracy(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of next letters that are right."""
    source, target = batch
    return (model(source, target[:, :-1]).argmax(-1) == target[:, 1:]).float().mean()


def translator(seed: int, mistake: str = "") -> Run:
    """An encoder and a decoder that sort letters, with label smoothing and one cycle."""
    training = Shuffled(*sorting(2 * seed, 640), size=32, seed=seed)
    validation = Shuffled(*sorting(2 * seed + 1, 128), size=32, seed=seed, shuffle=False)
    model = Translator(16)
    if mistake == "attention_scale":
        for attention in (model.read, model.write, model.look):
            attention.scale = 100.0
    if mistake == "memory_of_batch":
        encode = model.encode
        model.encode = lambda source: encode(source).mean(0, keepdim=True).expand(len(source), -1, -1)  # type: ignore[method-assign]
    optimizer = AdamW(model.parameters(), lr=1e-2)
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=5 * len(training) + 1)
    return fit(
        model,
        optimizer,
        sort_loss,
        training,
        validation=validation,
        accuracy_of=sort_accuracy,
        schedule=schedule,
    )


def topics(seed: int, n: int) -> Tensor:
    """Texts of twelve words, each on one of eight topics of four words."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randperm(32, generator=torch.Generator().manual_seed(seed // 1000)).reshape(8, 4) + 1
    topic = torch.randint(8, (n, 1), generator=random)
    return words[topic, torch.randint(4, (n, 12), generator=random)]


def gaps(seed: int, n: int, mistake: str = "") -> Tensors:
    """Texts with gaps, and the words that are missing; elsewhere what a loss ignores."""
    tokens = topics(seed, n)
    gap = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    if mistake == "masked_in_place":
        tokens[gap] = 0
    wanted = torch.where(gap, tokens, -100)
    return tokens.masked_fill(gap, 0), wanted


def gap_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The cross-entropy in the gaps."""
    tokens, wanted = batch
    return F.cross_entropy(model(tokens).flatten(0, 1), wanted.flatten(), ignore_index=-100)


def masked(seed: int, mistake: str = "") -> Run:
    """A masked language model with a warm-up and dropout."""
    training = Shuffled(*gaps(1000 * seed, 800, mistake), size=32, seed=seed)
    validation = Shuffled(*gaps(1000 * seed + 1, 128, mistake), size=64, seed=seed, shuffle=False)
    sound = Shuffled(*gaps(1000 * seed + 1, 128), size=64, seed=seed, shuffle=False)
    model = MaskedModel(33, 12, spread=5.0 if mistake == "large_spread" else 0.02)
    if mistake == "adam_decay":
        optimizer: torch.optim.Optimizer = Adam(model.parameters(), lr=5e-3, weight_decay=0.1)
    else:
        optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    schedule = warm_cosine(optimizer, 20, 150)
    return fit(
        model,
        optimizer,
        gap_loss,
        training,
        validation=validation,
        schedule=schedule,
        clip=1.0,
        score=lambda: -mean_over(model, gap_loss, sound),
    )


def pairs(seed: int, n: int) -> Tensors:
    """The same three meanings said twice, in the words of two languages and at two lengths; zero is no word."""
    random = torch.Generator().manual_seed(seed)
    meaning = torch.stack([torch.randperm(30, generator=random)[:3] for _ in range(n)])
    texts = []
    for language in range(2):
        said = meaning.gather(1, torch.randint(3, (n, 10), generator=random)) + 1 + 30 * language
        said[:, :3] = meaning + 1 + 30 * language
        length = torch.randint(5, 11, (n, 1), generator=random)
        texts.append(said.masked_fill(torch.arange(10) >= length, 0))
    return tuple(texts)


def similar(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The similarity of every first text and every second, as logits."""
    one, other = batch
    known = (lambda text: text == 0) if mistake == "inverted_mask" else (lambda text: text != 0)
    scores = model(one, known(one)) @ model(other, known(other)).mT
    return scores / 0.07


def contrast(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The cross-entropy of finding a text's partner in the batch, both ways."""
    logits = similar(model, batch, mistake)
    if mistake == "only_positives":
        return 1 - 0.07 * logits.diagonal().mean()
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.mT, right)) / 2


def found(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The share of texts whose partner is the most similar."""
    logits = similar(model, batch, mistake)
    return (logits.argmax(1) == torch.arange(len(logits))).float().mean()


def encoders(seed: int, mistake: str = "") -> Run:
    """Sentences in two languages that find each other among the batch."""
    one, other = pairs(2 * seed, 800)
    if mistake == "unpaired":
        other = other[torch.randperm(len(other))]
    training = Shuffled(one, other, size=32, seed=seed)
    validation = Shuffled(*pairs(2 * seed + 1, 128), size=64, seed=seed, shuffle=False)
    model = Sentences(61)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    return fit(
        model,
        optimizer,
        partial(contrast, mistake=mistake),
        training,
        validation=validation,
        accuracy_of=partial(found, mistake=mistake),
    )


def tags(seed: int, n: int) -> Tensors:
    """Texts of several lengths; a word's tag depends on it and on the next one."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 25, (n, 10), generator=random)
    length = torch.randint(4, 11, (n,), generator=random)
    wanted = (tokens % 3 + (tokens.roll(-1, 1) > 12) * 3).long()
    beyond = torch.arange(10) >= length[:, None]
    wanted[torch.arange(n), length - 1] = 6
    return tokens.masked_fill(beyond, 0), length, wanted.masked_fill(beyond, -1)


def tag_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The cross-entropy of the tags of words."""
    tokens, length, wanted = batch
    return F.cross_entropy(model(tokens, length).flatten(0, 1), wanted.flatten(), ignore_index=-1)


def tag_accuracy(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of words whose tag is right."""
    tokens, length, wanted = batch
    return (model(tokens, length).argmax(-1) == wanted)[wanted >= 0].float().mean()


def tagger(seed: int, mistake: str = "") -> Run:
    """A tagger with packed sequences and momentum, whose learning rate falls by a tenth every epoch."""
    training = Shuffled(*tags(2 * seed, 500), size=20, seed=seed)
    validation = Shuffled(*tags(2 * seed + 1, 160), size=32, seed=seed, shuffle=False)
    model = Tagger(25, 7)
    if mistake == "dropout":
        model.dropout.p = 0.95
    optimizer = SGD(model.parameters(), lr=1e-4 if mistake == "small_rate" else 0.5, momentum=0.9)
    schedule = ExponentialLR(optimizer, 0.9 if mistake == "decay_every_step" else 0.9 ** (1 / len(training)))
    return fit(
        model,
        optimizer,
        tag_loss,
        training,
        validation=validation,
        accuracy_of=tag_accuracy,
        schedule=schedule,
        clip=5.0,
    )
