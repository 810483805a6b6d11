"""
Late aggregation: the raw data of all processes into one result, statistics computed once.

The only place that builds an `ExperimentResult` from measurements, for one process as for many.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import attrs

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
    MultiGPUMetrics,
    Sensor,
    ThermalThrottleInfo,
)
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.latency import LatencyMeasurements, LatencyStatistics, WarmupResult
from llem.domain.process import RawProcessResult
from llem.domain.result import AggregationMetadata, ExperimentResult, Methodology
from llem.errors import AggregationError

MIN_OVERLAP = 0.5
"""Share of the shortest window that all processes must have in common to have run together."""

T = TypeVar("T", int, float)


def aggregate_results(
    processes: Sequence[RawProcessResult],
    *,
    measurement_config_hash: str,
    llem_version: str | None = None,
    measurement_methodology: Methodology = "total",
    steady_state_window: tuple[float, float] | None = None,
    start_time: datetime | None = None,
    environment_snapshot: EnvironmentSnapshot | None = None,
    measurement_warnings: Iterable[str] = (),
    warmup_excluded_samples: int | None = None,
    reproducibility_notes: str = "",
    allow_mixed_backends: bool = False,
) -> ExperimentResult:
    """
    One result from what each process measured. Their order does not matter.

    Energy is summed over distinct devices, tokens and FLOPs over processes; concurrent time counts
    once; percentiles are taken over the concatenated raw values.

    Args:
        processes: What each process measured.
        measurement_config_hash: Hash of their configuration.
        llem_version: The llem that measures.
        measurement_methodology: What span the figures cover.
        steady_state_window: (start, end) of that span. Unit: s from the start.
        start_time: Start of the run, where it is earlier than that of the first window.
        environment_snapshot: The machine and the software.
        measurement_warnings: What makes the figures less than they seem.
        warmup_excluded_samples: Requests before the span.
        reproducibility_notes: Accuracy of the sensor that was used.
        allow_mixed_backends: Take processes of several backends together.

    Raises:
        AggregationError: There is no process, or they are not of one run.
    """
    ordered = sorted(processes, key=lambda process: process.process_index)
    _check_one_run(ordered, allow_mixed_backends)
    devices = _distinct_devices(ordered)
    energy_j = _total_energy(ordered, devices)
    time_s = wall_clock_sec(ordered)
    tokens = sum(process.inference_metrics.total_tokens for process in ordered)
    inputs = _sum_known(process.inference_metrics.input_tokens for process in ordered)
    outputs = _sum_known(process.inference_metrics.output_tokens for process in ordered)
    flops = _sum_known(process.compute_metrics.flops_total for process in ordered)
    breakdown = _breakdown(ordered, energy_j)
    first = ordered[0]
    return ExperimentResult(
        experiment_id=first.experiment_id,
        measurement_config_hash=measurement_config_hash,
        llem_version=llem_version,
        backend=first.backend,
        backend_version=first.backend_version,
        measurement_methodology=measurement_methodology,
        steady_state_window=steady_state_window,
        total_tokens=tokens,
        input_tokens=inputs,
        output_tokens=outputs,
        total_energy_j=energy_j,
        total_inference_time_sec=time_s,
        avg_tokens_per_second=tokens / time_s if time_s else 0.0,
        avg_energy_per_token_j=_ratio(energy_j, tokens),
        total_flops=flops,
        flops_per_output_token=_ratio(flops, outputs),
        flops_per_input_token=_ratio(flops, inputs),
        flops_per_second=_ratio(flops, time_s),
        baseline_power_w=breakdown.baseline_power_w if breakdown else None,
        energy_adjusted_j=breakdown.adjusted_j if breakdown else None,
        energy_per_device_j=_per_device(devices),
        energy_breakdown=breakdown,
        devices=devices,
        multi_gpu=_multi_gpu(devices, outputs),
        environment_snapshot=environment_snapshot,
        measurement_warnings=tuple(measurement_warnings),
        warmup_excluded_samples=warmup_excluded_samples,
        reproducibility_notes=reproducibility_notes,
        start_time=start_time or min(process.timestamps.start for process in ordered),
        end_time=max(process.timestamps.end for process in ordered),
        effective_config=first.effective_config,
        aggregation=_metadata(ordered),
        thermal_throttle=_throttle(ordered),
        warmup_result=_warmup(ordered),
        latency_stats=latency_statistics(
            [p.inference_metrics.latency_measurements for p in ordered]
        ),
        extended_metrics=_extended(ordered, tokens),
        process_results=tuple(ordered),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """
    The value below which *share* of the sorted values *ordered* lie, interpolated linearly.

    Type 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996.

    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    low, high, part = ordered[below], ordered[above], position - below
    if part < 0.5:
        return low + (high - low) * part
    return high - (high - low) * (1 - part)


def latency_statistics(
    measurements: Sequence[LatencyMeasurements | None],
) -> LatencyStatistics | None:
    """
    Statistics over the concatenated token latencies of all processes.

    Inter-token latencies are all of them, first and last interval included. None where nothing was
    measured.
    """
    known = [measured for measured in measurements if measured is not None]
    ttft = sorted(value for measured in known for value in measured.ttft_ms)
    itl = sorted(value for measured in known for value in measured.itl_full_ms)
    if not ttft and not itl:
        return None
    return LatencyStatistics(**_summary("ttft", ttft), **_summary("itl", itl))


def _summary(name: str, ordered: list[float]) -> dict[str, Any]:
    if not ordered:
        return {}
    return {
        f"{name}_mean_ms": math.fsum(ordered) / len(ordered),
        f"{name}_median_ms": percentile(ordered, 0.5),
        f"{name}_p95_ms": percentile(ordered, 0.95),
        f"{name}_p99_ms": percentile(ordered, 0.99),
        f"{name}_min_ms": ordered[0],
        f"{name}_max_ms": ordered[-1],
        f"{name}_samples": len(ordered),
    }


def _check_one_run(processes: list[RawProcessResult], allow_mixed_backends: bool) -> None:
    if not processes:
        raise AggregationError("there is no process to aggregate")
    indices = [process.process_index for process in processes]
    if len(set(indices)) != len(indices):
        raise AggregationError(f"process_index must be distinct, got {indices}")
    fields = ["experiment_id", "model_name", "effective_config"]
    for name in fields if allow_mixed_backends else [*fields, "backend"]:
        for process in processes[1:]:
            if getattr(process, name) != getattr(processes[0], name):
                raise AggregationError(
                    f"{name} differs between process {indices[0]} and "
                    f"{process.process_index}: they are not of one run"
                )


def _distinct_devices(processes: list[RawProcessResult]) -> tuple[DeviceEnergy, ...]:
    """Each device once; of several readings of one, the largest, which covers the longest span."""
    by_uuid: dict[str, DeviceEnergy] = {}
    for device in (device for process in processes for device in process.devices):
        known = by_uuid.get(device.uuid)
        if known is None or _rank(device.energy_j) > _rank(known.energy_j):
            by_uuid[device.uuid] = device
    devices = tuple(by_uuid.values())
    if len({device.gpu_index for device in devices}) == len(devices):
        return devices
    return tuple(attrs.evolve(device, gpu_index=i) for i, device in enumerate(devices))


def _total_energy(
    processes: list[RawProcessResult], devices: tuple[DeviceEnergy, ...]
) -> float | None:
    """Over distinct devices; a process without evidence of any counts as one of its own."""
    by_source: dict[str | int, float | None] = {}
    for process in (process for process in processes if not process.devices):
        source = process.gpu_uuid or process.process_index
        energies = by_source.get(source), process.energy_metrics.total_energy_j
        by_source[source] = max(energies, key=_rank)
    return _sum_known((by_source | {device.uuid: device.energy_j for device in devices}).values())


def _rank(energy_j: float | None) -> float:
    """Ranks readings of one device: none at all below one of 0."""
    return -1.0 if energy_j is None else energy_j


def wall_clock_sec(processes: Sequence[RawProcessResult]) -> float:
    """
    Length of the union of the windows of *processes*: concurrent time counts once. Unit: s.

    Of one process it is the time by the monotonic clock.
    """
    if len(processes) == 1:
        return processes[0].inference_metrics.inference_time_sec
    total, covered = 0.0, None
    for window in sorted((p.timestamps for p in processes), key=lambda w: w.start):
        begin = window.start if covered is None else max(window.start, covered)
        total += max(0.0, (window.end - begin).total_seconds())
        covered = window.end if covered is None else max(window.end, covered)
    return total


def _breakdown(processes: list[RawProcessResult], energy_j: float | None) -> EnergyBreakdown | None:
    """Energy less the idle share, each set of devices once. None where nothing was measured."""
    known = [process for process in processes if process.energy_breakdown is not None]
    if not known:
        return None
    metering = _by_devices(processes)
    idle_w = _sum_known(_idle_power(process) for process in metering)
    idle_j = _sum_known(_idle_energy(process) for process in metering)
    adjusted_j = None if energy_j is None or idle_j is None else energy_j - idle_j
    if len(processes) == 1 and (first := known[0].energy_breakdown):
        return attrs.evolve(first, raw_j=energy_j, adjusted_j=adjusted_j, baseline_power_w=idle_w)
    return EnergyBreakdown(
        raw_j=energy_j,
        adjusted_j=adjusted_j,
        baseline_power_w=idle_w,
        baseline_method=None if idle_w is None else _baseline_method(known),
    )


def _by_devices(processes: list[RawProcessResult]) -> list[RawProcessResult]:
    """
    For each set of devices, the process that metered it longest.

    Empty where two sets share a part only: their idle power cannot be told apart.
    """
    longest_last = sorted(processes, key=lambda process: process.energy_metrics.duration_sec)
    groups = {_metered(process): process for process in longest_last}
    distinct = frozenset[str | int]().union(*groups)
    return [*groups.values()] if len(distinct) == sum(map(len, groups)) else []


def _metered(process: RawProcessResult) -> frozenset[str | int]:
    uuids = frozenset(device.uuid for device in process.devices)
    return uuids or frozenset([process.gpu_uuid or process.process_index])


def _idle_power(process: RawProcessResult) -> float | None:
    return process.energy_breakdown.baseline_power_w if process.energy_breakdown else None


def _idle_energy(process: RawProcessResult) -> float | None:
    return _product(_idle_power(process), process.energy_metrics.duration_sec)


def _baseline_method(processes: list[RawProcessResult]) -> BaselineMethod | None:
    methods = {p.energy_breakdown.baseline_method for p in processes if p.energy_breakdown}
    return methods.pop() if len(methods) == 1 else BaselineMethod.CACHED


def _per_device(devices: tuple[DeviceEnergy, ...]) -> tuple[float, ...] | None:
    known = tuple(device.energy_j for device in devices if device.energy_j is not None)
    return known if devices and len(known) == len(devices) else None


def _multi_gpu(devices: tuple[DeviceEnergy, ...], outputs: int | None) -> MultiGPUMetrics | None:
    gpus = tuple(device for device in devices if device.sensor is not Sensor.RAPL)
    energies = _per_device(gpus)
    if len(gpus) < 2 or energies is None:
        return None
    total_j = math.fsum(energies)
    return MultiGPUMetrics(
        num_gpus=len(gpus),
        energy_per_gpu_j=energies,
        energy_total_j=total_j,
        energy_per_output_token_j=_ratio(total_j, outputs),
    )


def _metadata(processes: list[RawProcessResult]) -> AggregationMetadata:
    rates = [process.inference_metrics.tokens_per_second for process in processes]
    if len(processes) == 1:
        return AggregationMetadata(
            method="single_process", num_processes=1, mean_process_tokens_per_second=rates[0]
        )
    overlaps, attributed = _overlap(processes), _attributed(processes)
    warnings = []
    if not overlaps:
        warnings.append("the processes did not run at the same time")
    if attributed is False:
        warnings.append("processes shared a device, whose energy is counted once")
    return AggregationMetadata(
        method="late_aggregation",
        num_processes=len(processes),
        temporal_overlap_verified=overlaps,
        gpu_attribution_verified=attributed,
        mean_process_tokens_per_second=math.fsum(rates) / len(rates),
        warnings=tuple(warnings),
    )


def _overlap(processes: list[RawProcessResult]) -> bool:
    windows = [process.timestamps for process in processes]
    common = min(w.end for w in windows) - max(w.start for w in windows)
    shortest = min(w.duration_sec for w in windows)
    return common.total_seconds() >= MIN_OVERLAP * shortest


def _attributed(processes: list[RawProcessResult]) -> bool | None:
    uuids = [device.uuid for process in processes for device in process.devices]
    if not all(process.devices for process in processes):
        return None
    return len(set(uuids)) == len(uuids)


def _throttle(processes: list[RawProcessResult]) -> ThermalThrottleInfo | None:
    known = [p.thermal_throttle for p in processes if p.thermal_throttle is not None]
    if not known:
        return None
    return ThermalThrottleInfo(
        detected=any(info.detected for info in known),
        thermal=any(info.thermal for info in known),
        power=any(info.power for info in known),
        sw_thermal=any(info.sw_thermal for info in known),
        hw_thermal=any(info.hw_thermal for info in known),
        hw_power=any(info.hw_power for info in known),
        throttle_duration_sec=max(info.throttle_duration_sec for info in known),
        max_temperature_c=_max_known(info.max_temperature_c for info in known),
        throttle_timestamps=tuple(sorted({t for info in known for t in info.throttle_timestamps})),
    )


def _warmup(processes: list[RawProcessResult]) -> WarmupResult | None:
    """The warmup that settled least; None unless every process warmed up."""
    known = [p.warmup_result for p in processes if p.warmup_result is not None]
    if len(known) < len(processes):
        return None
    return max(known, key=lambda warmup: (not warmup.converged, warmup.final_cv or 0.0))


def _extended(processes: list[RawProcessResult], tokens: int) -> ExtendedEfficiencyMetrics:
    known = [p.extended_metrics for p in processes if p.extended_metrics is not None]
    latencies = sorted(value for p in processes for value in p.per_request_latencies_ms)
    return ExtendedEfficiencyMetrics(
        tpot_ms=_tpot(processes),
        token_efficiency_index=known[0].token_efficiency_index if len(known) == 1 else None,
        memory=_memory([metrics.memory for metrics in known], tokens),
        gpu_utilisation=_utilisation(processes, [metrics.gpu_utilisation for metrics in known]),
        batch=_batch([metrics.batch for metrics in known]),
        kv_cache=known[0].kv_cache if len(known) == 1 else KVCacheEfficiencyMetrics(),
        request_latency=_request_latency(latencies),
    )


def _tpot(processes: list[RawProcessResult]) -> float | None:
    """Mean time per output token after the first: the mean of all inter-token latencies."""
    measured = [p.inference_metrics.latency_measurements for p in processes]
    itl = [value for m in measured if m is not None for value in m.itl_full_ms]
    return math.fsum(itl) / len(itl) if itl else None


def _memory(known: list[MemoryEfficiencyMetrics], tokens: int) -> MemoryEfficiencyMetrics:
    highest = {
        field.name: _max_known(getattr(memory, field.name) for memory in known)
        for field in attrs.fields(MemoryEfficiencyMetrics)
    }
    total_mb = _sum_known(memory.total_vram_mb for memory in known) if known else None
    highest["tokens_per_gb_vram"] = tokens / (total_mb / 1024) if total_mb else None
    return MemoryEfficiencyMetrics(**highest)


def _utilisation(
    processes: list[RawProcessResult], known: list[GPUUtilisationMetrics]
) -> GPUUtilisationMetrics:
    samples = [value for p in processes for value in p.gpu_utilisation_samples]
    if not samples:
        return known[0] if len(known) == 1 else GPUUtilisationMetrics()
    return GPUUtilisationMetrics(
        sm_utilisation_mean=math.fsum(samples) / len(samples),
        sm_utilisation_samples=len(samples),
        memory_bandwidth_utilisation=_max_known(u.memory_bandwidth_utilisation for u in known),
    )


def _batch(known: list[BatchEfficiencyMetrics]) -> BatchEfficiencyMetrics:
    """Means weighted by the batches behind them; None where their number is not known."""
    if len(known) == 1:
        return known[0]
    batches = _sum_known(metrics.num_batches for metrics in known)
    weighing = [metrics for metrics in known if metrics.num_batches] if batches else []

    def weighted(read: Callable[[BatchEfficiencyMetrics], float | None]) -> float | None:
        return _ratio(_sum_known(_product(read(m), m.num_batches) for m in weighing), batches)

    return BatchEfficiencyMetrics(
        effective_batch_size=weighted(lambda m: m.effective_batch_size),
        batch_utilisation=weighted(lambda m: m.batch_utilisation),
        padding_overhead=weighted(lambda m: m.padding_overhead),
        num_batches=batches,
    )


def _request_latency(ordered: list[float]) -> RequestLatencyMetrics:
    if not ordered:
        return RequestLatencyMetrics()
    return RequestLatencyMetrics(
        e2e_latency_mean_ms=math.fsum(ordered) / len(ordered),
        e2e_latency_median_ms=percentile(ordered, 0.5),
        e2e_latency_p95_ms=percentile(ordered, 0.95),
        e2e_latency_p99_ms=percentile(ordered, 0.99),
        e2e_latency_samples=len(ordered),
    )


def _ratio(value: float | None, per: float | None) -> float | None:
    return value / per if value is not None and per else None


def _product(value: float | None, times: float | None) -> float | None:
    return None if value is None or times is None else value * times


def _sum_known(values: Iterable[T | None]) -> T | None:
    """Their sum; None where one is not known, or there is none."""
    known: list[Any] = list(values)
    if not known or None in known:
        return None
    total: Any = math.fsum(known) if isinstance(known[0], float) else sum(known)
    return total  # type: ignore[no-any-return]


def _max_known(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
