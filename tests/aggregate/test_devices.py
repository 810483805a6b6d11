"""Each device counts once at a time, and all of its time counts."""

import itertools
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import aggregate, device, process

from llem.aggregate import distinct_devices
from llem.domain.energy import Sensor
from llem.domain.result import ExperimentResult


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5))
def test_energy_is_summed_over_devices(energies) -> None:
    """However they are spread over processes."""
    devices = [device(f"GPU-{i}", energy, gpu_index=i) for i, energy in enumerate(energies)]

    together = aggregate(process(devices=tuple(devices)))
    apart = aggregate(*(process(i, devices=(one,)) for i, one in enumerate(devices)))

    assert together.total_energy_j == apart.total_energy_j == math.fsum(energies)
    assert together.energy_per_device_j == apart.energy_per_device_j == tuple(energies)
    assert together.devices == apart.devices == tuple(devices)


def test_a_shared_device_counts_once() -> None:
    """Two processes that read the same UUID read the same energy; the longer span is taken."""
    shared = [device("GPU-a", 300.0), device("GPU-a", 310.0), device("GPU-a", 290.0)]

    result = aggregate(*(process(i, devices=(one,)) for i, one in enumerate(shared)))

    assert result.total_energy_j == 310
    assert [one.uuid for one in result.devices] == ["GPU-a"]
    assert result.multi_gpu is None


@pytest.mark.parametrize("others", [(), (100.0,), (100.0, 200.0)])
def test_energy_is_unknown_where_that_of_one_device_is(others) -> None:
    """None is not 0."""
    energies = (*others, None)

    result = aggregate(*(process(i, energy_j=energy) for i, energy in enumerate(energies)))

    assert result.total_energy_j is None
    assert result.avg_energy_per_token_j is None
    assert result.energy_per_device_j is None
    assert result.energy_adjusted_j is None
    assert result.multi_gpu is None
    assert len(result.devices) == len(energies)


@pytest.mark.parametrize("readings", [(None, 0.0), (0.0, None), (None, 5.0), (5.0, None)])
def test_one_reading_of_a_shared_device_is_enough(readings) -> None:
    """A process that could not read it does not hide that another could, be it 0."""
    result = aggregate(
        *(process(i, devices=(device("GPU-a", energy),)) for i, energy in enumerate(readings))
    )

    assert result.total_energy_j == next(energy for energy in readings if energy is not None)


def test_energy_without_devices_is_that_of_the_processes() -> None:
    """Documents of other writers have no evidence; a GPU still counts once."""
    run = [
        process(0, devices=(), energy_j=10.0, gpu_uuid="GPU-a"),
        process(1, devices=(), energy_j=12.0, gpu_uuid="GPU-a"),
        process(2, devices=(), energy_j=11.0, gpu_uuid="GPU-a"),
        process(3, devices=(), energy_j=5.0, gpu_uuid="GPU-b"),
        process(4, devices=(), energy_j=1.0),
    ]

    assert aggregate(*run).total_energy_j == 18
    assert aggregate(*run).energy_per_device_j is None
    assert aggregate(*run, process(5, devices=(), energy_j=None)).total_energy_j is None


@pytest.mark.parametrize(("energy_j", "total_j"), [(7.0, 107.0), (None, None)])
def test_a_process_without_devices_beside_one_with(energy_j, total_j) -> None:
    """What it measured is not left out, and what it did not measure is not taken for 0."""
    result = aggregate(process(0), process(1, devices=(), energy_j=energy_j))

    assert result.total_energy_j == total_j


def test_a_process_without_devices_may_share_a_known_one() -> None:
    """Its GPU's energy is counted already."""
    result = aggregate(process(0), process(1, devices=(), energy_j=7.0, gpu_uuid="GPU-0"))

    assert result.total_energy_j == 100


def test_devices_of_several_hosts_get_indices_of_their_own() -> None:
    """Where each process counts from 0, the record counts on."""
    result = aggregate(process(0), process(1), process(2))

    assert [(one.gpu_index, one.uuid) for one in result.devices] == [
        (0, "GPU-0"),
        (1, "GPU-1"),
        (2, "GPU-2"),
    ]


def test_indices_that_differ_are_kept() -> None:
    """They name rows of the time series."""
    run = [process(i, devices=(device(f"GPU-{i}", gpu_index=7 - i),)) for i in range(2)]

    assert [one.gpu_index for one in aggregate(*run).devices] == [7, 6]


# Several processes on one device


def metered(*parts: tuple[tuple[float, float], float | None], **fields: Any) -> ExperimentResult:
    """A process for each (window, energy) of one GPU."""
    return aggregate(
        *(
            process(i, window=window, devices=(device("GPU-a", joules, **fields),))
            for i, (window, joules) in enumerate(parts)
        )
    )


LOWER_BOUND = "is a lower bound"


@pytest.mark.parametrize(
    ("parts", "total_j", "lower_bound"),
    [
        ([((0, 60), 100.0), ((60, 120), 50.0)], 150.0, False),
        ([((0, 60), 100.0), ((70, 120), 50.0)], 150.0, False),
        ([((60, 120), 50.0), ((0, 60), 100.0)], 150.0, False),
        ([((0, 60), 100.0), ((0, 60), 99.0)], 100.0, False),
        ([((0, 60), 100.0), ((10, 50), 60.0)], 100.0, False),
        ([((0, 60), 100.0), ((0.1, 60.1), 100.5)], 100.5, False),
        ([((0, 60), 100.0), ((30, 90), 110.0)], 110.0, True),
        ([((0, 60), 100.0), ((0, 30), 60.0), ((30, 60), 55.0)], 115.0, False),
        ([((0, 60), 100.0), ((0, 30), 40.0), ((30, 60), 55.0)], 100.0, False),
        ([((0, 50), 60.0), ((40, 90), 70.0), ((80, 120), 50.0)], 110.0, True),
        ([((0, 60), 10.0), ((0, 30), 60.0)], 60.0, True),
        ([((0, 60), 0.0), ((60, 120), 0.0)], 0.0, False),
        # What failed while another read it hides nothing, and what was not read is not 0.
        ([((0, 60), 100.0), ((10, 50), None)], 100.0, False),
        ([((0, 60), 100.0), ((60, 120), None)], None, False),
        ([((0, 60), 100.0), ((30, 90), None)], 100.0, True),
        ([((0, 60), None), ((30, 90), None)], None, False),
        # A window of no length lies in what it begins with, and beside what it ends with.
        ([((0, 60), 100.0), ((0, 0), 5.0)], 100.0, False),
        ([((0, 60), 100.0), ((60, 60), 5.0)], 105.0, False),
        ([((5, 5), 7.0), ((5, 5), 6.0)], 7.0, False),
    ],
)
def test_readings_of_one_device(parts, total_j, lower_bound: bool) -> None:
    """Apart in time they add up; at the same time one counts."""
    result = metered(*parts)

    assert result.total_energy_j == total_j
    assert result.energy_per_device_j == (None if total_j is None else (total_j,))
    assert len(result.devices) == 1
    assert (LOWER_BOUND in " ".join(result.aggregation.warnings)) is lower_bound


def test_a_lower_bound_says_of_what() -> None:
    """The device, and the time that lies in no reading."""
    (warning,) = [
        w for w in metered(((0, 60), 1.0), ((30, 90), 2.0)).aggregation.warnings if LOWER_BOUND in w
    ]

    assert warning == (
        "energy of GPU-a is a lower bound: its readings overlap in part, and 30 s lie in none that "
        "counts"
    )


WHOLE = st.integers(0, 30)


@given(st.lists(st.tuples(WHOLE, WHOLE, st.floats(0, 1e6)), min_size=1, max_size=6))
def test_readings_that_count_are_the_largest_set_apart(spans) -> None:
    """Of all sets of which no two overlap."""
    windows = [
        ((begin % 50) // 1, (begin % 50) // 1 + length % 20 // 1) for begin, length, _ in spans
    ]
    parts = [(window, joules) for window, (*_, joules) in zip(windows, spans, strict=True)]

    def apart(chosen) -> bool:
        return all(
            min(max(w[1], w[0] + 1e-6), max(v[1], v[0] + 1e-6)) <= max(w[0], v[0])
            for (w, _), (v, _) in itertools.combinations(chosen, 2)
        )

    sets = itertools.chain.from_iterable(
        itertools.combinations(parts, n) for n in range(1, len(parts) + 1)
    )
    most_j = max(math.fsum(joules for _, joules in one) for one in sets if apart(one))

    assert metered(*parts).total_energy_j == pytest.approx(most_j)


def test_evidence_of_readings_that_add_up() -> None:
    """As one: sums, the longest gap, coverage by time, and the sensor of the largest."""
    first = device(
        "GPU-a",
        100.0,
        gpu_index=3,
        counter_j=100.0,
        integrated_j=101.0,
        disagreement=0.01,
        sample_count=10,
        max_gap_s=0.5,
        coverage=0.9,
        error_bound_j=2.0,
        codes=("sampling_gap", "mig_parent_energy"),
    )
    second = attrs.evolve(
        first,
        gpu_index=4,
        sensor=Sensor.NVML_POWER,
        energy_j=300.0,
        counter_j=300.0,
        integrated_j=303.0,
        sample_count=30,
        max_gap_s=0.25,
        coverage=0.5,
        error_bound_j=3.0,
        codes=("sampling_gap", "sources_disagree"),
    )

    (one,) = aggregate(
        process(0, window=(0, 10), devices=(first,)), process(1, window=(10, 40), devices=(second,))
    ).devices

    assert one == attrs.evolve(
        second,
        energy_j=400.0,
        counter_j=400.0,
        integrated_j=404.0,
        disagreement=4 / 400,
        sample_count=40,
        max_gap_s=0.5,
        coverage=(0.9 * 10 + 0.5 * 30) / 40,
        error_bound_j=5.0,
        codes=("sampling_gap", "mig_parent_energy", "sources_disagree"),
    )


@pytest.mark.parametrize("name", ["counter_j", "integrated_j", "error_bound_j", "coverage"])
@pytest.mark.parametrize("index", [0, 1])
def test_evidence_is_unknown_where_that_of_one_reading_is(name: str, index: int) -> None:
    """A sum without one of its terms is no sum."""
    known = device("GPU-a", 1.0, counter_j=1.0, integrated_j=1.0, error_bound_j=1.0, coverage=1.0)
    readings = [known, known]
    readings[index] = attrs.evolve(known, **{name: None})

    (one,) = aggregate(
        *(process(i, window=(i, i + 1), devices=(d,)) for i, d in enumerate(readings))
    ).devices

    values = ["counter_j", "integrated_j", "error_bound_j", "coverage"]
    assert [value for value in values if getattr(one, value) is None] == [name]
    assert (one.disagreement is None) is (name in ("counter_j", "integrated_j"))


def test_full_coverage_stays_full() -> None:
    """A weighted mean may round to more than all of its terms."""
    windows = [(0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.3)]

    result = metered(*((window, 1.0) for window in windows), coverage=1.0)

    assert result.devices[0].coverage == pytest.approx(1.0)
    assert result.devices[0].coverage <= 1


def test_the_index_is_that_of_the_reading_that_counts() -> None:
    """It names rows of the time series."""
    run = [
        process(i, devices=(device("GPU-a", joules, gpu_index=5 + i), device(f"GPU-{i}")))
        for i, joules in enumerate([1.0, 2.0, 1.5])
    ]
    alone = [attrs.evolve(one, devices=one.devices[:1]) for one in run]

    assert [one.gpu_index for one in aggregate(*alone).devices] == [6]
    # Of GPU-0, GPU-1 and GPU-2 each is the first of its process.
    assert [one.gpu_index for one in aggregate(*run).devices] == [0, 1, 2, 3]


def test_a_process_without_evidence_adds_what_it_metered_at_another_time() -> None:
    """To the total, and to no device."""
    known = process(0, window=(0, 60))

    def beside(window: tuple[float, float], joules: float | None) -> ExperimentResult:
        return aggregate(
            known, process(1, window=window, devices=(), energy_j=joules, gpu_uuid="GPU-0")
        )

    assert beside((60, 90), 7.0).total_energy_j == 107
    assert beside((60, 90), 7.0).energy_per_device_j == (100.0,)
    assert beside((60, 90), None).total_energy_j is None
    assert beside((0, 60), 700.0).total_energy_j == 100
    assert beside((30, 40), None).total_energy_j == 100


def test_readings_of_one_process_count_once() -> None:
    """A device that stands in its evidence twice is one."""
    result = aggregate(process(devices=(device("GPU-a", 5.0), device("GPU-a", 7.0, gpu_index=1))))

    assert result.total_energy_j == 7
    assert [one.gpu_index for one in result.devices] == [1]


def test_distinct_devices_are_those_of_the_result() -> None:
    """What an audit takes."""
    run = [process(0), process(1), process(2, devices=(device("GPU-1", 7.0),))]

    assert distinct_devices(run) == aggregate(*run).devices
