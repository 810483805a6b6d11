"""What the figures of each sensor are said to be worth."""

import re
from typing import Any

import pytest

from llem.accuracy import accuracy, reproducibility_notes
from llem.domain.energy import DeviceEnergy, Sensor


def device(uuid: str = "GPU-a", **fields: Any) -> DeviceEnergy:
    own: dict[str, Any] = {
        "gpu_index": 0,
        "name": "H100",
        "energy_j": 100.0,
        "sensor": Sensor.NVML_TOTAL_ENERGY,
    }
    return DeviceEnergy(uuid=uuid, **(own | fields))


@pytest.mark.parametrize("sensor", Sensor)
def test_every_sensor_has_an_accuracy(sensor: Sensor) -> None:
    """Of its own, whatever it is read on, and without a flat percentage for all."""
    texts = {accuracy(sensor, capability) for capability in CAPABILITIES}

    assert "±" not in "".join(texts)
    assert "5 %" not in "".join(texts)
    for other in set(Sensor) - {sensor}:
        assert not texts & {accuracy(other, capability) for capability in CAPABILITIES}


CAPABILITIES = [None, "6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "odd", "9"]

MEAN, CURRENT = "a mean over one second", "a current value"
QUARTER, HALF, FULL = (
    "25 ms of each 100 ms and misses the rest (Yang, Adamek and Armour, SC24, arXiv:2312.02741)",
    "10 ms of each 20 ms",
    "refreshed every 100 ms",
)


@pytest.mark.parametrize(
    ("sensor", "capability", "words"),
    [
        (Sensor.NVML_POWER, "7.0", [CURRENT, HALF]),
        (Sensor.NVML_POWER, "7.5", [CURRENT, FULL]),
        (Sensor.NVML_POWER, "8.0", [CURRENT, QUARTER]),
        (Sensor.NVML_POWER, "8.6", [MEAN]),
        (Sensor.NVML_POWER, "9.0", [MEAN]),
        (Sensor.NVML_POWER, "10.0", [MEAN]),
        (Sensor.NVML_POWER, None, [MEAN, CURRENT, "A100 and older"]),
        (Sensor.NVML_POWER, "odd", [MEAN, CURRENT, "A100 and older"]),
        (Sensor.NVML_POWER_INSTANT, "6.0", [CURRENT, HALF]),
        (Sensor.NVML_POWER_INSTANT, "8.0", [CURRENT, QUARTER]),
        (Sensor.NVML_POWER_INSTANT, "8.6", [CURRENT, FULL]),
        (Sensor.NVML_POWER_INSTANT, "8.9", [CURRENT, FULL]),
        (Sensor.NVML_POWER_INSTANT, "9.0", [CURRENT, QUARTER]),
        (Sensor.NVML_POWER_INSTANT, "12.0", [CURRENT, "on A100 and H100", QUARTER]),
        (Sensor.NVML_POWER_INSTANT, None, [CURRENT, "on A100 and H100", QUARTER]),
        (Sensor.NVML_POWER_AVERAGE, "8.6", [MEAN]),
        (Sensor.NVML_POWER_AVERAGE, "9.0", [MEAN]),
        (Sensor.NVML_TOTAL_ENERGY, "9.0", ["without a break", "every 20 to 100 ms"]),
        (Sensor.RAPL, None, ["every millisecond", "without GPUs"]),
        (Sensor.REPLAY, None, ["recorded series"]),
        (Sensor.ENGINE, None, ["inference engine"]),
    ],
)
def test_accuracy_is_that_of_the_sensor_on_this_gpu(
    sensor: Sensor, capability: str | None, words: list[str]
) -> None:
    """What the legacy and the instant reading are depends on the generation of the GPU."""
    text = accuracy(sensor, capability)

    assert [phrase for phrase in words if phrase not in text] == []
    assert [phrase for phrase in (MEAN, CURRENT, QUARTER, HALF, FULL) if phrase in text] == [
        phrase for phrase in (MEAN, CURRENT, QUARTER, HALF, FULL) if phrase in words
    ]
    assert ("on A100 and H100" in text) is ("on A100 and H100" in words)


@pytest.mark.parametrize("sensor", [*Sensor][:5])
def test_accuracy_says_what_the_bound_leaves_out(sensor: Sensor) -> None:
    """Calibration: a wrong sensor reads wrong at any rate."""
    assert re.search(r"error_bound_j .* leaves out .*calibration", accuracy(sensor, "9.0"))


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

    assert notes == f"a, c: {accuracy(Sensor.RAPL)} b: {accuracy(Sensor.NVML_POWER)}"


def test_notes_go_by_the_capability_of_each_gpu() -> None:
    """One note where they are alike, without names."""
    old, new, newer = (device(uuid, sensor=Sensor.NVML_POWER) for uuid in ("old", "new", "newer"))
    known = {"old": "8.0", "new": "9.0", "newer": "10.0", "other": "7.0"}
    earlier, later = accuracy(Sensor.NVML_POWER, "8.0"), accuracy(Sensor.NVML_POWER, "9.0")

    assert reproducibility_notes((old,), known) == earlier
    assert reproducibility_notes((new, newer), known) == later
    assert reproducibility_notes((new, old), known) == f"new: {later} old: {earlier}"
    assert reproducibility_notes((new,)) == accuracy(Sensor.NVML_POWER)


@pytest.mark.parametrize("devices", [(), (device(energy_j=None),)])
def test_notes_without_a_figure(devices: tuple[DeviceEnergy, ...]) -> None:
    """No sensor was used."""
    assert reproducibility_notes(devices) == "Energy was not measured."
