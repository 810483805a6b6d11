"""What several processes measured is concluded as one run, whatever each of them met."""

import itertools
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import START, device, process

from llem.codec import measurement_config_hash
from llem.completeness import Completeness, Problem
from llem.domain.conditions import Conditions, DeviceThrottle, GpuProcess, TemperatureRange
from llem.domain.energy import Sensor, ThermalThrottleInfo
from llem.domain.environment import EnvironmentSnapshot, GPUEnvironment, HardwareEnvironment
from llem.domain.latency import WarmupResult
from llem.domain.result import ClockOffset, ExperimentResult
from llem.errors import AggregationError
from llem.experiment.conclusion import Part, conclude
from llem.testing import filled


def part(index: int, **fields: Any) -> Part:
    """Process *index*, with conditions of *fields*, on a GPU of its own."""
    return process(index), under(**fields)


def under(**fields: Any) -> Conditions:
    own: dict[str, Any] = {
        "start_time": START,
        "window_s": (0.0, 60.0),
        "measurement_methodology": "total",
    }
    return Conditions(**(own | fields))


def run_of(*parts: Part, **options: Any) -> ExperimentResult:
    return conclude(parts, llem_version="1.2.3", **options)


def warned(result: ExperimentResult, code: str) -> list[str]:
    """The messages of the warnings of *code*."""
    told = (line.partition(": ") for line in result.measurement_warnings)
    return [message for of_one, _, message in told if of_one == code]


def machine(*gpus: GPUEnvironment, **fields: Any) -> EnvironmentSnapshot:
    hardware = filled(HardwareEnvironment, gpu=gpus[0] if gpus else None, gpus=gpus)
    return filled(EnvironmentSnapshot, hardware=hardware, **fields)


def gpu(uuid: str | None, **fields: Any) -> GPUEnvironment:
    return GPUEnvironment(**({"name": "GPU", "uuid": uuid, "persistence_mode": True} | fields))


def later(seconds: float, **fields: Any) -> dict[str, Any]:
    return {"start_time": START + timedelta(seconds=seconds), **fields}


def test_nothing_is_concluded_of_no_process() -> None:
    with pytest.raises(AggregationError, match="no process"):
        conclude([], llem_version=None)


def test_the_result_is_of_the_run() -> None:
    """The llem that measured, the hash of the configuration, what each process measured."""
    result = run_of(part(0), part(1))

    assert result.llem_version == "1.2.3"
    assert result.measurement_config_hash == measurement_config_hash({"model": "gpt2"})
    assert result.process_results == (process(0), process(1))


@pytest.mark.parametrize("method", ["total", "steady_state", "windowed"])
def test_a_methodology_of_all_is_that_of_the_run(method: Any) -> None:
    parts = [part(i, measurement_methodology=method, warmup_excluded=i + 1) for i in range(2)]

    result = run_of(*parts)

    assert result.measurement_methodology == method
    assert result.steady_state_window == (None if method == "total" else (0.0, 60.0))
    assert result.warmup_excluded_samples == (None if method == "total" else 3)


@pytest.mark.parametrize("other", ["total", "windowed"])
@pytest.mark.parametrize("odd", range(3))
def test_processes_of_several_methodologies_are_a_total(odd: int, other: Any) -> None:
    """One that did not settle: then no figure is of a steady state, and none was left out."""
    parts = [
        part(i, measurement_methodology=other if i == odd else "steady_state", warmup_excluded=2)
        for i in range(3)
    ]

    result = run_of(*parts)

    assert result.measurement_methodology == "total"
    assert result.steady_state_window is None
    assert result.warmup_excluded_samples is None


def test_the_window_goes_from_the_first_edge_to_the_last() -> None:
    """Each is counted from the start of its own process, all from the first of these."""
    settled = {"measurement_methodology": "steady_state"}
    early = process(0, window=(5.0, 30.0)), under(window_s=(5.0, 30.0), **settled)
    late = process(1, window=(4.0, 60.0)), under(**later(3), window_s=(1.0, 57.0), **settled)

    result = run_of(early, late)

    assert result.start_time == START
    assert result.steady_state_window == (4.0, 60.0)
    assert run_of(late).steady_state_window == (1.0, 57.0)


def test_the_run_starts_with_its_first_process() -> None:
    """Before any window, where a process warmed up into its own."""
    assert run_of(part(0, **later(-4)), part(1, **later(-7))).start_time == START - timedelta(
        seconds=7
    )


def test_the_environment_has_each_gpu_of_all_machines_once() -> None:
    """Those of one machine are seen by each of its processes; all else is of the first."""
    here = machine(gpu("a"), gpu("b"), python_version="3.12")
    there = machine(gpu("b"), gpu("c"), python_version="3.13")

    result = run_of(
        part(0),
        part(1, environment_snapshot=here),
        part(2, environment_snapshot=here),
        part(3, environment_snapshot=there),
    )

    snapshot = result.environment_snapshot
    assert snapshot is not None
    assert [one.uuid for one in snapshot.hardware.gpus] == ["a", "b", "c"]
    assert snapshot.hardware.gpu == gpu("a")
    assert snapshot.python_version == "3.12"


def test_other_software_than_that_of_the_record_is_told() -> None:
    """Of whom, and of what; the record has room for one environment."""
    first = machine(python_version="3.12", installed_packages=("a==1", "torch==2.13", "x==1"))
    other = machine(python_version="3.12", installed_packages=("a==1", "torch==2.12", "y==2"))
    seen = [first, other, first, other]

    result = run_of(*(part(i, environment_snapshot=one) for i, one in enumerate(seen)))

    (warning,) = result.aggregation.warnings
    assert warning == (
        "ranks 1, 3 ran under other conditions than rank 0, which are those of the record: torch "
        "2.12 and not 2.13, x None and not 1, y 2 and not None"
    )
    alike = run_of(part(0, environment_snapshot=first), part(1, environment_snapshot=first))
    assert alike.aggregation.warnings == ()


def test_many_differences_are_not_listed_one_by_one() -> None:
    seen = [machine(installed_packages=tuple(f"p{i}=={v}" for i in range(9))) for v in (1, 2)]

    result = run_of(*(part(i, environment_snapshot=one) for i, one in enumerate(seen)))

    (warning,) = result.aggregation.warnings
    assert warning.endswith("p4 2 and not 1 and 4 more")


def test_gpus_without_identity_are_all_kept() -> None:
    """None of them is known to be another one."""
    seen = machine(gpu(None), gpu(None))
    result = run_of(part(0, environment_snapshot=seen))

    assert result.environment_snapshot == seen


def test_an_environment_that_nobody_looked_at_is_unknown() -> None:
    assert run_of(part(0), part(1)).environment_snapshot is None


def test_gpus_that_were_not_metered_are_not_warned_of() -> None:
    """The machine has them, and the run did not use them."""
    off = {"persistence_mode": False}
    seen = machine(gpu("GPU-0", **off), gpu("GPU-1", **off), gpu("GPU-9", **off))

    warnings = warned(run_of(part(0, environment_snapshot=seen), part(1)), "persistence_mode_off")

    assert len(warnings) == 2
    assert not [line for line in warnings if "GPU-9" in line]


def test_the_accuracy_is_that_of_the_gpus_of_all_machines() -> None:
    """A sensor looks more or less often by the generation of its GPU."""
    seen = [
        machine(gpu(f"GPU-{i}", compute_capability=one)) for i, one in enumerate(["9.0", "8.6"])
    ]
    parts = [
        (
            process(i, devices=(device(f"GPU-{i}", sensor=Sensor.NVML_POWER_INSTANT),)),
            under(environment_snapshot=one),
        )
        for i, one in enumerate(seen)
    ]

    notes = run_of(*parts).reproducibility_notes

    assert "GPU-0: " in notes
    assert "25 ms of each 100 ms" in notes
    assert "GPU-1: " in notes
    assert "refreshed every 100 ms" in notes


def test_a_temperature_moved_as_far_as_all_processes_saw() -> None:
    """Each saw a part of the way, of the devices that it metered."""
    one, other = (
        (TemperatureRange(uuid="GPU-0", low_c=low, high_c=high), *more)
        for low, high, more in [
            (40.0, 48.0, [TemperatureRange(uuid="GPU-1", low_c=50.0, high_c=70.0)]),
            (45.0, 53.0, []),
        ]
    )

    warnings = warned(
        run_of(part(0, temperatures=one), part(1, temperatures=other)), "thermal_drift"
    )

    assert [line.split(", more")[0].partition(" moved ")[2] for line in warnings] == [
        "13.0 °C, from 40 to 53 °C",
        "20.0 °C, from 50 to 70 °C",
    ]


def throttle(uuid: str, throttled_s: float, **fields: Any) -> DeviceThrottle:
    own = {"duration_s": 60.0, "throttled_s": throttled_s, "sw_thermal_s": throttled_s}
    return DeviceThrottle(uuid=uuid, **(own | fields))


@pytest.mark.parametrize("flip", [False, True])
def test_a_device_that_several_saw_slowed_down_is_told_once(flip: bool) -> None:
    """By the process that saw it longest; each other device is told beside it."""
    seen = [(throttle("GPU-0", 2.0),), (throttle("GPU-0", 9.0), throttle("GPU-1", 1.0))]
    parts = [part(i, throttles=one) for i, one in enumerate(reversed(seen) if flip else seen)]

    warnings = warned(run_of(*parts), "throttled")

    assert len(warnings) == 2
    (of_0,) = [line for line in warnings if "GPU-0" in line]
    assert "9.00 s" in of_0
    assert "2.00 s" not in of_0


@pytest.mark.parametrize("flip", [False, True])
def test_a_power_limit_that_one_process_did_not_meet_is_told(flip: bool) -> None:
    """No process saw the device slowed down, and one saw it at its limit."""
    lowered = machine(gpu("GPU-0", power_limit_w=300.0, default_power_limit_w=700.0))
    seen = [(throttle("GPU-0", 0.0),), (throttle("GPU-0", 0.0, power_cap_s=50.0),)]
    parts = [
        part(i, throttles=one, environment_snapshot=lowered)
        for i, one in enumerate(reversed(seen) if flip else seen)
    ]

    assert len(warned(run_of(*parts), "power_capped")) == 1


def test_throttling_is_dated_from_the_start_of_the_run() -> None:
    """Not from that of the process that saw it."""
    slowed = (throttle("GPU-1", 2.0, onsets_s=(1.5,)),)

    (warning,) = warned(run_of(part(0), part(1, **later(10), throttles=slowed)), "throttled")

    assert "first 11.50 s into the run" in warning


def test_the_record_has_throttling_from_the_start_of_the_run() -> None:
    """That of every process, and so that of the run."""
    seen = ThermalThrottleInfo(detected=True, thermal=True, throttle_timestamps=(1.5,))
    early, late = part(0), part(1, **later(10))
    parts = [(attrs.evolve(one, thermal_throttle=seen), under) for one, under in (early, late)]

    result = run_of(*parts)

    assert result.thermal_throttle.throttle_timestamps == (1.5, 11.5)
    times = [process.thermal_throttle.throttle_timestamps for process in result.process_results]
    assert times == [(1.5,), (11.5,)]


def test_a_process_of_others_is_told_once() -> None:
    """However many of ours share its GPU; the same number on another GPU is another one."""
    other = GpuProcess(uuid="GPU-0", pid=77, memory_mb=500.0)
    parts = [
        part(0, foreign_at_start=(other,), foreign_at_end=(other,)),
        part(1, foreign_at_start=(other, attrs.evolve(other, uuid="GPU-1"))),
    ]

    warnings = warned(run_of(*parts), "foreign_processes")

    assert [line.count("77") for line in warnings] == [1, 1]
    assert "GPU-0" in warnings[0]
    assert "at the start and the end" in warnings[0]
    assert "GPU-1" in warnings[1]
    assert "at the end" not in warnings[1]


def test_a_process_of_others_that_came_meanwhile_is_told() -> None:
    """Any of ours may be the one that saw it."""
    other = GpuProcess(uuid="GPU-1", pid=78)

    (warning,) = warned(run_of(part(0), part(1, foreign_at_end=(other,))), "foreign_processes")

    assert "78 (at the end)" in warning


@pytest.mark.parametrize("idle", [0, 1])
def test_idle_power_is_that_of_each_device(idle: int) -> None:
    """By its UUID, whichever process knows it, in the order of the devices."""
    parts = [part(i, idle_uuids=(f"GPU-{i}",), idle_power_w=(0.5,)) for i in range(2)]
    parts[idle] = part(idle, idle_uuids=("GPU-9", f"GPU-{idle}"), idle_power_w=(0.5, 100.0))

    (warning,) = warned(run_of(*parts), "device_idle")

    assert f"GPU-{idle}" in warning


def test_a_device_whose_idle_power_is_unknown_is_not_judged() -> None:
    parts = [part(0, idle_uuids=("GPU-0",), idle_power_w=(0.5,)), part(1)]

    assert warned(run_of(*parts), "device_idle") == []


@pytest.mark.parametrize(
    ("contexts", "count"),
    [
        ((True, True), 0),
        ((True, False), 1),
        ((False, None), 1),
        ((None, True), 0),
        ((None, None), 0),
    ],
)
def test_one_process_without_context_is_warned_of(
    contexts: tuple[bool | None, ...], count: int
) -> None:
    """What is not known of one is not held against it."""
    parts = [
        (process(i, idle_w=1.0), under(baseline_had_context=had)) for i, had in enumerate(contexts)
    ]

    warnings = warned(run_of(*parts), "baseline_without_context")

    assert len(warnings) == count
    assert all(line.startswith("an idle power of 2.0 W ") for line in warnings)


def test_a_note_of_several_processes_is_one_warning() -> None:
    """Why there is no energy, what went wrong with sampling, with the baseline."""
    parts = [
        (
            process(i, devices=()),
            under(not_measured=("no driver", own), sampler_notes=("slow", own)),
        )
        for i, own in enumerate(["a", "b"])
    ]

    result = run_of(*parts)

    (reasons,) = warned(result, "energy_not_measured")
    assert reasons.startswith("no driver; a; b.")
    assert [line.partition(";")[0] for line in warned(result, "sampler_degraded")] == [
        "slow",
        "a",
        "b",
    ]
    noted = [part(i, baseline_notes=("read-only",)) for i in range(2)]
    assert len(warned(run_of(*noted), "baseline_not_cached")) == 1


@pytest.mark.parametrize("count", [29, 30])
def test_prompts_of_all_processes_count(count: int) -> None:
    parts = [
        (process(0, per_request_latencies_ms=(1.0,) * 20), under()),
        (process(1, per_request_latencies_ms=(1.0,) * (count - 20)), under()),
    ]

    assert len(warned(run_of(*parts), "low_sample_count")) == (count < 30)


@pytest.mark.parametrize(("latency_ms", "count"), [(60_000.0, 0), (60_001.0, 1)])
def test_the_slowest_request_of_any_process_counts(latency_ms: float, count: int) -> None:
    """Its latency is in ms, and the span in s."""
    parts = [
        (process(0, per_request_latencies_ms=(1.0, 2.0)), under()),
        (process(1, per_request_latencies_ms=(3.0, latency_ms, 4.0)), under()),
        (process(2), under()),
    ]

    assert len(warned(run_of(*parts), "latency_exceeds_span")) == count


@pytest.mark.parametrize("wanted", [True, False])
def test_what_was_wanted_stands_in_the_configuration(wanted: bool) -> None:
    """Settling, and an idle power."""
    unsettled = WarmupResult(
        converged=False, final_cv=0.5, iterations_completed=5, target_cv=0.05, max_prompts=20
    )
    config = {
        "model": "gpt2",
        "baseline": {"enabled": wanted},
        "warmup": {"convergence_detection": wanted},
    }
    parts = [
        (process(i, effective_config=config, warmup_result=unsettled), under()) for i in range(2)
    ]

    result = run_of(*parts)

    assert bool(warned(result, "warmup_not_converged")) == wanted
    (no_baseline,) = warned(result, "no_baseline")
    assert ("--baseline.enabled" in no_baseline) != wanted


def test_an_idle_power_that_is_known_is_not_missed() -> None:
    """And one above what was measured is warned of, over all processes."""
    result = run_of(*((process(i, idle_w=10.0), under()) for i in range(2)))

    assert result.baseline_power_w == 20.0
    assert warned(result, "no_baseline") == []
    (negative,) = warned(result, "negative_adjusted_energy")
    assert "-1000.0 J" in negative


def test_what_was_met_before_comes_before_what_aggregation_meets() -> None:
    shared = device("GPU-0")
    parts = [(process(i, devices=(shared,)), under()) for i in range(2)]

    result = run_of(*parts, aggregation_warnings=["rank 2: left nothing"])

    assert result.aggregation.warnings == (
        "rank 2: left nothing",
        "processes 0, 1 shared the device GPU-0, whose energy is counted once",
    )


def test_clocks_are_recorded_where_they_differ() -> None:
    """An error of 0 is one that is known; without any the clocks are the same."""
    parts = [
        part(0, node="a"),
        part(1, node="a", clock_offset_s=0.25),
        part(2, node="b", clock_offset_s=-1.5, clock_error_s=0.002),
        part(3, node="c", clock_error_s=0.0),
    ]

    assert run_of(*parts).aggregation.clock_offsets == (
        ClockOffset(process_index=2, node="b", offset_s=-1.5, error_bound_s=0.002),
        ClockOffset(process_index=3, node="c", offset_s=0.0, error_bound_s=0.0),
    )


MET = [
    part(
        i,
        **later(i / 4),
        measurement_methodology="windowed",
        window_s=(0.0, 20.0),
        warmup_excluded=i,
        environment_snapshot=machine(gpu("GPU-0", persistence_mode=None), gpu(f"GPU-{i}")),
        temperatures=(TemperatureRange(uuid="GPU-0", low_c=40.0 + i, high_c=60.0 - i),),
        throttles=(throttle("GPU-0", 3.0, onsets_s=(float(i),)),),
        sampler_notes=(f"note {i}",),
        foreign_at_start=(GpuProcess(uuid="GPU-0", pid=7, memory_mb=float(i)),),
        idle_uuids=("GPU-0",),
        idle_power_w=(float(i),),
        baseline_notes=(f"note {-i}",),
        clock_error_s=0.5,
        node=f"n{i}",
    )
    for i in range(4)
]


@given(st.permutations(MET))
def test_the_order_of_the_processes_does_not_matter(parts: list[Part]) -> None:
    """Whatever they met, and where they disagree."""
    assert run_of(*parts) == run_of(*MET)


def test_the_same_rank_twice_is_no_run() -> None:
    for parts in itertools.permutations([part(0), part(1), part(1)]):
        with pytest.raises(AggregationError, match="process_index"):
            run_of(*parts)


def test_reasons_matter_only_of_processes_without_devices() -> None:
    """The second meter of one answered where the first did not; the other one has none."""
    alone = run_of(part(0, not_measured=("NVML: no driver",)))
    bare = attrs.evolve(part(1)[0], devices=()), under(not_measured=("the sensor died",))
    of_one = run_of(part(0, not_measured=("NVML: no driver",)), bare)
    nobody = run_of((attrs.evolve(part(0)[0], devices=()), under(not_measured=("off",))), bare)

    assert warned(alone, "energy_not_measured") == []
    (warning,) = warned(of_one, "energy_not_measured")
    assert "rank 1: the sensor died" in warning
    (warning,) = warned(nobody, "energy_not_measured")
    assert "off; the sensor died" in warning


def test_what_is_missing_is_told_wherever_one_looks() -> None:
    """In what was met in aggregating, among the warnings, and by the method."""
    problem = Problem(process_index=1, kind="missing", text="left nothing", advice="look for it")
    looked = Completeness(num_processes=2, problems=(problem,), usable=(0,))

    result = run_of(part(0), completeness=looked)

    assert result.aggregation.method == "incomplete_aggregation"
    assert result.aggregation.missing_processes == (1,)
    assert result.aggregation.warnings[0] == "rank 1: left nothing"
    (warning,) = warned(result, "incomplete_run")
    assert "1 of 2 processes, without rank 1" in warning


def test_a_stranger_makes_no_run_incomplete() -> None:
    """It is told of, and none of the run is missing."""
    problem = Problem(process_index=7, kind="unexpected", text="the run is made of 1 process")
    looked = Completeness(num_processes=1, problems=(problem,), usable=(0,))

    result = run_of(part(0), completeness=looked)

    assert result.aggregation.method == "single_process"
    assert result.aggregation.warnings == ("rank 7: the run is made of 1 process",)
    assert warned(result, "incomplete_run") == []
