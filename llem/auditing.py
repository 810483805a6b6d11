"""
A figure recomputed from its evidence: from the record and its time series alone, without hardware.

What is integrated anew goes through the code that measured it. What is a sum, a difference or a
ratio of other figures is computed anew from those.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from llem.aggregate import wall_clock_sec
from llem.domain.energy import DeviceEnergy
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult
from llem.measure import device_energies, from_table, timings
from llem.measure.integrate import MAX_POWER_W
from llem.protocols import Device, Edge, Samples

if TYPE_CHECKING:
    import pyarrow as pa

RELATIVE_TOLERANCE = 1e-6
"""What rounding leaves of sums over millions of samples, with room to spare."""

EDGE_TOLERANCE_S = 2e-6
"""The edges of a process are dates, of whole microseconds, and there are two. Unit: s."""


CODES_OF_SAMPLES = {"sampling_gap", "samples_missed", "sources_disagree", "energy_not_measured"}
"""Codes that the samples and the counter's difference give rise to."""

COPIED = (
    "energy_j",
    "counter_j",
    "integrated_j",
    "error_bound_j",
    "sample_count",
    "max_gap_s",
    "coverage",
    "disagreement",
)
"""Figures that a device of the result has from that of a process."""


@attrs.frozen(kw_only=True)
class Check:
    """
    One figure of the record, and what its evidence gives for it.

    Attributes:
        name: What is checked: the device, where it is one's, and the field.
        recorded: What the record says. None: nothing.
        recomputed: What comes of the evidence. None: it cannot be recomputed.
        tolerance: How far the two may lie apart. In the unit of the field.
        note: What the figure rests on, or why it cannot be recomputed.
    """

    name: str
    recorded: float | None
    recomputed: float | None
    tolerance: float = 0.0
    note: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the two agree. None: there is nothing to compare."""
        if self.recomputed is None:
            return None if self.recorded is None or self.note else False
        return self.recorded is not None and (
            abs(self.recorded - self.recomputed) <= self.tolerance
        )


@attrs.frozen(kw_only=True)
class Audit:
    """
    What came of recomputing a result.

    Attributes:
        checks: Every figure that was looked at.
    """

    checks: tuple[Check, ...]

    @property
    def agrees(self) -> bool:
        """Whether no figure differs from its evidence. Those without evidence do not count."""
        return all(check.agrees is not False for check in self.checks)

    @property
    def complete(self) -> bool:
        """Whether there is evidence for every figure that is recorded."""
        return all(check.agrees is not None or check.recorded is None for check in self.checks)


def audit(result: ExperimentResult, timeseries: "pa.Table | None") -> Audit:
    """
    Recompute the energy of *result* from its *timeseries*, and what follows from it.

    Checked are, for each device of each process, what its samples give: integral, error bound,
    coverage, longest gap, codes; the rule by which its energy is chosen, and its disagreement with
    the counter; then the devices that the result names, totals, times, rates and phases.

    Args:
        result: A result.
        timeseries: Its time series, as `Store.timeseries` gives it. None: it has none.

    Returns:
        Every figure that was looked at, with what its evidence gives for it.

    Raises:
        SidecarSchemaError: The time series lacks a column.
    """
    return Audit(
        checks=(
            *_samples(result, timeseries),
            *_choices(result),
            *_processes(result),
            *_devices(result),
            *_totals(result),
        )
    )


def _samples(result: ExperimentResult, timeseries: "pa.Table | None") -> Iterator[Check]:
    indices, samples = ((), Samples()) if timeseries is None else from_table(timeseries)
    timing_of = {} if timeseries is None else timings(timeseries)
    column_of = {index: column for column, index in enumerate(indices)}
    index_of = {device.uuid: device.gpu_index for device in result.devices}
    for process in result.process_results:
        begin_s, end_s = _window(result, process)
        for device in process.devices:
            index = index_of.get(device.uuid, device.gpu_index)
            column = column_of.get(index)
            name = _named(result, process, device)
            if column is not None:
                own = Samples(
                    times_s=samples.times_s,
                    power_w=samples.power_w[:, [column]],
                    temperature_c=samples.temperature_c[:, [column]],
                )
                timing = timing_of.get(index)
                yield from _sampled(name, device, _Anew(device, own, timing, begin_s, end_s))
            elif device.integrated_j is not None:
                yield Check(
                    name=f"{name} integrated_j",
                    recorded=device.integrated_j,
                    recomputed=None,
                    note="there are no samples to integrate",
                )


class _Anew:
    """
    A device's evidence computed anew.

    Attributes:
        timed: Whether it is known how its sensor reads.
        found: The evidence for the window.
        others: The same for a little less, and for a little more than it: the edges are rounded.
        peak_w: Greatest power. Unit: W.
    """

    def __init__(
        self,
        device: DeviceEnergy,
        samples: Samples,
        timing: dict[str, float | None] | None,
        begin_s: float,
        end_s: float,
    ) -> None:
        self.timed = timing is not None
        known: dict[str, Any] = dict(timing or {})
        spread_s = known.pop("spread_s", 0.0)
        metered = Device(
            index=0,
            uuid=device.uuid,
            name=device.name,
            sensor=device.sensor,
            period_s=device.sampling_period_s,
            **known,
        )
        counters = (None, None) if device.counter_j is None else (0.0, device.counter_j)

        def within(beyond_s: float) -> DeviceEnergy:
            edges_s = begin_s - beyond_s, max(end_s + beyond_s, begin_s - beyond_s)
            edges = (
                Edge(time_s=time_s, counters_j=(counter_j,), spread_s=spread_s)
                for time_s, counter_j in zip(edges_s, counters, strict=True)
            )
            return device_energies([metered], samples, *edges)[0]

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


def _sampled(name: str, device: DeviceEnergy, anew: _Anew) -> Iterator[Check]:
    """What the samples of *device* give."""
    found = anew.found
    yield Check(
        name=f"{name} integrated_j",
        recorded=device.integrated_j,
        recomputed=found.integrated_j,
        tolerance=_rounding(device.integrated_j) + EDGE_TOLERANCE_S * anew.peak_w,
        note=f"trapezoid rule over {found.sample_count} samples"
        if found.integrated_j is not None
        else "the samples do not cover the window",
    )
    # A sample may lie on the other side of an edge that was rounded.
    yield _alike(name, "sample_count", device, found, tolerance=2)
    yield _alike(name, "max_gap_s", device, found, tolerance=EDGE_TOLERANCE_S)
    if device.coverage is not None or found.coverage is not None:
        yield _alike(name, "coverage", device, found, tolerance=anew.moves("coverage"))
    if not anew.timed:
        yield Check(
            name=f"{name} error_bound_j",
            recorded=device.error_bound_j,
            recomputed=None,
            note="the time series does not tell how the sensor reads",
        )
        return
    if device.error_bound_j is not None or found.error_bound_j is not None:
        yield _alike(name, "error_bound_j", device, found, tolerance=anew.moves("error_bound_j"))
    for code in sorted(CODES_OF_SAMPLES.intersection({*device.codes} ^ {*found.codes})):
        if all((code in other.codes) is (code in found.codes) for other in anew.others):
            yield Check(
                name=f"{name} {code}",
                recorded=float(code in device.codes),
                recomputed=float(code in found.codes),
                note="1 where the code applies",
            )


def _alike(
    name: str,
    field: str,
    device: DeviceEnergy,
    found: DeviceEnergy,
    *,
    tolerance: float = 0.0,
    note: str = "",
) -> Check:
    """Whether *field* of *device* is that of *found*."""
    recorded, recomputed = getattr(device, field), getattr(found, field)
    return Check(
        name=f"{name} {field}",
        recorded=recorded,
        recomputed=recomputed,
        tolerance=tolerance + _rounding(recorded),
        note=note,
    )


def _choices(result: ExperimentResult) -> Iterator[Check]:
    """Each device's energy is its counter where that advanced, else the integral of some power."""
    for process in result.process_results:
        for device in process.devices:
            name = _named(result, process, device)
            chosen = device.counter_j or device.integrated_j or None
            yield Check(
                name=f"{name} energy_j",
                recorded=device.energy_j,
                recomputed=chosen,
                tolerance=_rounding(device.energy_j),
                note=f"the {'counter' if device.counter_j else 'integral'}"
                if chosen is not None
                else "neither counter nor integral",
            )
            if device.counter_j and device.integrated_j is not None:
                yield Check(
                    name=f"{name} disagreement",
                    recorded=device.disagreement,
                    recomputed=abs(device.counter_j - device.integrated_j) / device.counter_j,
                    tolerance=RELATIVE_TOLERANCE,
                    note="counter and integral",
                )


def _processes(result: ExperimentResult) -> Iterator[Check]:
    """What each process says of its window and its energy."""
    for process in result.process_results:
        if not process.devices:
            continue
        name = f"process {process.process_index}"
        metrics, energy = process.inference_metrics, process.energy_metrics
        span_s = (process.timestamps.end - process.timestamps.start).total_seconds()
        energies = [device.energy_j for device in process.devices]
        yield _follows(
            f"{name} inference_time_sec",
            metrics.inference_time_sec,
            span_s,
            "its end less its start",
            tolerance=EDGE_TOLERANCE_S,
        )
        yield _follows(
            f"{name} energy_metrics.duration_sec",
            energy.duration_sec,
            metrics.inference_time_sec,
            "inference_time_sec",
        )
        if None not in energies:
            yield _follows(
                f"{name} energy_metrics.total_energy_j",
                energy.total_energy_j,
                sum(filter(None, energies)),
                "sum of its devices",
            )


def _devices(result: ExperimentResult) -> Iterator[Check]:
    """Each device of the result is that of the process that saw most of it."""
    for device in result.devices:
        seen = [d for p in result.process_results for d in p.devices if d.uuid == device.uuid]
        most = max(seen, key=_rank, default=device)
        for field in COPIED if seen else ():
            if not getattr(device, field) is getattr(most, field) is None:
                name = f"result device {device.gpu_index} ({device.uuid})"
                yield _alike(name, field, device, most, note="as its process has it")
    for device, energy_j in zip(result.devices, result.energy_per_device_j or (), strict=False):
        yield _follows(
            f"result device {device.gpu_index} ({device.uuid}) energy_per_device_j",
            energy_j,
            device.energy_j,
            "energy_j",
        )


def _total(result: ExperimentResult) -> Iterator[Check]:
    energies = [device.energy_j for device in result.devices]
    known = [energy for energy in energies if energy is not None]
    without = not all(process.devices for process in result.process_results)
    if not energies and result.total_energy_j is None:
        return
    if without or not energies:
        recomputed, note = None, "there is no evidence for every device"
    elif len(known) < len(energies):
        recomputed, note = None, ""
    else:
        recomputed, note = sum(known), "sum of the devices"
    yield Check(
        name="total_energy_j",
        recorded=result.total_energy_j,
        recomputed=recomputed,
        tolerance=_rounding(result.total_energy_j),
        note=note,
    )


def _totals(result: ExperimentResult) -> Iterator[Check]:
    yield from _total(result)
    total_j = result.total_energy_j
    if any(process.devices for process in result.process_results):
        yield from _rates(result)
    if total_j is None:
        return
    yield Check(
        name="avg_energy_per_token_j",
        recorded=result.avg_energy_per_token_j,
        recomputed=total_j / result.total_tokens if result.total_tokens else None,
        tolerance=_rounding(result.avg_energy_per_token_j),
        note="total_energy_j / total_tokens" if result.total_tokens else "",
    )
    if len(result.process_results) == 1 and result.baseline_power_w is not None:
        duration_s = result.process_results[0].energy_metrics.duration_sec
        yield Check(
            name="energy_adjusted_j",
            recorded=result.energy_adjusted_j,
            recomputed=total_j - result.baseline_power_w * duration_s,
            tolerance=_rounding(total_j),
            note="total_energy_j less the idle power times the duration",
        )
    yield from _phases(result, total_j)


def _rates(result: ExperimentResult) -> Iterator[Check]:
    """Tokens, times and what one is by the other."""
    processes = result.process_results
    tokens = sum(process.inference_metrics.total_tokens for process in processes)
    time_s = result.total_inference_time_sec
    yield _follows("total_tokens", result.total_tokens, tokens, "sum of the processes")
    yield _follows(
        "total_inference_time_sec", time_s, wall_clock_sec(processes), "union of the windows"
    )
    if result.steady_state_window is not None and len(processes) == 1:
        begin_s, end_s = result.steady_state_window
        start_s = (processes[0].timestamps.start - result.start_time).total_seconds()
        yield _follows(
            "steady_state_window.start",
            begin_s,
            start_s,
            "start of the process",
            tolerance=EDGE_TOLERANCE_S,
        )
        yield _follows("steady_state_window.length", end_s - begin_s, time_s, "time of inference")
    if time_s:
        yield _follows(
            "avg_tokens_per_second",
            result.avg_tokens_per_second,
            result.total_tokens / time_s,
            "total_tokens / total_inference_time_sec",
        )


def _phases(result: ExperimentResult, total_j: float) -> Iterator[Check]:
    """They add up. When each request was served is not recorded, so they are not split anew."""
    phases = result.energy_breakdown.phases if result.energy_breakdown else ()
    parts = [phase.energy_j for phase in phases if phase.energy_j is not None]
    if phases and len(parts) == len(phases):
        yield _follows("phases.energy_j", sum(parts), total_j, "their sum is total_energy_j")
    if phases and len(result.process_results) == 1:
        yield _follows(
            "phases.duration_s",
            sum(phase.duration_s for phase in phases),
            result.total_inference_time_sec,
            "their sum is total_inference_time_sec",
        )


def _follows(
    name: str,
    recorded: float | None,
    recomputed: float | None,
    note: str,
    *,
    tolerance: float = 0.0,
) -> Check:
    """Whether a figure is what others of the record give for it."""
    return Check(
        name=name,
        recorded=recorded,
        recomputed=recomputed,
        tolerance=tolerance + _rounding(recomputed),
        note=note if recomputed is not None else "",
    )


def _window(result: ExperimentResult, process: RawProcessResult) -> tuple[float, float]:
    """Edges of what *process* measured. Unit: s from the start of the run."""
    if len(result.process_results) == 1 and result.steady_state_window is not None:
        return result.steady_state_window
    begin_s = (process.timestamps.start - result.start_time).total_seconds()
    return begin_s, begin_s + process.inference_metrics.inference_time_sec


def _named(result: ExperimentResult, process: RawProcessResult, device: DeviceEnergy) -> str:
    rank = f"process {process.process_index} " if len(result.process_results) > 1 else ""
    return f"{rank}device {device.gpu_index} ({device.uuid})"


def _rank(device: DeviceEnergy) -> float:
    """No figure at all ranks below one of 0."""
    return -1.0 if device.energy_j is None else device.energy_j


def _rounding(value: float | None) -> float:
    return RELATIVE_TOLERANCE * abs(value or 0.0)
