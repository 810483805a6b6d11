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
from llem.errors import SidecarSchemaError
from llem.measure import (
    Timing,
    device_energies,
    from_table,
    phase_energies,
    request_spans,
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


@attrs.frozen
class _Series:
    """
    A time series, and what it tells of itself.

    Attributes:
        samples: The samples.
        column_of: The column of each device index.
        timing_of: How each device was read, where that is told.
        requests: When requests ran, where that is told.
    """

    samples: Samples
    column_of: dict[int, int]
    timing_of: dict[int, Timing]
    requests: tuple[RequestSpan, ...]

    def of(self, index: int) -> Samples | None:
        """The samples of one device. None: there are none."""
        column = self.column_of.get(index)
        if column is None:
            return None
        return Samples(
            times_s=self.samples.times_s,
            power_w=self.samples.power_w[:, [column]],
            temperature_c=self.samples.temperature_c[:, [column]],
        )


def sampled(result: ExperimentResult, timeseries: "pa.Table | None") -> Iterator[Check]:
    """What the samples give for each device of each process, and for its phases."""
    series = _series(timeseries)
    index_of = {device.uuid: device.gpu_index for device in result.devices}
    for process in result.process_results:
        begin_s, end_s = _window(result, process)
        for device in process.devices:
            index = index_of.get(device.uuid, device.gpu_index)
            name, own = name_of(result, process, device), series.of(index)
            if own is not None:
                timing = series.timing_of.get(index)
                yield from _device(name, device, _Anew(device, own, timing, begin_s, end_s))
            else:
                yield from _unsampled(name, device)
    if len(result.process_results) == 1:
        yield from _phases(result, result.process_results[0], series)


def _series(timeseries: "pa.Table | None") -> _Series:
    if timeseries is None:
        return _Series(Samples(), {}, {}, ())
    indices, samples = from_table(timeseries)
    if not np.isfinite(samples.times_s).all():
        raise SidecarSchemaError("the time series has times that are not finite")
    columns = {index: column for column, index in enumerate(indices)}
    return _Series(samples, columns, timings(timeseries), request_spans(timeseries))


def _unsampled(name: str, device: DeviceEnergy) -> Iterator[Check]:
    """What cannot be checked of a device without samples."""
    if device.integrated_j is not None:
        for field in OF_SAMPLES:
            yield Check(
                name=f"{name} {field}",
                recorded=getattr(device, field),
                recomputed=None,
                note="there are no samples to integrate"
                if field == "integrated_j"
                else "there are no samples",
            )
    elif device.counter_j:
        yield Check(
            name=f"{name} counter_j",
            recorded=device.counter_j,
            recomputed=None,
            note="no samples stand beside the counter",
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
    result: ExperimentResult, process: RawProcessResult, series: _Series
) -> Iterator[Check]:
    """What went into prefill and decode, from when the requests ran."""
    recorded = result.energy_breakdown.phases if result.energy_breakdown else ()
    if not recorded:
        return
    indices = [device.gpu_index for device in process.devices]
    if not series.requests or not {*indices} <= {*series.column_of} & {*series.timing_of}:
        for phase in recorded:
            yield Check(
                name=f"phases.{phase.phase.value}.energy_j",
                recorded=phase.energy_j,
                recomputed=None,
                note="the time series does not tell when requests ran",
            )
        return
    begin_s, end_s = _window(result, process)
    columns = [series.column_of[index] for index in indices]
    power_w = series.samples.power_w[:, columns]
    found = phase_energies(
        [_metered(d, d.gpu_index, series.timing_of[d.gpu_index]) for d in process.devices],
        process.devices,
        attrs.evolve(
            series.samples,
            power_w=power_w,
            temperature_c=series.samples.temperature_c[:, columns],
        ),
        series.requests,
        begin_s=begin_s,
        end_s=end_s,
    )
    # The edges of each request are of whole microseconds too.
    read = np.where(is_power(power_w), power_w, 0.0)
    peak_w = float(read.max(axis=0, initial=0.0).sum())
    tolerance_j = 4 * (len(series.requests) + 1) * EDGE_TOLERANCE_S * peak_w
    for old, new in zip(recorded, found, strict=False):
        name = f"phases.{old.phase.value}"
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


def _window(result: ExperimentResult, process: RawProcessResult) -> tuple[float, float]:
    """Edges of what *process* measured. Unit: s from the start of the run."""
    if len(result.process_results) == 1 and result.steady_state_window is not None:
        return result.steady_state_window
    begin_s = (process.timestamps.start - result.start_time).total_seconds()
    return begin_s, begin_s + process.inference_metrics.inference_time_sec
