"""The measurement warnings: when each comes, and what it says."""

from typing import Any

import attrs
import pytest

from llem.domain.energy import DeviceEnergy, Sensor
from llem.domain.environment import GPUEnvironment
from llem.domain.latency import WarmupResult
from llem.quality import (
    ACCURACY,
    SIGNALS,
    Signals,
    TemperatureRange,
    measurement_warnings,
    reproducibility_notes,
)

CODES = [
    "energy_not_measured",
    "short_duration",
    "thermal_drift",
    "persistence_mode_off",
    "persistence_mode_unknown",
    "low_sample_count",
    "latency_exceeds_span",
    "no_baseline",
    "ecc_disabled",
    "counter_reset",
    "sampling_gap",
    "sources_disagree",
    "mig_parent_energy",
    "negative_adjusted_energy",
    "warmup_not_converged",
]


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


def warmup(**fields: Any) -> WarmupResult:
    own = {"converged": False, "iterations_completed": 20, "target_cv": 0.05, "max_prompts": 20}
    return WarmupResult(**(own | fields))


FINE = Signals(
    duration_s=60.0,
    prompts=30,
    devices=(device(),),
    gpus=(gpu(),),
    temperatures=(TemperatureRange(uuid="GPU-a", low_c=50.0, high_c=60.0),),
    baseline_taken=True,
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


TRIGGERS: dict[str, dict[str, Any]] = {
    "energy_not_measured": {"devices": (device(energy_j=None),)},
    "short_duration": {"duration_s": 59.9},
    "thermal_drift": {"temperatures": (TemperatureRange(uuid="a", low_c=50.0, high_c=60.1),)},
    "persistence_mode_off": {"gpus": (gpu(persistence_mode=False),)},
    "persistence_mode_unknown": {"gpus": (gpu(persistence_mode=None),)},
    "low_sample_count": {"prompts": 29},
    "latency_exceeds_span": {"longest_request_s": 60.1},
    "no_baseline": {"baseline_taken": False},
    "ecc_disabled": {"gpus": (gpu(ecc_enabled=False),)},
    "counter_reset": {"devices": (device(codes=["counter_reset"]),)},
    "sampling_gap": {"devices": (device(codes=["sampling_gap"], max_gap_s=1.0),)},
    "sources_disagree": {"devices": (device(codes=["sources_disagree"], disagreement=0.2),)},
    "mig_parent_energy": {"devices": (device(codes=["mig_parent_energy"]),)},
    "negative_adjusted_energy": {"energy_adjusted_j": -0.1},
    "warmup_not_converged": {"warmup": warmup()},
}


def test_a_request_as_long_as_the_span_is_fine() -> None:
    """At the span and not beyond it."""
    assert warnings(duration_s=60.0, longest_request_s=60.0) == []


def test_codes_are_stable() -> None:
    """Programs look for them."""
    assert list(SIGNALS) == CODES


def test_a_fine_run_has_no_warning() -> None:
    """Every signal at its threshold, none beyond it."""
    assert warnings() == []


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
    assert not warning.endswith((".", " "))


def test_warnings_come_in_the_order_of_the_table() -> None:
    """Whatever they were found in."""
    everything = Signals(
        duration_s=1.0,
        prompts=1,
        devices=(device(energy_j=None, codes=["mig_parent_energy", "counter_reset"]),),
        gpus=(gpu(persistence_mode=False, ecc_enabled=False), gpu(persistence_mode=None)),
        temperatures=(TemperatureRange(uuid="a", low_c=0.0, high_c=90.0),),
        longest_request_s=2.0,
        energy_adjusted_j=-1.0,
        warmup=warmup(),
        convergence_wanted=True,
    )

    found = [warning.partition(":")[0] for warning in measurement_warnings(everything)]

    assert found == [code for code in CODES if code not in ("sampling_gap", "sources_disagree")]


# Thresholds


@pytest.mark.parametrize(("seconds", "warned"), [(0.0, 1), (59.999, 1), (60.0, 0), (60.001, 0)])
def test_short_duration(seconds: float, warned: int) -> None:
    """Less than a minute."""
    assert codes(duration_s=seconds) == ["short_duration"] * warned


def test_short_duration_says_how_short() -> None:
    """The span, the threshold, what to do."""
    assert warnings(duration_s=12.34) == [
        "short_duration: measured 12.3 s, less than 60 s; run more prompts (--n) or longer ones"
    ]


@pytest.mark.parametrize(("prompts", "warned"), [(0, 1), (29, 1), (30, 0), (31, 0)])
def test_low_sample_count(prompts: int, warned: int) -> None:
    """Fewer than 30."""
    assert codes(prompts=prompts) == ["low_sample_count"] * warned


def test_low_sample_count_says_how_many() -> None:
    """The count, the threshold, what to do."""
    assert warnings(prompts=7) == [
        "low_sample_count: prompts run: 7, fewer than 30; run more (--n)"
    ]


@pytest.mark.parametrize(
    ("low_c", "high_c", "warned"),
    [(50.0, 50.0, 0), (50.0, 59.9, 0), (50.0, 60.0, 0), (50.0, 60.1, 1), (-5.0, 5.5, 1)],
)
def test_thermal_drift(low_c: float, high_c: float, warned: int) -> None:
    """More than 10 degrees."""
    moved = TemperatureRange(uuid="GPU-a", low_c=low_c, high_c=high_c)

    assert codes(temperatures=(moved,)) == ["thermal_drift"] * warned


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


@pytest.mark.parametrize(("joules", "warned"), [(-0.1, 1), (0.0, 0), (0.1, 0), (None, 0)])
def test_negative_adjusted_energy(joules: float | None, warned: int) -> None:
    """Below 0. Unknown is not below it."""
    assert codes(energy_adjusted_j=joules) == ["negative_adjusted_energy"] * warned


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


def test_reasons_matter_only_without_devices() -> None:
    """The second meter answered where the first did not."""
    assert warnings(not_measured=("no driver",)) == []


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


@pytest.mark.parametrize(
    ("code", "fields", "words"),
    [
        ("counter_reset", {}, "go backwards"),
        ("sampling_gap", {"max_gap_s": 1.234}, "for 1.23 s"),
        ("sources_disagree", {"disagreement": 0.256}, "differ by 26%"),
        ("mig_parent_energy", {}, "MIG"),
    ],
)
def test_a_code_of_a_device_is_a_warning_that_names_it(code: str, fields, words: str) -> None:
    """The codes that integration leaves, with their values."""
    found = warnings(devices=(device("GPU-a"), device("GPU-b", codes=[code], **fields)))

    assert len(found) == 1
    assert found[0].startswith(f"{code}: H100 (GPU-b) ")
    assert words in found[0]


def test_a_code_of_two_devices_is_two_warnings() -> None:
    """One each."""
    devices = tuple(device(uuid, codes=["counter_reset"]) for uuid in ("GPU-a", "GPU-b"))

    assert codes(devices=devices) == ["counter_reset"] * 2


@pytest.mark.parametrize(
    ("code", "words"),
    [("sampling_gap", "not sampled at times"), ("sources_disagree", "counter stands still")],
)
def test_a_code_without_its_value_is_a_warning_all_the_same(code: str, words: str) -> None:
    """A counter that stands still disagrees by no share; a warning never stops a run."""
    (warning,) = warnings(devices=(device(codes=[code]),))

    assert warning.startswith(f"{code}: H100 (GPU-a) ")
    assert words in warning


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


# Accuracy


@pytest.mark.parametrize(
    ("sensor", "words"),
    [
        (Sensor.NVML_TOTAL_ENERGY, "NVML total-energy counter"),
        (Sensor.NVML_POWER_INSTANT, "NVML's instant power"),
        (Sensor.NVML_POWER_AVERAGE, "NVML's one-second mean power"),
        (Sensor.NVML_POWER, "NVML's power reading"),
        (Sensor.RAPL, "RAPL counters"),
        (Sensor.REPLAY, "recorded series"),
        (Sensor.ENGINE, "inference engine"),
    ],
)
def test_notes_are_of_the_sensor_that_was_used(sensor: Sensor, words: str) -> None:
    """One text a sensor, none for another's."""
    notes = reproducibility_notes((device(sensor=sensor),))

    assert words in notes
    assert notes == ACCURACY[sensor]
    assert [other for other in Sensor if ACCURACY[other] == notes] == [sensor]


def test_every_sensor_has_an_accuracy() -> None:
    """A new one needs words of its own."""
    assert ACCURACY.keys() == set(Sensor)


def test_notes_name_each_sensor_once() -> None:
    """In the order of the devices; one that gave nothing is left out."""
    notes = reproducibility_notes(
        (
            device("a", sensor=Sensor.RAPL),
            device("b", sensor=Sensor.NVML_POWER),
            device("c", sensor=Sensor.RAPL),
            device("d", sensor=Sensor.ENGINE, energy_j=None),
        )
    )

    assert notes == f"{ACCURACY[Sensor.RAPL]} {ACCURACY[Sensor.NVML_POWER]}"


@pytest.mark.parametrize("devices", [(), (device(energy_j=None),)])
def test_notes_without_a_figure(devices: tuple[DeviceEnergy, ...]) -> None:
    """No sensor was used."""
    assert reproducibility_notes(devices) == "Energy was not measured."
