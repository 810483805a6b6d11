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
from llem.measure import counters, device_energies, integrate, mean_power_w
from llem.measure.counters import standstills
from llem.measure.integrate import (
    DISAGREEMENT_LIMIT,
    GAP_PERIODS,
    MAX_AGE_S,
    MIN_GAP_PERIOD_S,
)
from llem.measure.readings import BLOCK, MAX_POWER_W
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


def assert_within_its_bound(measured: DeviceEnergy, truth: float) -> None:
    """There is no figure only where there is no energy."""
    energy_j, bound_j = measured.energy_j or 0.0, measured.error_bound_j or 0.0
    assert abs(energy_j - truth) <= bound_j + 1e-6 * truth + 1e-9


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
    assert (measured.energy_j or 0) == measured.integrated_j
    assert not measured.error_bound_j


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
        assert_within_its_bound(measured, truth)


WRONG = [NAN, math.inf, -math.inf, -5.0, 1.01 * MAX_POWER_W]
BLOCKS = [1, 2, 3, 7, BLOCK]
IN_BLOCKS = (integrate, counters)


@st.composite
def measurements(draw: st.DrawFn) -> tuple[list[Device], Samples, Edge, Edge]:
    """Devices of all kinds with samples of all kinds, and edges anywhere."""
    # Not one draw for each reading, which would take most of the test's time.
    luck = random.Random(draw(st.integers(0, 2**32)))
    ticks, count = draw(st.integers(0, 20)), draw(st.integers(1, 4))
    lost = draw(st.sampled_from([0.0, 0.1, 0.9]))
    steps = [luck.choice([0.0, 0.5, 1.0, luck.uniform(0.001, 3.0)]) for _ in range(ticks)]
    times = list(itertools.accumulate(steps))

    def table(read: Callable[[], float], wrong: Sequence[float]) -> np.ndarray:
        cells = [
            luck.choice(wrong) if luck.random() < lost else read() for _ in range(ticks * count)
        ]
        return np.reshape(cells, (ticks, count))

    def millijoules() -> float:
        return luck.randrange(10**6) / 1000

    counted = table(millijoules, [NAN, math.inf])
    if draw(st.booleans()):
        counted = np.sort(table(millijoules, [0.0]), axis=0)
    samples = Samples(
        times_s=times,
        power_w=table(lambda: luck.choice([0.0, 100.0, luck.uniform(0, 1000)]), WRONG),
        temperature_c=np.full((ticks, count), NAN),
        counter_j=draw(st.sampled_from([None, counted])),
        reading_age_s=table(lambda: luck.choice([0.05, 0.3]), [NAN, 2 * MAX_AGE_S]),
        stride=draw(st.sampled_from([1, 1, 2])),
    )
    if draw(st.booleans()):
        samples = attrs.evolve(samples, reading_age_s=None)
    devices = [
        attrs.evolve(
            GPU,
            index=index,
            period_s=luck.choice([None, 0.5, 1.0]),
            limit_w=luck.choice([None, 1500.0]),
            refresh_s=luck.choice([0.0, 0.1, 1.0]),
            window_s=luck.choice([None, 0.1, 0.5]),
            counter_refresh_s=0.1,
            counter_range_j=luck.choice([None, 1000.0]),
        )
        for index in range(count)
    ]
    anywhere = [*times, luck.uniform(-4, 4), luck.uniform(0, sum(steps)), sum(steps) + 3]
    begin, end = (
        Edge(
            time_s=time,
            counters_j=tuple(luck.choice([None, millijoules()]) for _ in devices),
            spread_s=0.01,
        )
        for time in sorted(luck.choices(anywhere, k=2))
    )
    return devices, samples, begin, end


def energies_by(block: int, *measured: Any) -> tuple[DeviceEnergy, ...]:
    """The energies, of samples that are looked at *block* ticks at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in IN_BLOCKS:
            patch.setattr(module, "BLOCK", block)
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
    read = [(time, power) for time, power in points if 0 <= power <= MAX_POWER_W]
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
        inside = [t for t, p in points if 0 <= p <= MAX_POWER_W and begin.time_s <= t <= end.time_s]
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
    assert_within_its_bound(measured, truth)


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
    assert_within_its_bound(measured, truth)


@given(
    sampled_curves(),
    st.tuples(*[st.floats(0, 1)] * 2).map(sorted),
    st.sampled_from(
        [(0.05, None), (0.1, None), (0.1, 0.1), (0.1, 0.025), (0.05, 0.02), (0.1, 1.0)]
    ),
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
    assert_within_its_bound(measured, truth)


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
    assert_within_its_bound(measured, truth)


def test_edges_are_interpolated() -> None:
    """Samples outside of the window shape its edges, and do not count."""
    measured = energy([(0, 0), (2, 20), (4, 0)], 1, 3)

    assert measured.integrated_j == 30
    assert measured.sample_count == 1
    assert measured.max_gap_s == 1
    assert measured.coverage == 0.5


def test_samples_beyond_the_edges_shape_nothing_else() -> None:
    """Neither the energy nor its bound knows of a power met long before or after."""
    points = each_second(10)
    beyond = [(-2.0, 900.0), (-1.0, 900.0), *points, (11.0, 900.0), (12.0, 900.0)]
    device = attrs.evolve(GPU, refresh_s=1.0)

    assert energy(beyond, 0, 10, device=device) == energy(points, 0, 10, device=device)


def test_evidence_of_a_whole_window() -> None:
    """Without a fault there is no code, and every asked-for sample is there."""
    device = attrs.evolve(GPU, counter_refresh_s=0.1)

    measured = energy(each_second(10), 0.5, 9.5, (50, 950), device)

    assert measured == DeviceEnergy(
        gpu_index=0,
        uuid="GPU-0",
        name="Fake",
        energy_j=900,
        sensor=Sensor.NVML_TOTAL_ENERGY,
        counter_j=900,
        integrated_j=900,
        disagreement=0,
        sample_count=9,
        sampling_period_s=1,
        max_gap_s=1,
        coverage=1,
        error_bound_j=10,
    )


def test_counter_goes_before_integral() -> None:
    """The counter gives the figure, the integral its second opinion."""
    measured = energy([(0, 100), (10, 100)], 0, 10, (0, 1050))

    assert (measured.energy_j, measured.integrated_j) == (1050, 1000)
    assert measured.disagreement == pytest.approx(50 / 1050)
    assert "sources_disagree" not in measured.codes


@pytest.mark.parametrize("sensor", Sensor)
def test_the_sensor_is_where_the_energy_was_read(sensor: Sensor) -> None:
    """The counter of a GPU that is sampled is a sensor of its own. All else has one name."""
    device = attrs.evolve(GPU, sensor=sensor)

    assert energy(each_second(1), 0, 1, device=device).sensor is sensor
    counted = energy(each_second(1), 0, 1, (0, 100), device).sensor
    assert counted is (Sensor.NVML_TOTAL_ENERGY if sensor.value.startswith("nvml") else sensor)
    unsampled = attrs.evolve(device, period_s=None)
    assert energy([], 0, 1, (0, 100), unsampled).sensor is sensor


@pytest.mark.parametrize(
    ("counter", "refresh", "codes"),
    [
        (1000 / (1 - DISAGREEMENT_LIMIT) - 1, 0.0, ()),
        (1000 / (1 - DISAGREEMENT_LIMIT) + 1, 0.0, ("sources_disagree",)),
        (1000 / (1 + DISAGREEMENT_LIMIT) + 1, 0.0, ()),
        (1000 / (1 + DISAGREEMENT_LIMIT) - 1, 0.0, ("sources_disagree",)),
        (1120, 0.07, ("sources_disagree",)),
        (1120, 0.09, ()),
    ],
)
def test_sources_disagree(counter: float, refresh: float, codes: tuple[str, ...]) -> None:
    """A counter that differs by more than the limit, and than its refresh explains, is said to."""
    device = attrs.evolve(GPU, counter_refresh_s=refresh)
    assert energy(each_second(10), 0, 10, (0, counter), device).codes == codes


@pytest.mark.parametrize(
    "counters", [(500.0, 499.0), (500.0, None), (500.0, 0.0), (500.0, NAN), (500.0, math.inf)]
)
def test_lost_counter(counters: tuple[float, float | None]) -> None:
    """A counter that ran backwards or fell silent is unknown, and the integral takes its place."""
    measured = energy(each_second(10), 0, 10, counters)

    assert (measured.counter_j, measured.energy_j) == (None, 1000)
    assert measured.sensor is Sensor.NVML_POWER_INSTANT
    assert measured.codes == ("counter_reset",)


@pytest.mark.parametrize("counters", [(None, 500.0), (NAN, 500.0), (None, None)])
def test_counter_that_did_not_answer_at_first(counters: tuple[float | None, float | None]) -> None:
    """There is nothing that was lost."""
    measured = energy(each_second(10), 0, 10, counters)
    assert (measured.counter_j, measured.energy_j, measured.codes) == (None, 1000, ())


def test_lost_counter_without_power() -> None:
    """A counter that ran backwards leaves no figure where there is no other source."""
    measured = energy([], 0, 10, (500, 400))

    assert measured.energy_j is None
    assert measured.codes == (
        "counter_reset",
        "sampling_gap",
        "samples_missed",
        "energy_not_measured",
    )


def test_reset_between_the_edges() -> None:
    """It is seen by the samples of the counter, although its end lies above its begin."""
    counted = [10, 10, 110, 210, 5, 105, 205, 305]

    measured = energy(each_second(7), 0.5, 6.5, (60, 255), counter_j=counted)

    assert (measured.counter_j, measured.energy_j) == (None, 600)
    assert measured.codes == ("counter_reset",)


@given(st.lists(st.booleans(), min_size=5, max_size=12), st.sampled_from(BLOCKS), st.data())
def test_a_counter_that_failed_at_times(failed, block: int, data: st.DataObject) -> None:
    """What was not read of it is no reset, and what was read tells of one, wherever it stands."""
    counted = [NAN if lost else 100.0 * t for t, lost in enumerate(failed)]
    last = len(counted) - 1
    at = data.draw(st.integers(2, last - 2))
    reset = [*counted[:at], 50.0, *counted[at + 1 :]]

    def codes(counter_j: list[float]) -> tuple[str, ...]:
        with pytest.MonkeyPatch.context() as patch:
            for module in IN_BLOCKS:
                patch.setattr(module, "BLOCK", block)
            edges = 0.5, last - 0.5
            counters = 60, 100 * last - 40
            return energy(each_second(last), *edges, counters, counter_j=counter_j).codes

    assert codes(counted) == ()
    assert codes(reset) == ("counter_reset",)


@pytest.mark.parametrize(
    ("counted", "lost"),
    [
        ([90, 99, 200, 300, 402, 500], False),
        ([90, 99, NAN, 300, 402, 500], False),
        ([90, 99, 98, 300, 402, 500], True),
        ([90, 99, 200, 401, 402, 500], True),
        ([90, NAN, 98, 300, 402, 500], True),
        ([90, 99, 200, 401, NAN, 500], True),
    ],
)
def test_readings_next_to_the_edges(counted: list[float], lost: bool) -> None:
    """They may have been read on the other side of it: only those inside tell of a reset."""
    points = each_second(5)
    measured = energy(points, 0.999, 4.001, (100, 400), counter_j=counted)
    assert ("counter_reset" in measured.codes) == lost


@pytest.mark.parametrize("counters", [(195, 800), (200, 605)])
@pytest.mark.parametrize(("spread", "lost"), [(0.0, True), (2.1, False)])
def test_readings_while_the_edges_were_read(
    counters: tuple[float, float], spread: float, lost: bool
) -> None:
    """Whether they were read before the edge's own or after is not known: they tell of no reset."""
    counted = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    counted[3 if counters[0] == 195 else 6] = 190 if counters[0] == 195 else 610
    samples = Samples(
        times_s=range(11), power_w=[100] * 11, temperature_c=[NAN] * 11, counter_j=counted
    )
    edges = (
        Edge(time_s=time, counters_j=(counter,), spread_s=spread)
        for time, counter in zip((2, 8), counters, strict=True)
    )

    (measured,) = device_energies([GPU], samples, *edges)

    assert ("counter_reset" in measured.codes) == lost


RAPL = attrs.evolve(
    GPU, sensor=Sensor.RAPL, scope="package", counter_refresh_s=0.001, counter_range_j=1000.0
)


def test_rapl_keeps_its_sensor_and_its_refresh() -> None:
    """A RAPL counter is refreshed each millisecond."""
    measured = energy(each_second(1), 0, 1, (0, 100), RAPL)

    assert (measured.sensor, measured.scope) == (Sensor.RAPL, "package")
    assert measured.error_bound_j == pytest.approx(0.1)


def test_wraps_once() -> None:
    """A counter that is lower at the end than at the begin went on behind its range."""
    measured = energy(each_second(2), 0, 2, (900, 100), RAPL)
    assert (measured.counter_j, measured.codes) == (200, ())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("begin", [0.0, 0.5, 950.0, 1000.0])
def test_wraps_several_times(begin: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrap is seen by the samples of the counter, whichever block it falls into."""
    for module in IN_BLOCKS:
        monkeypatch.setattr(module, "BLOCK", block)
    counted = [(begin + 100 * t) % 1000 for t in range(41)]

    measured = energy(each_second(40), 0, 40, (begin, counted[-1]), RAPL, counter_j=counted)

    assert measured.counter_j == pytest.approx(4000)
    assert measured.codes == ()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("range_j", [262_143.0, 65_532.0])
def test_a_reset_is_no_wrap(range_j: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that would have run faster than any device draws was reset."""
    for module in IN_BLOCKS:
        monkeypatch.setattr(module, "BLOCK", block)
    device = attrs.evolve(RAPL, counter_range_j=range_j)
    counted = [*range(1000, 2500, 100), *range(0, 600, 100)]

    measured = energy(each_second(20), 0, 20, (1000, 500), device, counter_j=counted)

    assert (measured.counter_j, measured.energy_j) == (None, 2000)
    assert measured.codes == ("counter_reset",)


@pytest.mark.parametrize(("seconds", "over_j"), [(3.0, 3 * MAX_POWER_W), (0.01, MAX_POWER_W)])
def test_as_fast_as_can_be_is_a_wrap(seconds: float, over_j: float) -> None:
    """Up to the greatest power, and within a second any share of its energy."""
    device = attrs.evolve(RAPL, counter_range_j=1e6)
    points = [(0, 100), (seconds, 100)]

    assert energy(points, 0, seconds, (1e6 - 1, over_j - 1), device).counter_j == over_j
    assert energy(points, 0, seconds, (1e6 - 1, over_j), device).codes[0] == "counter_reset"


@pytest.mark.parametrize("device", [GPU, RAPL])
def test_a_leap_is_a_reset(device: Device) -> None:
    """A counter that ran faster than any device draws is not to be believed either."""
    counted = [0, 100, 200, 1.1 * MAX_POWER_W + 200, *[1.1 * MAX_POWER_W + 300] * 5]

    measured = energy(each_second(8), 0, 8, (0, counted[-1]), device, counter_j=counted)

    assert (measured.counter_j, measured.codes) == (None, ("counter_reset",))
    assert energy(each_second(5), 0, 5, (0, 4 * MAX_POWER_W), device).counter_j is not None
    assert energy(each_second(5), 0, 5, (0, 6 * MAX_POWER_W), device).counter_j is None


@pytest.mark.parametrize("device", [GPU, RAPL])
def test_rounding_is_no_reset(device: Device) -> None:
    """Of two floats that stand for one count the later one may be less by a little."""
    counted = [0.3, 0.3, 0.1 + 0.2, 0.3, 0.3]

    measured = energy(each_second(4), 0, 4, (0.1 + 0.2, 0.3), device, counter_j=counted)

    assert measured.counter_j == 0
    assert "counter_reset" not in measured.codes


def test_beyond_its_range_is_a_reset() -> None:
    """A counter that stood higher than its range can have is not to be believed."""
    assert energy(each_second(2), 0, 2, (1500, 100), RAPL).counter_j is None


def test_counter_alone() -> None:
    """A device without a power reading has its counter, and no evidence about samples."""
    device = attrs.evolve(
        GPU, sensor=Sensor.NVML_TOTAL_ENERGY, period_s=None, counter_refresh_s=0.1
    )

    measured = energy([], 0, 10, (500, 600), device)

    assert measured.energy_j == 100
    assert (measured.max_gap_s, measured.coverage, measured.error_bound_j) == (None, None, None)
    assert measured.codes == ()


@pytest.mark.parametrize(
    ("points", "limit", "bound"),
    [
        ([], None, None),
        ([], 400.0, 40.0),
        ([(0, 100), (5, 300), (10, 100)], None, 30.0),
        ([(0, 100), (5, 300), (10, 100)], 200.0, 30.0),
        ([(0, 100), (5, 300), (10, 100)], 400.0, 40.0),
        ([(0, 1), (5, 1), (10, 1)], None, 1990 + 10),
        ([(0, 0), (5, 0), (10, 0)], None, 2000.0),
        ([(0, NAN), (5, NAN), (10, NAN)], None, None),
    ],
)
def test_bound_of_a_counter(points: Points, limit: float | None, bound: float | None) -> None:
    """One refresh of the most that is drawn, or what the integral cannot agree with."""
    device = attrs.evolve(GPU, counter_refresh_s=0.1, limit_w=limit)
    assert energy(points, 0, 10, (500, 2500), device).error_bound_j == pytest.approx(bound)


def test_reading_the_edges_takes_time() -> None:
    """A counter was read some time around its edge, and its bound allows for that."""
    device = attrs.evolve(GPU, counter_refresh_s=0.1, limit_w=400.0)
    begin = Edge(time_s=0, counters_j=(500,), spread_s=0.02)
    end = Edge(time_s=10, counters_j=(600,), spread_s=0.04)

    (measured,) = device_energies([device], Samples(), begin, end)

    assert measured.error_bound_j == pytest.approx(400 * (0.1 + 0.01 + 0.02))


@pytest.mark.parametrize(("duration", "codes"), [(0.05, ()), (10, ("sources_disagree",))])
def test_counter_that_stands_still(duration: float, codes: tuple[str, ...]) -> None:
    """A counter that was not refreshed gives no figure of 0. After long it is said."""
    device = attrs.evolve(GPU, counter_refresh_s=0.1)
    measured = energy(each_second(10), 0, duration, (500, 500), device)

    assert measured.energy_j == pytest.approx(100 * duration)
    assert (measured.counter_j, measured.disagreement) == (0, None)
    assert measured.sensor is Sensor.NVML_POWER_INSTANT
    assert measured.codes == codes


def test_counter_that_may_stand_still() -> None:
    """Where the power may have risen only at the end, the counter is not accused."""
    measured = energy([(0, 0), (1, 100)], 0, 1, (500, 500))

    assert (measured.energy_j, measured.error_bound_j, measured.codes) == (50, 100, ())


def test_idle_counter_that_stands_still() -> None:
    """No device draws nothing: where both sources say so, neither is a figure."""
    measured = energy(each_second(10, 0), 0, 10, (500, 500))

    assert (measured.energy_j, measured.error_bound_j) == (None, None)
    assert (measured.counter_j, measured.integrated_j) == (0, 0)
    assert measured.codes == ("energy_not_measured",)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(4, 100)],
        [(4, 100), (6, NAN)],
        [(0, NAN), (5, NAN), (10, NAN)],
        [(-10, 100), (-9, 100), (-8, 100)],
        [(11, 100), (12, 100)],
    ],
)
def test_no_figure_from_nothing(points: Points) -> None:
    """Fewer than two samples that tell of the window give no energy, and not 0."""
    measured = energy(points, 0, 10)

    assert (measured.energy_j, measured.integrated_j, measured.error_bound_j) == (None,) * 3
    assert measured.codes == ("sampling_gap", "samples_missed", "energy_not_measured")


def test_no_figure_from_one_sample() -> None:
    """One sample is no curve, however short the window around it."""
    assert energy([(2, 100)], 0, 4).energy_j is None


@pytest.mark.parametrize(("at", "joules"), [(-1, None), (0, 0), (1.5, 0), (3, 0), (4, None)])
def test_window_of_no_length(at: float, joules: float | None) -> None:
    """Nothing is measured in no time, and nobody knows of a time beyond the samples."""
    measured = energy([(t, 100 * t) for t in range(4)], at, at)
    assert (measured.energy_j, measured.error_bound_j) == (None, None)
    assert measured.integrated_j == joules


PART_TIME = attrs.evolve(
    GPU, period_s=0.02, limit_w=700.0, refresh_s=0.1, window_s=0.025, counter_refresh_s=0.1
)


def counted(rate_w: float, until_s: float, device: Device = PART_TIME) -> DeviceEnergy:
    """20 s at 300 W, whose counter rises at *rate_w* and stands still from *until_s* on."""
    times = [t / 50 for t in range(-5, 1006)]
    counter_j = [1000 + rate_w * min(max(t, 0.0), until_s) for t in times]
    return energy(
        [(t, 300.0) for t in times],
        0,
        20,
        (1000.0, 1000 + rate_w * min(until_s, 20)),
        device,
        counter_j=[j if i % 5 == 0 else NAN for i, j in enumerate(counter_j)],
    )


@pytest.mark.parametrize("until_s", [2.0, 10.0, 16.0, 18.5, 19.5])
def test_a_counter_that_stands_still_beside_a_sensor_that_sees_little(until_s: float) -> None:
    """The integral's own bound is most of the figure there, and may not excuse the counter."""
    measured = counted(300.0, until_s)

    assert measured.counter_j == pytest.approx(300 * until_s)
    assert_within_its_bound(measured, 6000.0)
    assert ("sources_disagree" in measured.codes) is (until_s < 18)


def test_a_counter_that_was_seen_to_stand_still_may_have_done_so_unseen() -> None:
    """It is refreshed no more often than that, however little the sources differ."""
    still, sound = counted(300.0, 19.5), counted(300.0, 30.0)

    assert still.error_bound_j == pytest.approx(700 * 0.5, rel=0.2)
    assert sound.error_bound_j == pytest.approx(700 * 0.1)


@pytest.mark.parametrize("rate_w", [200.0, 450.0])
def test_a_counter_that_runs_at_another_rate(rate_w: float) -> None:
    """One of the two is wrong: the bound reaches to the far end of the other."""
    measured = counted(rate_w, 30.0)

    assert "sources_disagree" in measured.codes
    assert_within_its_bound(measured, 6000.0)


def test_a_standstill_over_many_samples_is_one() -> None:
    """However they are read in blocks."""
    count = 3 * BLOCK
    counter_j = [0.0] * 100 + [1.0] * (count - 200) + [2.0] * 100
    samples = Samples(
        times_s=[float(t) for t in range(count)],
        power_w=[1.0] * count,
        temperature_c=[NAN] * count,
        counter_j=counter_j,
    )

    assert standstills(samples, 1, 0.0, float(count)) == (count - 201,)


def test_a_counter_that_freezes_on_the_way() -> None:
    """It is off by what the integral saw, and the bound says so."""
    points = [(t / 10, 300 if t >= 50 else 100) for t in range(101)]
    device = attrs.evolve(GPU, period_s=0.1, counter_refresh_s=0.1, limit_w=400.0)
    truth = 5 * 100 + 5 * 300

    frozen = energy(points, 0, 10, (0, 1880.0), device)
    sound = energy(points, 0, 10, (0, truth - 30.0), device)

    assert frozen.energy_j == 1880
    assert "sources_disagree" not in frozen.codes
    assert_within_its_bound(frozen, truth)
    assert frozen.error_bound_j < 2 * (truth - 1880)
    assert sound.error_bound_j == pytest.approx(40)


def test_no_figure_where_sampling_fell_silent() -> None:
    """What nobody saw the end of is not made up."""
    points = each_second(4)

    assert energy(points, 0, 4 + GAP_PERIODS).energy_j == 100 * (4 + GAP_PERIODS)
    assert energy(points, 0, 4 + GAP_PERIODS + 0.1).energy_j is None
    assert energy(points, -GAP_PERIODS, 4).energy_j == 100 * (4 + GAP_PERIODS)
    assert energy(points, -GAP_PERIODS - 0.1, 4).energy_j is None


def test_short_stretches_beyond_the_samples() -> None:
    """Close to the outermost samples their power holds, and the bound allows for all of it."""
    measured = energy([(1, 100), (2, 200), (3, 100)], 0, 4)

    assert measured.energy_j == 100 + 150 + 150 + 100
    assert measured.error_bound_j == 100 + 100 + 2 * 200


@pytest.mark.parametrize(
    ("points", "bound"),
    [
        ([(0, 100), (1, 300)], 200),
        ([(0, 300), (1, 100), (2, 150)], 200 + 50),
        ([(0, 100), (1.5, 300)], 1.5 * 200),
        ([(0, 100), (1.75, 300)], 1.75 * 300),
        ([(0, 100), (1, 100), (2.75, 100), (3.75, 60)], 1.75 * 100 + 40),
        ([(0, 100), (1, NAN), (2, 100)], 2 * 100),
    ],
)
def test_bound_of_a_change(points: Points, bound: float) -> None:
    """The distance of two samples times their change, and all of it where they lie far apart."""
    assert energy(points, 0, points[-1][0]).error_bound_j == pytest.approx(bound)


def test_nothing_is_far_apart_where_no_period_was_asked_for() -> None:
    """A change counts with its distance, however long that is."""
    device = attrs.evolve(GPU, period_s=None)
    assert energy([(0, 100), (10, 300)], 0, 10, device=device).error_bound_j == 2000


def test_the_limit_bounds_what_was_not_seen() -> None:
    """As it does what was drawn before the first sample and after the last one."""
    device = attrs.evolve(GPU, limit_w=700.0)
    points = [(1, 100), (2, 100), (3.75, 100)]

    measured = energy(points, 0.5, 4, device=device)

    assert measured.error_bound_j == pytest.approx((0.5 + 1.75 + 0.25) * 700)


def test_bound_of_a_change_within_the_window_alone() -> None:
    """Changes before and after it are none of its."""
    points = [(0, 0), (1, 500), (2, 100), (3, 100), (4, 900)]
    assert energy(points, 2, 3).error_bound_j == 0


OFTEN = attrs.evolve(GPU, period_s=0.05)
FLAT = [(t / 20, 100.0) for t in range(201)]


@pytest.mark.parametrize(
    ("refresh", "window", "bound"),
    [
        (0.0, None, 0.0),
        (0.1, None, 0.1 * 400),
        (0.1, 0.1, 0.1 * 400),
        (0.1, 0.025, 0.1 * 400 + 0.75 * (4000 - 1000)),
        (0.1, 1.0, 0.1 * 400 + 0.5 * 400),
        (0.04, None, 0.04 * 400 + 0.2 * (4000 - 1000)),
        (0.02, 0.01, 0.02 * 400 + 0.8 * (4000 - 1000)),
        (0.02, 0.04, 0.02 * 400 + 0.02 * 400 + 0.2 * (4000 - 1000)),
    ],
)
def test_bound_of_a_slow_sensor(refresh: float, window: float | None, bound: float) -> None:
    """
    A refresh at the edges; what was not looked at, or asked for; half of a running mean.
    """
    device = attrs.evolve(OFTEN, limit_w=400.0, refresh_s=refresh, window_s=window)
    measured = energy(FLAT, 0, 10, device=device)
    assert measured.error_bound_j == pytest.approx(bound)


def test_part_time_sensor_near_the_limit() -> None:
    """All that it saw may have been drawn while it looked, and nothing otherwise."""
    device = attrs.evolve(OFTEN, limit_w=120.0, refresh_s=0.1, window_s=0.025)
    measured = energy(FLAT, 0, 10, device=device)
    assert measured.error_bound_j == pytest.approx(0.1 * 120 + 0.75 * 1000)


def test_bound_of_a_change_in_a_slow_sensor() -> None:
    """What changed may have changed a refresh earlier, and what lies within one was seen."""
    device = attrs.evolve(GPU, refresh_s=3.0)
    measured = energy([(0, 100), (1, 150), (4, 150)], 0, 4, device=device)
    assert measured.error_bound_j == pytest.approx(3 * 50 + 3 * 150)


@pytest.mark.parametrize(
    ("ages", "bound"),
    [
        ([0.05] * 201, 0.1 * 100),
        ([0.05] * 100 + [0.3] + [0.05] * 100, 0.3 * 100),
        ([NAN] * 100 + [0.3] + [NAN] * 100, 0.3 * 100),
        ([0.05] * 100 + [MAX_AGE_S + 1] * 101, 0.1 * 100),
        ([NAN] * 201, 0.1 * 100),
        (None, 0.1 * 100),
    ],
)
def test_the_age_of_readings_tells_of_the_refresh(ages: list[float] | None, bound: float) -> None:
    """By the sensor's own timestamps it may be longer than what is known of its kind."""
    device = attrs.evolve(OFTEN, refresh_s=0.1)
    measured = energy(FLAT, 0, 10, device=device, reading_age_s=ages)
    assert measured.error_bound_j == pytest.approx(bound)


def test_a_late_reading_of_another_time_is_nothing_to_the_window() -> None:
    """A reading that was late before the window, or after it, leaves the bound as it is."""
    device = attrs.evolve(OFTEN, refresh_s=0.1)
    ages = [0.5] * 20 + [0.05] * 161 + [0.5] * 20
    measured = energy(FLAT, 2, 8, device=device, reading_age_s=ages)
    assert measured.error_bound_j == pytest.approx(0.1 * 100)


@pytest.mark.parametrize(("gap", "said"), [(5.0, False), (5.1, True)])
def test_sampling_gap(gap: float, said: bool) -> None:
    """A stretch without samples longer than the threshold is bridged, and said."""
    measured = energy([(0, 100), (1, 100), (1 + gap, 100), (2 + gap, 100)], 0, 2 + gap)

    assert measured.max_gap_s == pytest.approx(gap)
    assert measured.energy_j == pytest.approx(100 * (2 + gap))
    assert ("sampling_gap" in measured.codes) == said


@pytest.mark.parametrize(
    ("points", "said"), [([(5, 1), (8, 1)], False), ([(5.1, 1), (8, 1)], True)]
)
def test_sampling_gap_at_an_edge(points: Points, said: bool) -> None:
    """Time without a sample counts from the edges on."""
    measured = energy(points, 0, 8)

    assert measured.max_gap_s == points[0][0]
    assert ("sampling_gap" in measured.codes) == said


@pytest.mark.parametrize(("gap", "said"), [(0.99, False), (1.01, True)])
def test_short_periods_do_not_make_gaps(gap: float, said: bool) -> None:
    """What a busy machine delays does not shrink with the period."""
    device = attrs.evolve(GPU, period_s=0.001)
    gap *= GAP_PERIODS * MIN_GAP_PERIOD_S

    measured = energy([(0, 100), (gap, 100)], 0, gap, device=device)

    assert ("sampling_gap" in measured.codes) == said


@pytest.mark.parametrize(
    ("asked", "missed", "said"),
    [(100, 5, False), (100, 6, True), (10, 1, False), (10, 2, True), (1, 1, False), (2, 2, True)],
)
def test_samples_missed(asked: int, missed: int, said: bool) -> None:
    """Less than 95 % is said, but no single sample: one falls outside as it happens."""
    points = [(t, NAN if 1 <= t <= missed else 100.0) for t in range(asked + 2)]

    measured = energy(points, 0.5, asked + 0.5)

    assert measured.sample_count == asked - missed
    assert measured.coverage == pytest.approx(measured.sample_count / asked)
    assert ("samples_missed" in measured.codes) == said


def test_every_second_tick() -> None:
    """Where only some ticks were kept, those are the asked-for ones."""
    points = each_second(20)[::2]

    measured = energy(points, 0, 20, stride=2)

    assert (measured.sampling_period_s, measured.coverage, measured.codes) == (2, 1, ())
    assert measured.error_bound_j == 0
    assert "samples_missed" in energy(points, 0, 20).codes


def test_coverage_is_capped() -> None:
    """More samples than asked for cover the window no better than wholly."""
    assert energy([(0, 1), (0.5, 1), (1, 1), (1.5, 1), (2, 1)], 0, 2).coverage == 1


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("first", [100, NAN])
def test_equal_times(first: float, block: int) -> None:
    """Two samples of one moment are no fault, though they fall into two blocks."""
    samples = Samples(
        times_s=[0, 0.5, 1, 1, 2],
        power_w=[100, first, 100, 300, 300],
        temperature_c=[NAN] * 5,
    )
    edges = [Edge(time_s=time, counters_j=(None,)) for time in (0.0, 2.0)]

    (measured,) = energies_by(block, [GPU], samples, *edges)

    assert measured.energy_j == 400


def test_mig_parent() -> None:
    """The figure of a GPU that is split is said to be that."""
    device = attrs.evolve(GPU, parent_of_mig=True)
    assert energy([(0, 1), (1, 1)], 0, 1, device=device).codes == ("mig_parent_energy",)


def test_devices_stay_apart() -> None:
    """One device's gap is not another's, and each keeps its index."""
    devices = [GPU, attrs.evolve(GPU, index=1, uuid="GPU-1")]
    samples = Samples(
        times_s=[0, 1, 2],
        power_w=[[NAN, 10], [NAN, 20], [NAN, 30]],
        temperature_c=[[NAN, NAN]] * 3,
    )
    edges = [Edge(time_s=time, counters_j=(None, None)) for time in (0.0, 2.0)]

    energies = device_energies(devices, samples, *edges)

    assert [(one.gpu_index, one.energy_j) for one in energies] == [(0, None), (1, 40)]
    assert mean_power_w(energies, 2.0) == (None, 20)
    assert mean_power_w(energies, 0.0) == (None, None)


def test_window_that_ends_before_it_begins() -> None:
    """Edges in the wrong order are refused."""
    with pytest.raises(MeterError, match=r"ends 1 s before"):
        energy([(0, 1), (1, 1)], 1, 0)


def test_samples_of_other_devices() -> None:
    """Samples that have not one column for each device are refused."""
    samples = Samples(times_s=[0, 1], power_w=[[1, 2], [3, 4]], temperature_c=[[5, 6], [7, 8]])
    edges = [Edge(time_s=time, counters_j=(None,)) for time in (0.0, 1.0)]
    with pytest.raises(MeterError, match=r"has 1 devices and sampled 2"):
        device_energies([GPU], samples, *edges)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reading_that_cannot_be_is_a_gap(wrong: float) -> None:
    """It is bridged, never part of a figure."""
    points = [(0, 100), (1, 100), (2, wrong), (3, 100), (4, 100)]

    measured = energy(points, 1, 3, (wrong, wrong))

    assert measured.energy_j == 200
    assert measured.sample_count == 2


def test_memory_is_bounded() -> None:
    """Hours of samples take no more memory than a few blocks of them."""
    ticks, count = 250_000, 8
    devices = [attrs.evolve(GPU, index=index, counter_range_j=1e5) for index in range(count)]
    power_w = np.full((ticks, count), 100, "f4")
    power_w[::1009] = NAN
    samples = Samples(
        times_s=np.arange(ticks),
        power_w=power_w,
        temperature_c=power_w,
        counter_j=np.arange(0.0, 100 * ticks, 100).repeat(count).reshape(power_w.shape) % 1e5,
        reading_age_s=power_w / 1e4,
    )
    begin = Edge(time_s=0.5, counters_j=(50.0,) * count)
    end = Edge(time_s=ticks - 1.5, counters_j=((100 * ticks - 150) % 1e5,) * count)

    tracemalloc.start()
    try:
        energies = device_energies(devices, samples, begin, end)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    joules = 100 * (ticks - 2)
    assert [one.integrated_j for one in energies] == [pytest.approx(joules)] * count
    assert [one.counter_j for one in energies] == [pytest.approx(joules)] * count
    assert peak < 4 * 2**20 < power_w.nbytes
