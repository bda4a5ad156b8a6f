"""The data sets and the loader."""

import gzip
import re
import shutil
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits, make_circles

from ignite_act import data as data_module
from ignite_act.data import DEBIAN_FASHION_MNIST, Split, TensorLoader, circles, digits, load_data
from ignite_act.errors import UserError

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
SIZES = {"train": 60_000, "t10k": 10_000}


def numbered(count):
    """A split whose samples are told apart."""
    return Split(torch.arange(count).float().view(-1, 1), torch.arange(count))


def taken(loader):
    """The samples of an epoch, batch by batch."""
    return [y.tolist() for x, y in loader if x.flatten().tolist() == y.tolist()]


# The loader


def test_order_depends_on_seed_and_epoch_only():
    """The same seed and epoch give the same order, whatever came before; another seed or epoch gives another."""
    orders = {}
    for seed in (1, 2):
        for epoch in (1, 2, 3):
            loader = TensorLoader(numbered(100), 10, shuffle=True, seed=seed)
            loader.set_epoch(epoch)
            torch.rand(epoch)  # the global random state does not matter
            orders[seed, epoch] = str(taken(loader))
            assert str(taken(loader)) == orders[seed, epoch]
    assert len(set(orders.values())) == 6


def test_iterating_leaves_the_random_state_alone():
    """Taking batches draws nothing from torch's global generator."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    taken(TensorLoader(numbered(10), 3, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 5), (10, 10), (10, 1), (10, 11), (1, 1), (7, 4)])
def test_every_sample_exactly_once(count, batch_size, shuffle, drop_last):
    """An epoch has every sample once, in full batches; `drop_last` leaves out a smaller last batch but the only one."""
    loader = TensorLoader(numbered(count), batch_size, shuffle=shuffle, drop_last=drop_last)
    batches = taken(loader)
    size = min(batch_size, count)
    expected = [size] * (count // size) + ([count % size] if count % size and not drop_last else [])
    assert [len(batch) for batch in batches] == expected
    assert len(loader) == len(expected)
    seen = [number for batch in batches for number in batch]
    assert len(set(seen)) == len(seen) == sum(expected)
    assert shuffle or seen == list(range(len(seen)))


def test_dropped_samples_change():
    """What `drop_last` leaves out is not the same in every epoch."""
    loader = TensorLoader(numbered(10), 9, shuffle=True, drop_last=True)
    left_out = set()
    for epoch in range(1, 20):
        loader.set_epoch(epoch)
        left_out |= set(range(10)) - {number for batch in taken(loader) for number in batch}
    assert len(left_out) > 3


# The embedded sets


def test_digits():
    """The digits are scikit-learn's images, scaled to [-1, 1], each in one of three parts."""
    data = digits()
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [1197, 300, 300]
    images, targets = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(42)).numpy()
    x = torch.cat([part.x for part in parts])
    assert x.shape == (1797, 1, 8, 8)
    assert np.array_equal(x.numpy().reshape(1797, 64), (images[order] / 8 - 1).astype(np.float32))
    assert np.array_equal(torch.cat([part.y for part in parts]).numpy(), targets[order])
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert (data.task, data.outputs, data.shuffle, data.drop_last) == ("classification", 10, True, True)


def test_circles():
    """The circles are the reference's 1,000 points, taken in order, the same ones in every part."""
    data = circles()
    points, targets = make_circles(1000, factor=0.5, noise=0.1, random_state=42)
    for part in (data.train, data.validation, data.test):
        assert np.array_equal(part.x.numpy(), points.astype(np.float32))
        assert np.array_equal(part.y.numpy(), targets.astype(np.float32)[:, None])
    assert (data.task, data.outputs, data.shuffle, data.drop_last) == ("binary", 1, False, False)


@pytest.mark.parametrize("name", ["digits", "circles"])
def test_same_every_time(name):
    """A data set is the same whatever the random state is."""
    torch.manual_seed(1)
    np.random.seed(1)
    first = load_data(name)
    torch.manual_seed(2)
    np.random.seed(2)
    second = load_data(name).to("cpu")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).x, getattr(second, part).x)
        assert torch.equal(getattr(first, part).y, getattr(second, part).y)


def test_unknown_name():
    """An unknown data set is refused with the known ones."""
    with pytest.raises(UserError, match=r"unknown data set 'mnist' \(known: digits, circles, fashionmnist\)"):
        load_data("mnist")


# FashionMNIST


def read_idx(path):
    """An idx file, the naive way."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def test_fashion_mnist_is_the_reference(fashion_mnist):
    """Training images are the first 50,000 of a permutation with seed 42, the rest validates, scaled to [-1, 1]."""
    raw = {name: read_idx(DEBIAN_FASHION_MNIST / f"{name}.gz") for name in data_module._FASHION_FILES}
    torch.manual_seed(42)
    order = torch.randperm(60_000).numpy()
    expected = {
        "train": (raw[f"train-{IMAGES}"][order[:50_000]], raw[f"train-{LABELS}"][order[:50_000]]),
        "validation": (raw[f"train-{IMAGES}"][order[50_000:]], raw[f"train-{LABELS}"][order[50_000:]]),
        "test": (raw[f"t10k-{IMAGES}"], raw[f"t10k-{LABELS}"]),
    }
    for name, (images, labels) in expected.items():
        part = getattr(fashion_mnist, name)
        scaled = (images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        assert np.array_equal(part.x.numpy()[:, 0], scaled)
        assert np.array_equal(part.y.numpy(), labels)
    assert (fashion_mnist.task, fashion_mnist.outputs) == ("classification", 10)


def idx(array):
    """The bytes of an idx file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture(scope="session")
def four_files(tmp_path_factory):
    """The four files with made-up images: image k is filled with k mod 251, its label is k mod 10."""
    folder = tmp_path_factory.mktemp("fashion")
    for part, size in SIZES.items():
        numbers = np.arange(size)
        images = np.repeat((numbers % 251).astype(np.uint8), 28 * 28).reshape(size, 28, 28)
        (folder / f"{part}-{IMAGES}").write_bytes(idx(images))
        (folder / f"{part}-{LABELS}").write_bytes(idx((numbers % 10).astype(np.uint8)))
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Neither Debian's package nor a network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(data_module, "DEBIAN_FASHION_MNIST", tmp_path / "no-package")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def pack(source, target):
    with gzip.open(target.with_name(f"{target.name}.gz"), "wb", compresslevel=1) as file:
        file.write(source.read_bytes())


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("folder", "put"),
    [
        ("", shutil.copy),
        ("", pack),
        ("FashionMNIST/raw", shutil.copy),
        ("FashionMNIST/raw", pack),
        ("raw", shutil.copy),
    ],
    ids=["plain", "gz", "torchvision", "torchvision-gz", "raw"],
)
def test_places(four_files, offline, tmp_path, folder, put):
    """FashionMNIST is found as plain or gzipped files and in torchvision's layout, and its place stays as it was."""
    place = tmp_path / "root" / folder
    place.mkdir(parents=True)
    for file in four_files.iterdir():
        put(file, place / file.name)
    before = sorted((tmp_path / "root").rglob("*"))
    data = load_data("fashionmnist", tmp_path / "root")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert data.test.y[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert torch.equal(data.test.x[7], torch.full((1, 28, 28), 7.0).div(255).sub(0.5).div(0.5))
    assert sorted((tmp_path / "root").rglob("*")) == before


def test_package_is_found(four_files, offline, monkeypatch):
    """Without a root, Debian's package serves."""
    monkeypatch.setattr(data_module, "DEBIAN_FASHION_MNIST", four_files)
    assert len(load_data("fashionmnist").train) == 50_000


@pytest.mark.parametrize("root", [None, "root"])
def test_missing(offline, tmp_path, root):
    """Where there is no FashionMNIST, the error says where it was looked for and names the three ways to have it.

    Nothing is left behind.
    """
    with pytest.raises(UserError) as caught:
        load_data("fashionmnist", tmp_path / root if root else None)
    said = str(caught.value)
    for part in ("no-package", "--data-root", "dataset-fashion-mnist", "network", "no network in tests"):
        assert part in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def broken(name, change):
    """Replaces one file by a changed one."""

    def put(folder):
        plain = folder / name
        content = change(plain.read_bytes())
        plain.unlink()
        (folder / (f"{name}.gz" if content[:2] == b"\x1f\x8b" else name)).write_bytes(content)

    return put


def flipped(content):
    packed = bytearray(gzip.compress(content, 1))
    packed[1000:1100] = b"\xff" * 100
    return bytes(packed)


DAMAGE = {
    "cut off gz": broken(f"train-{IMAGES}", lambda content: gzip.compress(content, 1)[:1000]),
    "flipped bits in gz": broken(f"train-{IMAGES}", flipped),
    "wrong checksum in gz": broken(f"t10k-{LABELS}", lambda content: gzip.compress(content, 1)[:-8] + b"\0" * 8),
    "empty file": broken(f"train-{IMAGES}", lambda content: b""),
    "empty gz": broken(f"t10k-{LABELS}", lambda content: gzip.compress(b"")),
    "something else": broken(f"train-{LABELS}", lambda content: b"<html>404 not found</html>"),
    "unknown type": broken(f"t10k-{IMAGES}", lambda content: b"\0\0\x63\3" + content[4:]),
    "cut off": broken(f"t10k-{IMAGES}", lambda content: content[:-1]),
    "labels as images": broken(f"t10k-{IMAGES}", lambda content: idx(np.zeros(10_000, np.uint8))),
    "other size": broken(f"t10k-{IMAGES}", lambda content: idx(np.zeros((10_000, 32, 32), np.uint8))),
    "too few images": broken(f"t10k-{IMAGES}", lambda content: idx(np.zeros((9_999, 28, 28), np.uint8))),
    "too few labels": broken(f"train-{LABELS}", lambda content: idx(np.zeros(59_999, np.uint8))),
    "no labels": broken(f"train-{LABELS}", lambda content: idx(np.zeros(0, np.uint8))),
    "no such class": broken(f"t10k-{LABELS}", lambda content: content[:-1] + b"\x0a"),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files(four_files, offline, tmp_path, damage):
    """Damaged files are refused with their folder, never half-read or replaced by a download."""
    for file in four_files.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    damage(tmp_path)
    with pytest.raises(UserError, match=f"^the FashionMNIST files in {re.escape(str(tmp_path))} cannot be read: .+"):
        load_data("fashionmnist", tmp_path)


def test_reading_needs_no_download(four_files, offline, monkeypatch):
    """torchvision is asked to download only where nothing was found."""
    asked = []
    original = torchvision.datasets.FashionMNIST

    def record(*args, download, **kwargs):
        asked.append(download)
        return original(*args, download=download, **kwargs)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", record)
    load_data("fashionmnist", four_files)
    assert asked == [False, False]
