"""
Which readings of a device count towards its energy.

Where several processes meter one device at the same time, each reads all of its energy, so that one
reading counts for that time. Where they meter it one after the other, their readings add up.
"""

from collections.abc import Iterable, Iterator, Sequence

import attrs

from llem.aggregate.unknown import highest, ratio, total, weighted_mean
from llem.aggregate.windows import Window, heaviest_apart, union_us, window_of
from llem.domain.energy import DeviceEnergy, Sensor
from llem.domain.process import RawProcessResult

MAX_UNCOUNTED = 0.01
"""Share of the time in which a device was metered that may count in no reading of it."""


@attrs.frozen(kw_only=True)
class Reading:
    """
    What one process says of the energy of one device.

    Attributes:
        process: The process.
        source: The device: its UUID, or the index of a process that names none.
        energy_j: Energy over the window of the process. Unit: J. None: not measured.
        device: The evidence. None: there is none, the figure is that of the whole process.
        window: The window of the process.
    """

    process: RawProcessResult
    source: str | int
    energy_j: float | None
    device: DeviceEnergy | None
    window: Window


@attrs.frozen(kw_only=True)
class Counted:
    """
    The readings of one device that count.

    Attributes:
        source: The device: its UUID, or the index of a process that names none.
        readings: Those that count, apart in time.
        device: The evidence of those with evidence, as one. None: none has any.
        metered_us: Time in which the device was metered by any process. Unit: µs.
    """

    source: str | int
    readings: tuple[Reading, ...]
    device: DeviceEnergy | None
    metered_us: int

    @property
    def energies_j(self) -> list[float | None]:
        """Energy by evidence, then that of each process without. Unit: J."""
        others = [reading.energy_j for reading in self.readings if reading.device is None]
        return others if self.device is None else [self.device.energy_j, *others]

    @property
    def uncounted_us(self) -> int:
        """Time in which the device was metered, and no reading that counts was. Unit: µs."""
        return self.metered_us - union_us([reading.window for reading in self.readings])

    @property
    def is_lower_bound(self) -> bool:
        """Whether the device drew more than is counted: readings overlap in part only."""
        return None not in self.energies_j and (self.uncounted_us > MAX_UNCOUNTED * self.metered_us)


def count_readings(processes: Sequence[RawProcessResult]) -> list[Counted]:
    """The readings that count, by device, in the order in which *processes* name them."""
    by_source: dict[str | int, list[Reading]] = {}
    for reading in (reading for process in processes for reading in readings_of(process)):
        by_source.setdefault(reading.source, []).append(reading)
    return [_counted(source, readings) for source, readings in by_source.items()]


def readings_of(process: RawProcessResult) -> Iterator[Reading]:
    """One for each device; without evidence, one of its GPU, or of itself."""
    window = window_of(process)
    for device in process.devices:
        yield Reading(
            process=process,
            source=device.uuid,
            energy_j=device.energy_j,
            device=device,
            window=window,
        )
    if not process.devices:
        yield Reading(
            process=process,
            source=source_of(process),
            energy_j=process.energy_metrics.total_energy_j,
            device=None,
            window=window,
        )


def source_of(process: RawProcessResult) -> str | int:
    """The first GPU of *process*, or the process itself where it names none."""
    return process.gpu_uuid or process.process_index


def gpus_of(process: RawProcessResult) -> tuple[str | int, ...]:
    """The GPUs of *process*, each once; the process itself where it names none."""
    metered = (device.uuid for device in process.devices if device.sensor is not Sensor.RAPL)
    return tuple(dict.fromkeys(metered)) or (source_of(process),)


def distinct_devices(processes: Sequence[RawProcessResult]) -> tuple[DeviceEnergy, ...]:
    """
    Each device once, with the energy of the readings that count.

    Of readings at the same time those count that add up to most, as the largest covers the longest
    span. A reading that failed counts where no other was taken: then the energy is not known.

    Raises:
        AggregationError: The energy of a device is larger than a float can be.
    """
    return devices_of(count_readings(processes))


def devices_of(counted: Iterable[Counted]) -> tuple[DeviceEnergy, ...]:
    """The evidence for each device; where two have one ``gpu_index``, all are numbered anew."""
    devices = tuple(one.device for one in counted if one.device is not None)
    if len({device.gpu_index for device in devices}) == len(devices):
        return devices
    return tuple(attrs.evolve(device, gpu_index=i) for i, device in enumerate(devices))


def _counted(source: str | int, readings: Sequence[Reading]) -> Counted:
    """Evidence before figures without, and what was measured before what was not."""
    ranks = [
        (has_evidence, measured) for has_evidence in (True, False) for measured in (True, False)
    ]
    chosen: list[Reading] = []
    for rank in ranks:
        free = [
            reading
            for reading in readings
            if (reading.device is not None, reading.energy_j is not None) == rank
            and not any(reading.window.overlaps(other.window) for other in chosen)
        ]
        indices = heaviest_apart(
            [reading.window for reading in free], [reading.energy_j or 0.0 for reading in free]
        )
        chosen += [free[i] for i in indices]
    return Counted(
        source=source,
        readings=tuple(chosen),
        device=_as_one([reading for reading in chosen if reading.device is not None]),
        metered_us=union_us([reading.window for reading in readings]),
    )


def _as_one(readings: Sequence[Reading]) -> DeviceEnergy | None:
    """The evidence of *readings*, apart in time, as one: sensor and names of the largest."""
    devices = [reading.device for reading in readings if reading.device is not None]
    if len(devices) < 2:
        return devices[0] if devices else None
    counter_j = total((device.counter_j for device in devices), "counter_j")
    integrated_j = total((device.integrated_j for device in devices), "integrated_j")
    return attrs.evolve(
        max(devices, key=lambda device: -1.0 if device.energy_j is None else device.energy_j),
        energy_j=total((device.energy_j for device in devices), "energy_j"),
        counter_j=counter_j,
        integrated_j=integrated_j,
        disagreement=_disagreement(counter_j, integrated_j),
        sample_count=sum(device.sample_count for device in devices),
        max_gap_s=highest(device.max_gap_s for device in devices),
        coverage=_coverage(readings),
        error_bound_j=total((device.error_bound_j for device in devices), "error_bound_j"),
        codes=tuple(dict.fromkeys(code for device in devices for code in device.codes)),
    )


def _coverage(readings: Sequence[Reading]) -> float | None:
    """Mean weighted by the length of the windows."""
    return weighted_mean(
        (
            (reading.device.coverage, reading.window.length_us)
            for reading in readings
            if reading.device is not None
        ),
        "coverage",
    )


def _disagreement(counter_j: float | None, integrated_j: float | None) -> float | None:
    if counter_j is None or integrated_j is None:
        return None
    return ratio(abs(counter_j - integrated_j), counter_j)
