"""Idle share, phases, and what each GPU drew."""

import attrs
import pytest
from ranks import START, aggregate, device, process

from llem.domain.energy import BaselineMethod, EnergyBreakdown, Sensor


def test_several_gpus() -> None:
    """RAPL domains are devices, and no GPUs."""
    devices = (
        device("GPU-a", 100.0),
        device("package-0", 40.0, gpu_index=1, sensor=Sensor.RAPL),
        device("GPU-b", 50.0, gpu_index=2),
    )

    result = aggregate(process(devices=devices))

    assert result.total_energy_j == 190
    assert attrs.asdict(result.multi_gpu) == {
        "num_gpus": 2,
        "energy_per_gpu_j": (100.0, 50.0),
        "energy_total_j": 150.0,
        "energy_per_output_token_j": 150 / 50,
    }


@pytest.mark.parametrize(
    "devices",
    [
        (),
        (device("GPU-a"),),
        (device("GPU-a"), device("package-0", gpu_index=1, sensor=Sensor.RAPL)),
        (device("GPU-a"), device("GPU-b", None, gpu_index=1)),
    ],
)
def test_no_several_gpus(devices) -> None:
    """One GPU, none, or one that was not measured."""
    assert aggregate(process(devices=devices)).multi_gpu is None


def test_idle_share_is_taken_off() -> None:
    """Power times the duration of each process, over its own devices."""
    result = aggregate(
        process(0, energy_j=1000.0, window=(0, 60), idle_w=5.0),
        process(1, energy_j=800.0, window=(0, 50), idle_w=6.0),
    )

    assert result.baseline_power_w == 11
    assert result.energy_adjusted_j == 1800 - 5 * 60 - 6 * 50
    assert result.energy_breakdown.raw_j == 1800
    assert result.energy_breakdown.adjusted_j == result.energy_adjusted_j
    assert result.energy_breakdown.baseline_power_w == 11
    assert result.energy_breakdown.baseline_method is BaselineMethod.FRESH


def test_adjusted_energy_is_signed() -> None:
    """A baseline above the load is shown, not hidden."""
    assert aggregate(process(energy_j=100.0, idle_w=2.0)).energy_adjusted_j == -20


def test_one_process_keeps_how_its_baseline_came_about() -> None:
    """Method, time and age."""
    breakdown = EnergyBreakdown(
        baseline_power_w=1.0,
        baseline_method=BaselineMethod.CACHED,
        baseline_timestamp=START,
        baseline_cache_age_sec=12.0,
    )

    result = aggregate(process(energy_breakdown=breakdown))

    assert result.energy_breakdown == attrs.evolve(breakdown, raw_j=100.0, adjusted_j=40.0)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("fields", [{"idle_w": None}, {"energy_breakdown": None}])
def test_a_missing_baseline_makes_the_adjusted_energy_unknown(index, fields) -> None:
    """One process without it is enough; the energy itself stays known."""
    run = [process(i, **(fields if i == index else {"idle_w": 1.0})) for i in range(3)]

    result = aggregate(*run)

    assert result.baseline_power_w is None
    assert result.energy_adjusted_j is None
    assert result.energy_breakdown.baseline_method is None
    assert result.total_energy_j == 300


def test_no_breakdown_at_all() -> None:
    """Where no process has one, neither has the result."""
    assert aggregate(process(energy_breakdown=None)).energy_breakdown is None


@pytest.mark.parametrize("longer", [0, 1])
def test_the_idle_share_of_a_shared_device_is_that_of_the_longer_span(longer: int) -> None:
    """The span that its energy is taken from, whichever process that is."""
    run = [
        process(
            i,
            devices=(device("GPU-a", 600.0 if i == longer else 300.0),),
            window=(0, 60 if i == longer else 30),
            idle_w=2.0,
        )
        for i in range(2)
    ]

    result = aggregate(*run)

    assert result.baseline_power_w == 2
    assert result.energy_adjusted_j == 600 - 2 * 60


def test_idle_power_of_sets_that_share_a_part_is_unknown() -> None:
    """What two processes measured together cannot be told apart afterwards."""
    a, b, c = (device(f"GPU-{x}", gpu_index=i) for i, x in enumerate("abc"))

    result = aggregate(
        process(0, devices=(a, b), idle_w=2.0), process(1, devices=(b, c), idle_w=2.0)
    )

    assert result.total_energy_j == 300
    assert result.baseline_power_w is None
    assert result.energy_adjusted_j is None


@pytest.mark.parametrize(
    ("methods", "together"),
    [
        ([BaselineMethod.FRESH] * 2, BaselineMethod.FRESH),
        ([BaselineMethod.CACHED] * 2, BaselineMethod.CACHED),
        ([BaselineMethod.FRESH, BaselineMethod.CACHED], BaselineMethod.CACHED),
    ],
)
def test_baseline_method_of_several(methods, together) -> None:
    """The weakest of them."""
    run = [
        process(i, energy_breakdown=EnergyBreakdown(baseline_power_w=1.0, baseline_method=method))
        for i, method in enumerate(methods)
    ]

    assert aggregate(*run).energy_breakdown.baseline_method is together
