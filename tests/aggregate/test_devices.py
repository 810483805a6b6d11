"""Each device counts once at a time, and all of its time counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import aggregate, device, process


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
