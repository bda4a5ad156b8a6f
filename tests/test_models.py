"""The networks in every style."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ignite_act import DeadNeurons
from ignite_act.activations import ACTIVATIONS, make_activation
from ignite_act.data import TensorLoader
from ignite_act.engines import create_evaluator
from ignite_act.models import CNN, MLP, build_model

STYLES = ["module", "shared", "functional"]
POINTWISE = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]
FUNCTIONAL = [name for name in POINTWISE if ACTIVATIONS[name].functional is not None]
FORMS = [(act, style) for act in POINTWISE for style in STYLES if style != "functional" or act in FUNCTIONAL]
PARAMETERS = {
    "leakyrelu": {"negative_slope": 0.1},
    "elu": {"alpha": 0.5},
    "hardtanh": {"min_val": -0.1, "max_val": 0.2},
    "softplus": {"beta": 2.0, "threshold": 1.0},
    "threshold": {"threshold": 0.1, "value": -0.3},
    "gelu": {"approximate": "tanh"},
    "softshrink": {"lambd": 0.1},
}


def seeded(make, seed=42):
    torch.manual_seed(seed)
    return make()


def plain_mlp():
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def plain_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip


@pytest.mark.parametrize(("act", "style"), [form for form in FORMS if form[0] in ("relu", "prelu", "leakyrelu")])
def test_mlp_weights_are_plain_torch(style, act):
    """In every style the initial weights are bit for bit those of plain layers built in order with the same seed."""
    plain = seeded(plain_mlp)
    model = seeded(lambda: MLP(784, (512, 256, 256, 128), 10, act, style=style))
    ours = [module for module in model.modules() if isinstance(module, nn.Linear)]
    theirs = [module for module in plain if isinstance(module, nn.Linear)]
    assert len(ours) == len(theirs) == 5
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.weight, other.weight)
        assert torch.equal(mine.bias, other.bias)


@pytest.mark.parametrize("style", STYLES)
def test_mlp_computes_what_plain_torch_computes(style):
    """The network's outputs are bit for bit those of the plain network."""
    x = torch.randn(7, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: MLP(784, (512, 256, 256, 128), 10, "relu", style=style))
    assert torch.equal(model(x), seeded(plain_mlp)(x.flatten(1)))


@pytest.mark.parametrize("style", STYLES)
def test_cnn_is_plain_torch(style):
    """In every style the CNN has plain PyTorch's initial weights and, training and evaluating, its outputs."""
    x = torch.randn(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    plain = seeded(plain_cnn)
    model = seeded(lambda: CNN(1, (4, 6), 10, "relu", style=style))
    convs = [module for module in plain if isinstance(module, nn.Conv2d)]
    assert all(torch.equal(mine.weight, other.weight) for mine, other in zip(model.convs, convs, strict=True))
    assert torch.equal(model.head.weight, plain[-1].weight)
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)(x), plain.train(mode)(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("act", "parameters"), [*((act, {}) for act in POINTWISE), *PARAMETERS.items()])
def test_styles_are_equal(act, parameters):
    """Module, shared and functional style give equal weights, outputs and gradients for every activation."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    images = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for style in STYLES if act in FUNCTIONAL else STYLES[:2]:
        mlp = seeded(lambda style=style: MLP(4, (8, 8), 3, act, parameters, style)).eval()
        cnn = seeded(lambda style=style: CNN(2, (3, 3), 3, act, parameters, style)).eval()
        outputs = [mlp(x), cnn(images)]
        sum(output.square().sum() for output in outputs).backward()
        kinds = (nn.Linear, nn.Conv2d)
        layers = [module for model in (mlp, cnn) for module in model.modules() if isinstance(module, kinds)]
        results.append([*outputs, *(tensor for layer in layers for tensor in (layer.weight, layer.weight.grad))])
    for other in results[1:]:
        assert all(torch.equal(mine, yours) for mine, yours in zip(results[0], other, strict=True))


@pytest.mark.parametrize("make", [lambda *a: MLP(4, (8, 8), 3, *a), lambda *a: CNN(2, (3, 3), 3, *a)])
def test_styles_are_what_they_say(make):
    """Module style has an activation object per place, shared style one object, functional style none."""
    counts = []
    for style in STYLES:
        found = [m for _, m in make("relu", None, style).named_modules(remove_duplicate=False) if type(m) is nn.ReLU]
        counts.append((len(found), len(set(map(id, found)))))
    assert counts == [(2, 2), (2, 1), (0, 0)]


@pytest.mark.parametrize(("act", "style"), FORMS)
def test_copies(style, act):
    """A network can be pickled and deep-copied, and the copy computes the same."""
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for model in (MLP(16, (8, 8), 3, act, None, style).eval(), CNN(1, (3, 3), 3, act, None, style).eval()):
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize(("shape", "channels"), [((1, 28, 28), (32, 64)), ((3, 8, 8), (4,) * 6), ((2, 5, 1), (3, 3))])
def test_cnn_shapes(shape, channels):
    """Images of any size give one row of logits each; a block halves what is larger than one."""
    model = build_model("cnn", shape, channels, 10, "relu", {}, "module")
    assert model(torch.zeros(4, *shape)).shape == (4, 10)
    assert [conv.out_channels for conv in model.convs] == list(channels)
    assert [tuple(norm.weight.shape) for norm in model.norms] == [(width,) for width in channels]


def test_mlp_takes_the_flattened_sample():
    """An MLP's first layer has as many inputs as a sample has numbers."""
    model = build_model("mlp", (3, 4, 5), (7,), 2, "relu", {}, "module")
    assert model.layers[0].in_features == 60
    assert model(torch.zeros(4, 3, 4, 5)).shape == (4, 2)


@pytest.mark.parametrize(
    ("act", "parameters", "style", "message"),
    [
        ("nosuch", {}, "module", "unknown activation"),
        ("relu", {"slope": 1}, "module", "no parameter 'slope'"),
        ("relu", {"slope": 1}, "functional", "no parameter 'slope'"),
        ("rrelu", {}, "functional", "no functional form"),
    ],
)
def test_refused(act, parameters, style, message):
    """A function that does not exist, or not in this style, or not with these parameters, is refused."""
    for make in (lambda *a: MLP(4, (3,), 2, *a), lambda *a: CNN(1, (3,), 2, *a)):
        with pytest.raises(ValueError, match=message):
            make(act, parameters, style)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("hidden", "dead"),
    [
        ((512, 256, 256, 128), [0, 0, 3, 10]),
        ((256,) * 5 + (128,) * 5, [0, 0, 7, 27, 89, 60, 58, 61, 72, 56]),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_reference_dead_neurons(fashion_mnist, hidden, dead, style):
    """An untrained ReLU network has exactly the reference's dead units over the 50,000 training images."""
    model = seeded(lambda: MLP(784, hidden, 10, "relu", style=style))
    evaluator = create_evaluator(model, "classification", device=torch.device("cpu"))
    with DeadNeurons(model) as handler:
        handler.attach(evaluator)
        evaluator.run(TensorLoader(fashion_mnist.train, 1000))
    assert [row["dead"] for row in handler.result.values()] == dead
    assert [row["units"] for row in handler.result.values()] == list(hidden)
    assert list(evaluator.state.metrics["dead_neurons"].values()) == dead


@pytest.mark.parametrize(
    ("act", "parameters", "pre_activation", "expected"),
    [
        ("sigmoid", {}, [0.0118, -0.6906], [0.5029, 0.3339]),
        ("leakyrelu", {"negative_slope": 0.1}, [-2.4688], [-0.2469]),
        ("tanh", {}, [2.2377], [0.9775]),
    ],
)
def test_worked_values(act, parameters, pre_activation, expected):
    """The worked values of the reference come out to the digits given."""
    activation = make_activation(act, **parameters)(torch.tensor(pre_activation))
    assert [round(value, 4) for value in activation.tolist()] == expected


def test_softmax_of_logits_sums_to_one():
    """Softmax over a row of logits sums to 1."""
    activation = make_activation("softmax")(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(activation.sum(1), torch.ones(2))
    assert activation[1].tolist() == pytest.approx([1 / 3] * 3)
