"""
Results as rows: one a result, the same columns in the same order in every version.

New columns only ever come after the last one.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llem.domain.energy import Phase
from llem.domain.environment import GPUEnvironment
from llem.domain.latency import LatencyStatistics
from llem.domain.result import ExperimentResult, model_name
from llem.report.figures import unicode_text


def _latency(name: str) -> Callable[[ExperimentResult], Any]:
    def read(result: ExperimentResult) -> Any:
        stats: LatencyStatistics | None = result.latency_stats
        return None if stats is None else getattr(stats, name)

    return read


def _field(name: str) -> Callable[[ExperimentResult], Any]:
    return lambda result: getattr(result, name)


def _config(name: str) -> Callable[[ExperimentResult], Any]:
    return lambda result: _scalar(result.effective_config.get(name))


def _scalar(value: Any) -> Any:
    return str(value) if isinstance(value, Mapping | tuple) else value


def _num_devices(result: ExperimentResult) -> int | None:
    """As many as were metered, else as many as the record of another tool speaks of."""
    if result.devices:
        return len(result.devices)
    if result.multi_gpu is not None:
        return result.multi_gpu.num_gpus
    first = {process.gpu_id for process in result.process_results} - {None}
    return len(first) or len(_gpus(result)) or None


def _first_gpu(result: ExperimentResult) -> str | None:
    if result.devices:
        return result.devices[0].name
    return next((gpu.name for gpu in _gpus(result)), None)


def _gpus(result: ExperimentResult) -> tuple[GPUEnvironment, ...]:
    """The GPUs of the machine, where its environment names them."""
    snapshot = result.environment_snapshot
    if snapshot is None:
        return ()
    return snapshot.hardware.gpus or tuple(filter(None, [snapshot.hardware.gpu]))


def error_bound_j(result: ExperimentResult) -> float | None:
    """Bound on the error of the total energy. Unit: J. None: not every device has one."""
    bounds = [device.error_bound_j for device in result.devices]
    known = [bound for bound in bounds if bound is not None]
    return sum(known) if known and len(known) == len(bounds) else None


def error_bound_per_token_j(result: ExperimentResult, tokens: int | None) -> float | None:
    """The bound on the total's error, shared out over *tokens*. Unit: J. None: there is none."""
    bound_j = error_bound_j(result)
    return None if bound_j is None or not tokens else bound_j / tokens


def _sensors(result: ExperimentResult) -> str | None:
    """Every sensor once, in the order of the devices."""
    return "+".join(dict.fromkeys(device.sensor.value for device in result.devices)) or None


def min_coverage(result: ExperimentResult) -> float | None:
    """Least share of the samples of a device that were read. None: no power was sampled."""
    known = (device.coverage for device in result.devices if device.coverage is not None)
    return min(known, default=None)


def _baseline_method(result: ExperimentResult) -> str | None:
    method = result.energy_breakdown.baseline_method if result.energy_breakdown else None
    return None if method is None else method.value


def _phase(phase: Phase, name: str) -> Callable[[ExperimentResult], Any]:
    def read(result: ExperimentResult) -> Any:
        phases = result.energy_breakdown.phases if result.energy_breakdown else ()
        return next((getattr(found, name) for found in phases if found.phase is phase), None)

    return read


def _request_latency(name: str) -> Callable[[ExperimentResult], Any]:
    def read(result: ExperimentResult) -> Any:
        metrics = result.extended_metrics
        return None if metrics is None else getattr(metrics.request_latency, name)

    return read


def _peak_memory_mb(result: ExperimentResult) -> float | None:
    return result.extended_metrics.memory.peak_memory_mb if result.extended_metrics else None


def _throttled(result: ExperimentResult) -> bool | None:
    return None if result.thermal_throttle is None else result.thermal_throttle.detected


COLUMNS: dict[str, Callable[[ExperimentResult], Any]] = {
    "experiment_id": _field("experiment_id"),
    "measurement_config_hash": _field("measurement_config_hash"),
    "start_time": lambda result: result.start_time.isoformat(),
    "model": lambda result: model_name(result.effective_config),
    "backend": _field("backend"),
    "precision": _config("precision"),
    "batch_size": _config("batch_size"),
    "n": _config("n"),
    "measurement_methodology": _field("measurement_methodology"),
    "total_tokens": _field("total_tokens"),
    "input_tokens": _field("input_tokens"),
    "output_tokens": _field("output_tokens"),
    "total_inference_time_sec": _field("total_inference_time_sec"),
    "avg_tokens_per_second": _field("avg_tokens_per_second"),
    "total_energy_j": _field("total_energy_j"),
    "avg_energy_per_token_j": _field("avg_energy_per_token_j"),
    "energy_per_output_token_j": _field("energy_per_output_token_j"),
    "baseline_power_w": _field("baseline_power_w"),
    "energy_adjusted_j": _field("energy_adjusted_j"),
    "num_devices": _num_devices,
    "device_name": _first_gpu,
    "num_processes": lambda result: result.aggregation.num_processes,
    "total_flops": _field("total_flops"),
    "flops_per_second": _field("flops_per_second"),
    "ttft_mean_ms": _latency("ttft_mean_ms"),
    "ttft_median_ms": _latency("ttft_median_ms"),
    "ttft_p95_ms": _latency("ttft_p95_ms"),
    "ttft_p99_ms": _latency("ttft_p99_ms"),
    "itl_mean_ms": _latency("itl_mean_ms"),
    "itl_median_ms": _latency("itl_median_ms"),
    "itl_p95_ms": _latency("itl_p95_ms"),
    "itl_p99_ms": _latency("itl_p99_ms"),
    "measurement_warnings": lambda result: "; ".join(
        warning.partition(":")[0] for warning in result.measurement_warnings
    ),
    "error_bound_j": error_bound_j,
    "sensors": _sensors,
    "min_coverage": min_coverage,
    "baseline_method": _baseline_method,
    "prefill_energy_j": _phase(Phase.PREFILL, "energy_j"),
    "prefill_error_bound_j": _phase(Phase.PREFILL, "error_bound_j"),
    "decode_energy_j": _phase(Phase.DECODE, "energy_j"),
    "decode_error_bound_j": _phase(Phase.DECODE, "error_bound_j"),
    "e2e_latency_median_ms": _request_latency("e2e_latency_median_ms"),
    "e2e_latency_p95_ms": _request_latency("e2e_latency_p95_ms"),
    "peak_memory_mb": _peak_memory_mb,
    "throttled": _throttled,
    "num_missing_processes": lambda result: len(result.aggregation.missing_processes),
}
"""What each column of an export holds. Units stand in the names: s, J, W, ms; mb is MiB."""


def to_row(key: str, result: ExperimentResult) -> dict[str, Any]:
    """The row of *result*, kept under *key*; None for what is not known."""
    return {"key": unicode_text(key), **{name: read(result) for name, read in COLUMNS.items()}}


def to_csv(rows: Iterable[tuple[str, ExperimentResult]]) -> str:
    """
    CSV (RFC 4180) with a header, one line a result, nothing between commas for None.

    Args:
        rows: The key and the result of each line.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ["key", *COLUMNS])
    writer.writeheader()
    for key, result in rows:
        writer.writerow({name: _cell(value) for name, value in to_row(key, result).items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """*value*, and a text that a spreadsheet would run as a formula made a plain one."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{value}"
    return value
