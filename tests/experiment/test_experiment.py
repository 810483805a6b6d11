"""One run from start to result, on a recorded series and a clock that only sleeping moves."""

import contextlib
import itertools
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llem import measure
from llem.auditing import audit
from llem.codec import from_json, measurement_config_hash, to_json
from llem.domain.conditions import GpuProcess
from llem.domain.config import BaselineConfig, EnergyConfig, ExperimentConfig, WarmupConfig
from llem.domain.energy import BaselineMethod, Sensor
from llem.domain.environment import EnvironmentSnapshot, GPUEnvironment
from llem.domain.latency import MeasurementMode
from llem.domain.result import ExperimentResult
from llem.errors import (
    BackendError,
    ConfigError,
    IncompleteRunError,
    MeterError,
    ResultValidationError,
)
from llem.experiment import Experiment, llem_version
from llem.measure import ReplayMeter
from llem.protocols import BackendInfo, BatchOutput, Clock, Device, Edge, InferenceBackend, Samples
from llem.running import run_experiment

NO_BASELINE = BaselineConfig(enabled=False)
CONVERGING = WarmupConfig(convergence_detection=True, thermal_floor_seconds=8.0)
CONFIG = ExperimentConfig(model="mine", backend="theirs", baseline=NO_BASELINE)
NAN = float("nan")
PERIOD_S = 0.25
"""A power of two, so that times and energies are exact."""

MOMENT_S = 2.0**-30
"""Half of the time that a step of power takes: no two samples are of one time."""


class FakeClock(Clock):
    """Starts at 64 s, and moves when someone sleeps. The wall clock may jump beside it."""

    def __init__(self) -> None:
        self.time_s = 64.0
        self.jumped_s = 0.0

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s + self.jumped_s)

    def sleep(self, seconds: float, /) -> None:
        self.time_s += seconds


class Meter(ReplayMeter):
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Steps = Sequence[tuple[float, float]]
"""(seconds, watts), one after the other."""


def meter(
    clock: Clock,
    *devices: Steps,
    celsius: Callable[[float], float] = lambda _: 50.0,
    counters: Callable[[float], Sequence[float | None]] | None = None,
    sensor: Sensor = Sensor.REPLAY,
    notes: tuple[str, ...] = (),
    **sampled: Callable[[float], float],
) -> Meter:
    """
    A meter of *devices*, each drawing power in steps.

    Their temperature, and what else *sampled* names of `Samples`, goes by the time.
    """
    times: list[float] = []
    columns: list[list[float]] = []
    for steps in devices:
        times, watts, begin = [], [], 0.0
        for seconds, power in steps:
            ticks = [begin + PERIOD_S * tick for tick in range(int(seconds / PERIOD_S) + 1)]
            if times:
                times[-1] -= MOMENT_S
                ticks[0] += MOMENT_S
            times += ticks
            watts += [power] * len(ticks)
            begin += seconds
        columns.append(watts)
    return Meter(
        [
            Device(index=i, uuid=f"GPU-{i}", name="GPU", sensor=sensor, period_s=PERIOD_S)
            for i in range(len(devices))
        ],
        Samples(
            times_s=times,
            power_w=list(zip(*columns, strict=True)),
            temperature_c=[[celsius(time)] * len(devices) for time in times],
            notes=notes,
            **{
                name: [[value(time)] * len(devices) for time in times]
                for name, value in sampled.items()
            },
        ),
        counters=counters,
        clock=clock,
    )


def run_for(
    clock: Clock,
    seconds: float,
    config: ExperimentConfig = CONFIG,
    *,
    requests: int = 1,
    **options: Any,
) -> Experiment:
    """An experiment of *seconds*, with *requests* of 8 tokens in and 2 out."""
    with Experiment(config, clock=clock, **options) as run:
        for _ in range(requests):
            clock.sleep(seconds / requests)
            run.record(input_tokens=8, output_tokens=2, latency_s=seconds / requests)
    return run


def codes(result: ExperimentResult) -> list[str]:
    return [warning.partition(":")[0] for warning in result.measurement_warnings]


def rows(run: Experiment) -> list[dict[str, Any]]:
    assert run.timeseries is not None
    table: list[dict[str, Any]] = run.timeseries.to_pylist()
    return table


# Energy


def test_constant_power_is_power_times_time(clock) -> None:
    """By the integral of what was sampled, exactly."""
    result = run_for(clock, 32.0, meter=meter(clock, [(32, 200.0)])).result

    (device,) = result.devices
    assert result.total_energy_j == 200 * 32
    assert device.integrated_j == 200 * 32
    assert device.counter_j is None
    assert device.error_bound_j == 0
    assert device.sample_count == 4 * 32 + 1
    assert device.coverage == 1
    assert result.total_inference_time_sec == 32
    assert result.avg_energy_per_token_j == 200 * 32 / 10
    assert result.reproducibility_notes == "A recorded series, played again."
    assert "energy_not_measured" not in codes(result)


def test_a_window_inside_the_recording(clock) -> None:
    """What was drawn before and after it is not in it."""
    recorded = meter(clock, [(16, 900.0), (16, 200.0), (16, 900.0)])
    recorded.start()
    clock.sleep(16)
    recorded.stop()

    result = run_for(clock, 16.0, meter=recorded).result

    assert result.total_energy_j == pytest.approx(200 * 16)


def test_the_counter_is_the_figure_where_there_is_one(clock) -> None:
    """The integral stands beside it."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (1e6 + 208 * t,))

    (device,) = run_for(clock, 32.0, meter=recorded).result.devices

    assert device.energy_j == device.counter_j == 208 * 32
    assert device.integrated_j == 200 * 32
    assert device.disagreement == pytest.approx(8 / 208)
    assert device.codes == ()


def test_energy_is_summed_over_devices(clock) -> None:
    """Each is there, in its order."""
    result = run_for(clock, 32.0, meter=meter(clock, [(32, 200.0)], [(32, 50.0)])).result

    assert result.total_energy_j == 250 * 32
    assert result.energy_per_device_j == (200 * 32, 50 * 32)
    assert result.multi_gpu.num_gpus == 2
    process = result.process_results[0]
    assert process.energy_metrics.total_energy_j == 250 * 32
    assert process.energy_metrics.gpu_energy_j == 250 * 32
    assert process.energy_metrics.gpu_power_w == 250
    assert process.energy_metrics.cpu_energy_j is None
    assert (process.gpu_id, process.gpu_uuid, process.gpu_name) == (0, "GPU-0", "GPU")


def test_a_counter_that_stands_still_does_not_stop_the_run(clock) -> None:
    """It is a warning, and the figure is the integral."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda _: (5.0,))

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j == 200 * 32
    assert "sources_disagree" in codes(result)


def test_a_counter_that_runs_backwards_is_a_warning(clock) -> None:
    """Never negative, never 0."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (1e6 - t,))

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j == 200 * 32
    assert result.devices[0].counter_j is None
    assert "counter_reset" in codes(result)


def test_a_device_that_gave_nothing_makes_the_total_unknown(clock) -> None:
    """And there is no breakdown of what is not known."""
    recorded = meter(clock, [(32, 200.0)], [(32, float("nan"))])

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j is None
    assert result.devices[0].energy_j == 200 * 32
    assert result.energy_breakdown is None
    assert "energy_not_measured" in codes(result)


# Idle power


def test_the_idle_share_is_taken_off(clock) -> None:
    """Idle, then load: 50 W, then 200 W."""
    config = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=16.0))
    before = clock.now()

    result = run_for(clock, 32.0, config, meter=meter(clock, [(16, 50.0), (32, 200.0)])).result

    assert result.total_energy_j == pytest.approx(200 * 32)
    assert result.baseline_power_w == pytest.approx(50)
    assert result.energy_adjusted_j == pytest.approx(150 * 32)
    assert result.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert result.energy_breakdown.baseline_timestamp == before
    assert result.start_time == before + timedelta(seconds=16)
    assert "no_baseline" not in codes(result)


def test_a_busier_baseline_gives_a_negative_rest(clock) -> None:
    """Signed, with a warning."""
    config = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=16.0))

    result = run_for(clock, 32.0, config, meter=meter(clock, [(16, 200.0), (32, 150.0)])).result

    assert result.energy_adjusted_j == pytest.approx(-50 * 32)
    assert "negative_adjusted_energy" in codes(result)


@pytest.mark.parametrize("off", [NO_BASELINE, BaselineConfig(duration_seconds=0.0)])
def test_no_baseline_is_a_warning(clock, off: BaselineConfig) -> None:
    """The energy is there, the adjusted energy is not."""
    config = attrs.evolve(CONFIG, baseline=off)

    result = run_for(clock, 32.0, config, meter=meter(clock, [(32, 200.0)])).result

    assert result.total_energy_j == 200 * 32
    assert result.baseline_power_w is None
    assert result.energy_adjusted_j is None
    assert result.energy_breakdown.baseline_method is BaselineMethod.UNAVAILABLE
    assert "no_baseline" in codes(result)


IDLE_16_S = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=16.0))


def idle_then_busy(
    clock: FakeClock, folder: Path, max_age_s: float, idle_w: float = 50.0
) -> ExperimentResult:
    """16 s that are there for the idle power, then load."""
    recorded = meter(clock, [(16, idle_w), (48, 200.0)])
    return run_for(
        clock,
        32.0,
        IDLE_16_S,
        meter=recorded,
        baseline_max_age_s=max_age_s,
        baseline_folder=folder,
    ).result


def test_an_earlier_idle_power_is_taken_where_that_is_wanted(clock, tmp_path: Path) -> None:
    """With when it was measured, and how long ago."""
    before = clock.now()
    fresh = idle_then_busy(clock, tmp_path, 100.0)
    clock.sleep(20.0)
    began = clock.now()

    result = idle_then_busy(clock, tmp_path, 100.0, idle_w=200.0)

    assert fresh.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert fresh.energy_breakdown.baseline_cache_age_sec is None
    breakdown = result.energy_breakdown
    assert breakdown.baseline_method is BaselineMethod.CACHED
    assert breakdown.baseline_timestamp == fresh.energy_breakdown.baseline_timestamp == before
    assert breakdown.baseline_cache_age_sec == 16 + 32 + 20
    assert result.baseline_power_w == pytest.approx(50)
    assert result.energy_adjusted_j == pytest.approx(150 * 32)
    # Nothing was waited for.
    assert result.start_time == began
    assert "no_baseline" not in codes(result)


@pytest.mark.parametrize("max_age_s", [0.0, 51.0])
def test_an_idle_power_that_is_too_old_is_measured_anew(
    clock, tmp_path: Path, max_age_s: float
) -> None:
    """At 0 any is, which is the default. The newest one is kept."""
    idle_then_busy(clock, tmp_path, max_age_s)
    clock.sleep(4.0)

    second = idle_then_busy(clock, tmp_path, max_age_s, idle_w=60.0)
    third = idle_then_busy(clock, tmp_path, 50.0, idle_w=70.0)

    assert second.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert second.baseline_power_w == pytest.approx(60)
    assert third.energy_breakdown.baseline_method is BaselineMethod.CACHED
    assert third.baseline_power_w == pytest.approx(60)


def test_measuring_idle_power_is_the_default(clock, tmp_path: Path, monkeypatch) -> None:
    """Though one is kept, and where the user keeps his."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for idle_w in (50.0, 60.0):
        recorded = meter(clock, [(16, idle_w), (32, 200.0)])
        result = run_for(clock, 32.0, IDLE_16_S, meter=recorded).result
        assert result.baseline_power_w == pytest.approx(idle_w)

    assert len([*tmp_path.glob("llem/baselines/*.json")]) == 1


# Phases


def phases(result: ExperimentResult) -> dict[str, float | None]:
    return {phase.phase.value: phase.energy_j for phase in result.energy_breakdown.phases}


def test_energy_is_split_at_the_first_token(clock) -> None:
    """A request ends when it is recorded. Between requests is the rest."""
    recorded = meter(clock, [(4, 300.0), (8, 100.0), (2, 20.0)] * 2)

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        for _ in range(2):
            clock.sleep(12.0)
            run.record(input_tokens=8, output_tokens=2, latency_s=12.0, ttft_s=4.0)
            clock.sleep(2.0)

    assert phases(run.result) == pytest.approx({"prefill": 2400.0, "decode": 1600.0, "other": 80.0})
    assert run.result.total_energy_j == pytest.approx(2400 + 1600 + 80)
    prefill, decode, other = run.result.energy_breakdown.phases
    assert (prefill.duration_s, decode.duration_s, other.duration_s) == (8, 16, 4)
    assert (prefill.spans, decode.spans) == (2, 2)
    assert prefill.error_bound_j > 0


def test_a_request_may_be_recorded_after_its_end(clock) -> None:
    """Where it says when that was."""
    recorded = meter(clock, [(4, 300.0), (8, 100.0), (16, 20.0)])

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(12.0)
        ended_s = clock.monotonic()
        clock.sleep(16.0)
        run.record(input_tokens=8, output_tokens=2, latency_s=12.0, ttft_s=4.0, ended_s=ended_s)

    assert phases(run.result) == pytest.approx({"prefill": 1200.0, "decode": 800.0, "other": 320.0})


@settings(max_examples=25)
@given(
    latencies=st.lists(st.tuples(st.floats(0.1, 8), st.floats(0, 1)), min_size=1, max_size=4),
    pauses=st.floats(0, 2),
    counted=st.booleans(),
)
def test_phases_add_up_to_the_total(
    latencies: list[tuple[float, float]], pauses: float, counted: bool
) -> None:
    """Whatever the requests, by counter or by integral, over two devices."""
    clock = FakeClock()
    steps = [(1.25, 10.0 * i) for i in range(64)]
    counters = (lambda t: (90 * t, 50 * t)) if counted else None

    with Experiment(
        CONFIG, clock=clock, meter=meter(clock, steps, steps[::-1], counters=counters)
    ) as run:
        for latency_s, share in latencies:
            clock.sleep(latency_s)
            run.record(
                input_tokens=8,
                output_tokens=2,
                latency_s=latency_s,
                ttft_s=share * latency_s,
            )
            clock.sleep(pauses)

    if run.result.total_energy_j is None:
        assert counted is False
        return
    energies = [*phases(run.result).values()]
    assert len(energies) == 3
    if None not in energies:
        assert math.fsum(energies) == pytest.approx(run.result.total_energy_j)
    durations = [phase.duration_s for phase in run.result.energy_breakdown.phases]
    assert math.fsum(durations) == pytest.approx(run.result.total_inference_time_sec)


def test_without_first_tokens_there_are_no_phases(clock) -> None:
    """Nor without a meter; and where requests ran together they have no figure."""
    plain = run_for(clock, 8.0, meter=meter(clock, [(8, 100.0)])).result
    with Experiment(CONFIG, clock=clock, meter=meter(clock, [(16, 100.0)])) as run:
        clock.sleep(16.0)
        for _ in range(2):
            run.record(input_tokens=8, output_tokens=2, latency_s=12.0, ttft_s=4.0)

    assert phases(plain) == {}
    assert phases(run.result) == {"prefill": None, "decode": None, "other": None}
    assert run.result.energy_breakdown.phases[0].code == "phases_overlap"
    assert run.result.total_energy_j == 1600


def test_phases_of_a_window_are_within_it(clock) -> None:
    """A request that began before it counts from its begin on."""
    recorded = meter(clock, [(4, 300.0), (4, 100.0), (8, 500.0)])

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(2.0)
        with run.window():
            clock.sleep(6.0)
            run.record(input_tokens=8, output_tokens=2, latency_s=8.0, ttft_s=4.0)
        clock.sleep(4.0)

    assert phases(run.result) == pytest.approx({"prefill": 600.0, "decode": 400.0, "other": 0.0})


# Window


def test_a_window_is_all_that_is_measured(clock) -> None:
    """Its energy, its time, its requests."""
    recorded = meter(clock, [(16, 900.0), (16, 200.0), (16, 900.0)])
    began = clock.now()

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(8.0)
        run.record(input_tokens=1000, output_tokens=0, latency_s=8.0, flops=1e9)
        run.record(input_tokens=[1, 2], output_tokens=[3, 4], latency_s=1.0)
        clock.sleep(8.0)
        with run.window():
            clock.sleep(16.0)
            run.record(input_tokens=8, output_tokens=2, latency_s=16.0)
        clock.sleep(16.0)

    result = run.result
    assert result.measurement_methodology == "windowed"
    assert result.steady_state_window == (16.0, 32.0)
    assert result.total_energy_j == pytest.approx(200 * 16)
    assert result.total_tokens == 10
    assert result.total_flops is None
    assert result.total_inference_time_sec == 16
    assert result.process_results[0].per_request_latencies_ms == (16000,)
    assert result.warmup_excluded_samples == 3
    assert result.start_time == began
    assert result.end_time == began + timedelta(seconds=32)
    assert result.devices[0].sample_count == 4 * 16 + 1
    assert [rows(run)[0]["timestamp_s"], rows(run)[-1]["timestamp_s"]] == [0, 48]


@pytest.mark.parametrize(("latencies", "start_s"), [([2.0], 10.0), ([1.0, 3.0], 40.0)])
def test_a_window_after_a_warmup(clock, latencies: list[float], start_s: float) -> None:
    """It is windowed whether that converged or not, and the warmup does not count."""
    config = attrs.evolve(
        CONFIG, warmup=WarmupConfig(convergence_detection=True, thermal_floor_seconds=0.0)
    )
    left = itertools.cycle(latencies)

    def step() -> float:
        latency_s = next(left)
        clock.sleep(latency_s)
        return latency_s

    with Experiment(config, clock=clock, meter=meter(clock, [(64, 200.0)])) as run:
        warmup = run.warm_up(step)
        clock.sleep(4.0)
        run.record(input_tokens=8, output_tokens=2, latency_s=4.0)
        with run.window():
            clock.sleep(8.0)

    begin_s = start_s + 4 if warmup.converged else 4
    assert run.result.measurement_methodology == "windowed"
    assert run.result.steady_state_window == (begin_s, begin_s + 8)
    assert run.result.warmup_excluded_samples == warmup.iterations_completed + 1
    assert run.result.total_tokens == 0
    assert run.result.total_energy_j == 200 * 8


def test_work_on_the_devices_is_waited_for_at_both_edges_of_a_window(clock) -> None:
    """As at those of the block."""
    recorded = meter(clock, [(32, 200.0)])

    with Experiment(
        CONFIG, clock=clock, meter=recorded, synchronize=lambda: clock.sleep(2.0)
    ) as run:
        with run.window():
            clock.sleep(8.0)
        clock.sleep(4.0)

    assert run.result.total_inference_time_sec == 10


def test_requests_after_the_window_are_refused(clock) -> None:
    """They would be of no span that was measured."""
    request = {"input_tokens": 8, "output_tokens": 2, "latency_s": 1.0}

    with Experiment(CONFIG, clock=clock, meter=None) as run:
        with run.window():
            clock.sleep(1.0)
            run.record(**request)
        with pytest.raises(IncompleteRunError, match="inside the window"):
            run.record(**request)

    assert run.result.total_tokens == 10


def test_a_window_is_inside_the_block_and_there_is_one(clock) -> None:
    """Not before, after, twice, or inside itself; and it is not warmed up in it or after it."""
    run = Experiment(CONFIG, clock=clock, meter=None)
    with pytest.raises(IncompleteRunError, match="once"), run.window():
        pass

    with run:
        with run.window():
            clock.sleep(2.0)
            with pytest.raises(IncompleteRunError, match="once"), run.window():
                pass
            with pytest.raises(IncompleteRunError, match="before window"):
                run.warm_up(lambda: 1.0)
        with pytest.raises(IncompleteRunError, match="once"), run.window():
            pass
        with pytest.raises(IncompleteRunError, match="before window"):
            run.warm_up(lambda: 1.0)

    with pytest.raises(IncompleteRunError, match="once"), run.window():
        pass
    assert run.result.total_inference_time_sec == 2


def test_a_warmup_belongs_inside_the_block(clock) -> None:
    """Neither before nor after it is anything measured."""
    run = Experiment(CONFIG, clock=clock, meter=None)

    with pytest.raises(IncompleteRunError, match="inside the with block"):
        run.warm_up(lambda: 1.0)
    with run:
        clock.sleep(2.0)
    with pytest.raises(IncompleteRunError, match="inside the with block"):
        run.warm_up(lambda: 1.0)

    assert run.result.total_inference_time_sec == 2


@pytest.mark.parametrize("caught_inside", [True, False])
def test_a_window_that_ends_with_an_exception_gives_no_result(clock, caught_inside: bool) -> None:
    """Whether the block is left with it or not."""
    recorded = meter(clock, [(32, 200.0)])

    inside = contextlib.suppress(ZeroDivisionError if caught_inside else KeyError)
    with (
        contextlib.suppress(ZeroDivisionError),
        Experiment(CONFIG, clock=clock, meter=recorded) as run,
        inside,
        run.window(),
    ):
        clock.sleep(1 / 0)

    assert recorded.closed == 1
    for name in ("result", "timeseries"):
        with pytest.raises(IncompleteRunError, match="ended with an exception"):
            getattr(run, name)


def test_a_meter_that_fails_after_the_window_leaves_it_as_it_was(clock) -> None:
    """The energy is not known, the time is."""
    recorded = meter(clock, [(64, 200.0)])

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(4.0)
        with run.window():
            clock.sleep(8.0)
        clock.sleep(16.0)
        recorded.stop()

    assert run.result.steady_state_window == (4.0, 12.0)
    assert run.result.total_energy_j is None
    assert "energy_not_measured" in codes(run.result)


# Time


def test_the_time_series_counts_from_the_start(clock) -> None:
    """0 is start_time; the baseline's samples are not in it."""
    config = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=16.0))

    run = run_for(clock, 4.0, config, meter=meter(clock, [(16, 50.0), (8, 200.0)]))

    before, *inside = [(row["timestamp_s"], row["gpu_power_w"]) for row in rows(run)]
    assert before == (-MOMENT_S, 50)
    assert inside == [(PERIOD_S * tick or MOMENT_S, 200) for tick in range(17)]


def test_the_window_is_the_run_although_the_wall_clock_jumps(clock) -> None:
    """An hour back in the middle of it."""
    with Experiment(CONFIG, clock=clock, meter=meter(clock, [(32, 200.0)])) as run:
        began = clock.now()
        clock.sleep(16)
        clock.jumped_s -= 3600
        clock.sleep(16)

    result = run.result
    assert result.start_time == began
    assert result.end_time - result.start_time == timedelta(seconds=32)
    assert result.total_inference_time_sec == 32
    assert result.process_results[0].timestamps.duration_sec == 32


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_wall_clock_that_is_set_shifts_nothing(clock, tmp_path: Path, jump_s: float) -> None:
    """At any stage: all times are of one clock, and dated by one pair of times."""
    config = attrs.evolve(IDLE_16_S, warmup=CONVERGING)

    def step() -> float:
        clock.sleep(2.0)
        clock.jumped_s += jump_s
        return 2.0

    began = clock.now()
    with Experiment(
        config, clock=clock, meter=meter(clock, [(64, 200.0)]), baseline_folder=tmp_path
    ) as run:
        clock.jumped_s += jump_s
        run.warm_up(step)
        with run.window():
            clock.jumped_s += jump_s
            clock.sleep(8.0)
            run.record(input_tokens=8, output_tokens=2, latency_s=8.0)
        clock.jumped_s += jump_s

    result = run.result
    (process,) = result.process_results
    assert result.start_time == began + timedelta(seconds=16)
    assert result.steady_state_window == (18.0, 26.0)
    assert process.timestamps.start == result.start_time + timedelta(seconds=18)
    assert process.timestamps.end == result.end_time == result.start_time + timedelta(seconds=26)
    assert result.energy_breakdown.baseline_timestamp == began
    assert result.total_energy_j == 200 * 8
    assert audit(result, run.timeseries).agrees


def test_work_on_the_devices_is_waited_for_at_both_edges(clock) -> None:
    """Before the first edge its time is not in the window, before the last it is."""
    run = run_for(
        clock, 16.0, meter=meter(clock, [(32, 200.0)]), synchronize=lambda: clock.sleep(4.0)
    )

    assert run.result.total_inference_time_sec == 20
    assert run.result.total_energy_j == 200 * 20


def test_the_environment_is_taken_at_the_start(clock) -> None:
    """By the run's own clock."""
    before = clock.now()

    snapshot = run_for(clock, 1.0, meter=None).result.environment_snapshot

    assert snapshot.hardware.collected_at == before
    assert snapshot.tool_version == llem_version()


# Warnings


def test_a_short_run_of_few_prompts(clock) -> None:
    """Each says its figure."""
    result = run_for(clock, 32.0, requests=4, meter=meter(clock, [(32, 200.0)])).result

    assert codes(result) == ["short_duration", "low_sample_count", "no_baseline"]
    assert "measured 32.0 s" in result.measurement_warnings[0]
    assert "prompts run: 4" in result.measurement_warnings[1]


def test_a_long_run_of_many_prompts_has_no_warning(clock) -> None:
    """60 s, 30 prompts, a baseline."""
    config = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=16.0))

    result = run_for(
        clock, 60.0, config, requests=30, meter=meter(clock, [(16, 50.0), (64, 200.0)])
    ).result

    assert result.measurement_warnings == ()


@pytest.mark.parametrize(("hottest_c", "warned"), [(60.0, False), (61.0, True)])
def test_thermal_drift_is_read_from_the_samples(clock, hottest_c: float, warned: bool) -> None:
    """From 50 degrees on."""
    recorded = meter(clock, [(32, 200.0)], celsius=lambda t: hottest_c if t > 16 else 50.0)

    assert ("thermal_drift" in codes(run_for(clock, 32.0, meter=recorded).result)) is warned


def test_a_temperature_that_was_not_read_hides_no_drift(clock) -> None:
    """Where the first reading failed, the others tell."""
    recorded = meter(clock, [(32, 200.0)], celsius=lambda t: 50.0 + t if t else float("nan"))

    assert "thermal_drift" in codes(run_for(clock, 32.0, meter=recorded).result)


def test_temperatures_outside_the_window_or_not_read_are_no_drift(clock) -> None:
    """The device warmed up before it, and one reading failed."""
    config = attrs.evolve(CONFIG, warmup=WarmupConfig(n_warmup=1, thermal_floor_seconds=15.0))
    recorded = meter(
        clock,
        [(64, 200.0)],
        celsius=lambda t: 20.0 if t < 16 else 70.0 if t != 20 else float("nan"),
    )

    with Experiment(config, clock=clock, meter=recorded) as run:
        run.warm_up(lambda: clock.sleep(1.0) or 1.0)
        clock.sleep(16)

    assert "thermal_drift" not in codes(run.result)


HOT, BRAKED = 0x20, 0x80
"""Bits of NVML's clock event reasons: too hot for the driver, the power brake."""


def test_throttling_is_read_from_the_samples(clock) -> None:
    """Of the window: why, for how long, when, and how hot it was."""
    recorded = meter(
        clock,
        [(64, 200.0)],
        celsius=lambda t: 50.0 + t / 8,
        clock_event_reasons=lambda t: BRAKED if t < 16 else HOT if 24 <= t < 28 else 0x4,
    )

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(16.0)
        with run.window():
            clock.sleep(32.0)

    info = run.result.thermal_throttle
    assert (info.detected, info.thermal, info.sw_thermal) == (True, True, True)
    assert (info.power, info.hw_power, info.hw_thermal) == (False, False, False)
    assert info.throttle_duration_sec == 4
    assert info.throttle_timestamps == (24,)
    assert info.max_temperature_c == 50 + 47.75 / 8
    assert run.result.process_results[0].thermal_throttle == info
    (warning,) = [w for w in run.result.measurement_warnings if w.startswith("throttled")]
    assert "too hot for the driver for 4.00 s" in warning


def test_a_device_that_was_not_throttled_says_so(clock) -> None:
    """One that does not tell says nothing."""
    told = meter(clock, [(8, 200.0)], clock_event_reasons=lambda _: 0x1)

    calm = run_for(clock, 8.0, meter=told).result
    silent = run_for(clock, 8.0, meter=meter(clock, [(8, 200.0)])).result

    assert calm.thermal_throttle is not None
    assert not calm.thermal_throttle.detected
    assert silent.thermal_throttle is None
    assert not {"throttled"} & {*codes(calm), *codes(silent)}


def test_notes_of_the_sampler_are_warnings(clock) -> None:
    """Each of them."""
    recorded = meter(clock, [(32, 200.0)], notes=("GPU-0: power: Unknown Error", "ran late"))

    result = run_for(clock, 32.0, meter=recorded).result

    assert codes(result).count("sampler_degraded") == 2
    assert "power: Unknown Error" in " ".join(result.measurement_warnings)


@pytest.mark.parametrize(
    ("sensor", "counters", "note"),
    [
        (Sensor.NVML_POWER_INSTANT, None, "Integral of NVML's instant power"),
        (Sensor.NVML_POWER, None, "Integral of NVML's power reading"),
        (Sensor.NVML_POWER_INSTANT, lambda t: (200 * t,), "NVML total-energy counter"),
        (Sensor.RAPL, lambda t: (200 * t,), "RAPL counters"),
        (Sensor.REPLAY, lambda t: (200 * t,), "A recorded series"),
    ],
)
def test_what_is_said_of_the_accuracy_follows_the_sensor(clock, sensor, counters, note) -> None:
    """The one that the figure comes from."""
    recorded = meter(clock, [(32, 200.0)], sensor=sensor, counters=counters)

    assert run_for(clock, 32.0, meter=recorded).result.reproducibility_notes.startswith(note)


@pytest.mark.parametrize(("capability", "said"), [("9.0", False), (None, True)])
def test_what_is_said_of_the_accuracy_follows_the_gpu(
    clock, monkeypatch, capability: str | None, said: bool
) -> None:
    """As the environment has it."""
    real = measure.snapshot

    def with_gpu(**options: Any) -> EnvironmentSnapshot:
        made = real(**options)
        gpu = GPUEnvironment(name="GPU", uuid="GPU-0", compute_capability=capability)
        return attrs.evolve(made, hardware=attrs.evolve(made.hardware, gpus=(gpu,)))

    monkeypatch.setattr("llem.measure.environment.snapshot", with_gpu)
    recorded = meter(clock, [(32, 200.0)], sensor=Sensor.NVML_POWER_INSTANT)

    result = run_for(clock, 32.0, meter=recorded).result

    assert ("on A100 and H100" in result.reproducibility_notes) is said
    assert "persistence_mode_unknown" in codes(result)


# Who else is there


@pytest.fixture
def gpu_processes(monkeypatch) -> Callable[..., list[list[str]]]:
    """Has the driver list these processes at each look, and gives what it was asked for."""

    def listing(*looks: Sequence[GpuProcess] | None) -> list[list[str]]:
        left, asked = iter(looks), []

        def ask(uuids: Sequence[str]) -> Sequence[GpuProcess] | None:
            asked.append([*uuids])
            return next(left)

        monkeypatch.setattr("llem.measure.processes.gpu_processes", ask)
        return asked

    return listing


OURS = GpuProcess(uuid="GPU-0", pid=os.getpid(), memory_mb=1.0)
THEIRS = GpuProcess(uuid="GPU-0", pid=2**22 + 1, memory_mb=512.0)
LATER = GpuProcess(uuid="GPU-0", pid=2**22 + 2, memory_mb=256.0)


def test_strangers_on_the_gpus_are_named(clock, gpu_processes) -> None:
    """Those that were there at the start, and those that came meanwhile; we are no stranger."""
    asked = gpu_processes([OURS, THEIRS], [OURS, LATER])

    result = run_for(clock, 32.0, meter=meter(clock, [(32, 200.0)])).result

    assert asked == [["GPU-0"]] * 2
    (warning,) = [w for w in result.measurement_warnings if w.startswith("foreign_processes")]
    assert f"{THEIRS.pid} (512 MiB, at the start)" in warning
    assert f"{LATER.pid} (256 MiB, at the end)" in warning
    assert f"process {OURS.pid} " not in warning


@pytest.mark.parametrize("look", [None, (), (OURS,)])
def test_no_strangers_are_no_warning(clock, gpu_processes, look) -> None:
    """Nor where the driver does not say."""
    gpu_processes(look, look)

    result = run_for(clock, 32.0, meter=meter(clock, [(32, 200.0)])).result

    assert "foreign_processes" not in codes(result)


def test_without_a_meter_nobody_looks(clock, gpu_processes) -> None:
    """There is no GPU that it would matter on."""
    asked = gpu_processes()

    run_for(clock, 1.0, meter=None)

    assert asked == []


@pytest.mark.parametrize(("look", "warned"), [((), True), ((OURS,), False), (None, False)])
def test_idle_power_without_a_context_is_a_warning(
    clock, tmp_path: Path, gpu_processes, look, warned: bool
) -> None:
    """Where it is known that nobody held one."""
    gpu_processes(look, look)

    result = idle_then_busy(clock, tmp_path, 0.0)

    assert ("baseline_without_context" in codes(result)) is warned


def test_idle_power_that_others_shared_is_not_kept(clock, tmp_path: Path, gpu_processes) -> None:
    """Nor is a kept one taken: what they draw now is not in it."""
    gpu_processes(*[[OURS]] * 2, *[[OURS, THEIRS]] * 2, *[[OURS]] * 2)

    alone = idle_then_busy(clock, tmp_path, 3600.0, idle_w=50.0)
    shared = idle_then_busy(clock, tmp_path, 3600.0, idle_w=90.0)
    again = idle_then_busy(clock, tmp_path, 3600.0, idle_w=70.0)

    assert (alone.baseline_power_w, shared.baseline_power_w) == pytest.approx((50, 90))
    assert shared.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert again.energy_breakdown.baseline_method is BaselineMethod.CACHED
    assert again.baseline_power_w == pytest.approx(50)


def test_idle_power_that_cannot_be_kept_is_a_warning(clock, tmp_path: Path) -> None:
    """And no error."""
    (tmp_path / "file").write_text("")

    result = idle_then_busy(clock, tmp_path / "file", 0.0)

    assert result.baseline_power_w == pytest.approx(50)
    assert "baseline_not_cached" in codes(result)


# Warmup


def warmed_up(clock: FakeClock, config: ExperimentConfig, latencies: Sequence[float]) -> Experiment:
    """16 s at 200 W, after a warmup at 400 W whose requests take *latencies* in turn."""
    left = itertools.cycle(latencies)

    def step() -> float:
        latency_s = next(left)
        clock.sleep(latency_s)
        return latency_s

    recorded = meter(clock, [(256, 200.0)])
    with Experiment(config, clock=clock, meter=recorded) as run:
        run.record(input_tokens=1000, output_tokens=0, latency_s=1.0)
        run.warm_up(step)
        clock.sleep(16.0)
        run.record(input_tokens=8, output_tokens=2, latency_s=16.0)
    return run


def test_a_converged_warmup_is_followed_by_a_steady_state(clock) -> None:
    """The window begins after it, the run before it."""
    began = clock.now()

    run = warmed_up(clock, attrs.evolve(CONFIG, warmup=CONVERGING), [2.0])

    result = run.result
    assert result.measurement_methodology == "steady_state"
    assert result.steady_state_window == (18.0, 34.0)  # 5 requests of 2 s, then 8 s
    assert result.warmup_excluded_samples == 5
    assert result.warmup_result.converged
    assert result.warmup_result.final_cv == 0
    assert result.warmup_result.thermal_floor_wait_s == 8
    assert result.start_time == began
    assert result.duration_sec == 34
    assert result.total_inference_time_sec == 16
    assert result.total_energy_j == 200 * 16
    assert [rows(run)[0]["timestamp_s"], rows(run)[-1]["timestamp_s"]] == [0, 34]


def test_what_was_recorded_before_the_warmup_ended_does_not_count(clock) -> None:
    """Its tokens are not of the window."""
    result = warmed_up(clock, attrs.evolve(CONFIG, warmup=CONVERGING), [2.0]).result

    assert result.total_tokens == 10
    measured = result.process_results[0].inference_metrics.latency_measurements
    assert measured.request_count == 1
    assert measured.warmup_requests_excluded == 5


def test_a_warmup_that_did_not_converge(clock) -> None:
    """The figures are of the window all the same, and a warning says so."""
    config = attrs.evolve(CONFIG, warmup=CONVERGING)
    began = clock.now()

    run = warmed_up(clock, config, [1.0, 3.0])

    result = run.result
    assert result.measurement_methodology == "total"
    assert result.steady_state_window is None
    assert result.warmup_excluded_samples is None
    assert not result.warmup_result.converged
    assert result.warmup_result.iterations_completed == 20
    assert "warmup_not_converged" in codes(result)
    assert result.start_time == began + timedelta(seconds=40 + 8)
    assert result.duration_sec == result.total_inference_time_sec == 16
    assert result.total_energy_j == 200 * 16
    times = [row["timestamp_s"] for row in rows(run)]
    assert (times[0], times[-1]) == (-48, 16)


def test_a_fixed_warmup_was_not_to_converge(clock) -> None:
    """So there is no warning, and the methodology is total."""
    config = attrs.evolve(CONFIG, warmup=WarmupConfig(n_warmup=3, thermal_floor_seconds=4.0))

    result = warmed_up(clock, config, [1.0]).result

    assert result.measurement_methodology == "total"
    assert result.warmup_result.iterations_completed == 3
    assert result.warmup_result.latencies_ms == (1000, 1000, 1000)
    assert "warmup_not_converged" not in codes(result)
    assert result.duration_sec == 16


def test_a_warmup_that_is_off_runs_nothing(clock) -> None:
    """And what was recorded stays."""
    config = attrs.evolve(CONFIG, warmup=WarmupConfig(enabled=False))
    met: list[object] = []

    with Experiment(config, clock=clock, meter=None) as run:
        run.record(input_tokens=8, output_tokens=2, latency_s=1.0)
        clock.sleep(1.0)
        met.append(run.warm_up(lambda: met.append("step") or 1.0))

    assert met == [None]
    assert run.result.warmup_result is None
    assert run.result.total_tokens == 10
    assert run.result.total_inference_time_sec == 1


def test_the_thermal_floor_is_waited_for_where_a_device_is_metered(clock) -> None:
    """Without a meter nobody minds the temperature."""
    config = attrs.evolve(CONFIG, warmup=WarmupConfig(n_warmup=1, thermal_floor_seconds=60.0))

    with Experiment(config, clock=clock, meter=None) as run:
        result = run.warm_up(lambda: 1.0)

    assert result is not None
    assert result.thermal_floor_wait_s == 0
    assert clock.time_s == 64


# What goes wrong


def test_an_exception_leaves_no_result(clock) -> None:
    """It goes through, and the meter is let go."""
    recorded = meter(clock, [(32, 200.0)])

    with pytest.raises(ZeroDivisionError), Experiment(CONFIG, clock=clock, meter=recorded) as run:
        run.record(input_tokens=8, output_tokens=2, latency_s=1.0)
        clock.sleep(1 / 0)

    assert recorded.closed == 1
    for name in ("result", "timeseries"):
        with pytest.raises(IncompleteRunError, match="ended with an exception"):
            getattr(run, name)


@pytest.mark.parametrize("name", ["result", "timeseries"])
def test_there_is_no_result_before_the_end(clock, name: str) -> None:
    """Not before the block, and not in it."""
    run = Experiment(CONFIG, clock=clock, meter=meter(clock, [(32, 200.0)]))
    with pytest.raises(IncompleteRunError):
        getattr(run, name)

    with run, pytest.raises(IncompleteRunError, match="still going on"):
        getattr(run, name)

    assert getattr(run, name) is getattr(run, name)


def test_the_meter_is_closed_at_the_end(clock) -> None:
    """Once."""
    recorded = meter(clock, [(32, 200.0)])

    run_for(clock, 1.0, meter=recorded)

    assert recorded.closed == 1


def test_the_meter_is_closed_where_it_does_not_start(clock) -> None:
    """The block is never entered."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.start()

    with pytest.raises(MeterError, match="samples already"):
        run_for(clock, 1.0, meter=recorded)

    assert recorded.closed == 1


def test_a_meter_that_fails_at_the_end_takes_nothing_with_it(clock) -> None:
    """The requests are kept, the energy is None, and the reason is said."""
    recorded = meter(clock, [(32, 200.0)])

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(1.0)
        run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
        recorded.stop()

    assert recorded.closed == 1
    assert run.result.total_tokens == 7
    assert run.result.total_energy_j is None
    assert run.timeseries is None
    assert "energy_not_measured: the meter does not sample" in run.result.measurement_warnings[0]


@pytest.mark.parametrize("fails", ["mark", "stop"])
def test_a_meter_of_others_that_fails_takes_nothing_with_it(clock, fails: str) -> None:
    """Whatever it raises, the requests and their time are kept."""
    recorded = meter(clock, [(32, 200.0)])

    def fail() -> Any:
        raise KeyError("no such plug")

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(1.0)
        run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
        setattr(recorded, fails, fail)

    assert recorded.closed == 1
    assert run.result.total_tokens == 7
    assert run.result.total_inference_time_sec == 1
    assert run.result.total_energy_j is None
    (warning,) = [w for w in run.result.measurement_warnings if w.startswith("energy_not")]
    assert "the meter failed: KeyError: 'no such plug'" in warning


@pytest.mark.parametrize("edge", ["start", "end", "end of a window"])
def test_work_that_fails_on_the_devices_gives_no_result(clock, edge: str) -> None:
    """Errors of kernels surface when they are waited for, and are then told with their cause."""
    recorded, broken = meter(clock, [(32, 200.0)]), edge == "start"

    def synchronize() -> None:
        if broken:
            raise RuntimeError("an illegal memory access")

    experiment = Experiment(CONFIG, clock=clock, meter=recorded, synchronize=synchronize)
    with (
        pytest.raises(BackendError, match="RuntimeError: an illegal memory access") as caught,
        experiment as run,
        run.window() if "window" in edge else contextlib.nullcontext(),
    ):
        run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
        broken = True

    assert isinstance(caught.value.__cause__, RuntimeError)
    assert recorded.closed == 1
    with pytest.raises(IncompleteRunError, match="ended with an exception"):
        _ = experiment.result


@pytest.mark.parametrize("time_s", [NAN, 1.0, None, "64"])
def test_an_edge_of_others_that_cannot_be_is_none(clock, time_s: Any) -> None:
    """One before the window, or at no time: the run has its own clock."""
    recorded = meter(clock, [(32, 200.0)])

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(2.0)
        recorded.mark = lambda: Edge(time_s=time_s, counters_j=(None,))

    assert run.result.total_inference_time_sec == 2
    assert run.result.end_time == run.result.start_time + timedelta(seconds=2)
    assert run.result.total_energy_j is None
    assert re.match(
        "energy_not_measured: the (time of the )?meter replay", run.result.measurement_warnings[0]
    )


def edge_of(clock: Clock, *counters_j: float | None, time_s: Any = None) -> Callable[[], Edge]:
    """What a meter's mark() may be: now, or at *time_s*, with whatever counters."""
    return lambda: Edge(
        time_s=clock.monotonic() if time_s is None else time_s, counters_j=counters_j
    )


WRONG_COUNTS = [(), (1.0,), (1.0, 2.0, 3.0)]
"""Counters that are not those of two devices."""


@pytest.mark.parametrize("counters_j", WRONG_COUNTS)
@pytest.mark.parametrize("where", ["block", "window"])
def test_an_edge_with_other_counters_than_devices_takes_nothing_with_it(
    clock, counters_j: tuple[float, ...], where: str
) -> None:
    """The requests are kept, the energy is None, and the meter is named."""
    recorded = meter(clock, [(32, 200.0)], [(32, 100.0)], counters=lambda t: (200 * t, 100 * t))

    with (
        Experiment(CONFIG, clock=clock, meter=recorded) as run,
        run.window() if where == "window" else contextlib.nullcontext(),
    ):
        clock.sleep(2.0)
        run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
        recorded.mark = edge_of(clock, *counters_j)

    assert recorded.closed == 1
    assert (run.result.total_tokens, run.result.total_inference_time_sec) == (7, 2)
    assert run.result.total_energy_j is None
    assert run.result.measurement_warnings[0].startswith(
        f"energy_not_measured: the meter replay gave {len(counters_j)} counters for 2 devices"
    )


@pytest.mark.parametrize("config", [CONFIG, IDLE_16_S])
@pytest.mark.parametrize("counters_j", WRONG_COUNTS)
def test_an_edge_with_other_counters_than_devices_is_refused_at_the_start(
    clock, config: ExperimentConfig, counters_j: tuple[float, ...]
) -> None:
    """Before anything runs for nothing, and the meter is let go."""
    recorded = meter(clock, [(64, 200.0)], [(64, 100.0)])
    recorded.mark = edge_of(clock, *counters_j)

    with pytest.raises(MeterError, match=f"replay gave {len(counters_j)} counters for 2 devices"):
        run_for(clock, 1.0, config, meter=recorded)

    assert recorded.closed == 1


WRONG_TIMES = [NAN, math.inf, "64", [64.0], -1.0, 1e300, 10**400, 1.8e9, 66.2, 65.8]
"""What cannot be the time of an edge at 66 s."""


@pytest.mark.parametrize("time_s", WRONG_TIMES)
@pytest.mark.parametrize("config", [CONFIG, IDLE_16_S])
def test_an_edge_at_another_time_is_refused_at_the_start(
    clock, time_s: Any, config: ExperimentConfig
) -> None:
    """No window could begin there."""
    clock.sleep(2.0)
    recorded = meter(clock, [(64, 200.0)])
    recorded.mark = edge_of(clock, None, time_s=time_s)

    with pytest.raises(
        MeterError, match=r"replay gave .* as the time of an edge at 66\.000: .*time\.monotonic"
    ):
        run_for(clock, 1.0, config, meter=recorded)

    assert recorded.closed == 1


WRONG_EDGES = [
    *[Edge(time_s=time_s, counters_j=(1.0,)) for time_s in [*WRONG_TIMES, 64.0]],
    Edge(time_s=66.0, counters_j=("1",)),
    Edge(time_s=66.0, counters_j=(np.ones(1),)),
    Edge(time_s=66.0, counters_j=None),
    *[Edge(time_s=66.0, counters_j=(1.0,), spread_s=spread_s) for spread_s in (-1.0, NAN, "0")],
    None,
    (66.0, (1.0,)),
]
"""No edge of one device at 66 s, of a window that began at 64 s."""


@pytest.mark.parametrize("edge", WRONG_EDGES, ids=repr)
@pytest.mark.parametrize("where", ["block", "window"])
def test_a_wrong_edge_at_the_end_takes_nothing_with_it(clock, edge: Any, where: str) -> None:
    """The requests are kept, by the run's own clock, and the meter is named."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (200 * t,))

    with (
        Experiment(CONFIG, clock=clock, meter=recorded) as run,
        run.window() if where == "window" else contextlib.nullcontext(),
    ):
        clock.sleep(2.0)
        run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
        recorded.mark = lambda: edge

    assert (run.result.total_tokens, run.result.total_inference_time_sec) == (7, 2)
    assert run.result.end_time == run.result.start_time + timedelta(seconds=2)
    assert run.result.total_energy_j is None
    assert re.match(
        "energy_not_measured: the (time of the )?meter replay", run.result.measurement_warnings[0]
    )


@pytest.mark.parametrize("edge", [None, (64.0, (1.0,))])
def test_no_edge_is_refused_at_the_start(clock, edge: Any) -> None:
    """As an error of ours that names the meter."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.mark = lambda: edge

    with pytest.raises(MeterError, match="the meter replay gave no edge: AttributeError"):
        run_for(clock, 1.0, meter=recorded)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, Fraction, int])
def test_an_edge_of_any_numbers(clock, kind: Callable[[float], Any]) -> None:
    """They count as the floats that they are."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.mark = lambda: Edge(
        time_s=kind(clock.monotonic()),
        counters_j=(kind(200 * clock.monotonic()),),
        spread_s=kind(0),
    )

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j == 200 * 32
    assert result.total_inference_time_sec == 32


def test_a_counter_too_great_for_a_float_is_not_known(clock) -> None:
    """The integral is the figure then."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda _: (10**400,))

    (device,) = run_for(clock, 32.0, meter=recorded).result.devices

    assert (device.counter_j, device.energy_j) == (None, 200 * 32)


def test_a_meter_that_runs_ahead_and_fails_takes_nothing_with_it(clock) -> None:
    """The window does not end before it begins."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.mark = lambda: Edge(time_s=clock.monotonic() + 0.09375, counters_j=(None,))

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(0.0625)
        run.record(input_tokens=3, output_tokens=4, latency_s=0.0625)
        recorded.mark = lambda: None

    assert run.result.total_tokens == 7
    assert run.result.total_energy_j is None


def resampled(recorded: Meter, **changes: Any) -> Callable[[], Samples]:
    """What *recorded* sampled, changed. A function changes what was there."""

    def stop() -> Samples:
        samples = Meter.stop(recorded)
        return attrs.evolve(
            samples,
            **{
                name: change(getattr(samples, name)) if callable(change) else change
                for name, change in changes.items()
            },
        )

    return stop


WRONG_SAMPLES = [
    {"times_s": lambda times: times[::-1]},
    {"times_s": lambda times: np.roll(times, 3)},
    {"times_s": lambda times: np.maximum(times, times[1])},
    {"times_s": lambda times: np.where(times == times[3], NAN, times)},
    {"times_s": lambda times: np.append(times[:-1], math.inf)},
    {"times_s": lambda times: np.append(-math.inf, times[1:])},
    {"times_s": lambda times: np.full_like(times, NAN)},
    {"stride": 0},
    {"stride": -1},
    {"stride": 1.5},
    {"stride": None},
    {name: lambda column: np.tile(column, 2) for name in ("power_w", "temperature_c")},
]
"""Each is one thing that no meter of one device samples."""


@pytest.mark.parametrize("changes", WRONG_SAMPLES)
def test_samples_that_cannot_be_take_nothing_with_them(clock, changes: dict[str, Any]) -> None:
    """The requests are kept, and neither an energy nor a time series is made of them."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (200 * t,))
    recorded.stop = resampled(recorded, **changes)

    run = run_for(clock, 32.0, meter=recorded)

    assert run.result.total_tokens == 10
    assert run.result.total_energy_j is None
    assert run.timeseries is None
    assert run.result.measurement_warnings[0].startswith("energy_not_measured: the meter replay ")


@pytest.mark.parametrize("changes", WRONG_SAMPLES)
def test_samples_that_cannot_be_are_refused_at_the_start(clock, changes: dict[str, Any]) -> None:
    """Where idle power is measured: the meter is named, and let go."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.stop = resampled(recorded, **changes)

    with pytest.raises(MeterError, match="the meter replay "):
        run_for(clock, 1.0, IDLE_16_S, meter=recorded)

    assert recorded.closed == 1


@pytest.mark.parametrize("samples", [None, ((), ()), {}])
def test_no_samples_take_nothing_with_them(clock, samples: Any) -> None:
    """As with those that cannot be."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (200 * t,))
    recorded.stop = lambda: samples

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j is None
    assert "the meter replay gave" in result.measurement_warnings[0]


def test_a_counter_alone_is_enough(clock) -> None:
    """No ticks need columns for no device."""
    recorded = meter(clock, [(32, 200.0)], counters=lambda t: (200 * t,))
    recorded.stop = lambda: Samples(counter_j=(), reading_age_s=(), memory_mb=())

    run = run_for(clock, 32.0, meter=recorded)

    assert run.result.total_energy_j == 200 * 32
    assert run.timeseries is None


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ("oops", ["oops"]),
        (b"oops", ["b'oops'"]),
        ((1, None), ["1", "None"]),
        (["a", "b"], ["a", "b"]),
        (KeyError("lost"), ["'lost'"]),
        (("\ud800",), ["?"]),
        (None, []),
    ],
)
def test_notes_of_any_kind_are_warnings(clock, notes: Any, told: list[str]) -> None:
    """A text is one note, and what is no text is told as one."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.stop = resampled(recorded, notes=notes)

    result = run_for(clock, 32.0, meter=recorded).result

    assert result.total_energy_j == 200 * 32
    said = [w for w in result.measurement_warnings if w.startswith("sampler_degraded")]
    assert len(said) == len(told)
    assert all(note in warning for note, warning in zip(told, said, strict=True))


def test_a_reason_of_any_characters(clock) -> None:
    """A record holds characters alone, and is not given up for others."""
    recorded = meter(clock, [(32, 200.0)])

    def fail() -> Any:
        raise OSError("no file \udcff")

    recorded.stop = fail

    result = run_for(clock, 32.0, meter=recorded).result

    assert "OSError: no file ?" in result.measurement_warnings[0]


def broken(*_: object) -> Any:
    raise RuntimeError("it does not close")


def test_a_meter_that_does_not_close_takes_nothing_with_it(clock) -> None:
    """The result is there already."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.close = broken

    assert run_for(clock, 32.0, meter=recorded).result.total_energy_j == 200 * 32


def test_a_meter_that_does_not_close_hides_nothing(clock) -> None:
    """What went wrong before is what is raised."""
    recorded = meter(clock, [(32, 200.0)])
    recorded.close = broken

    with pytest.raises(ZeroDivisionError), Experiment(CONFIG, clock=clock, meter=recorded):
        raise ZeroDivisionError

    with pytest.raises(MeterError, match="samples already"):
        run_for(clock, 1.0, meter=recorded)


@pytest.mark.parametrize("config", [CONFIG, IDLE_16_S])
def test_two_devices_of_one_index_are_refused(clock, config: ExperimentConfig) -> None:
    """Their samples could not be told apart."""
    recorded = meter(clock, [(64, 200.0)], [(64, 100.0)])
    recorded._devices = recorded.devices[:1] * 2

    with pytest.raises(MeterError, match="the meter replay has 2 devices of index 0"):
        run_for(clock, 1.0, config, meter=recorded)

    assert recorded.closed == 1


@pytest.mark.parametrize("fails", [MeterError("lost"), KeyError("lost")])
def test_a_meter_that_fails_at_the_end_of_a_window_takes_nothing_with_it(
    clock, fails: Exception
) -> None:
    """As at the end of the block: what runs after it goes on."""
    recorded = meter(clock, [(32, 200.0)])

    def mark() -> Edge:
        clock.sleep(8.0)
        raise fails

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        with run.window():
            clock.sleep(2.0)
            run.record(input_tokens=3, output_tokens=4, latency_s=1.0)
            recorded.mark = mark
        clock.sleep(1.0)

    assert (run.result.total_tokens, run.result.total_inference_time_sec) == (7, 2)
    assert run.result.total_energy_j is None
    assert "lost" in run.result.measurement_warnings[0]


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"baseline_max_age_s": NAN}, "baseline_max_age_s must be seconds, 0 or more, got nan"),
        ({"baseline_max_age_s": math.inf}, "baseline_max_age_s"),
        ({"baseline_max_age_s": -1.0}, "baseline_max_age_s"),
        ({"meter": "nvml"}, "the configuration names one by energy.backend"),
    ],
)
def test_an_option_that_cannot_be_is_refused(clock, option: dict[str, Any], named: str) -> None:
    """Before anything is measured."""
    with pytest.raises(ConfigError, match=named):
        Experiment(CONFIG, clock=clock, **option)


def test_a_meter_that_samples_what_it_has_no_device_for_takes_nothing_with_it(clock) -> None:
    """It is as good as one that fails."""

    one, two = meter(clock, [(32, 200.0)]), meter(clock, [(32, 200.0)], [(32, 200.0)])
    odd = Meter(two.devices, one._samples, clock=clock)

    result = run_for(clock, 32.0, meter=odd).result

    assert odd.closed == 1
    assert result.total_tokens == 10
    assert result.total_energy_j is None
    assert "has 2 devices and sampled 1" in result.measurement_warnings[0]


def test_the_meter_is_opened_before_the_environment_is_taken(clock, monkeypatch) -> None:
    """While it is open the driver stays awake. Where the latter fails the meter is let go."""
    order: list[str] = []
    recorded = meter(clock, [(32, 200.0)])

    def opened(*_: Any, **__: Any) -> tuple[Meter, tuple[str, ...]]:
        order.append("meter")
        return recorded, ()

    def fails(**_: Any) -> None:
        order.append("environment")
        raise OSError("no environment")

    monkeypatch.setattr("llem.measure.choose.open_meter", opened)
    monkeypatch.setattr("llem.measure.environment.snapshot", fails)

    with pytest.raises(OSError, match="no environment"):
        run_for(clock, 1.0)

    assert order == ["meter", "environment"]
    assert recorded.closed == 1


def test_an_experiment_measures_once(clock) -> None:
    """Entered again it would mix two runs."""
    run = Experiment(CONFIG, clock=clock, meter=None)
    with run, pytest.raises(IncompleteRunError, match="measures once"), run:
        pass

    with pytest.raises(IncompleteRunError, match="measures once"):
        run.__enter__()


def test_an_experiment_is_left_once_after_it_is_entered(clock) -> None:
    """Left again it would lose the energy that it has."""
    recorded = meter(clock, [(32, 200.0)])
    run = Experiment(CONFIG, clock=clock, meter=recorded)

    with pytest.raises(IncompleteRunError, match="after it is entered: use `with`"):
        run.__exit__(None, None, None)
    with run:
        clock.sleep(1.0)
    with pytest.raises(IncompleteRunError, match="is left once"):
        run.__exit__(None, None, None)

    assert run.result.total_energy_j == 200
    assert recorded.closed == 1


def test_requests_belong_inside_the_block(clock) -> None:
    """Before and after it they are refused, not dropped."""
    run = Experiment(CONFIG, clock=clock, meter=None)
    request = {"input_tokens": 1, "output_tokens": 1, "latency_s": 0.5}

    with pytest.raises(IncompleteRunError, match="inside the with block"):
        run.record(**request)
    with run:
        clock.sleep(1.0)
        run.record(**request)
    with pytest.raises(IncompleteRunError, match="inside the with block"):
        run.record(**request)

    assert run.result.total_tokens == 2


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"input_tokens": [1, 2], "output_tokens": [3]}, "one count for each request"),
        ({"input_tokens": [], "output_tokens": []}, "one count for each request"),
        ({"ttft_s": 0.6}, "ttft_s must not exceed latency_s"),
        ({"latency_s": 1e308}, "latency_s must be finite and from 0 to 1000000000"),
        ({"input_tokens": 2**63}, "input_tokens\\[0\\] must be from 0 to"),
    ],
)
def test_values_that_do_not_go_together_are_refused(clock, request_, why) -> None:
    """At once, not when the run is over."""
    whole = {"input_tokens": 1, "output_tokens": 1, "latency_s": 0.5} | request_

    run = Experiment(CONFIG, clock=clock, meter=None)
    with run, pytest.raises(ResultValidationError, match=why):
        run.record(**whole)

    assert run.result.total_tokens == 0


def test_threads_lose_no_request(clock) -> None:
    """Eight of them record at once."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Experiment(CONFIG, clock=clock, meter=None) as run:
            threads = [
                threading.Thread(
                    target=lambda: [
                        run.record(input_tokens=1, output_tokens=1, latency_s=0.0)
                        for _ in range(500)
                    ]
                )
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert run.result.total_tokens == 8000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_tokens", -1),
        ("input_tokens", 1.5),
        ("input_tokens", None),
        ("input_tokens", [1, -1]),
        ("input_tokens", "12"),
        ("input_tokens", b"1"),
        ("input_tokens", {8: 1}),
        ("input_tokens", np.array(8)),
        ("output_tokens", -1),
        ("output_tokens", True),
        ("output_tokens", None),
        ("output_tokens", [None]),
        ("output_tokens", {2}),
        ("latency_s", -0.1),
        ("latency_s", NAN),
        ("latency_s", float("inf")),
        ("latency_s", "1"),
        ("latency_s", None),
        ("ttft_s", -0.1),
        ("ttft_s", NAN),
        ("itl_s", [0.1, -0.1]),
        ("itl_s", [NAN]),
        ("itl_s", 5),
        ("itl_s", "12"),
        ("itl_s", b"12"),
        ("itl_s", {0.5: 1}),
        ("itl_s", {0.5}),
        ("itl_s", np.array(0.5)),
        ("padding_tokens", -1),
        ("flops", -1.0),
        ("flops", NAN),
        ("mode", "guessed"),
        ("ended_s", NAN),
        ("ended_s", "64"),
        ("ended_s", 64.25),
        ("ended_s", 1.7e9),
        ("ended_s", 63.75),
        ("ended_s", -1),
    ],
)
def test_record_refuses_what_cannot_be(clock, field: str, value: Any) -> None:
    """The field is named, and nothing of the request is kept."""
    fine = {"input_tokens": 8, "output_tokens": 2, "latency_s": 1.0, "ttft_s": 0.5, "flops": 1.0}

    with Experiment(CONFIG, clock=clock, meter=None) as run:
        run.record(**fine)
        with pytest.raises(ResultValidationError, match=f"^{field}"):
            run.record(**(fine | {field: value}))
        clock.sleep(2.0)

    (process,) = run.result.process_results
    assert run.result.total_tokens == 10
    assert run.result.total_flops == 1
    assert process.per_request_latencies_ms == (1000,)
    assert process.inference_metrics.latency_measurements.ttft_ms == (500,)
    assert process.extended_metrics.batch.num_batches == 1


def test_a_request_that_ended_before_the_window_is_refused(clock) -> None:
    """It is no part of what is measured; the error says when the window was."""
    request = {"input_tokens": 8, "output_tokens": 2, "latency_s": 1.0}

    with Experiment(CONFIG, clock=clock, meter=None) as run:
        run.record(**request, ended_s=64)
        clock.sleep(4.0)
        with run.window():
            clock.sleep(2.0)
            with pytest.raises(
                ResultValidationError,
                match=r"^ended_s must be from 68\.0, .* to now, 70\.0, got 67\.5: give time\.mono",
            ):
                run.record(**request, ended_s=67.5)
            run.record(**request, ended_s=68.0)
            run.record(**request, ended_s=70.0)

    assert run.result.total_tokens == 20


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, range])
def test_counts_of_a_batch_come_in_any_row(clock, kind: Callable[[Any], Any]) -> None:
    """Lists, tuples, arrays, and what can be gone through once."""
    counts = kind(3) if kind is range else kind([0, 1, 2])

    with Experiment(CONFIG, clock=clock, meter=None) as run:
        run.record(input_tokens=counts, output_tokens=[1, 1, 1], latency_s=1.0)

    assert (run.result.input_tokens, run.result.output_tokens) == (3, 3)


# Requests


def recorded(clock: FakeClock, *requests: dict[str, Any], **config: Any) -> ExperimentResult:
    """The result of *requests*, 4 s in all."""
    fine = {"input_tokens": 8, "output_tokens": 2, "latency_s": 1.0}
    with Experiment(attrs.evolve(CONFIG, **config), clock=clock, meter=None) as run:
        for request in requests:
            run.record(**(fine | request))
        clock.sleep(4.0)
    return run.result


def test_tokens_and_rates(clock) -> None:
    """Summed over requests, over the time of the window."""
    result = recorded(clock, {}, {"input_tokens": 4, "output_tokens": 6})

    assert (result.input_tokens, result.output_tokens, result.total_tokens) == (12, 8, 20)
    assert result.avg_tokens_per_second == 5
    metrics = result.process_results[0].inference_metrics
    assert metrics.tokens_per_second == 5
    assert metrics.latency_per_token_ms == 200
    assert metrics.inference_time_sec == 4


def test_a_batch_is_as_many_requests(clock) -> None:
    """Lists and tuples; each request waited for the whole batch."""
    result = recorded(
        clock,
        {"input_tokens": [8, 9, 10], "output_tokens": (2, 3, 4), "latency_s": 2.0},
        {"latency_s": 1.0},
        batch_size=4,
    )

    (process,) = result.process_results
    assert (result.input_tokens, result.output_tokens) == (35, 11)
    assert process.per_request_latencies_ms == (2000, 2000, 2000, 1000)
    assert process.inference_metrics.latency_measurements.request_count == 4
    batch = result.extended_metrics.batch
    assert (batch.num_batches, batch.effective_batch_size, batch.batch_utilisation) == (2, 2, 0.5)
    assert "prompts run: 4" in " ".join(result.measurement_warnings)


def test_padding_is_a_share_of_what_was_fed(clock) -> None:
    """And no token."""
    result = recorded(clock, {"input_tokens": [6, 8], "output_tokens": [1, 1], "padding_tokens": 2})

    assert result.extended_metrics.batch.padding_overhead == 2 / 16
    assert result.input_tokens == 14


@pytest.mark.parametrize(
    ("flops", "total"),
    [
        ([1e9, 2e9], 3e9),
        ([0.0, 2e9], 2e9),
        ([None, 2e9], None),
        ([1e9, None], None),
        ([1e9, None, 2e9], None),
        ([None, None], None),
    ],
)
def test_flops_are_unknown_where_those_of_one_batch_are(clock, flops, total) -> None:
    """None is not 0."""
    result = recorded(clock, *({"flops": each} for each in flops))

    assert result.total_flops == total
    assert result.flops_per_second == (None if total is None else total / 4)
    assert result.process_results[0].compute_metrics.flops_total == total


def test_token_latencies(clock) -> None:
    """In ms; trimmed of the first and last interval of each batch."""
    result = recorded(
        clock,
        {"ttft_s": 0.5, "itl_s": [0.25, 0.125, 0.5]},
        {"ttft_s": 1.5, "itl_s": (0.25,), "latency_s": 2.0},
    )

    measured = result.process_results[0].inference_metrics.latency_measurements
    assert measured.ttft_ms == (500, 1500)
    assert measured.itl_full_ms == (250, 125, 500, 250)
    assert measured.itl_trimmed_ms == (125,)
    assert measured.excluded_tokens == 3
    assert measured.total_output_tokens == 4
    assert measured.streaming_mode
    assert result.latency_stats.ttft_mean_ms == 1000
    assert result.process_results[0].inference_metrics.time_to_first_token_ms == 1000
    assert result.extended_metrics.tpot_ms == 281.25


@pytest.mark.parametrize(
    ("modes", "together"),
    [
        (["true_streaming"], "true_streaming"),
        (["per_request_batch"] * 2, "per_request_batch"),
        (["true_streaming", "per_request_batch"], "proportional"),
        ([], "proportional"),
    ],
)
def test_the_mode_is_that_of_all_requests(clock, modes: list[str], together: str) -> None:
    """A mixture is as good as its weakest."""
    result = recorded(clock, *({"mode": MeasurementMode(mode)} for mode in modes))

    measured = result.process_results[0].inference_metrics.latency_measurements
    assert measured.measurement_mode.value == together
    assert not measured.streaming_mode


def test_a_run_without_requests_is_a_result(clock) -> None:
    """Of nothing: the energy of an idle machine."""
    result = run_for(clock, 32.0, requests=1, meter=meter(clock, [(32, 50.0)])).result
    with Experiment(CONFIG, clock=clock, meter=meter(clock, [(32, 50.0)])) as run:
        clock.sleep(32.0)

    assert run.result.total_energy_j == result.total_energy_j == 1600
    assert run.result.total_tokens == 0
    assert run.result.avg_energy_per_token_j is None
    assert run.result.latency_stats is None


# What else is sampled


def test_utilisation_is_that_of_the_window(clock) -> None:
    """Each look at each device, their mean, and the mean of the memory's."""
    recorded = meter(
        clock,
        [(16, 200.0)],
        [(16, 200.0)],
        utilisation_pct=lambda t: 100.0 if t < 4 else NAN if t == 5 else 40.0 + 20 * (t >= 6),
        memory_utilisation_pct=lambda t: 90.0 if t < 4 else 10.0,
    )

    with Experiment(CONFIG, clock=clock, meter=recorded) as run:
        clock.sleep(4.0)
        with run.window():
            clock.sleep(4.0)

    (process,) = run.result.process_results
    assert process.gpu_utilisation_samples == (40.0,) * 14 + (60.0,) * 16
    busy = run.result.extended_metrics.gpu_utilisation
    assert busy.sm_utilisation_mean == pytest.approx((14 * 40 + 16 * 60) / 30)
    assert busy.sm_utilisation_samples == 30
    assert busy.memory_bandwidth_utilisation == 10


def test_utilisation_that_was_not_sampled_is_not_known(clock) -> None:
    """None is not 0."""
    result = run_for(clock, 8.0, meter=meter(clock, [(8, 200.0)])).result

    assert result.process_results[0].gpu_utilisation_samples == ()
    assert result.extended_metrics.gpu_utilisation.sm_utilisation_mean is None
    assert result.extended_metrics.memory.peak_memory_mb is None


@pytest.mark.parametrize(("said_mb", "peak_mb"), [(None, 96.0), (320.0, 320.0), (0.0, 0.0)])
def test_peak_memory_is_sampled_where_the_engine_does_not_say(
    clock, said_mb: float | None, peak_mb: float
) -> None:
    """Of the window."""
    recorded = meter(
        clock, [(16, 200.0)], memory_mb=lambda t: 512.0 if t < 4 else 96.0 if t == 5 else 64.0
    )
    info = BackendInfo(device="cuda:0", device_name="A GPU", model_memory_mb=32.0)

    with Experiment(
        CONFIG, clock=clock, meter=recorded, info=info, peak_memory_mb=lambda: said_mb
    ) as run:
        clock.sleep(4.0)
        with run.window():
            clock.sleep(4.0)

    (process,) = run.result.process_results
    assert process.compute_metrics.peak_memory_mb == peak_mb
    memory = run.result.extended_metrics.memory
    assert memory.peak_memory_mb == peak_mb
    assert memory.inference_memory_mb == max(peak_mb - 32, 0)


@pytest.mark.parametrize("said", [NAN, math.inf, -1.0, "320", True, [320.0], ZeroDivisionError])
def test_peak_memory_that_cannot_be_is_not_known(clock, said: Any) -> None:
    """The run is kept, and what was sampled stands in for it."""

    def peak_memory_mb() -> Any:
        if said is ZeroDivisionError:
            raise said
        return said

    sampled = meter(clock, [(8, 200.0)], memory_mb=lambda _: 64.0)

    result = run_for(clock, 8.0, meter=sampled, peak_memory_mb=peak_memory_mb).result
    unknown = run_for(clock, 8.0, meter=None, peak_memory_mb=peak_memory_mb).result

    assert (result.total_tokens, result.total_energy_j) == (10, 1600)
    assert result.extended_metrics.memory.peak_memory_mb == 64
    assert unknown.extended_metrics.memory.peak_memory_mb is None


# Without a meter


def test_without_a_meter(clock) -> None:
    """Nothing is known of energy, and a warning says why."""
    config = attrs.evolve(CONFIG, baseline=BaselineConfig(duration_seconds=30.0))

    run = run_for(clock, 32.0, config, meter=None)

    assert run.result.total_energy_j is None
    assert run.result.devices == ()
    assert run.result.energy_breakdown is None
    assert run.timeseries is None
    assert run.result.reproducibility_notes == "Energy was not measured."
    assert run.result.measurement_warnings[0].startswith(
        "energy_not_measured: meter is None: no meter was asked for"
    )
    assert run.result.process_results[0].gpu_name == "unknown"


def test_the_configuration_may_ask_for_no_meter(clock) -> None:
    """It is named as the one who did."""
    config = attrs.evolve(CONFIG, energy=EnergyConfig(backend=None))

    result = run_for(clock, 1.0, config).result

    assert result.total_energy_j is None
    assert "energy.backend is None" in result.measurement_warnings[0]


def test_a_meter_that_is_not_there_is_an_error(clock, monkeypatch) -> None:
    """Asked for by name."""
    for module in ("zeus", "zeus.monitor"):
        monkeypatch.setitem(sys.modules, module, None)
    config = attrs.evolve(CONFIG, energy=EnergyConfig(backend="zeus"))

    with pytest.raises(MeterError, match="zeus"):
        run_for(clock, 1.0, config)


# The record


def test_the_record_says_what_was_run(clock) -> None:
    """Its configuration, the hash of that, who wrote it."""
    result = run_for(clock, 1.0, meter=meter(clock, [(1, 200.0)])).result

    assert result.effective_config == result.process_results[0].effective_config
    assert result.effective_config["model"] == "mine"
    assert result.measurement_config_hash == measurement_config_hash(result.effective_config)
    assert result.measurement_config_hash == measurement_config_hash(CONFIG)
    assert result.llem_version == llem_version()
    assert result.backend == "theirs"
    assert result.backend_version is None
    assert result.aggregation.method == "single_process"
    assert from_json(to_json(result)) == result


def test_what_the_engine_says_of_itself_is_kept(clock) -> None:
    """Version, device and memory."""
    info = BackendInfo(
        version="1.2",
        device="cuda:0",
        device_name="A GPU",
        flops_method="flop_counter",
        model_memory_mb=256.0,
        total_memory_mb=1024.0,
    )

    with Experiment(
        CONFIG, info=info, clock=clock, meter=None, peak_memory_mb=lambda: 320.0
    ) as run:
        run.record(input_tokens=8, output_tokens=2, latency_s=1.0, flops=1e9)
        clock.sleep(1.0)

    (process,) = run.result.process_results
    assert run.result.backend_version == process.backend_version == "1.2"
    assert process.gpu_name == "A GPU"
    assert process.compute_metrics.peak_memory_mb == 320
    assert process.compute_metrics.flops_method == "flop_counter"
    memory = process.extended_metrics.memory
    assert (memory.inference_memory_mb, memory.model_memory_utilisation) == (64, 0.25)


def test_every_run_has_an_id_of_its_own(clock) -> None:
    """Model, time and a random part, unless one is given."""
    ids = {run_for(FakeClock(), 1.0, meter=None).result.experiment_id for _ in range(8)}

    assert len(ids) == 8
    assert all(name.startswith("mine_20260101_000104_") for name in ids)
    given = run_for(clock, 1.0, meter=None, experiment_id="mine/7").result
    assert given.experiment_id == given.process_results[0].experiment_id == "mine/7"


# Backends


class FakeBackend:
    """Takes a second a batch, and inherits nothing."""

    name = "fake"

    def __init__(self, clock: Clock, fails: str = "") -> None:
        self.clock = clock
        self.fails = fails
        self.events: list[Any] = []

    def _note(self, event: str, *what: Any) -> None:
        self.events.append((event, *what))
        if self.fails == event:
            raise BackendError(f"{event} failed")

    def load(self, config: ExperimentConfig) -> BackendInfo:
        self.n = config.n
        self._note("load")
        return BackendInfo(version="7", device="cuda:3", device_name="A GPU")

    def prompts(self) -> list[int]:
        self._note("prompts")
        return list(range(self.n))

    def generate(self, batch: Sequence[int]) -> BatchOutput:
        self._note("generate", *batch)
        self.clock.sleep(1.0)
        return BatchOutput(
            input_tokens=(8,) * len(batch),
            output_tokens=(2,) * len(batch),
            latency_s=1.0,
            ttft_s=0.5,
            itl_s=(0.5,),
            padding_tokens=1,
            flops=1e9,
            mode=MeasurementMode.PER_REQUEST_BATCH,
        )

    def synchronize(self) -> None:
        self._note("synchronize")

    def peak_memory_mb(self) -> float | None:
        return 99.0

    def close(self) -> None:
        self._note("close")


TINY = attrs.evolve(CONFIG, n=5, batch_size=2, warmup=WarmupConfig(n_warmup=4))
LOADED = [("load",), ("prompts",), ("synchronize",)]


def test_a_backend_is_run_from_loading_to_closing(clock) -> None:
    """Warmup takes batches in turn, then each runs once; edges are synchronised."""
    backend = FakeBackend(clock)

    run_experiment(TINY, backend=backend, meter=None, clock=clock)

    batches = [("generate", 0, 1), ("generate", 2, 3), ("generate", 4)]
    warmup = [*batches, batches[0], ("synchronize",)]
    assert backend.events == [*LOADED, *warmup, *batches, ("synchronize",), ("close",)]
    assert isinstance(backend, InferenceBackend)


def test_what_a_backend_says_is_in_the_result(clock) -> None:
    """The warmup's tokens are not, and the device is the resolved one."""
    result = run_experiment(
        TINY, backend=FakeBackend(clock), meter=meter(clock, [(256, 100.0)]), clock=clock
    ).result

    assert (result.input_tokens, result.output_tokens) == (40, 10)
    assert result.total_inference_time_sec == 3
    assert result.total_energy_j == 300
    assert result.total_flops == 3e9
    assert result.backend_version == "7"
    assert result.effective_config["device"] == "cuda"
    assert result.effective_config["n"] == 5
    assert result.measurement_config_hash == measurement_config_hash(result.effective_config)
    assert result.measurement_config_hash != measurement_config_hash(TINY)
    assert result.warmup_result.iterations_completed == 4
    assert result.warmup_result.thermal_floor_wait_s == 60
    (process,) = result.process_results
    assert process.per_request_latencies_ms == (1000,) * 5
    assert process.compute_metrics.peak_memory_mb == 99
    measured = process.inference_metrics.latency_measurements
    assert (measured.ttft_ms, measured.itl_full_ms) == ((500,) * 5, (500,) * 3)
    assert measured.measurement_mode is MeasurementMode.PER_REQUEST_BATCH
    assert result.extended_metrics.batch.padding_overhead == 3 / 43


def test_phases_of_what_a_backend_serves(clock) -> None:
    """By its times to the first token."""
    result = run_experiment(
        attrs.evolve(TINY, n=2, batch_size=1),
        backend=FakeBackend(clock),
        meter=meter(clock, [(256, 100.0)]),
        clock=clock,
    ).result

    assert phases(result) == {"prefill": 100.0, "decode": 100.0, "other": 0.0}


def test_a_backend_may_take_an_earlier_idle_power(clock, tmp_path: Path, monkeypatch) -> None:
    """As an Experiment may."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = attrs.evolve(TINY, baseline=BaselineConfig(duration_seconds=16.0))

    methods = [
        run_experiment(
            config,
            backend=FakeBackend(clock),
            meter=meter(clock, [(256, 100.0)]),
            clock=clock,
            baseline_max_age_s=max_age_s,
        ).result.energy_breakdown.baseline_method
        for max_age_s in (1000.0, 1000.0, 0.0)
    ]

    assert methods == [BaselineMethod.FRESH, BaselineMethod.CACHED, BaselineMethod.FRESH]


def test_progress_is_told(clock) -> None:
    """Stages in order, and each batch of the run."""
    told: list[tuple[str, float, float | None]] = []
    config = attrs.evolve(TINY, baseline=BaselineConfig(duration_seconds=16.0))

    run_experiment(
        config,
        backend=FakeBackend(clock),
        meter=meter(clock, [(256, 100.0)]),
        clock=clock,
        progress=lambda *step: told.append(step),
    )

    assert told == [
        ("load", 0, None),
        ("environment", 0, None),
        ("baseline", 0, 16.0),
        ("warmup", 0, None),
        *(("warmup", done, None) for done in (1, 2, 3, 4)),
        *(("run", done, 5) for done in (0, 2, 4, 5)),
    ]


@pytest.mark.parametrize("fails", ["load", "prompts", "generate", "synchronize"])
def test_a_backend_that_fails_is_closed(clock, fails: str) -> None:
    """Its error goes through, and the meter is let go if it was opened."""
    backend, recorded = FakeBackend(clock, fails), meter(clock, [(256, 100.0)])

    with pytest.raises(BackendError, match=f"{fails} failed"):
        run_experiment(TINY, backend=backend, meter=recorded, clock=clock)

    assert backend.events[-1] == ("close",)
    assert recorded.closed == (fails in ("generate", "synchronize"))


def test_a_backend_is_closed_where_the_meter_fails(clock) -> None:
    """Nothing stays loaded."""
    backend, recorded = FakeBackend(clock), meter(clock, [(256, 100.0)])
    recorded.start()

    with pytest.raises(MeterError):
        run_experiment(TINY, backend=backend, meter=recorded, clock=clock)

    assert backend.events[-1] == ("close",)


def test_an_unknown_backend_is_an_error(clock) -> None:
    """It is named."""
    with pytest.raises(BackendError, match="theirs"):
        run_experiment(CONFIG, meter=None, clock=clock)
