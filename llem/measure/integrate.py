"""
From samples and counters to energy, the same way for every meter.

Power is integrated by the trapezoid rule on the real times of the samples, interpolated at both
edges of the window. A reading that failed is left out, and the line between its neighbours
bridges it.
"""

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import attrs

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.protocols import Device, Edge, Samples

GAP_PERIODS = 5
"""
Periods without a sample that count as a gap. A busy machine delays a sampling thread by a period
or two; five are the first that only a failing sensor or a stalled machine explains.
"""

DISAGREEMENT_LIMIT = 0.1
"""Share by which counter and integral may differ: twice the 5 % that sensors are specified to."""

COUNTER_REFRESH_S = {Sensor.RAPL: 0.001}
"""Time between two updates of a sensor's counter where it is known. Unit: s."""

DEFAULT_COUNTER_REFRESH_S = 0.1
"""The same for every other sensor: data-center GPUs update theirs every 20 to 100 ms. Unit: s."""

_NVML_POWER = {Sensor.NVML_POWER, Sensor.NVML_POWER_INSTANT, Sensor.NVML_POWER_AVERAGE}


def device_energies(
    devices: Sequence[Device], samples: Samples, begin: Edge, end: Edge
) -> tuple[DeviceEnergy, ...]:
    """
    The energy of each device from *begin* to *end*, with its evidence.

    ``energy_j`` is the difference of the device's counter where it has one that advanced, else the
    integral of its power, else None. ``error_bound_j`` bounds what sampling and refreshing leave
    out, not the sensor's own accuracy:

    - counter: its refresh period times the greatest power seen, as both readings are at most one
      refresh old. None where no power was seen.
    - integral: the sum over neighbouring samples of their distance times half their difference,
      which holds for any power that lies between the two and moves one way. Segments that an
      edge cuts count their whole difference, and stretches beyond the outermost sample, which
      take its value, the greatest power seen.

    Codes: ``counter_reset`` a counter ran backwards, or stopped answering; ``sampling_gap`` more
    than `GAP_PERIODS` without a sample; ``sources_disagree`` counter and integral differ by more
    than `DISAGREEMENT_LIMIT`, or the counter stands still; ``mig_parent_energy`` the figure is
    that of a whole GPU that is split; ``energy_not_measured`` there is no figure.

    Args:
        devices: The meter's devices.
        samples: What it sampled, one column for each device, or none at all.
        begin: First edge of the window.
        end: Last edge.

    Raises:
        MeterError: The window ends before it begins.
    """
    if end.time_s < begin.time_s:
        raise MeterError(f"the window ends {begin.time_s - end.time_s:g} s before it begins")
    columns = samples.power_w or (array("d"),) * len(devices)
    counters = zip(begin.counters_j, end.counters_j, strict=True)
    return tuple(
        _device_energy(device, _valid(samples.times_s, power), begin.time_s, end.time_s, counter)
        for device, power, counter in zip(devices, columns, counters, strict=True)
    )


def mean_power_w(energies: Sequence[DeviceEnergy], duration_s: float) -> tuple[float | None, ...]:
    """
    The mean power of each device over a window of *duration_s*. Unit: W. None: no energy is known.
    """
    return tuple(
        None if energy.energy_j is None or duration_s <= 0 else energy.energy_j / duration_s
        for energy in energies
    )


@attrs.frozen
class _Trace:
    """Valid samples of one device: times in s, power in W."""

    times_s: "array[float]"
    power_w: "array[float]"


@attrs.frozen
class _Integral:
    """Energy and the bound on its error in J, and the greatest power that went into it in W."""

    energy_j: float
    bound_j: float
    peak_w: float


def _valid(times_s: "array[float]", power_w: "array[float]") -> _Trace:
    if math.isfinite(sum(power_w)) and min(power_w, default=0.0) >= 0:
        return _Trace(times_s, power_w)
    kept = [math.isfinite(power) and power >= 0 for power in power_w]
    return _Trace(
        array("d", itertools.compress(times_s, kept)), array("d", itertools.compress(power_w, kept))
    )


def _device_energy(
    device: Device,
    trace: _Trace,
    begin_s: float,
    end_s: float,
    counters_j: tuple[float | None, float | None],
) -> DeviceEnergy:
    counter_j, reset = _counter(*counters_j)
    first, last = bisect_left(trace.times_s, begin_s), bisect_right(trace.times_s, end_s)
    period_s = device.period_s
    gap_s = None if period_s is None else _max_gap(trace.times_s[first:last], begin_s, end_s)
    integral = _integral(_around(trace, first, last), begin_s, end_s, period_s)
    integrated_j = None if integral is None else integral.energy_j
    disagreement = _disagreement(counter_j, integrated_j)
    # A counter that stands still has not been refreshed: its 0 is no figure.
    counted = bool(counter_j)
    energy_j = counter_j if counted else integrated_j
    codes = {
        "counter_reset": reset,
        "sampling_gap": bool(period_s and gap_s and gap_s > GAP_PERIODS * period_s),
        "sources_disagree": (disagreement or 0) > DISAGREEMENT_LIMIT
        or _stands_still(device.sensor, counter_j, integral),
        "mig_parent_energy": device.parent_of_mig,
        "energy_not_measured": energy_j is None,
    }
    return DeviceEnergy(
        gpu_index=device.index,
        uuid=device.uuid,
        name=device.name,
        energy_j=energy_j,
        sensor=_sensor(device.sensor, counted=counted),
        scope=device.scope,
        counter_j=counter_j,
        integrated_j=integrated_j,
        disagreement=disagreement,
        sample_count=last - first,
        sampling_period_s=period_s,
        max_gap_s=gap_s,
        coverage=_coverage(last - first, end_s - begin_s, period_s),
        error_bound_j=_error_bound(device.sensor, integral, counted=counted),
        codes=tuple(code for code, applies in codes.items() if applies),
    )


def _counter(begin_j: float | None, end_j: float | None) -> tuple[float | None, bool]:
    """Difference of a counter, None where it is not known, and whether it was lost on the way."""
    if begin_j is None or not math.isfinite(begin_j):
        return None, False
    if end_j is None or not math.isfinite(end_j) or end_j < begin_j:
        return None, True
    return end_j - begin_j, False


def _around(trace: _Trace, first: int, last: int) -> _Trace:
    """The samples in the window and the nearest one on either side."""
    around = slice(max(first - 1, 0), last + 1)
    return _Trace(trace.times_s[around], trace.power_w[around])


def _integral(
    trace: _Trace, begin_s: float, end_s: float, period_s: float | None
) -> _Integral | None:
    """None where fewer than two samples, or none near an edge, tell of the window."""
    if len(trace.times_s) < 2:
        return None
    head_s = max(trace.times_s[0] - begin_s, 0.0)
    tail_s = max(end_s - trace.times_s[-1], 0.0)
    if period_s is not None and max(head_s, tail_s) > GAP_PERIODS * period_s:
        return None
    peak_w = max(trace.power_w)
    energy_j = head_s * trace.power_w[0] + tail_s * trace.power_w[-1]
    bound_j = (head_s + tail_s) * peak_w
    points = zip(trace.times_s, trace.power_w, strict=True)
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        low, high = max(t0, begin_s), min(t1, end_s)
        if high <= low:
            continue
        share = ((low + high) / 2 - t0) / (t1 - t0)
        energy_j += (high - low) * (p0 * (1 - share) + p1 * share)
        whole = high - low == t1 - t0
        bound_j += (high - low) * abs(p1 - p0) * (0.5 if whole else 1.0)
    return _Integral(energy_j, bound_j, peak_w)


def _max_gap(inside_s: "array[float]", begin_s: float, end_s: float) -> float:
    stops = [begin_s, *inside_s, end_s]
    return max(later - earlier for earlier, later in itertools.pairwise(stops))


def _coverage(count: int, duration_s: float, period_s: float | None) -> float | None:
    if period_s is None:
        return None
    return min(count / max(math.floor(duration_s / period_s), 1), 1.0)


def _disagreement(counter_j: float | None, integrated_j: float | None) -> float | None:
    if not counter_j or integrated_j is None:
        return None
    return abs(counter_j - integrated_j) / counter_j


def _stands_still(sensor: Sensor, counter_j: float | None, integral: _Integral | None) -> bool:
    """Whether the counter shows nothing where the power says that it has been refreshed."""
    if counter_j != 0 or integral is None:
        return False
    return integral.energy_j > integral.bound_j + _lag(sensor) * integral.peak_w


def _lag(sensor: Sensor) -> float:
    return COUNTER_REFRESH_S.get(sensor, DEFAULT_COUNTER_REFRESH_S)


def _sensor(sensor: Sensor, *, counted: bool) -> Sensor:
    return Sensor.NVML_TOTAL_ENERGY if counted and sensor in _NVML_POWER else sensor


def _error_bound(sensor: Sensor, integral: _Integral | None, *, counted: bool) -> float | None:
    if integral is None:
        return None
    return _lag(sensor) * integral.peak_w if counted else integral.bound_j
