"""What the samples of a time series give anew."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from llem.auditing.check import (
    EDGE_TOLERANCE_S,
    Check,
    alike,
    applies,
    follows,
    name_of,
    rounding,
)
from llem.domain.conditions import RequestSpan
from llem.domain.energy import DeviceEnergy
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import devices_of_rows
from llem.errors import SidecarSchemaError
from llem.measure import (
    Timing,
    by_device,
    device_energies,
    phase_energies,
    requests_of,
    stride,
    timings,
)
from llem.measure.readings import MAX_POWER_W, is_power
from llem.protocols import Device, Edge, Samples

if TYPE_CHECKING:
    import pyarrow as pa

CODES_OF_SAMPLES = {"sampling_gap", "samples_missed", "energy_not_measured"}
"""Codes that the samples and the counter's difference give rise to."""

OF_SAMPLES = (
    "integrated_j",
    "sample_count",
    "max_gap_s",
    "coverage",
    "sampling_period_s",
    "error_bound_j",
)
"""Figures that samples give."""

CODES_OF_TIMING = CODES_OF_SAMPLES | {"sources_disagree"}
"""The same where it is known how the counter is refreshed."""


NO_SAMPLES = "there are no samples to integrate"
THINNED = "the time series keeps but one tick of {stride}"
NO_TIMING = "the time series does not tell how the sensors read"
NO_REQUESTS = "the time series does not tell when requests ran"


@attrs.frozen
class _Series:
    """
    A time series, and what it tells of itself.

    Attributes:
        samples_of: The samples of each device index.
        timing_of: How each device was read, where that is told.
        requests_of: When requests of each process ran, where that is told.
        stride: k where only every k-th tick of what was integrated is kept, else 1.
    """

    samples_of: dict[int, Samples]
    timing_of: dict[int, Timing]
    requests_of: dict[int, tuple[RequestSpan, ...]]
    stride: int


def sampled(result: ExperimentResult, timeseries: "pa.Table | None") -> Iterator[Check]:
    """What the samples give for each device of each process, and for the phases of each."""
    series = _series(result, timeseries)
    rows = devices_of_rows(result)
    for index, process, device in rows:
        name, own = name_of(result, process, device), series.samples_of.get(index)
        if own is None:
            yield from _unsampled(name, device, NO_SAMPLES)
        elif series.stride > 1:
            yield from _unsampled(name, device, THINNED.format(stride=series.stride))
        else:
            begin_s, end_s = _window(result, process)
            timing = series.timing_of.get(index)
            yield from _device(name, device, _Anew(device, own, timing, begin_s, end_s))
    for process in result.process_results:
        indices = [index for index, whose, _ in rows if whose is process]
        yield from _phases(result, process, indices, series)


def _series(result: ExperimentResult, timeseries: "pa.Table | None") -> _Series:
    if timeseries is None:
        return _Series({}, {}, {}, 1)
    samples_of = by_device(timeseries)
    if not all(np.isfinite(samples.times_s).all() for samples in samples_of.values()):
        raise SidecarSchemaError("the time series has times that are not finite")
    processes = [process.process_index for process in result.process_results]
    told = requests_of(timeseries, processes)
    return _Series(samples_of, timings(timeseries), told, stride(timeseries))


def _unsampled(name: str, device: DeviceEnergy, why: str) -> Iterator[Check]:
    """What cannot be checked of a device without samples, or without all of them."""
    if device.integrated_j is not None:
        for field in OF_SAMPLES:
            yield Check(
                name=f"{name} {field}",
                recorded=getattr(device, field),
                recomputed=None,
                note=why,
            )
    elif device.counter_j:
        yield Check(
            name=f"{name} counter_j",
            recorded=device.counter_j,
            recomputed=None,
            note="no samples stand beside the counter" if why == NO_SAMPLES else why,
        )


def _metered(device: DeviceEnergy, index: int, timing: Timing | None) -> Device:
    """*device* as its meter described it."""
    bare = Device(
        index=index,
        uuid=device.uuid,
        name=device.name,
        sensor=device.sensor,
        period_s=device.sampling_period_s,
    )
    if timing is None:
        return bare
    return attrs.evolve(
        bare,
        limit_w=timing.limit_w,
        period_s=timing.period_s,
        refresh_s=timing.refresh_s,
        window_s=timing.window_s,
        counter_refresh_s=timing.counter_refresh_s,
    )


class _Anew:
    """
    A device's evidence computed anew.

    Attributes:
        timing: How it was read. None: the time series does not tell.
        found: The evidence for the window.
        others: The same for a little less, and for a little more than it: the edges are rounded.
        peak_w: Greatest power. Unit: W.
    """

    def __init__(
        self,
        device: DeviceEnergy,
        samples: Samples,
        timing: Timing | None,
        begin_s: float,
        end_s: float,
    ) -> None:
        self.timing = timing
        metered = _metered(device, 0, timing)
        spread_s, still_s = (timing.spread_s, timing.standstill_s) if timing else (0.0, 0.0)
        counters = (None, None) if device.counter_j is None else (0.0, device.counter_j)

        def within(beyond_s: float) -> DeviceEnergy:
            edges_s = begin_s - beyond_s, max(end_s + beyond_s, begin_s - beyond_s)
            edges = (
                Edge(time_s=time_s, counters_j=(counter_j,), spread_s=spread_s)
                for time_s, counter_j in zip(edges_s, counters, strict=True)
            )
            return device_energies([metered], samples, *edges, standstills_s=[still_s])[0]

        self.found = within(0.0)
        self.others = within(-EDGE_TOLERANCE_S), within(EDGE_TOLERANCE_S)
        # What no device draws is no reading, and would make every difference a small one.
        highest_w = float(samples.power_w.max(initial=0.0, where=samples.power_w >= 0))
        self.peak_w = min(highest_w, MAX_POWER_W)

    def moves(self, field: str) -> float:
        """How far a figure moves with the rounding of the edges."""
        values = [getattr(found, field) for found in (self.found, *self.others)]
        known = [value for value in values if value is not None]
        return max(known) - min(known) if known else 0.0


def _device(name: str, device: DeviceEnergy, anew: _Anew) -> Iterator[Check]:
    """What the samples of *device* give."""
    found = anew.found
    yield Check(
        name=f"{name} integrated_j",
        recorded=device.integrated_j,
        recomputed=found.integrated_j,
        tolerance=rounding(device.integrated_j) + EDGE_TOLERANCE_S * anew.peak_w,
        note=f"trapezoid rule over {found.sample_count} samples"
        if found.integrated_j is not None
        else "",
    )
    # A sample may lie on the other side of an edge that was rounded.
    yield alike(name, "sample_count", device, found, tolerance=2)
    yield alike(name, "max_gap_s", device, found, tolerance=EDGE_TOLERANCE_S)
    if device.coverage is not None or found.coverage is not None:
        yield alike(name, "coverage", device, found, tolerance=anew.moves("coverage"))
    if anew.timing is None:
        yield Check(
            name=f"{name} error_bound_j",
            recorded=device.error_bound_j,
            recomputed=None,
            note="the time series does not tell how the sensor reads",
        )
    else:
        yield follows(
            f"{name} sampling_period_s",
            device.sampling_period_s,
            anew.timing.period_s,
            "as the time series tells",
        )
        if device.error_bound_j is not None or found.error_bound_j is not None:
            yield alike(name, "error_bound_j", device, found, tolerance=anew.moves("error_bound_j"))
    known = CODES_OF_SAMPLES if anew.timing is None else CODES_OF_TIMING
    for code in sorted(known.intersection({*device.codes} ^ {*found.codes})):
        if all((code in other.codes) is (code in found.codes) for other in anew.others):
            yield applies(
                f"{name} {code}", recorded=code in device.codes, recomputed=code in found.codes
            )


def _phases(
    result: ExperimentResult, process: RawProcessResult, indices: list[int], series: _Series
) -> Iterator[Check]:
    """What went into prefill and decode, from when the requests of *process* ran."""
    rank, breakdown = "", result.energy_breakdown
    if len(result.process_results) > 1:
        rank, breakdown = f"process {process.process_index} ", process.energy_breakdown
    recorded = breakdown.phases if breakdown else ()
    if not recorded:
        return
    if why := _without_phases(process, indices, series):
        for phase in recorded:
            name = f"{rank}phases.{phase.phase.value}.energy_j"
            yield Check(name=name, recorded=phase.energy_j, recomputed=None, note=why)
        return
    requests, (begin_s, end_s) = series.requests_of[process.process_index], _window(result, process)
    samples = _together([series.samples_of[index] for index in indices])
    found = phase_energies(
        [
            _metered(device, index, series.timing_of[index])
            for index, device in zip(indices, process.devices, strict=True)
        ],
        process.devices,
        samples,
        requests,
        begin_s=begin_s,
        end_s=end_s,
    )
    # The edges of each request are of whole microseconds too.
    read = np.where(is_power(samples.power_w), samples.power_w, 0.0)
    peak_w = float(read.max(axis=0, initial=0.0).sum())
    tolerance_j = 4 * (len(requests) + 1) * EDGE_TOLERANCE_S * peak_w
    for old, new in zip(recorded, found, strict=False):
        name = f"{rank}phases.{old.phase.value}"
        for field in ("energy_j", "error_bound_j"):
            yield follows(
                f"{name}.{field}",
                getattr(old, field),
                getattr(new, field),
                "integral from request to request",
                tolerance=tolerance_j,
            )
        if old.code != new.code:
            yield applies(f"{name}.code", recorded=False, recomputed=True)


def _without_phases(process: RawProcessResult, indices: list[int], series: _Series) -> str:
    """Why the phases of *process* cannot be computed anew. Empty: they can."""
    if series.stride > 1:
        return THINNED.format(stride=series.stride)
    if not series.requests_of.get(process.process_index):
        return NO_REQUESTS
    known = {*series.samples_of} & {*series.timing_of}
    return "" if indices and {*indices} <= known else NO_TIMING


def _together(samples: list[Samples]) -> Samples:
    """The samples of the devices of one process, which share their ticks, side by side."""
    if all(np.array_equal(one.times_s, samples[0].times_s) for one in samples):
        ticks = samples[0].times_s
        power_w = np.concatenate([one.power_w for one in samples], axis=1)
        return Samples(times_s=ticks, power_w=power_w, temperature_c=np.full_like(power_w, np.nan))
    ticks = np.unique(np.concatenate([one.times_s for one in samples]))
    power_w = np.full((len(ticks), len(samples)), np.nan, "f4")
    for column, one in enumerate(samples):
        power_w[np.searchsorted(ticks, one.times_s), column] = one.power_w[:, 0]
    return Samples(times_s=ticks, power_w=power_w, temperature_c=np.full_like(power_w, np.nan))


def _window(result: ExperimentResult, process: RawProcessResult) -> tuple[float, float]:
    """Edges of what *process* measured. Unit: s from the start of the run."""
    if len(result.process_results) == 1 and result.steady_state_window is not None:
        return result.steady_state_window
    begin_s = (process.timestamps.start - result.start_time).total_seconds()
    return begin_s, begin_s + process.inference_metrics.inference_time_sec
