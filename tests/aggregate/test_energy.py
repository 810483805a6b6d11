"""Idle share, phases, and what each GPU drew."""

from typing import Any

import attrs
import pytest
from ranks import START, aggregate, device, process

from llem.domain.energy import BaselineMethod, EnergyBreakdown, Phase, PhaseEnergy, Sensor
from llem.domain.process import RawProcessResult


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


def test_the_idle_share_covers_as_much_time_as_it_can() -> None:
    """Readings of all three count, and the longest covers more than both others together."""

    def metered(index: int, window: tuple[float, float], *joules: float) -> RawProcessResult:
        both = (device("GPU-a", joules[0]), device("GPU-b", joules[1], gpu_index=1))
        return process(index, window=window, devices=both, idle_w=3.0)

    run = [metered(0, (0, 60), 100, 10), metered(1, (0, 10), 1, 20), metered(2, (20, 30), 1, 20)]

    assert aggregate(*run).energy_adjusted_j == 100 + 2 * 20 - 3 * 60


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
        ([BaselineMethod.CACHED, BaselineMethod.FRESH], BaselineMethod.CACHED),
        ([BaselineMethod.FRESH, BaselineMethod.UNAVAILABLE], BaselineMethod.UNAVAILABLE),
        ([None, BaselineMethod.UNAVAILABLE], None),
    ],
)
def test_baseline_method_of_several(methods, together) -> None:
    """The weakest of them."""
    run = [
        process(i, energy_breakdown=EnergyBreakdown(baseline_power_w=1.0, baseline_method=method))
        for i, method in enumerate(methods)
    ]

    assert aggregate(*run).energy_breakdown.baseline_method is together


def test_idle_share_of_one_process_after_the_other() -> None:
    """Over the time of each, at the power that each measured; on the whole the mean over time."""
    run = [
        process(0, devices=(device("GPU-a", 600.0),), window=(0, 60), idle_w=2.0),
        process(1, devices=(device("GPU-a", 400.0),), window=(60, 80), idle_w=4.0),
    ]

    result = aggregate(*run)

    assert result.energy_adjusted_j == 1000 - 2 * 60 - 4 * 20
    assert result.baseline_power_w == 200 / 80


def test_idle_share_where_noise_tells_who_read_most() -> None:
    """Two processes that both meter all GPUs: each has the larger reading of one."""
    run = [
        process(i, devices=(device("GPU-a", a), device("GPU-b", b, gpu_index=1)), idle_w=2.0)
        for i, (a, b) in enumerate([(100.0, 201.0), (101.0, 200.0)])
    ]

    result = aggregate(*run)

    assert result.total_energy_j == 302
    assert result.baseline_power_w == 2
    assert result.energy_adjusted_j == 302 - 2 * 60


def test_a_process_that_adds_nothing_hides_no_idle_power() -> None:
    """Neither one without a baseline nor one on a part of the GPUs."""
    both = (device("GPU-a", 100.0), device("GPU-b", 100.0, gpu_index=1))
    whole = process(0, devices=both, idle_w=2.0)
    part = process(1, devices=(device("GPU-a", 50.0),), window=(10, 50), idle_w=None)

    result = aggregate(whole, part)

    assert result.baseline_power_w == 2
    assert result.energy_adjusted_j == 200 - 2 * 60


@pytest.mark.parametrize("read_j", [99.9, 100.0, 100.1])
@pytest.mark.parametrize("first", [0, 1])
def test_noise_does_not_decide_whether_idle_power_is_known(read_j: float, first: int) -> None:
    """One process meters both GPUs, another one of them, and reads a little less or more."""
    a, b = device("GPU-a", 100.0), device("GPU-b", 100.0, gpu_index=1)
    both = process(first, devices=(a, b), idle_w=2.0)
    part = process(1 - first, devices=(attrs.evolve(b, energy_j=read_j),), idle_w=1.0)

    result = aggregate(both, part)

    assert result.baseline_power_w == 2
    assert result.energy_adjusted_j == 100 + max(read_j, 100) - 2 * 60


def test_idle_power_of_a_part_that_was_metered_longer_is_unknown() -> None:
    """What the others drew meanwhile is not known."""
    a, b = device("GPU-a", 100.0), device("GPU-b", 100.0, gpu_index=1)

    result = aggregate(
        process(0, devices=(a, b), idle_w=2.0),
        process(1, devices=(b,), window=(60, 90), idle_w=1.0),
    )

    assert result.total_energy_j == 300
    assert result.baseline_power_w is None


def test_a_baseline_of_no_length() -> None:
    """Processes without duration have an idle power each, and no common one."""
    run = [
        process(i, window=(i, i), devices=(device("GPU-a", 1.0),), idle_w=1.0 + i) for i in range(2)
    ]

    assert aggregate(*run).baseline_power_w is None
    assert aggregate(*run).energy_adjusted_j == 2


def test_one_process_keeps_figures_that_nothing_else_gives() -> None:
    """Documents of other writers may have the difference alone."""
    own = EnergyBreakdown(raw_j=90.0, adjusted_j=40.0)

    unknown = aggregate(process(energy_j=None, energy_breakdown=own))
    without = aggregate(process(energy_j=100.0, energy_breakdown=own))

    assert (unknown.energy_breakdown, unknown.energy_adjusted_j) == (own, 40)
    assert without.energy_breakdown == attrs.evolve(own, raw_j=100.0)


# Phases


def phases(*energies_j: float | None, bound_j: float | None = 1.0) -> tuple[PhaseEnergy, ...]:
    return tuple(
        PhaseEnergy(
            phase=phase,
            energy_j=joules,
            error_bound_j=bound_j,
            duration_s=10.0 + i,
            spans=2 + i,
            code=None if joules is not None else f"code_{i}",
        )
        for i, (phase, joules) in enumerate(zip(Phase, energies_j, strict=True))
    )


def with_phases(index: int, *energies_j: float | None, **fields: Any) -> RawProcessResult:
    split = phases(*energies_j) if energies_j else ()
    breakdown = EnergyBreakdown(phases=fields.pop("phases", split))
    return process(index, energy_breakdown=breakdown, **fields)


def test_phases_of_processes_add_up() -> None:
    """Energy, bounds, time and pieces."""
    result = aggregate(with_phases(0, 10.0, 70.0, 20.0), with_phases(1, 30.0, 60.0, 10.0))

    assert result.energy_breakdown.phases == tuple(
        PhaseEnergy(
            phase=phase,
            energy_j=joules,
            error_bound_j=2.0,
            duration_s=20.0 + 2 * i,
            spans=4 + 2 * i,
        )
        for i, (phase, joules) in enumerate(zip(Phase, [40.0, 130.0, 30.0], strict=True))
    )


def test_a_phase_is_unknown_where_that_of_one_process_is() -> None:
    """The first code says why."""
    run = [with_phases(0, 1.0, None, 1.0), with_phases(1, 1.0, 1.0, None)]
    other = attrs.evolve(run[0].energy_breakdown.phases[1], code="other")
    run.append(with_phases(2, phases=(run[1].energy_breakdown.phases[0], other, other)))

    prefill, decode, *_ = aggregate(*run).energy_breakdown.phases

    assert (prefill.energy_j, prefill.code) == (3, None)
    assert (decode.energy_j, decode.code) == (None, "code_1")


@pytest.mark.parametrize(
    "other",
    [
        with_phases(1),
        process(1, energy_breakdown=None),
        with_phases(1, 1.0, 1.0, 1.0, devices=(device("GPU-0", 1.0),)),
        with_phases(1, 1.0, 1.0, 1.0, devices=(device("GPU-0", 1.0),), window=(60, 90)),
        with_phases(1, 1.0, 1.0, 1.0, devices=()),
    ],
)
def test_no_phases_of_processes_that_have_none_or_share_a_device(other: RawProcessResult) -> None:
    """What is counted once cannot be told apart by phase."""
    assert aggregate(with_phases(0, 1.0, 1.0, 1.0), other).energy_breakdown.phases == ()


def test_phases_of_one_process_are_its_own() -> None:
    """As it says."""
    one = with_phases(0, 1.0, None, 1.0)

    assert aggregate(one).energy_breakdown.phases == one.energy_breakdown.phases
