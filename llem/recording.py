"""What the requests of one process came to, and the process result that is made of it."""

import math
import threading
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from llem.codec import to_mapping
from llem.domain.conditions import Evidence, RequestSpan
from llem.domain.config import ExperimentConfig
from llem.domain.efficiency import (
    BatchEfficiencyMetrics,
    ExtendedEfficiencyMetrics,
    GPUUtilisationMetrics,
    MemoryEfficiencyMetrics,
)
from llem.domain.energy import DeviceEnergy, EnergyBreakdown, Sensor, ThermalThrottleInfo
from llem.domain.latency import LatencyMeasurements, MeasurementMode, WarmupResult
from llem.domain.process import (
    ComputeMetrics,
    EnergyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from llem.protocols import BackendInfo, BatchOutput


class Recorder:
    """
    What the requests of a run came to, added up as they come.

    Attributes:
        latencies_ms: Latency of each request. Unit: ms.
        ttft_ms: Time to first token of each request. Unit: ms.
        itl_full_ms: Times between the tokens of each batch. Unit: ms.
        itl_trimmed_ms: The same without the first and last of each batch. Unit: ms.
        input_tokens: Prompt tokens.
        output_tokens: Generated tokens.
        padding_tokens: Input tokens that were padding.
        excluded_tokens: Intervals left out of *itl_trimmed_ms*.
        batches: Batches.
        flops: Floating-point operations. None: not known of every batch.
        modes: How token latencies were taken.
        spans: When each batch was served, where that is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.latencies_ms: list[float] = []
        self.ttft_ms: list[float] = []
        self.itl_full_ms: list[float] = []
        self.itl_trimmed_ms: list[float] = []
        self.input_tokens = 0
        self.output_tokens = 0
        self.padding_tokens = 0
        self.excluded_tokens = 0
        self.batches = 0
        self.flops: float | None = None
        self.modes: set[MeasurementMode] = set()
        self.spans: list[RequestSpan] = []

    def add(self, output: BatchOutput) -> None:
        """Add one batch of requests. Safe for many threads."""
        with self._lock:
            self._add(output)

    def _add(self, output: BatchOutput) -> None:
        self.batches += 1
        self.input_tokens += sum(output.input_tokens)
        self.output_tokens += sum(output.output_tokens)
        self.padding_tokens += output.padding_tokens
        self.latencies_ms += [1000 * output.latency_s] * len(output.input_tokens)
        self.modes.add(output.mode)
        if output.ended_s is not None:
            start_s = output.ended_s - output.latency_s
            first_s = None if output.ttft_s is None else start_s + output.ttft_s
            span = RequestSpan(start_s=start_s, first_token_s=first_s, end_s=output.ended_s)
            self.spans.append(span)
        if output.ttft_s is not None:
            self.ttft_ms += [1000 * output.ttft_s] * len(output.input_tokens)
        intervals = [1000 * seconds for seconds in output.itl_s]
        self.itl_full_ms += intervals
        self.itl_trimmed_ms += intervals[1:-1]
        self.excluded_tokens += min(2, len(intervals))
        if output.flops is None:
            self.flops = None
        elif self.batches == 1 or self.flops is not None:
            self.flops = (self.flops or 0.0) + output.flops

    def latency_measurements(self, warmup: WarmupResult | None) -> LatencyMeasurements:
        """The raw token latencies."""
        streamed = {MeasurementMode.TRUE_STREAMING, MeasurementMode.PER_REQUEST_BATCH}
        mode = next(iter(self.modes)) if len(self.modes) == 1 else MeasurementMode.PROPORTIONAL
        return LatencyMeasurements(
            ttft_ms=tuple(self.ttft_ms),
            itl_full_ms=tuple(self.itl_full_ms),
            itl_trimmed_ms=tuple(self.itl_trimmed_ms),
            request_count=len(self.latencies_ms),
            total_output_tokens=self.output_tokens,
            excluded_tokens=self.excluded_tokens,
            streaming_mode=mode in streamed and bool(self.ttft_ms),
            warmup_requests_excluded=warmup.iterations_completed if warmup else 0,
            measurement_mode=mode,
        )


def process_result(
    recorder: Recorder,
    *,
    experiment_id: str,
    process_index: int,
    config: ExperimentConfig,
    info: BackendInfo | None,
    window: Timestamps,
    seconds: float,
    evidence: Evidence,
    breakdown: EnergyBreakdown | None,
    thermal_throttle: ThermalThrottleInfo | None,
    warmup: WarmupResult | None,
    peak_memory_mb: float | None,
) -> RawProcessResult:
    """
    What one process measured.

    Args:
        recorder: Its requests.
        experiment_id: The run that it is a process of.
        process_index: Its rank.
        config: What was run, resolved.
        info: What the engine says of itself. None: it said nothing.
        window: The measured window, by the wall clock.
        seconds: Length of the window, by the monotonic clock. Unit: s.
        evidence: What the samples of the window came to.
        breakdown: How the idle power came about. None: no energy was measured.
        thermal_throttle: Whether a device slowed itself down. None: not known.
        warmup: What warming up came to. None: there was none.
        peak_memory_mb: Most device memory in use, as the engine says. Unit: MiB. None: what the
            devices say is taken.
    """
    devices = evidence.devices
    if peak_memory_mb is None:
        peak_memory_mb = evidence.peak_memory_mb
    info = info or BackendInfo(device="unknown", device_name=_name_of_first_gpu(devices))
    tokens = recorder.input_tokens + recorder.output_tokens
    gpu = next((device for device in devices if device.sensor is not Sensor.RAPL), None)
    return RawProcessResult(
        experiment_id=experiment_id,
        backend=config.backend,
        backend_version=info.version,
        process_index=process_index,
        gpu_id=gpu.gpu_index if gpu else None,
        gpu_name=info.device_name,
        gpu_uuid=gpu.uuid if gpu else None,
        config_name=config.model,
        model_name=config.model,
        timestamps=window,
        inference_metrics=_inference_metrics(recorder, seconds, warmup),
        energy_metrics=energy_metrics(devices, seconds, tokens),
        compute_metrics=ComputeMetrics(
            flops_total=recorder.flops,
            flops_per_token=_ratio(recorder.flops, tokens),
            flops_per_second=_ratio(recorder.flops, seconds),
            peak_memory_mb=peak_memory_mb,
            model_memory_mb=info.model_memory_mb,
            flops_method=None if recorder.flops is None else info.flops_method,
            compute_precision=config.precision,
        ),
        effective_config=to_mapping(config),
        extended_metrics=ExtendedEfficiencyMetrics(
            memory=_memory(info, peak_memory_mb),
            gpu_utilisation=_utilisation(evidence),
            batch=_batches(recorder, config.batch_size),
        ),
        per_request_latencies_ms=tuple(recorder.latencies_ms),
        gpu_utilisation_samples=evidence.utilisation_pct,
        energy_breakdown=breakdown,
        thermal_throttle=thermal_throttle,
        warmup_result=warmup,
        devices=devices,
    )


def _memory(info: BackendInfo, peak_mb: float | None) -> MemoryEfficiencyMetrics:
    model_mb = info.model_memory_mb
    used = None if peak_mb is None or model_mb is None else max(peak_mb - model_mb, 0.0)
    return MemoryEfficiencyMetrics(
        total_vram_mb=info.total_memory_mb,
        model_memory_mb=model_mb,
        peak_memory_mb=peak_mb,
        inference_memory_mb=used,
        model_memory_utilisation=_ratio(model_mb, info.total_memory_mb),
    )


def _utilisation(evidence: Evidence) -> GPUUtilisationMetrics:
    busy = evidence.utilisation_pct
    return GPUUtilisationMetrics(
        sm_utilisation_mean=math.fsum(busy) / len(busy) if busy else None,
        sm_utilisation_samples=len(busy),
        memory_bandwidth_utilisation=evidence.memory_utilisation_pct,
    )


def _batches(recorder: Recorder, batch_size: int) -> BatchEfficiencyMetrics:
    mean = _ratio(float(len(recorder.latencies_ms)), recorder.batches)
    fed = recorder.input_tokens + recorder.padding_tokens
    return BatchEfficiencyMetrics(
        effective_batch_size=mean,
        batch_utilisation=_ratio(mean, batch_size),
        padding_overhead=_ratio(float(recorder.padding_tokens), fed),
        num_batches=recorder.batches,
    )


def _inference_metrics(
    recorder: Recorder, seconds: float, warmup: WarmupResult | None
) -> InferenceMetrics:
    tokens = recorder.input_tokens + recorder.output_tokens
    ttft = recorder.ttft_ms
    return InferenceMetrics(
        total_tokens=tokens,
        input_tokens=recorder.input_tokens,
        output_tokens=recorder.output_tokens,
        inference_time_sec=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        latency_per_token_ms=1000 * seconds / tokens if tokens else 0.0,
        time_to_first_token_ms=math.fsum(ttft) / len(ttft) if ttft else None,
        latency_measurements=recorder.latency_measurements(warmup),
    )


def energy_metrics(devices: tuple[DeviceEnergy, ...], seconds: float, tokens: int) -> EnergyMetrics:
    """
    What the energies of one process come to.

    Args:
        devices: The devices that it measured.
        seconds: Length of its window. Unit: s.
        tokens: Tokens in and out.
    """
    total_j = _sum_known(devices)
    gpus_j = _sum_known([d for d in devices if d.sensor is not Sensor.RAPL])
    packages_j = _sum_known(
        [d for d in devices if d.sensor is Sensor.RAPL and d.scope == "package"]
    )
    return EnergyMetrics(
        total_energy_j=total_j,
        gpu_energy_j=gpus_j,
        cpu_energy_j=packages_j,
        ram_energy_j=_sum_known(
            [d for d in devices if d.sensor is Sensor.RAPL and d.scope == "memory"]
        ),
        gpu_power_w=_ratio(gpus_j, seconds),
        cpu_power_w=_ratio(packages_j, seconds),
        duration_sec=seconds,
        energy_per_token_j=_ratio(total_j, tokens),
    )


def _sum_known(devices: Sequence[DeviceEnergy]) -> float | None:
    known = [device.energy_j for device in devices if device.energy_j is not None]
    return math.fsum(known) if known and len(known) == len(devices) else None


def _ratio(value: float | None, per: float | None) -> float | None:
    return value / per if value is not None and per else None


def _name_of_first_gpu(devices: Sequence[DeviceEnergy]) -> str:
    return next((d.name for d in devices if d.sensor is not Sensor.RAPL), "unknown")


def each(tokens: Any) -> tuple[Any, ...]:
    """*tokens* of each request of a batch: one number is of a single request."""
    row = listed(tokens)
    return row if isinstance(row, tuple) else (tokens,)


def listed(values: Any) -> Any:
    """*values* as a tuple, or as they are where they are no row of values, to be refused."""
    if isinstance(values, str | bytes | bytearray | Mapping | AbstractSet):
        return values
    try:
        row = iter(values)
    except TypeError:
        return values
    return tuple(row)
