"""Streaming statistics: pure torch, no hooks, no I/O, no Ignite.

Every statistic has the same verbs: ``update`` takes the next piece of a stream, ``merge`` takes another statistic of
the same kind (any split of a stream merges to the statistic of the whole), ``compute`` brings the numbers to the host
once, ``state_dict`` and ``load_state_dict`` carry tensors and plain numbers. Nothing but ``compute`` synchronises
with the host.
"""

from ignite_act.stats.course import Course
from ignite_act.stats.distribution import Distribution
from ignite_act.stats.histogram import FloatHistogram
from ignite_act.stats.magnitude import ABSENT, SCRATCH, Magnitude, change, largest, magnitude
from ignite_act.stats.shards import ShardedMagnitude
from ignite_act.stats.units import SaturatedUnits, UnitLife

__all__ = [
    "ABSENT",
    "SCRATCH",
    "Course",
    "Distribution",
    "FloatHistogram",
    "Magnitude",
    "SaturatedUnits",
    "ShardedMagnitude",
    "UnitLife",
    "change",
    "largest",
    "magnitude",
]
