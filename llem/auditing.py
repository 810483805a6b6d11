"""
A figure recomputed from its evidence: from the record and its time series alone, without hardware.

What is integrated anew goes through the code that measured it. What is a sum, a difference or a
ratio of other figures is computed anew from those.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from llem.domain.energy import DeviceEnergy
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult
from llem.measure import device_energies, from_table
from llem.measure.integrate import MAX_POWER_W
from llem.protocols import Device, Edge, Samples

if TYPE_CHECKING:
    import pyarrow as pa

RELATIVE_TOLERANCE = 1e-6
"""What rounding leaves of sums over millions of samples, with room to spare."""

EDGE_TOLERANCE_S = 2e-6
"""The edges of a process are dates, of whole microseconds, and there are two. Unit: s."""


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

    Checked are the integral, the samples and the longest gap of each device of each process, the
    rule by which its energy is chosen, its disagreement with the counter, the devices that the
    result names, and the totals.

    Args:
        result: A result.
        timeseries: Its time series, as `Store.timeseries` gives it. None: it has none.

    Raises:
        SidecarSchemaError: The time series lacks a column.
    """
    return Audit(
        checks=(
            *_integrals(result, timeseries),
            *_choices(result),
            *_devices(result),
            *_totals(result),
        )
    )


def _integrals(result: ExperimentResult, timeseries: "pa.Table | None") -> Iterator[Check]:
    indices, samples = ((), Samples()) if timeseries is None else from_table(timeseries)
    column_of = {index: column for column, index in enumerate(indices)}
    index_of = {device.uuid: device.gpu_index for device in result.devices}
    for process in result.process_results:
        begin_s, end_s = _window(result, process)
        for device in process.devices:
            column = column_of.get(index_of.get(device.uuid, device.gpu_index))
            name = _named(result, process, device)
            if column is not None:
                own = Samples(
                    times_s=samples.times_s,
                    power_w=samples.power_w[:, [column]],
                    temperature_c=samples.temperature_c[:, [column]],
                )
                yield from _integral(name, device, own, begin_s, end_s)
            elif device.integrated_j is not None:
                yield Check(
                    name=f"{name} integrated_j",
                    recorded=device.integrated_j,
                    recomputed=None,
                    note="there are no samples to integrate",
                )


def _integral(
    name: str, device: DeviceEnergy, samples: Samples, begin_s: float, end_s: float
) -> Iterator[Check]:
    metered = Device(
        index=0,
        uuid=device.uuid,
        name=device.name,
        sensor=device.sensor,
        period_s=device.sampling_period_s,
    )
    edges = (Edge(time_s=time_s, counters_j=(None,)) for time_s in (begin_s, end_s))
    (found,) = device_energies([metered], samples, *edges)
    # What no device draws is no reading, and would make every difference a small one.
    peak_w = min(float(samples.power_w.max(initial=0.0, where=samples.power_w >= 0)), MAX_POWER_W)
    yield Check(
        name=f"{name} integrated_j",
        recorded=device.integrated_j,
        recomputed=found.integrated_j,
        tolerance=_rounding(device.integrated_j) + EDGE_TOLERANCE_S * peak_w,
        note=f"trapezoid rule over {found.sample_count} samples"
        if found.integrated_j is not None
        else "the samples do not cover the window",
    )
    # A sample may lie on the other side of an edge that was rounded.
    yield Check(
        name=f"{name} sample_count",
        recorded=device.sample_count,
        recomputed=found.sample_count,
        tolerance=2,
    )
    yield Check(
        name=f"{name} max_gap_s",
        recorded=device.max_gap_s,
        recomputed=found.max_gap_s,
        tolerance=_rounding(device.max_gap_s) + EDGE_TOLERANCE_S,
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


def _devices(result: ExperimentResult) -> Iterator[Check]:
    """Each device of the result is that of the process that saw most of it."""
    for device in result.devices:
        seen = [d for p in result.process_results for d in p.devices if d.uuid == device.uuid]
        most = max(seen, key=_rank, default=device)
        for field in ("energy_j", "counter_j", "integrated_j"):
            recorded, recomputed = getattr(device, field), getattr(most, field)
            if seen and not recorded is recomputed is None:
                yield Check(
                    name=f"result device {device.gpu_index} ({device.uuid}) {field}",
                    recorded=recorded,
                    recomputed=recomputed,
                    tolerance=_rounding(recorded),
                    note="" if recomputed is None else "as its process has it",
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
    phases = result.energy_breakdown.phases if result.energy_breakdown else ()
    parts = [phase.energy_j for phase in phases if phase.energy_j is not None]
    if phases and len(parts) == len(phases):
        yield Check(
            name="phases",
            recorded=sum(parts),
            recomputed=total_j,
            tolerance=_rounding(total_j),
            note="their sum is total_energy_j",
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
