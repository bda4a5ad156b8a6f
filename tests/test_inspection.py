"""What a network looks like inside at one moment."""

import copy
import gc
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ignite_act import ActivationStats, DeadNeurons, EpochRecorder, experiment, testing
from ignite_act.config import RunConfig, load_study
from ignite_act.data import TensorLoader, load_data
from ignite_act.inspection import (
    BLOCKS,
    Subject,
    fresh_subjects,
    inspect_network,
    inspect_subjects,
    inspection_tables,
    rebinned,
    stored_subjects,
    write_json,
)
from ignite_act.inspection import subjects as subjects_module
from ignite_act.inspection.subjects import build
from ignite_act.inspection.tables import sparkline
from ignite_act.models import CNN, MLP

SITE_KEYS = [
    "count", "mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "nonfinite", "edges", "counts",
    "units", "saturated_units", "both_ends",
]  # fmt: skip


def look(model, data, loss_fn=F.cross_entropy):
    """Everything on the same batches."""
    return inspect_network(model, loss_fn, gradients=data, activations=data, dead_neurons=data)


def images(n=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 6, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(n)
    ]


def assert_distribution(row, values):
    """The row is that of the values, by numpy in float64."""
    values = values.detach().numpy().ravel()
    wide = values.astype(np.float64)
    assert row["count"] == values.size
    assert row["nonfinite"] == 0
    assert (row["min"], row["max"]) == (wide.min(), wide.max())
    assert row["mean"] == pytest.approx(wide.mean(), rel=1e-9, abs=1e-12)
    assert row["std"] == pytest.approx(wide.std(), rel=1e-9)
    assert row["zero_fraction"] == (wide == 0).mean()
    edges, counts = np.array(row["edges"]), np.array(row["counts"])
    assert edges[0] <= wide.min() < wide.max() <= edges[-1]
    below = [(wide < edge).sum() if edge >= 0 else (wide <= edge).sum() for edge in edges[1:-1]]
    assert counts.cumsum().tolist() == [*below, values.size]


def weight_gradients(model, x, y, loss_fn=F.cross_entropy):
    """Plain autograd in training mode, on a copy."""
    model = copy.deepcopy(model).train()
    loss = loss_fn(model(x), y)
    loss.backward()
    return loss.item(), {
        name.removesuffix(".weight"): own.grad for name, own in model.named_parameters() if own.ndim > 1
    }


# Against naive twins


def test_gradients_of_one_batch():
    """The gradients are those of one backward pass, element by element."""
    torch.manual_seed(0)
    model, (x, y) = testing.FunctionalMLP(), testing.batches(1, 50)[0]
    inspection = look(model, [(x, y)])
    loss, gradients = weight_gradients(model, x, y)
    assert inspection.loss == loss
    assert list(inspection.gradients) == ["fc1", "fc2", "fc3"] == list(gradients)
    for name, gradient in gradients.items():
        row = inspection.gradients[name]
        assert_distribution(row, gradient)
        assert row["mean_abs"] == pytest.approx(np.abs(gradient.double().numpy()).mean(), rel=1e-12)
        assert "saturated_fraction" not in row
        assert "partial" not in row
    assert inspection.samples["gradients"] == 50


def test_gradients_of_several_batches():
    """Several batches have the gradient of their mean loss: every sample weighs the same, in batches of any size."""
    torch.manual_seed(0)
    model = testing.FunctionalMLP().double()
    ((x, y),) = testing.batches(1, 50)
    x = x.double()
    inspection = look(model, list(zip(x.split([7, 32, 11]), y.split([7, 32, 11]), strict=True)))
    loss, gradients = weight_gradients(model, x, y)
    assert inspection.loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        row = inspection.gradients[name]
        assert (row["min"], row["max"]) == pytest.approx((gradient.min().item(), gradient.max().item()), rel=1e-9)
        assert row["mean_abs"] == pytest.approx(gradient.abs().mean().item(), rel=1e-9)


class TwoWays(nn.Module):
    """Uses one of two layers, depending on the sign of the first number of the batch."""

    def __init__(self):
        super().__init__()
        self.plus, self.minus = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.plus(x) if x[0, 0] > 0 else self.minus(x)


@pytest.mark.parametrize("order", [1, -1])
def test_gradients_where_a_layer_rests(order):
    """A batch that does not use a layer has the gradient zero there, whichever batch comes first."""
    torch.manual_seed(0)
    model, x, y = TwoWays(), torch.ones(4, 4), torch.tensor([0, 1, 2, 0])
    inspection = look(model, [(x, y), (-x, y)][::order])
    for name, part in (("plus", x), ("minus", -x)):
        _, gradients = weight_gradients(getattr(model, name), part, y)
        assert inspection.gradients[name]["max"] == pytest.approx(gradients["weight"].max().item() / 2)


def test_activations_and_dead_neurons():
    """Activations and dead neurons are those of plain forwards, each on its own samples."""
    torch.manual_seed(1)
    model = testing.FunctionalMLP(hidden=40)
    few, many = testing.batches(1, 9, seed=1), testing.batches(3, 5, seed=2)
    inspection = inspect_network(model, F.cross_entropy, gradients=few, activations=few, dead_neurons=many)

    def hidden(x):
        first = F.relu(model.fc1(x))
        return {"relu": first, "relu#2": F.relu(model.fc2(first))}

    everything = hidden(torch.cat([x for x, _ in many]))
    for name, values in hidden(few[0][0]).items():
        row = inspection.activations[name]
        assert list(row) == SITE_KEYS
        assert_distribution(row, values)
        assert row["saturated_fraction"] == row["zero_fraction"]
        dead = (everything[name] == 0).all(0).nonzero().flatten().tolist()
        assert inspection.dead_neurons[name] == {
            "dead": len(dead), "units": 40, "fraction": len(dead) / 40, "indices": dead,
        }  # fmt: skip
    assert inspection.dead == sum(row["dead"] for row in inspection.dead_neurons.values()) > 0
    assert inspection.units == 80
    assert inspection.samples == {"gradients": 9, "activations": 9, "dead_neurons": 15}


def test_batch_norm():
    """Gradients use the statistics of the batch, as in training; activations the running ones, as in evaluation."""
    torch.manual_seed(0)
    model = CNN(1, [5], 3)
    for x, _ in images(2, seed=5):
        model.train()(3 * x + 1)  # running statistics that are not those of a batch
    data = images(1)
    inspection = look(model, data)
    loss, gradients = weight_gradients(model, *data[0])
    assert inspection.loss == loss
    assert_distribution(inspection.gradients["convs.0"], gradients["convs.0"])
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        values = F.relu(twin.norms[0](twin.convs[0](data[0][0])))
        other = F.relu(twin.train().norms[0](twin.convs[0](data[0][0])))
    assert_distribution(inspection.activations["acts.0"], values)
    assert abs(values.mean() - other.mean()) > 0.01
    assert inspection.dead_neurons["acts.0"]["units"] == 5


MODELS = {
    "shared": (testing.SharedReLU, testing.batches),
    "residual": (testing.ResidualCNN, images),
    "in-place": (testing.InPlaceCNN, images),
    "recurrent": (testing.TupleLSTM, lambda: [(x.unsqueeze(1), y) for x, y in testing.batches()]),
    "transformer": (testing.Transformer, lambda: [(torch.arange(12).view(2, 6) % 11, torch.tensor([0, 1]))]),
    "no activation": (testing.LinearModel, testing.batches),
    "channels last": (lambda: nn.Sequential(testing.ChannelsLastBlock(), nn.Flatten(), nn.Linear(144, 3)), images),
    "hand-written": (
        lambda: nn.Sequential(nn.Linear(4, 5), testing.HandWrittenReLU(), testing.Gate(), nn.Linear(5, 3)),
        testing.batches,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_awkward_models(name):
    """The rows and the coverage are those of the handlers at an evaluator of the same data."""
    torch.manual_seed(0)
    make, data = MODELS[name]
    model, data = make(), data()
    inspection = look(model, data)
    evaluator = testing.make_evaluator(model)
    with DeadNeurons(model) as dead, ActivationStats(model, every=1) as activations:
        dead.attach(evaluator)
        activations.attach(evaluator)
        evaluator.run(data)
    assert inspection.activations == {
        site: {key: row[key] for key in SITE_KEYS} for site, row in activations.result.items()
    }
    assert {site: row["indices"] for site, row in inspection.dead_neurons.items()} == {
        site: row["indices"] for site, row in dead.result.items()
    }
    assert inspection.coverage["activations"] == activations.coverage.to_dict()
    assert inspection.coverage["dead_neurons"] == dead.coverage.to_dict()
    assert inspection.gradients.keys() == set(inspection.coverage["gradients"]["seen"])


# What cannot be measured is said


def test_layers_without_gradient():
    """A frozen layer, an unused one and complex weights are listed with the reason; a sparse gradient is made full."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4, sparse=True)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.spare = nn.Linear(4, 4)
            self.mixing = nn.Parameter(torch.eye(4, dtype=torch.complex64))
            self.head = nn.Linear(4, 3)

        def forward(self, tokens):
            x = self.frozen(self.embedding(tokens))
            return self.head((x.to(self.mixing.dtype) @ self.mixing).real)

    torch.manual_seed(0)
    inspection = look(Odd(), [(torch.tensor([1, 2, 2]), torch.tensor([0, 1, 2]))])
    assert inspection.coverage["gradients"] == {
        "seen": ["embedding", "head"],
        "unseen": {
            "mixing": "its gradient is complex",
            "frozen": "it is frozen (requires_grad is False)",
            "spare": "the loss does not depend on it",
        },
    }
    assert inspection.gradients["embedding"]["count"] == 28
    assert inspection.gradients["embedding"]["zero_fraction"] == 5 / 7


def test_nothing_to_learn():
    """A network that is frozen altogether has no gradients and is measured otherwise."""
    inspection = look(testing.FunctionalMLP().requires_grad_(False), testing.batches())
    assert inspection.gradients == {}
    assert set(inspection.coverage["gradients"]["unseen"]) == {"fc1", "fc2", "fc3"}
    assert set(inspection.activations) == {"relu", "relu#2"}
    assert inspection.gradient_ratio is None


def test_no_samples():
    """Without samples there are no numbers, and everything is listed as not seen."""
    inspection = look(testing.FunctionalMLP(), [])
    assert (inspection.loss, inspection.gradients, inspection.activations) == (None, {}, {})
    assert all(coverage["unseen"] for coverage in inspection.coverage.values())


def test_nonfinite_numbers():
    """NaN and infinities are counted and kept out of the numbers; the result is JSON all the same."""
    torch.manual_seed(0)
    model = testing.FunctionalMLP()
    with torch.no_grad():
        model.fc2.weight[0, 0] = math.inf
    inspection = look(model, testing.batches())
    assert inspection.loss is None
    assert inspection.gradients["fc3"]["nonfinite"] > 0
    assert inspection.activations["relu#2"]["nonfinite"] > 0
    assert inspection.gradients["fc1"]["mean_abs"] is None
    json.dumps(inspection.to_dict(), allow_nan=False)


def test_some_nonfinite_elements():
    """The mean absolute gradient is over the finite elements."""
    x = torch.tensor([[1.0, -3.0, math.inf]])
    inspection = look(nn.Linear(3, 2, bias=False), [(x, x)], loss_fn=lambda output, _: output.sum())
    row = inspection.gradients["weight"]
    assert (row["count"], row["nonfinite"], row["mean_abs"], row["mean"]) == (6, 2, 2.0, -1.0)


# Looking changes nothing


class Counting(nn.Module):
    """Batch norm, dropout, a random slope, and a counter that is no buffer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.RReLU(), nn.Dropout(0.5), nn.Linear(6, 3, bias=False)
        )
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layers(x)


def test_the_model_is_untouched():
    """Weights, buffers, gradients, modes, attributes, hooks and the random state stay as they are, bit by bit."""
    gc.collect()  # what other tests have left
    torch.manual_seed(0)
    model = Counting()
    model.layers[0].weight.grad = torch.full((6, 4), 7.0)
    model.layers[1].eval()
    before = copy.deepcopy(model)
    weight, gradient = model.layers[0].weight, model.layers[0].weight.grad
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    look(model, testing.batches())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert model.state_dict().keys() == before.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    assert model.layers[0].weight is weight
    assert weight.grad is gradient
    assert torch.equal(gradient, torch.full((6, 4), 7.0))
    assert all(own.grad is None for name, own in model.named_parameters() if name != "layers.0.weight")
    assert model.calls == 0
    assert testing.global_hooks() == []


def test_looking_draws_from_the_state_as_it_is():
    """Random layers draw from the random state that was set before: the same seed gives the same numbers."""
    torch.manual_seed(0)
    model, found = Counting(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(look(model, testing.batches()).gradients)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_surroundings(surroundings):
    """It works where gradients are off."""
    torch.manual_seed(0)
    model, data = testing.FunctionalMLP(), testing.batches()
    expected = look(model, data)
    with surroundings():
        assert look(model, data) == expected


def test_a_window_that_is_open():
    """Looking at a model while a recorder watches it leaves the recorder's window alone."""
    data = testing.batches()
    reports = []
    for looking in (False, True):
        torch.manual_seed(0)
        model = testing.FunctionalMLP()
        with EpochRecorder(model, every=1) as recorder:
            testing.train(model, data)
            if looking:
                look(model, data)
            reports.append(recorder.finish())
    first, second = (replace(report, cost=0.0).to_dict() for report in reports)
    assert first == second


# The networks of configurations and runs


def test_fresh_network_is_the_one_that_a_run_begins_with(tiny):
    """A fresh network has the weights that a run of the same configuration starts from, and sees its first batch."""
    for settings in ({}, {"act": "prelu", "seed": 7}, {"model": "cnn", "hidden": (3,)}, {"data": "circles"}):
        config = tiny(**settings)
        parts = experiment.prepare(config)
        data = load_data(config.data)
        model = build(Subject(config), data)
        for name, value in parts.model.state_dict().items():
            assert torch.equal(value.cpu(), model.state_dict()[name])
        x, y = next(iter(parts.loader))
        (network,) = inspect_subjects([Subject(config)], gradient_batch=config.batch_size)
        expected = inspect_network(
            model, nn.BCEWithLogitsLoss() if config.data == "circles" else F.cross_entropy,
            gradients=[(x, y)], activations=[(data.train.x[:1024], data.train.y[:1024])],
            dead_neurons=TensorLoader(data.train, 1000),
        )  # fmt: skip
        assert network.inspection == expected


def test_batch_sizes_and_whole(tiny):
    """A size beyond the data takes all samples; the whole data set is all of them, dead neurons always are."""
    subject = Subject(tiny())
    (some,) = inspect_subjects([subject], gradient_batch=10, activation_batch=20)
    assert some.inspection.samples == {"gradients": 10, "activations": 20, "dead_neurons": 1197}
    (large,) = inspect_subjects([subject], gradient_batch=10**9, activation_batch=10**9)
    (whole,) = inspect_subjects([subject], whole=True)
    assert large.inspection.samples == whole.inspection.samples
    assert set(whole.inspection.samples.values()) == {1197}
    assert whole.inspection.activations["layers.1"]["count"] == 1197 * 16
    for layer, row in whole.inspection.gradients.items():
        assert row["std"] == pytest.approx(large.inspection.gradients[layer]["std"], rel=1e-4)


def test_looking_leaves_the_random_state(tiny):
    """Building the networks does not move torch's random state."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    inspect_subjects([Subject(tiny())])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def finished(tiny, tmp_path):
    """The result of a short run."""
    return experiment.run(tiny(), tmp_path, quiet=True)


def test_run_directory(finished, tiny):
    """A run directory shows the fresh network and the best one, whose numbers are those of the summary."""
    subjects = stored_subjects([finished.directory])
    fresh, best = inspect_subjects(subjects, whole=True)
    epoch = finished.summary["best_epoch"]
    assert (fresh.name, best.name) == ("relu, fresh", f"relu, epoch {epoch}")
    assert (fresh.epoch, best.epoch) == (0, epoch)
    assert (
        fresh.inspection
        == inspect_subjects(fresh_subjects(load_study(None, {"hidden": (16,)})), whole=True)[0].inspection
    )
    assert best.inspection.loss < fresh.inspection.loss
    plain = json.loads(json.dumps(best.inspection.to_dict()))
    for site, row in finished.summary["activations"].items():
        assert plain["activations"][site] == {key: row[key] for key in SITE_KEYS}
    for site, row in finished.summary["dead_neurons"].items():
        assert plain["dead_neurons"][site] == {key: row[key] for key in ("dead", "units", "fraction", "indices")}


def test_checkpoints(finished, monkeypatch):
    """A checkpoint stands for itself, also by a relative path; what is named twice comes once."""
    folder = finished.directory / "checkpoints"
    last = torch.load(folder / "last.pt", weights_only=True)["model"]
    monkeypatch.chdir(folder)
    (subject,) = stored_subjects([folder / "last.pt", subjects_module.Path("last.pt")])
    assert subject.epoch == 3
    model = build(subject, load_data("digits"))
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())
    names = [network.name for network in inspect_subjects(stored_subjects([finished.directory, folder / "last.pt"]))]
    assert len(names) == 3 == len(set(names))


def test_where_a_file_says_that_data_lie(finished, tmp_path):
    """Data are read from where the configuration of a run says, but nothing is downloaded to there."""
    held = tmp_path / "held"
    held.mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (held / f"{part}-ubyte").touch()
    path = finished.directory / "config.yaml"
    settings = path.read_text(encoding="utf-8").replace("data: digits", "data: fashionmnist")
    for place, taken in ((held, held), (tmp_path / "elsewhere", None)):
        path.write_text(settings.replace("data_root: null", f"data_root: {place}"), encoding="utf-8")
        assert {subject.config.data_root for subject in stored_subjects([finished.directory])} == {taken}
        given = stored_subjects([finished.directory], tmp_path / "given")
        assert {subject.config.data_root for subject in given} == {tmp_path / "given"}


def test_names_tell_networks_apart(tiny, tmp_path):
    """Networks that differ in the seed are named with it; those that differ in neither by their places."""
    for seed in (1, 2):
        for place in ("a", "b"):
            experiment.run(tiny(seed=seed, max_epochs=1), tmp_path / place, quiet=True)

    def names(*places):
        subjects = stored_subjects(tmp_path / place / "digits/relu" / f"seed-{seed}" for place, seed in places)
        return [network.name for network in inspect_subjects(subjects)]

    assert names(("a", 1), ("a", 2)) == [
        "relu, seed 1, fresh", "relu, seed 1, epoch 1", "relu, seed 2, fresh", "relu, seed 2, epoch 1",
    ]  # fmt: skip
    assert names(("a", 1), ("b", 1))[2] == f"{tmp_path}/b/digits/relu/seed-1, fresh"


def test_json(tmp_path, tiny):
    """The file holds every network with its configuration and the numbers."""
    networks = inspect_subjects([Subject(tiny(act="tanh"))])
    write_json(networks, tmp_path / "new" / "numbers.json")
    content = json.loads((tmp_path / "new" / "numbers.json").read_text(encoding="utf-8"))
    assert content["schema"] == 1
    (network,) = content["networks"]
    assert (network["name"], network["epoch"], network["source"]) == ("tanh", 0, None)
    assert network["config"]["hidden"] == [16]
    row = network["gradients"]["layers.0"]
    assert sum(row["counts"]) == row["count"] == 64 * 16
    assert len(row["edges"]) == len(row["counts"]) + 1 < 110
    assert network["samples"] == {"gradients": 256, "activations": 1024, "dead_neurons": 1197}


# What is known of fresh networks


@pytest.fixture
def fashion(fashion_mnist, monkeypatch):
    """Looks at fresh networks on FashionMNIST, read once for all tests."""
    monkeypatch.setattr(subjects_module, "load_data", lambda *_: fashion_mnist)

    def inspect(**settings):
        config = RunConfig(data="fashionmnist", **settings)
        return inspect_subjects([Subject(config)])[0].inspection

    return inspect


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "dead"),
    [
        ((512, 256, 256, 128), [0, 0, 3, 10]),
        ((256,) * 5 + (128,) * 5, [0, 0, 7, 27, 89, 60, 58, 61, 72, 56]),
    ],
)
def test_dead_neurons_of_fresh_relu_networks(fashion, hidden, dead):
    """The published counts of dead neurons over the 50,000 training images come out exactly."""
    inspection = fashion(hidden=hidden)
    assert [row["dead"] for row in inspection.dead_neurons.values()] == dead
    assert [row["units"] for row in inspection.dead_neurons.values()] == list(hidden)
    assert inspection.samples == {"gradients": 256, "activations": 1024, "dead_neurons": 50_000}


@pytest.mark.slow
def test_fresh_sigmoid_and_tanh(fashion):
    """A sigmoid's gradients vanish towards the input and its outputs gather at 1/2; a tanh's do neither."""
    sigmoid, tanh = fashion(act="sigmoid"), fashion(act="tanh")
    assert sigmoid.gradient_ratio < 1e-3
    means = [row["mean_abs"] for row in sigmoid.gradients.values()]
    assert means == sorted(means)
    assert 0.05 < tanh.gradient_ratio < 2
    for row in sigmoid.activations.values():
        assert row["mean"] == pytest.approx(0.5, abs=0.02)
        assert row["std"] < 0.12
    spread = [row["std"] for row in tanh.activations.values()]
    assert spread == sorted(spread, reverse=True)
    assert all(abs(row["mean"]) < 0.05 for row in tanh.activations.values())
    assert sigmoid.dead == tanh.dead == 0


def test_circles():
    """Binary cross-entropy for the circles: the loss of an untrained network is about log 2."""
    (network,) = inspect_subjects(fresh_subjects(load_study(None, {"data": "circles", "act": "tanh"})))
    data = load_data("circles")
    torch.manual_seed(42)
    model = MLP(2, (5, 5, 5, 5), 1, "tanh")
    loss = F.binary_cross_entropy(model(data.train.x[:256]).sigmoid(), data.train.y[:256])
    assert network.inspection.loss == pytest.approx(loss.item(), rel=1e-5)
    assert network.inspection.loss == pytest.approx(math.log(2), abs=0.05)
    assert list(network.inspection.gradients) == [f"layers.{index}" for index in (0, 2, 4, 6, 8)]


def test_functional_style():
    """A network in functional style has the numbers of the one with modules, under the names of its calls."""
    study = load_study(None, {"hidden": (8, 8)})
    modules, functions = inspect_subjects(
        [*fresh_subjects(study), *fresh_subjects(study.model_copy(update={"style": "functional"}))]
    )
    assert list(functions.inspection.activations) == ["relu", "relu#2"]
    assert list(functions.inspection.activations.values()) == list(modules.inspection.activations.values())
    assert list(functions.inspection.gradients.values()) == list(modules.inspection.gradients.values())


# Tables


def test_rebinned():
    """Counts on other bounds are those of numpy where the bounds agree, and nothing is lost inside them."""
    values = np.random.default_rng(0).normal(size=1000)
    counts, edges = np.histogram(values, np.linspace(-5, 5, 41))
    coarse, bounds = np.histogram(values, np.linspace(-5, 5, 11))
    assert rebinned(edges, counts, bounds) == coarse.tolist()
    assert rebinned([0.0, 2.0], [8], [0.0, 0.5, 2.0]) == [2.0, 6.0]
    assert rebinned([0.0, 2.0], [8], [-1.0, 1.0, 3.0]) == [4.0, 4.0]
    assert rebinned([], [], [0.0, 1.0, 2.0]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("counts", "line"),
    [([0, 1, 4, 16, 64], " ▁▂▄█"), ([0, 1e-9, 64], " ▁█"), ([5], "█"), ([0, 0], "  "), ([], "")],
)
def test_sparkline(counts, line):
    """Heights are square roots; only nothing is blank."""
    assert sparkline(counts) == line


def test_tables(tiny):
    """Networks, layers and sites with the rows of each network beneath each other."""
    networks = inspect_subjects([Subject(tiny(act=act)) for act in ("relu", "tanh")])
    overview, layers, sites = inspection_tables(networks)
    assert overview.headings == ("network", "loss", "gradient first/last", "dead neurons")
    assert [row[0] for row in overview.rows] == ["relu", "tanh"]
    assert layers.headings == ("layer", "network", "mean |grad|", "std", "min", "max", "shape")
    assert [row[:2] for row in layers.rows] == [
        (layer, act) for layer in ("layers.0", "layers.2") for act in ("relu", "tanh")
    ]
    assert [row[:2] for row in sites.rows] == [("layers.1", "relu"), ("layers.1", "tanh")]
    assert sites.rows[0][6] == f"{networks[0].inspection.dead}/16"
    for row in (*layers.rows, *sites.rows):
        assert set(row[-1]) <= set(BLOCKS)
        assert "█" in row[-1]
    assert [table.headings[-1] for table in inspection_tables(networks, "")[1:]] == ["max", "dead neurons"]
    assert "256 samples, in training mode" in layers.title
    assert "1,024 samples, dead neurons over 1,197, in evaluation mode" in sites.title


def test_tables_of_one_network_and_of_two_data_sets(tiny):
    """One network needs no column for its name; data sets have tables of their own; non-finite numbers a column."""
    (network,) = inspect_subjects([Subject(tiny())])
    assert [table.headings[1] for table in inspection_tables([network])] == ["loss", "mean |grad|", "mean"]
    (other,) = inspect_subjects([Subject(RunConfig(data="circles"))])
    titles = [table.title for table in inspection_tables([network, other])]
    assert [title.split(":")[0] for title in titles] == ["digits"] * 3 + ["circles"] * 3
    broken = look(MLP(64, [4], 10), [(torch.full((8, 64), math.nan), torch.zeros(8, dtype=torch.long))])
    table = inspection_tables([network, replace(network, name="broken", inspection=broken)])[1]
    assert table.headings[-1] == "non-finite"
    assert [row[-1] for row in table.rows] == ["0", "256", "0", "40"]
    assert table.rows[1][1:7] == ("broken", "-", "-", "-", "-", "-")
