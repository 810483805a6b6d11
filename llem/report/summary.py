"""One result as labelled lines, for a person."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from llem.domain.energy import DeviceEnergy, Phase, PhaseEnergy, ThermalThrottleInfo
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.latency import LatencyStatistics
from llem.domain.process import RawProcessResult
from llem.domain.result import AggregationMetadata, ClockOffset, ExperimentResult, model_name
from llem.report.figures import MISSING, count, counted, number, plus_minus, with_unit
from llem.report.table import error_bound_j, error_bound_per_token_j, min_coverage

WELL_COVERED = 0.95
"""Share of the asked-for samples from which on none is missed that matters."""


@attrs.frozen
class Line:
    """A label and what it says."""

    label: str
    text: str


def headline(result: ExperimentResult) -> list[Line]:
    """What a person wants to know at the end of a run."""
    lines = [
        Line("model", _model(result)),
        Line("energy", _energy(result)),
    ]
    if result.total_energy_j is not None:
        lines.append(Line("energy per token", _per_token(result)))
    lines += [
        Line("throughput", number(result.avg_tokens_per_second, "tokens/s, in and out")),
        Line("tokens", _tokens(result)),
        Line("time", number(result.total_inference_time_sec, "s")),
        Line("TTFT", _percentiles(result.latency_stats, "ttft")),
        Line("ITL", _percentiles(result.latency_stats, "itl")),
    ]
    return lines


def _model(result: ExperimentResult) -> str:
    return f"{model_name(result.effective_config)} on {result.backend}{_ranks(result.aggregation)}"


def _ranks(how: AggregationMetadata) -> str:
    ranks, missing = how.num_processes, len(how.missing_processes)
    if missing:
        return f", {ranks} of {ranks + missing} ranks"
    return f", {ranks} ranks" if ranks > 1 else ""


def details(result: ExperimentResult) -> list[Line]:
    """What else a person may look for in a result: evidence, latencies, machine."""
    lines = [
        Line("experiment", result.experiment_id),
        Line("config hash", result.measurement_config_hash),
        Line("started", _moment(result.start_time)),
        Line("methodology", _methodology(result)),
        Line("warmup", _warmup(result)),
        Line("settings", _settings(result.effective_config)),
        Line("idle power", _idle_power(result)),
        *_phases(result),
        Line("FLOPs", with_unit(result.total_flops, "FLOP")),
        Line("end-to-end latency", _request_latency(result)),
        Line("peak memory", _peak_memory(result)),
        Line("throttling", _throttling(result.thermal_throttle, min_coverage(result))),
        *_processes(result),
        *(Line(f"device {device.gpu_index}", evidence(device)) for device in result.devices),
        Line("time series", result.timeseries or "none kept"),
        *_machine(result),
    ]
    if result.reproducibility_notes:
        lines.append(Line("accuracy", result.reproducibility_notes))
    return lines


def warnings_of(result: ExperimentResult) -> tuple[str, ...]:
    """All that is to be known before the figures are used."""
    return (*result.aggregation.warnings, *result.measurement_warnings)


def evidence(device: DeviceEnergy) -> str:
    """What the energy of *device* rests on."""
    energy = plus_minus(device.energy_j, device.error_bound_j, "J")
    text = f"{device.name} ({device.uuid}): {energy} by {device.sensor.value}"
    if device.counter_j is not None:
        text += f", counter {with_unit(device.counter_j, 'J')}"
    if device.integrated_j is not None:
        text += f", integral {with_unit(device.integrated_j, 'J')}"
    if device.disagreement is not None:
        text += f" ({device.disagreement:.2%} apart)"
    text += f", {count(device.sample_count)} samples"
    if device.coverage is not None:
        text += f" ({device.coverage:.0%} of those asked for)"
    if device.max_gap_s is not None:
        text += f", longest gap {with_unit(device.max_gap_s, 's')}"
    return text


def driver(environment: EnvironmentSnapshot) -> str | None:
    """The GPU driver's version, and what CUDA it supports. None: there is none, or none said."""
    found = environment.hardware.cuda
    if found is None or found.driver_version is None:
        return None
    return found.driver_version + (f", CUDA up to {found.version}" if found.version else "")


def cuda(environment: EnvironmentSnapshot) -> str | None:
    """The CUDA version in use, and where it was read. None: not known."""
    source = environment.cuda_version_source
    if environment.cuda_version is None or source is None:
        return environment.cuda_version
    return f"{environment.cuda_version} ({source})"


def _energy(result: ExperimentResult) -> str:
    """The total, and what is left without the idle share: its bound leaves out the idle power's."""
    if result.total_energy_j is None:
        return "not measured, see the warnings"
    bound_j = error_bound_j(result)
    text = plus_minus(result.total_energy_j, bound_j, "J")
    if result.energy_adjusted_j is not None:
        exact = "" if bound_j is None else ", taken as exact"
        adjusted = plus_minus(result.energy_adjusted_j, bound_j, "J")
        text += f" ({adjusted} without the idle share{exact})"
    return text


def _phases(result: ExperimentResult) -> list[Line]:
    phases = result.energy_breakdown.phases if result.energy_breakdown else ()
    return [_phase(phase, _of_several(result, " of all ranks together")) for phase in phases]


def _of_several(result: ExperimentResult, words: str) -> str:
    """*words*, where there were several ranks."""
    return words if result.aggregation.num_processes > 1 else ""


def _phase(phase: PhaseEnergy, whose: str) -> Line:
    label = "between requests" if phase.phase is Phase.OTHER else phase.phase.value
    text = f"in {with_unit(phase.duration_s, 's')}{whose}"
    if phase.spans:
        text += f", in {count(phase.spans)} pieces" if phase.spans > 1 else ", in one piece"
    if phase.energy_j is None:
        why = _WHY_NO_PHASE.get(phase.code or "", "not known")
        code = f" ({phase.code})" if phase.code else ""
        return Line(label, f"no figure{code}: {why}; {text}")
    return Line(label, f"{plus_minus(phase.energy_j, phase.error_bound_j, 'J')} {text}")


_WHY_NO_PHASE = {
    "phase_too_short": "the sensor is too slow to tell it apart: use longer prompts or outputs",
    "phases_overlap": "requests ran at the same time: record them one after another, or "
    "compare whole runs",
    "power_not_sampled": "a device has no power readings, at most a counter: measure it by nvml or "
    "rapl (--energy.backend)",
}


def _per_token(result: ExperimentResult) -> str:
    bound_j = error_bound_per_token_j(result, result.total_tokens)
    text = plus_minus(result.avg_energy_per_token_j, bound_j, "J")
    if result.energy_per_output_token_j is not None:
        bound_j = error_bound_per_token_j(result, result.output_tokens)
        figure = plus_minus(result.energy_per_output_token_j, bound_j, "J")
        text += f" ({figure} per output token)"
    return text


def _tokens(result: ExperimentResult) -> str:
    text = count(result.total_tokens)
    if result.input_tokens is not None and result.output_tokens is not None:
        text += f" ({count(result.input_tokens)} in, {count(result.output_tokens)} out)"
    return text


def _percentiles(stats: LatencyStatistics | None, name: str) -> str:
    if stats is None or not getattr(stats, f"{name}_samples"):
        return "not recorded"
    median, p95, p99 = (getattr(stats, f"{name}_{part}_ms") for part in ("median", "p95", "p99"))
    return f"p50 {number(median, 'ms')}, p95 {number(p95, 'ms')}, p99 {number(p99, 'ms')}"


def _methodology(result: ExperimentResult) -> str:
    if result.steady_state_window is None:
        return result.measurement_methodology
    start_s, end_s = result.steady_state_window
    return f"{result.measurement_methodology}, {start_s:.1f} to {end_s:.1f} s of the run"


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _warmup(result: ExperimentResult) -> str:
    warmup = result.warmup_result
    if warmup is None:
        return MISSING
    done = warmup.iterations_completed
    if not done:
        return "none"
    parts = [counted(done, "request")]
    if warmup.converged:
        parts.append("latencies settled")
    elif _was_to_settle(result.effective_config):
        parts.append("latencies did not settle")
    if warmup.final_cv is not None:
        parts.append(f"coefficient of variation {number(warmup.final_cv)}")
    if warmup.thermal_floor_wait_s:
        parts.append(f"then {number(warmup.thermal_floor_wait_s, 's')} of rest")
    return ", ".join(parts) + _of_several(result, "; of the rank that settled least")


def _was_to_settle(config: Mapping[str, Any]) -> bool:
    """Whether the warmup looked for convergence. False where another tool's config does not say."""
    warmup = config.get("warmup")
    return isinstance(warmup, Mapping) and warmup.get("convergence_detection") is True


def _settings(config: Mapping[str, Any], prefix: str = "") -> str:
    """Every setting that is not null, by its dotted name."""
    parts = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts.append(_settings(value, f"{prefix}{name}."))
        elif value is not None:
            parts.append(f"{prefix}{name}={value}")
    return ", ".join(filter(None, parts))


def _idle_power(result: ExperimentResult) -> str:
    text = number(result.baseline_power_w, "W")
    breakdown = result.energy_breakdown
    if breakdown is None:
        return text
    if breakdown.baseline_method is not None:
        text += f" ({breakdown.baseline_method.value})"
    if breakdown.baseline_timestamp is not None:
        text += f", measured {_moment(breakdown.baseline_timestamp)}"
    if breakdown.baseline_cache_age_sec is not None:
        text += f", {number(breakdown.baseline_cache_age_sec, 's')} before the run"
    return text


def _throttling(info: ThermalThrottleInfo | None, coverage: float | None) -> str:
    """What was seen of it, and how much of the run was looked at where that is not all."""
    if info is None:
        return MISSING
    text = "none seen"
    if info.detected:
        text = number(info.throttle_duration_sec, "s")
        if causes := _causes(info):
            text += f" by {' and '.join(causes)}"
    if info.throttle_timestamps:
        text += f", first at {min(info.throttle_timestamps):.1f} s of the run"
    if info.max_temperature_c is not None:
        text += f", {number(info.max_temperature_c, '°C')} at most"
    if coverage is not None and coverage < WELL_COVERED:
        text += f", only {math.floor(100 * coverage)}% of the samples were read"
    return text


def _causes(info: ThermalThrottleInfo) -> list[str]:
    """What slowed a device down, as closely as it is known."""
    causes = {
        "the driver's temperature limit": info.sw_thermal,
        "the device's temperature limit": info.hw_thermal,
        "a temperature limit": info.thermal and not (info.sw_thermal or info.hw_thermal),
        "the power brake": info.hw_power,
        "a power limit": info.power and not info.hw_power,
    }
    return [cause for cause, holds in causes.items() if holds]


def _request_latency(result: ExperimentResult) -> str:
    if result.extended_metrics is None:
        return number(None)
    latency = result.extended_metrics.request_latency
    if not latency.e2e_latency_samples:
        return number(None)
    return (
        f"p50 {number(latency.e2e_latency_median_ms, 'ms')}, "
        f"p95 {number(latency.e2e_latency_p95_ms, 'ms')}, "
        f"p99 {number(latency.e2e_latency_p99_ms, 'ms')}"
    )


def _peak_memory(result: ExperimentResult) -> str:
    memory = result.extended_metrics.memory if result.extended_metrics else None
    return number(memory.peak_memory_mb if memory else None, "MiB")


def _processes(result: ExperimentResult) -> list[Line]:
    """How many there were, and of several what each of them did."""
    how = result.aggregation
    text = f"{how.num_processes} ({how.method})"
    if how.temporal_overlap_verified is not None:
        text += ", at the same time" if how.temporal_overlap_verified else ", one after the other"
    if how.gpu_attribution_verified is not None:
        text += ", devices of their own" if how.gpu_attribution_verified else ", devices shared"
    lines = [Line("processes", text)]
    if len(result.process_results) > 1:
        lines += map(_process, result.process_results)
    return lines + [
        Line(f"clock of rank {one.process_index}", _clock(one)) for one in how.clock_offsets
    ]


def _process(process: RawProcessResult) -> Line:
    metrics = process.inference_metrics
    uuids = [device.uuid for device in process.devices] or [process.gpu_name]
    return Line(
        f"rank {process.process_index}",
        f"{metrics.total_tokens:,} tokens in {number(metrics.inference_time_sec, 's')}, "
        f"{_of_process(process.energy_metrics.total_energy_j)}, on {', '.join(uuids)}",
    )


def _of_process(energy_j: float | None) -> str:
    return "energy not measured" if energy_j is None else number(energy_j, "J")


def _clock(offset: ClockOffset) -> str:
    by = plus_minus(abs(offset.offset_s), offset.error_bound_s, "s")
    return f"{offset.node}: {by} {'ahead' if offset.offset_s > 0 else 'behind'}, corrected"


def _machine(result: ExperimentResult) -> list[Line]:
    if result.environment_snapshot is None:
        return []
    environment = result.environment_snapshot
    hardware = environment.hardware
    lines = [Line("GPU", gpu.name) for gpu in hardware.gpus or filter(None, [hardware.gpu])]
    lines.append(Line("CPU", hardware.cpu.model or hardware.cpu.platform))
    for label, text in (("driver", driver(environment)), ("CUDA", cuda(environment))):
        if text is not None:
            lines.append(Line(label, text))
    return lines
