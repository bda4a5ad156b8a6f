"""The data sets, as tensors on the device, and the loader that takes batches from them by index."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from sklearn.datasets import load_digits, make_circles
from torch import Tensor

from ignite_act.errors import UserError, quoted
from ignite_act.files import reading

logger = logging.getLogger(__name__)

SPLIT_SEED = 42
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_FASHION_FILES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 784,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 784,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
"""The files of FashionMNIST, and the bytes of each when it is unpacked."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Split:
    """Samples ``x`` of shape ``(N, ...)`` and targets ``y``."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def share(self, rank: int, processes: int) -> Split:
        """The samples of one of several processes."""
        return Split(self.x[rank::processes], self.y[rank::processes])

    def to(self, device: torch.device | str) -> Split:
        """The same samples on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Data:
    """A data set in three parts.

    Attributes:
        name: what it is called on the command line.
        train, validation, test: the parts.
        task: ``"classification"`` (integer targets ``(N,)``, one logit a class) or ``"binary"`` (targets 0.0 and 1.0
            of shape ``(N, 1)``, one logit).
        outputs: number of logits.
        shuffle: whether training takes the samples in a new order every epoch.
        drop_last: whether training leaves out a smaller last batch.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    task: Literal["classification", "binary"]
    outputs: int
    shuffle: bool = True
    drop_last: bool = True

    def to(self, device: torch.device | str) -> Data:
        """The same data on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


class TensorLoader:
    """Batches of tensors that lie on the device already.

    The order depends on the seed and the epoch only, which `set_epoch` names: without it every iteration is the same.

    Args:
        split: the samples.
        batch_size: samples in a batch.
        shuffle: a new order every epoch.
        drop_last: leave out a last batch that is smaller, unless it is the only one.
        seed: of the order.
        rank, processes: which share of every batch is taken, where several processes train together.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.split = split
        self.batch_size = min(batch_size, len(split))
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 1

    def __len__(self) -> int:
        batches = len(self.split) / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order the next iteration takes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.split.x, self.split.y
        if not self.shuffle:
            stop = len(self) * self.batch_size
            for begin in range(0, stop, self.batch_size):
                share = slice(begin + self.rank, min(begin + self.batch_size, stop), self.processes)
                yield x[share], y[share]
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.split), generator=generator).to(x.device)
        for batch in order.split(self.batch_size)[: len(self)]:
            indices = batch[self.rank :: self.processes]
            yield x.index_select(0, indices), y.index_select(0, indices)


def load_data(name: str, root: Path | None = None) -> Data:
    """A data set by name, on the CPU.

    Args:
        name: ``"digits"``, ``"circles"`` or ``"fashionmnist"``.
        root: where FashionMNIST lies or is downloaded to.

    Raises:
        UserError: if the data cannot be had.
    """
    loaders = {"digits": digits, "circles": circles, "fashionmnist": lambda: fashion_mnist(root)}
    if name not in loaders:
        raise UserError(f"unknown data set {quoted(name)} (known: {', '.join(loaders)})")
    return loaders[name]()


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits, ``(N, 1, 8, 8)`` in [-1, 1]: 1,197 / 300 / 300 samples."""
    images, targets = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8).div(8).sub(1)
    y = torch.from_numpy(targets).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, validation, test = (Split(x[part], y[part]) for part in order.split([1197, 300, 300]))
    return Data("digits", train, validation, test, "classification", outputs=10)


def circles() -> Data:
    """Two noisy circles, 1,000 points ``(N, 2)``; all of them are trained on in order, validated and tested on."""
    points, targets = make_circles(1000, factor=0.5, noise=0.1, random_state=SPLIT_SEED)
    everything = Split(torch.from_numpy(points).float(), torch.from_numpy(targets).float().view(-1, 1))
    return Data("circles", everything, everything, everything, "binary", outputs=1, shuffle=False, drop_last=False)


def fashion_mnist(root: Path | None = None) -> Data:
    """FashionMNIST, ``(N, 1, 28, 28)`` in [-1, 1]: 50,000 / 10,000 / 10,000 images.

    The validation part are the last 10,000 of a permutation of the 60,000 with seed 42. Taken from ``root`` (in
    torchvision's layout, or the four files themselves, also gzipped), from Debian's package, or downloaded.

    Raises:
        UserError: if none of the three ways works.
    """
    train, test = _fashion_mnist_parts(root)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    first, last = (Split(train.x[part], train.y[part]) for part in order.split([50_000, 10_000]))
    return Data("fashionmnist", first, last, test, "classification", outputs=10)


def find_fashion_mnist(root: Path) -> Path | None:
    """The folder, at or below a place, in which the four files of FashionMNIST lie."""
    for folder in (root / "FashionMNIST" / "raw", root / "raw", root):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in _FASHION_FILES):
            return folder
    return None


def _fashion_mnist_parts(root: Path | None) -> tuple[Split, Split]:
    roots = [*([root] if root is not None else []), DEBIAN_FASHION_MNIST]
    for folder in map(find_fashion_mnist, roots):
        if folder is not None:
            if root is not None and not folder.is_relative_to(root):
                logger.warning("%s holds no FashionMNIST: taking it from %s", root, folder)
            with tempfile.TemporaryDirectory() as temporary:
                raw = Path(temporary) / "FashionMNIST" / "raw"
                raw.mkdir(parents=True)
                try:
                    for name in _FASHION_FILES:
                        _copy(folder / name, raw / name)
                    return _read_fashion_mnist(Path(temporary), download=False)
                except (OSError, EOFError, zlib.error, LookupError, ValueError, RuntimeError, AssertionError) as error:
                    reason = str(error) or type(error).__name__
                    raise UserError(f"the FashionMNIST files in {folder} cannot be read: {reason}") from error
    target = root if root is not None else Path.home() / ".cache" / "ignite_act"
    raw = target / "FashionMNIST" / "raw"
    _check_ordinary(raw)
    created = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        return _read_fashion_mnist(target, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        with contextlib.suppress(OSError):
            for folder in created:
                folder.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(
            f"FashionMNIST is not in {' or '.join(map(str, roots))} and the download into {target} failed ({reason}). "
            "Three ways to have it: --data-root with the four original files, Debian's package "
            "dataset-fashion-mnist, or a network for the download"
        ) from error


def _copy(source: Path, target: Path) -> None:
    """Copies a file of FashionMNIST, unpacked; stops where it is longer than that file can be."""
    packed = not source.is_file()
    left = _FASHION_FILES[source.name]
    with reading(Path(f"{source}.gz") if packed else source) as file, target.open("wb") as copy:
        stream = gzip.GzipFile(fileobj=file) if packed else file
        while piece := stream.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{source.name} holds more than the {_FASHION_FILES[source.name]:,} bytes expected")
            copy.write(piece)


def _check_ordinary(folder: Path) -> None:
    """Refuses a folder to download into in which something else bears the name of a file of FashionMNIST.

    Raises:
        UserError: naming it: a pipe would be waited for, a file that is too long read as a whole.
    """
    for name, size in _FASHION_FILES.items():
        for path in (folder / name, folder / f"{name}.gz"):
            if not path.exists():
                continue
            if not path.is_file():
                raise UserError(f"{path} is not an ordinary file: move it away, or name another --data-root")
            if path.stat().st_size > size + _PIECE:
                raise UserError(f"{path} is too long for a file of FashionMNIST: move it away")


def _read_fashion_mnist(root: Path, *, download: bool) -> tuple[Split, Split]:
    from torchvision.datasets import FashionMNIST  # a slow import that the other data sets do not need

    splits = []
    for train, size in ((True, 60_000), (False, 10_000)):
        dataset = FashionMNIST(str(root), train=train, download=download)
        if dataset.data.shape != (size, 28, 28) or dataset.targets.shape != (size,) or dataset.targets.max() > 9:
            raise ValueError(f"these are not {size:,} images of 28 x 28 with labels from 0 to 9")
        x = dataset.data.view(-1, 1, 28, 28).float().div(255).sub(0.5).div(0.5)
        splits.append(Split(x, dataset.targets.long()))
    return splits[0], splits[1]
