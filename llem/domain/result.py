"""The record: one experiment, aggregated from its processes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import attrs

from llem.domain.efficiency import ExtendedEfficiencyMetrics
from llem.domain.energy import DeviceEnergy, EnergyBreakdown, MultiGPUMetrics, ThermalThrottleInfo
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.fields import Record, at_least, quantity, some_text, text
from llem.domain.latency import LatencyStatistics, WarmupResult
from llem.domain.process import SCHEMA_VERSION, RawProcessResult, check_token_sum
from llem.errors import ResultValidationError

Methodology = Literal["total", "steady_state", "windowed"]

CLOCK_RESOLUTION_S = 1e-6
"""Resolution of a datetime, and so the least that a window may exceed its run by. Unit: s."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class ClockOffset(Record):
    """
    How far the clock of one process' machine was off that of process 0, by which the record is.

    Attributes:
        process_index: The process.
        node: What its machine is called.
        offset_s: Its wall clock less that of process 0. Unit: s.
        error_bound_s: Bound on the error of *offset_s*, and so of its times. Unit: s.
    """

    process_index: int = quantity()
    node: str
    offset_s: float
    error_bound_s: float = quantity()


@attrs.frozen(kw_only=True, weakref_slot=False)
class AggregationMetadata(Record):
    """
    How the processes became one result.

    Attributes:
        method: Name of the way, such as single_process or late_aggregation.
        num_processes: Processes aggregated.
        temporal_overlap_verified: Whether they ran at the same time. None: not checked.
        gpu_attribution_verified: Whether each device was counted once. None: not checked.
        mean_process_tokens_per_second: Mean of the processes' own rates.
        warnings: What aggregation met.
        clock_offsets: Of each process on another machine than process 0, how far its clock was off.
        missing_processes: Processes of the run that are not in the result, by index.
    """

    method: str
    num_processes: int = at_least(1)
    temporal_overlap_verified: bool | None = None
    gpu_attribution_verified: bool | None = None
    mean_process_tokens_per_second: float | None = quantity(None)
    warnings: tuple[str, ...] = ()
    clock_offsets: tuple[ClockOffset, ...] = ()
    missing_processes: tuple[int, ...] = quantity(())


@attrs.frozen(kw_only=True, weakref_slot=False)
class ExperimentResult(Record):
    """
    The record of one LLM inference energy measurement.

    Attributes:
        schema_version: Version of the record's schema, not of the package.
        experiment_id: Unique name of the run. May contain "/".
        measurement_config_hash: First 16 hex digits of the config's SHA-256.
        llem_version: The llem that wrote it. None: another tool did.
        backend: Inference backend.
        backend_version: Its version.
        measurement_methodology: What span the headline figures cover.
        steady_state_window: (start, end) of that span. Unit: s from *start_time*.
        total_tokens: Tokens processed, padding excluded.
        input_tokens: Prompt tokens.
        output_tokens: Generated tokens.
        total_energy_j: Energy measured over distinct devices. Unit: J. None: not measured.
        total_inference_time_sec: Wall-clock span of inference, concurrent time once. Unit: s.
        avg_tokens_per_second: ``total_tokens / total_inference_time_sec``.
        avg_energy_per_token_j: ``total_energy_j / total_tokens``. Unit: J.
        total_flops: Floating-point operations. None: not known.
        flops_per_output_token: ``total_flops / output_tokens``.
        flops_per_input_token: ``total_flops / input_tokens``.
        flops_per_second: ``total_flops / total_inference_time_sec``.
        baseline_power_w: Idle power summed over the devices. Unit: W.
        energy_adjusted_j: *total_energy_j* less the idle share, signed. Unit: J.
        energy_per_device_j: Energy of each device, in the order of *devices*. Unit: J.
        energy_breakdown: Energy with and without the idle share.
        devices: Evidence for each device's energy.
        multi_gpu: Energy of several GPUs. None: one GPU, or none.
        environment_snapshot: The machine and the software.
        measurement_warnings: Each "code: what happened, and what to do".
        warmup_excluded_samples: Requests before the window. None: methodology is total.
        reproducibility_notes: Accuracy of the sensor that was used.
        timeseries: Name of the sidecar. None: none was written.
        start_time: First moment of the run.
        end_time: Last moment of the run.
        effective_config: The resolved configuration.
        aggregation: How the processes became one result.
        thermal_throttle: Whether a device slowed itself down.
        warmup_result: What warming up came to.
        latency_stats: Token latencies.
        extended_metrics: Efficiency beyond energy and throughput.
        process_results: What each process measured.

    Raises:
        ResultValidationError: A field has a value it cannot hold; the text begins with its name.
    """

    schema_version: Literal["2.0"] = SCHEMA_VERSION
    experiment_id: str = some_text()
    measurement_config_hash: str = text(r"[0-9a-f]{16}", "16 lower-case hex digits")
    llem_version: str | None = None
    backend: str = "pytorch"
    backend_version: str | None = None
    measurement_methodology: Methodology
    steady_state_window: tuple[float, float] | None = quantity(None)
    total_tokens: int = quantity()
    input_tokens: int | None = quantity(None)
    output_tokens: int | None = quantity(None)
    total_energy_j: float | None = quantity(None)
    total_inference_time_sec: float = quantity()
    avg_tokens_per_second: float = quantity()
    avg_energy_per_token_j: float | None = quantity(None)
    total_flops: float | None = quantity(None)
    flops_per_output_token: float | None = quantity(None)
    flops_per_input_token: float | None = quantity(None)
    flops_per_second: float | None = quantity(None)
    baseline_power_w: float | None = quantity(None)
    energy_adjusted_j: float | None = None
    energy_per_device_j: tuple[float, ...] | None = quantity(None)
    energy_breakdown: EnergyBreakdown | None = None
    devices: tuple[DeviceEnergy, ...] = ()
    multi_gpu: MultiGPUMetrics | None = None
    environment_snapshot: EnvironmentSnapshot | None = None
    measurement_warnings: tuple[str, ...] = ()
    warmup_excluded_samples: int | None = quantity(None)
    reproducibility_notes: str = ""
    timeseries: str | None = text(
        r"(?!\.{1,2}$)[^/\\:\x00-\x1f]+", "the bare name of a file beside the record", None
    )
    start_time: datetime
    end_time: datetime
    effective_config: Mapping[str, Any]
    aggregation: AggregationMetadata
    thermal_throttle: ThermalThrottleInfo | None = None
    warmup_result: WarmupResult | None = None
    latency_stats: LatencyStatistics | None = None
    extended_metrics: ExtendedEfficiencyMetrics | None = None
    process_results: tuple[RawProcessResult, ...] = ()

    def check_whole(self) -> None:
        """Refuse tokens that do not add up, a window outside the run, figures without device."""
        check_token_sum(self.total_tokens, self.input_tokens, self.output_tokens)
        if self.end_time < self.start_time:
            raise ResultValidationError(
                f"end_time must not be before start_time, {self.start_time.isoformat()}, "
                f"got {self.end_time.isoformat()}",
                field="end_time",
            )
        if self.steady_state_window is not None:
            self._check_window(*self.steady_state_window)
        if self.devices and self.energy_per_device_j is not None:
            self._check_devices(len(self.energy_per_device_j))

    def _check_window(self, start_s: float, end_s: float) -> None:
        if not start_s <= end_s <= self.duration_sec + CLOCK_RESOLUTION_S:
            raise ResultValidationError(
                f"steady_state_window must be ordered and inside the run of {self.duration_sec} s, "
                f"got ({start_s}, {end_s})",
                field="steady_state_window",
            )

    def _check_devices(self, figures: int) -> None:
        if figures != len(self.devices):
            raise ResultValidationError(
                f"energy_per_device_j must have a figure for each of the {len(self.devices)} "
                f"devices, got {figures}",
                field="energy_per_device_j",
            )

    @property
    def duration_sec(self) -> float:
        """From *start_time* to *end_time*. Unit: s."""
        return (self.end_time - self.start_time).total_seconds()

    @property
    def tokens_per_joule(self) -> float | None:
        """``total_tokens / total_energy_j``. None where energy is None or 0."""
        return self.total_tokens / self.total_energy_j if self.total_energy_j else None

    @property
    def energy_per_output_token_j(self) -> float | None:
        """``total_energy_j / output_tokens``. Unit: J. None where either is not known."""
        if self.total_energy_j is None or not self.output_tokens:
            return None
        return self.total_energy_j / self.output_tokens


def model_name(config: Mapping[str, Any]) -> str:
    """The model that a record's *config* names: its ``model``, or ``unnamed``."""
    name = config.get("model")
    return name if isinstance(name, str) and name else "unnamed"
