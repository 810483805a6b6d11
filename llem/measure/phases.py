"""
Energy of prefill and of decode, from one pass: the run is split at each first token.

Prefill is compute-bound and decode memory-bound, so they draw different power. A sensor tells them
apart only where they last longer than it takes to see a change.
"""

import math
from collections.abc import Sequence
from operator import attrgetter

import attrs
import numpy as np

from llem.domain.conditions import RequestSpan
from llem.domain.energy import DeviceEnergy, Phase, PhaseEnergy
from llem.measure.integrate import UNSEEN_PERIODS
from llem.measure.readings import Floats, is_power
from llem.protocols import Device, Samples

MIN_RESOLUTIONS = 2.0
"""
Resolutions of the sensor that a phase lasts at least, by the mean of its pieces. One goes to the
edges, so that with less than another one the figure would be made of its neighbours.
"""

OVERLAP_SHARE = 0.1
"""
Share of a request by which the next may seem to begin before it ends. What takes the time of a
request ends a little after it.
"""


def phase_energies(
    devices: Sequence[Device],
    energies: Sequence[DeviceEnergy],
    samples: Samples,
    requests: Sequence[RequestSpan],
    *,
    begin_s: float,
    end_s: float,
) -> tuple[PhaseEnergy, ...]:
    """
    What of the energy from *begin_s* to *end_s* went into prefill, decode and the rest.

    Each device's ``energy_j`` is shared out by the integral of its power over the pieces of a
    phase, interpolated at their edges, so that the three add up to the total. ``error_bound_j`` is
    the phase's share of the total's and of what counter and integral disagree by; for each edge
    of a piece the sensor's resolution times the range of power met, as what happens in one
    resolution may count on either side; and for the time between samples that lie too far apart
    all that a device can draw; but no more than the devices can draw in the whole phase. It holds
    where what the sensor samples of a phase is like the rest.

    There is no figure, and a code says why, where the pieces of prefill or decode are shorter than
    `MIN_RESOLUTIONS` of the sensor or the bound is as large as the figure (phase_too_short), where
    requests ran at the same time (phases_overlap), or where a device's power was not sampled
    (power_not_sampled).

    Args:
        devices: The meter's devices.
        energies: Their energies over the window.
        samples: What was sampled.
        requests: Requests that were served, in any order.
        begin_s: Monotonic time of the first edge of the window. Unit: s.
        end_s: The same of the last one.

    Returns:
        prefill, decode and other. Empty where there is no device, or a first token is not known.
    """
    if not devices or not requests or any(span.first_token_s is None for span in requests):
        return ()
    pieces, overlap = _pieces(requests, begin_s, end_s)
    shares = _shares(energies, samples, pieces, begin_s, end_s)
    tops_w = _tops_w(devices, samples) if shares is not None else []
    split = _Split(
        energies=energies,
        shares=shares or {},
        ranges_w=_ranges(samples) if shares is not None else [],
        tops_w=tops_w,
        unseen_s={
            phase: [_unseen_s(samples, i, d, edges) for i, d in enumerate(devices)]
            for phase, edges in pieces.items()
        },
        resolution_s=max(_resolution_s(device, samples.stride) for device in devices),
        code="phases_overlap" if overlap else "power_not_sampled" if shares is None else None,
    )
    prefill, decode = (split.phase(phase, pieces[phase]) for phase in pieces)
    return prefill, decode, split.rest(prefill, decode, end_s - begin_s)


@attrs.frozen(kw_only=True)
class _Split:
    """
    How the energy of the devices is shared out.

    Attributes:
        energies: Energy of each device.
        shares: Share of each device's integral that falls into each phase.
        ranges_w: How far the power of each device moved. Unit: W.
        tops_w: Power that each device does not exceed. Unit: W.
        unseen_s: Time of each phase between samples of each device that lie too far apart. Unit: s.
        resolution_s: Time that the slowest sensor takes to see a change. Unit: s.
        code: Why no phase has a figure. None: nothing is against it.
    """

    energies: Sequence[DeviceEnergy]
    shares: dict[Phase, list[float]]
    ranges_w: list[float]
    tops_w: list[float]
    unseen_s: dict[Phase, list[float]]
    resolution_s: float
    code: str | None

    def phase(self, phase: Phase, edges: Floats) -> PhaseEnergy:
        """What went into *phase*, whose pieces have these *edges*, of shape (pieces, 2)."""
        duration_s = float((edges[:, 1] - edges[:, 0]).sum())
        made = PhaseEnergy(phase=phase, duration_s=duration_s, spans=len(edges), code=self.code)
        if self.code is not None:
            return made
        if not duration_s or duration_s < MIN_RESOLUTIONS * self.resolution_s * len(edges):
            return attrs.evolve(made, code="phase_too_short")
        unresolved_s = 2 * len(edges) * self.resolution_s
        energy_j = bound_j = 0.0
        for i, energy in enumerate(self.energies):
            share = self.shares[phase][i]
            part_j = share * (energy.energy_j or 0.0)
            energy_j += part_j
            bound_j += share * (energy.error_bound_j or 0.0) + unresolved_s * self.ranges_w[i]
            bound_j += part_j * (energy.disagreement or 0.0)
            bound_j += self.unseen_s[phase][i] * self.tops_w[i]
        bound_j = self._possible(bound_j, energy_j, duration_s)
        if bound_j >= energy_j:
            return attrs.evolve(made, code="phase_too_short")
        return attrs.evolve(made, energy_j=energy_j, error_bound_j=bound_j)

    def _possible(self, bound_j: float, energy_j: float, duration_s: float) -> float:
        """*bound_j*, but no more than what the devices can draw at all, or less than nothing."""
        return min(bound_j, max(energy_j, math.fsum(self.tops_w) * duration_s - energy_j))

    def rest(self, prefill: PhaseEnergy, decode: PhaseEnergy, window_s: float) -> PhaseEnergy:
        """What is neither. Its bound is that of the two together: it is what they leave."""
        rest = PhaseEnergy(
            phase=Phase.OTHER,
            duration_s=max(window_s - prefill.duration_s - decode.duration_s, 0.0),
            code=prefill.code or decode.code,
        )
        if prefill.energy_j is None or decode.energy_j is None:
            return rest
        total_j = math.fsum(energy.energy_j or 0.0 for energy in self.energies)
        energy_j = max(total_j - prefill.energy_j - decode.energy_j, 0.0)
        bound_j = (prefill.error_bound_j or 0.0) + (decode.error_bound_j or 0.0)
        return attrs.evolve(
            rest,
            energy_j=energy_j,
            error_bound_j=self._possible(bound_j, energy_j, rest.duration_s),
        )


def _pieces(
    requests: Sequence[RequestSpan], begin_s: float, end_s: float
) -> tuple[dict[Phase, Floats], bool]:
    """Start and end of each piece, of shape (pieces, 2), and whether requests ran together."""
    ordered = sorted(requests, key=attrgetter("start_s", "end_s", "first_token_s"))
    starts = np.array([span.start_s for span in ordered])
    firsts = np.array([span.first_token_s for span in ordered], float)
    ends = np.array([span.end_s for span in ordered])
    overlap_s = ends[:-1] - starts[1:]
    together = overlap_s > OVERLAP_SHARE * np.minimum(*_neighbours(ends - starts))
    # What ran together before the window, or after it, is nothing to it.
    overlap = bool((together & (ends[:-1] > begin_s) & (starts[1:] < end_s)).any())
    starts[1:] = np.maximum(starts[1:], ends[:-1])
    firsts = np.maximum(firsts, starts)

    def within(low: Floats, high: Floats) -> Floats:
        clipped = np.clip(np.stack([low, high], axis=1), begin_s, end_s)
        return clipped[clipped[:, 1] > clipped[:, 0]]

    return {Phase.PREFILL: within(starts, firsts), Phase.DECODE: within(firsts, ends)}, overlap


def _neighbours(values: Floats) -> tuple[Floats, Floats]:
    return values[:-1], values[1:]


def _shares(
    energies: Sequence[DeviceEnergy],
    samples: Samples,
    pieces: dict[Phase, Floats],
    begin_s: float,
    end_s: float,
) -> dict[Phase, list[float]] | None:
    """Share of each device's integral that falls into each phase. None: one has no integral."""
    shares: dict[Phase, list[float]] = {phase: [] for phase in pieces}
    for column, energy in enumerate(energies):
        if energy.energy_j is None or energy.integrated_j is None:
            return None
        power_w = samples.power_w[:, column].astype("f8")
        read = is_power(power_w)
        running = _Running(samples.times_s[read], power_w[read])
        whole_j = float(running.until(np.array([end_s]))[0] - running.until(np.array([begin_s]))[0])
        for phase, edges in pieces.items():
            part_j = float((running.until(edges[:, 1]) - running.until(edges[:, 0])).sum())
            shares[phase].append(part_j / whole_j if whole_j else 0.0)
    return shares


class _Running:
    """The integral of power from the first sample on; before and after, power goes on unchanged."""

    def __init__(self, times_s: Floats, power_w: Floats) -> None:
        self._times_s, self._power_w = times_s, power_w
        steps_j = np.diff(times_s) * (power_w[1:] + power_w[:-1]) / 2
        self._sums_j = np.concatenate(([0.0], np.cumsum(steps_j)))

    def until(self, at_s: Floats) -> Floats:
        """The integral up to each of *at_s*. Unit: J."""
        before = np.clip(np.searchsorted(self._times_s, at_s, "right") - 1, 0, None)
        power_w = np.interp(at_s, self._times_s, self._power_w)
        since_s = at_s - self._times_s[before]
        return self._sums_j[before] + since_s * (self._power_w[before] + power_w) / 2


def _ranges(samples: Samples) -> list[float]:
    """How far the power of each device moved. Unit: W."""
    valid = is_power(samples.power_w)
    read = np.where(valid, samples.power_w, np.nan)
    ranges_w: list[float] = (np.nanmax(read, axis=0) - np.nanmin(read, axis=0)).tolist()
    return ranges_w


def _tops_w(devices: Sequence[Device], samples: Samples) -> list[float]:
    """The power limit or the greatest power met of each device, whichever is more. Unit: W."""
    valid = is_power(samples.power_w)
    peaks_w = samples.power_w.max(axis=0, initial=0.0, where=valid).tolist()
    return [
        max(device.limit_w or 0.0, peak_w) for device, peak_w in zip(devices, peaks_w, strict=True)
    ]


def _unseen_s(samples: Samples, column: int, device: Device, edges: Floats) -> float:
    """Time within pieces of these *edges* between samples that lie too far apart. Unit: s."""
    if not len(samples.times_s) or not len(edges):
        return 0.0
    power_w = samples.power_w[:, column]
    times_s = samples.times_s[is_power(power_w)]
    # Nobody saw what lies before the first sample, or after the last one.
    times_s = np.concatenate(([-np.inf], times_s, [np.inf])).clip(edges.min(), edges.max())
    gaps_s = np.diff(times_s)
    reach_s = UNSEEN_PERIODS * max(device.refresh_s, (device.period_s or 0.0) * samples.stride)
    unseen_s = np.concatenate(
        ([0.0], np.cumsum(np.where(gaps_s > (reach_s or np.inf), gaps_s, 0.0)))
    )
    until = np.interp(edges, times_s, unseen_s)
    return float((until[:, 1] - until[:, 0]).sum())


def _resolution_s(device: Device, stride: int) -> float:
    """Time that the sensor takes to see a change. Unit: s."""
    window_s = device.refresh_s if device.window_s is None else device.window_s
    return max((device.period_s or 0.0) * stride, device.refresh_s, window_s)
