"""Late aggregation: the raw data of all processes becomes one result."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.aggregate import aggregate_results, latency_statistics, percentile
from llem.codec import from_json, to_json
from llem.domain.efficiency import (
    BatchEfficiencyMetrics,
    ExtendedEfficiencyMetrics,
    GPUUtilisationMetrics,
    KVCacheEfficiencyMetrics,
    MemoryEfficiencyMetrics,
)
from llem.domain.energy import (
    BaselineMethod,
    DeviceEnergy,
    EnergyBreakdown,
    Sensor,
    ThermalThrottleInfo,
)
from llem.domain.latency import LatencyMeasurements, WarmupResult
from llem.domain.process import (
    ComputeMetrics,
    EnergyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from llem.domain.result import ExperimentResult
from llem.errors import AggregationError

START = datetime(2026, 3, 13, 14, 21, tzinfo=UTC)
HASH = "0123456789abcdef"


def aggregate(*processes: RawProcessResult, **options: Any) -> ExperimentResult:
    return aggregate_results(processes, measurement_config_hash=HASH, **options)


def device(uuid: str, energy_j: float | None = 100.0, **fields: Any) -> DeviceEnergy:
    own = {"gpu_index": 0, "name": "GPU", "sensor": Sensor.NVML_TOTAL_ENERGY}
    return DeviceEnergy(uuid=uuid, energy_j=energy_j, **(own | fields))


def process(
    index: int = 0,
    *,
    window: tuple[float, float] = (0.0, 60.0),
    tokens: tuple[int | None, int | None] = (100, 50),
    devices: tuple[DeviceEnergy, ...] | None = None,
    energy_j: float | None = 100.0,
    flops: float | None = 1e12,
    idle_w: float | None = None,
    latencies: LatencyMeasurements | None = None,
    **fields: Any,
) -> RawProcessResult:
    """One process, on a GPU of its own unless *devices* says more."""
    seconds = window[1] - window[0]
    total = 150 if None in tokens else sum(tokens)
    own: dict[str, Any] = {
        "experiment_id": "exp/1",
        "gpu_name": "GPU",
        "config_name": "mine",
        "model_name": "gpt2",
        "effective_config": {"model": "gpt2"},
        "energy_breakdown": EnergyBreakdown(
            baseline_power_w=idle_w,
            baseline_method=BaselineMethod.FRESH if idle_w else BaselineMethod.UNAVAILABLE,
        ),
    }
    return RawProcessResult(
        process_index=index,
        timestamps=Timestamps(
            start=START + timedelta(seconds=window[0]), end=START + timedelta(seconds=window[1])
        ),
        inference_metrics=InferenceMetrics(
            total_tokens=total,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            inference_time_sec=seconds,
            tokens_per_second=total / seconds if seconds else 0.0,
            latency_per_token_ms=0.0,
            latency_measurements=latencies,
        ),
        energy_metrics=EnergyMetrics(total_energy_j=energy_j, duration_sec=seconds),
        compute_metrics=ComputeMetrics(flops_total=flops),
        devices=(device(f"GPU-{index}", energy_j),) if devices is None else devices,
        **(own | fields),
    )


JOULES = st.none() | st.floats(0, 1e9)
SECONDS = st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6)
MILLISECONDS = st.lists(st.floats(0, 1e6), max_size=8).map(tuple)


@st.composite
def some_processes(draw: st.DrawFn, index: int = 0) -> RawProcessResult:
    """One process of a run, with whatever it may have measured."""
    begin = draw(SECONDS)
    counts = st.integers(0, 10**9)
    uuids = draw(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
    measured = st.builds(LatencyMeasurements, ttft_ms=MILLISECONDS, itl_full_ms=MILLISECONDS)
    return process(
        index,
        window=(begin, begin + draw(SECONDS)),
        tokens=draw(st.tuples(st.none() | counts, st.none() | counts)),
        devices=tuple(device(uuid, draw(JOULES)) for uuid in uuids),
        energy_j=draw(JOULES),
        flops=draw(st.none() | st.floats(0, 1e18)),
        idle_w=draw(st.none() | st.floats(0, 1000)),
        latencies=draw(st.none() | measured),
        per_request_latencies_ms=draw(MILLISECONDS),
        gpu_utilisation_samples=draw(st.lists(st.floats(0, 100), max_size=4).map(tuple)),
        thermal_throttle=draw(
            st.none() | st.builds(ThermalThrottleInfo, detected=st.booleans(), power=st.booleans())
        ),
    )


@st.composite
def runs(draw: st.DrawFn) -> list[RawProcessResult]:
    """The processes of one run, by index."""
    return [draw(some_processes(index)) for index in range(draw(st.integers(1, 4)))]


@given(runs(), st.randoms(use_true_random=False))
def test_order_of_processes_does_not_matter(run, random) -> None:
    """Ranks come back in any order."""
    shuffled = random.sample(run, len(run))

    assert aggregate(*shuffled) == aggregate(*run)


@given(runs())
def test_every_run_makes_a_valid_result(run) -> None:
    """It is constructed, which checks it, and read back equal from its text."""
    result = aggregate(*run)

    assert from_json(to_json(result)) == result
    assert list(result.process_results) == run


@given(some_processes())
def test_one_process_is_the_identity(one) -> None:
    """Nothing is lost or added where there is nothing to aggregate."""
    result = aggregate(one)

    metrics = one.inference_metrics
    assert result.total_tokens == metrics.total_tokens
    assert result.input_tokens == metrics.input_tokens
    assert result.output_tokens == metrics.output_tokens
    assert result.total_inference_time_sec == metrics.inference_time_sec
    assert result.avg_tokens_per_second == metrics.tokens_per_second
    assert result.total_flops == one.compute_metrics.flops_total
    assert result.devices == one.devices or len(one.devices) > 1
    assert result.thermal_throttle == one.thermal_throttle
    assert (result.start_time, result.end_time) == attrs.astuple(one.timestamps)
    if not one.devices:
        assert result.total_energy_j == one.energy_metrics.total_energy_j
    if len(one.devices) == 1:
        assert result.total_energy_j == one.devices[0].energy_j


def test_one_process_says_how_it_was_aggregated() -> None:
    """Overlap and attribution are not checked, which is not that they failed."""
    metadata = aggregate(process()).aggregation

    assert metadata.method == "single_process"
    assert metadata.num_processes == 1
    assert metadata.temporal_overlap_verified is None
    assert metadata.gpu_attribution_verified is None
    assert metadata.mean_process_tokens_per_second == 2.5
    assert metadata.warnings == ()


def test_what_is_passed_in_is_kept() -> None:
    """The caller's words stand in the result."""
    result = aggregate(
        process(window=(5, 65)),
        llem_version="9.9",
        measurement_methodology="steady_state",
        steady_state_window=(5.0, 65.0),
        start_time=START,
        measurement_warnings=iter(["no_baseline: none"]),
        warmup_excluded_samples=7,
        reproducibility_notes="notes",
    )

    assert result.measurement_config_hash == HASH
    assert result.llem_version == "9.9"
    assert result.measurement_methodology == "steady_state"
    assert result.steady_state_window == (5.0, 65.0)
    assert result.start_time == START
    assert result.duration_sec == 65
    assert result.measurement_warnings == ("no_baseline: none",)
    assert result.warmup_excluded_samples == 7
    assert result.reproducibility_notes == "notes"


def test_a_run_spans_all_windows() -> None:
    """From the first start to the last end."""
    result = aggregate(process(0, window=(5, 65)), process(1, window=(3, 60)))

    assert result.start_time == START + timedelta(seconds=3)
    assert result.end_time == START + timedelta(seconds=65)


# Tokens and FLOPs


def test_tokens_and_flops_are_summed() -> None:
    """Over processes, and ratios are of the sums."""
    result = aggregate(
        process(0, tokens=(100, 50), flops=3e12), process(1, tokens=(20, 10), flops=1e12)
    )

    assert (result.input_tokens, result.output_tokens, result.total_tokens) == (120, 60, 180)
    assert result.avg_tokens_per_second == 180 / 60
    assert result.avg_energy_per_token_j == 200 / 180
    assert result.total_flops == 4e12
    assert result.flops_per_input_token == 4e12 / 120
    assert result.flops_per_output_token == 4e12 / 60
    assert result.flops_per_second == 4e12 / 60
    assert result.aggregation.mean_process_tokens_per_second == (2.5 + 0.5) / 2


@pytest.mark.parametrize("index", [0, 1])
def test_tokens_are_unknown_where_one_process_does_not_know_them(index: int) -> None:
    """The total is known all the same."""
    known, unknown = process(1 - index), process(index, tokens=(None, 50))

    result = aggregate(known, unknown)

    assert result.input_tokens is None
    assert result.output_tokens == 100
    assert result.total_tokens == 300
    assert result.flops_per_input_token is None


@pytest.mark.parametrize("index", [0, 1])
def test_flops_are_unknown_where_one_process_does_not_know_them(index: int) -> None:
    """A sum without one of its terms is no sum."""
    result = aggregate(process(1 - index), process(index, flops=None))

    assert result.total_flops is None
    assert result.flops_per_second is None
    assert result.flops_per_output_token is None


def test_ratios_per_nothing_are_unknown() -> None:
    """A run without tokens and time divides by neither."""
    result = aggregate(process(tokens=(0, 0), window=(0, 0)))

    assert result.avg_energy_per_token_j is None
    assert result.flops_per_output_token is None
    assert result.flops_per_second is None
    assert result.avg_tokens_per_second == 0


# Energy


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


# Several GPUs


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


# Idle power


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


# Time


@pytest.mark.parametrize(
    ("windows", "seconds"),
    [
        ([(0, 60), (0, 60)], 60),
        ([(0, 60), (10, 50)], 60),
        ([(10, 50), (0, 60)], 60),
        ([(0, 60), (30, 90)], 90),
        ([(0, 10), (20, 30)], 20),
        ([(20, 30), (0, 10)], 20),
        ([(0, 10), (10, 20)], 20),
        ([(0, 60), (10, 20), (30, 70)], 70),
        ([(0, 10), (5, 5)], 10),
        ([(0, 0), (5, 5)], 0),
    ],
)
def test_concurrent_time_counts_once(windows, seconds: float) -> None:
    """The length of the union of all windows."""
    result = aggregate(*(process(i, window=window) for i, window in enumerate(windows)))

    assert result.total_inference_time_sec == pytest.approx(seconds)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=2, max_size=5))
def test_time_is_the_seconds_that_any_process_ran(spans) -> None:
    """Counted one by one."""
    run = [process(i, window=(begin, begin + long)) for i, (begin, long) in enumerate(spans)]
    seconds = {second for begin, long in spans for second in range(begin, begin + long)}

    assert aggregate(*run).total_inference_time_sec == pytest.approx(len(seconds))


@pytest.mark.parametrize(
    ("windows", "overlap"),
    [
        ([(0, 60), (0, 60)], True),
        ([(0, 60), (50, 70)], True),
        ([(0, 60), (50.1, 70)], False),
        ([(0, 60), (30, 90)], True),
        ([(0, 60), (30.1, 90)], False),
        ([(0, 60), (60, 120)], False),
        ([(0, 60), (100, 120)], False),
        ([(0, 60), (0, 60), (45, 105)], False),
    ],
)
def test_overlap_is_half_of_the_shortest(windows, overlap: bool) -> None:
    """Processes that did not run together were not one run; the result says so."""
    metadata = aggregate(
        *(process(i, window=window) for i, window in enumerate(windows))
    ).aggregation

    assert metadata.temporal_overlap_verified is overlap
    assert ("did not run at the same time" in " ".join(metadata.warnings)) is not overlap
    assert metadata.method == "late_aggregation"
    assert metadata.num_processes == len(windows)


@pytest.mark.parametrize(
    ("uuids", "attributed"),
    [(["a", "b"], True), (["a", "a"], False), (["a", ""], None), (["", ""], None)],
)
def test_attribution(uuids, attributed) -> None:
    """Each device to one process. Without evidence that is not known."""
    run = [process(i, devices=(device(x),) if x else ()) for i, x in enumerate(uuids)]

    metadata = aggregate(*run).aggregation

    assert metadata.gpu_attribution_verified is attributed
    assert ("shared a device" in " ".join(metadata.warnings)) is (attributed is False)


# Latencies


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0, 0.5, 0.95, 0.99, 1])
)
def test_percentile_is_numpys(values, share: float) -> None:
    """Type 7, linear between closest ranks."""
    numpy = pytest.importorskip("numpy")

    assert percentile(sorted(values), share) == pytest.approx(
        float(numpy.percentile(values, 100 * share)), rel=1e-12, abs=1e-300
    )


def expected(numpy: Any, name: str, values: list[float]) -> dict[str, float]:
    """What numpy says of *values*; nothing where there are none."""
    percents = {"median": 50, "p95": 95, "p99": 99}
    if not values:
        return {}
    return {
        f"{name}_mean_ms": math.fsum(values) / len(values),
        f"{name}_min_ms": min(values),
        f"{name}_max_ms": max(values),
        f"{name}_samples": len(values),
        **{f"{name}_{key}_ms": float(numpy.percentile(values, p)) for key, p in percents.items()},
    }


def known(record: Any) -> dict[str, float]:
    """The fields of *record* that say something."""
    fields = attrs.asdict(record)
    return {key: x for key, x in fields.items() if x is not None and (x or isinstance(x, float))}


@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS, MILLISECONDS), min_size=1, max_size=4))
def test_statistics_are_those_of_the_concatenated_values(parts) -> None:
    """Not means of the processes' own statistics."""
    numpy = pytest.importorskip("numpy")
    run = [
        process(
            i,
            latencies=LatencyMeasurements(ttft_ms=ttft, itl_full_ms=itl),
            per_request_latencies_ms=whole,
        )
        for i, (ttft, itl, whole) in enumerate(parts)
    ]

    result = aggregate(*run)

    ttft, itl, whole = ([x for part in parts for x in part[column]] for column in range(3))
    wanted = expected(numpy, "ttft", ttft) | expected(numpy, "itl", itl)
    if wanted:
        assert known(result.latency_stats) == pytest.approx(wanted, rel=1e-12, abs=1e-300)
    else:
        assert result.latency_stats is None
    wanted = expected(numpy, "e2e_latency", whole)
    wanted = {key: wanted[key] for key in wanted if not key.endswith(("min_ms", "max_ms"))}
    assert known(result.extended_metrics.request_latency) == pytest.approx(
        wanted, rel=1e-12, abs=1e-300
    )


def test_latencies_of_a_process_without_any_are_left_out() -> None:
    """One process streamed, the other did not."""
    measured = LatencyMeasurements(ttft_ms=(1.0, 3.0), itl_full_ms=(2.0, 4.0, 9.0))

    stats = aggregate(process(0, latencies=measured), process(1)).latency_stats

    assert (stats.ttft_min_ms, stats.ttft_mean_ms, stats.ttft_max_ms) == (1, 2, 3)
    assert (stats.itl_min_ms, stats.itl_mean_ms, stats.itl_median_ms, stats.itl_max_ms) == (
        2,
        5,
        4,
        9,
    )
    assert (stats.ttft_samples, stats.itl_samples) == (2, 3)


def test_no_latencies_are_no_statistics() -> None:
    """Nothing measured, or only one of the two kinds."""
    assert latency_statistics([]) is None
    assert latency_statistics([None, LatencyMeasurements()]) is None
    only_first = latency_statistics([LatencyMeasurements(ttft_ms=(5.0,))])
    assert only_first is not None
    assert (only_first.ttft_p99_ms, only_first.itl_mean_ms, only_first.itl_samples) == (5, None, 0)


def test_time_per_output_token_is_the_mean_interval() -> None:
    """Over the intervals of all processes."""
    run = [
        process(0, latencies=LatencyMeasurements(itl_full_ms=(1.0, 2.0))),
        process(1, latencies=LatencyMeasurements(itl_full_ms=(9.0,))),
    ]

    assert aggregate(*run).extended_metrics.tpot_ms == 4
    assert aggregate(process()).extended_metrics.tpot_ms is None


# Throttling and warmup

FLAGS = ("detected", "thermal", "power", "sw_thermal", "hw_thermal", "hw_power")


@pytest.mark.parametrize("flag", FLAGS)
def test_throttle_flags_are_ored(flag: str) -> None:
    """Each on its own."""
    run = [
        process(0, thermal_throttle=ThermalThrottleInfo()),
        process(1, thermal_throttle=ThermalThrottleInfo(**{flag: True})),
        process(2),
    ]

    together = aggregate(*run).thermal_throttle

    assert [name for name in FLAGS if getattr(together, name)] == [flag]


def test_throttle_maxima() -> None:
    """Longest, hottest, and every moment once."""
    run = [
        process(
            i,
            thermal_throttle=ThermalThrottleInfo(
                throttle_duration_sec=seconds, max_temperature_c=celsius, throttle_timestamps=at
            ),
        )
        for i, (seconds, celsius, at) in enumerate(
            [(3.0, None, (5.0, 1.0)), (1.0, 80.0, (1.0, 2.0)), (2.0, 70.0, ())]
        )
    ]

    together = aggregate(*run).thermal_throttle

    assert together.throttle_duration_sec == 3
    assert together.max_temperature_c == 80
    assert together.throttle_timestamps == (1.0, 2.0, 5.0)


def test_throttling_that_nobody_looked_for_is_unknown() -> None:
    """None is not False."""
    assert aggregate(process(0), process(1)).thermal_throttle is None


def warmup(**fields: Any) -> WarmupResult:
    own = {"converged": True, "iterations_completed": 5, "target_cv": 0.05, "max_prompts": 20}
    return WarmupResult(**(own | fields))


def test_the_warmup_that_settled_least_stands_for_all() -> None:
    """One that did not converge before one that did, then the larger variation."""
    settled, less = warmup(final_cv=0.01), warmup(final_cv=0.04)
    unsettled = warmup(converged=False, final_cv=0.02)

    def of(*warmups: WarmupResult | None) -> WarmupResult | None:
        run = (process(i, warmup_result=one) for i, one in enumerate(warmups))
        return aggregate(*run).warmup_result

    assert of(settled, less) == less
    assert of(less, unsettled, settled) == unsettled
    assert of(settled) == settled
    assert of(settled, None) is None


# Efficiency


def batches(size: float | None, utilised: float | None, padding: float | None, n: int | None):
    return ExtendedEfficiencyMetrics(
        batch=BatchEfficiencyMetrics(
            effective_batch_size=size,
            batch_utilisation=utilised,
            padding_overhead=padding,
            num_batches=n,
        )
    )


def of_batches(*metrics: ExtendedEfficiencyMetrics) -> BatchEfficiencyMetrics:
    run = (process(i, extended_metrics=one) for i, one in enumerate(metrics))
    return aggregate(*run).extended_metrics.batch


def test_batch_means_are_weighted_by_their_batches() -> None:
    """Three batches count three times as much as one."""
    together = of_batches(batches(8.0, 1.0, 0.0, 3), batches(4.0, 0.5, 0.4, 1))

    assert together.effective_batch_size == 7
    assert together.batch_utilisation == 0.875
    assert together.padding_overhead == pytest.approx(0.1)
    assert together.num_batches == 4


def test_batches_of_one_process_are_as_it_says() -> None:
    """Also where it does not say how many there were."""
    one = batches(8.0, None, 0.25, None)

    assert of_batches(one) == one.batch


def test_an_unknown_mean_of_batches_stays_unknown() -> None:
    """One process did not know its padding, another ran no batch at all."""
    together = of_batches(
        batches(8.0, 1.0, None, 3), batches(4.0, 0.5, 0.4, 1), batches(None, None, None, 0)
    )

    assert together.padding_overhead is None
    assert together.effective_batch_size == 7
    assert together.num_batches == 4


def test_an_unknown_number_of_batches_stays_unknown() -> None:
    """None is not 0, and without weights there is no weighted mean."""
    for unknown in (batches(8.0, 1.0, 0.0, None), batches(None, None, None, None)):
        assert of_batches(unknown, batches(4.0, 0.5, 0.4, 1)) == BatchEfficiencyMetrics()
        assert of_batches(unknown, unknown) == BatchEfficiencyMetrics()


def test_memory_is_the_highest() -> None:
    """Of each process; tokens are set against the memory of all."""
    run = [
        process(
            i,
            extended_metrics=ExtendedEfficiencyMetrics(
                memory=MemoryEfficiencyMetrics(total_vram_mb=1024.0, peak_memory_mb=peak)
            ),
        )
        for i, peak in enumerate([None, 300.0, 200.0])
    ]

    memory = aggregate(*run).extended_metrics.memory

    assert memory.peak_memory_mb == 300
    assert memory.kv_cache_mb is None
    assert memory.tokens_per_gb_vram == 450 / 3
    assert aggregate(process()).extended_metrics.memory == MemoryEfficiencyMetrics()


def test_utilisation_is_the_mean_of_all_samples() -> None:
    """Not the mean of means; without samples a single process's own figure stands."""
    own = ExtendedEfficiencyMetrics(
        gpu_utilisation=GPUUtilisationMetrics(
            sm_utilisation_mean=55.0, memory_bandwidth_utilisation=30.0
        )
    )
    sampled = [
        process(0, gpu_utilisation_samples=(10.0, 20.0, 30.0), extended_metrics=own),
        process(1, gpu_utilisation_samples=(100.0,)),
    ]

    together = aggregate(*sampled).extended_metrics.gpu_utilisation

    assert together.sm_utilisation_mean == 40
    assert together.sm_utilisation_samples == 4
    assert together.memory_bandwidth_utilisation == 30
    alone = aggregate(process(extended_metrics=own)).extended_metrics
    assert alone.gpu_utilisation == own.gpu_utilisation


def test_what_cannot_be_aggregated_is_kept_of_one_process_only() -> None:
    """The KV cache and an index that other tools write."""
    own = ExtendedEfficiencyMetrics(
        token_efficiency_index=1.5, kv_cache=KVCacheEfficiencyMetrics(kv_cache_hit_rate=0.5)
    )

    alone = aggregate(process(0, extended_metrics=own)).extended_metrics
    both = aggregate(*(process(i, extended_metrics=own) for i in range(2))).extended_metrics

    assert (alone.token_efficiency_index, alone.kv_cache) == (1.5, own.kv_cache)
    assert (both.token_efficiency_index, both.kv_cache) == (None, KVCacheEfficiencyMetrics())


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("experiment_id", "exp/2"),
        ("model_name", "gpt3"),
        ("effective_config", {"model": "gpt2", "n": 1}),
        ("backend", "vllm"),
    ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_processes_of_several_runs_are_refused(field: str, value, index: int) -> None:
    """The field that differs is named, and between whom."""
    run = [process(i, **({field: value} if i == index else {})) for i in range(3)]

    with pytest.raises(AggregationError, match=f"^{field} differs between process 0 and") as raised:
        aggregate(*run)

    assert f"and {index or 1}: they are not of one run" in str(raised.value)


def test_mixed_backends_are_taken_by_name_only() -> None:
    """Each process keeps its own."""
    run = [process(0), process(1, backend="vllm")]

    result = aggregate(*run, allow_mixed_backends=True)

    assert result.backend == "pytorch"
    assert [one.backend for one in result.process_results] == ["pytorch", "vllm"]
    with pytest.raises(AggregationError, match="experiment_id"):
        aggregate(process(0), process(1, experiment_id="exp/2"), allow_mixed_backends=True)


def test_a_process_twice_is_refused() -> None:
    """Its tokens would count twice."""
    with pytest.raises(AggregationError, match=r"process_index must be distinct, got \[0, 1, 1\]"):
        aggregate(process(1), process(0), process(1))


def test_no_process_is_refused() -> None:
    """Nothing makes no result."""
    with pytest.raises(AggregationError, match="no process"):
        aggregate()
