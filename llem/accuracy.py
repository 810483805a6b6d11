"""What the figures of each sensor are worth: the statement that goes with a result."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from llem.domain.energy import DeviceEnergy, Sensor


def reproducibility_notes(
    devices: tuple[DeviceEnergy, ...],
    compute_capabilities: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """
    What the accuracy of the sensors that *devices* were read by is, in words.

    Where they differ in it, each note begins with the UUIDs of its devices.

    Args:
        devices: Evidence for each device's energy.
        compute_capabilities: CUDA compute capability, such as 9.0, by UUID, where it is known.
    """
    notes: dict[str, list[str]] = {}
    for device in devices:
        if device.energy_j is not None:
            note = accuracy(device.sensor, compute_capabilities.get(device.uuid))
            notes.setdefault(note, []).append(device.uuid)
    if len(notes) > 1:
        return " ".join(f"{', '.join(uuids)}: {note}" for note, uuids in notes.items())
    return "".join(notes) or "Energy was not measured."


def accuracy(sensor: Sensor, compute_capability: str | None = None) -> str:
    """
    What a figure of *sensor* is worth on a GPU of this compute capability. None: not known.

    How much of the time power sensors look is measured by Yang, Adamek and Armour, "Accurate and
    Convenient Energy Measurements for GPUs", SC24; its preprint is "Part-time Power Measurements:
    nvidia-smi's Lack of Attention", arXiv:2312.02741. Which readings are means over a second is in
    NVML's documentation of ``nvmlDeviceGetPowerUsage``. Its 5 % are those of Fermi and Kepler.
    """
    generation = _generation(compute_capability)
    if sensor is Sensor.NVML_POWER_INSTANT:
        return f"Integral of NVML's instant power, {_attention(generation)}. {_NVML_BOUND}"
    if sensor is Sensor.NVML_POWER:
        return f"Integral of NVML's power reading, {_legacy(generation)}. {_NVML_BOUND}"
    return _ACCURACY[sensor]


_MEAN = "a mean over one second, so that shorter loads and the edges of the span are smeared"

_NVML_BOUND = (
    "error_bound_j of each device covers that, and leaves out the sensor's own calibration, "
    "a few percent."
)

_ACCURACY = {
    Sensor.NVML_TOTAL_ENERGY: (
        "NVML total-energy counter of the whole board, which adds up without a break and is "
        f"refreshed every 20 to 100 ms. {_NVML_BOUND}"
    ),
    Sensor.NVML_POWER_AVERAGE: (f"Integral of NVML's average power, {_MEAN}. {_NVML_BOUND}"),
    Sensor.RAPL: (
        "RAPL counters of CPU packages and memory, without GPUs, disks and fans, refreshed about "
        "every millisecond. error_bound_j of each device covers that, and leaves out how the CPU "
        "comes by them: by a model of itself, or by a sensor with a calibration of its own."
    ),
    Sensor.REPLAY: "A recorded series, played again.",
    Sensor.ENGINE: "As the inference engine reports it.",
}


def _attention(generation: tuple[int, int] | None) -> str:
    """How much of the time the power sensor of a GPU looks."""
    current = "a current value of a sensor that"
    if generation in {(6, 0), (7, 0)}:
        return f"{current} looks at about 10 ms of each 20 ms and misses the rest"
    if generation is not None and (generation < (8, 0) or generation in {(8, 6), (8, 9)}):
        return f"{current} is refreshed every 100 ms"
    where = "" if generation in {(8, 0), (9, 0)} else "on A100 and H100 "
    return (
        f"{current} {where}looks at about 25 ms of each 100 ms and misses the rest "
        "(Yang, Adamek and Armour, SC24, arXiv:2312.02741)"
    )


def _legacy(generation: tuple[int, int] | None) -> str:
    """What ``nvmlDeviceGetPowerUsage`` gives."""
    if generation is None:
        return f"which is {_MEAN}, but on A100 and older GPUs a current value"
    return _MEAN if generation > (8, 0) else _attention(generation)


def _generation(compute_capability: str | None) -> tuple[int, int] | None:
    numbers = re.fullmatch(r"(\d+)\.(\d+)", compute_capability or "", re.ASCII)
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))
