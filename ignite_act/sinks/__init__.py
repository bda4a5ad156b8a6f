"""Outputs: each takes the report of an epoch and shows or stores it; no torch.nn, no Ignite."""

from ignite_act.sinks.base import FanOut, Sink
from ignite_act.sinks.console import ConsoleSink
from ignite_act.sinks.json_lines import JsonLinesSink, each_report, end_of_epoch, json_line, read_reports
from ignite_act.sinks.tensorboard import TensorBoardSink

__all__ = [
    "ConsoleSink",
    "FanOut",
    "JsonLinesSink",
    "Sink",
    "TensorBoardSink",
    "each_report",
    "end_of_epoch",
    "json_line",
    "read_reports",
]
