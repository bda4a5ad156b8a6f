"""The configuration: a YAML file, with options over it."""

from pathlib import Path

import pytest

from ignite_act.config import PER_DATA, RunConfig, StudyConfig, load_study
from ignite_act.errors import UserError
from ignite_act.variants import expand_study

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SIX = ["sigmoid", "tanh", "relu", "leakyrelu-negative_slope=0.1", "elu", "silu"]
STUDIES = {
    "digits": SIX,
    "fashionmnist": SIX,
    "circles": ["sigmoid", "tanh", "relu", "relu6", "leakyrelu-negative_slope=0.01"],
}


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file."""

    def write(text):
        path = tmp_path / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_study_loads(path):
    """Every file in configs/ is a study of its name's data set, whose comment names the command that runs it."""
    from ignite_act.variants import activation_slug

    study = load_study(path, {})
    assert study.data == path.stem
    configs = expand_study(study)
    assert [activation_slug(config.act) for config in configs] == STUDIES[path.stem] * study.seeds
    assert all(numbers in [config.published for config in configs] for numbers in study.published.values())
    assert f"python scripts/run.py --config configs/{path.name}" in path.read_text(encoding="utf-8").splitlines()[1]


def test_all_studies_are_there():
    """There is one file per study."""
    assert {path.stem for path in CONFIGS} == set(STUDIES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fashionmnist", {"hidden": (512, 256, 256, 128), "optimizer": "sgd", "lr": 0.01, "momentum": 0.9,
                          "batch_size": 256, "max_epochs": 50, "patience": 7, "seed": 42}),
        ("circles", {"hidden": (5, 5, 5, 5), "optimizer": "adam", "lr": 1e-4, "batch_size": 32, "max_epochs": 300,
                     "patience": 0}),
    ],
)  # fmt: skip
def test_reference_studies(name, expected):
    """The reference studies have the reference settings, in their file and by default."""
    from_file = load_study(next(path for path in CONFIGS if path.stem == name), {}).model_dump()
    default = StudyConfig(data=name).model_dump()
    assert {key: from_file[key] for key in expected} == expected
    assert {key: default[key] for key in expected} == expected


@pytest.mark.parametrize("data", PER_DATA)
def test_defaults_per_data(data):
    """What is not given depends on the data set."""
    assert load_study(None, {"data": data}).model_dump().items() >= PER_DATA[data].items()


def test_default_is_digits():
    """Without anything, a study is ReLU on the embedded digits, and a run has the same settings."""
    study = load_study(None, {})
    assert (study.data, study.act, study.hidden, study.seed) == ("digits", ("relu",), (512, 256, 256, 128), 42)
    assert study.runs(study.act) == [RunConfig()]


def test_overrides_win(write):
    """An option wins over the file, the file over the defaults of the data set, which the option may choose."""
    path = write("data: fashionmnist\nlr: 0.5\nmomentum: 0.5\nact: [tanh, elu]\n")
    study = load_study(path, {"lr": 0.25, "data": "circles", "hidden": "7,8", "act": ("relu6",)})
    assert (study.lr, study.momentum, study.batch_size, study.max_epochs) == (0.25, 0.5, 32, 300)
    assert (study.hidden, study.act) == ((7, 8), ("relu6",))


def test_cnn_has_its_own_widths():
    """A CNN's default widths are channels, not the MLP's."""
    assert load_study(None, {"model": "cnn"}).hidden == (32, 64)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("", "data", "digits"),
        ("# nothing\n", "data", "digits"),
        ("hidden: 8, 9\n", "hidden", (8, 9)),
        ("hidden: [8, 9]\n", "hidden", (8, 9)),
        ("act: tanh\n", "act", ("tanh",)),
        ("lr: 1e-3\n", "lr", 0.001),
        ("amp: yes\n", "amp", True),
        ("clip_norm: null\n", "clip_norm", None),
        ("data_root: /somewhere\n", "data_root", Path("/somewhere")),
    ],
)
def test_spellings(write, text, key, expected):
    """Values may be written as people write them."""
    assert getattr(load_study(write(text), {}), key) == expected


BAD_FILES = {
    "lr: [1": "is not valid YAML",
    "lr: 1\n\tx: 2": "is not valid YAML",
    b"\xff\xfe\x00lr": "is not valid YAML",
    "seed: 1\n---\nseed: 2": "is not valid YAML",
    "batch_size: " + "9" * 5000: "is not valid YAML",
    "a: " + "[" * 100_000: "is not valid YAML",
    "? [a]\n: 1": "is not valid YAML",
    "- 1\n- 2": "must hold 'key: value' pairs, got list",
    "relu": "must hold 'key: value' pairs, got str",
    "1: 2": "must hold 'key: value' pairs",
    "nope: 1\nlr: 0.1\nalso: 2": "unknown keys 'also', 'nope' (known: data,",
    "output_dir: x": "unknown key 'output_dir' (known: data,",
    '"a\\nb": 1': r"unknown key 'a\nb'",
    "lr: fast": "lr: input should be a valid number",
    "lr: true": "lr: True is a yes or no",
    "lr:": "lr: input should be a valid number, got None",
    "lr: -0.1": "lr: input should be greater than 0, got -0.1",
    "lr: .nan": "lr: input should be a finite number, got nan",
    "lr: .inf": "lr: input should be a finite number, got inf",
    "lr: [0.1]": "lr: input should be a valid number",
    "momentum: 1": "momentum: input should be less than 1",
    "momentum: .nan": "momentum: ",
    "weight_decay: -1": "weight_decay: ",
    "clip_norm: 0": "clip_norm: ",
    "clip_norm: .inf": "clip_norm: ",
    "hidden: []": "hidden: ",
    "hidden: ''": "hidden: ",
    "hidden: 8": "hidden: ",
    "hidden: [8.5]": "hidden: ",
    "hidden: [0]": "hidden: ",
    "hidden: [true]": "hidden: ",
    "hidden: [8, [8]]": "hidden: ",
    "hidden: [65537]": "hidden: ",
    "hidden:": "hidden: ",
    "seed: 1.5": "seed: ",
    "seed: -1": "seed: ",
    "seed: 2147483648": "seed: ",
    "seed: yes": "seed: ",
    "amp: maybe": "amp: ",
    "act: 5": "act: ",
    "act: []": "act: ",
    "act: {relu: 1}": "act: ",
    "data: mnist": "data: input should be 'digits', 'circles' or 'fashionmnist', got 'mnist'",
    "data: [digits]": "data: ",
    "data: {digits: 1}": "data: ",
    "model: rnn": "model: ",
    "style: loud": "style: ",
    "optimizer: lion": "optimizer: ",
    "device: tpu": "device: ",
    "data_root: 5": "data_root: ",
    "data: circles\nmodel: cnn": "a cnn needs images",
    "every: 0": "every: ",
    "accumulate: 0": "accumulate: ",
    "patience: -1": "patience: ",
    "max_epochs: 0": "max_epochs: ",
    "batch_size: 1e2": "batch_size: ",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items(), ids=[str(text)[:20] for text in BAD_FILES])
def test_bad_files(write, text, message):
    """A file that cannot be used is refused with its path and one problem a key, that the user can mend."""
    path = write(text)
    with pytest.raises(UserError) as caught:
        load_study(path, {})
    said = str(caught.value)
    assert said.startswith((f"{path}: ", f"{path} "))
    assert message in said
    assert "\n" not in said
    assert "required" not in said  # a consequence, not the problem


def test_one_problem_a_key(write):
    """Every bad key is named, each once."""
    with pytest.raises(UserError) as caught:
        load_study(write("lr: -1\nhidden: [0]\nnope: 1\n"), {"seed": -1})
    said = str(caught.value)
    assert [said.count(f"{key}: ") for key in ("lr", "hidden", "seed")] == [1, 1, 1]
    assert said.count("known:") == 1


@pytest.mark.parametrize(
    ("place", "reason"),
    [("missing.yaml", "No such file or directory"), ("", "Is a directory"), ("file/x.yaml", "Not a directory")],
)
def test_unreadable_files(tmp_path, place, reason):
    """A file that cannot be read is named, with the system's reason."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=f"^cannot read .*: {reason}$"):
        load_study(tmp_path / place, {})


@pytest.mark.parametrize("where", ["", "act: ", "lr: ", "hidden: [8, "])
def test_yaml_executes_nothing(write, tmp_path, where):
    """A tag that would call Python is refused, and nothing is called."""
    trap = tmp_path / "executed"
    closing = "]" if "[" in where else ""
    with pytest.raises(UserError, match="is not valid YAML: could not determine a constructor"):
        load_study(write(f"{where}!!python/object/apply:os.mkdir ['{trap}']{closing}\n"), {})
    assert not trap.exists()


def test_frozen():
    """A configuration does not change under a run."""
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().lr = 1.0
