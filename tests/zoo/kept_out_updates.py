"""Faults of weights, gradients and updates, kept out of all tuning."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import StepLR

from zoo.base import Batch, Case, Run
from zoo.kept_out_parts import MLP, ResNet, Transformer, as_dict, as_tensor, as_tuple, cnn, enters, fit, stepping
from zoo.kept_out_tasks import blobs, circles, digits, iris, reviews, shapes

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


@faulty("weight_collapse", epochs=5)
def decay_of_ten(seed: int) -> Run:
    """A weight decay of 10 takes a tenth of every weight in each step, those of the batch norms too."""
    model = ResNet(4)
    return fit(shapes(seed), model, SGD(model.parameters(), 0.01, weight_decay=10.0), seed)


@faulty("weight_collapse", epochs=12)
def decay_inside_adam(seed: int) -> Run:
    """Adam with a decay of 1 follows the decay, next to which the gradient of the loss is nothing."""
    model = MLP(2, 32, 32, 1, act=nn.Tanh())
    return fit(circles(seed), model, Adam(model.parameters(), 2e-3, weight_decay=1.0), seed, returns=as_dict)


@faulty("update_too_small", epochs=4)
def ten_thousandth(seed: int) -> Run:
    """A ResNet with a rate of 1e-5 where 0.1 is common."""
    model = ResNet(4)
    return fit(shapes(seed), model, SGD(model.parameters(), 1e-5, momentum=0.9), seed, returns=as_tensor)


@faulty("update_too_small")
def mean_of_the_mean(seed: int) -> Run:
    """The mean loss is divided by the number of samples once more before the backward pass."""
    task, model = digits(seed), MLP(64, 64, 64, 10)
    optimizer = SGD(model.parameters(), 0.01)

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss / len(task.train)).backward()
        optimizer.step()
        return loss.item()

    return stepping(fit(task, model, optimizer, seed), step)


@faulty("update_too_small")
def decayed_by_step(seed: int) -> Run:
    """A schedule meant for epochs is called after every batch: the rate is gone after a few dozen of them."""
    model = Transformer()
    optimizer = Adam(model.parameters(), 1e-3)
    return fit(reviews(seed), model, optimizer, seed, schedule=StepLR(optimizer, 1, 0.5))


@faulty("update_too_large", accepted={"exploding"})
def adam_of_one(seed: int) -> Run:
    """Adam with a rate of 1 instead of 1e-3."""
    model = MLP(2, 64, 64, 1, act=nn.GELU())
    return fit(circles(seed), model, Adam(model.parameters(), 1.0), seed)


@faulty("update_too_large", accepted={"exploding", "nonfinite"})
def thousandfold(seed: int) -> Run:
    """Gradient descent with a rate of 50 on convolutions whose batch norms keep the activations in order."""
    model = cnn(4, act=nn.SiLU)
    return fit(shapes(seed), model, SGD(model.parameters(), 50.0), seed, returns=as_dict)


@faulty("update_too_large", accepted={"exploding"})
def restless_reader(seed: int) -> Run:
    """A transformer with a rate of 0.5 for AdamW."""
    model = Transformer()
    return fit(reviews(seed), model, AdamW(model.parameters(), 0.5), seed, returns=as_tuple)


@faulty("never_updated", epochs=4)
def no_step(seed: int) -> Run:
    """The optimizer is made and cleared, and nobody calls its step."""
    model = cnn(10)
    return fit(digits(seed), model, Adam(model.parameters(), 1e-3), seed, update=False)


@faulty("never_updated", layers=("hidden.0", "hidden.1", "out"))
def biases_alone(seed: int) -> Run:
    """Parameters were sorted into those with and without decay, and the optimizer was given the biases only."""
    model = MLP(6, 64, 32, 4)
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return fit(blobs(seed), model, AdamW([{"params": biases, "weight_decay": 0.0}], 1e-3), seed, returns=as_dict)


@faulty("never_updated", layers=("stem", "stem.0", "stem.1"))
def forgotten_stem(seed: int) -> Run:
    """The blocks and the last layer were given to the optimizer, the stem was forgotten."""
    model = ResNet(4)
    given = [*model.blocks.parameters(), *model.fc.parameters()]
    return fit(shapes(seed), model, SGD(given, 0.05, momentum=0.9), seed)


class Step(nn.Module):
    """A threshold, whose derivative is 0 wherever it has one."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


@faulty("no_gradient", epochs=8, layers=("hidden.0",))
def threshold_units(seed: int) -> Run:
    """Threshold units cut the graph in front of the last layer, which learns alone."""
    model = MLP(2, 8, 1, act=Step())
    return fit(circles(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


class ThroughNumpy(ResNet):
    """Lends its images to numpy behind the stem."""

    def forward(self, x: Tensor) -> Tensor:
        images = self.stem(x).detach().numpy()
        return self.fc(self.blocks(torch.from_numpy(images.copy())).mean((2, 3)))


@faulty("no_gradient", epochs=5, layers=("stem", "stem.0", "stem.1"))
def through_numpy(seed: int) -> Run:
    """The way through numpy behind the stem leaves it without a gradient."""
    model = ThroughNumpy(4)
    return fit(shapes(seed), model, Adam(model.parameters(), 2e-3), seed, returns=as_tensor)


@faulty("no_gradient", epochs=4, accepted={"never_updated"})
def cleared_too_late(seed: int) -> Run:
    """The gradient is cleared between the backward pass and the step, which finds nothing to do."""
    task, model = reviews(seed), Transformer()
    optimizer = AdamW(model.parameters(), 1e-3)

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        loss = task.loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return stepping(fit(task, model, optimizer, seed), step)


@faulty("uncleared_gradient", epochs=8)
def sum_of_all_steps(seed: int) -> Run:
    """Nobody calls `zero_grad` in the first loop of a beginner."""
    model = MLP(2, 32, 32, 1)
    return fit(circles(seed), model, SGD(model.parameters(), 0.1), seed, clear=False)


@faulty("uncleared_gradient", epochs=5)
def uncleared_resnet(seed: int) -> Run:
    """The same in a ResNet."""
    model = ResNet(4)
    return fit(shapes(seed), model, SGD(model.parameters(), 0.1), seed, clear=False, returns=as_dict)


@faulty("uncleared_gradient", epochs=8)
def uncleared_flowers(seed: int) -> Run:
    """The same with small batches of flowers and momentum."""
    model = MLP(4, 16, 16, 3, act=nn.Tanh())
    return fit(iris(seed), model, SGD(model.parameters(), 0.02, momentum=0.5), seed, batch=10, clear=False)
