"""What samples and counters make of energy."""

import itertools
import math
import random
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure import device_energies, integrate, mean_power_w
from llem.measure.integrate import (
    DISAGREEMENT_LIMIT,
    GAP_PERIODS,
    MAX_AGE_S,
    MAX_POWER_W,
    MIN_GAP_PERIOD_S,
    UNSEEN_PERIODS,
)
from llem.protocols import Device, Edge, Samples

from .conftest import Curve

NAN = math.nan
GPU = Device(index=0, uuid="GPU-0", name="Fake", sensor=Sensor.NVML_POWER_INSTANT, period_s=1.0)
PATIENT = attrs.evolve(GPU, period_s=100.0)
"""Sampled so seldom that nothing is far apart."""

Points = Sequence[tuple[float, float]]


def energy(
    points: Points,
    begin: float,
    end: float,
    counters: tuple[float | None, float | None] = (None, None),
    device: Device = GPU,
    **columns: Any,
) -> DeviceEnergy:
    """The energy of one device whose samples are *points*, as (time, power)."""
    samples = Samples(
        times_s=[time for time, _ in points],
        power_w=[power for _, power in points],
        temperature_c=[NAN] * len(points),
        **columns,
    )
    edges = (
        Edge(time_s=time, counters_j=(counter,))
        for time, counter in zip((begin, end), counters, strict=True)
    )
    (result,) = device_energies([device], samples, *edges)
    return result


def each_second(seconds: int, power: float = 100.0) -> list[tuple[float, float]]:
    return [(float(t), power) for t in range(seconds + 1)]


watts = st.floats(0, 1000, width=32)


@st.composite
def curves(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Samples at least 1 ms apart, some of them failed, the first and the last one not."""
    steps = draw(st.lists(st.floats(0.001, 3.0), min_size=3, max_size=30))
    times = list(itertools.accumulate(steps))
    powers = [draw(watts | st.just(NAN)) for _ in times]
    powers[0], powers[-1] = draw(watts), draw(watts)
    return list(zip(times, powers, strict=True))


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[float]]:
    """A curve, and three ordered times inside of it."""
    points = draw(curves())
    shares = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    first, last = points[0][0], points[-1][0]
    return points, [min(first + share * (last - first), last) for share in shares]


@given(windows(), watts)
def test_constant_power_is_exact(window, power: float) -> None:
    """Constant power integrates to power times duration, whatever readings failed."""
    points, (begin, _, end) = window
    flat = [(time, power if p == p else NAN) for time, p in points]

    measured = energy(flat, begin, end, device=PATIENT)

    assert measured.integrated_j == pytest.approx(power * (end - begin))
    assert measured.energy_j == measured.integrated_j
    assert measured.error_bound_j == 0


@given(windows(), st.floats(0, 100), st.floats(0, 50))
def test_ramp_is_exact(window, power: float, slope: float) -> None:
    """A ramp integrates exactly between any two edges, also across gaps."""
    points, (begin, _, end) = window
    ramp = [(time, power + slope * time if p == p else NAN) for time, p in points]

    measured = energy(ramp, begin, end).integrated_j

    truth = (end - begin) * (power + slope * (begin + end) / 2)
    assert measured == pytest.approx(truth, rel=1e-6, abs=1e-9)


@given(windows())
def test_parts_add_up(window) -> None:
    """The energies of two adjoining windows add up to that of both, and none is negative."""
    points, (begin, cut, end) = window

    parts = [energy(points, begin, cut), energy(points, cut, end)]
    whole = energy(points, begin, end)

    assert all(part.integrated_j >= 0 for part in parts)
    assert sum(part.integrated_j for part in parts) == pytest.approx(
        whole.integrated_j, rel=1e-9, abs=1e-9
    )


@given(windows())
def test_gaps_are_bridged(window) -> None:
    """A failed reading counts as if there had been no tick."""
    points, (begin, _, end) = window
    kept = [(time, power) for time, power in points if power == power]

    assert energy(points, begin, end) == energy(kept, begin, end)


@given(windows(), st.data())
def test_steps_stay_within_the_bound(window, data: st.DataObject) -> None:
    """Power that jumps somewhere between two samples is off by no more than the bound."""
    points, (begin, _, end) = window
    points = [(time, power) for time, power in points if power == power]
    truth = 0.0
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        jump = t0 + data.draw(st.floats(0, 1)) * (t1 - t0)
        truth += p0 * max(min(jump, end) - max(t0, begin), 0.0)
        truth += p1 * max(min(t1, end) - max(jump, begin), 0.0)

    for device in (GPU, PATIENT):
        measured = energy(points, begin, end, device=device)
        assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6


@st.composite
def measurements(draw: st.DrawFn) -> tuple[list[Device], Samples, Edge, Edge]:
    """Devices of all kinds with samples of all kinds, and edges anywhere."""
    steps = draw(st.lists(st.just(0.0) | st.floats(0.001, 3.0), max_size=20))
    times = list(itertools.accumulate(steps))
    count = draw(st.integers(1, 4))
    rows = {"min_size": len(times), "max_size": len(times)}

    def table(cells: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
        row = st.lists(cells, min_size=count, max_size=count)
        return st.lists(row, **rows).map(lambda made: np.reshape(made, (len(times), count)))

    mostly = st.integers(0, 9).flatmap(lambda n: watts if n else st.sampled_from(WRONG))
    joules = st.integers(0, 10**6).map(lambda millijoules: millijoules / 1000)
    counted = table(joules | st.just(NAN))
    counted = counted | table(joules).map(lambda made: np.sort(made, axis=0)) | st.none()
    samples = Samples(
        times_s=times,
        power_w=draw(table(watts) | table(mostly)),
        temperature_c=np.full((len(times), count), NAN),
        counter_j=draw(counted),
        reading_age_s=draw(st.none() | table(st.sampled_from([NAN, 0.05, 0.3, 2 * MAX_AGE_S]))),
        stride=draw(st.sampled_from([1, 1, 2])),
    )
    devices = [
        attrs.evolve(
            GPU,
            index=index,
            period_s=draw(st.none() | st.sampled_from([0.5, 1.0])),
            limit_w=draw(st.none() | st.just(1500.0)),
            refresh_s=draw(st.sampled_from([0.0, 0.1, 1.0])),
            window_s=draw(st.none() | st.sampled_from([0.1, 0.5])),
            counter_refresh_s=0.1,
            counter_range_j=draw(st.none() | st.just(1000.0)),
        )
        for index in range(count)
    ]
    last = times[-1] if times else 0.0
    edge_times = sorted(draw(st.tuples(*[st.sampled_from(times or [0.0]) | st.floats(-8, last + 8)] * 2)))
    edges = [
        Edge(time_s=time, counters_j=draw(st.tuples(*[st.none() | joules] * count)), spread_s=0.01)
        for time in edge_times
    ]
    return devices, samples, *edges


WRONG = [NAN, math.inf, -math.inf, -5.0]
BLOCKS = [1, 2, 3, 7, integrate.BLOCK]


def energies_by(block: int, *measured: Any) -> tuple[DeviceEnergy, ...]:
    """The energies, of samples that are looked at *block* ticks at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrate, "BLOCK", block)
        return device_energies(*measured)


def almost(energies: Sequence[DeviceEnergy]) -> list[dict[str, Any]]:
    """What is equal to *energies* as dicts, but for rounding."""
    return [
        {
            name: pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
            for name, value in attrs.asdict(one).items()
        }
        for one in energies
    ]


def trapezoids(points: Points, begin: float, end: float, near: float) -> float | None:
    """The trapezoid rule, spelt out. Up to *near* beyond the outermost samples power holds."""
    read = [(time, power) for time, power in points if 0 <= power < math.inf]
    if not read or read[0] == read[-1]:
        return None
    head, tail = max(read[0][0] - begin, 0.0), max(end - read[-1][0], 0.0)
    if max(head, tail) > near or (head + tail and head + tail >= end - begin):
        return None
    total = head * read[0][1] + tail * read[-1][1]
    for (t0, p0), (t1, p1) in itertools.pairwise(read):
        low, high = max(t0, begin), min(t1, end)
        if low < high:
            middle = (low + high) / 2
            total += (high - low) * (p0 + (p1 - p0) * (middle - t0) / (t1 - t0))
    return total


@given(measurements(), st.sampled_from(BLOCKS))
def test_is_the_trapezoid_rule(measured, block: int) -> None:
    """Of any samples and between any edges, whatever failed and however many devices there are."""
    devices, samples, begin, end = measured

    found = energies_by(block, *measured)

    for device, column, one in zip(devices, samples.power_w.T, found, strict=True):
        points = list(zip(samples.times_s.tolist(), column.tolist(), strict=True))
        inside = [t for t, p in points if 0 <= p < math.inf and begin.time_s <= t <= end.time_s]
        near = GAP_PERIODS * samples.stride * (device.period_s or math.inf)
        wanted = trapezoids(points, begin.time_s, end.time_s, near)
        assert one.integrated_j == (None if wanted is None else pytest.approx(wanted, abs=1e-9))
        assert one.sample_count == len(inside)
        if device.period_s is not None:
            between = itertools.pairwise([begin.time_s, *inside, end.time_s])
            assert one.max_gap_s == pytest.approx(max(b - a for a, b in between), abs=1e-9)


@given(measurements(), st.sampled_from(BLOCKS))
def test_blocks_leave_no_trace(measured, block: int) -> None:
    """Nothing depends on how many ticks are looked at together."""
    assert [attrs.asdict(one) for one in energies_by(block, *measured)] == almost(
        device_energies(*measured)
    )


@given(measurements(), st.sampled_from(BLOCKS))
def test_devices_leave_no_trace_on_each_other(measured, block: int) -> None:
    """Devices that are sampled differently give together what each gives alone."""
    devices, samples, begin, end = measured

    together = energies_by(block, *measured)

    for i, device in enumerate(devices):
        tables = ("power_w", "temperature_c", "counter_j", "reading_age_s")
        columns = {name: getattr(samples, name) for name in tables}
        own = {name: None if all_ is None else all_[:, [i]] for name, all_ in columns.items()}
        edges = [attrs.evolve(edge, counters_j=edge.counters_j[i : i + 1]) for edge in (begin, end)]
        alone = device_energies([device], attrs.evolve(samples, **own), *edges)
        assert [attrs.asdict(together[i])] == almost(alone)


@st.composite
def sampled_curves(draw: st.DrawFn) -> tuple[Curve, float, list[float]]:
    """A curve, a period of 10 to 30 ms, and ticks up to a fifth of it early or late."""
    level, idle = draw(st.floats(200, 700, width=32)), draw(st.floats(0, 200, width=32))
    at_s = draw(st.floats(0, 2))
    curve = draw(
        st.sampled_from(
            [
                Curve(base_w=level),
                Curve(kind="ramp", base_w=level, slope_w=draw(st.floats(-20, 20))),
                Curve(kind="square", base_w=idle, high_w=level, period_s=0.1),
                Curve(kind="burst", base_w=idle, high_w=level, at_s=at_s, length_s=0.05),
                Curve(kind="step", base_w=idle, high_w=level, at_s=at_s),
            ]
        )
    )
    period, phase = draw(st.floats(0.01, 0.03)), draw(st.floats(0, 1))
    jitter = random.Random(draw(st.integers(0, 2**32)))
    ticks = range(draw(st.integers(10, 200)))
    return curve, period, [(i + phase + jitter.uniform(-0.2, 0.2)) * period for i in ticks]


def greatest_w(curve: Curve, until: float) -> float:
    return max(curve.power_w(-1.5), curve.high_w, curve.base_w, curve.power_w(until))


@given(sampled_curves(), st.tuples(*[st.floats(0, 1)] * 2).map(sorted))
def test_exact_samples_stay_within_the_bound(sampled, shares: list[float]) -> None:
    """What is read exactly, and often enough for one change between two samples."""
    curve, period, times = sampled
    begin, end = (times[0] + share * (times[-1] - times[0]) for share in shares)
    device = attrs.evolve(GPU, period_s=period)

    measured = energy([(t, curve.power_w(t)) for t in times], begin, end, device=device)

    truth = curve.energy_j(begin, end)
    assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6 * truth + 1e-9


@given(sampled_curves(), st.data())
def test_missing_samples_stay_within_the_bound(sampled, data: st.DataObject) -> None:
    """Where readings failed, or the window begins before them and ends after, the limit bounds."""
    curve, period, times = sampled
    luck = random.Random(data.draw(st.integers(0, 2**32)))
    lost = data.draw(st.floats(0, 0.9))
    points = [(t, NAN if luck.random() < lost else curve.power_w(t)) for t in times]
    first, last = times[0] - 0.1, times[-1] + 0.1
    shares = sorted(data.draw(st.tuples(*[st.floats(0, 1)] * 2)))
    begin, end = (first + share * (last - first) for share in shares)
    device = attrs.evolve(GPU, period_s=period, limit_w=greatest_w(curve, end + 1))

    measured = energy(points, begin, end, device=device)

    assume(measured.energy_j is not None)
    truth = curve.energy_j(begin, end)
    assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6 * truth + 1e-9


@given(
    sampled_curves(),
    st.tuples(*[st.floats(0, 1)] * 2).map(sorted),
    st.sampled_from([(0.05, None), (0.1, None), (0.1, 0.1), (0.1, 0.025), (0.05, 0.02), (0.1, 1.0)]),
    st.floats(0, 1),
)
def test_slow_sensors_stay_within_the_bound(
    sampled, shares: list[float], timing: tuple[float, float | None], phase: float
) -> None:
    """A sensor that gives means, of all the time or of a part, or of more than is new."""
    curve, period, times = sampled
    refresh, window = timing
    mean_of = window or refresh
    begin, end = (times[0] + share * (times[-1] - times[0]) for share in shares)

    def reading(t: float) -> float:
        made = (math.floor(t / refresh - phase) + phase) * refresh
        return max(curve.energy_j(made - mean_of, made) / mean_of, 0.0)

    device = attrs.evolve(
        GPU,
        period_s=period,
        refresh_s=refresh,
        window_s=window,
        limit_w=greatest_w(curve, end),
    )

    measured = energy([(t, reading(t)) for t in times], begin, end, device=device)

    truth = curve.energy_j(begin, end)
    assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6 * truth + 1e-9


@given(sampled_curves(), st.tuples(*[st.floats(0, 1)] * 5))
def test_counters_stay_within_the_bound(sampled, shares: tuple[float, ...]) -> None:
    """A counter that is refreshed each 0.1 s, read some time around the edges."""
    curve, period, times = sampled
    refresh, spread = 0.1, 0.02
    phase, *moments, early, late = shares
    begin, end = (times[0] + share * (times[-1] - times[0]) for share in sorted(moments))

    def counter(t: float) -> float:
        made = (math.floor(t / refresh - phase) + phase) * refresh
        return curve.energy_j(-1, made)

    read = counter(begin + (early - 0.5) * spread), counter(end + (late - 0.5) * spread)
    assume(read[1] > read[0])
    device = attrs.evolve(
        GPU, period_s=period, counter_refresh_s=refresh, limit_w=greatest_w(curve, end)
    )
    samples = Samples(
        times_s=times,
        power_w=[curve.power_w(t) for t in times],
        temperature_c=[NAN] * len(times),
        counter_j=[counter(t) for t in times],
    )
    edges = [
        Edge(time_s=t, counters_j=(read_j,), spread_s=spread)
        for t, read_j in zip((begin, end), read, strict=True)
    ]

    (measured,) = device_energies([device], samples, *edges)

    assert measured.sensor is Sensor.NVML_TOTAL_ENERGY
    truth = curve.energy_j(begin, end)
    assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6 * truth + 1e-9
