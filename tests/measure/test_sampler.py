"""Sampling in the background."""

import itertools
import math
import threading
import time

import pytest

from llem.errors import MeterError
from llem.measure import sampler as sampler_module
from llem.measure.sampler import Sampler


def test_columns() -> None:
    """Each tick has one time, and a power and a temperature for each device."""
    sampler = Sampler(lambda: [(100.0, 40.0), (None, None)], 2, 0.01)

    sampler.start()
    time.sleep(0.1)
    samples = sampler.stop()

    ticks = len(samples.times_s)
    assert ticks >= 5
    assert list(samples.power_w[0]) == [100.0] * ticks
    assert list(samples.temperature_c[0]) == [40.0] * ticks
    assert [len(column) for column in samples.power_w + samples.temperature_c] == [ticks] * 4
    assert all(map(math.isnan, (*samples.power_w[1], *samples.temperature_c[1])))
    assert {column.typecode for column in (samples.times_s, *samples.power_w)} == {"d"}


def test_samples_on_both_sides() -> None:
    """However short the window, a sample is taken before it and another after it."""
    sampler = Sampler(lambda: [(1.0, None)], 1, 10.0)

    sampler.start()
    begin = time.monotonic()
    end = time.monotonic()
    samples = sampler.stop()

    assert len(samples.times_s) == 2
    assert samples.times_s[0] <= begin <= end <= samples.times_s[1]


def test_rate_survives_slow_readings() -> None:
    """A late tick delays no other, and missed ones are not made up for."""
    delays = itertools.chain([0.0, 0.055], itertools.repeat(0.0))

    def read() -> list[tuple[float, float]]:
        time.sleep(next(delays))
        return [(1.0, 1.0)]

    sampler = Sampler(read, 1, 0.02)
    sampler.start()
    time.sleep(0.3)
    samples = sampler.stop()

    steps = [later - sooner for sooner, later in itertools.pairwise(samples.times_s)]
    assert min(steps[2:-1]) > 0.005
    assert 8 <= len(samples.times_s) <= 16


def test_deadlines_are_absolute() -> None:
    """Ticks stay at multiples of the period since the start, however long a reading takes."""
    period_s, reading_s = 0.04, 0.015

    def read() -> list[tuple[float, float]]:
        time.sleep(reading_s)
        return [(1.0, 1.0)]

    sampler = Sampler(read, 1, period_s)
    sampler.start()
    origin = time.monotonic()
    time.sleep(0.8)
    samples = sampler.stop()

    phases = [(moment - reading_s / 2 - origin) % period_s for moment in samples.times_s[1:-1]]
    off = sorted(min(phase, period_s - phase) for phase in phases)
    assert off[len(off) // 2] < 0.006


def test_failed_reading_is_a_gap() -> None:
    """Where no device can be read the tick stays, without values, and sampling goes on."""
    calls = itertools.count()

    def read() -> list[tuple[float, float]]:
        if next(calls) % 2:
            raise MeterError("lost")
        return [(1.0, 1.0)]

    sampler = Sampler(read, 1, 0.005)
    sampler.start()
    time.sleep(0.05)
    samples = sampler.stop()

    gaps = [math.isnan(power) for power in samples.power_w[0]]
    assert len(gaps) > 3
    assert gaps == [bool(i % 2) for i in range(len(gaps))]


def test_unexpected_error_is_raised_by_stop() -> None:
    """The thread does not die in silence."""
    calls = itertools.count()

    def read() -> list[tuple[float, float]]:
        if next(calls):
            raise ZeroDivisionError("broken")
        return [(1.0, 1.0)]

    sampler = Sampler(read, 1, 0.005)
    sampler.start()
    time.sleep(0.05)

    with pytest.raises(MeterError, match="broken") as caught:
        sampler.stop()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert next(calls) == 2


def test_unexpected_error_at_the_start() -> None:
    """What breaks at once is raised at once, and leaves no thread."""
    threads = threading.active_count()

    with pytest.raises(MeterError, match="1 readings of 2 devices"):
        Sampler(lambda: [(1.0, 1.0)], 2, 0.005).start()
    assert threading.active_count() == threads


def test_hanging_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that never returns does not keep the run from ending."""
    monkeypatch.setattr(sampler_module, "JOIN_TIMEOUT_S", 0.05)
    calls, released = itertools.count(), threading.Event()

    def read() -> list[tuple[float, float]]:
        if next(calls):
            released.wait()
        return [(1.0, 1.0)]

    sampler = Sampler(read, 1, 0.001)
    sampler.start()
    time.sleep(0.02)
    with pytest.raises(MeterError, match="hangs"):
        sampler.stop()
    released.set()
