"""
What a device was under while it was measured: values that pass from measuring to judging.

They are no part of the record, which keeps what was made of them.
"""

import attrs


@attrs.frozen(kw_only=True)
class TemperatureRange:
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


@attrs.frozen(kw_only=True)
class DeviceThrottle:
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


@attrs.frozen(kw_only=True)
class GpuProcess:
    """
    A process that holds a context on a GPU.

    Attributes:
        uuid: The GPU.
        pid: Its process ID, as the driver sees it.
        memory_mb: Device memory that it holds. Unit: MiB. None: not known.
    """

    uuid: str
    pid: int
    memory_mb: float | None = None
