"""A recorded series, played again."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

import attrs

from llem.errors import MeterError
from llem.measure.clock import SystemClock
from llem.protocols import Clock, Device, Edge, EnergyMeter, Samples

Counters = Callable[[float], Sequence[float | None]]
"""Gives the energy counter of each device in J at a time of the recording in s."""


class ReplayMeter(EnergyMeter):
    """
    Plays a recorded series through the code that measures.

    Time 0 of the recording is the first `start`, and it runs on between `stop` and the next
    `start`: what was recorded meanwhile is not heard. Nothing lies beyond its end.

    Args:
        devices: The devices that were recorded.
        samples: Their samples, times from 0 on.
        counters: Their energy counters. None: they have none.
        clock: What the recording is played by.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        samples: Samples,
        *,
        counters: Counters | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._devices = tuple(devices)
        self._samples = samples
        self._counters = counters
        self._clock = SystemClock() if clock is None else clock
        self._origin_s: float | None = None
        self._started_s: float | None = None

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return "replay"

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that were recorded."""
        return self._devices

    def start(self) -> None:
        """Begin listening. Raises `MeterError`."""
        if self._started_s is not None:
            raise MeterError("the meter samples already: stop it before it starts again")
        self._started_s = self._clock.monotonic()
        if self._origin_s is None:
            self._origin_s = self._started_s

    def mark(self) -> Edge:
        """The time, and every counter as it was recorded for it."""
        now = self._clock.monotonic()
        if self._counters is None:
            return Edge(time_s=now, counters_j=(None,) * len(self._devices))
        played_s = now - (now if self._origin_s is None else self._origin_s)
        return Edge(time_s=now, counters_j=tuple(self._counters(played_s)))

    def stop(self) -> Samples:
        """What was recorded for the time since `start`, and one sample on either side."""
        if self._started_s is None or self._origin_s is None:
            raise MeterError("the meter does not sample: start it first")
        times_s = self._samples.times_s
        first = bisect_right(times_s, self._started_s - self._origin_s)
        last = bisect_left(times_s, self._clock.monotonic() - self._origin_s)
        self._started_s = None
        heard = self._samples.between(max(first - 1, 0), last + 1)
        return attrs.evolve(heard, times_s=heard.times_s + self._origin_s)

    def close(self) -> None:
        """Nothing is held."""
