"""
What a process and its devices were under while they were measured.

These values pass from measuring to judging. They are no part of the record, which keeps what was
made of them.
"""

from datetime import datetime

import attrs

from llem.domain.energy import DeviceEnergy, PhaseEnergy
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.fields import Record, quantity, some_text
from llem.domain.result import Methodology
from llem.errors import ResultValidationError


@attrs.frozen(kw_only=True, weakref_slot=False)
class TemperatureRange(Record):
    """
    How far the temperature of one device moved.

    Attributes:
        uuid: The device.
        low_c: Lowest temperature met. Unit: °C.
        high_c: Highest temperature met. Unit: °C.
    """

    uuid: str
    low_c: float
    high_c: float


@attrs.frozen(kw_only=True, weakref_slot=False)
class DeviceThrottle(Record):
    """
    How long one device ran below the clocks it was asked for, and why.

    Attributes:
        uuid: The device.
        duration_s: Length of the span that was looked at. Unit: s.
        throttled_s: Time under any of the next four causes. Unit: s.
        sw_thermal_s: Time under the driver's temperature limit. Unit: s.
        hw_thermal_s: Time under the device's temperature limit. Unit: s.
        hw_power_s: Time under the power brake. Unit: s.
        hw_other_s: Time in a hardware slowdown whose cause the device did not name. Unit: s.
        power_cap_s: Time at the power limit, which is how a busy GPU normally runs. Unit: s.
        onsets_s: When throttling set in. Unit: s from the start of the run.
    """

    uuid: str
    duration_s: float
    throttled_s: float = 0.0
    sw_thermal_s: float = 0.0
    hw_thermal_s: float = 0.0
    hw_power_s: float = 0.0
    hw_other_s: float = 0.0
    power_cap_s: float = 0.0
    onsets_s: tuple[float, ...] = ()


@attrs.frozen(kw_only=True, weakref_slot=False)
class GpuProcess(Record):
    """
    A process that holds a context on a GPU.

    Attributes:
        uuid: The GPU.
        pid: Its process ID, as the driver sees it.
        memory_mb: Device memory that it holds. Unit: MiB. None: not known.
    """

    uuid: str
    pid: int = quantity()
    memory_mb: float | None = quantity(None)


@attrs.frozen(kw_only=True)
class RequestSpan:
    """
    When one request, or one batch of requests, was served. Monotonic times.

    Attributes:
        start_s: When it was sent. Unit: s.
        first_token_s: When its first token came. Unit: s. None: not known.
        end_s: When its last token came. Unit: s.
    """

    start_s: float
    first_token_s: float | None
    end_s: float


@attrs.frozen(kw_only=True)
class Evidence:
    """
    What the samples of the measured window came to.

    Attributes:
        devices: The energy of each device, and what it rests on.
        phases: Energy of prefill, decode and the rest.
        temperatures: How far each device's temperature moved.
        throttles: How long each device was slowed down. Empty: none of them says so.
        utilisation_pct: GPU utilisation at each look at each device. Unit: %.
        memory_utilisation_pct: Mean share of time with memory traffic. Unit: %. None: not known.
        peak_memory_mb: Most memory in use on one device. Unit: MiB. None: not known.
        notes: What went wrong with the sampling.
    """

    devices: tuple[DeviceEnergy, ...] = ()
    phases: tuple[PhaseEnergy, ...] = ()
    temperatures: tuple[TemperatureRange, ...] = ()
    throttles: tuple[DeviceThrottle, ...] = ()
    utilisation_pct: tuple[float, ...] = ()
    memory_utilisation_pct: float | None = None
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, weakref_slot=False)
class Conditions(Record):
    """
    What one process measured under: what its result is judged by, beside what it measured.

    Attributes:
        start_time: First moment of the run as this process saw it, before its window where it
            warmed up into it.
        window_s: The edges of its window, by a monotonic clock. Unit: s from *start_time*.
        measurement_methodology: What span its figures cover.
        warmup_excluded: Requests before the window.
        environment_snapshot: The machine and the software. None: not looked at.
        not_measured: Why no energy was measured.
        temperatures: How far each device's temperature moved.
        throttles: How long each device was slowed down, and why.
        sampler_notes: What went wrong with the sampling.
        foreign_at_start: Processes of others on the GPUs before the window.
        foreign_at_end: The same after it.
        idle_uuids: The devices whose idle power is known.
        idle_power_w: The idle power of each of these. Unit: W.
        baseline_had_context: Whether a CUDA context was on the GPUs then. None: not known.
        baseline_notes: What went wrong with keeping it for later runs.
        node: What the machine is called.
        clock_offset_s: The wall clock of the machine less that of the first process'. Unit: s. The
            times of the process are by the latter.
        clock_error_s: How far off that may be. Unit: s. None: the clocks are the same.
    """

    start_time: datetime
    window_s: tuple[float, float] = quantity()
    measurement_methodology: Methodology
    warmup_excluded: int = quantity(0)
    environment_snapshot: EnvironmentSnapshot | None = None
    not_measured: tuple[str, ...] = ()
    temperatures: tuple[TemperatureRange, ...] = ()
    throttles: tuple[DeviceThrottle, ...] = ()
    sampler_notes: tuple[str, ...] = ()
    foreign_at_start: tuple[GpuProcess, ...] = ()
    foreign_at_end: tuple[GpuProcess, ...] = ()
    idle_uuids: tuple[str, ...] = ()
    idle_power_w: tuple[float, ...] = quantity(())
    baseline_had_context: bool | None = None
    baseline_notes: tuple[str, ...] = ()
    node: str = some_text("localhost")
    clock_offset_s: float = 0.0
    clock_error_s: float | None = quantity(None)

    def check_whole(self) -> None:
        """Refuse idle powers of other devices than those named, and a window that ends first."""
        if len(self.idle_uuids) != len(self.idle_power_w):
            raise ResultValidationError(
                f"idle_power_w must have one value for each of {len(self.idle_uuids)} idle_uuids, "
                f"got {len(self.idle_power_w)}",
                field="idle_power_w",
            )
        begin_s, end_s = self.window_s
        if end_s < begin_s:
            raise ResultValidationError(
                f"window_s must be ordered, got ({begin_s}, {end_s})", field="window_s"
            )
