"""What all processes of a run measured into one result, with the warnings that it needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import attrs

from llem import quality
from llem.accuracy import reproducibility_notes
from llem.aggregate import aggregate_results
from llem.codec import measurement_config_hash
from llem.completeness import Completeness
from llem.domain.conditions import Conditions, DeviceThrottle, GpuProcess, TemperatureRange
from llem.domain.environment import EnvironmentSnapshot, GPUEnvironment
from llem.domain.process import RawProcessResult
from llem.domain.result import ClockOffset, ExperimentResult, Methodology
from llem.domain.spool import named

Part = tuple[RawProcessResult, Conditions]
"""What one process measured, and under which conditions."""

MAX_TOLD = 5
"""Differences between the software of two processes that are told one by one."""

INCOMPLETE = "incomplete_aggregation"
"""How a result came about that is without some processes of its run."""

Seen = TypeVar("Seen", TemperatureRange, DeviceThrottle)


def conclude(
    parts: Sequence[Part],
    *,
    llem_version: str | None,
    completeness: Completeness | None = None,
    aggregation_warnings: Iterable[str] = (),
) -> ExperimentResult:
    """
    The result of a run.

    Args:
        parts: What each of its processes measured. Their order does not matter.
        llem_version: The llem that measured.
        completeness: What looking at all processes of the run came to. None: *parts* are all.
        aggregation_warnings: What is to be known of how they came together.

    Raises:
        AggregationError: There is none, or they are not of one run.
    """
    parts = sorted(parts, key=lambda part: part[0].process_index)
    conditions = [of_process for _, of_process in parts]
    start = min((c.start_time for c in conditions), default=None)
    methodology = _methodology(conditions)
    environment = _environment(conditions)
    made = aggregate_results(
        [_by_the_run(process, c, start) for process, c in parts],
        measurement_config_hash=measurement_config_hash(parts[0][0].effective_config)
        if parts
        else "",
        llem_version=llem_version,
        measurement_methodology=methodology,
        steady_state_window=None if methodology == "total" else _window(conditions, start),
        start_time=start,
        environment_snapshot=environment,
        warmup_excluded_samples=None
        if methodology == "total"
        else sum(c.warmup_excluded for c in conditions),
        clock_offsets=_clock_offsets(parts),
        aggregation_warnings=(
            *(completeness.lines if completeness else ()),
            *aggregation_warnings,
            *_unlike(parts),
        ),
    )
    if completeness and completeness.missing:
        incomplete = attrs.evolve(
            made.aggregation, method=INCOMPLETE, missing_processes=completeness.missing
        )
        made = attrs.evolve(made, aggregation=incomplete)
    gpus = environment.hardware.gpus if environment else ()
    return attrs.evolve(
        made,
        reproducibility_notes=reproducibility_notes(made.devices, _compute_capabilities(gpus)),
        measurement_warnings=quality.measurement_warnings(_signals(made, parts, gpus)),
    )


def _by_the_run(
    process: RawProcessResult, conditions: Conditions, start: datetime | None
) -> RawProcessResult:
    """*process* with the times of its throttling counted from the start of the run."""
    info = process.thermal_throttle
    if info is None or start is None or conditions.start_time == start:
        return process
    shift_s = (conditions.start_time - start).total_seconds()
    times_s = tuple(time_s + shift_s for time_s in info.throttle_timestamps)
    return attrs.evolve(process, thermal_throttle=attrs.evolve(info, throttle_timestamps=times_s))


def _methodology(conditions: Sequence[Conditions]) -> Methodology:
    """That of all processes; total where they differ, as where one alone did not settle."""
    methods: set[Methodology] = {c.measurement_methodology for c in conditions}
    return methods.pop() if len(methods) == 1 else "total"


def _window(conditions: Sequence[Conditions], start: datetime | None) -> tuple[float, float]:
    """From the first edge of all windows to the last. Unit: s from *start*."""
    shifts_s = [(c.start_time - start).total_seconds() if start else 0.0 for c in conditions]
    edges = [c.window_s for c in conditions]
    return (
        min(shift + begin for shift, (begin, _) in zip(shifts_s, edges, strict=True)),
        max(shift + end for shift, (_, end) in zip(shifts_s, edges, strict=True)),
    )


def _environment(conditions: Sequence[Conditions]) -> EnvironmentSnapshot | None:
    """That of the first process, with the GPUs of all machines."""
    known = [c.environment_snapshot for c in conditions if c.environment_snapshot]
    if not known:
        return None
    gpus: dict[object, GPUEnvironment] = {}
    for snapshot in known:
        for gpu in snapshot.hardware.gpus:
            gpus.setdefault(gpu.uuid or (id(snapshot), len(gpus)), gpu)
    hardware = attrs.evolve(known[0].hardware, gpus=tuple(gpus.values()))
    return attrs.evolve(known[0], hardware=hardware)


def _unlike(parts: Sequence[Part]) -> Iterator[str]:
    """In what processes ran under other software, or on other machines, than the first one."""
    known = [(p.process_index, c.environment_snapshot) for p, c in parts if c.environment_snapshot]
    differing: dict[str, list[int]] = {}
    for index, snapshot in known[1:]:
        first, own = _software(known[0][1]), _software(snapshot)
        names = [name for name in {**first, **own} if first.get(name) != own.get(name)]
        told = [f"{name} {own.get(name)} and not {first.get(name)}" for name in names]
        if told:
            more = f" and {len(told) - MAX_TOLD} more" if len(told) > MAX_TOLD else ""
            differing.setdefault(", ".join(told[:MAX_TOLD]) + more, []).append(index)
    for words, indices in differing.items():
        yield (
            f"{named(indices)} ran under other conditions than rank {known[0][0]}, which are those "
            f"of the record: {words}"
        )


def _software(snapshot: EnvironmentSnapshot) -> dict[str, str | None]:
    """What a figure may depend on, by name."""
    packages = (package.partition("==") for package in snapshot.installed_packages)
    hardware = snapshot.hardware
    return {
        "CPU": hardware.cpu.model,
        "driver": hardware.cuda.driver_version if hardware.cuda else None,
        "CUDA": snapshot.cuda_version,
        "Python": snapshot.python_version,
        **{name: version for name, _, version in packages},
    }


def _clock_offsets(parts: Sequence[Part]) -> tuple[ClockOffset, ...]:
    return tuple(
        ClockOffset(
            process_index=process.process_index,
            node=c.node,
            offset_s=c.clock_offset_s,
            error_bound_s=c.clock_error_s,
        )
        for process, c in parts
        if c.clock_error_s is not None
    )


def _compute_capabilities(gpus: Iterable[GPUEnvironment]) -> dict[str, str]:
    return {gpu.uuid: gpu.compute_capability for gpu in gpus if gpu.uuid and gpu.compute_capability}


def _signals(
    made: ExperimentResult,
    parts: Sequence[Part],
    gpus: Iterable[GPUEnvironment],
) -> quality.Signals:
    conditions = [of_process for _, of_process in parts]
    metered = {device.uuid for device in made.devices}
    latencies_ms = [process.per_request_latencies_ms for process in made.process_results]
    return quality.Signals(
        duration_s=made.total_inference_time_sec,
        prompts=sum(map(len, latencies_ms)),
        devices=made.devices,
        not_measured=_not_measured(parts),
        processes=made.aggregation.num_processes,
        missing_processes=made.aggregation.missing_processes,
        gpus=tuple(gpu for gpu in gpus if gpu.uuid in metered),
        longest_request_s=max(max(of_one, default=0.0) for of_one in latencies_ms) / 1000,
        temperatures=_temperatures(conditions),
        throttles=_throttles(conditions, made.start_time),
        sampler_notes=_distinct(note for c in conditions for note in c.sampler_notes),
        foreign_at_start=_foreign(c.foreign_at_start for c in conditions),
        foreign_at_end=_foreign(c.foreign_at_end for c in conditions),
        baseline_wanted=_is_on(made, "baseline", "enabled"),
        baseline_taken=made.baseline_power_w is not None,
        baseline_power_w=made.baseline_power_w,
        idle_power_w=_idle_power(made, conditions),
        baseline_had_context=_all_had(c.baseline_had_context for c in conditions),
        baseline_notes=_distinct(note for c in conditions for note in c.baseline_notes),
        energy_adjusted_j=made.energy_adjusted_j,
        warmup=made.warmup_result,
        convergence_wanted=_is_on(made, "warmup", "convergence_detection"),
    )


def _is_on(made: ExperimentResult, section: str, name: str) -> bool:
    """A setting of the resolved configuration."""
    settings = made.effective_config.get(section)
    return isinstance(settings, Mapping) and settings.get(name) is True


def _not_measured(parts: Sequence[Part]) -> tuple[str, ...]:
    """Why there is no evidence of any device, or of which processes there is none."""
    without = [(process, c) for process, c in parts if not process.devices]
    if len(without) == len(parts):
        return _distinct(line for _, c in without for line in c.not_measured)
    return tuple(
        f"rank {process.process_index}: {'; '.join(c.not_measured) or 'no device was metered'}"
        for process, c in without
    )


def _distinct(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lines))


def _temperatures(conditions: Sequence[Conditions]) -> tuple[TemperatureRange, ...]:
    """How far each device's temperature moved, as all processes that metered it saw it."""
    return tuple(
        TemperatureRange(
            uuid=uuid, low_c=min(r.low_c for r in ranges), high_c=max(r.high_c for r in ranges)
        )
        for uuid, ranges in _by_device(c.temperatures for c in conditions).items()
    )


def _throttles(conditions: Sequence[Conditions], start: datetime) -> tuple[DeviceThrottle, ...]:
    """Of each device, what the process saw that saw it slowed down, or at its limit, longest."""
    return tuple(
        max(seen, key=lambda throttle: (throttle.throttled_s, throttle.power_cap_s))
        for seen in _by_device(_counted_from(start, c) for c in conditions).values()
    )


def _counted_from(start: datetime, conditions: Conditions) -> Iterable[DeviceThrottle]:
    """What slowed the devices down, its onsets counted from *start*."""
    shift_s = (conditions.start_time - start).total_seconds()
    for throttle in conditions.throttles:
        yield attrs.evolve(throttle, onsets_s=tuple(s + shift_s for s in throttle.onsets_s))


def _foreign(seen: Iterable[Iterable[GpuProcess]]) -> tuple[GpuProcess, ...]:
    """Each process of others once, however many of ours share its GPU."""
    return tuple({(one.uuid, one.pid): one for of_one in seen for one in of_one}.values())


def _idle_power(
    made: ExperimentResult, conditions: Sequence[Conditions]
) -> tuple[float | None, ...]:
    """The idle power of each device, in their order. Empty: none is known. Unit: W."""
    known = {
        uuid: power_w
        for c in conditions
        for uuid, power_w in zip(c.idle_uuids, c.idle_power_w, strict=True)
    }
    return tuple(known.get(device.uuid) for device in made.devices) if known else ()


def _all_had(contexts: Iterable[bool | None]) -> bool | None:
    """False where one had none; True where all had one."""
    met = set(contexts)
    return False if False in met else None if None in met else True


def _by_device(seen: Iterable[Iterable[Seen]]) -> dict[str, list[Seen]]:
    devices: dict[str, list[Seen]] = {}
    for of_one in seen:
        for one in of_one:
            devices.setdefault(one.uuid, []).append(one)
    return devices
