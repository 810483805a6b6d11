"""What samples and counters make of energy."""

import itertools
import math
from array import array
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure.integrate import (
    DISAGREEMENT_LIMIT,
    GAP_PERIODS,
    device_energies,
    mean_power_w,
)
from llem.protocols import Device, Edge, Samples

NAN = math.nan
GPU = Device(index=0, uuid="GPU-0", name="Fake", sensor=Sensor.NVML_POWER_INSTANT, period_s=1.0)


def energy(
    points: Sequence[tuple[float, float]],
    begin: float,
    end: float,
    counters: tuple[float | None, float | None] = (None, None),
    device: Device = GPU,
) -> DeviceEnergy:
    """The energy of one device whose samples are *points*, as (time, power)."""
    samples = Samples(
        times_s=array("d", [time for time, _ in points]),
        power_w=(array("d", [power for _, power in points]),),
        temperature_c=(array("d", [NAN] * len(points)),),
    )
    edges = (
        Edge(time_s=time, counters_j=(counter,))
        for time, counter in zip((begin, end), counters, strict=True)
    )
    (result,) = device_energies([device], samples, *edges)
    return result


@st.composite
def curves(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Samples at least 1 ms apart, some of them failed, the first and the last one not."""
    steps = draw(st.lists(st.floats(0.001, 3.0), min_size=3, max_size=30))
    times = [sum(steps[: i + 1]) for i in range(len(steps))]
    powers = [draw(st.floats(0, 1000) | st.just(NAN)) for _ in times]
    powers[0], powers[-1] = draw(st.floats(0, 1000)), draw(st.floats(0, 1000))
    return list(zip(times, powers, strict=True))


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[float]]:
    """A curve, and three ordered times inside of it."""
    points = draw(curves())
    shares = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    first, last = points[0][0], points[-1][0]
    return points, [min(first + share * (last - first), last) for share in shares]


@given(windows(), st.floats(0, 1000))
def test_constant_power_is_exact(window, power: float) -> None:
    """Constant power integrates to power times duration, whatever readings failed."""
    points, (begin, _, end) = window
    flat = [(time, power if p == p else NAN) for time, p in points]

    measured = energy(flat, begin, end)

    assert measured.integrated_j == pytest.approx(power * (end - begin))
    assert measured.energy_j == measured.integrated_j
    assert measured.error_bound_j == pytest.approx(0, abs=1e-9)


@given(windows(), st.floats(0, 100), st.floats(0, 50))
def test_ramp_is_exact(window, power: float, slope: float) -> None:
    """A ramp integrates exactly between any two edges, also across gaps."""
    points, (begin, _, end) = window
    ramp = [(time, power + slope * time if p == p else NAN) for time, p in points]

    measured = energy(ramp, begin, end).integrated_j

    truth = (end - begin) * (power + slope * (begin + end) / 2)
    assert measured == pytest.approx(truth, rel=1e-9, abs=1e-9)


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
    assume(len(points) >= 2)
    truth = 0.0
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        jump = t0 + data.draw(st.floats(0, 1)) * (t1 - t0)
        truth += p0 * max(min(jump, end) - max(t0, begin), 0.0)
        truth += p1 * max(min(t1, end) - max(jump, begin), 0.0)

    measured = energy(points, begin, end)

    assert abs(measured.energy_j - truth) <= measured.error_bound_j + 1e-6


def test_edges_are_interpolated() -> None:
    """Samples outside of the window shape its edges, and do not count."""
    measured = energy([(0, 0), (2, 20), (4, 0)], 1, 3)

    assert measured.integrated_j == 30
    assert measured.sample_count == 1
    assert measured.max_gap_s == 1
    assert measured.coverage == 0.5


def test_evidence_of_a_whole_window() -> None:
    """Without a fault there is no code, and every asked-for sample is there."""
    measured = energy([(t, 100) for t in range(11)], 0.5, 9.5, (50, 950))

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


@pytest.mark.parametrize(
    ("counter", "codes"), [(1000 / (1 - DISAGREEMENT_LIMIT) - 1, ()), (1120, ("sources_disagree",))]
)
def test_sources_disagree(counter: float, codes: tuple[str, ...]) -> None:
    """A counter that differs by more than the limit is said to."""
    points = [(t, 100) for t in range(11)]
    assert energy(points, 0, 10, (0, counter)).codes == codes


@pytest.mark.parametrize("counters", [(500.0, 499.0), (500.0, None), (500.0, 0.0)])
def test_lost_counter(counters: tuple[float, float | None]) -> None:
    """A counter that ran backwards or fell silent is unknown, and the integral takes its place."""
    measured = energy([(t, 100) for t in range(11)], 0, 10, counters)

    assert (measured.counter_j, measured.energy_j) == (None, 1000)
    assert measured.sensor is Sensor.NVML_POWER_INSTANT
    assert measured.codes == ("counter_reset",)


def test_lost_counter_without_power() -> None:
    """A counter that ran backwards leaves no figure where there is no other source."""
    measured = energy([], 0, 10, (500, 400))

    assert measured.energy_j is None
    assert measured.codes == ("counter_reset", "sampling_gap", "energy_not_measured")


def test_counter_alone() -> None:
    """A device without a power reading has its counter, and no evidence about samples."""
    device = attrs.evolve(GPU, sensor=Sensor.NVML_TOTAL_ENERGY, period_s=None)

    measured = energy([], 0, 10, (500, 600), device)

    assert measured.energy_j == 100
    assert (measured.max_gap_s, measured.coverage, measured.error_bound_j) == (None, None, None)
    assert measured.codes == ()


@pytest.mark.parametrize(("duration", "codes"), [(0.05, ()), (10, ("sources_disagree",))])
def test_counter_that_stands_still(duration: float, codes: tuple[str, ...]) -> None:
    """A counter that was not refreshed gives no figure of 0. After long it is said."""
    measured = energy([(0, 100), (5, 100), (10, 100)], 0, duration, (500, 500))

    assert measured.energy_j == pytest.approx(100 * duration)
    assert measured.sensor is Sensor.NVML_POWER_INSTANT
    assert measured.codes == codes


def test_counter_that_may_stand_still() -> None:
    """Where the power may have risen only at the end, the counter is not accused."""
    measured = energy([(0, 0), (1, 100)], 0, 1, (500, 500))

    assert (measured.energy_j, measured.error_bound_j, measured.codes) == (50, 50, ())


def test_idle_counter_that_stands_still() -> None:
    """Nothing drawn and nothing counted agree."""
    measured = energy([(t, 0) for t in range(11)], 0, 10, (500, 500))

    assert (measured.energy_j, measured.codes) == (0, ())


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
def test_no_figure_from_nothing(points: list[tuple[float, float]]) -> None:
    """Fewer than two samples that tell of the window give no energy, and not 0."""
    measured = energy(points, 0, 10)

    assert (measured.energy_j, measured.integrated_j, measured.error_bound_j) == (None,) * 3
    assert measured.codes == ("sampling_gap", "energy_not_measured")


def test_no_figure_from_one_sample() -> None:
    """One sample is no curve, however short the window around it."""
    assert energy([(2, 100)], 0, 4).energy_j is None


def test_no_figure_where_sampling_fell_silent() -> None:
    """What nobody saw the end of is not made up."""
    points = [(t, 100) for t in range(5)]

    assert energy(points, 0, 4 + GAP_PERIODS + 0.1).energy_j is None
    assert energy(points, -GAP_PERIODS - 0.1, 4).energy_j is None


def test_short_stretches_beyond_the_samples() -> None:
    """Close to the outermost samples their power holds, and the bound allows for all of it."""
    measured = energy([(1, 100), (2, 200), (3, 100)], 0, 4)

    assert measured.energy_j == 100 + 150 + 150 + 100
    assert measured.error_bound_j == 50 + 50 + 2 * 200


@pytest.mark.parametrize(("gap", "codes"), [(5.0, ()), (5.1, ("sampling_gap",))])
def test_sampling_gap(gap: float, codes: tuple[str, ...]) -> None:
    """A stretch without samples longer than the threshold is bridged, and said."""
    measured = energy([(0, 100), (1, 100), (1 + gap, 100), (2 + gap, 100)], 0, 2 + gap)

    assert measured.max_gap_s == pytest.approx(gap)
    assert measured.energy_j == pytest.approx(100 * (2 + gap))
    assert measured.codes == codes


def test_coverage_is_capped() -> None:
    """More samples than asked for cover the window no better than wholly."""
    assert energy([(0, 1), (0.5, 1), (1, 1), (1.5, 1), (2, 1)], 0, 2).coverage == 1


def test_equal_times() -> None:
    """Two samples of one moment are no fault."""
    assert energy([(0, 100), (1, 100), (1, 300), (2, 300)], 0, 2).energy_j == 400


def test_mig_parent() -> None:
    """The figure of a GPU that is split is said to be that."""
    device = attrs.evolve(GPU, parent_of_mig=True)
    assert energy([(0, 1), (1, 1)], 0, 1, device=device).codes == ("mig_parent_energy",)


def test_rapl_keeps_its_sensor_and_its_refresh() -> None:
    """A RAPL counter is refreshed each millisecond."""
    device = attrs.evolve(GPU, sensor=Sensor.RAPL, scope="package")
    measured = energy([(0, 100), (1, 100)], 0, 1, (0, 100), device)

    assert (measured.sensor, measured.scope) == (Sensor.RAPL, "package")
    assert measured.error_bound_j == pytest.approx(0.1)


def test_devices_stay_apart() -> None:
    """One device's gap is not another's, and each keeps its index."""
    devices = [GPU, attrs.evolve(GPU, index=1, uuid="GPU-1")]
    samples = Samples(
        times_s=array("d", [0, 1, 2]),
        power_w=(array("d", [NAN, NAN, NAN]), array("d", [10, 20, 30])),
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


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, -5.0, math.nan])
def test_a_reading_that_cannot_be_is_a_gap(wrong: float) -> None:
    """It is bridged, never part of a figure."""
    times = array("d", [0.0, 0.1, 0.2, 0.3, 0.4])
    samples = Samples(
        times_s=times,
        power_w=(array("d", [100.0, 100.0, wrong, 100.0, 100.0]),),
        temperature_c=(array("d", [50.0] * 5),),
    )
    device = Device(index=0, uuid="a", name="A", sensor=Sensor.NVML_POWER, period_s=0.1)
    edges = [Edge(time_s=t, counters_j=(wrong,)) for t in (0.1, 0.3)]

    (energy,) = device_energies((device,), samples, *edges)

    assert energy.energy_j == pytest.approx(20.0)
    assert energy.sample_count == 2
