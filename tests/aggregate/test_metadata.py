"""What is checked of several processes, and what is warned of."""

import pytest
from ranks import aggregate, device, process

from llem.domain.energy import Sensor, ThermalThrottleInfo
from llem.domain.result import ClockOffset
from llem.errors import AggregationError


@pytest.mark.parametrize(
    ("windows", "attributed"),
    [
        ([(0, 60), (0, 60)], False),
        ([(0, 60), (59, 90)], False),
        ([(0, 60), (60, 90)], True),
        ([(0, 60), (70, 90)], True),
        ([(0, 60), (70, 90), (10, 20)], False),
        ([(5, 5), (5, 5)], False),
    ],
)
def test_attribution_of_one_device(windows, attributed: bool) -> None:
    """Fine as long as no two metered it at the same time."""
    run = [process(i, window=w, devices=(device("GPU-a"),)) for i, w in enumerate(windows)]

    metadata = aggregate(*run).aggregation

    assert metadata.gpu_attribution_verified is attributed
    assert ("shared the device" in " ".join(metadata.warnings)) is not attributed


def test_one_shared_device_among_others_is_enough() -> None:
    """The others are nobody else's."""
    run = [process(i, devices=(device(f"GPU-{i}"), device("GPU-x", gpu_index=1))) for i in range(2)]

    assert aggregate(*run).aggregation.gpu_attribution_verified is False


def test_a_device_named_twice_by_one_process_is_attributed() -> None:
    """It is shared with nobody."""
    twice = process(0, devices=(device("GPU-a"), device("GPU-a", gpu_index=1)))

    assert aggregate(twice, process(1)).aggregation.gpu_attribution_verified is True


@pytest.mark.parametrize(
    ("windows", "overlap"),
    [
        ([(0, 60), (5, 5)], True),
        ([(0, 60), (0, 0)], True),
        ([(0, 60), (60, 60)], False),
        ([(5, 5), (5, 5)], True),
        ([(5, 5), (6, 6)], False),
    ],
)
def test_a_window_of_no_length_overlaps_what_it_lies_in(windows, overlap: bool) -> None:
    """The last moment of a window is no part of it."""
    metadata = aggregate(*(process(i, window=w) for i, w in enumerate(windows))).aggregation

    assert metadata.temporal_overlap_verified is overlap


def test_too_little_overlap_says_how_much() -> None:
    """None is none, and not less."""
    some = aggregate(process(0, window=(0, 60)), process(1, window=(50, 90))).aggregation
    none = aggregate(process(0, window=(0, 60)), process(1, window=(70, 90))).aggregation

    assert [*some.warnings] == [
        (
            "the processes did not run at the same time: all of them ran during 25% of the "
            "shortest, less than 50%"
        )
    ]
    assert "during 0% of the shortest" in none.warnings[0]


def test_devices_that_wait_for_others_are_told_of() -> None:
    """What they draw then is in no figure, and throughput is over all of the time."""
    uneven = aggregate(process(0, window=(0, 20)), process(1, window=(0, 60))).aggregation
    even = aggregate(process(0, window=(0, 57)), process(1, window=(0, 60))).aggregation
    shared = aggregate(
        process(0, window=(0, 20), devices=(device("GPU-a"),)),
        process(1, window=(0, 60), devices=(device("GPU-a"),)),
    ).aggregation

    (warning,) = uneven.warnings
    assert warning == (
        "the processes ended up to 40 s apart, and each device is measured until its own has: 67% "
        "of the devices' time is in the energy, and none of what they drew waiting for the others"
    )
    assert even.warnings == ()
    assert not any("waiting" in line for line in shared.warnings)


def test_devices_without_a_figure_wait_for_nobody() -> None:
    """There is no energy that anything could be left out of."""
    unknown = aggregate(
        *(process(i, window=(0, 20 + 40 * i), devices=(), energy_j=None) for i in range(2))
    )

    assert unknown.aggregation.warnings == ()


def test_only_who_shared_is_named() -> None:
    """Another process had the device to itself, later."""
    windows = [(50, 60), (5, 15), (0, 10), (60, 61)]
    run = [process(i, window=w, devices=(device("GPU-a"),)) for i, w in enumerate(windows)]

    lines = aggregate(*run).aggregation.warnings

    assert "processes 1, 2 shared the device GPU-a, whose energy is counted once" in lines


def test_the_processor_of_a_machine_is_no_gpu() -> None:
    """All of its processes read it, which says nothing of how GPUs were given out."""
    cpu = device("package-0", gpu_index=9, sensor=Sensor.RAPL)
    bare = aggregate(*(process(i, devices=(cpu,)) for i in range(2))).aggregation
    own = aggregate(*(process(i, devices=(device(f"GPU-{i}"), cpu)) for i in range(2))).aggregation

    assert bare.gpu_attribution_verified is None
    assert own.gpu_attribution_verified is True
    assert all("shared the device package-0" in one.warnings[0] for one in (bare, own))


def test_who_could_not_see_throttling_is_named() -> None:
    """That the others met none says nothing of its devices."""
    seen = process(0, thermal_throttle=ThermalThrottleInfo())
    (line,) = aggregate(seen, process(1)).aggregation.warnings

    assert line == (
        "rank 1 could not see whether devices were throttled: what is said of it is that of the "
        "others"
    )


def test_what_went_before_stands_before() -> None:
    """Warnings, and how far clocks were off."""
    offset = ClockOffset(process_index=1, node="b", offset_s=-0.1, error_bound_s=0.01)

    several = aggregate(
        process(0),
        process(1, devices=(device("GPU-0"),)),
        clock_offsets=iter([offset]),
        aggregation_warnings=iter(["first", "second"]),
    ).aggregation
    alone = aggregate(process(), clock_offsets=[offset], aggregation_warnings=["x"]).aggregation

    assert several.clock_offsets == (offset,)
    assert several.warnings == (
        "first",
        "second",
        "processes 0, 1 shared the device GPU-0, whose energy is counted once",
    )
    assert (alone.clock_offsets, alone.warnings) == ((offset,), ("x",))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"energy_j": 1e308}, "total_energy_j"),
        ({"flops": 1e308}, "total_flops"),
        ({"per_request_latencies_ms": (1e308,)}, "per_request_latencies_ms"),
        ({"gpu_utilisation_samples": (1e308,)}, "gpu_utilisation_samples"),
        ({"idle_w": 1e307}, "idle energy"),
    ],
)
def test_a_sum_beyond_all_floats_is_refused_by_name(fields, named: str) -> None:
    """One process may have it, two have not."""
    with pytest.raises(AggregationError, match=f"^{named} of all processes is larger than"):
        aggregate(process(0, **fields), process(1, **fields))
