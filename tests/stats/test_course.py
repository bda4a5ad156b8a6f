from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from ignite_act.stats import Course
from ignite_act.stats.course import SEGMENTS

G = torch.Generator().manual_seed(0)
STREAM = [float(value) for value in torch.randint(-64, 64, (200,), generator=G) / 8]  # sums of these are exact
STREAM[5], STREAM[90], STREAM[91] = math.nan, math.inf, -math.inf


def of(values: list[float], start: int = 1) -> Course:
    course = Course()
    for iteration, value in enumerate(values, start):
        course.update(value, iteration)
    return course


def numbers(course: Course) -> dict[str, Any]:
    """The numbers, NaN as a word, so that they can be compared."""

    def said(value: Any) -> Any:
        if isinstance(value, list):
            return [said(item) for item in value]
        return "nan" if isinstance(value, float) and math.isnan(value) else value

    return {name: said(value) for name, value in course.compute().items()}


def but_the_course(course: Course) -> dict[str, Any]:
    return {name: value for name, value in numbers(course).items() if name != "course"}


def twin(values: list[float]) -> dict[str, Any]:
    """The definition, in plain Python."""
    finite = [value for value in values if math.isfinite(value)]
    bad = [number for number, value in enumerate(values, 1) if not math.isfinite(value)]
    width = 1
    while len(values) > width * SEGMENTS:
        width *= 2
    segments = [values[begin : begin + width] for begin in range(0, len(values), width)]
    segments = [[value for value in segment if math.isfinite(value)] for segment in segments]
    return {
        "steps": len(values),
        "first": values[0],
        "last": values[-1],
        "mean": sum(finite) / len(finite),
        "min": min(finite),
        "max": max(finite),
        "nonfinite": len(bad),
        "first_nonfinite_iteration": bad[0] if bad else None,
        "course": [sum(segment) / len(segment) if segment else "nan" for segment in segments],
    }


@pytest.mark.parametrize("length", [1, 4, 5, 31, 32, 33, 64, 65, 90, 91, 200])
def test_every_number_equals_its_twin(length: int) -> None:
    """Mean, extremes and segments are those of the finite numbers; the others are counted, and the first is located."""
    assert numbers(of(STREAM[:length])) == twin(STREAM[:length])


@pytest.mark.parametrize("length", [1_025, 5_000, 40_000, 70_001])
def test_a_long_window_has_segments_of_equally_many_numbers(length: int) -> None:
    """However long the window, no part of it is stretched in the course: of 0, 1, 2, ... each segment has its mean."""
    values = [float(value) for value in range(length)]
    result = numbers(of(values))
    assert result == twin(values)
    assert len(result["course"]) <= SEGMENTS


def test_a_stream_without_numbers_has_none() -> None:
    """An empty course says NaN and None, never 0."""
    assert numbers(Course()) == {
        "steps": 0, "first": "nan", "last": "nan", "mean": "nan", "min": "nan", "max": "nan",
        "nonfinite": 0, "first_nonfinite_iteration": None, "course": [],
    }  # fmt: skip


def test_a_stream_without_a_finite_number() -> None:
    """Where nothing is finite there is no mean and no extreme, but first and last are what they were."""
    result = numbers(of([math.inf, math.nan, -math.inf], start=7))
    assert result == {
        "steps": 3, "first": math.inf, "last": -math.inf, "mean": "nan", "min": "nan", "max": "nan",
        "nonfinite": 3, "first_nonfinite_iteration": 7, "course": ["nan"] * 3,
    }  # fmt: skip


def test_numbers_and_tensors_are_one_stream() -> None:
    """Numbers, tensors with one element of any shape and type, mixed, are the same as their values."""
    mixed = [torch.tensor(0.5), 1.0, torch.tensor([[2.0]], dtype=torch.bfloat16), torch.tensor([3.0]).double(), 4]
    course = Course()
    for iteration, value in enumerate(mixed, 1):
        course.update(value, iteration)
    assert numbers(course) == numbers(of([0.5, 1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("split", [(0, 0), (0, 64), (32, 96), (7, 150), (199, 200), (200, 200)])
def test_any_split_merges_to_the_whole(split: tuple[int, int]) -> None:
    """Merging is associative, and whatever the split it gives all numbers but the course of the whole stream."""
    cuts = [0, *split, len(STREAM)]
    left, right = ([of(STREAM[begin:end], begin + 1) for begin, end in itertools.pairwise(cuts)] for _ in range(2))
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert but_the_course(left[0]) == but_the_course(right[0]) == but_the_course(of(STREAM))
    assert len(left[0].compute()["course"]) <= SEGMENTS


def test_a_short_stream_merges_to_its_course() -> None:
    """While every number is a segment of its own, the course of the parts is that of the whole, too."""
    first, second = of(STREAM[:10]), of(STREAM[10:30], 11)
    first.merge(second)
    assert numbers(first) == numbers(of(STREAM[:30]))


@pytest.mark.parametrize("lengths", [(5_000, 100), (100, 5_000), (5_000, 2_000)])
def test_courses_of_different_width_merge(lengths: tuple[int, int]) -> None:
    """A long and a short window become one whose course rises where the stream rises, and ends where it ends."""
    values = [float(value) for value in range(sum(lengths))]
    first = of(values[: lengths[0]])
    first.merge(of(values[lengths[0] :], lengths[0] + 1))
    assert but_the_course(first) == but_the_course(of(values))
    course = first.compute()["course"]
    assert course == sorted(course)
    assert len(course) <= SEGMENTS


def test_merging_with_empty_changes_nothing() -> None:
    """An empty course is the neutral element, on either side."""
    full, empty = of(STREAM), Course()
    full.merge(Course())
    empty.merge(full)
    assert numbers(full) == numbers(empty) == numbers(of(STREAM))


@pytest.mark.parametrize("length", [3, 32, 100, 3_001])
def test_the_state_round_trips_in_the_middle_of_a_stream(length: int) -> None:
    """A stream interrupted by state_dict and load_state_dict, or only asked, gives that of the uninterrupted one."""
    values = STREAM * 30
    asked = of(values[:length])
    resumed = Course()
    resumed.load_state_dict(asked.state_dict())
    for course in (resumed, asked):
        for iteration, value in enumerate(values[length:], length + 1):
            course.update(value, iteration)
    assert numbers(resumed) == numbers(asked) == numbers(of(values))
    with pytest.raises(KeyError):
        Course().load_state_dict({"width": 1})


def test_loading_replaces_what_was_there() -> None:
    """A loaded state is the whole state: numbers that were waiting do not come back."""
    course = of([100.0] * 3)
    course.load_state_dict(of([1.0, 2.0]).state_dict())
    assert numbers(course) == numbers(of([1.0, 2.0]))


def test_a_course_is_made_and_read_in_any_mode() -> None:
    """A stream may begin below inference_mode and go on outside."""
    course = Course()
    with torch.inference_mode():
        for iteration in range(1, 40):
            course.update(torch.ones(()) * iteration, iteration)
        course.compute()
    for iteration in range(40, 101):
        course.update(float(iteration), iteration)
    assert numbers(course) == numbers(of([float(iteration) for iteration in range(1, 101)]))


def test_updating_never_synchronises_with_the_host() -> None:
    """`update` runs on the meta device, where reading any value is an error."""
    course = Course("meta")
    for iteration in range(1, 200):
        course.update(torch.zeros((), device="meta"), iteration)
    assert course.values.shape[1] == 2
