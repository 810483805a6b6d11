"""Measured windows: which lie apart, and how much time they cover together."""

import bisect
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from llem.domain.process import RawProcessResult

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@attrs.frozen
class Window:
    """
    A span of time from its first moment to just before its last one: windows may touch.

    One of no length is taken for one of a microsecond, the resolution of the clock. So it overlaps
    what it lies in, and what begins with it, and not what ends with it.

    Attributes:
        begin_us: First moment. Unit: µs since 1970.
        end_us: Last moment. Unit: µs since 1970.
    """

    begin_us: int
    end_us: int

    @property
    def until_us(self) -> int:
        """The moment from which on others do not overlap. Unit: µs since 1970."""
        return max(self.end_us, self.begin_us + 1)

    @property
    def length_us(self) -> int:
        """At least the resolution of the clock. Unit: µs."""
        return self.until_us - self.begin_us

    def overlaps(self, other: "Window") -> bool:
        """Whether some time lies in both."""
        return common_us([self, other]) > 0


def window_of(process: RawProcessResult) -> Window:
    """The measured window of *process*."""
    times = process.timestamps.start, process.timestamps.end
    return Window(*((time - _EPOCH) // _MICROSECOND for time in times))


def common_us(windows: Sequence[Window]) -> int:
    """Time that lies in all *windows*; negative where some lie apart. Unit: µs."""
    return min(w.until_us for w in windows) - max(w.begin_us for w in windows)


def union_us(windows: Sequence[Window]) -> int:
    """Time that lies in any of *windows*. Unit: µs."""
    total, covered = 0, min((w.begin_us for w in windows), default=0)
    for window in sorted(windows, key=lambda window: window.begin_us):
        total += max(0, window.end_us - max(window.begin_us, covered))
        covered = max(covered, window.end_us)
    return total


def overlapping(windows: Sequence[Window]) -> list[int]:
    """Those of *windows* that overlap another one: their indices, in order."""
    ordered = sorted(range(len(windows)), key=lambda i: windows[i].begin_us)
    found, longest = set[int](), None
    for i in ordered:
        if longest is not None and windows[i].overlaps(windows[longest]):
            found |= {i, longest}
        if longest is None or windows[i].until_us > windows[longest].until_us:
            longest = i
    return sorted(found)


def heaviest_apart(windows: Sequence[Window], weights: Sequence[float]) -> list[int]:
    """
    Of *windows*, the set without overlap that weighs most: their indices, in order of time.

    Of sets that weigh the same it is one that covers the most time. Weighted interval scheduling:
    Kleinberg and Tardos, "Algorithm Design", 2005, section 6.1.
    """
    ordered = sorted(range(len(windows)), key=lambda i: windows[i].until_us)
    ends = [windows[i].until_us for i in ordered]
    best, fits = [(0.0, 0)], list[int | None]()
    for place, i in enumerate(ordered):
        before = bisect.bisect_right(ends, windows[i].begin_us, hi=place)
        with_it = best[before][0] + weights[i], best[before][1] + windows[i].length_us
        fits.append(before if with_it > best[-1] else None)
        best.append(max(with_it, best[-1]))
    chosen, place = list[int](), len(ordered)
    while place:
        before_it = fits[place - 1]
        if before_it is not None:
            chosen.append(ordered[place - 1])
        place = place - 1 if before_it is None else before_it
    return chosen[::-1]


def wall_clock_sec(processes: Sequence[RawProcessResult]) -> float:
    """
    Length of the union of the windows of *processes*: concurrent time counts once. Unit: s.

    Of one process it is the time by the monotonic clock.
    """
    if len(processes) == 1:
        return processes[0].inference_metrics.inference_time_sec
    return union_us([window_of(process) for process in processes]) / 1e6
