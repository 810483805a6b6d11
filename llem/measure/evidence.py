"""All that a meter's samples tell of a window."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llem.domain.conditions import Evidence, RequestSpan, TemperatureRange
from llem.measure.integrate import device_energies
from llem.measure.phases import phase_energies
from llem.measure.throttle import throttling
from llem.protocols import Device, Edge, Samples

MAX_UTILISATION = 3600
"""
Readings of the utilisation of each device that are kept, for it is a figure beside the energy. As
many of each, so that a mean over the readings of several processes counts no device for less.
"""


def gather_evidence(
    devices: Sequence[Device],
    samples: Samples,
    begin: Edge,
    end: Edge,
    *,
    origin_s: float,
    requests: Sequence[RequestSpan] = (),
) -> Evidence:
    """
    The evidence for the window from *begin* to *end*.

    Args:
        devices: The meter's devices.
        samples: What it sampled.
        begin: First edge of the window.
        end: Last edge.
        origin_s: Monotonic time of the start of the run. Unit: s.
        requests: Requests that were served.

    Raises:
        MeterError: The window ends before it begins, or samples and devices differ in number.
    """
    energies = device_energies(devices, samples, begin, end)
    first, last = samples.times_s.searchsorted([begin.time_s, end.time_s]).tolist()
    inside = samples.between(first, last)
    memory_busy = _known(inside.memory_utilisation_pct)
    return Evidence(
        devices=energies,
        phases=phase_energies(
            devices, energies, samples, requests, begin_s=begin.time_s, end_s=end.time_s
        ),
        temperatures=_temperatures(devices, inside),
        throttles=throttling(devices, samples, begin, end, origin_s=origin_s),
        utilisation_pct=_utilisation(inside),
        memory_utilisation_pct=math.fsum(memory_busy) / len(memory_busy) if memory_busy else None,
        peak_memory_mb=max(_known(inside.memory_mb), default=None),
        notes=samples.notes,
    )


def _temperatures(devices: Sequence[Device], inside: Samples) -> tuple[TemperatureRange, ...]:
    """Per device; none for one whose temperature was not read."""
    ranges = []
    for column, device in enumerate(devices if len(inside.times_s) else ()):
        known = _known(inside.temperature_c[:, column])
        if known:
            ranges.append(TemperatureRange(uuid=device.uuid, low_c=min(known), high_c=max(known)))
    return tuple(ranges)


def _utilisation(inside: Samples) -> tuple[float, ...]:
    """Of every so many ticks, so that each device has its share."""
    if inside.utilisation_pct is None or not inside.utilisation_pct.size:
        return ()
    stride = math.ceil(len(inside.utilisation_pct) / MAX_UTILISATION)
    return tuple(_known(inside.utilisation_pct[::stride]))


def _known(values: npt.NDArray[np.float32] | None) -> list[float]:
    """The values that were read, in order."""
    return [] if values is None else values[np.isfinite(values)].tolist()
