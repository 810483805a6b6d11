"""Energy of the run: its total, its idle share, its phases, and what each GPU drew."""

from collections.abc import Iterable, Sequence

import attrs

from llem.aggregate.devices import MAX_UNCOUNTED, Counted, readings_of
from llem.aggregate.unknown import exact_sum, product, ratio, total
from llem.aggregate.windows import heaviest_apart, union_us, window_of
from llem.domain.energy import (
    BaselineMethod,
    DeviceEnergy,
    EnergyBreakdown,
    MultiGPUMetrics,
    Phase,
    PhaseEnergy,
    Sensor,
)
from llem.domain.process import RawProcessResult


def total_energy_j(counted: Iterable[Counted]) -> float | None:
    """Over distinct devices; a process without evidence counts as one of its own. Unit: J."""
    return total((energy_j for one in counted for energy_j in one.energies_j), "total_energy_j")


def energy_breakdown(
    processes: Sequence[RawProcessResult], counted: Sequence[Counted], energy_j: float | None
) -> EnergyBreakdown | None:
    """
    Energy less the idle share, and by phases. None where no process says anything of it.

    The idle share covers the time over which the energy of the devices is counted.

    Args:
        processes: What each process measured.
        counted: Readings that count.
        energy_j: Energy of the run. Unit: J. None: not known.
    """
    known = [process.energy_breakdown for process in processes if process.energy_breakdown]
    if not known:
        return None
    idle_w, idle_j = _idle(processes, counted)
    adjusted_j = None if energy_j is None or idle_j is None else energy_j - idle_j
    if len(processes) == 1:
        own = known[0]
        return attrs.evolve(
            own,
            raw_j=own.raw_j if energy_j is None else energy_j,
            adjusted_j=own.adjusted_j if adjusted_j is None else adjusted_j,
        )
    return EnergyBreakdown(
        raw_j=energy_j,
        adjusted_j=adjusted_j,
        baseline_power_w=idle_w,
        baseline_method=None if idle_w is None else _weakest_method(known),
        phases=_phases(processes),
    )


def _idle(
    processes: Sequence[RawProcessResult], counted: Sequence[Counted]
) -> tuple[float | None, float | None]:
    """Idle power, in W, and idle energy, in J, over each set of devices that was metered as one."""
    counting = {id(reading.process) for one in counted for reading in one.readings}
    counting_processes = [process for process in processes if id(process) in counting]
    groups = _sets_apart(processes)
    if any(not _is_covered(process, groups) for process in counting_processes):
        # Sets that share a part only: idle power cannot be told apart.
        return None, None
    shares = [
        _idle_of_set([process for process in group if id(process) in counting] or group)
        for group in groups
    ]
    return (
        total((power_w for power_w, _ in shares), "baseline_power_w"),
        total((energy_j for _, energy_j in shares), "energy_adjusted_j"),
    )


def _sets_apart(processes: Sequence[RawProcessResult]) -> list[list[RawProcessResult]]:
    """
    The processes that metered the same devices, by set; of sets that share a part the largest.

    So it does not matter which of two processes has read a little more of a device that both did.
    """
    groups: dict[frozenset[str | int], list[RawProcessResult]] = {}
    for process in processes:
        sources = frozenset(reading.source for reading in readings_of(process))
        groups.setdefault(sources, []).append(process)
    taken: set[str | int] = set()
    apart = []
    for sources in sorted(groups, key=len, reverse=True):
        if taken.isdisjoint(sources):
            taken |= sources
            apart.append(groups[sources])
    return apart


def _is_covered(process: RawProcessResult, groups: Sequence[Sequence[RawProcessResult]]) -> bool:
    """Whether one of *groups* metered all devices of *process*, as long as it did."""
    sources = {reading.source for reading in readings_of(process)}
    window = window_of(process)
    for group in groups:
        if sources <= {reading.source for reading in readings_of(group[0])}:
            windows = [window_of(one) for one in group]
            left_us = union_us([*windows, window]) - union_us(windows)
            return left_us <= MAX_UNCOUNTED * window.length_us
    return False


def _idle_of_set(metering: Sequence[RawProcessResult]) -> tuple[float | None, float | None]:
    """Idle power and energy of devices that all of *metering* metered, concurrent time once."""
    apart = heaviest_apart(
        [window_of(process) for process in metering],
        [process.energy_metrics.duration_sec for process in metering],
    )
    spans_s = [metering[i].energy_metrics.duration_sec for i in apart]
    powers_w = [_baseline_power_w(metering[i]) for i in apart]
    energy_j = total(
        (product(power_w, s, "idle energy") for power_w, s in zip(powers_w, spans_s, strict=True)),
        "idle energy",
    )
    if len({*powers_w}) == 1:
        return powers_w[0], energy_j
    return ratio(energy_j, exact_sum(spans_s, "duration_sec")), energy_j


def _baseline_power_w(process: RawProcessResult) -> float | None:
    return process.energy_breakdown.baseline_power_w if process.energy_breakdown else None


def _weakest_method(known: Sequence[EnergyBreakdown]) -> BaselineMethod | None:
    """A fresh idle power says more than one of an earlier run, and that more than nothing."""
    strongest_first = [
        BaselineMethod.FRESH,
        BaselineMethod.CACHED,
        BaselineMethod.UNAVAILABLE,
        None,
    ]
    return max((one.baseline_method for one in known), key=strongest_first.index)


def _phases(processes: Sequence[RawProcessResult]) -> tuple[PhaseEnergy, ...]:
    """Sums of what fell into each. Empty where a process has none, or a device is not its own."""
    uuids = [device.uuid for process in processes for device in process.devices]
    if len({*uuids}) < len(uuids) or not all(process.devices for process in processes):
        return ()
    split = [p.energy_breakdown.phases if p.energy_breakdown else () for p in processes]
    if not all(split):
        return ()
    by_phase = {
        kind: [phase for phases in split for phase in phases if phase.phase is kind]
        for kind in Phase
    }
    return tuple(_phase(kind, parts) for kind, parts in by_phase.items() if parts)


def _phase(kind: Phase, parts: Sequence[PhaseEnergy]) -> PhaseEnergy:
    without = [part.code for part in parts if part.energy_j is None]
    return PhaseEnergy(
        phase=kind,
        energy_j=total((part.energy_j for part in parts), f"energy_j of {kind.value}"),
        error_bound_j=total((part.error_bound_j for part in parts), f"bound of {kind.value}"),
        duration_s=exact_sum((part.duration_s for part in parts), f"duration_s of {kind.value}"),
        spans=sum(part.spans for part in parts),
        code=without[0] if without else None,
    )


def energy_per_device_j(devices: Sequence[DeviceEnergy]) -> tuple[float, ...] | None:
    """Energy of each of *devices*. Unit: J. None where one is not known, or there is none."""
    known = tuple(device.energy_j for device in devices if device.energy_j is not None)
    return known if devices and len(known) == len(devices) else None


def multi_gpu_metrics(
    devices: Sequence[DeviceEnergy], output_tokens: int | None
) -> MultiGPUMetrics | None:
    """What each GPU of *devices* drew. None where there are no two, or one is not known."""
    gpus = [device for device in devices if device.sensor is not Sensor.RAPL]
    energies = energy_per_device_j(gpus)
    if len(gpus) < 2 or energies is None:
        return None
    total_j = exact_sum(energies, "energy_total_j")
    return MultiGPUMetrics(
        num_gpus=len(gpus),
        energy_per_gpu_j=energies,
        energy_total_j=total_j,
        energy_per_output_token_j=ratio(total_j, output_tokens),
    )
