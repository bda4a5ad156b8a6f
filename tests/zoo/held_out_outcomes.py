"""Faulty runs that were kept out of the tuning: what goes wrong with outputs, data, losses and progress."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CyclicLR

from ignite_act.data import Split
from zoo import held_out_models as models
from zoo import held_out_tasks as tasks
from zoo.base import Case, Run
from zoo.held_out_models import Function, mlp
from zoo.held_out_tasks import itself, named, paired, train

CASES: list[Case] = []
faulty = functools.partial(tasks.member, CASES)


# The sign of the objective, and what the network ends in.


@faulty("loss_rising", epochs=6)
def maximised(seed: int) -> Run:
    """The optimizer maximises."""
    model = models.Mixer()
    return train(model, SGD(model.parameters(), lr=0.004, maximize=True), tasks.bars(seed))


class Uphill(SGD):
    """Plain gradient descent as one writes it by hand, with the wrong sign."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=group["lr"])


@faulty("loss_rising", epochs=6)
def sign_of_the_step(seed: int) -> Run:
    """An optimizer written by hand adds the gradient."""
    model = mlp([13, 24, 3], nn.SELU)
    return train(model, Uphill(model.parameters(), lr=0.01), tasks.wine(seed), batch_size=12, output=paired)


@faulty("output_probabilities", epochs=6)
def softmax_twice(seed: int) -> Run:
    """Probabilities for a loss that applies softmax itself."""
    model = nn.Sequential(models.Bars(F.gelu), Function(models.softmax))
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.bars(seed))


@faulty("output_probabilities", epochs=6)
def softmax_of_gru(seed: int) -> Run:
    """A softmax module behind a GRU, with cross-entropy."""
    model = nn.Sequential(models.Recurrent(), nn.Softmax(dim=1))
    return train(model, RMSprop(model.parameters(), lr=2e-3), tasks.majority(seed), output=named)


@faulty("output_probabilities", epochs=8, accepted=["output_activation"])
def sigmoid_twice(seed: int) -> Run:
    """A probability for a loss that applies the sigmoid itself."""
    model = nn.Sequential(mlp([2, 32, 32, 1], nn.SiLU), nn.Sigmoid())
    task = tasks.moons(seed).using(F.binary_cross_entropy_with_logits, "probability")
    return train(model, Adam(model.parameters(), lr=5e-3), task)


@faulty("output_activation", epochs=8)
def rectified_logit(seed: int) -> Run:
    """A ReLU on the only logit, which can say yes but never no."""
    model = nn.Sequential(mlp([30, 24, 1], nn.ELU), nn.ReLU())
    nn.init.constant_(model[0][-1].bias, 0.5)
    return train(model, SGD(model.parameters(), lr=0.02), tasks.tumours(seed))


@faulty("output_activation", epochs=8, accepted=["output_probabilities"])
def sigmoid_scores(seed: int) -> Run:
    """A sigmoid on each of the logits of a cross-entropy."""
    model = nn.Sequential(models.PreNorm(64, 10), nn.Sigmoid())
    return train(model, AdamW(model.parameters(), lr=2e-3), tasks.digits(seed), output=paired)


@faulty("output_activation", epochs=8)
def rectified_regression(seed: int) -> Run:
    """A ReLU at the end, while a third of the targets are negative."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, 1)
            nn.init.constant_(self.fc3.bias, 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc3(F.mish(self.fc2(F.mish(self.fc1(x))))))

    model = Net()
    task = tasks.sine(seed).mapped(y=lambda y: y + 0.5)
    return train(model, Adam(model.parameters(), lr=1e-2), task)


@faulty("constant_output", epochs=5)
def softmax_of_one(seed: int) -> Run:
    """Softmax over a single unit is one, whatever the input."""
    model = nn.Sequential(mlp([2, 32, 32, 1], nn.Tanh), nn.Softmax(dim=1))
    task = tasks.moons(seed).using(F.mse_loss, "probability")
    return train(model, Adam(model.parameters(), lr=5e-3), task)


@faulty("constant_output", epochs=5)
def mean_of_normalised(seed: int) -> Run:
    """The mean over time right behind an instance norm is zero for all samples."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv1d(1, 16, 5), nn.Conv1d(16, 16, 5)
            self.norm, self.head = nn.InstanceNorm1d(16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.conv2(F.silu(self.conv1(x)))).mean(-1))

    model = Net()
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), tasks.waves(seed))


class FirstToken(models.Recurrent):
    """Classifies the state behind the first token instead of the last."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(tokens))[0][:, 0])


@faulty("constant_output", epochs=5, accepted=["no_gradient"])
def state_of_the_start_token(seed: int) -> Run:
    """The state that is classified has seen no more than the start token, the same in all sequences."""
    model = FirstToken(vocabulary=21)
    task = tasks.majority(seed).mapped(lambda x: F.pad(x, (1, 0), value=20))
    return train(model, Adam(model.parameters(), lr=3e-3), task, output=itself)


@faulty("hidden_softmax", epochs=6, layers=["1", "3"])
def softmax_layers(seed: int) -> Run:
    """Softmax as the activation function of the hidden layers."""
    model = mlp([64, 64, 48, 10], lambda: nn.Softmax(dim=1))
    return train(model, SGD(model.parameters(), lr=0.1, momentum=0.9), tasks.digits(seed))


@faulty("hidden_softmax", epochs=6, layers=["softmax", "softmax#2"])
def softmax_of_channels(seed: int) -> Run:
    """Softmax over the channels after each convolution."""
    model = models.Bars(functools.partial(F.softmax, dim=1))
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.bars(seed))


@faulty("no_nonlinearity", epochs=8)
def linear_layers_on_spirals(seed: int) -> Run:
    """Four linear layers in a row are one, which cannot tell the arms of a spiral apart."""
    model = mlp([2, 64, 64, 32, 3], nn.Identity)
    return train(model, Adam(model.parameters(), lr=5e-3), tasks.spirals(seed))


class Forgetful(nn.Module):
    """Makes its activation function and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv1d(1, 16, 5), nn.Conv1d(16, 16, 5), nn.Linear(16, 3)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x)).mean(-1))


@faulty("no_nonlinearity", epochs=6)
def activation_not_called(seed: int) -> Run:
    """The activation function of the convolutions is never called."""
    model = Forgetful()
    return train(model, SGD(model.parameters(), lr=0.2, momentum=0.9), tasks.waves(seed), output=named)


# Inputs, targets and the start.


@faulty("input_scale", epochs=6)
def raw_table(seed: int) -> Run:
    """Quantities between 0.1 and 1,700, as they were measured."""
    model = mlp([13, 32, 16, 3], nn.Tanh)
    return train(model, RMSprop(model.parameters(), lr=1e-3), tasks.wine(seed, standardised=False), batch_size=12)


@faulty("input_scale", epochs=6)
def bright_images(seed: int) -> Run:
    """Images between 0 and 255."""
    model = models.Bars(F.gelu)
    task = tasks.bars(seed).mapped(lambda x: (x.clamp(0, 1) * 255).round())
    return train(model, SGD(model.parameters(), lr=0.03, momentum=0.9), task)


@faulty("input_scale", epochs=6)
def divided_twice(seed: int) -> Run:
    """Pixels that were divided by 255 twice."""
    model = mlp([64, 64, 32, 10], nn.Mish)
    task = tasks.digits(seed).mapped(lambda x: (x + 1) / 2 / 255)
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), task)


@faulty("initial_loss", epochs=6, layers=["head"])
def great_last_layer(seed: int) -> Run:
    """The last layer begins with a standard deviation of four: sure of itself, and wrong."""
    model = models.Mixer()
    nn.init.normal_(model.head.weight, std=4.0)
    return train(model, AdamW(model.parameters(), lr=3e-3), tasks.bars(seed))


@faulty("initial_loss", epochs=8)
def far_targets(seed: int) -> Run:
    """Targets around 50 that vary by one, while the output begins at zero."""
    model = mlp([10, 48, 1], nn.SiLU)
    task = tasks.friedman(seed).mapped(y=lambda y: y + 50)
    return train(model, Adam(model.parameters(), lr=2e-2), task, output=paired)


@faulty("initial_loss", epochs=6)
def cold_temperature(seed: int) -> Run:
    """Logits are divided by a temperature of 0.01 before the loss."""
    model = nn.Sequential(mlp([64, 64, 10], nn.CELU), Function(lambda logits: logits / 0.01))
    return train(model, Adam(model.parameters(), lr=1e-3), tasks.digits(seed))


@faulty("labels_mismatch", epochs=6)
def labels_rolled(seed: int) -> Run:
    """The labels are those of the samples before."""
    task = tasks.digits(seed, 1197).mapped(y=lambda y: y.roll(1))
    model = mlp([64, 24, 10], nn.ELU)
    return train(model, SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3), task)


@faulty("labels_mismatch", epochs=6)
def images_permuted(seed: int) -> Run:
    """An augmentation brings the targets of a batch into another order than its images."""
    model = models.SqueezeExcite()
    return train(
        model,
        SGD(model.parameters(), lr=0.02, momentum=0.9),
        tasks.bars(seed),
        objective=lambda scores, y: F.cross_entropy(scores, y[torch.randperm(len(y))]),
    )


@faulty("labels_mismatch", epochs=6)
def targets_shuffled(seed: int) -> Run:
    """The targets to train on come from a file in another order; those of the validation are right."""
    task = tasks.friedman(seed)
    order = torch.randperm(len(task.training), generator=torch.Generator().manual_seed(seed))
    wrong = task.mapped(y=lambda y: y[order] if len(y) == len(order) else y)
    model = mlp([10, 12, 1], nn.Softsign)
    return train(model, Adam(model.parameters(), lr=1e-3), wrong, output=named)


# Progress.


@faulty("overfitting", epochs=14)
def few_noisy_digits(seed: int) -> Run:
    """A wide network learns 120 digits by heart, a third of them with wrong labels."""
    task = tasks.digits(seed).first(120)
    wrong = torch.randint(10, (40,), generator=torch.Generator().manual_seed(seed))
    y = torch.cat([wrong, task.training.y[40:]])
    model = mlp([64, 256, 128, 10], nn.GELU)
    noisy = tasks.Task(Split(task.training.x, y), task.validation, task.loss_fn)
    return train(model, Adam(model.parameters(), lr=3e-3), noisy, batch_size=12)


@faulty("overfitting", epochs=14)
def many_useless_features(seed: int) -> Run:
    """Sixty samples of sixty features, five of which matter, for a wide network."""
    model = mlp([60, 200, 1], nn.LeakyReLU)
    task = tasks.friedman(seed, features=60, noise=2.0).first(60)
    return train(model, Adam(model.parameters(), lr=3e-3), task, batch_size=10)


@faulty("over_regularised", epochs=12)
def almost_all_dropped(seed: int) -> Run:
    """Dropout of 0.95 in both hidden layers."""
    model = mlp([64, 512, 512, 10], nn.SiLU, dropout=0.95)
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.digits(seed))


@faulty("over_regularised", epochs=12)
def channels_dropped(seed: int) -> Run:
    """Most channels are dropped behind both convolutions."""
    model = models.Waves(width=64)
    model.act = nn.Sequential(nn.SiLU(), nn.Dropout1d(0.85))
    return train(model, AdamW(model.parameters(), lr=1e-2), tasks.waves(seed), output=paired)


@faulty("oscillation", epochs=6)
def sorted_by_class(seed: int) -> Run:
    """The samples come sorted by class, and the network always believes in the class of the moment."""
    task = tasks.waves(seed)
    order = task.training.y.argsort(stable=True)
    sorted_task = tasks.Task(Split(task.training.x[order], task.training.y[order]), task.validation, task.loss_fn)
    model = models.Waves()
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), sorted_task, batch_size=20, shuffle=False)


@faulty("oscillation", epochs=10, accepted=["update_too_large"])
def undamped_momentum(seed: int) -> Run:
    """A momentum of 0.999: the weights swing through the minimum, again and again."""
    model = nn.Linear(10, 1)
    return train(model, SGD(model.parameters(), lr=0.02, momentum=0.999), tasks.friedman(seed))


@faulty("oscillation", epochs=10, accepted=["update_too_large"])
def cycles_too_high(seed: int) -> Run:
    """A cyclic learning rate whose peaks undo what was learned."""
    model = models.Waves()
    optimizer = SGD(model.parameters(), lr=0.01)
    scheduler = CyclicLR(optimizer, 0.01, 2.5, step_size_up=12, cycle_momentum=False)
    return train(model, optimizer, tasks.waves(seed), scheduler=scheduler, output=itself)


@faulty("plateau", epochs=6, accepted=["labels_mismatch", "no_nonlinearity"])
def line_for_xor(seed: int) -> Run:
    """A logistic regression of the sign of a product, which no line tells apart."""
    x = torch.rand(900, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    y = (x.prod(1, keepdim=True) > 0).float()
    task = tasks.task(x, y, 600, seed, F.binary_cross_entropy_with_logits, "logit")
    model = nn.Linear(2, 1)
    return train(model, SGD(model.parameters(), lr=0.3), task)


@faulty("plateau", epochs=6, accepted=["labels_mismatch"])
def bag_for_an_order(seed: int) -> Run:
    """A bag of embeddings, which knows no order, for a question of order."""
    model = models.Bag(vocabulary=10, width=16, classes=2)
    return train(model, Adagrad(model.parameters(), lr=0.02), tasks.precedence(seed), output=itself)


@faulty("plateau", epochs=12, accepted=["labels_mismatch"])
def stopped_on_parity(seed: int) -> Run:
    """Parity is not learned, and early stopping ends the run."""
    model = mlp([16, 32, 2], nn.Softplus)
    run = train(model, SGD(model.parameters(), lr=0.02, momentum=0.9), tasks.parity(seed))
    assert run.evaluator is not None
    stopping = EarlyStopping(4, lambda engine: -engine.state.metrics["loss"], run.trainer, threshold=0.01)
    run.evaluator.add_event_handler(Events.COMPLETED, stopping)
    return run
