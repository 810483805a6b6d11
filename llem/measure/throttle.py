"""
Whether GPUs slowed themselves down, by NVML's clock event reasons.

The bits are the ``nvmlClocksEventReason`` and ``nvmlClocksThrottleReason`` macros of NVIDIA's
``nvml.h``. These are no throttling: an idle GPU (0x1), clocks that were asked for (0x2), sync boost
(0x10), displays (0x100), and what bounds boosting (0x200, 0x400). Nor is the power limit, which is
where a busy GPU normally runs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llem.domain.conditions import DeviceThrottle, TemperatureRange
from llem.domain.energy import ThermalThrottleInfo
from llem.protocols import Device, Edge, Samples

SW_POWER_CAP = 0x4
"""The driver lowers clocks to keep to the power limit."""

HW_SLOWDOWN = 0x8
"""Clocks are halved or less, for one of the next two or for a reason that has no bit."""

SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x20, 0x40, 0x80
"""Too hot for the driver, too hot for the device, and the power supply has pulled the brake."""

MAX_ONSETS = 1000
"""Onsets that are kept of a device. One that flickers at each tick would outgrow the record."""

_THROTTLED = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE
_NAMED_IN_HARDWARE = HW_THERMAL | HW_POWER_BRAKE


def throttling(
    devices: Sequence[Device], samples: Samples, begin: Edge, end: Edge, *, origin_s: float
) -> tuple[DeviceThrottle, ...]:
    """
    How long each device was throttled from *begin* to *end*, and why.

    What is seen at a tick holds until the next one, and what is seen at the last one to the end of
    the window. Of the time before the first tick nothing is known, and it is not counted.

    Args:
        devices: The meter's devices.
        samples: What it sampled, one column for each device.
        begin: First edge of the window.
        end: Last edge.
        origin_s: Monotonic time of the start of the run. Unit: s.

    Returns:
        One for each device. None at all where the reasons were not read, or not in the window.
    """
    if samples.clock_event_reasons is None:
        return ()
    first = max(int(np.searchsorted(samples.times_s, begin.time_s, "right")) - 1, 0)
    near = slice(first, int(np.searchsorted(samples.times_s, end.time_s, "left")))
    times_s = np.maximum(samples.times_s[near], begin.time_s)
    held_s = np.diff(np.append(times_s, end.time_s))
    if not held_s.sum() > 0:
        return ()
    return tuple(
        _device(device.uuid, samples.clock_event_reasons[near, column], times_s - origin_s, held_s)
        for column, device in enumerate(devices)
    )


def throttle_info(
    throttles: Sequence[DeviceThrottle], temperatures: Sequence[TemperatureRange]
) -> ThermalThrottleInfo | None:
    """What *throttles* and *temperatures* of all devices come to. None: nothing is known of it."""
    if not throttles:
        return None
    sw_thermal = any(device.sw_thermal_s > 0 for device in throttles)
    hw_thermal = any(device.hw_thermal_s > 0 for device in throttles)
    hw_power = any(device.hw_power_s > 0 for device in throttles)
    return ThermalThrottleInfo(
        detected=any(device.throttled_s > 0 for device in throttles),
        thermal=sw_thermal or hw_thermal,
        power=hw_power,
        sw_thermal=sw_thermal,
        hw_thermal=hw_thermal,
        hw_power=hw_power,
        throttle_duration_sec=max(device.throttled_s for device in throttles),
        max_temperature_c=max((device.high_c for device in temperatures), default=None),
        throttle_timestamps=tuple(
            sorted({onset_s for device in throttles for onset_s in device.onsets_s})
        ),
    )


def _device(
    uuid: str,
    reasons: npt.NDArray[np.uint32],
    times_s: npt.NDArray[np.float64],
    held_s: npt.NDArray[np.float64],
) -> DeviceThrottle:
    def lasted(on: npt.NDArray[np.bool_]) -> float:
        return float(held_s[on].sum())

    throttled = reasons & _THROTTLED != 0
    unnamed = (reasons & HW_SLOWDOWN != 0) & (reasons & _NAMED_IN_HARDWARE == 0)
    sets_in = throttled & ~np.append(False, throttled[:-1])
    return DeviceThrottle(
        uuid=uuid,
        duration_s=float(held_s.sum()),
        throttled_s=lasted(throttled),
        sw_thermal_s=lasted(reasons & SW_THERMAL != 0),
        hw_thermal_s=lasted(reasons & HW_THERMAL != 0),
        hw_power_s=lasted(reasons & HW_POWER_BRAKE != 0),
        hw_other_s=lasted(unnamed),
        power_cap_s=lasted(reasons & SW_POWER_CAP != 0),
        onsets_s=tuple(times_s[sets_in][:MAX_ONSETS].tolist()),
    )
