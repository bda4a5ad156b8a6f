"""What there is to read in the real part of the zoo: tokens with a structure, made in memory."""

from __future__ import annotations

import torch
from torch import Tensor

WORDS = 20
"""Number of tokens of the language."""
VOCABULARY = 40
"""Number of tokens of the sentences; 0 is padding and 1 the start."""
START = 1


def generator(seed: int) -> torch.Generator:
    """Random numbers of a seed."""
    return torch.Generator().manual_seed(seed)


def language(seed: int, n: int = 512, places: int = 17, dialect: int = 0) -> Tensor:
    """Texts whose first token is a topic, which says what word follows which one, ``(n, places)``.

    Args:
        seed: of the texts.
        n: number of texts.
        places: length.
        dialect: for two of the topics, which word follows which one depends on it.
    """
    follows = torch.randint(4, WORDS, (4, WORDS, 2), generator=generator(1000))
    follows[:2] = torch.randint(4, WORDS, (2, WORDS, 2), generator=generator(1000 + dialect))
    random = generator(seed)
    topic = torch.randint(4, (n,), generator=random)
    texts = [topic, torch.randint(4, WORDS, (n,), generator=random)]
    for _ in range(places - 2):
        which = (torch.rand(n, generator=random) < 0.25).long()
        texts.append(follows[topic, texts[-1], which])
    return torch.stack(texts, 1)


def sentences(seed: int, n: int = 640, classes: int = 4, clues: int = 2) -> tuple[Tensor, Tensor]:
    """Padded sentences in which a few words tell the class: tokens ``(n, 17)``, classes ``(n,)``."""
    random = generator(seed)
    lengths = torch.randint(7, 18, (n,), generator=random)
    tokens = torch.randint(22, VOCABULARY, (n, 17), generator=random)
    y = torch.randint(classes, (n,), generator=random)
    for _ in range(clues):
        place = 1 + (torch.rand(n, generator=random) * (lengths - 1)).long()
        tokens[torch.arange(n), place] = 2 + 5 * y + torch.randint(5, (n,), generator=random)
    tokens[:, 0] = START
    tokens[torch.arange(17) >= lengths[:, None]] = 0
    return tokens, y


def tagged(seed: int, n: int = 512) -> tuple[Tensor, Tensor]:
    """Padded sentences with a tag a word, which depends on the word and the one before; -100 on the padding."""
    random = generator(seed)
    tokens = torch.randint(2, VOCABULARY, (n, 14), generator=random)
    before = torch.cat([torch.zeros(n, 1, dtype=torch.long), tokens[:, :-1]], 1)
    y = (tokens % 3) * 2 + (before >= VOCABULARY // 2).long()
    outside = torch.arange(14) >= torch.randint(4, 15, (n,), generator=random)[:, None]
    tokens[outside], y[outside] = 0, -100
    return tokens, y


def translated(seed: int, n: int = 576, places: int = 8) -> tuple[Tensor, Tensor]:
    """Texts, and the same in another language that is read backwards, behind a start: ``(n, places + 1)``."""
    random = generator(seed)
    source = torch.randint(2, 14, (n, places), generator=random)
    dictionary = 2 + torch.randperm(12, generator=generator(7))
    target = dictionary[source.flip(1) - 2]
    return source, torch.cat([torch.full((n, 1), START), target], 1)


def paired(seed: int, n: int = 640) -> tuple[Tensor, Tensor]:
    """Questions and their answers: bags of words of two languages about the same three subjects of sixteen."""
    random = generator(seed)
    subjects = torch.rand(n, 16, generator=random).topk(3, dim=1).indices

    def words() -> Tensor:
        told = subjects[:, [0, 1, 2, 0, 1, 2]] * 2 + torch.randint(2, (n, 6), generator=random)
        filler = torch.randint(32, VOCABULARY, (n, 3), generator=random)
        return torch.cat([told, filler], 1)

    return words(), words()
