"""What a network looks like inside at one moment: fresh, or with the weights of a checkpoint."""

from ignite_act.inspection.files import check_targets, write_json
from ignite_act.inspection.network import Inspection, inspect_network
from ignite_act.inspection.subjects import (
    InspectedNetwork,
    Subject,
    fresh_subjects,
    inspect_subjects,
    stored_subjects,
)
from ignite_act.inspection.tables import ASCII, BLOCKS, SHAPE, inspection_tables, rebinned, terminal, unseen

__all__ = [
    "ASCII",
    "BLOCKS",
    "SHAPE",
    "InspectedNetwork",
    "Inspection",
    "Subject",
    "check_targets",
    "fresh_subjects",
    "inspect_network",
    "inspect_subjects",
    "inspection_tables",
    "rebinned",
    "stored_subjects",
    "terminal",
    "unseen",
    "write_json",
]
