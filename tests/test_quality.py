"""The measurement warnings: when each comes, and what it says."""

from typing import Any

import attrs
import pytest

from llem.domain.conditions import DeviceThrottle, GpuProcess
from llem.domain.energy import DeviceEnergy, Sensor
from llem.domain.environment import GPUEnvironment
from llem.domain.latency import WarmupResult
from llem.quality import (
    MAX_LISTED,
    SIGNALS,
    Signals,
    TemperatureRange,
    measurement_warnings,
)

CODES = [
    "energy_not_measured",
    "incomplete_run",
    "short_duration",
    "thermal_drift",
    "throttled",
    "power_capped",
    "persistence_mode_off",
    "persistence_mode_unknown",
    "low_sample_count",
    "latency_exceeds_span",
    "no_baseline",
    "device_idle",
    "baseline_without_context",
    "baseline_not_cached",
    "ecc_disabled",
    "foreign_processes",
    "counter_reset",
    "sampling_gap",
    "samples_missed",
    "sampler_degraded",
    "sources_disagree",
    "large_error_bound",
    "mig_parent_energy",
    "negative_adjusted_energy",
    "warmup_not_converged",
]

OF_A_DEVICE = {
    "counter_reset",
    "sampling_gap",
    "samples_missed",
    "sources_disagree",
    "mig_parent_energy",
}
"""Codes that integration leaves in the evidence of a device."""


def device(uuid: str = "GPU-a", **fields: Any) -> DeviceEnergy:
    own: dict[str, Any] = {
        "gpu_index": 0,
        "name": "H100",
        "energy_j": 100.0,
        "sensor": Sensor.NVML_TOTAL_ENERGY,
    }
    return DeviceEnergy(uuid=uuid, **(own | fields))


def gpu(uuid: str | None = "GPU-a", **fields: Any) -> GPUEnvironment:
    own = {"name": "H100", "persistence_mode": True, "ecc_enabled": True}
    return GPUEnvironment(uuid=uuid, **(own | fields))


def throttle(uuid: str = "GPU-a", **fields: Any) -> DeviceThrottle:
    return DeviceThrottle(**({"uuid": uuid, "duration_s": 60.0} | fields))


def process(pid: int, memory_mb: float | None = 400.0, uuid: str = "GPU-a") -> GpuProcess:
    return GpuProcess(uuid=uuid, pid=pid, memory_mb=memory_mb)


def warmup(**fields: Any) -> WarmupResult:
    own = {"converged": False, "iterations_completed": 20, "target_cv": 0.05, "max_prompts": 20}
    return WarmupResult(**(own | fields))


FINE = Signals(
    duration_s=60.0,
    prompts=30,
    devices=(device(),),
    gpus=(gpu(power_limit_w=400.0, default_power_limit_w=700.0),),
    longest_request_s=60.0,
    temperatures=(TemperatureRange(uuid="GPU-a", low_c=50.0, high_c=60.0),),
    throttles=(throttle(power_cap_s=6.0),),
    baseline_taken=True,
    baseline_power_w=68.4,
    baseline_had_context=True,
    energy_adjusted_j=0.0,
    warmup=warmup(converged=True),
    convergence_wanted=True,
)
"""Every signal just short of where its warning begins."""


def warnings(**fields: Any) -> list[str]:
    """The warnings of a run that is fine but for *fields*."""
    return list(measurement_warnings(attrs.evolve(FINE, **fields)))


def codes(**fields: Any) -> list[str]:
    return [warning.partition(": ")[0] for warning in warnings(**fields)]


def limited(limit_w: float | None, default_w: float | None, capped_s: float) -> dict[str, Any]:
    """A GPU under a power limit that ran at it for *capped_s* of 60 s."""
    under = gpu(power_limit_w=limit_w, default_power_limit_w=default_w)
    return {"gpus": (under,), "throttles": (throttle(power_cap_s=capped_s),)}


TRIGGERS: dict[str, dict[str, Any]] = {
    "energy_not_measured": {"devices": (device(energy_j=None),)},
    "incomplete_run": {"processes": 2, "missing_processes": (1,)},
    "short_duration": {"duration_s": 59.9, "longest_request_s": 0.0},
    "thermal_drift": {"temperatures": (TemperatureRange(uuid="a", low_c=50.0, high_c=60.1),)},
    "throttled": {"throttles": (throttle(throttled_s=1.5, sw_thermal_s=1.5, onsets_s=(12.0,)),)},
    "power_capped": limited(400.0, 700.0, 6.1),
    "persistence_mode_off": {"gpus": (gpu(persistence_mode=False),)},
    "persistence_mode_unknown": {"gpus": (gpu(persistence_mode=None),)},
    "low_sample_count": {"prompts": 29},
    "latency_exceeds_span": {"longest_request_s": 60.1},
    "no_baseline": {"baseline_taken": False},
    "device_idle": {
        "devices": (device(energy_j=630.0), device("GPU-b", energy_j=631.0)),
        "idle_power_w": (10.0, 10.0),
    },
    "baseline_without_context": {"baseline_had_context": False},
    "baseline_not_cached": {"baseline_notes": ("it could not be kept in /x: full; free some",)},
    "ecc_disabled": {"gpus": (gpu(ecc_enabled=False),)},
    "foreign_processes": {"foreign_at_start": (process(1234),)},
    "counter_reset": {"devices": (device(codes=["counter_reset"]),)},
    "sampling_gap": {"devices": (device(codes=["sampling_gap"], max_gap_s=1.0),)},
    "samples_missed": {
        "devices": (device(codes=["samples_missed"], coverage=0.9, sample_count=540),)
    },
    "sampler_degraded": {"sampler_notes": ("the sampling process ended early: killed",)},
    "sources_disagree": {
        "devices": (
            device(
                codes=["sources_disagree"], disagreement=0.2, counter_j=100.0, integrated_j=80.0
            ),
        )
    },
    "large_error_bound": {"devices": (device(error_bound_j=10.1, counter_j=100.0),)},
    "mig_parent_energy": {"devices": (device(codes=["mig_parent_energy"]),)},
    "negative_adjusted_energy": {"energy_adjusted_j": -0.1},
    "warmup_not_converged": {"warmup": warmup(final_cv=0.123)},
}
"""What gives rise to each, and to nothing else."""

SAYS: dict[str, tuple[str, str]] = {
    "energy_not_measured": ("H100 (GPU-a)", "check it with `nvidia-smi -q -d POWER`"),
    "incomplete_run": ("2 of 3 processes, without rank 1", "compare them with those of no other"),
    "short_duration": ("59.9 s, less than 60 s", "run more prompts (--num-prompts)"),
    "thermal_drift": ("10.1 °C, from 50 to 60 °C, more than 10 °C", "warm up longer"),
    "throttled": ("for 1.50 s of 60.00 s (2.5%), first 12.00 s into the run", "cooling"),
    "power_capped": ("400 W, lowered from 700 W, for 6.10 s of 60.00 s (10.2%)", "-pl 700`"),
    "persistence_mode_off": ("H100 (GPU-a)", "sudo nvidia-smi -pm 1"),
    "persistence_mode_unknown": ("H100 (GPU-a)", "nvidia-smi -q"),
    "low_sample_count": ("29, fewer than 30", "run more (--num-prompts)"),
    "latency_exceeds_span": ("60.1 s in a span of 60 s", "give latency_s in seconds"),
    "no_baseline": ("the energy includes the idle share", "--baseline.enabled"),
    "device_idle": ("630.0 J, no more than when idle", "CUDA_VISIBLE_DEVICES"),
    "baseline_without_context": ("idle power of 68.4 W", "load the model before"),
    "baseline_not_cached": ("could not be kept in /x: full", "free some"),
    "ecc_disabled": ("H100 (GPU-a)", "sudo nvidia-smi -e 1"),
    "foreign_processes": ("H100 (GPU-a) was shared with process 1234 (400 MiB", "end them, or"),
    "counter_reset": ("100.0 J", "sudo nvidia-smi -pm 1"),
    "sampling_gap": ("for 1.00 s", "leave a core free"),
    "samples_missed": ("540 samples, 90.0% of what was asked for", "leave a core free"),
    "sampler_degraded": ("the sampling process ended early: killed", "see max_gap_s"),
    "sources_disagree": ("20%, 100.0 J and 80.0 J", "measure longer"),
    "large_error_bound": ("100.0 ± 10.1 J (10%)", "measure longer"),
    "mig_parent_energy": ("100.0 J", "on a GPU that is not split"),
    "negative_adjusted_energy": ("-0.1 J", "take it again"),
    "warmup_not_converged": ("variation 0.123, wanted 0.05", "--warmup.max-prompts"),
}
"""The value and the advice in each of these warnings."""

THRESHOLDS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "short_duration",
        {"duration_s": 60.001},
        {"duration_s": 60.0},
        {"duration_s": 59.999, "longest_request_s": 59.0},
    ),
    (
        "thermal_drift",
        *(
            {"temperatures": (TemperatureRange(uuid="GPU-a", low_c=-5.0, high_c=high_c),)}
            for high_c in (4.9, 5.0, 5.1)
        ),
    ),
    (
        "throttled",
        {"throttles": ()},
        {"throttles": (throttle(),)},
        {"throttles": (throttle(throttled_s=0.001, hw_other_s=0.001),)},
    ),
    ("power_capped", *(limited(400.0, 700.0, capped_s) for capped_s in (5.9, 6.0, 6.1))),
    ("power_capped", *(limited(limit_w, 700.0, 60.0) for limit_w in (701.0, 700.0, 699.0))),
    ("low_sample_count", {"prompts": 31}, {"prompts": 30}, {"prompts": 29}),
    (
        "latency_exceeds_span",
        *({"longest_request_s": latency_s} for latency_s in (59.9, 60.0, 60.1)),
    ),
    (
        "negative_adjusted_energy",
        *({"energy_adjusted_j": energy_j} for energy_j in (0.1, 0.0, -0.1)),
    ),
    (
        "device_idle",
        *(
            {
                "devices": (device(energy_j=joules), device("GPU-b", energy_j=6000.0)),
                "idle_power_w": (10.0, 10.0),
            }
            for joules in (631.0, 630.001, 630.0)
        ),
    ),
    (
        "large_error_bound",
        *({"devices": (device(error_bound_j=bound_j),)} for bound_j in (9.9, 10.0, 10.1)),
    ),
    (
        "energy_not_measured",
        *({"devices": (device(energy_j=energy_j),)} for energy_j in (0.1, 0.0, None)),
    ),
]
"""Short of each threshold, at it, and beyond it."""


def test_codes_are_stable() -> None:
    """Programs look for them."""
    assert list(SIGNALS) == CODES


def test_a_fine_run_has_no_warning() -> None:
    """Every signal at its threshold, none beyond it."""
    assert warnings() == []


@pytest.mark.parametrize(
    ("joules", "idle_w"),
    [
        ((500.0, 500.0), (10.0, 10.0)),
        ((500.0, 6000.0), (None, 10.0)),
        ((500.0, 6000.0), ()),
        ((500.0,), (10.0,)),
    ],
)
def test_devices_that_may_not_be_idle(joules: tuple[float, ...], idle_w: tuple[float, ...]) -> None:
    """Where none worked the run may be that light, and where idle power is not known none is."""
    devices = tuple(device(f"GPU-{i}", energy_j=energy_j) for i, energy_j in enumerate(joules))
    assert codes(devices=devices, idle_power_w=idle_w) == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"counter_j": 100.0, "codes": ("sources_disagree",)}, "see sources_disagree"),
        ({"counter_j": 100.0}, "for so short a span"),
        ({"integrated_j": 100.0}, "with an energy counter"),
    ],
)
def test_why_a_bound_is_large(fields: dict[str, Any], why: str) -> None:
    """What helps depends on the sensor."""
    found = warnings(devices=(device(error_bound_j=50.0, **fields),))

    assert why in next(w for w in found if w.startswith("large_error_bound"))


def test_a_baseline_that_was_wanted_is_not_advised() -> None:
    """It says why there is none all the same."""
    (warning,) = warnings(baseline_taken=False, baseline_wanted=True)

    assert warning.startswith("no_baseline: idle power is not known of every device")
    assert "--baseline.enabled" not in warning


def test_a_counter_that_was_lost_with_its_device() -> None:
    """No figure is made up for it in words."""
    lost = device(codes=["counter_reset"], energy_j=None)

    (warning,) = (w for w in warnings(devices=(lost,)) if w.startswith("counter_reset"))

    assert "there is no power integral in its place" in warning


def test_what_is_not_known_is_not_warned_of() -> None:
    """But for what should be: energy and a baseline."""
    unknown = Signals(duration_s=0.0, prompts=30, warmup=warmup())

    found = [warning.partition(":")[0] for warning in measurement_warnings(unknown)]

    assert found == ["energy_not_measured", "short_duration", "no_baseline"]


@pytest.mark.parametrize("code", SIGNALS)
def test_each_signal_is_triggered_on_its_own(code: str) -> None:
    """By what it looks at, and by nothing else."""
    assert codes(**TRIGGERS[code]) == [code]


@pytest.mark.parametrize("code", SIGNALS)
def test_each_warning_is_one_line_of_code_and_message(code: str) -> None:
    """``code: what happened, and what to do``."""
    (warning,) = warnings(**TRIGGERS[code])

    assert warning.startswith(f"{code}: ")
    assert len(warning) > len(code) + 20
    assert "\n" not in warning
    assert "{" not in warning
    assert "  " not in warning
    assert not warning.endswith((".", " "))


@pytest.mark.parametrize("code", SIGNALS)
def test_each_warning_says_the_value_and_what_to_do(code: str) -> None:
    """Once, in this order."""
    (warning,) = warnings(**TRIGGERS[code])
    value, advice = SAYS[code]

    assert warning.count(value) == 1
    assert advice in warning.partition(value)[2]


@pytest.mark.parametrize(("code", "short", "at", "beyond"), THRESHOLDS)
def test_thresholds(code: str, short: Any, at: Any, beyond: Any) -> None:
    """Only what lies beyond one is warned of."""
    assert codes(**short) == []
    assert codes(**at) == []
    assert codes(**beyond) == [code]


def test_warnings_come_in_the_order_of_the_table() -> None:
    """Whatever they were found in."""
    everything = Signals(
        duration_s=1.0,
        prompts=1,
        devices=(
            device(energy_j=None, codes=sorted(OF_A_DEVICE)),
            device("GPU-b", energy_j=2.0, error_bound_j=0.5),
            device("GPU-c", energy_j=900.0),
        ),
        idle_power_w=(None, 10.0, 10.0),
        gpus=(
            gpu(power_limit_w=1.0, default_power_limit_w=2.0),
            gpu("GPU-b", persistence_mode=False, ecc_enabled=False),
            gpu("GPU-c", persistence_mode=None),
        ),
        temperatures=(TemperatureRange(uuid="a", low_c=0.0, high_c=90.0),),
        throttles=(throttle(throttled_s=1.0, power_cap_s=60.0),),
        foreign_at_end=(process(1),),
        missing_processes=(1,),
        sampler_notes=("no core",),
        longest_request_s=2.0,
        baseline_notes=("no folder",),
        energy_adjusted_j=-1.0,
        warmup=warmup(),
        convergence_wanted=True,
    )

    without = [warning.partition(":")[0] for warning in measurement_warnings(everything)]
    taken = attrs.evolve(everything, baseline_taken=True, baseline_had_context=False)
    with_one = [warning.partition(":")[0] for warning in measurement_warnings(taken)]

    assert without == [code for code in CODES if code != "baseline_without_context"]
    assert with_one == [code for code in CODES if code != "no_baseline"]


# Thresholds


def test_short_duration_says_how_short() -> None:
    """The span, the threshold, what to do."""
    assert warnings(duration_s=12.34, longest_request_s=0.0) == [
        (
            "short_duration: measured 12.3 s, less than 60 s; "
            "run more prompts (--num-prompts) or longer ones"
        )
    ]


def test_low_sample_count_says_how_many() -> None:
    """The count, the threshold, what to do."""
    assert warnings(prompts=7) == [
        "low_sample_count: prompts run: 7, fewer than 30; run more (--num-prompts)"
    ]


def test_thermal_drift_is_of_each_device() -> None:
    """Two devices at different temperatures have not drifted; the one that has is named."""
    cool = TemperatureRange(uuid="GPU-a", low_c=30.0, high_c=35.0)
    warm = TemperatureRange(uuid="GPU-b", low_c=70.0, high_c=75.0)
    drifted = TemperatureRange(uuid="GPU-c", low_c=40.4, high_c=61.6)

    assert warnings(temperatures=(cool, warm)) == []
    assert warnings(temperatures=()) == []
    assert warnings(temperatures=(cool, drifted, warm)) == [
        "thermal_drift: GPU-c moved 21.2 °C, from 40 to 62 °C, more than 10 °C; warm up longer"
    ]


def test_unknown_adjusted_energy_is_not_negative() -> None:
    assert warnings(energy_adjusted_j=None) == []


def test_negative_adjusted_energy_says_how_much() -> None:
    """The energy, and what to do."""
    (warning,) = warnings(energy_adjusted_j=-12.34)

    assert "-12.3 J" in warning
    assert "take it again" in warning


# State of the GPUs


@pytest.mark.parametrize(
    ("mode", "found"),
    [(True, []), (False, ["persistence_mode_off"]), (None, ["persistence_mode_unknown"])],
)
def test_persistence_mode(mode: bool | None, found: list[str]) -> None:
    """Off and unknown are two things."""
    assert codes(gpus=(gpu(persistence_mode=mode),)) == found


def test_persistence_mode_is_of_each_gpu() -> None:
    """Each is named, by its UUID where it has one."""
    found = warnings(
        gpus=(
            gpu("GPU-a", persistence_mode=False),
            gpu("GPU-b", persistence_mode=True),
            gpu("GPU-c", persistence_mode=None),
            gpu(None, persistence_mode=False),
        )
    )

    assert [warning.partition(" ")[0] for warning in found] == [
        "persistence_mode_off:",
        "persistence_mode_off:",
        "persistence_mode_unknown:",
    ]
    assert found[0].startswith("persistence_mode_off: H100 (GPU-a) has")
    assert found[1].startswith("persistence_mode_off: H100 has")
    assert found[2].startswith("persistence_mode_unknown: H100 (GPU-c) did not say")
    assert "sudo nvidia-smi -pm 1" in found[0]
    assert "nvidia-smi -q" in found[2]


@pytest.mark.parametrize(("enabled", "warned"), [(True, 0), (False, 1), (None, 0)])
def test_ecc_disabled(enabled: bool | None, warned: int) -> None:
    """A GPU without ECC has none that is off."""
    assert codes(gpus=(gpu(ecc_enabled=enabled),)) == ["ecc_disabled"] * warned


def test_ecc_disabled_names_the_gpu() -> None:
    """And says how to turn it on."""
    (warning,) = warnings(gpus=(gpu("GPU-a"), gpu("GPU-b", ecc_enabled=False)))

    assert warning.startswith("ecc_disabled: H100 (GPU-b) has ECC off")
    assert "sudo nvidia-smi -e 1" in warning


# Energy


def test_no_device_gives_the_reasons() -> None:
    """Every one of them, and where to look."""
    (warning,) = warnings(devices=(), not_measured=("no driver", "no powercap"))

    assert warning == (
        "energy_not_measured: no driver; no powercap. "
        "Run `llem env` to see what this machine can measure"
    )
    assert warnings(devices=())[0].startswith("energy_not_measured: no meter ran. ")


def test_reasons_are_told_beside_devices() -> None:
    """They are those of the processes that metered none."""
    (warning,) = warnings(not_measured=("rank 1: no driver",))

    assert warning.startswith("energy_not_measured: rank 1: no driver")


def test_each_device_without_energy_is_named() -> None:
    """Energy of 0 J is measured."""
    found = warnings(
        devices=(device("GPU-a", energy_j=None), device("GPU-b"), device("GPU-c", energy_j=0.0))
    )

    assert len(found) == 1
    assert found[0].startswith("energy_not_measured: H100 (GPU-a) gave no energy reading")
    assert "nvidia-smi -q -d POWER" in found[0]


def test_no_baseline() -> None:
    """With a meter the idle share is in the energy; without one there was nothing to measure."""
    (metered,) = warnings(baseline_taken=False)
    _, unmetered = warnings(baseline_taken=False, devices=())

    assert metered.startswith("no_baseline: ")
    assert "includes the idle share" in metered
    assert "baseline" in metered.partition(";")[2]
    assert unmetered.startswith("no_baseline: ")
    assert "includes the idle share" not in unmetered


@pytest.mark.parametrize("code", sorted(OF_A_DEVICE))
def test_a_code_of_a_device_is_a_warning_that_names_it(code: str) -> None:
    """One for each device that has it, with its own values; never pooled."""
    (spoiled,) = TRIGGERS[code]["devices"]
    fine, other = device("GPU-b"), attrs.evolve(spoiled, uuid="GPU-c", energy_j=7.0)

    found = warnings(devices=(spoiled, fine, other))

    assert [warning.partition(")")[0] for warning in found] == [
        f"{code}: H100 (GPU-a",
        f"{code}: H100 (GPU-c",
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("counter_reset", "no power integral in its place: keep"),
        ("sampling_gap", "not sampled at times"),
        ("samples_missed", "gave 0 samples, what was asked for"),
        ("sources_disagree", "counter stands still"),
        ("mig_parent_energy", "an unknown energy is the figure"),
    ],
)
def test_a_code_without_its_value_is_a_warning_all_the_same(code: str, words: str) -> None:
    """A counter that stands still disagrees by no share; a warning never stops a run."""
    found = warnings(devices=(device(codes=[code], energy_j=None),))

    assert found[1].startswith(f"{code}: H100 (GPU-a) ")
    assert words in found[1]


def test_a_name_with_braces_is_a_name() -> None:
    """Nothing of a device's name is filled in."""
    (warning,) = warnings(devices=(device(name="{device}{0}", codes=["counter_reset"]),))

    assert "{device}{0} (GPU-a)" in warning


# Warmup


@pytest.mark.parametrize(
    ("result", "wanted", "warned"),
    [
        (warmup(), True, 1),
        (warmup(), False, 0),
        (warmup(converged=True), True, 0),
        (None, True, 0),
        (None, False, 0),
    ],
)
def test_warmup_not_converged(result: WarmupResult | None, wanted: bool, warned: int) -> None:
    """Only where it was looked for; a fixed count was not to converge."""
    assert codes(warmup=result, convergence_wanted=wanted) == ["warmup_not_converged"] * warned


@pytest.mark.parametrize(("cv", "words"), [(0.12345, "0.123"), (0.0, "0.000"), (None, "unknown")])
def test_warmup_not_converged_says_how_far_it_came(cv: float | None, words: str) -> None:
    """The variation, the target, the requests, what to do."""
    (warning,) = warnings(warmup=warmup(final_cv=cv))

    assert "in 20 requests" in warning
    assert f"variation {words}, wanted 0.05" in warning
    assert "--warmup.max-prompts" in warning


# Slowed down


@pytest.mark.parametrize(
    ("cause", "words", "advice"),
    [
        ("sw_thermal_s", "too hot for the driver", "improve its cooling"),
        ("hw_thermal_s", "too hot for the device", "improve its cooling"),
        ("hw_power_s", "braked by the power supply", "check its power supply"),
        (
            "hw_other_s",
            "by the hardware without a cause",
            "see `nvidia-smi -q -d PERFORMANCE`",
        ),
    ],
)
def test_throttled_says_why(cause: str, words: str, advice: str) -> None:
    """Each cause that there was with its time, none that there was not, and what helps."""
    slowed = throttle(throttled_s=0.6, onsets_s=(1.0, 9.0), **{cause: 0.6})

    assert warnings(throttles=(slowed,)) == [
        (
            "throttled: H100 (GPU-a) was slowed down for 0.60 s of 60.00 s (1.0%), "
            f"first 1.00 s into the run: {words} for 0.60 s; "
            f"{advice}, or lower its power limit (`sudo nvidia-smi -pl`)"
        )
    ]


def test_throttled_names_every_cause() -> None:
    """They may hold at the same time."""
    slowed = throttle(throttled_s=3.0, sw_thermal_s=2.0, hw_power_s=1.5)

    (warning,) = warnings(throttles=(slowed,))

    assert "too hot for the driver for 2.00 s, braked by the power supply for 1.50 s;" in warning
    assert "improve its cooling, check its power supply, or lower" in warning


def test_throttling_is_of_each_device() -> None:
    """Two that were slowed down are two, and the third is not named."""
    slowed = (throttle("GPU-a", throttled_s=1.0), throttle("b"), throttle("c", throttled_s=2.0))

    first, second = warnings(throttles=slowed)

    assert first.startswith("throttled: H100 (GPU-a) was slowed down for 1.00 s")
    assert second.startswith("throttled: c was slowed down for 2.00 s")


def test_throttling_of_no_time_is_a_warning_all_the_same() -> None:
    """Whoever measured it so."""
    (warning,) = warnings(throttles=(throttle(throttled_s=1.0, duration_s=0.0),))

    assert "for 1.00 s of 0.00 s: it is not known why; improve its cooling, check" in warning


@pytest.mark.parametrize(
    ("limit_w", "default_w"), [(None, 700.0), (400.0, None), (None, None), (700.0, 700.0)]
)
def test_power_capped_needs_a_lowered_limit(limit_w: float | None, default_w: float | None) -> None:
    """At the limit that it came with a busy GPU runs normally."""
    assert warnings(**limited(limit_w, default_w, 60.0)) == []


def test_power_capped_is_of_each_device() -> None:
    """By its own limit and its own time."""
    gpus = (
        gpu("GPU-a", power_limit_w=400.0, default_power_limit_w=700.0),
        gpu("GPU-b", power_limit_w=700.0, default_power_limit_w=700.0),
        gpu("GPU-c", power_limit_w=300.0, default_power_limit_w=700.0),
    )
    capped = tuple(throttle(uuid, power_cap_s=60.0) for uuid in ("GPU-b", "GPU-c", "GPU-d"))

    (warning,) = warnings(gpus=gpus, throttles=(throttle("GPU-a"), *capped))

    assert warning.startswith("power_capped: GPU-c ran at a power limit of 300 W")


# Others on the GPU


def test_foreign_processes_say_when() -> None:
    """At the start, at the end, or both: one process is listed once."""
    (warning,) = warnings(
        foreign_at_start=(process(1), process(2)),
        foreign_at_end=(process(2, 500.0), process(3, None)),
    )

    assert warning == (
        "foreign_processes: H100 (GPU-a) was shared with process "
        "1 (400 MiB, at the start), 2 (500 MiB, at the start and the end), 3 (at the end), "
        "and the energy is that of all; end them, or take a free GPU (CUDA_VISIBLE_DEVICES)"
    )


def test_foreign_processes_are_of_each_gpu() -> None:
    """The same process on two of them too."""
    first, second = warnings(foreign_at_end=(process(1), process(1, 7.0, "GPU-b"), process(2)))

    assert "H100 (GPU-a) was shared with process 1 (400 MiB, at the end), 2 (" in first
    assert "GPU-b was shared with process 1 (7 MiB, at the end), and" in second


@pytest.mark.parametrize(("count", "more"), [(MAX_LISTED, ""), (MAX_LISTED + 1, " and 1 more")])
def test_many_foreign_processes_are_counted(count: int, more: str) -> None:
    (warning,) = warnings(foreign_at_start=tuple(process(pid) for pid in range(count)))

    assert warning.count("MiB") == MAX_LISTED
    assert f"at the start){more}, and the energy" in warning


# How it was measured


@pytest.mark.parametrize(
    ("taken", "had_context", "warned"),
    [(True, False, 1), (True, True, 0), (True, None, 0), (False, False, 0)],
)
def test_baseline_without_context(taken: bool, had_context: bool | None, warned: int) -> None:
    """Unknown is not without, and where none was taken there is nothing to say of it."""
    found = codes(baseline_taken=taken, baseline_had_context=had_context)

    assert found.count("baseline_without_context") == warned


def test_baseline_without_context_may_lack_its_value() -> None:
    (warning,) = warnings(baseline_had_context=False, baseline_power_w=None)

    assert warning.startswith("baseline_without_context: idle power was measured without")


@pytest.mark.parametrize("code", ["sampler_degraded", "baseline_not_cached"])
def test_each_note_is_a_warning(code: str) -> None:
    """In one line each, in order."""
    field = {"sampler_degraded": "sampler_notes", "baseline_not_cached": "baseline_notes"}[code]

    first, second = warnings(**{field: ("one\n note", "another")})

    assert first.startswith(f"{code}: one note")
    assert second.startswith(f"{code}: another")
