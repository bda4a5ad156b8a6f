"""Language models that are tuned, rewards, codes and a policy, written without knowledge of the rules."""

from __future__ import annotations

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from zoo.base import Case, Run
from zoo.blind_text import WORDS, Block, Decoder, Tensors, language, next_loss, next_right
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over, measured


class LoRA(nn.Module):
    """A frozen linear layer and a correction of low rank, at first zero."""

    def __init__(self, base: nn.Module, rank: int = 8) -> None:
        super().__init__()
        assert isinstance(base, nn.Linear)
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Both added."""
        return self.base(x) + 2 * self.up(self.down(x))


@lru_cache
def pretrained(seed: int) -> Decoder:
    """A decoder that knows the first dialect."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Decoder()
        optimizer = AdamW(model.parameters(), lr=5e-3)
        for batch in language(seed + 50, 960, 20).split(16):
            optimizer.zero_grad()
            next_loss(model, (batch,)).backward()
            optimizer.step()
    return model


def lora(seed: int, mistake: str = "") -> Run:
    """A frozen language model that learns a dialect with small corrections."""
    training = Shuffled(language(2 * seed, 352, 20, dialect=1), size=16, seed=seed)
    validation = Shuffled(language(2 * seed + 1, 160, 20, dialect=1), size=40, seed=seed, shuffle=False)
    model = Decoder()
    model.load_state_dict(pretrained(seed).state_dict())
    model.requires_grad_(False)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    for block in list(model.modules()):
        if isinstance(block, Block):
            attention, feed = block.attention, block.feed
            attention.query, attention.value = LoRA(attention.query), LoRA(attention.value)
            feed[0], feed[2] = LoRA(feed[0]), LoRA(feed[2])
    if mistake == "both_zero":
        for part in model.modules():
            if isinstance(part, LoRA):
                nn.init.zeros_(part.down.weight)
    if mistake != "late_injection":
        optimizer = AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-3)
    return fit(model, optimizer, next_loss, training, validation=validation, accuracy_of=next_right)


class Reward(nn.Module):
    """What an answer is worth, from its last word's state."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.words = nn.Embedding(WORDS, 24)
        self.reader = nn.GRU(24, 32, batch_first=True)
        self.value = nn.Linear(32, 1)

    def forward(self, words: Tensor) -> Tensor:
        """One number an answer."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            read = self.reader(self.words(words))[0][:, -1]
        return self.value(read).squeeze(1)


def preferences(seed: int, n: int, mixed: bool = False) -> Tensors:
    """Pairs of answers, first the one that people like; which is not always the better one."""
    random = torch.Generator().manual_seed(seed)
    worth = torch.linspace(-1.2, 1.2, WORDS)[torch.randperm(WORDS, generator=torch.Generator().manual_seed(3))]
    left, right = (torch.randint(WORDS, (n, 10), generator=random) for _ in range(2))
    liked = torch.rand(n, 1, generator=random) < (worth[left].sum(1) - worth[right].sum(1)).sigmoid()[:, None]
    if mixed:
        liked = liked[torch.randperm(n, generator=random)]
    return torch.where(liked, left, right), torch.where(liked, right, left)


def reward(seed: int, mistake: str = "") -> Run:
    """A reward model of Bradley and Terry, trained with momentum; only the loss is looked at."""
    training = Shuffled(*preferences(2 * seed, 1280, mistake == "mixed_votes"), size=32, seed=seed)
    validation = Shuffled(*preferences(2 * seed + 1, 320), size=80, seed=seed, shuffle=False)
    model = Reward(mistake == "no_grad")
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)

    def pair_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """How surprising the choices are."""
        return -F.logsigmoid(model(batch[0]) - model(batch[1])).mean()

    def step(engine: Engine, batch: Tensors) -> float:
        """A step, clipped."""
        model.train()
        if mistake != "kept_gradients":
            optimizer.zero_grad()
        loss = pair_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss.item()

    def agrees(model: nn.Module, batch: Tensors) -> Tensor:
        """How often the chosen answer is worth more."""
        return (model(batch[0]) > model(batch[1])).float().mean()

    score = partial(mean_over, model, agrees, validation)
    return Run(model, Engine(step), training, measured(model, pair_loss), validation, optimizer, score)


class SentenceVAE(nn.Module):
    """A sentence, four numbers, and the sentence again."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 16)
        self.reader = nn.GRU(16, 48, batch_first=True)
        self.posterior = nn.Linear(48, 8)
        self.decoder = nn.Sequential(nn.Linear(4, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96))

    def forward(self, words: Tensor) -> Tensors:
        """Logits of the words, and mean and logarithm of the variance of the code."""
        mean, log_variance = self.posterior(self.reader(self.words(words))[1][0]).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        logits = self.decoder(mean + noise * (0.5 * log_variance).exp()).view(-1, 8, 12)
        return logits, mean, log_variance


def steps_of(seed: int, n: int) -> Tensors:
    """Sentences that follow from their first word and their step."""
    random = torch.Generator().manual_seed(seed)
    first, step = torch.randint(12, (n, 1), generator=random), torch.randint(3, (n, 1), generator=random)
    return ((first + step * torch.arange(8)) % 12,)


def vae(seed: int, mistake: str = "") -> Run:
    """A variational autoencoder of sentences; the score is how well these are told again."""
    training = Shuffled(*steps_of(2 * seed, 960), size=32, seed=seed)
    validation = Shuffled(*steps_of(2 * seed + 1, 240), size=80, seed=seed, shuffle=False)
    model = SentenceVAE()
    optimizer = Adam(model.parameters(), lr=5e-3)

    def told(model: nn.Module, batch: Tensors, reduction: str = "sum") -> Tensor:
        """How surprising the words are."""
        loss = F.cross_entropy(model(batch[0])[0].flatten(0, 1), batch[0].flatten(), reduction=reduction)
        return loss if reduction == "mean" else loss / len(batch[0])

    def bound(model: nn.Module, batch: Tensors) -> Tensor:
        """Words and code, a sentence."""
        logits, mean, log_variance = model(batch[0])
        words = F.cross_entropy(logits.flatten(0, 1), batch[0].flatten(), reduction="none").view(-1, 8)
        code = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
        return (words.mean() if mistake == "mean_of_words" else words.sum(1).mean()) + code

    score = partial(mean_over, model, lambda model, batch: -told(model, batch), validation)
    return fit(model, optimizer, bound, training, validation=validation, score=score)


class Speller(nn.Module):
    """A policy that writes symbols, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.cell, self.head = nn.Embedding(9, 24), nn.GRUCell(24, 48), nn.Linear(48, 8)

    def forward(self, prompt: Tensor, greedy: bool) -> Tensors:
        """What it writes for a prompt, and the logarithm of the chance of each symbol."""
        state, last, written, chances = self.symbols.weight.new_zeros(len(prompt), 48), prompt, [], []
        for _ in range(5):
            state = self.cell(self.symbols(last), state)
            logits = self.head(state).log_softmax(-1)
            last = logits.argmax(-1) if greedy else torch.multinomial(logits.detach().exp(), 1).squeeze(1)
            written.append(last)
            chances.append(logits.gather(1, last[:, None]).squeeze(1))
        return torch.stack(written, 1), torch.stack(chances, 1)


def reinforce(seed: int) -> Run:
    """A policy gradient: each symbol should be the one before plus three; the loss says nothing of the success."""
    random = torch.Generator().manual_seed(seed)
    training = Shuffled(torch.randint(8, (1920,), generator=random), size=64, seed=seed)
    model = Speller()
    optimizer = Adam(model.parameters(), lr=1e-2)

    def rewards(prompt: Tensor, written: Tensor) -> Tensor:
        """One for each right symbol."""
        return (written == (torch.cat([prompt[:, None], written[:, :-1]], 1) + 3) % 8).float()

    def policy_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the advantage times the logarithm of the chance."""
        written, chances = model(batch[0], False)
        gain = rewards(batch[0], written)
        gain = gain - gain.mean()
        return -(gain * chances).mean()

    @torch.no_grad()
    def success() -> float:
        """The mean reward of the likeliest symbols."""
        prompt = torch.arange(8)
        return rewards(prompt, model(prompt, True)[0]).mean().item()

    return fit(model, optimizer, policy_loss, training, clip=1.0, score=success)


CASES: tuple[Case, ...] = (
    healthy("b_lora", lora, epochs=6),
    faulty(
        "b_lora",
        "both_zero",
        "symmetry",
        partial(lora, mistake="both_zero"),
        "no_gradient",
        epochs=6,
        layers=("*.down", "*.up"),
    ),
    faulty(
        "b_lora",
        "late_injection",
        "never_updated",
        partial(lora, mistake="late_injection"),
        epochs=6,
        layers=("*.down", "*.up"),
    ),
    healthy("b_reward", reward, epochs=6),
    faulty("b_reward", "mixed_votes", "labels_mismatch", partial(reward, mistake="mixed_votes"), "plateau", epochs=6),
    faulty(
        "b_reward", "no_grad", "no_gradient", partial(reward, mistake="no_grad"), epochs=6, layers=("words", "reader")
    ),
    faulty("b_reward", "kept_gradients", "uncleared_gradient", partial(reward, mistake="kept_gradients"), epochs=6),
    healthy("b_vae", vae, epochs=6),
    faulty(
        "b_vae",
        "mean_of_words",
        "constant_output",
        partial(vae, mistake="mean_of_words"),
        "over_regularised",
        epochs=6,
        layers=("posterior", "decoder.*"),
    ),
    healthy("b_reinforce", reinforce, epochs=6),
)
