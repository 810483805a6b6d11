"""What one figure of a record gives for another."""

from collections.abc import Iterator, Mapping
from typing import Any

from llem.aggregate import aggregate_results, distinct_devices, wall_clock_sec
from llem.auditing.check import (
    EDGE_TOLERANCE_S,
    RELATIVE_TOLERANCE,
    Check,
    applies,
    follows,
    name_of,
    rounding,
)
from llem.codec import measurement_config_hash, to_mapping
from llem.domain.result import ExperimentResult
from llem.errors import LlemError
from llem.recording import energy_metrics

AGGREGATED = (
    "backend",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "total_energy_j",
    "total_inference_time_sec",
    "avg_tokens_per_second",
    "avg_energy_per_token_j",
    "total_flops",
    "flops_per_output_token",
    "flops_per_input_token",
    "flops_per_second",
    "baseline_power_w",
    "energy_adjusted_j",
    "energy_per_device_j",
    "energy_breakdown",
    "devices",
    "multi_gpu",
    "end_time",
    "thermal_throttle",
    "warmup_result",
    "latency_stats",
    "extended_metrics",
)
"""Fields that aggregating the processes gives."""

BEYOND_SUMS = (LlemError, ArithmeticError)
"""What summing ends in where a record holds what no device ever drew, or is not of one run."""


def chosen(result: ExperimentResult) -> Iterator[Check]:
    """Each device's energy is its counter where that advanced, else the integral of some power."""
    for process in result.process_results:
        for device in process.devices:
            name = name_of(result, process, device)
            value = device.counter_j or device.integrated_j or None
            yield Check(
                name=f"{name} energy_j",
                recorded=device.energy_j,
                recomputed=value,
                tolerance=rounding(device.energy_j),
                note=f"the {'counter' if device.counter_j else 'integral'}"
                if value is not None
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


def processes(result: ExperimentResult) -> Iterator[Check]:
    """What each process says of its window and its energy."""
    for process in result.process_results:
        if not process.devices:
            continue
        name = f"process {process.process_index}"
        metrics, energy = process.inference_metrics, process.energy_metrics
        span_s = (process.timestamps.end - process.timestamps.start).total_seconds()
        yield follows(
            f"{name} inference_time_sec",
            metrics.inference_time_sec,
            span_s,
            "its end less its start",
            tolerance=EDGE_TOLERANCE_S,
        )
        tokens, time_s = metrics.total_tokens, metrics.inference_time_sec
        try:
            anew = to_mapping(energy_metrics(process.devices, time_s, tokens))
        except BEYOND_SUMS:
            yield applies(f"{name} energy_metrics can be summed", recorded=True, recomputed=False)
        else:
            yield from _differing(
                to_mapping(energy), anew, f"{name} energy_metrics", "those of its devices"
            )
        if time_s:
            yield follows(
                f"{name} tokens_per_second",
                metrics.tokens_per_second,
                tokens / time_s,
                "total_tokens / inference_time_sec",
            )


def totals(result: ExperimentResult) -> Iterator[Check]:
    """Sums, differences and ratios of the whole."""
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
        tolerance=rounding(result.avg_energy_per_token_j),
        note="total_energy_j / total_tokens" if result.total_tokens else "",
    )
    if len(result.process_results) == 1 and result.baseline_power_w is not None:
        duration_s = result.process_results[0].energy_metrics.duration_sec
        yield Check(
            name="energy_adjusted_j",
            recorded=result.energy_adjusted_j,
            recomputed=total_j - result.baseline_power_w * duration_s,
            tolerance=rounding(total_j),
            note="total_energy_j less the idle power times the duration",
        )
    yield from _phases(result, total_j)


def _total(result: ExperimentResult) -> Iterator[Check]:
    try:
        energies = [device.energy_j for device in distinct_devices(result.process_results)]
    except BEYOND_SUMS:
        yield applies("total_energy_j can be summed", recorded=True, recomputed=False)
        return
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
        tolerance=rounding(result.total_energy_j),
        note=note,
    )


def _rates(result: ExperimentResult) -> Iterator[Check]:
    """Tokens, times and what one is by the other."""
    processes = result.process_results
    tokens = sum(process.inference_metrics.total_tokens for process in processes)
    time_s = result.total_inference_time_sec
    yield follows("total_tokens", result.total_tokens, tokens, "sum of the processes")
    yield follows(
        "total_inference_time_sec", time_s, wall_clock_sec(processes), "union of the windows"
    )
    if result.steady_state_window is not None and len(processes) == 1:
        begin_s, end_s = result.steady_state_window
        start_s = (processes[0].timestamps.start - result.start_time).total_seconds()
        yield follows(
            "steady_state_window.start",
            begin_s,
            start_s,
            "start of the process",
            tolerance=EDGE_TOLERANCE_S,
        )
        yield follows("steady_state_window.length", end_s - begin_s, time_s, "time of inference")
    if time_s:
        yield follows(
            "avg_tokens_per_second",
            result.avg_tokens_per_second,
            result.total_tokens / time_s,
            "total_tokens / total_inference_time_sec",
        )


def _phases(result: ExperimentResult, total_j: float) -> Iterator[Check]:
    """They add up."""
    phases = result.energy_breakdown.phases if result.energy_breakdown else ()
    parts = [phase.energy_j for phase in phases if phase.energy_j is not None]
    if phases and len(parts) == len(phases):
        yield follows("phases.energy_j", sum(parts), total_j, "their sum is total_energy_j")
    if phases and len(result.process_results) == 1:
        yield follows(
            "phases.duration_s",
            sum(phase.duration_s for phase in phases),
            result.total_inference_time_sec,
            "their sum is total_inference_time_sec",
        )


def aggregated(result: ExperimentResult) -> Iterator[Check]:
    """Where the result is not what aggregating its processes gives, by the llem that audits."""
    if not any(process.devices for process in result.process_results):
        return
    yield from _hashed(result)
    try:
        anew = aggregate_results(
            result.process_results,
            measurement_config_hash=result.measurement_config_hash,
            start_time=result.start_time,
            allow_mixed_backends=True,
        )
    except BEYOND_SUMS:
        yield applies("process_results can be aggregated", recorded=True, recomputed=False)
        return
    old, new = (to_mapping(one) for one in (result, anew))
    yield from _differing(
        {name: old[name] for name in AGGREGATED},
        {name: new[name] for name in AGGREGATED},
        "",
        "the processes aggregated anew",
    )


def _hashed(result: ExperimentResult) -> Iterator[Check]:
    if result.measurement_config_hash != measurement_config_hash(result.effective_config):
        yield applies(
            "measurement_config_hash is that of effective_config", recorded=True, recomputed=False
        )


def _differing(old: Any, new: Any, path: str, note: str) -> Iterator[Check]:
    """Each leaf of *old* that is not that of *new*, numbers but for rounding."""
    if _is_figure(old) and _is_figure(new):
        yield from _differing_figures(old, new, path, note)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old:
            yield from _differing(old[name], new.get(name), _joined(path, name), note)
    elif _are_rows(old, new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differing(one, other, f"{path}[{index}]", note)
    elif old != new:
        yield applies(f"{path} is that of {note}", recorded=True, recomputed=False)


def _differing_figures(
    old: float | None, new: float | None, path: str, note: str
) -> Iterator[Check]:
    check = follows(path, old, new, note)
    if not old is new is None and check.agrees is not True:
        yield check


def _are_rows(old: Any, new: Any) -> bool:
    both = isinstance(old, list | tuple) and isinstance(new, list | tuple)
    return both and len(old) == len(new)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
