"""Engines for training and evaluation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ignite_act.data import Split, TensorLoader
from ignite_act.engines import create_evaluator, create_scaler, create_trainer, loss_function
from ignite_act.models import MLP

CPU = torch.device("cpu")


def samples(count, task="classification"):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    if task == "binary":
        return Split(x, torch.randint(2, (count, 1), generator=generator).float())
    return Split(x, torch.randint(3, (count,), generator=generator))


def network(outputs=3, dtype=torch.float32):
    torch.manual_seed(0)
    return MLP(6, (8, 8), outputs, "tanh").to(dtype)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def plain_steps(model, groups, *, clip_norm=None, lr=0.1):
    """Plain torch: one SGD step per group on the mean of its batches' losses."""
    for group in groups:
        model.zero_grad()
        torch.stack([F.cross_entropy(model(x), y) for x, y in group]).mean().backward()
        if clip_norm is not None:
            norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
            for parameter in model.parameters():
                parameter.grad *= min(1.0, float(clip_norm / (norm + 1e-6)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad


def train(model, loader, *, epochs=1, lr=0.1, task="classification", **options):
    """Trains with SGD and counts the optimizer's steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer = create_trainer(model, optimizer, task, device=CPU, **options)
    trainer.run(loader, max_epochs=epochs)
    return trainer, len(steps)


def test_one_step_is_plain_torch():
    """A step without options is bit for bit the usual five lines."""
    data = samples(8)
    mine, plain = network(), network()
    train(mine, [(data.x, data.y)])
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    optimizer.zero_grad()
    loss = F.cross_entropy(plain(data.x), data.y)
    loss.backward()
    optimizer.step()
    assert torch.equal(weights(mine), weights(plain))


def test_training_mode():
    """The trainer trains in training mode whatever an evaluator left, the evaluator evaluates in evaluation mode."""
    data = [(samples(4).x, samples(4).y)]
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    trainer, _ = train(model, data)
    create_evaluator(model, "classification", device=CPU).run(data)
    trainer.run(data, max_epochs=2)
    assert modes == [(True, True), (False, False), (True, True)]


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize(("batches", "accumulate"), [(6, 3), (6, 6), (7, 3), (5, 4), (3, 5), (1, 4), (4, 1)])
def test_accumulation_is_the_big_batch(batches, accumulate, epochs):
    """Accumulated batches make the step of one big batch, also where the last group of an epoch is smaller."""
    data = samples(batches * 4)
    data = Split(data.x.double(), data.y)
    mine, plain = network(dtype=torch.float64), network(dtype=torch.float64)
    _, steps = train(mine, TensorLoader(data, 4), epochs=epochs, accumulate=accumulate)
    big = list(TensorLoader(data, 4 * accumulate)) * epochs
    plain_steps(plain, [[batch] for batch in big])
    assert steps == len(big) == epochs * -(-batches // accumulate)
    torch.testing.assert_close(weights(mine), weights(plain), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [1e-3, 0.1, 1e6])
def test_clipping(clip_norm, accumulate):
    """The norm of the whole step's gradient is clipped, after accumulation."""
    data = samples(16)
    data = Split(data.x.double() * 10, data.y)
    mine, plain = network(dtype=torch.float64), network(dtype=torch.float64)
    before = weights(mine)
    train(mine, TensorLoader(data, 4), clip_norm=clip_norm, accumulate=accumulate)
    batches = list(TensorLoader(data, 4))
    plain_steps(plain, [batches[at : at + accumulate] for at in range(0, 4, accumulate)], clip_norm=clip_norm)
    torch.testing.assert_close(weights(mine), weights(plain), rtol=1e-12, atol=1e-14)
    if clip_norm == 1e-3:
        assert float((weights(mine) - before).norm()) <= 0.1 * clip_norm * (4 / accumulate) * (1 + 1e-9)


def test_mixed_precision():
    """With AMP the forward on a CPU is in bfloat16, the weights stay float32, and the network learns."""
    data = samples(64)
    model = network()
    seen = []
    model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    loader = TensorLoader(data, 16)
    before = copy.deepcopy(model)
    trainer, steps = train(model, loader, epochs=20, lr=0.5, amp=True, accumulate=2, clip_norm=1.0)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert steps == 40
    assert trainer.state.output["y_pred"].dtype == torch.float32
    evaluators = [create_evaluator(net, "classification", device=CPU, amp=True) for net in (before, model)]
    losses = [evaluator.run(loader).metrics["loss"] for evaluator in evaluators]
    assert losses[1] < losses[0] - 0.1


@pytest.mark.parametrize(("kind", "amp", "enabled"), [("cpu", True, False), ("cpu", False, False)])
def test_scaler(kind, amp, enabled):
    """bfloat16 needs no loss scaling."""
    assert create_scaler(torch.device(kind), amp=amp).is_enabled() is enabled


@pytest.mark.parametrize("task", ["classification", "binary"])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 50])
def test_evaluator_metrics(task, batch_size):
    """Loss and accuracy are those of all samples at once, whatever the batches and the smaller last one."""
    data = samples(50, task)
    model = network(3 if task == "classification" else 1)
    metrics = create_evaluator(model, task, device=CPU).run(TensorLoader(data, batch_size)).metrics
    with torch.no_grad():
        logits = model(data.x)
    if task == "classification":
        right = (logits.argmax(1) == data.y).sum()
        loss = -logits.log_softmax(1)[range(50), data.y].mean()
    else:
        probability = logits.sigmoid()
        right = ((probability > 0.5) == data.y.bool()).sum()
        loss = -(data.y * probability.log() + (1 - data.y) * (1 - probability).log()).mean()
    assert metrics["accuracy"] == float(right) / 50
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("task", ["classification", "binary"])
def test_trainer_metrics(task):
    """The trainer's loss and accuracy are the means over the epoch, of the outputs before each step."""
    data = samples(40, task)
    model = network(3 if task == "classification" else 1)
    loader = TensorLoader(data, 10)
    losses, right = [], 0
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for _ in range(2):
        losses, right = [], 0
        for x, y in loader:
            logits = twin(x)
            loss = loss_function(task)(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            guess = logits.argmax(1) if task == "classification" else (logits > 0).float()
            right += int((guess == y).sum())
    metrics = train(model, loader, epochs=2, task=task)[0].state.metrics
    assert metrics["accuracy"] == right / 40
    assert metrics["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_output():
    """The trainer's output holds what loggers and metrics need, detached."""
    output = train(network(), TensorLoader(samples(8), 8))[0].state.output
    assert output["loss"].shape == ()
    assert output["y_pred"].shape == (8, 3)
    assert not any(tensor.requires_grad for tensor in output.values())
    assert torch.equal(output["y"], samples(8).y)
