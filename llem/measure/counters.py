"""
Energy counters: what they counted over a window, and how long they stood still in it.

They are read at both edges, and now and then in between, which shows a reset or a wrap-around.
"""

import math
from collections.abc import Iterator

import numpy as np

from llem.measure.readings import BLOCK, MAX_POWER_W, Floats, near
from llem.protocols import Device, Edge, Samples

ROUNDING_J = 1e-7
"""Less than any counter counts by: what a difference of two floats may be off by. Unit: J."""


def counted(
    column: int, device: Device, samples: Samples, begin: Edge, end: Edge
) -> tuple[float | None, bool]:
    """Difference of a counter, None where it is not known, and whether it was lost on the way."""
    begin_j, end_j = begin.counters_j[column], end.counters_j[column]
    if begin_j is None or not math.isfinite(begin_j):
        return None, False
    if end_j is None or not math.isfinite(end_j):
        return None, True
    range_j = device.counter_range_j or 0.0
    wraps, last_s, last_j = 0, begin.time_s, begin_j
    for times_s, readings_j in _readings(column, samples, begin, end, end_j):
        steps_j = np.diff(readings_j, prepend=last_j)
        back = steps_j < -ROUNDING_J
        steps_j[back] += range_j
        possible_j = MAX_POWER_W * np.maximum(np.diff(times_s, prepend=last_s), 1.0)
        if ((steps_j < -ROUNDING_J) | (steps_j > possible_j)).any():
            return None, True
        wraps += int(back.sum())
        last_s, last_j = times_s[-1], readings_j[-1]
    return max(end_j - begin_j + wraps * range_j, 0.0), False


def _readings(
    column: int, samples: Samples, begin: Edge, end: Edge, end_j: float
) -> Iterator[tuple[Floats, Floats]]:
    """
    Times and readings of a counter after *begin*, block by block, up to the one at *end*.

    The ticks next to the edges are left out: they may have been read on the other side of theirs.
    """
    if samples.counter_j is not None:
        edges_s = begin.time_s + begin.spread_s / 2, end.time_s - end.spread_s / 2
        first, last = np.searchsorted(samples.times_s, edges_s).tolist()
        for start in range(first + 1, last - 1, BLOCK):
            block = slice(start, min(start + BLOCK, last - 1))
            readings_j = samples.counter_j[block, column]
            read = np.isfinite(readings_j)
            if read.any():
                yield samples.times_s[block][read], readings_j[read]
    yield np.array([end.time_s]), np.array([end_j], float)


def standstills(samples: Samples, count: int, begin_s: float, end_s: float) -> tuple[float, ...]:
    """Longest time that each of *count* counters was seen to stand still in the window. Unit: s."""
    around = near(samples, begin_s, end_s)
    return tuple(_standstill_s(around, column) for column in range(count))


def _standstill_s(samples: Samples, column: int) -> float:
    longest_s, since_s, last_j = 0.0, math.nan, math.nan
    for start in range(0, len(samples.times_s) if samples.counter_j is not None else 0, BLOCK):
        block = slice(start, start + BLOCK)
        readings_j: Floats = samples.counter_j[block, column]  # type: ignore[index]
        read = np.isfinite(readings_j)
        if not read.any():
            continue
        times_s, readings_j = samples.times_s[block][read], readings_j[read]
        if readings_j[0] == last_j:
            times_s[0] = since_s
        begins = np.flatnonzero(np.diff(readings_j, prepend=math.nan) != 0)
        ends = np.append(begins[1:], len(readings_j)) - 1
        longest_s = max(longest_s, float((times_s[ends] - times_s[begins]).max()))
        since_s, last_j = float(times_s[begins[-1]]), float(readings_j[-1])
    return longest_s
