"""
From samples and counters to energy, the same way for every meter.

Power is integrated by the trapezoid rule on the real times of the samples, interpolated at both
edges of the window. A reading that failed is left out, and the line between its neighbours
bridges it. Samples are read in blocks of ticks, so that memory stays bounded whatever the length.
"""

import math
from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure.counters import counted, standstills
from llem.measure.readings import BLOCK, MAX_POWER_W, Floats, is_power, near
from llem.protocols import Device, Edge, Samples

GAP_PERIODS = 5
"""
Periods without a sample that count as a gap. A busy machine delays a tick by a period or two; five
are the first that only a failing sensor or a stalled machine explains.
"""

MIN_GAP_PERIOD_S = 0.02
"""Shorter periods count as this long: what a busy machine delays does not shrink with them."""

UNSEEN_PERIODS = 1.5
"""Periods between two samples beyond which power may have risen and fallen unseen."""

MAX_AGE_S = 10.0
"""Age of a reading beyond which the sensor's clock is taken to be wrong. Unit: s."""

MIN_COVERAGE = 0.95
"""Share of the asked-for samples below which some were missed."""

DISAGREEMENT_LIMIT = 0.1
"""Share by which counter and integral may differ: more than a sensor's calibration explains."""

_NVML_POWER = {Sensor.NVML_POWER, Sensor.NVML_POWER_INSTANT, Sensor.NVML_POWER_AVERAGE}


def device_energies(
    devices: Sequence[Device],
    samples: Samples,
    begin: Edge,
    end: Edge,
    *,
    standstills_s: Sequence[float] | None = None,
) -> tuple[DeviceEnergy, ...]:
    """
    The energy of each device from *begin* to *end*, with its evidence.

    ``energy_j`` is the difference of the device's counter where it has one that advanced, else the
    integral of its power where it drew any, else None. ``error_bound_j`` bounds what sampling and
    refreshing leave out, not the calibration of the sensor. Below, *top* is the power limit or the
    greatest power seen, whichever is more:

    - counter: its refresh period, or the longest time that it was seen to stand still, and the time
      that reading the edges took, times *top*. Each reading is at most one refresh old, so the
      difference is off by at most one refresh. None where *top* is not known. Where the sources
      disagree, or lie further apart than both bounds explain, one of the two is wrong: the bound
      then reaches to the far end of the integral's.
    - integral: for neighbouring samples their distance, or the sensor's refresh period where that
      is longer, times the change of power between them, which holds for any power that moves one
      way in between. More than `UNSEEN_PERIODS` apart it may have done otherwise: their distance
      times *top*. Where the sensor looks at a part of the time only, or is asked less often than it
      is refreshed, the rest of the window, times how far power can lie from its mean between 0 and
      *top*. Where it gives running means, half their length times *top*.

    Codes: ``counter_reset`` a counter ran backwards, or stopped answering; ``sampling_gap`` more
    than `GAP_PERIODS` without a sample; ``samples_missed`` fewer than `MIN_COVERAGE` of them;
    ``sources_disagree`` counter and integral differ by more than `DISAGREEMENT_LIMIT` and what the
    counter's refresh explains, or the counter stands still while power is drawn;
    ``mig_parent_energy`` the figure is that of a whole GPU that is split; ``energy_not_measured``
    there is no figure.

    Args:
        devices: The meter's devices.
        samples: What it sampled, one column for each device, or none at all.
        begin: First edge of the window.
        end: Last edge.
        standstills_s: Longest time that each counter stood still. Unit: s. None: as sampled.

    Raises:
        MeterError: The window ends before it begins, or samples and devices differ in number.
    """
    if end.time_s < begin.time_s:
        raise MeterError(f"the window ends {begin.time_s - end.time_s:g} s before it begins")
    if len(samples.times_s) and samples.power_w.shape[1] != len(devices):
        raise MeterError(
            f"the meter has {len(devices)} devices and sampled {samples.power_w.shape[1]}"
        )
    traces = _traces(devices, samples, begin.time_s, end.time_s)
    if standstills_s is None:
        standstills_s = standstills(samples, len(devices), begin.time_s, end.time_s)
    for trace, standstill_s in zip(traces, standstills_s, strict=True):
        trace.counter_refresh_s = max(trace.device.counter_refresh_s, standstill_s)
    return tuple(
        _device_energy(device, trace, counted(column, device, samples, begin, end), begin, end)
        for column, (device, trace) in enumerate(zip(devices, traces, strict=True))
    )


def mean_power_w(energies: Sequence[DeviceEnergy], duration_s: float) -> tuple[float | None, ...]:
    """
    The mean power of each device over a window of *duration_s*. Unit: W. None: no energy is known.
    """
    return tuple(
        None if energy.energy_j is None or duration_s <= 0 else energy.energy_j / duration_s
        for energy in energies
    )


@attrs.define
class _Trace:
    """
    What the valid samples of one device tell of a window, added up block by block.

    Attributes:
        device: The device.
        period_s: Time between two kept ticks. Unit: s. None: power is not sampled.
        energy_j: Integral over the window, from the first to the last sample near it. Unit: J.
        change_j: Distance of neighbouring samples times their change. Unit: J.
        unseen_s: Time between samples that lie too far apart. Unit: s.
        peak_w: Greatest power. Unit: W.
        max_gap_s: Longest time between two samples, within the window. Unit: s.
        inside: Samples in the window.
        first: Time and power of the first sample met. Unit: s, W.
        last: The same of the last one.
        counter_refresh_s: Longest time between two updates of its counter. Unit: s.
    """

    device: Device
    period_s: float | None
    energy_j: float = 0.0
    change_j: float = 0.0
    unseen_s: float = 0.0
    peak_w: float = 0.0
    max_gap_s: float = 0.0
    inside: int = 0
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    counter_refresh_s: float = 0.0

    def head_s(self, begin_s: float) -> float:
        """Time of the window before the first sample. Unit: s."""
        return 0.0 if self.first is None else max(self.first[0] - begin_s, 0.0)

    def tail_s(self, end_s: float) -> float:
        """Time of the window after the last sample. Unit: s."""
        return 0.0 if self.last is None else max(end_s - self.last[0], 0.0)

    def gap_s(self, begin_s: float, end_s: float) -> float | None:
        """Longest time of the window without a sample. Unit: s. None: power is not sampled."""
        if self.period_s is None:
            return None
        if self.first is None:
            return end_s - begin_s
        edges = self.head_s(begin_s), self.tail_s(end_s)
        return min(max(self.max_gap_s, *edges), end_s - begin_s)

    def top_w(self) -> float | None:
        """Power that the device does not exceed. Unit: W. None: not known."""
        known = [self.device.limit_w or 0.0, self.peak_w]
        return max(known) or (None if self.first is None else 0.0)


@attrs.frozen
class _Integral:
    """Energy and the bound on its error. Unit: J."""

    energy_j: float
    bound_j: float


def _traces(
    devices: Sequence[Device], samples: Samples, begin_s: float, end_s: float
) -> list[_Trace]:
    """One trace a device. Devices that are sampled alike go through a block together."""
    traces = [
        _Trace(device, None if device.period_s is None else device.period_s * samples.stride)
        for device in as_refreshed(devices, samples, begin_s, end_s)
    ]
    groups: dict[tuple[float, float | None], list[int]] = {}
    for column, trace in enumerate(traces):
        groups.setdefault((trace.device.refresh_s, trace.period_s), []).append(column)
    for start in range(0, len(samples.times_s), BLOCK):
        # One tick more: the line from one block to the next belongs to the former.
        block = slice(start, start + BLOCK + 1)
        times_s, power_w = samples.times_s[block], samples.power_w[block]
        for columns in groups.values():
            chosen = power_w if len(columns) == len(traces) else power_w[:, columns]
            _add_block([traces[i] for i in columns], times_s, chosen, begin_s, end_s)
    return traces


def as_refreshed(
    devices: Sequence[Device], samples: Samples, begin_s: float, end_s: float
) -> tuple[Device, ...]:
    """*devices*, refreshed as seldom as the timestamps of their readings in the window show."""
    around = near(samples, begin_s, end_s)
    return tuple(
        attrs.evolve(device, refresh_s=max(device.refresh_s, _oldest_s(around, column)))
        for column, device in enumerate(devices)
    )


def _oldest_s(samples: Samples, column: int) -> float:
    """Greatest age of a reading by the sensor's own timestamp, where that is to be believed."""
    if samples.reading_age_s is None:
        return 0.0
    ages_s = samples.reading_age_s[:, column]
    return float(ages_s.max(initial=0.0, where=ages_s <= MAX_AGE_S))


def _add_block(
    traces: list[_Trace],
    times_s: Floats,
    power_w: npt.NDArray[np.float32],
    begin_s: float,
    end_s: float,
) -> None:
    """Add a block whose first tick is the last one of the block before, where there was one."""
    # One row a device, so that everything below runs along memory.
    rows_w = power_w.T.astype("f8", order="C")
    with np.errstate(invalid="ignore"):
        valid = bool(power_w.min() >= 0 and power_w.max() <= MAX_POWER_W)
    if valid:
        _add(traces, times_s, rows_w, begin_s, end_s)
        return
    for trace, row_w in zip(traces, rows_w, strict=True):
        with np.errstate(invalid="ignore"):
            read = is_power(row_w)
        times, kept = times_s[read], row_w[read]
        if trace.last is not None and not read[0]:
            times, kept = np.append(trace.last[0], times), np.append(trace.last[1], kept)
        _add([trace], times, kept[None], begin_s, end_s)


def _add(
    traces: list[_Trace], times_s: Floats, rows_w: Floats, begin_s: float, end_s: float
) -> None:
    """
    Add neighbouring samples, *rows_w* of shape (traces, ticks), to *traces*, sampled alike.

    The first of them is known already where there were samples before.
    """
    if not len(times_s):
        return
    inside = int(np.searchsorted(times_s, end_s, "right"))
    inside -= int(np.searchsorted(times_s, begin_s, "left"))
    if traces[0].last is not None and begin_s <= times_s[0] <= end_s:
        inside -= 1
    for trace, row_w in zip(traces, rows_w, strict=True):
        trace.inside += max(inside, 0)
        trace.first = trace.first or (float(times_s[0]), float(row_w[0]))
        trace.last = float(times_s[-1]), float(row_w[-1])
    near = slice(
        max(int(np.searchsorted(times_s, begin_s, "right")) - 1, 0),
        int(np.searchsorted(times_s, end_s, "left")) + 1,
    )
    if len(times_s[near]) > 1:
        _integrate(traces, times_s[near], rows_w[:, near], begin_s, end_s)


def _integrate(
    traces: list[_Trace], times_s: Floats, rows_w: Floats, begin_s: float, end_s: float
) -> None:
    """Add the trapezoids between two and more neighbouring samples, cut at the edges."""
    earlier, distance = times_s[:-1], np.diff(times_s)
    low, high = np.maximum(earlier, begin_s), np.minimum(times_s[1:], end_s)
    span = np.maximum(high - low, 0.0)
    share = np.zeros_like(span)
    np.divide((low + high) / 2 - earlier, distance, out=share, where=span > 0)
    weight = np.append(span * (1 - share), 0.0)
    weight[1:] += span * share
    refresh_s = traces[0].device.refresh_s
    reach_s = UNSEEN_PERIODS * max(refresh_s, traces[0].period_s or 0.0)
    seen = (distance <= reach_s) | (reach_s == 0)
    lasting = np.where(seen & (span > 0), np.maximum(distance, refresh_s), 0.0)
    steps_w = rows_w[:, 1:] - rows_w[:, :-1]
    change = np.abs(steps_w, out=steps_w) @ lasting
    energy, peak = rows_w @ weight, rows_w.max(axis=1)
    unseen_s, longest_s = float(span[~seen].sum()), float(span.max())
    for column, trace in enumerate(traces):
        trace.energy_j += float(energy[column])
        trace.change_j += float(change[column])
        trace.unseen_s += unseen_s
        trace.peak_w = max(trace.peak_w, float(peak[column]))
        trace.max_gap_s = max(trace.max_gap_s, longest_s)


def _device_energy(
    device: Device, trace: _Trace, counted: tuple[float | None, bool], begin: Edge, end: Edge
) -> DeviceEnergy:
    counter_j, reset = counted
    duration_s = end.time_s - begin.time_s
    integral = _integral(trace, begin.time_s, end.time_s)
    integrated_j = None if integral is None else integral.energy_j
    counter_bound_j = _counter_bound(trace, trace.counter_refresh_s, begin, end)
    # Standing still explains no disagreement: it is what one is to be told of.
    usual_bound_j = _counter_bound(trace, device.counter_refresh_s, begin, end)
    disagree = _disagree(counter_j, integral, usual_bound_j)
    # A counter that stands still was not refreshed, and no device draws nothing: 0 is no figure.
    energy_j = counter_j or integrated_j or None
    gap_s = trace.gap_s(begin.time_s, end.time_s)
    expected = _expected(trace.period_s, duration_s)
    coverage = None if expected is None else min(trace.inside / expected, 1.0)
    codes = {
        "counter_reset": reset,
        "sampling_gap": bool(
            trace.period_s and gap_s and gap_s > GAP_PERIODS * max(trace.period_s, MIN_GAP_PERIOD_S)
        ),
        # One of them falls on either side of an edge as it happens.
        "samples_missed": coverage is not None
        and coverage < MIN_COVERAGE
        and trace.inside + 1 < (expected or 0),
        "sources_disagree": disagree,
        "mig_parent_energy": device.parent_of_mig,
        "energy_not_measured": energy_j is None,
    }
    return DeviceEnergy(
        gpu_index=device.index,
        uuid=device.uuid,
        name=device.name,
        energy_j=energy_j,
        # A meter that does not sample says itself where its energy is read.
        sensor=_sensor(device.sensor, counted=bool(counter_j) and device.period_s is not None),
        scope=device.scope,
        counter_j=counter_j,
        integrated_j=integrated_j,
        disagreement=_disagreement(counter_j, integrated_j),
        sample_count=trace.inside,
        sampling_period_s=trace.period_s,
        max_gap_s=gap_s,
        coverage=coverage,
        error_bound_j=None
        if energy_j is None
        else _bound(counter_j, counter_bound_j, integral, disagree=disagree),
        codes=tuple(code for code, applies in codes.items() if applies),
    )


def _integral(trace: _Trace, begin_s: float, end_s: float) -> _Integral | None:
    """None where fewer than two samples, or none near an edge, tell of the window."""
    if trace.first is None or trace.last is None or trace.first == trace.last:
        return None
    head_s, tail_s = trace.head_s(begin_s), trace.tail_s(end_s)
    near_s = GAP_PERIODS * max(trace.period_s or math.inf, MIN_GAP_PERIOD_S)
    beyond_s = head_s + tail_s
    if max(head_s, tail_s) > near_s or (beyond_s and beyond_s >= end_s - begin_s):
        return None
    energy_j = trace.energy_j + head_s * trace.first[1] + tail_s * trace.last[1]
    top_w = trace.top_w() or 0.0
    refresh_s, window_s = trace.device.refresh_s, trace.device.window_s
    if window_s is None:
        window_s = refresh_s
    bound_j = trace.change_j + (trace.unseen_s + beyond_s + refresh_s) * top_w
    if window_s > refresh_s:
        bound_j += window_s / 2 * top_w
    # Readings that come more often than they are asked for are not all seen.
    between_s = max(refresh_s, trace.period_s or 0.0) if refresh_s else 0.0
    if window_s < between_s:
        unattended = 1 - window_s / between_s
        most_j = top_w * (end_s - begin_s)
        bound_j += unattended * max(most_j - energy_j, energy_j)
    return _Integral(energy_j, bound_j)


def _bound(
    counter_j: float | None,
    counter_bound_j: float | None,
    integral: _Integral | None,
    *,
    disagree: bool,
) -> float | None:
    """That of the source that was chosen, and more where the two cannot both hold."""
    if not counter_j:
        return None if integral is None else integral.bound_j
    if counter_bound_j is None or integral is None:
        return counter_bound_j
    apart_j = abs(counter_j - integral.energy_j)
    if disagree or apart_j > counter_bound_j + integral.bound_j:
        return max(counter_bound_j, apart_j + integral.bound_j)
    return counter_bound_j


def _counter_bound(trace: _Trace, refresh_s: float, begin: Edge, end: Edge) -> float | None:
    top_w = trace.top_w()
    if top_w is None:
        return None
    return top_w * (refresh_s + (begin.spread_s + end.spread_s) / 2)


def _expected(period_s: float | None, duration_s: float) -> int | None:
    """Samples that were asked for. None: power is not sampled."""
    return None if period_s is None else max(math.floor(duration_s / period_s), 1)


def _disagreement(counter_j: float | None, integrated_j: float | None) -> float | None:
    if not counter_j or integrated_j is None:
        return None
    return abs(counter_j - integrated_j) / counter_j


def _disagree(
    counter_j: float | None, integral: _Integral | None, counter_bound_j: float | None
) -> bool:
    if counter_j is None or integral is None:
        return False
    explained_j = counter_bound_j or 0.0
    if counter_j == 0:
        # It stands still though power was drawn for longer than it takes to be refreshed.
        return integral.energy_j > explained_j + integral.bound_j
    difference_j = abs(counter_j - integral.energy_j)
    return difference_j - explained_j > DISAGREEMENT_LIMIT * counter_j


def _sensor(sensor: Sensor, *, counted: bool) -> Sensor:
    return Sensor.NVML_TOTAL_ENERGY if counted and sensor in _NVML_POWER else sensor
