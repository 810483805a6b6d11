"""What one process measured, divided over two, gives the figures of the whole."""

import operator
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import JOULES, SECONDS, aggregate, device, process, runs

from llem.domain.efficiency import ExtendedEfficiencyMetrics, MemoryEfficiencyMetrics
from llem.domain.energy import ThermalThrottleInfo
from llem.domain.latency import LatencyMeasurements
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult

VALUES = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 5e-324]), max_size=12).map(tuple)
MOMENTS = st.lists(st.floats(0, 60), max_size=4).map(tuple)
MICROSECOND = timedelta(microseconds=1)
COUNTS = st.integers(0, 10**6)


@st.composite
def halves(draw: st.DrawFn) -> dict[str, Any]:
    """What the requests of half of a process came to."""
    flags = draw(st.lists(st.booleans(), min_size=2, max_size=2))
    throttled = ThermalThrottleInfo(
        detected=any(flags),
        power=flags[0],
        thermal=flags[1],
        throttle_duration_sec=draw(st.floats(0, 60)),
        max_temperature_c=draw(st.floats(0, 90)),
        throttle_timestamps=draw(MOMENTS),
    )
    return {
        "tokens": (draw(COUNTS), draw(COUNTS)),
        "flops": float(draw(st.integers(0, 2**50))),
        "latencies": LatencyMeasurements(ttft_ms=draw(VALUES), itl_full_ms=draw(VALUES)),
        "per_request_latencies_ms": draw(VALUES),
        "gpu_utilisation_samples": draw(VALUES),
        "thermal_throttle": throttled,
        "extended_metrics": ExtendedEfficiencyMetrics(
            memory=MemoryEfficiencyMetrics(
                total_vram_mb=81920.0,
                model_memory_mb=1000.0,
                peak_memory_mb=draw(st.floats(1000, 80000)),
            )
        ),
        "gpu_uuid": "GPU-a",
        "idle_w": 3.0,
    }


def together(
    one: dict[str, Any], other: dict[str, Any], of_both: Callable[..., float] = max
) -> dict[str, Any]:
    """What the requests of both halves came to; how long they were throttled is that *of_both*."""
    whole = {**one}
    for name in ("per_request_latencies_ms", "gpu_utilisation_samples"):
        whole[name] = one[name] + other[name]
    whole["tokens"] = tuple(a + b for a, b in zip(one["tokens"], other["tokens"], strict=True))
    whole["flops"] = one["flops"] + other["flops"]
    whole["latencies"] = LatencyMeasurements(
        **{
            name: getattr(one["latencies"], name) + getattr(other["latencies"], name)
            for name in ("ttft_ms", "itl_full_ms")
        }
    )
    a, b = one["thermal_throttle"], other["thermal_throttle"]
    whole["thermal_throttle"] = ThermalThrottleInfo(
        detected=a.detected or b.detected,
        power=a.power or b.power,
        thermal=a.thermal or b.thermal,
        throttle_duration_sec=of_both(a.throttle_duration_sec, b.throttle_duration_sec),
        max_temperature_c=max(a.max_temperature_c, b.max_temperature_c),
        throttle_timestamps=tuple(sorted({*a.throttle_timestamps, *b.throttle_timestamps})),
    )
    peaks = [half["extended_metrics"].memory.peak_memory_mb for half in (one, other)]
    memory = attrs.evolve(
        one["extended_metrics"].memory,
        peak_memory_mb=max(peaks),
        inference_memory_mb=max(peaks) - 1000,
        model_memory_utilisation=1000 / 81920,
    )
    whole["extended_metrics"] = ExtendedEfficiencyMetrics(memory=memory)
    return whole


def figures(result: ExperimentResult) -> dict[str, Any]:
    """All but how they came about."""
    found = attrs.asdict(result, recurse=False)
    for name in ("aggregation", "process_results", "energy_breakdown", "effective_config"):
        del found[name]
    return found


def assert_alike(split: ExperimentResult, whole: ExperimentResult) -> None:
    """
    Bit by bit, but for what time is part of.

    Dates tell microseconds, and one process tells the time by the monotonic clock.
    """
    found, wanted = figures(split), figures(whole)
    timed = ("total_inference_time_sec", "avg_tokens_per_second", "flops_per_second")
    for name in (*timed, "energy_adjusted_j"):
        mine, theirs = found.pop(name), wanted.pop(name)
        assert mine == theirs or mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert found == wanted


@given(halves(), halves(), SECONDS, st.floats(0, 1e9))
def test_by_requests(one, other, seconds: float, joules: float) -> None:
    """Two processes that served at the same time, and both metered their GPU."""
    shared = {"devices": (device("GPU-a", joules),), "window": (1.0, 1.0 + seconds)}

    split = aggregate(process(0, **one, **shared), process(1, **other, **shared))
    whole = aggregate(process(0, **together(one, other), **shared))

    assert_alike(split, whole)


@given(halves(), halves(), SECONDS, SECONDS, st.floats(0, 1e9), st.floats(0, 1e9))
def test_by_time(one, other, first_s, second_s, first_j: float, second_j: float) -> None:
    """One process after the other on one GPU: energies add up, idle shares, and throttled time."""
    ends = first_s + 1, first_s + second_s + 2
    split = aggregate(
        process(0, **one, window=(0, ends[0]), devices=(device("GPU-a", first_j),)),
        process(1, **other, window=ends, devices=(device("GPU-a", second_j),)),
    )
    whole = aggregate(
        process(
            0,
            **together(one, other, operator.add),
            window=(0, ends[1]),
            devices=(device("GPU-a", first_j + second_j),),
        )
    )

    assert split.total_energy_j == first_j + second_j
    assert split.aggregation.gpu_attribution_verified is True
    assert split.aggregation.temporal_overlap_verified is False
    assert_alike(split, whole)


@given(runs(), st.data())
def test_a_process_on_gpus_that_are_counted_adds_no_energy(run, data) -> None:
    """Its window lies in that of the one that metered them, and it read no more."""
    run = [process_on_a_gpu(one) for one in run]
    apart = [
        attrs.evolve(one, devices=tuple(attrs.evolve(d, uuid=f"{d.uuid}{i}") for d in one.devices))
        for i, one in enumerate(run)
    ]
    beside = data.draw(st.sampled_from(apart))
    length_s = beside.timestamps.duration_sec
    cut = data.draw(st.floats(0, length_s / 2)), data.draw(st.floats(0, length_s / 2))
    added = inside(beside, len(apart), cut)

    before, after = aggregate(*apart), aggregate(*apart, added)

    assert after.total_energy_j == before.total_energy_j
    assert after.energy_per_device_j == before.energy_per_device_j
    assert after.devices == before.devices
    assert after.baseline_power_w == before.baseline_power_w
    assert after.energy_adjusted_j == before.energy_adjusted_j


def process_on_a_gpu(one: RawProcessResult) -> RawProcessResult:
    """*one*, whose GPU has a name where there is no evidence for it."""
    return one if one.devices else attrs.evolve(one, gpu_uuid=f"GPU-{one.process_index}")


def inside(beside: RawProcessResult, index: int, cut_s: tuple[float, float]) -> RawProcessResult:
    """A process on the same GPUs as *beside*, which began later, ended earlier and read half."""
    begin, end = (int(seconds * 1e6) for seconds in cut_s)
    window = attrs.evolve(
        beside.timestamps,
        start=beside.timestamps.start + begin * MICROSECOND,
        end=beside.timestamps.end - end * MICROSECOND,
    )
    share = 0.5 if begin + end else 1.0
    energies = beside.energy_metrics.total_energy_j
    return attrs.evolve(
        beside,
        process_index=index,
        timestamps=window,
        energy_metrics=attrs.evolve(
            beside.energy_metrics,
            total_energy_j=None if energies is None else share * energies,
            duration_sec=share * beside.energy_metrics.duration_sec,
        ),
        devices=tuple(
            attrs.evolve(d, energy_j=None if d.energy_j is None else share * d.energy_j)
            for d in beside.devices
        ),
    )


@given(st.lists(st.tuples(JOULES, st.integers(1, 50)), min_size=2, max_size=5))
def test_time_that_was_not_measured_is_not_taken_for_none(parts) -> None:
    """One failed reading between others makes the energy of the device unknown."""
    begins = [sum(seconds for _, seconds in parts[:i]) for i in range(len(parts))]
    run = [
        process(i, window=(begin, begin + seconds), devices=(device("GPU-a", joules),))
        for i, (begin, (joules, seconds)) in enumerate(zip(begins, parts, strict=True))
    ]

    total_j = aggregate(*run).total_energy_j

    assert (total_j is None) is any(joules is None for joules, _ in parts)
