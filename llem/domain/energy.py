"""Energy, and the evidence for it."""

import enum
from datetime import datetime

import attrs

from llem.domain.fields import Record, at_least, fraction, quantity, some_text


class Sensor(enum.Enum):
    """Where a device's energy figure was read."""

    NVML_TOTAL_ENERGY = "nvml_total_energy"
    NVML_POWER_INSTANT = "nvml_power_instant"
    NVML_POWER_AVERAGE = "nvml_power_average"
    NVML_POWER = "nvml_power"
    RAPL = "rapl"
    REPLAY = "replay"
    ENGINE = "engine"


class BaselineMethod(enum.Enum):
    """How the idle power came about."""

    FRESH = "fresh"
    CACHED = "cached"
    UNAVAILABLE = "unavailable"


@attrs.frozen(kw_only=True, weakref_slot=False)
class DeviceEnergy(Record):
    """
    One device's energy over the measured window, and what it rests on.

    Attributes:
        gpu_index: The device's ``gpu_index`` in the time series.
        uuid: Identity of the device: the UUID of a GPU, the name of a RAPL domain.
        name: Product name.
        energy_j: Energy over the window. Unit: J. None: not measured.
        sensor: Where *energy_j* was read.
        scope: What the sensor covers, such as gpu, module, package or memory.
        counter_j: Difference of the device's energy counter. Unit: J.
        integrated_j: Integral of the power samples, trapezoid rule. Unit: J.
        disagreement: ``abs(counter_j - integrated_j) / counter_j``.
        sample_count: Power samples inside the window.
        sampling_period_s: Asked-for time between two samples. Unit: s.
        max_gap_s: Longest time without a sample inside the window. Unit: s.
        coverage: Share of the asked-for samples that were read.
        error_bound_j: Bound on the error of *energy_j*. Unit: J.
        codes: Codes of the warnings about this device.
    """

    gpu_index: int = quantity()
    uuid: str = some_text()
    name: str
    energy_j: float | None = quantity(None)
    sensor: Sensor
    scope: str = "gpu"
    counter_j: float | None = quantity(None)
    integrated_j: float | None = quantity(None)
    disagreement: float | None = quantity(None)
    sample_count: int = quantity(0)
    sampling_period_s: float | None = quantity(None)
    max_gap_s: float | None = quantity(None)
    coverage: float | None = fraction(None)
    error_bound_j: float | None = quantity(None)
    codes: tuple[str, ...] = ()


class Phase(enum.Enum):
    """A part of serving requests. Prefill ends with the first token, decode with the last."""

    PREFILL = "prefill"
    DECODE = "decode"
    OTHER = "other"


@attrs.frozen(kw_only=True, weakref_slot=False)
class PhaseEnergy(Record):
    """
    The share of the measured energy that fell into one phase.

    Attributes:
        phase: The phase. other is what of the window lies in no request.
        energy_j: Energy of all devices during it. Unit: J. None: *code* says why.
        error_bound_j: Bound on the error of *energy_j*. Unit: J.
        duration_s: Time spent in it. Unit: s.
        spans: In how many pieces.
        code: phase_too_short, phases_overlap or power_not_sampled, where there is no figure.
    """

    phase: Phase
    energy_j: float | None = quantity(None)
    error_bound_j: float | None = quantity(None)
    duration_s: float = quantity()
    spans: int = quantity(0)
    code: str | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class EnergyBreakdown(Record):
    """
    Measured energy, what is left of it without the idle share, and what it was spent on.

    Attributes:
        raw_j: Energy over the measured window, all devices. Unit: J.
        adjusted_j: *raw_j* less idle power times duration, signed. Unit: J. None: no baseline.
        baseline_power_w: Idle power of the same devices together. Unit: W.
        baseline_method: How the idle power came about.
        baseline_timestamp: When the idle power was measured.
        baseline_cache_age_sec: Age of a cached idle power at the run. Unit: s.
        phases: Energy of prefill, of decode and of the rest. Where all three have a figure they
            add up to *raw_j*. Empty: no first tokens were recorded.
    """

    raw_j: float | None = quantity(None)
    adjusted_j: float | None = None
    baseline_power_w: float | None = quantity(None)
    baseline_method: BaselineMethod | None = None
    baseline_timestamp: datetime | None = None
    baseline_cache_age_sec: float | None = quantity(None)
    phases: tuple[PhaseEnergy, ...] = ()


@attrs.frozen(kw_only=True, weakref_slot=False)
class MultiGPUMetrics(Record):
    """
    Energy of a run on several GPUs.

    Attributes:
        num_gpus: Distinct GPUs.
        energy_per_gpu_j: Energy of each, in the order of the record's devices. Unit: J.
        energy_total_j: Their sum. Unit: J.
        energy_per_output_token_j: *energy_total_j* per generated token. Unit: J.
    """

    num_gpus: int = at_least(1)
    energy_per_gpu_j: tuple[float, ...] = quantity()
    energy_total_j: float | None = quantity(None)
    energy_per_output_token_j: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class ThermalThrottleInfo(Record):
    """
    Whether a device slowed itself down during the run.

    Attributes:
        detected: Any of the causes below.
        thermal: A temperature limit, in hardware or software.
        power: A power limit in hardware.
        sw_thermal: The driver's temperature limit.
        hw_thermal: The device's temperature limit.
        hw_power: The device's power brake.
        throttle_duration_sec: Time spent throttled. Unit: s.
        max_temperature_c: Highest temperature met. Unit: °C.
        throttle_timestamps: When throttling was seen. Unit: s from the start of the run.
    """

    detected: bool = False
    thermal: bool = False
    power: bool = False
    sw_thermal: bool = False
    hw_thermal: bool = False
    hw_power: bool = False
    throttle_duration_sec: float = quantity(0.0)
    max_temperature_c: float | None = None
    throttle_timestamps: tuple[float, ...] = ()
