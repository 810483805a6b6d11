"""How the processes became one result, and what speaks against that they are one run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from llem.aggregate.devices import Counted
from llem.aggregate.latency import latency_warnings
from llem.aggregate.unknown import exact_sum
from llem.aggregate.windows import common_us, overlapping, union_us, window_of
from llem.domain.energy import Sensor
from llem.domain.process import RawProcessResult
from llem.domain.result import AggregationMetadata, ClockOffset
from llem.domain.spool import named

MIN_OVERLAP = 0.5
"""Share of the shortest window that all processes must have in common to have run together."""


MAX_WAITING = 0.05
"""Share of the devices' time that may be left out of their energy before that is told."""


def aggregation_metadata(
    processes: Sequence[RawProcessResult],
    counted: Sequence[Counted],
    *,
    clock_offsets: Iterable[ClockOffset] = (),
    warnings: Iterable[str] = (),
) -> AggregationMetadata:
    """
    Overlap and attribution are not checked of one process, which is not that they failed.

    Args:
        processes: What each process measured.
        counted: Readings that count.
        clock_offsets: How far the clocks of other machines were off.
        warnings: What went before, and stands before what is met here.
    """
    rates = [process.inference_metrics.tokens_per_second for process in processes]
    one = len(processes) == 1
    share = _shared_time(processes)
    attributed = None if one else _attributed(processes)
    return AggregationMetadata(
        method="single_process" if one else "late_aggregation",
        num_processes=len(processes),
        temporal_overlap_verified=None if one else share >= MIN_OVERLAP,
        gpu_attribution_verified=attributed,
        mean_process_tokens_per_second=exact_sum(rates, "mean_process_tokens_per_second")
        / len(rates),
        warnings=(
            *warnings,
            *_warnings(share, {} if one else _shared(processes), counted),
            *_waited(processes, counted, share),
            *latency_warnings(processes),
            *_not_looked_at(processes),
        ),
        clock_offsets=tuple(clock_offsets),
    )


def _shared_time(processes: Sequence[RawProcessResult]) -> float:
    """Time that lies in all windows, as a share of the shortest."""
    windows = [window_of(process) for process in processes]
    return max(common_us(windows), 0) / min(window.length_us for window in windows)


def _attributed(processes: Sequence[RawProcessResult]) -> bool | None:
    """Whether no GPU was metered by two processes at once. None: some have no evidence of one."""
    gpus = [
        {device.uuid for device in process.devices if device.sensor is not Sensor.RAPL}
        for process in processes
    ]
    return _shared(processes).keys().isdisjoint(set().union(*gpus)) if all(gpus) else None


def _shared(processes: Sequence[RawProcessResult]) -> dict[str, list[int]]:
    """The devices that several processes metered at once, with these processes."""
    metering: dict[str, list[RawProcessResult]] = {}
    for process in processes:
        for uuid in dict.fromkeys(device.uuid for device in process.devices):
            metering.setdefault(uuid, []).append(process)
    return {
        uuid: [several[i].process_index for i in at_once]
        for uuid, several in metering.items()
        if (at_once := overlapping([*map(window_of, several)]))
    }


def _warnings(
    share: float, shared: Mapping[str, Sequence[int]], counted: Iterable[Counted]
) -> Iterator[str]:
    if share < MIN_OVERLAP:
        yield (
            f"the processes did not run at the same time: all of them ran during {share:.0%} of "
            f"the shortest, less than {MIN_OVERLAP:.0%}"
        )
    for uuid, indices in shared.items():
        processes = ", ".join(map(str, indices))
        yield f"processes {processes} shared the device {uuid}, whose energy is counted once"
    for one in counted:
        if one.is_lower_bound:
            yield (
                f"energy of {one.source} is a lower bound: its readings overlap in part, and "
                f"{one.uncounted_us / 1e6:.3g} s lie in none that counts"
            )


def _not_looked_at(processes: Sequence[RawProcessResult]) -> Iterator[str]:
    """Of which processes it is not known whether they were throttled, where it is of others."""
    silent = [p.process_index for p in processes if p.thermal_throttle is None]
    if silent and len(silent) < len(processes):
        yield (
            f"{named(silent)} could not see whether devices were throttled: what is said of it is "
            "that of the others"
        )


def _waited(
    processes: Sequence[RawProcessResult], counted: Sequence[Counted], share: float
) -> Iterator[str]:
    """What devices draw while their process waits for the others is in no figure."""
    windows = [window_of(process) for process in processes]
    measured = [one for one in counted if None not in one.energies_j]
    whole_us = union_us(windows) * len(measured)
    measured_us = sum(one.metered_us for one in measured)
    if share < MIN_OVERLAP or measured_us >= (1 - MAX_WAITING) * whole_us:
        return
    ends_us = [window.end_us for window in windows]
    yield (
        f"the processes ended up to {(max(ends_us) - min(ends_us)) / 1e6:.3g} s apart, and each "
        f"device is measured until its own has: {measured_us / whole_us:.0%} of the devices' time "
        "is in the energy, and none of what they drew waiting for the others"
    )
