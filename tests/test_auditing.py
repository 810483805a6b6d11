"""What a run recorded agrees with its own evidence, and what was changed afterwards does not."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llem.aggregate import aggregate_results
from llem.auditing import Audit, Check, audit
from llem.codec import from_json
from llem.domain.config import BaselineConfig, ExperimentConfig, WarmupConfig
from llem.domain.energy import DeviceEnergy, EnergyBreakdown, Phase, PhaseEnergy, Sensor
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import REQUESTS_KEY, TIMING_KEY
from llem.errors import NaiveTimeWarning, SidecarSchemaError
from llem.experiment import Experiment
from llem.measure import ReplayMeter
from llem.protocols import Clock, Device, Samples
from llem.store import ResultStore
from llem.testing import results, small_result, small_table, timeseries_tables

A100 = Path(__file__).parents[2] / "shared" / "data" / "a100_gpt2_v2.0.json"
CONFIG = ExperimentConfig(
    model="mine",
    backend="theirs",
    baseline=BaselineConfig(enabled=False),
    warmup=WarmupConfig(convergence_detection=True, thermal_floor_seconds=0.5),
)
NAN = float("nan")

Way = Literal["total", "steady_state", "windowed"]
Counter = Callable[[float], float | None]


class FakeClock(Clock):
    """Starts at an odd moment, and moves when someone sleeps."""

    def __init__(self) -> None:
        self.time_s = 1234.567890123

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def sleep(self, seconds: float, /) -> None:
        self.time_s += seconds


# Random runs

COUNTERS: dict[str, Counter] = {
    "none": lambda _: None,
    "rising": lambda t: 1e6 + 150 * t,
    "standing": lambda _: 5.0,
    "backwards": lambda t: 1e6 - t,
    "lost": lambda t: None if t > 1 else 7.0,
    "resting": lambda t: 1e6 + 150 * max(t - 2, 0),
}


@attrs.frozen
class Recording:
    """A meter's series, and what is run meanwhile."""

    period_s: float
    samples: Samples
    counters: tuple[str, ...]
    lead_s: float
    window_s: float
    requests: int
    idle_s: float

    def meter(self, clock: Clock) -> ReplayMeter:
        """Plays it."""
        return ReplayMeter(
            [
                Device(
                    index=i,
                    uuid=f"GPU-{i}",
                    name="GPU",
                    sensor=Sensor.NVML_POWER_INSTANT,
                    period_s=self.period_s,
                )
                for i in range(len(self.counters))
            ],
            self.samples,
            counters=lambda t: [COUNTERS[name](t) for name in self.counters],
            clock=clock,
        )


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Of one to three devices, with readings that failed, at times that are not quite regular."""
    count, ticks = draw(st.integers(1, 3)), draw(st.integers(2, 30))
    period_s = draw(st.sampled_from([0.02, 0.1, 0.75]))
    steps = draw(st.lists(st.floats(0.3, 1.5) | st.just(9.0), min_size=ticks, max_size=ticks))
    times_s = np.cumsum([period_s * step for step in steps]) - period_s * steps[0]
    reading = st.floats(0, 2000, width=32) | st.sampled_from([NAN, math.inf, -1.0])
    power_w = draw(st.lists(reading, min_size=count * ticks, max_size=count * ticks))
    return Recording(
        period_s=period_s,
        samples=Samples(
            times_s=times_s,
            power_w=np.reshape(power_w, (ticks, count)),
            temperature_c=np.full((ticks, count), 40.0),
        ),
        counters=tuple(draw(st.sampled_from([*COUNTERS])) for _ in range(count)),
        lead_s=draw(st.floats(0, 0.5)) * times_s[-1],
        window_s=draw(st.floats(0, 0.8)) * times_s[-1],
        requests=draw(st.integers(0, 4)),
        idle_s=draw(st.sampled_from([0.0, 0.25])),
    )


def measured(recording: Recording, way: Way) -> Experiment:
    """A run of *recording* whose figures cover what *way* says."""
    clock = FakeClock()
    idle = BaselineConfig(duration_seconds=recording.idle_s)
    config = attrs.evolve(CONFIG, baseline=idle)

    def requests() -> None:
        for _ in range(recording.requests):
            latency_s = recording.window_s / recording.requests
            clock.sleep(latency_s)
            run.record(
                input_tokens=8, output_tokens=2, latency_s=latency_s, ttft_s=0.375 * latency_s
            )
        if not recording.requests:
            clock.sleep(recording.window_s)

    def step() -> float:
        clock.sleep(recording.lead_s)
        return 1.0

    with Experiment(config, clock=clock, meter=recording.meter(clock)) as run:
        if way == "steady_state":
            run.warm_up(step)
        if way == "windowed":
            step()
            with run.window():
                requests()
            clock.sleep(recording.lead_s)
        else:
            requests()
    assert run.result.measurement_methodology == way
    return run


def differing(found: Audit) -> list[str]:
    return [check.name for check in found.checks if check.agrees is False]


def only(found: Audit, name: str) -> Check:
    """The one check of that name."""
    (check,) = [check for check in found.checks if check.name == name]
    return check


@pytest.mark.parametrize("way", ["total", "steady_state", "windowed"])
@given(recording=recordings())
def test_every_run_agrees_with_its_own_evidence(way: Way, recording: Recording) -> None:
    """Whatever was sampled, each integral there is was computed anew, and each total."""
    run = measured(recording, way)

    found = audit(run.result, run.timeseries)

    assert differing(found) == []
    assert found.agrees
    # Nothing stands beside a counter whose device was not sampled.
    alone = any(d.counter_j and d.integrated_j is None for d in run.result.devices)
    assert found.complete or alone
    agreeing = {check.name for check in found.checks if check.agrees}
    for device in run.result.devices:
        if device.integrated_j is not None:
            name = f"device {device.gpu_index} ({device.uuid})"
            assert {f"{name} integrated_j", f"{name} sample_count"} <= agreeing
        if device.energy_j is not None:
            assert f"device {device.gpu_index} ({device.uuid}) energy_j" in agreeing
    assert ("total_energy_j" in agreeing) is (run.result.total_energy_j is not None)
    assert ("energy_adjusted_j" in agreeing) is (run.result.energy_adjusted_j is not None)


@settings(max_examples=25)
@given(recording=recordings(), way=st.sampled_from(["total", "steady_state", "windowed"]))
def test_what_was_stored_agrees_as_well(
    tmp_path_factory: pytest.TempPathFactory, recording: Recording, way: Way
) -> None:
    """JSON and Parquet keep what it takes to compute a figure anew."""
    run = measured(recording, way)
    store = ResultStore(tmp_path_factory.mktemp("results"))

    kept = store.put(run.result, timeseries=run.timeseries)
    found = audit(store.get(kept), store.timeseries(kept))

    assert found == audit(run.result, run.timeseries)
    assert found.agrees


# One run, and what is done to it

TICKS = 400
PERIOD_S = 0.1


def powers(device: int) -> np.ndarray:
    """400 readings, none of which is like its neighbours."""
    return 100 + 40 * device + 60 * (np.arange(TICKS) * 7 % 13) / 13


@pytest.fixture(scope="module")
def run() -> Experiment:
    """Two devices, the first with a counter, after idle power and a warmup, in two requests."""
    recording = Recording(
        period_s=PERIOD_S,
        samples=Samples(
            times_s=np.arange(TICKS) * PERIOD_S,
            power_w=np.stack([powers(0), powers(1)], axis=1),
            temperature_c=np.full((TICKS, 2), 40.0),
        ),
        counters=("rising", "none"),
        lead_s=1.0,
        window_s=20.0,
        requests=2,
        idle_s=2.0,
    )
    made = measured(recording, "steady_state")
    assert audit(made.result, made.timeseries).agrees
    assert made.result.devices[0].counter_j
    assert [phase.energy_j is None for phase in made.result.energy_breakdown.phases] == 3 * [False]
    return made


def changed(value: Any, path: Sequence[str | int], change: Callable[[Any], Any]) -> Any:
    """*value* with what lies at *path* in it changed."""
    if not path:
        return change(value)
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        inner = changed(value[step], rest, change)
        return (*value[:step], inner, *value[step + 1 :])
    return attrs.evolve(value, **{step: changed(getattr(value, step), rest, change)})


PROCESS = ("process_results", 0)
FIRST, SECOND = (*PROCESS, "devices", 0), (*PROCESS, "devices", 1)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ((*SECOND, "integrated_j"), "device 1 (GPU-1) integrated_j"),
        ((*SECOND, "integrated_j"), "device 1 (GPU-1) energy_j"),
        ((*SECOND, "energy_j"), "device 1 (GPU-1) energy_j"),
        ((*SECOND, "max_gap_s"), "device 1 (GPU-1) max_gap_s"),
        ((*FIRST, "integrated_j"), "device 0 (GPU-0) integrated_j"),
        ((*FIRST, "counter_j"), "device 0 (GPU-0) energy_j"),
        ((*FIRST, "counter_j"), "device 0 (GPU-0) disagreement"),
        ((*FIRST, "disagreement"), "device 0 (GPU-0) disagreement"),
        (("devices", 0, "energy_j"), "devices[0].energy_j"),
        (("devices", 0, "counter_j"), "devices[0].counter_j"),
        (("devices", 0, "integrated_j"), "devices[0].integrated_j"),
        (("devices", 1, "integrated_j"), "devices[1].integrated_j"),
        ((*SECOND, "error_bound_j"), "device 1 (GPU-1) error_bound_j"),
        (("devices", 1, "error_bound_j"), "devices[1].error_bound_j"),
        (("energy_per_device_j", 1), "energy_per_device_j[1]"),
        ((*PROCESS, "energy_metrics", "total_energy_j"), "process 0 energy_metrics.total_energy_j"),
        ((*PROCESS, "energy_metrics", "duration_sec"), "process 0 energy_metrics.duration_sec"),
        (("total_inference_time_sec",), "total_inference_time_sec"),
        (("avg_tokens_per_second",), "avg_tokens_per_second"),
        (("energy_breakdown", "phases", 0, "duration_s"), "phases.duration_s"),
        (("total_energy_j",), "total_energy_j"),
        (("total_energy_j",), "phases.energy_j"),
        (("avg_energy_per_token_j",), "avg_energy_per_token_j"),
        (("energy_adjusted_j",), "energy_adjusted_j"),
        (("baseline_power_w",), "energy_adjusted_j"),
        (("energy_breakdown", "phases", 0, "energy_j"), "phases.energy_j"),
        (("energy_breakdown", "phases", 1, "energy_j"), "phases.energy_j"),
    ],
)
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_figure_that_was_changed_by_a_percent_is_named(
    run: Experiment, path: tuple[str | int, ...], named: str, factor: float
) -> None:
    """Up or down, and only what it is part of is named with it."""
    result = changed(run.result, path, lambda value: value * factor)

    found = audit(result, run.timeseries)

    assert not found.agrees
    assert named in differing(found)
    untouched = "device 1" if 0 in path[-2:-1] else "device 0"
    if "devices" in path:
        assert not any(name.startswith(untouched) for name in differing(found))


def test_a_time_of_inference_that_was_halved_is_named(run: Experiment) -> None:
    """Throughput would double with it."""
    halved = changed(
        run.result, (*PROCESS, "inference_metrics", "inference_time_sec"), lambda time_s: time_s / 2
    )

    assert "process 0 inference_time_sec" in differing(audit(halved, run.timeseries))


@pytest.mark.parametrize(
    "code", ["sampling_gap", "samples_missed", "sources_disagree", "energy_not_measured"]
)
def test_a_code_that_does_not_apply_is_named(run: Experiment, code: str) -> None:
    """Nor may one be taken out that does."""
    told = changed(run.result, (*SECOND, "codes"), lambda codes: (*codes, code))

    found = audit(told, run.timeseries)

    assert differing(found) == [
        f"device 1 (GPU-1) {code}",
        "devices[1].codes is that of the processes aggregated anew",
    ]
    assert (found.checks[0].agrees, only(found, f"device 1 (GPU-1) {code}").recorded) == (True, 1)


def test_a_code_that_was_taken_out_is_named(run: Experiment) -> None:
    """The samples tell of it."""
    middle = rows_inside(run)[100]
    table = pa.concat_tables([run.timeseries[:middle], run.timeseries[middle + 20 :]])

    found = audit(run.result, table)

    assert only(found, "device 0 (GPU-0) sampling_gap").recomputed == 1
    assert "device 0 (GPU-0) sampling_gap" in differing(found)


def test_a_time_series_that_does_not_tell_of_its_sensors(run: Experiment) -> None:
    """As of another tool: the bounds are not checked, and that is said."""
    bare = run.timeseries.replace_schema_metadata(None)
    odd = run.timeseries.replace_schema_metadata({TIMING_KEY: b'{"0": 5}'})

    for table in (bare, odd):
        found = audit(run.result, table)

        assert only(found, "device 0 (GPU-0) error_bound_j").agrees is None
        assert found.agrees
        assert not found.complete


def test_phases_that_were_shifted_are_named(run: Experiment) -> None:
    """Though they add up: when requests ran stands beside the samples."""
    prefill, decode, _ = ("energy_breakdown", "phases", 0), ("energy_breakdown", "phases", 1), 0
    result = changed(run.result, (*prefill, "energy_j"), lambda j: j + 500)
    result = changed(result, (*decode, "energy_j"), lambda j: j - 500)
    surer = changed(run.result, (*decode, "error_bound_j"), lambda j: j / 2)

    assert differing(audit(result, run.timeseries))[:2] == [
        "phases.prefill.energy_j",
        "phases.decode.energy_j",
    ]
    assert "phases.decode.error_bound_j" in differing(audit(surer, run.timeseries))


def test_another_reason_for_no_phase_is_named() -> None:
    """Requests of a quarter of a period are too short, and nothing else."""
    recording = Recording(
        period_s=PERIOD_S,
        samples=Samples(
            times_s=np.arange(TICKS) * PERIOD_S,
            power_w=powers(0),
            temperature_c=np.full((TICKS, 1), 40.0),
        ),
        counters=("none",),
        lead_s=1.0,
        window_s=1.0,
        requests=40,
        idle_s=0.0,
    )
    made = measured(recording, "total")
    (prefill, *_) = made.result.energy_breakdown.phases
    assert prefill.code == "phase_too_short"
    assert audit(made.result, made.timeseries).agrees

    told = changed(
        made.result, ("energy_breakdown", "phases", 0, "code"), lambda _: "phases_overlap"
    )

    assert "phases.prefill.code" in differing(audit(told, made.timeseries))


def test_phases_without_the_times_of_requests_are_not_checked(run: Experiment) -> None:
    """That is said."""
    metadata = dict(run.timeseries.schema.metadata)
    del metadata[REQUESTS_KEY]

    found = audit(run.result, run.timeseries.replace_schema_metadata(metadata))

    assert only(found, "phases.prefill.energy_j").agrees is None
    assert found.agrees
    assert not found.complete


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("multi_gpu", "energy_total_j"), "multi_gpu.energy_total_j"),
        (("energy_breakdown", "raw_j"), "energy_breakdown.raw_j"),
        (("energy_breakdown", "baseline_power_w"), "energy_breakdown.baseline_power_w"),
        (("devices", 0, "sampling_period_s"), "devices[0].sampling_period_s"),
        ((*FIRST, "sampling_period_s"), "device 0 (GPU-0) sampling_period_s"),
        ((*PROCESS, "energy_metrics", "gpu_power_w"), "process 0 energy_metrics.gpu_power_w"),
        ((*PROCESS, "inference_metrics", "tokens_per_second"), "process 0 tokens_per_second"),
        (("latency_stats", "ttft_mean_ms"), "latency_stats.ttft_mean_ms"),
    ],
)
def test_what_follows_from_the_processes_is_computed_anew(
    run: Experiment, path: tuple[str | int, ...], named: str
) -> None:
    """Wherever it stands."""
    result = changed(run.result, path, lambda value: 1.5 * value)

    assert named in differing(audit(result, run.timeseries))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"measurement_config_hash": "0" * 16}, "measurement_config_hash"),
        ({"energy_per_device_j": None}, "energy_per_device_j"),
        ({"multi_gpu": None}, "multi_gpu"),
        ({"baseline_power_w": None}, "baseline_power_w"),
    ],
)
def test_what_was_taken_out_or_exchanged_is_named(
    run: Experiment, change: dict[str, Any], named: str
) -> None:
    """A text, a list, a record."""
    found = audit(attrs.evolve(run.result, **change), run.timeseries)

    assert any(name.startswith(named) for name in differing(found))


def test_a_counter_alone_is_not_checked() -> None:
    """Nothing stands beside it that would tell it from any other number."""
    clock = FakeClock()
    device = Device(index=0, uuid="PKG-0", name="CPU", sensor=Sensor.RAPL)
    meter = ReplayMeter([device], Samples(), counters=lambda t: [100 * t], clock=clock)
    with Experiment(CONFIG, clock=clock, meter=meter) as run:
        clock.sleep(5.0)

    found = audit(run.result, run.timeseries)

    assert run.result.total_energy_j == pytest.approx(500)
    assert only(found, "device 0 (PKG-0) counter_j").agrees is None
    assert found.agrees
    assert not found.complete


def test_timing_that_no_sensor_has_is_none(run: Experiment) -> None:
    """Nor does it keep the rest from being checked."""
    timing = json.loads(run.timeseries.schema.metadata[TIMING_KEY])
    for values in timing.values():
        values |= {"limit_w": 1e308, "counter_refresh_s": 1e308, "refresh_s": 1e308}
    told = {**run.timeseries.schema.metadata, TIMING_KEY: json.dumps(timing)}

    found = audit(run.result, run.timeseries.replace_schema_metadata(told))

    assert only(found, "device 1 (GPU-1) integrated_j").agrees is True
    assert only(found, "device 1 (GPU-1) error_bound_j").agrees is not True


def test_times_that_are_none_are_refused(run: Experiment) -> None:
    """A store refuses them too."""
    times_s = column(run.timeseries, "timestamp_s")
    times_s[5] = NAN
    with pytest.raises(SidecarSchemaError, match="not finite"):
        audit(run.result, with_column(run.timeseries, "timestamp_s", times_s))


@pytest.mark.parametrize("edge", [0, 1])
def test_a_window_that_was_moved_is_noticed(run: Experiment, edge: int) -> None:
    """By a hundredth of it, at either end."""
    result = changed(run.result, ("steady_state_window", edge), lambda time_s: time_s - 0.2)

    found = audit(result, run.timeseries)

    assert {f"device {i} (GPU-{i}) integrated_j" for i in (0, 1)} <= {*differing(found)}


@pytest.mark.parametrize("by", [-10, 10])
def test_samples_that_were_not_there_are_named(run: Experiment, by: int) -> None:
    """Ten more or ten less of them."""
    result = changed(run.result, (*FIRST, "sample_count"), lambda count: count + by)

    assert differing(audit(result, run.timeseries)) == [
        "device 0 (GPU-0) sample_count",
        "devices[0].sample_count",
    ]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ((*SECOND, "energy_j"), "device 1 (GPU-1) energy_j"),
        ((*FIRST, "integrated_j"), "device 0 (GPU-0) integrated_j"),
        ((*FIRST, "disagreement"), "device 0 (GPU-0) disagreement"),
        ((*FIRST, "max_gap_s"), "device 0 (GPU-0) max_gap_s"),
        ((*FIRST, "coverage"), "device 0 (GPU-0) coverage"),
        ((*FIRST, "error_bound_j"), "device 0 (GPU-0) error_bound_j"),
        (("devices", 1, "coverage"), "devices[1].coverage"),
        (("devices", 1, "integrated_j"), "devices[1].integrated_j"),
        (("devices", 1, "energy_j"), "devices[1].energy_j"),
        (("total_energy_j",), "total_energy_j"),
        (("avg_energy_per_token_j",), "avg_energy_per_token_j"),
        (("energy_adjusted_j",), "energy_adjusted_j"),
    ],
)
def test_a_figure_that_was_taken_out_is_named(
    run: Experiment, path: tuple[str | int, ...], named: str
) -> None:
    """Its evidence gives one."""
    result = changed(run.result, path, lambda _: None)

    found = audit(result, run.timeseries)

    assert named in differing(found)
    assert any(c.recorded is None and c.recomputed is not None for c in found.checks)


def test_a_figure_of_nothing_is_named(run: Experiment) -> None:
    """A total though a device is not known, energy per token without a token."""
    result = changed(run.result, (*FIRST, "energy_j"), lambda _: None)
    empty = small_result(total_tokens=0, avg_energy_per_token_j=1.0)

    assert only(audit(result, run.timeseries), "total_energy_j").agrees is False
    assert only(audit(empty, None), "avg_energy_per_token_j").agrees is False


def with_column(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist())


def rows_inside(run: Experiment) -> list[int]:
    """Rows of the time series well within the measured window."""
    begin_s, end_s = run.result.steady_state_window
    times_s = column(run.timeseries, "timestamp_s")
    return np.flatnonzero(
        (times_s > begin_s + 2 * PERIOD_S) & (times_s < end_s - 2 * PERIOD_S)
    ).tolist()


@given(data=st.data(), factor=st.sampled_from([0.0, 0.5, 2.0, 10.0]))
def test_a_sample_that_was_changed_is_noticed(
    run: Experiment, data: st.DataObject, factor: float
) -> None:
    """Any one of them: the integral of its device is named, and no other device."""
    row = data.draw(st.sampled_from(rows_inside(run)))
    power_w = column(run.timeseries, "gpu_power_w")
    power_w[row] *= factor

    found = audit(run.result, with_column(run.timeseries, "gpu_power_w", power_w))

    index = run.timeseries["gpu_index"][row].as_py()
    name = f"device {index} (GPU-{index})"
    assert f"{name} integrated_j" in differing(found)
    assert not any(f"GPU-{1 - index}" in other for other in differing(found))


@given(data=st.data(), shift=st.sampled_from([-0.4, 0.4, 30.0]))
def test_a_time_that_was_changed_is_noticed(
    run: Experiment, data: st.DataObject, shift: float
) -> None:
    """Any one of them: the gap that it leaves is named, and its device."""
    row = data.draw(st.sampled_from(rows_inside(run)))
    times_s = column(run.timeseries, "timestamp_s")
    times_s[row] += shift * PERIOD_S

    found = audit(run.result, with_column(run.timeseries, "timestamp_s", times_s))

    index = run.timeseries["gpu_index"][row].as_py()
    assert f"device {index} (GPU-{index}) max_gap_s" in differing(found)
    assert not any(name.startswith(f"device {1 - index}") for name in differing(found))


def test_rows_that_were_taken_out_are_noticed(run: Experiment) -> None:
    """A second of them in the middle, or all that follow it."""
    inside = rows_inside(run)
    middle = inside[len(inside) // 2]
    gap = pa.concat_tables([run.timeseries[:middle], run.timeseries[middle + 20 :]])
    cut = run.timeseries[:middle]

    for table in (gap, cut):
        found = audit(run.result, table)
        assert {f"device {i} (GPU-{i}) sample_count" for i in (0, 1)} <= {*differing(found)}
    assert "device 1 (GPU-1) integrated_j" in differing(audit(run.result, gap))
    integral = only(audit(run.result, cut), "device 1 (GPU-1) integrated_j")
    assert (integral.recomputed, integral.agrees) == (None, False)


@pytest.mark.parametrize("odd_w", [math.inf, 1e30])
def test_a_sample_that_cannot_be_makes_no_other_tolerable(run: Experiment, odd_w: float) -> None:
    """Though the tolerance of an edge is in proportion to the greatest power."""
    power_w = column(run.timeseries, "gpu_power_w")
    power_w[:2] = odd_w
    power_w[rows_inside(run)[5]] *= 2

    found = audit(run.result, with_column(run.timeseries, "gpu_power_w", power_w))

    assert differing(found)[0] == "device 1 (GPU-1) integrated_j"
    assert not any("device 0" in name for name in differing(found))
    assert only(found, "device 1 (GPU-1) integrated_j").tolerance < 0.1


def test_rows_may_come_in_any_order(run: Experiment) -> None:
    """Device by device, or backwards."""
    by_device = run.timeseries.sort_by([("gpu_index", "ascending"), ("timestamp_s", "ascending")])

    for table in (by_device, run.timeseries.take(list(range(run.timeseries.num_rows))[::-1])):
        assert audit(run.result, table) == audit(run.result, run.timeseries)


def test_a_table_that_is_no_time_series_is_refused(run: Experiment) -> None:
    """The column that it lacks is named."""
    with pytest.raises(SidecarSchemaError, match="gpu_power_w"):
        audit(run.result, run.timeseries.drop_columns(["gpu_power_w"]))


# Little evidence


def test_without_a_time_series_integrals_are_not_checked(run: Experiment) -> None:
    """That is said. What follows from them is checked all the same."""
    found = audit(run.result, None)

    for i in (0, 1):
        integral = only(found, f"device {i} (GPU-{i}) integrated_j")
        assert integral.agrees is None
        assert integral.note == "there are no samples to integrate"
        assert integral.recorded == run.result.devices[i].integrated_j
    assert found.agrees
    assert not found.complete
    assert only(found, "total_energy_j").agrees is True
    assert not audit(changed(run.result, ("total_energy_j",), lambda j: j + 1), None).agrees


def test_a_device_that_the_time_series_lacks_is_not_checked(run: Experiment) -> None:
    """The other one is."""
    table = run.timeseries.filter(pc.equal(run.timeseries["gpu_index"], 1))

    found = audit(run.result, table)

    assert only(found, "device 0 (GPU-0) integrated_j").agrees is None
    assert only(found, "device 1 (GPU-1) integrated_j").agrees is True
    assert found.agrees


def test_devices_that_were_taken_out_or_put_in_are_noticed(run: Experiment) -> None:
    """Though all else was made to fit. Those of the processes are checked all the same."""
    first = run.result.devices[0]
    extra = attrs.evolve(first, gpu_index=2, uuid="GPU-fake", energy_j=1e6)

    for devices in ((), (first,), (*run.result.devices, extra)):
        total_j = math.fsum(device.energy_j for device in devices)
        found = audit(
            attrs.evolve(
                run.result,
                devices=devices,
                energy_per_device_j=tuple(device.energy_j for device in devices) or None,
                total_energy_j=total_j,
                avg_energy_per_token_j=total_j / run.result.total_tokens,
            ),
            run.timeseries,
        )

        integrals = [only(found, f"device {i} (GPU-{i}) integrated_j").agrees for i in (0, 1)]
        assert integrals == [True] * 2
        assert "devices is that of the processes aggregated anew" in differing(found)
        assert "total_energy_j" in differing(found)


def test_no_energy_is_nothing_to_check() -> None:
    """Neither right nor wrong."""
    with Experiment(CONFIG, clock=FakeClock(), meter=None) as run:
        run.record(input_tokens=1, output_tokens=1, latency_s=0.0)

    assert audit(run.result, run.timeseries) == Audit(checks=())
    assert audit(run.result, None).agrees


def test_a_total_without_evidence_is_not_checked() -> None:
    """As other tools leave it. The energy per token is, of what there is."""
    result = small_result(avg_energy_per_token_j=1234.5 / 300)

    found = audit(result, small_table())

    assert only(found, "total_energy_j").agrees is None
    assert only(found, "total_energy_j").recorded == 1234.5
    assert only(found, "avg_energy_per_token_j").agrees is True
    assert found.agrees


def test_an_energy_without_counter_and_integral_is_not_checked() -> None:
    """As an inference engine reports it."""
    device = DeviceEnergy(
        gpu_index=0, uuid="PDU-1", name="PDU", energy_j=1234.5, sensor=Sensor.ENGINE
    )
    with Experiment(CONFIG, clock=FakeClock(), meter=None) as run:
        pass
    process = attrs.evolve(run.result.process_results[0], devices=(device,))
    result = small_result(
        avg_energy_per_token_j=4.115, devices=(device,), process_results=(process,)
    )

    found = audit(result, None)

    energy = only(found, "device 0 (PDU-1) energy_j")
    assert (energy.agrees, energy.note) == (None, "neither counter nor integral")
    assert only(found, "total_energy_j").agrees is True


@given(result=results(), table=st.none() | timeseries_tables())
def test_no_result_is_too_odd(result: ExperimentResult, table: pa.Table | None) -> None:
    """Whatever a record may hold, with whatever beside it: there is an answer."""
    found = audit(result, table)

    assert found.agrees is not any(check.agrees is False for check in found.checks)


def test_energies_beyond_any_sum_are_no_crash() -> None:
    """A record may hold what no device ever drew."""
    device = DeviceEnergy(
        gpu_index=0, uuid="GPU-0", name="GPU", energy_j=1e308, sensor=Sensor.REPLAY
    )
    phases = tuple(PhaseEnergy(phase=phase, energy_j=1e308, duration_s=1.0) for phase in Phase)
    result = small_result(
        total_energy_j=1e308,
        devices=(device, attrs.evolve(device, gpu_index=1, uuid="GPU-1")),
        energy_breakdown=EnergyBreakdown(phases=phases),
    )

    found = audit(result, None)

    assert differing(found) == ["avg_energy_per_token_j", "phases.energy_j"]
    # No process says anything of them.
    assert only(found, "total_energy_j").agrees is None


@pytest.mark.skipif(not A100.exists(), reason="needs ../shared/data")
def test_a_result_of_another_tool_can_be_audited() -> None:
    """It has a total and no evidence for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaiveTimeWarning)
        result = from_json(A100.read_bytes())

    found = audit(result, None)

    assert only(found, "total_energy_j").agrees is None


# Several processes


def two_processes(
    *,
    later_s: float = 3.3,
    window_s: float = 11.1,
    power_w: Callable[[int], np.ndarray] = powers,
) -> tuple[ExperimentResult, pa.Table]:
    """Each with a device and a window of its own, the second one later, and a tenth longer."""
    clocks, runs = [FakeClock(), FakeClock()], []
    clocks[1].sleep(later_s)
    for rank, clock in enumerate(clocks):
        meter = ReplayMeter(
            [
                Device(
                    index=0,
                    uuid=f"GPU-{rank}",
                    name="GPU",
                    sensor=Sensor.REPLAY,
                    period_s=PERIOD_S,
                )
            ],
            Samples(
                times_s=np.arange(TICKS) * PERIOD_S,
                power_w=power_w(rank),
                temperature_c=np.full(TICKS, 40.0),
            ),
            clock=clock,
        )
        with Experiment(CONFIG, clock=clock, meter=meter, experiment_id="mine/1") as run:
            clock.sleep(window_s * (1 + rank / 10))
            run.record(input_tokens=8, output_tokens=2, latency_s=1.0)
        runs.append(run)
    result = aggregate_results(
        [
            attrs.evolve(run.result.process_results[0], process_index=rank)
            for rank, run in enumerate(runs)
        ],
        measurement_config_hash=runs[0].result.measurement_config_hash,
    )
    tables = [
        with_column(
            with_column(
                run.timeseries,
                "timestamp_s",
                column(run.timeseries, "timestamp_s") + later_s * rank,
            ),
            "gpu_index",
            np.full(run.timeseries.num_rows, rank),
        )
        for rank, run in enumerate(runs)
    ]
    return result, pa.concat_tables(tables).sort_by("timestamp_s")


def test_each_process_has_a_window_of_its_own() -> None:
    """And devices that the result numbers anew. A change in one is named with its process."""
    result, table = two_processes()
    assert [device.gpu_index for device in result.devices] == [0, 1]
    assert result.total_energy_j == pytest.approx(130 * 11.1 + 170 * 12.21, rel=0.02)

    found = audit(result, table)

    for rank in (0, 1):
        # Either process calls its device the first.
        name = f"process {rank} device 0 (GPU-{rank})"
        assert only(found, f"{name} integrated_j").agrees is True
        assert only(found, f"{name} sample_count").agrees is True
    assert only(found, "total_energy_j").agrees is True
    assert found.agrees
    for rank in (0, 1):
        path = ("process_results", rank, "devices", 0, "integrated_j")
        worse = audit(changed(result, path, lambda j: 1.01 * j), table)
        assert f"process {rank} device 0 (GPU-{rank}) integrated_j" in differing(worse)
        assert not any(name.startswith(f"process {1 - rank}") for name in differing(worse))


@given(later_s=st.floats(0, 2), window_s=st.floats(0.01, 0.2))
def test_the_edges_of_processes_are_dates(later_s: float, window_s: float) -> None:
    """Of whole microseconds: what is lost with them is no difference, however steep the power."""
    result, table = two_processes(
        later_s=later_s,
        window_s=window_s,
        power_w=lambda _: 1000.0 * (np.arange(TICKS) % 2),
    )

    assert differing(audit(result, table)) == []


def test_of_processes_that_share_a_device_the_largest_figure_counts() -> None:
    """Which the result takes, and does not add."""
    result, _ = two_processes()
    processes = [
        changed(process, ("devices", 0, "uuid"), lambda _: "GPU-0")
        for process in result.process_results
    ]
    shared = aggregate_results(processes, measurement_config_hash=result.measurement_config_hash)

    found = audit(shared, None)

    assert found.agrees
    assert only(found, "total_energy_j").recorded == shared.devices[0].energy_j
    smaller = changed(
        shared, ("devices", 0, "energy_j"), lambda _: processes[0].devices[0].energy_j
    )
    assert "devices[0].energy_j" in differing(audit(smaller, None))


def test_a_process_without_evidence_leaves_the_total_unchecked() -> None:
    """Its energy is in the total, and in no device."""
    result, table = two_processes()
    first, second = result.process_results
    bare = attrs.evolve(second, devices=())
    mixed = aggregate_results([first, bare], measurement_config_hash=result.measurement_config_hash)
    assert mixed.total_energy_j == result.total_energy_j

    found = audit(mixed, table)

    assert only(found, "total_energy_j").agrees is None
    assert only(found, "process 0 device 0 (GPU-0) integrated_j").agrees is True
    assert found.agrees


# A check


@pytest.mark.parametrize(
    ("recorded", "recomputed", "note", "agrees"),
    [
        (1.0, 1.0, "", True),
        (1.0, 1.1, "", True),
        (1.0, 1.2, "", False),
        (1.0, 0.8, "a note", False),
        (0.0, 0.0, "", True),
        (None, 1.0, "a note", False),
        (None, 0.0, "", False),
        (1.0, None, "", False),
        (1.0, None, "why", None),
        (None, None, "", None),
        (None, None, "why", None),
        (1.0, NAN, "a note", False),
    ],
)
def test_when_two_figures_agree(
    recorded: float | None, recomputed: float | None, note: str, agrees: bool | None
) -> None:
    """Within the tolerance. What cannot be computed anew, and says why, is not judged."""
    check = Check(name="x", recorded=recorded, recomputed=recomputed, tolerance=0.125, note=note)

    assert check.agrees is agrees
    assert Audit(checks=(check,)).agrees is (agrees is not False)
    assert Audit(checks=(check,)).complete is (recorded is None or agrees is not None)


# Several processes


@pytest.mark.parametrize("later_s", [0.0, 10.0, 60.0])
def test_several_processes_on_the_same_devices(run: Experiment, later_s: float) -> None:
    """Readings add up where they lie apart in time, and otherwise one counts."""
    (first,) = run.result.process_results
    step = timedelta(seconds=later_s)
    second = attrs.evolve(
        first,
        process_index=1,
        timestamps=attrs.evolve(
            first.timestamps, start=first.timestamps.start + step, end=first.timestamps.end + step
        ),
    )
    result = aggregate_results(
        [first, second], measurement_config_hash=run.result.measurement_config_hash
    )

    found = audit(result, None)

    total = only(found, "total_energy_j")
    assert total.agrees
    assert result.total_energy_j == pytest.approx(
        run.result.total_energy_j * (2 if later_s == 60 else 1)
    )
    assert differing(found) == []
    doubled = attrs.evolve(result, total_energy_j=1.01 * result.total_energy_j)
    assert "total_energy_j" in differing(audit(doubled, None))


def test_energies_that_cannot_be_summed_are_named(run: Experiment) -> None:
    """A record may hold what no float can add up."""
    (first,) = run.result.process_results
    large = tuple(attrs.evolve(device, energy_j=1e308) for device in first.devices)
    later = timedelta(seconds=60)
    window = attrs.evolve(
        first.timestamps, start=first.timestamps.start + later, end=first.timestamps.end + later
    )
    one = attrs.evolve(first, devices=large)
    two = attrs.evolve(one, process_index=1, timestamps=window)

    found = audit(attrs.evolve(run.result, process_results=(one, two)), None)

    assert "total_energy_j can be summed" in differing(found)
