"""What a meter says, held against what it promises: it may be anyone's."""

import math
import numbers
from collections import Counter
from collections.abc import Sequence

from llem.errors import MeterError
from llem.protocols import Device, Edge, EnergyMeter


def checked_devices(meter: EnergyMeter) -> tuple[Device, ...]:
    """
    The devices of *meter*.

    Raises:
        MeterError: Several have one index, which would mix their samples.
    """
    devices = tuple(meter.devices)
    for index, count in Counter(device.index for device in devices).items():
        if count > 1:
            raise MeterError(
                f"the meter {meter.name} has {count} devices of index {index}: give each its own"
            )
    return devices


def checked_mark(meter: EnergyMeter, devices: Sequence[Device]) -> Edge:
    """
    What *meter* reads at an edge.

    Args:
        meter: What reads.
        devices: Its devices.

    Raises:
        MeterError: It gives no time, or not one counter for each device.
    """
    edge = meter.mark()
    time_s: object = edge.time_s
    if not (isinstance(time_s, numbers.Real) and math.isfinite(time_s)):
        raise MeterError(
            f"the meter {meter.name} gave {time_s!r} as the time of an edge: give time.monotonic()"
        )
    if len(edge.counters_j) != len(devices):
        raise MeterError(
            f"the meter {meter.name} gave {len(edge.counters_j)} counters for {len(devices)} "
            "devices: give one for each, None where it has none"
        )
    return edge
