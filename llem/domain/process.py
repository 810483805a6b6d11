"""What one process of a run measured, before anything is aggregated."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import attrs

from llem.domain.efficiency import ExtendedEfficiencyMetrics
from llem.domain.energy import DeviceEnergy, EnergyBreakdown, ThermalThrottleInfo
from llem.domain.fields import Record, quantity, some_text
from llem.domain.latency import LatencyMeasurements, WarmupResult
from llem.errors import ResultValidationError

SCHEMA_VERSION: Final = "2.0"
"""Version of the record's schema, in two parts. Not the version of the package."""


def check_token_sum(total: int, inputs: int | None, outputs: int | None) -> None:
    """Refuse token counts that do not add up, where all are known."""
    if inputs is not None and outputs is not None and total != inputs + outputs:
        raise ResultValidationError(
            f"total_tokens must be input_tokens + output_tokens = {inputs + outputs}, got {total}",
            field="total_tokens",
        )


@attrs.frozen(kw_only=True, weakref_slot=False)
class Timestamps(Record):
    """
    The measured window of one process.

    Attributes:
        start: First moment of the window.
        end: Last moment of the window.
    """

    start: datetime
    end: datetime

    def check_whole(self) -> None:
        """Refuse a window that ends before it starts."""
        if self.end < self.start:
            raise ResultValidationError(
                f"end must not be before start, {self.start.isoformat()}, "
                f"got {self.end.isoformat()}",
                field="end",
            )

    @property
    def duration_sec(self) -> float:
        """Length of the window. Unit: s. Documents carry it, and it is checked when one is read."""
        return (self.end - self.start).total_seconds()


@attrs.frozen(kw_only=True, weakref_slot=False)
class InferenceMetrics(Record):
    """
    Tokens and time of one process.

    Attributes:
        total_tokens: Tokens processed, padding excluded.
        input_tokens: Prompt tokens.
        output_tokens: Generated tokens.
        inference_time_sec: Time spent in inference. Unit: s.
        tokens_per_second: ``total_tokens / inference_time_sec``.
        latency_per_token_ms: ``1000 * inference_time_sec / total_tokens``. Unit: ms.
        time_to_first_token_ms: Mean time to first token. Unit: ms.
        latency_measurements: Raw token latencies.
    """

    total_tokens: int = quantity()
    input_tokens: int | None = quantity(None)
    output_tokens: int | None = quantity(None)
    inference_time_sec: float = quantity()
    tokens_per_second: float = quantity()
    latency_per_token_ms: float = quantity()
    time_to_first_token_ms: float | None = quantity(None)
    latency_measurements: LatencyMeasurements | None = None

    def check_whole(self) -> None:
        """Refuse token counts that do not add up."""
        check_token_sum(self.total_tokens, self.input_tokens, self.output_tokens)


@attrs.frozen(kw_only=True, weakref_slot=False)
class EnergyMetrics(Record):
    """
    Energy of one process, None where it was not measured.

    Attributes:
        total_energy_j: Energy of all its devices. Unit: J.
        gpu_energy_j: Energy of its GPUs. Unit: J.
        cpu_energy_j: Energy of its CPU packages. Unit: J.
        ram_energy_j: Energy of its memory. Unit: J.
        gpu_power_w: Mean power of its GPUs. Unit: W.
        cpu_power_w: Mean power of its CPU packages. Unit: W.
        duration_sec: Time that the energy was measured over. Unit: s.
        emissions_kg_co2: Emissions that other tools write; llem writes none. Unit: kg.
        energy_per_token_j: ``total_energy_j / total_tokens``. Unit: J.
    """

    total_energy_j: float | None = quantity(None)
    gpu_energy_j: float | None = quantity(None)
    cpu_energy_j: float | None = quantity(None)
    ram_energy_j: float | None = quantity(None)
    gpu_power_w: float | None = quantity(None)
    cpu_power_w: float | None = quantity(None)
    duration_sec: float = quantity()
    emissions_kg_co2: float | None = quantity(None)
    energy_per_token_j: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class ComputeMetrics(Record):
    """
    Floating-point operations and memory of one process.

    Attributes:
        flops_total: Floating-point operations of the measured window. None: not known.
        flops_per_token: ``flops_total / total_tokens``.
        flops_per_second: ``flops_total / inference_time_sec``.
        peak_memory_mb: Most device memory in use. Unit: MiB.
        model_memory_mb: Device memory in use once the model is loaded. Unit: MiB.
        flops_method: How the operations were counted, such as flop_counter or parameter_estimate.
        flops_confidence: high, medium or low.
        compute_precision: Number format, such as bf16.
    """

    flops_total: float | None = quantity(None)
    flops_per_token: float | None = quantity(None)
    flops_per_second: float | None = quantity(None)
    peak_memory_mb: float | None = quantity(None)
    model_memory_mb: float | None = quantity(None)
    flops_method: str | None = None
    flops_confidence: Literal["high", "medium", "low"] | None = None
    compute_precision: str | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class RawProcessResult(Record):
    """
    One process of a run, as measured.

    Attributes:
        schema_version: Version of the record's schema.
        experiment_id: The run that this is a process of.
        backend: Inference backend.
        backend_version: Its version.
        process_index: Rank of the process, from 0.
        gpu_id: Index of its first GPU. None: it has none.
        gpu_name: Name of its first GPU, or of the device that ran the model.
        gpu_uuid: UUID of its first GPU.
        gpu_is_mig: Whether that is a MIG instance.
        gpu_mig_profile: Profile of the instance, such as 3g.20gb.
        energy_measurement_warning: Why its energy figure is less than it seems.
        config_name: Name of the configuration.
        model_name: The model that ran.
        timestamps: The measured window.
        inference_metrics: Tokens and time.
        energy_metrics: Energy.
        compute_metrics: Floating-point operations and memory.
        effective_config: The resolved configuration.
        extended_metrics: Efficiency beyond energy and throughput.
        per_request_latencies_ms: Latency of each request, end to end. Unit: ms.
        gpu_utilisation_samples: GPU utilisation during the window. Unit: %.
        energy_breakdown: Energy with and without the idle share.
        thermal_throttle: Whether a device slowed itself down.
        warmup_result: What warming up came to.
        devices: Evidence for each device's energy.
    """

    schema_version: Literal["2.0"] = SCHEMA_VERSION
    experiment_id: str = some_text()
    backend: str = "pytorch"
    backend_version: str | None = None
    process_index: int = quantity()
    gpu_id: int | None = quantity(None)
    gpu_name: str
    gpu_uuid: str | None = None
    gpu_is_mig: bool = False
    gpu_mig_profile: str | None = None
    energy_measurement_warning: str | None = None
    config_name: str
    model_name: str
    timestamps: Timestamps
    inference_metrics: InferenceMetrics
    energy_metrics: EnergyMetrics
    compute_metrics: ComputeMetrics
    effective_config: Mapping[str, Any]
    extended_metrics: ExtendedEfficiencyMetrics | None = None
    per_request_latencies_ms: tuple[float, ...] = quantity(())
    gpu_utilisation_samples: tuple[float, ...] = quantity(())
    energy_breakdown: EnergyBreakdown | None = None
    thermal_throttle: ThermalThrottleInfo | None = None
    warmup_result: WarmupResult | None = None
    devices: tuple[DeviceEnergy, ...] = ()
