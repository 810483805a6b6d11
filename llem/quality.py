"""
The measurement warnings: what makes a figure less than it seems.

They inform and never stop a run. Each is ``code: what happened, and what to do``; codes are stable.
One function finds one signal, `SIGNALS` lists them all.
"""

from collections.abc import Callable, Iterator

import attrs

from llem.domain.conditions import DeviceThrottle, GpuProcess, TemperatureRange
from llem.domain.energy import DeviceEnergy
from llem.domain.environment import GPUEnvironment
from llem.domain.latency import WarmupResult
from llem.domain.spool import named

MIN_DURATION_S = 60.0
"""Shorter spans leave the counter's refresh and the first seconds' warming a visible share."""

MAX_DRIFT_C = 10.0
"""Leakage power grows with temperature; a device that moved further was not in a steady state."""

MIN_PROMPTS = 30
"""Fewer give no sound percentile, nor a mean that the central limit theorem speaks for."""

MAX_CAPPED_SHARE = 0.1
"""Share of the span at a lowered power limit from which the figures are more that of the limit."""

MAX_IDLE_SHARE = 1.05
"""Mean power, in shares of the idle power, up to which a device did nothing of the run."""

MAX_UNCERTAINTY = 0.1
"""Share of a figure from which its error bound hides what one measures for."""

MAX_LISTED = 5
"""Processes of a GPU that a warning lists one by one."""


@attrs.frozen(kw_only=True)
class Signals:
    """
    What the warnings are derived from.

    Attributes:
        duration_s: Measured span. Unit: s.
        prompts: Prompts that ran in it.
        devices: Evidence for each device's energy. Empty: no meter ran.
        not_measured: Why no energy was measured, or not by every process.
        processes: How many processes are in the result.
        missing_processes: Processes of the run that are not, by index.
        gpus: The GPUs that were metered.
        longest_request_s: Latency of the slowest request. Unit: s.
        temperatures: How far each device's temperature moved.
        throttles: How long each device was slowed down, and why.
        foreign_at_start: Processes of others on the GPUs before the span.
        foreign_at_end: The same after it.
        sampler_notes: What went wrong with the sampling.
        baseline_wanted: Whether idle power was to be measured.
        baseline_taken: Whether it was, and is known of every device.
        baseline_power_w: Idle power of all devices. Unit: W. None: not known.
        idle_power_w: That of each device, in their order. Empty: not known.
        baseline_had_context: Whether a CUDA context was on the GPUs then. None: not known.
        baseline_notes: What went wrong with keeping it for later runs.
        energy_adjusted_j: Energy less the idle share. Unit: J.
        warmup: What warming up came to. None: there was none.
        convergence_wanted: Whether the latencies were to settle before the span.
    """

    duration_s: float
    prompts: int
    devices: tuple[DeviceEnergy, ...] = ()
    not_measured: tuple[str, ...] = ()
    processes: int = 1
    missing_processes: tuple[int, ...] = ()
    gpus: tuple[GPUEnvironment, ...] = ()
    longest_request_s: float = 0.0
    temperatures: tuple[TemperatureRange, ...] = ()
    throttles: tuple[DeviceThrottle, ...] = ()
    foreign_at_start: tuple[GpuProcess, ...] = ()
    foreign_at_end: tuple[GpuProcess, ...] = ()
    sampler_notes: tuple[str, ...] = ()
    baseline_wanted: bool = False
    baseline_taken: bool = False
    baseline_power_w: float | None = None
    idle_power_w: tuple[float | None, ...] = ()
    baseline_had_context: bool | None = None
    baseline_notes: tuple[str, ...] = ()
    energy_adjusted_j: float | None = None
    warmup: WarmupResult | None = None
    convergence_wanted: bool = False


def measurement_warnings(signals: Signals) -> tuple[str, ...]:
    """Every warning that *signals* give rise to, in the order of `SIGNALS`."""
    return tuple(
        f"{code}: {message}" for code, find in SIGNALS.items() for message in find(signals)
    )


def energy_not_measured(signals: Signals) -> Iterator[str]:
    """Some device has no energy figure, or some process no device."""
    if signals.not_measured or not signals.devices:
        reasons = "; ".join(signals.not_measured) or "no meter ran"
        yield f"{reasons}. Run `llem env` to see what this machine can measure"
    for device in signals.devices:
        if device.energy_j is None:
            yield (
                f"{device.name} ({device.uuid}) gave no energy reading, so the total is unknown; "
                "check it with `nvidia-smi -q -d POWER`"
            )


def incomplete_run(signals: Signals) -> Iterator[str]:
    """Processes of the run are not in the result."""
    if missing := signals.missing_processes:
        yield (
            f"the figures are those of {signals.processes} of {signals.processes + len(missing)} "
            f"processes, without {named(missing)}: compare them with those of no other run"
        )


def short_duration(signals: Signals) -> Iterator[str]:
    """The measured span is shorter than `MIN_DURATION_S`."""
    if signals.duration_s < MIN_DURATION_S:
        yield (
            f"measured {signals.duration_s:.1f} s, less than {MIN_DURATION_S:.0f} s; "
            "run more prompts (--num-prompts) or longer ones"
        )


def thermal_drift(signals: Signals) -> Iterator[str]:
    """A device's temperature moved by more than `MAX_DRIFT_C`."""
    for device in signals.temperatures:
        drift = device.high_c - device.low_c
        if drift > MAX_DRIFT_C:
            yield (
                f"{_device(signals, device.uuid)} moved {drift:.1f} °C, from {device.low_c:.0f} to "
                f"{device.high_c:.0f} °C, more than {MAX_DRIFT_C:.0f} °C; warm up longer"
            )


def throttled(signals: Signals) -> Iterator[str]:
    """A device slowed itself down, for however short a time: the share is told."""
    for device in signals.throttles:
        if device.throttled_s > 0:
            causes = {
                "too hot for the driver": device.sw_thermal_s,
                "too hot for the device": device.hw_thermal_s,
                "braked by the power supply": device.hw_power_s,
                "by the hardware without a cause": device.hw_other_s,
            }
            named = ", ".join(f"{cause} for {s:.2f} s" for cause, s in causes.items() if s > 0)
            first = f", first {device.onsets_s[0]:.2f} s into the run" if device.onsets_s else ""
            span = _share(device.throttled_s, device.duration_s)
            yield (
                f"{_device(signals, device.uuid)} was slowed down for {span}{first}: "
                f"{named or 'it is not known why'}; {_remedy(device)}, or lower its power limit "
                "(`sudo nvidia-smi -pl`)"
            )


def power_capped(signals: Signals) -> Iterator[str]:
    """
    A device whose power limit someone lowered ran at it for more than `MAX_CAPPED_SHARE`.

    At the limit that it came with a busy GPU runs normally, and nothing is to be said. At a lower
    one the figures are those of the limit: compared with others, they would be taken for the GPU's.
    """
    limits = {gpu.uuid: (gpu.power_limit_w, gpu.default_power_limit_w) for gpu in signals.gpus}
    for device in signals.throttles:
        limit_w, default_w = limits.get(device.uuid, (None, None))
        if limit_w is None or default_w is None or limit_w >= default_w:
            continue
        if device.power_cap_s > MAX_CAPPED_SHARE * device.duration_s:
            yield (
                f"{_device(signals, device.uuid)} ran at a power limit of {limit_w:.0f} W, lowered "
                f"from {default_w:.0f} W, for {_share(device.power_cap_s, device.duration_s)}; "
                f"compare it only with runs at that limit, or lift it "
                f"(`sudo nvidia-smi -pl {default_w:.0f}`)"
            )


def persistence_mode_off(signals: Signals) -> Iterator[str]:
    """A GPU's driver unloads without clients."""
    for gpu in signals.gpus:
        if gpu.persistence_mode is False:
            yield (
                f"{_named(gpu)} has persistence mode off, so its first clients find it in "
                "another state; turn it on with `sudo nvidia-smi -pm 1`"
            )


def persistence_mode_unknown(signals: Signals) -> Iterator[str]:
    """A GPU did not say whether its driver stays loaded."""
    for gpu in signals.gpus:
        if gpu.persistence_mode is None:
            yield f"{_named(gpu)} did not say whether persistence mode is on; check `nvidia-smi -q`"


def low_sample_count(signals: Signals) -> Iterator[str]:
    """Fewer prompts than `MIN_PROMPTS` ran."""
    if signals.prompts < MIN_PROMPTS:
        yield f"prompts run: {signals.prompts}, fewer than {MIN_PROMPTS}; run more (--num-prompts)"


def latency_exceeds_span(signals: Signals) -> Iterator[str]:
    """A request is said to have taken longer than the whole measured span."""
    if signals.longest_request_s > signals.duration_s:
        yield (
            f"a request took {signals.longest_request_s:g} s in a span of "
            f"{signals.duration_s:g} s; give latency_s in seconds, and run inside the with block"
        )


def no_baseline(signals: Signals) -> Iterator[str]:
    """Idle power was not measured."""
    if signals.baseline_taken:
        return
    if not signals.devices:
        yield "no meter ran that could measure idle power; see energy_not_measured"
    elif signals.baseline_wanted:
        yield (
            "idle power is not known of every device, or one has no energy, so nothing is taken "
            "off; see energy_not_measured, and measure idle power for longer "
            "(--baseline.duration-seconds)"
        )
    else:
        yield (
            "idle power was not measured, so the energy includes the idle share; "
            "leave the baseline on (--baseline.enabled)"
        )


def device_idle(signals: Signals) -> Iterator[str]:
    """A device drew no more than when idle while another one worked."""
    if not signals.duration_s or len(signals.idle_power_w) != len(signals.devices):
        return
    shares = [
        device.energy_j / (idle_w * signals.duration_s)
        if idle_w and device.energy_j is not None
        else None
        for device, idle_w in zip(signals.devices, signals.idle_power_w, strict=True)
    ]
    if not any(share is not None and share > MAX_IDLE_SHARE for share in shares):
        return
    for device, share in zip(signals.devices, shares, strict=True):
        if share is not None and share <= MAX_IDLE_SHARE:
            yield (
                f"{device.name} ({device.uuid}) drew {_joules(device.energy_j)}, no more than when "
                "idle, and the total has it; where the model does not use it, name the GPUs that "
                "it does (CUDA_VISIBLE_DEVICES, or device_uuids of BackendInfo)"
            )


def baseline_without_context(signals: Signals) -> Iterator[str]:
    """Idle power was measured without a CUDA context, and no run is without one."""
    if signals.baseline_taken and signals.baseline_had_context is False:
        power_w = signals.baseline_power_w
        power = "idle power" if power_w is None else f"an idle power of {power_w:.1f} W"
        yield (
            f"{power} was measured without a CUDA context on the GPUs, which draw more under one, "
            "so that energy less the idle share comes out too high; load the model before the "
            "Experiment is entered"
        )


def baseline_not_cached(signals: Signals) -> Iterator[str]:
    """Idle power cannot be kept, and is measured again for every run."""
    yield from map(_line, signals.baseline_notes)


def ecc_disabled(signals: Signals) -> Iterator[str]:
    """A GPU that has ECC has it off."""
    for gpu in signals.gpus:
        if gpu.ecc_enabled is False:
            yield (
                f"{_named(gpu)} has ECC off, unlike most in production; "
                "turn it on with `sudo nvidia-smi -e 1` and restart"
            )


def foreign_processes(signals: Signals) -> Iterator[str]:
    """Others computed on a GPU, before the span, after it, or both."""
    start = {(process.uuid, process.pid): process for process in signals.foreign_at_start}
    end = {(process.uuid, process.pid): process for process in signals.foreign_at_end}
    by_gpu: dict[str, list[str]] = {}
    for key, process in (start | end).items():
        met = [when for when, seen in (("start", start), ("end", end)) if key in seen]
        memory = "" if process.memory_mb is None else f"{process.memory_mb:.0f} MiB, "
        by_gpu.setdefault(process.uuid, []).append(
            f"{process.pid} ({memory}at the {' and the '.join(met)})"
        )
    for uuid, listed in by_gpu.items():
        more = len(listed) - MAX_LISTED
        yield (
            f"{_device(signals, uuid)} was shared with process {', '.join(listed[:MAX_LISTED])}"
            f"{f' and {more} more' if more > 0 else ''}, and the energy is that of all; "
            "end them, or take a free GPU (CUDA_VISIBLE_DEVICES)"
        )


def sampler_degraded(signals: Signals) -> Iterator[str]:
    """Sampling did not go as it should have."""
    for note in signals.sampler_notes:
        yield f"{_line(note)}; see max_gap_s and coverage of each device in `llem show`"


def negative_adjusted_energy(signals: Signals) -> Iterator[str]:
    """The idle share is larger than what was measured, by more than the figure is uncertain."""
    uncertain_j = sum(device.error_bound_j or 0.0 for device in signals.devices)
    if signals.energy_adjusted_j is not None and signals.energy_adjusted_j < -uncertain_j:
        yield (
            f"energy less the idle share is {signals.energy_adjusted_j:.1f} J; the baseline was "
            "taken on a busier or warmer device, take it again on an idle one"
        )


def warmup_not_converged(signals: Signals) -> Iterator[str]:
    """The latencies were to settle before the span, and did not."""
    if signals.convergence_wanted and signals.warmup and not signals.warmup.converged:
        cv = signals.warmup.final_cv
        met = "unknown" if cv is None else f"{cv:.3f}"
        yield (
            f"latencies did not settle in {signals.warmup.iterations_completed} requests "
            f"(coefficient of variation {met}, wanted {signals.warmup.target_cv:g}); "
            "allow more (--warmup.max-prompts)"
        )


def large_error_bound(signals: Signals) -> Iterator[str]:
    """A device's error bound is more than `MAX_UNCERTAINTY` of its figure."""
    for device in signals.devices:
        bound_j, energy_j = device.error_bound_j, device.energy_j
        if bound_j is not None and energy_j and bound_j > MAX_UNCERTAINTY * energy_j:
            yield (
                f"{device.name} ({device.uuid}) has a figure of {energy_j:.1f} ± {bound_j:.1f} J "
                f"({bound_j / energy_j:.0%}): {_why_uncertain(device)}"
            )


def _of_device(
    code: str, message: Callable[[DeviceEnergy], str]
) -> Callable[[Signals], Iterator[str]]:
    def find(signals: Signals) -> Iterator[str]:
        for device in signals.devices:
            if code in device.codes:
                yield f"{device.name} ({device.uuid}) {message(device)}"

    return find


def _reset(device: DeviceEnergy) -> str:
    figure = (
        "there is no power integral in its place"
        if device.energy_j is None
        else f"its figure is the power integral, {_joules(device.energy_j)}"
    )
    return (
        f"had its energy counter go backwards or stop answering; {figure}: keep the driver loaded "
        "(`sudo nvidia-smi -pm 1`) and the GPU from being reset during a run, and see `dmesg`"
    )


def _gap(device: DeviceEnergy) -> str:
    span = "at times" if device.max_gap_s is None else f"for {device.max_gap_s:.2f} s"
    bridged = "there is no power integral" if device.integrated_j is None else "the gap is bridged"
    return f"was not sampled {span}; {bridged}, leave a core free, and see that it still answers"


def _missed(device: DeviceEnergy) -> str:
    share = "" if device.coverage is None else f"{device.coverage:.1%} of "
    return (
        f"gave {device.sample_count} samples, {share}what was asked for; leave a core free, and "
        "close other programs that read its sensors"
    )


def _disagreement(device: DeviceEnergy) -> str:
    if device.disagreement is None:
        return (
            "draws power while its energy counter stands still; its figure is the power integral, "
            f"{_joules(device.integrated_j)}, look at both in `llem show`"
        )
    return (
        f"has a counter and a power integral that differ by {device.disagreement:.0%}, "
        f"{_joules(device.counter_j)} and {_joules(device.integrated_j)}; "
        "measure longer, and look at both in `llem show`"
    )


def _why_uncertain(device: DeviceEnergy) -> str:
    if "sources_disagree" in device.codes:
        return "its counter and its power integral cannot both be right; see sources_disagree"
    if device.counter_j:
        return "its counter is refreshed too seldom for so short a span; measure longer"
    return (
        "its power sensor looks at a part of the time, or is read too seldom; measure on a device "
        "with an energy counter, or longer"
    )


def _shared(device: DeviceEnergy) -> str:
    return (
        f"is shared by MIG instances, and {_joules(device.energy_j)} is the figure of the whole "
        "GPU; keep the other instances idle, or run on a GPU that is not split"
    )


def _remedy(device: DeviceThrottle) -> str:
    remedies = {
        "improve its cooling": device.sw_thermal_s + device.hw_thermal_s,
        "check its power supply": device.hw_power_s,
        "see `nvidia-smi -q -d PERFORMANCE`": device.hw_other_s,
    }
    chosen = [remedy for remedy, seconds in remedies.items() if seconds > 0]
    return ", ".join(chosen or remedies)


def _share(part_s: float, whole_s: float) -> str:
    share = f" ({part_s / whole_s:.1%})" if whole_s > 0 else ""
    return f"{part_s:.2f} s of {whole_s:.2f} s{share}"


def _joules(energy_j: float | None) -> str:
    return "an unknown energy" if energy_j is None else f"{energy_j:.1f} J"


def _line(note: str) -> str:
    return " ".join(note.split())


def _device(signals: Signals, uuid: str) -> str:
    names = {device.uuid: device.name for device in signals.devices}
    return f"{names[uuid]} ({uuid})" if uuid in names else uuid


def _named(gpu: GPUEnvironment) -> str:
    return f"{gpu.name} ({gpu.uuid})" if gpu.uuid else gpu.name


SIGNALS: dict[str, Callable[[Signals], Iterator[str]]] = {
    "energy_not_measured": energy_not_measured,
    "incomplete_run": incomplete_run,
    "short_duration": short_duration,
    "thermal_drift": thermal_drift,
    "throttled": throttled,
    "power_capped": power_capped,
    "persistence_mode_off": persistence_mode_off,
    "persistence_mode_unknown": persistence_mode_unknown,
    "low_sample_count": low_sample_count,
    "latency_exceeds_span": latency_exceeds_span,
    "no_baseline": no_baseline,
    "device_idle": device_idle,
    "baseline_without_context": baseline_without_context,
    "baseline_not_cached": baseline_not_cached,
    "ecc_disabled": ecc_disabled,
    "foreign_processes": foreign_processes,
    "counter_reset": _of_device("counter_reset", _reset),
    "sampling_gap": _of_device("sampling_gap", _gap),
    "samples_missed": _of_device("samples_missed", _missed),
    "sampler_degraded": sampler_degraded,
    "sources_disagree": _of_device("sources_disagree", _disagreement),
    "large_error_bound": large_error_bound,
    "mig_parent_energy": _of_device("mig_parent_energy", _shared),
    "negative_adjusted_energy": negative_adjusted_energy,
    "warmup_not_converged": warmup_not_converged,
}
"""Every signal by its code."""
