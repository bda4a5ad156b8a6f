"""Networks of the exam on vision that embed images or make new ones."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.exam_vision_models import conv


class Towers(nn.Module):
    """An image and its caption as two vectors of length one, and how sharply they are compared."""

    def __init__(self, words: int, width: int = 32, blind: bool = False) -> None:
        super().__init__()
        self.image = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2), nn.Flatten(), nn.Linear(512, width))
        self.words = nn.Embedding(words, 24)
        self.read = nn.GRU(24, 32, batch_first=True)
        self.caption = nn.Linear(32, width)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.blind = blind

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """How well each image, down, suits each caption, across."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.blind):
            seen = F.normalize(self.image(images), dim=1)
        told = F.normalize(self.caption(self.read(self.words(captions))[0][:, -1]), dim=1)
        return self.scale.exp() * (seen @ told.T)


class Siamese(nn.Module):
    """An encoder and a projection, and a predictor of what the projection of another view is."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 16), conv(16, 24, stride=2), nn.Flatten(), nn.Linear(384, 64))
        self.projection = nn.Sequential(
            nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, width), nn.BatchNorm1d(width, affine=False)
        )
        self.predictor = nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The projection and what is predicted from it."""
        projected = self.projection(self.encoder(x))
        return projected, self.predictor(projected)


class Embedder(nn.Module):
    """A vector for each image."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
        )
        self.embed = nn.Linear(384, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.features(x).flatten(1))


class ConvVae(nn.Module):
    """A variational autoencoder of digits with convolutions."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Flatten()
        )
        self.mean, self.log_variance = nn.Linear(128, latent), nn.Linear(128, latent)
        self.enter = nn.Linear(latent, 128)
        self.decoder = nn.Sequential(
            nn.SiLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels, and mean and logarithm of the variance of the latents."""
        x = self.encoder(x)
        mean, log_variance = self.mean(x), self.log_variance(x)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        latent = mean + noise * (0.5 * log_variance).exp()
        return self.decoder(self.enter(latent).view(-1, 32, 2, 2)), mean, log_variance


class Adversaries(nn.Module):
    """A generator of digits and a discriminator."""

    def __init__(self, latent: int = 16) -> None:
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, 256), nn.Unflatten(1, (64, 2, 2)), nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
            nn.Linear(128, 1),
        )  # fmt: skip

    def forward(self, latent: Tensor) -> Tensor:
        return self.generator(latent)


class Masked(nn.Conv2d):
    """A convolution that sees only pixels before its own, and its own where that is allowed."""

    seen: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, own: bool) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        seen = torch.ones(size, size)
        seen[size // 2 + 1 :] = 0
        seen[size // 2, size // 2 + int(own) :] = 0
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.seen, self.bias)


def pixel_cnn(levels: int = 8, width: int = 24) -> nn.Sequential:
    """The logits of each pixel's level given the pixels before it."""
    layers: list[nn.Module] = [Masked(1, width, 5, False), nn.ReLU()]
    for _ in range(2):
        layers += [Masked(width, width, 3, True), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, levels, 1))


class ConvMemory(nn.Module):
    """A convolutional LSTM that says what the next frame will be."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gates = nn.Conv2d(1 + width, 4 * width, 3, padding=1)
        self.draw = nn.Conv2d(width, 1, 1)
        self.width = width

    def forward(self, frames: Tensor) -> Tensor:
        """The next frame after each of the frames, ``(N, frames, side, side)``."""
        hidden = frames.new_zeros(len(frames), self.width, *frames.shape[2:])
        cell = hidden
        drawn = []
        for frame in frames.unbind(1):
            enter, keep, leave, new = self.gates(torch.cat([frame[:, None], hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(leave) * torch.tanh(cell)
            drawn.append(self.draw(hidden))
        return torch.cat(drawn, 1)


def tanh_autoencoder() -> nn.Sequential:
    """A deep autoencoder with tanh."""
    widths = (64, 48, 32, 8, 32, 48, 64)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
