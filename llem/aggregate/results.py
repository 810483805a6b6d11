"""Processes into one result."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from llem.aggregate.conditions import thermal_throttle, warmup_result
from llem.aggregate.devices import count_readings, devices_of
from llem.aggregate.efficiency import extended_metrics
from llem.aggregate.energy import (
    energy_breakdown,
    energy_per_device_j,
    multi_gpu_metrics,
    total_energy_j,
)
from llem.aggregate.latency import latency_statistics
from llem.aggregate.metadata import aggregation_metadata
from llem.aggregate.unknown import ratio, total
from llem.aggregate.windows import wall_clock_sec
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.process import RawProcessResult
from llem.domain.result import ClockOffset, ExperimentResult, Methodology
from llem.errors import AggregationError


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
    clock_offsets: Iterable[ClockOffset] = (),
    aggregation_warnings: Iterable[str] = (),
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
        clock_offsets: How far the clocks of other machines than that of process 0 were off.
        aggregation_warnings: What was met before aggregating; what it meets itself comes after.

    Raises:
        AggregationError: There is no process, they are not of one run, or a sum of theirs is larger
            than a float can be.
    """
    ordered = sorted(processes, key=lambda process: process.process_index)
    _check_one_run(ordered, allow_mixed_backends)
    first, counted = ordered[0], count_readings(ordered)
    devices, energy_j = devices_of(counted), total_energy_j(counted)
    breakdown = energy_breakdown(ordered, counted, energy_j)
    metrics = [process.inference_metrics for process in ordered]
    time_s = wall_clock_sec(ordered)
    tokens = sum(one.total_tokens for one in metrics)
    inputs = total((one.input_tokens for one in metrics), "input_tokens")
    outputs = total((one.output_tokens for one in metrics), "output_tokens")
    flops = total((process.compute_metrics.flops_total for process in ordered), "total_flops")
    latencies = latency_statistics([one.latency_measurements for one in metrics])
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
        avg_tokens_per_second=_tokens_per_second(ordered, tokens, time_s),
        avg_energy_per_token_j=ratio(energy_j, tokens),
        total_flops=flops,
        flops_per_output_token=ratio(flops, outputs),
        flops_per_input_token=ratio(flops, inputs),
        flops_per_second=ratio(flops, time_s),
        baseline_power_w=breakdown.baseline_power_w if breakdown else None,
        energy_adjusted_j=breakdown.adjusted_j if breakdown else None,
        energy_per_device_j=energy_per_device_j(devices),
        energy_breakdown=breakdown,
        devices=devices,
        multi_gpu=multi_gpu_metrics(devices, outputs),
        environment_snapshot=environment_snapshot,
        measurement_warnings=tuple(measurement_warnings),
        warmup_excluded_samples=warmup_excluded_samples,
        reproducibility_notes=reproducibility_notes,
        start_time=start_time or min(process.timestamps.start for process in ordered),
        end_time=max(process.timestamps.end for process in ordered),
        effective_config=first.effective_config,
        aggregation=aggregation_metadata(
            ordered, counted, clock_offsets=clock_offsets, warnings=aggregation_warnings
        ),
        thermal_throttle=thermal_throttle(ordered),
        warmup_result=warmup_result(ordered),
        latency_stats=latencies,
        extended_metrics=extended_metrics(ordered, tokens, latencies),
        process_results=tuple(ordered),
    )


def _check_one_run(processes: Sequence[RawProcessResult], allow_mixed_backends: bool) -> None:
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


def _tokens_per_second(processes: Sequence[RawProcessResult], tokens: int, time_s: float) -> float:
    """Rate of the whole. Where it took no time that a clock can tell: of one process, its own."""
    rate = ratio(tokens, time_s)
    if rate is not None:
        return rate
    return processes[0].inference_metrics.tokens_per_second if len(processes) == 1 else 0.0
