"""The processes of a run, as their ranks would leave them, and their aggregation."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from llem.aggregate import aggregate_results
from llem.domain.efficiency import (
    BatchEfficiencyMetrics,
    ExtendedEfficiencyMetrics,
    GPUUtilisationMetrics,
    KVCacheEfficiencyMetrics,
    MemoryEfficiencyMetrics,
    RequestLatencyMetrics,
)
from llem.domain.energy import (
    BaselineMethod,
    DeviceEnergy,
    EnergyBreakdown,
    Sensor,
    ThermalThrottleInfo,
)
from llem.domain.latency import LatencyMeasurements
from llem.domain.process import (
    ComputeMetrics,
    EnergyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from llem.domain.result import ExperimentResult

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


def some_metrics() -> st.SearchStrategy[ExtendedEfficiencyMetrics]:
    """Summaries of moderate size, as much of them as a process may know."""
    figure, count = st.none() | st.floats(0, 1e6), st.none() | st.integers(0, 1000)
    share = st.none() | st.floats(0, 1)
    return st.builds(
        ExtendedEfficiencyMetrics,
        tpot_ms=figure,
        memory=st.builds(
            MemoryEfficiencyMetrics, total_vram_mb=figure, peak_memory_mb=figure, kv_cache_mb=figure
        ),
        gpu_utilisation=st.builds(
            GPUUtilisationMetrics,
            sm_utilisation_mean=figure,
            sm_utilisation_samples=st.integers(0, 1000),
            memory_bandwidth_utilisation=figure,
        ),
        batch=st.builds(
            BatchEfficiencyMetrics,
            effective_batch_size=figure,
            padding_overhead=share,
            num_batches=count,
        ),
        kv_cache=st.builds(
            KVCacheEfficiencyMetrics, kv_cache_hit_rate=share, kv_cache_blocks_used=count
        ),
        request_latency=st.builds(
            RequestLatencyMetrics,
            e2e_latency_mean_ms=figure,
            e2e_latency_samples=st.integers(0, 1000),
        ),
    )


@st.composite
def some_processes(draw: st.DrawFn, index: int = 0) -> RawProcessResult:
    """One process of a run, with whatever it may have measured."""
    begin = draw(SECONDS)
    counts = st.integers(0, 10**9)
    window = begin, begin + draw(SECONDS)
    uuids = draw(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
    measured = st.builds(LatencyMeasurements, ttft_ms=MILLISECONDS, itl_full_ms=MILLISECONDS)
    return process(
        index,
        window=window,
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
        extended_metrics=draw(st.none() | some_metrics()),
        gpu_uuid=draw(st.none() | st.sampled_from("abc")),
    )


@st.composite
def runs(draw: st.DrawFn) -> list[RawProcessResult]:
    """The processes of one run, by index."""
    return [draw(some_processes(index)) for index in range(draw(st.integers(1, 4)))]
