"""The only place that touches module hooks, optimizer hooks and ``.grad``.

A collector watches a model and fills statistics; it works in a plain PyTorch loop as it does below Ignite's engines:

    with GradientCollector(model) as gradients, DeadUnitCollector(model) as dead_units:
        for epoch in range(epochs):
            ...                       # train as usual
            print(gradients.finish()["fc1"]["mean_abs"], dead_units.finish()["relu"]["dead"])
"""

from ignite_act.collect.activations import ActivationCollector
from ignite_act.collect.base import Collector, Coverage
from ignite_act.collect.dead_units import DeadUnitCollector
from ignite_act.collect.gradients import GradientCollector
from ignite_act.collect.loss import LossCollector
from ignite_act.collect.outputs import OutputCollector
from ignite_act.collect.signal import SignalCollector
from ignite_act.collect.updates import UpdateCollector

__all__ = [
    "ActivationCollector",
    "Collector",
    "Coverage",
    "DeadUnitCollector",
    "GradientCollector",
    "LossCollector",
    "OutputCollector",
    "SignalCollector",
    "UpdateCollector",
]
