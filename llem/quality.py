"""
The measurement warnings: what makes a figure less than it seems.

They inform and never stop a run. Each is ``code: what happened, and what to do``; codes are stable.
One function finds one signal, `SIGNALS` lists them all.
"""

from collections.abc import Callable, Iterator

import attrs

from llem.domain.energy import DeviceEnergy, Sensor
from llem.domain.environment import GPUEnvironment
from llem.domain.latency import WarmupResult

MIN_DURATION_S = 60.0
"""Shorter spans leave the counter's refresh and the first seconds' warming a visible share."""

MAX_DRIFT_C = 10.0
"""Leakage power grows with temperature; a device that moved further was not in a steady state."""

MIN_PROMPTS = 30
"""Fewer give no sound percentile, nor a mean that the central limit theorem speaks for."""


@attrs.frozen(kw_only=True)
class TemperatureRange:
    """
    How far the temperature of one device moved.

    Attributes:
        uuid: The device.
        low_c: Lowest temperature met. Unit: °C.
        high_c: Highest temperature met. Unit: °C.
    """

    uuid: str
    low_c: float
    high_c: float


@attrs.frozen(kw_only=True)
class Signals:
    """
    What the warnings are derived from.

    Attributes:
        duration_s: Measured span. Unit: s.
        prompts: Prompts that ran in it.
        devices: Evidence for each device's energy. Empty: no meter ran.
        not_measured: Why no energy was measured.
        gpus: The GPUs that were metered.
        longest_request_s: Latency of the slowest request. Unit: s.
        temperatures: How far each device's temperature moved.
        baseline_taken: Whether idle power was measured.
        energy_adjusted_j: Energy less the idle share. Unit: J.
        warmup: What warming up came to. None: there was none.
        convergence_wanted: Whether the latencies were to settle before the span.
    """

    duration_s: float
    prompts: int
    devices: tuple[DeviceEnergy, ...] = ()
    not_measured: tuple[str, ...] = ()
    gpus: tuple[GPUEnvironment, ...] = ()
    longest_request_s: float = 0.0
    temperatures: tuple[TemperatureRange, ...] = ()
    baseline_taken: bool = False
    energy_adjusted_j: float | None = None
    warmup: WarmupResult | None = None
    convergence_wanted: bool = False


def measurement_warnings(signals: Signals) -> tuple[str, ...]:
    """Every warning that *signals* give rise to, in the order of `SIGNALS`."""
    return tuple(
        f"{code}: {message}" for code, find in SIGNALS.items() for message in find(signals)
    )


def energy_not_measured(signals: Signals) -> Iterator[str]:
    """Some device has no energy figure, or there is no device."""
    if not signals.devices:
        reasons = "; ".join(signals.not_measured) or "no meter ran"
        yield f"{reasons}. Run `llem env` to see what this machine can measure"
    for device in signals.devices:
        if device.energy_j is None:
            yield (
                f"{device.name} ({device.uuid}) gave no energy reading, so the total is unknown; "
                "check it with `nvidia-smi -q -d POWER`"
            )


def short_duration(signals: Signals) -> Iterator[str]:
    """The measured span is shorter than `MIN_DURATION_S`."""
    if signals.duration_s < MIN_DURATION_S:
        yield (
            f"measured {signals.duration_s:.1f} s, less than {MIN_DURATION_S:.0f} s; "
            "run more prompts (--n) or longer ones"
        )


def thermal_drift(signals: Signals) -> Iterator[str]:
    """A device's temperature moved by more than `MAX_DRIFT_C`."""
    for device in signals.temperatures:
        drift = device.high_c - device.low_c
        if drift > MAX_DRIFT_C:
            yield (
                f"{device.uuid} moved {drift:.1f} °C, from {device.low_c:.0f} to "
                f"{device.high_c:.0f} °C, more than {MAX_DRIFT_C:.0f} °C; warm up longer"
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
        yield f"prompts run: {signals.prompts}, fewer than {MIN_PROMPTS}; run more (--n)"


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
    else:
        yield (
            "idle power was not measured, so the energy includes the idle share; "
            "leave the baseline on (--baseline.enabled)"
        )


def ecc_disabled(signals: Signals) -> Iterator[str]:
    """A GPU that has ECC has it off."""
    for gpu in signals.gpus:
        if gpu.ecc_enabled is False:
            yield (
                f"{_named(gpu)} has ECC off, unlike most in production; "
                "turn it on with `sudo nvidia-smi -e 1` and restart"
            )


def negative_adjusted_energy(signals: Signals) -> Iterator[str]:
    """The idle share is larger than what was measured."""
    if signals.energy_adjusted_j is not None and signals.energy_adjusted_j < 0:
        yield (
            f"energy less the idle share is {signals.energy_adjusted_j:.1f} J; the baseline was "
            "taken on a busier or warmer device, take it again"
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


def reproducibility_notes(devices: tuple[DeviceEnergy, ...]) -> str:
    """What the accuracy of the sensors that *devices* were read by is, in words."""
    sensors = dict.fromkeys(device.sensor for device in devices if device.energy_j is not None)
    return " ".join(ACCURACY[sensor] for sensor in sensors) or "Energy was not measured."


ACCURACY = {
    Sensor.NVML_TOTAL_ENERGY: (
        "NVML total-energy counter of the whole board; it refreshes about every 0.1 s, so short "
        "spans are less certain: see error_bound_j of each device."
    ),
    Sensor.NVML_POWER_INSTANT: (
        "Trapezoid integral of NVML's instant power; the sensor looks at a part of the time only, "
        "so short bursts may be missed: see error_bound_j of each device."
    ),
    Sensor.NVML_POWER_AVERAGE: (
        "Trapezoid integral of NVML's one-second mean power; loads shorter than seconds are "
        "smeared: see error_bound_j of each device."
    ),
    Sensor.NVML_POWER: (
        "Trapezoid integral of NVML's power reading, on recent GPUs a one-second mean; loads "
        "shorter than seconds are smeared: see error_bound_j of each device."
    ),
    Sensor.RAPL: (
        "RAPL counters of CPU packages and memory, without GPUs, disks and fans; they refresh "
        "about every millisecond."
    ),
    Sensor.REPLAY: "A recorded series, played again.",
    Sensor.ENGINE: "As the inference engine reports it.",
}
"""What each sensor's figure is worth."""


def _of_device(
    code: str, message: str | Callable[[DeviceEnergy], str]
) -> Callable[[Signals], Iterator[str]]:
    def find(signals: Signals) -> Iterator[str]:
        for device in signals.devices:
            if code in device.codes:
                said = message if isinstance(message, str) else message(device)
                yield f"{device.name} ({device.uuid}) {said}"

    return find


def _gap(device: DeviceEnergy) -> str:
    span = "at times" if device.max_gap_s is None else f"for {device.max_gap_s:.2f} s"
    return f"was not sampled {span}; the gap is bridged, leave a core free"


def _disagreement(device: DeviceEnergy) -> str:
    if device.disagreement is None:
        return (
            "draws power while its energy counter stands still; its figure is the power integral, "
            "look at both in `llem show`"
        )
    return (
        f"has a counter and a power integral that differ by {device.disagreement:.0%}; "
        "measure longer, and look at both in `llem show`"
    )


def _named(gpu: GPUEnvironment) -> str:
    return f"{gpu.name} ({gpu.uuid})" if gpu.uuid else gpu.name


SIGNALS: dict[str, Callable[[Signals], Iterator[str]]] = {
    "energy_not_measured": energy_not_measured,
    "short_duration": short_duration,
    "thermal_drift": thermal_drift,
    "persistence_mode_off": persistence_mode_off,
    "persistence_mode_unknown": persistence_mode_unknown,
    "low_sample_count": low_sample_count,
    "latency_exceeds_span": latency_exceeds_span,
    "no_baseline": no_baseline,
    "ecc_disabled": ecc_disabled,
    "counter_reset": _of_device(
        "counter_reset",
        "had its energy counter go backwards or stop answering; its figure is the power integral",
    ),
    "sampling_gap": _of_device("sampling_gap", _gap),
    "sources_disagree": _of_device("sources_disagree", _disagreement),
    "mig_parent_energy": _of_device(
        "mig_parent_energy", "is shared by MIG instances; the figure is that of the whole GPU"
    ),
    "negative_adjusted_energy": negative_adjusted_energy,
    "warmup_not_converged": warmup_not_converged,
}
"""Every signal by its code."""
