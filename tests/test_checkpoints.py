"""Checkpoints: what is damaged is noticed, what could run code is refused, what belongs to another run too."""

import io
import json
import logging
import os
import pickle
import random
import shutil
import zipfile

import pytest
import torch
import yaml
from run_directories import assert_equal, checkpoint, epochs, summary

from ignite_act import experiment
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.inspection import stored_subjects
from ignite_act.runs.checkpoints import SCHEMA, RunSaver, load_checkpoint, resumable_checkpoint
from ignite_act.runs.fit import different_settings


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Directory of a run that was killed after its third epoch of five: tests copy it."""
    config = RunConfig(hidden=(16,), batch_size=128, lr=0.05, max_epochs=5, patience=0)
    place = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        real = experiment.TensorLoader.__iter__

        def iterate(self):
            if self.shuffle and self.epoch == 4:
                raise KeyboardInterrupt
            return real(self)

        patch.setattr(experiment.TensorLoader, "__iter__", iterate)
        with pytest.raises(KeyboardInterrupt):
            run(config, place, quiet=True)
    return config, place


@pytest.fixture(scope="module")
def straight(killed, tmp_path_factory):
    """The same run, left alone."""
    return run(killed[0], tmp_path_factory.mktemp("straight"), quiet=True)


@pytest.fixture
def copied(killed, tmp_path):
    """Configuration, place and checkpoints of a copy of the killed run."""
    shutil.copytree(killed[1], tmp_path / "runs")
    return killed[0], tmp_path / "runs", tmp_path / "runs/digits/relu/seed-42/checkpoints"


def truncated(content, dice):
    return content[: dice.randrange(len(content))]


def flipped(content, dice):
    place = dice.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << dice.randrange(8))]) + content[place + 1 :]


def zeroed(content, dice):
    begin = dice.randrange(len(content))
    return content[:begin] + bytes(len(content) - begin)


@pytest.mark.parametrize("damage", [truncated, flipped, zeroed])
def test_damage_is_noticed(copied, damage):
    """Damage anywhere in a checkpoint is noticed, or changes nothing of what is read."""
    _, _, directory = copied
    path, dice = directory / "last.pt", random.Random(0)
    content, whole = path.read_bytes(), load_checkpoint(path)
    noticed = 0
    for _ in range(150):
        path.write_bytes(damage(content, dice))
        try:
            read = load_checkpoint(path)
        except UserError:
            noticed += 1
        else:
            assert_equal(read, whole)
    assert noticed > 100


@pytest.mark.few(3)
@pytest.mark.parametrize("damage", [truncated, flipped, zeroed])
@pytest.mark.parametrize("seed", range(3))
def test_the_state_before_is_used(copied, straight, caplog, damage, seed):
    """A damaged last.pt is said, the run goes on from the epoch before, and ends as if nothing had happened."""
    config, place, directory = copied
    content = (directory / "last.pt").read_bytes()
    dice = random.Random(seed)
    while True:
        (directory / "last.pt").write_bytes(damage(content, dice))
        try:
            load_checkpoint(directory / "last.pt")
        except UserError:
            break
    result = run(config, place, resume=True, quiet=True)
    assert "going on from the state before it (epoch 2)" in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert (directory / "damaged.pt").exists()
    assert epochs(result.directory) == epochs(straight.directory)
    assert summary(result.directory) == summary(straight.directory)
    for name in ("last", "best", "previous"):
        assert_equal(checkpoint(result.directory, name), checkpoint(straight.directory, name), name)


def test_killed_between_two_names(copied, straight, caplog):
    """Where the new state has not got its name yet, the one before is used without a word."""
    config, place, directory = copied
    (directory / "last.pt").rename(directory / ".last.pt.tmp")
    result = run(config, place, resume=True, quiet=True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert epochs(result.directory) == epochs(straight.directory)
    assert not [*directory.glob(".*")]


def test_nothing_can_be_read(copied):
    """Where both states are damaged, the run is refused, and nothing of it is touched."""
    config, place, directory = copied
    for name in ("last.pt", "previous.pt"):
        (directory / name).write_bytes(b"garbage")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"last\.pt is damaged, or not a checkpoint: .*; --overwrite starts over"):
        run(config, place, resume=True, quiet=True)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_damaged_best_weights(copied):
    """That the best weights are lost is said before the training goes on, not after it."""
    config, place, directory = copied
    (directory / "best.pt").write_bytes((directory / "best.pt").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"best\.pt is damaged.*the weights of the best epoch are lost; --overwrite"):
        run(config, place, resume=True, quiet=True)
    assert not (directory.parent / "summary.json").exists()


# Nothing is executed


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def malicious(kind, marker, content):
    """A file that runs code where it is unpickled without care."""
    if kind == "pickle":
        return pickle.dumps(Exploit(marker))
    buffer = io.BytesIO()
    if kind == "legacy":
        torch.save({**content, "extra": Exploit(marker)}, buffer, _use_new_zipfile_serialization=False)
    else:
        torch.save({**content, "extra": Exploit(marker)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_malicious_checkpoint_is_refused(copied, tmp_path, kind):
    """Whatever reads a checkpoint, nothing in it is executed, and it is refused in one clear line."""
    config, place, directory = copied
    marker = tmp_path / "executed"
    hostile = malicious(kind, marker, load_checkpoint(directory / "last.pt"))
    for name in ("last.pt", "best.pt", "previous.pt"):
        (directory / name).write_bytes(hostile)
    said = "could run code" if kind == "zip" else "is damaged, or not a checkpoint"
    with pytest.raises(UserError, match=said):
        run(config, place, resume=True, quiet=True)
    with pytest.raises(UserError, match=said):
        load_checkpoint(directory / "best.pt")
    with pytest.raises(UserError, match=said):
        stored_subjects([directory / "best.pt"])
    assert not marker.exists()
    if kind == "zip":
        torch.load(directory / "last.pt", weights_only=False)
        assert marker.exists()  # it would have


# Another run's


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"act": "tanh"}, "act 'tanh' -> 'relu'"),
        ({"hidden": (8,)}, r"hidden \[8\] -> \[16\]"),
        ({"model": "cnn", "hidden": (4,)}, "model 'cnn' -> 'mlp'"),
        ({"lr": 0.5, "seed": 7}, "lr 0.5 -> 0.05, seed 7 -> 42"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(copied, tmp_path, changed, said):
    """A checkpoint that was copied from another run is refused with what differs."""
    config, place, directory = copied
    other = run(config.model_copy(update={**changed, "max_epochs": 1}), tmp_path / "other", quiet=True)
    shutil.copy(other.directory / "checkpoints/last.pt", directory / "last.pt")
    with pytest.raises(UserError, match=rf"the checkpoint is of another run \(.*{said}.*\)"):
        run(config, place, resume=True, quiet=True)


def test_other_weights_are_refused(copied):
    """A checkpoint whose weights do not fit is refused with their names and shapes."""
    config, place, directory = copied
    content = torch.load(directory / "last.pt", weights_only=True)
    content["model"]["layers.0.weight"] = torch.zeros(3, 64)
    content["model"]["extra"] = torch.zeros(1)
    torch.save(content, directory / "last.pt")
    said = r"layers\.0\.weight \(3, 64\) -> \(16, 64\), extra \(1,\) -> not in the model"
    with pytest.raises(UserError, match=said):
        run(config, place, resume=True, quiet=True)


@pytest.mark.parametrize("version", [1, 99, None, "3"])
def test_version(copied, version):
    """State files carry a version; another one is refused and named."""
    config, place, directory = copied
    content = torch.load(directory / "last.pt", weights_only=True)
    content["run"]["schema"] = version
    for name in ("last.pt", "previous.pt"):
        torch.save(content, directory / name)
    with pytest.raises(UserError, match=f"has version {version!r}, this program reads"):
        run(config, place, resume=True, quiet=True)


def test_every_file_carries_a_version(straight):
    """Every file from which a program reads a state says of which version it is."""
    directory = straight.directory
    assert all(json.loads(line)["schema"] for line in epochs(directory))
    assert json.loads((directory / "summary.json").read_text(encoding="utf-8"))["schema"]
    assert checkpoint(directory, "best")["run"]["schema"]
    assert yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))["versions"]["ignite-act"]


# The saver


def test_no_checkpoint(tmp_path):
    """Where there is none, there is none."""
    assert resumable_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match=r"best\.pt"):
        RunSaver(tmp_path).best()


def test_best_weights_wait_in_memory(tmp_path, caplog):
    """Best weights that cannot be written are kept as they were, and written before any later state."""
    (tmp_path / "place").write_text("in the way", encoding="utf-8")
    saver, weights = RunSaver(tmp_path / "place"), torch.zeros(3)
    run_state = {"schema": SCHEMA, "epoch": 1}
    saver({"model": weights, "run": run_state}, "best.pt")
    weights += 1
    saver({"model": weights, "run": run_state}, "last.pt")
    assert torch.equal(saver.best()["model"], torch.zeros(3))
    assert len(caplog.records) == 1
    assert "training goes on without it" in caplog.text
    (tmp_path / "place").unlink()
    saver({"model": weights, "run": run_state}, "last.pt")
    assert torch.equal(load_checkpoint(tmp_path / "place/best.pt")["model"], torch.zeros(3))
    assert torch.equal(load_checkpoint(tmp_path / "place/last.pt")["model"], torch.ones(3))
    assert len(caplog.records) == 1


def test_no_later_state_without_the_best_weights(tmp_path):
    """A state whose best weights are not on the disk is not written either: what is there belongs together."""
    state = {"run": {"schema": SCHEMA, "epoch": 1}}
    saver = RunSaver(tmp_path)
    (tmp_path / "best.pt").mkdir()  # cannot be replaced by a file
    saver(state, "best.pt")
    saver(state, "last.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt"]


def test_different_settings():
    """Only what is wanted is compared."""
    assert different_settings({"lr": 0.1, "old": 1}, {"lr": 0.1}) == []
    assert different_settings({}, {"lr": 0.1}) == ["lr None -> 0.1"]


def test_check_sums_are_those_of_the_zip(copied):
    """What the loader relies on: torch writes a zip file with check sums, and does not look at them itself."""
    _, _, directory = copied
    path = directory / "last.pt"
    with zipfile.ZipFile(path) as file:
        entry = max(file.infolist(), key=lambda info: info.file_size)
        assert entry.CRC != 0
        begin = path.read_bytes().index(file.read(entry)[:64])
    content = bytearray(path.read_bytes())
    content[begin] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(UserError, match="the check sum of"):
        load_checkpoint(path)
