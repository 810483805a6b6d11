"""Energy of NVIDIA GPUs."""

import time
from collections.abc import Callable, Sequence

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure.nvml_client import Gpu, NvmlClient
from llem.measure.sampler import Reading, Sampler
from llem.protocols import Device, Edge, EnergyMeter, Samples

DEFAULT_PERIOD_S = 0.05
"""Time between two samples. Data-center GPUs refresh their power every 20 to 100 ms. Unit: s."""

MAX_PERIOD_S = 0.1
"""Longest time between two samples. Unit: s."""

NVML_TEMPERATURE_GPU = 0


class NvmlMeter(EnergyMeter):
    """
    Reads the energy counter and samples the power of NVIDIA GPUs.

    Whether a GPU has a counter, and which power reading, is found out by asking it. One connection
    stays open until `close`, over any number of `start` and `stop`.

    Args:
        uuids: The GPUs to read. None: those that CUDA shows to this process.
        period_s: Time between two samples, at most `MAX_PERIOD_S`. Unit: s.

    Raises:
        MeterError: NVML does not answer, there is no such GPU, or none tells its power or energy.
    """

    def __init__(
        self, *, uuids: Sequence[str] | None = None, period_s: float = DEFAULT_PERIOD_S
    ) -> None:
        if not 0 < period_s <= MAX_PERIOD_S:
            raise MeterError(f"period_s must be above 0 and at most {MAX_PERIOD_S}, got {period_s}")
        if uuids is not None and not uuids:
            raise MeterError("NVML: the model runs on no GPU: run it on one, or use RAPL")
        self._client = NvmlClient()
        self._sampler: Sampler | None = None
        self._period_s = period_s
        try:
            gpus = self._client.gpus(uuids)
            self._sources = tuple(_Source(self._client, gpu) for gpu in gpus)
            self._check(gpus)
        except MeterError:
            self._client.close()
            raise

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return "nvml"

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs, in CUDA's order, or that of the given UUIDs."""
        return tuple(
            Device(
                index=index,
                uuid=source.gpu.uuid,
                name=source.gpu.name,
                sensor=source.sensor,
                period_s=self._period_s if source.read_power else None,
                parent_of_mig=source.gpu.is_mig_parent,
            )
            for index, source in enumerate(self._sources)
        )

    def start(self) -> None:
        """Begin sampling. Raises `MeterError`."""
        if self._sampler is not None:
            raise MeterError("the meter samples already: stop it before it starts again")
        sampler = Sampler(self._read, len(self._sources), self._period_s)
        sampler.start()
        self._sampler = sampler

    def mark(self) -> Edge:
        """Read the time and every counter. The time is the middle of the calls."""
        before = time.monotonic()
        counters = tuple(source.counter_j() for source in self._sources)
        return Edge(time_s=(before + time.monotonic()) / 2, counters_j=counters)

    def stop(self) -> Samples:
        """End sampling and give all samples. Raises `MeterError`."""
        if self._sampler is None:
            raise MeterError("the meter does not sample: start it first")
        sampler, self._sampler = self._sampler, None
        return sampler.stop()

    def close(self) -> None:
        """End sampling, where it goes on, and the connection. Safe to call twice."""
        try:
            if self._sampler is not None:
                self.stop()
        finally:
            self._client.close()

    def _read(self) -> list[Reading]:
        return [(source.power_w(), source.temperature_c()) for source in self._sources]

    def _check(self, gpus: tuple[Gpu, ...]) -> None:
        if not gpus:
            raise MeterError(
                "NVML shows no GPU to this process: check CUDA_VISIBLE_DEVICES and `nvidia-smi -L`"
            )
        if not any(source.read_power or source.has_counter for source in self._sources):
            # Asked once more, so that the error is NVML's own.
            self._client.call("nvmlDeviceGetPowerUsage", gpus[0].handle)


class _Source:
    """
    What one GPU tells of itself, found out at construction.

    Attributes:
        gpu: The GPU.
        sensor: Its power reading, or its counter where it has no power reading.
        has_counter: Whether its energy counter answers.
        read_power: Gives its power in mW. None: it has no power reading.
    """

    def __init__(self, client: NvmlClient, gpu: Gpu) -> None:
        self._client = client
        self.gpu = gpu
        self.has_counter = self.counter_j() is not None
        choices = {
            Sensor.NVML_POWER_INSTANT: self._instant_mw,
            Sensor.NVML_POWER: self._legacy_mw,
        }
        self.sensor = Sensor.NVML_TOTAL_ENERGY if self.has_counter else Sensor.NVML_POWER
        self.read_power: Callable[[], int | None] | None = None
        for sensor, read in choices.items():
            if read() is not None:
                self.sensor, self.read_power = sensor, read
                break

    def counter_j(self) -> float | None:
        """Energy since the driver was loaded. Unit: J. The library counts in mJ."""
        return _thousandth(self._client.ask("nvmlDeviceGetTotalEnergyConsumption", self.gpu.handle))

    def power_w(self) -> float | None:
        """Power. Unit: W. The library tells it in mW."""
        return None if self.read_power is None else _thousandth(self.read_power())

    def temperature_c(self) -> float | None:
        """Temperature. Unit: °C."""
        celsius = self._client.ask(
            "nvmlDeviceGetTemperature", self.gpu.handle, NVML_TEMPERATURE_GPU
        )
        return None if celsius is None else float(celsius)

    def _instant_mw(self) -> int | None:
        return self._client.field(self.gpu.handle, "NVML_FI_DEV_POWER_INSTANT")

    def _legacy_mw(self) -> int | None:
        milliwatts: int | None = self._client.ask("nvmlDeviceGetPowerUsage", self.gpu.handle)
        return milliwatts


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000
