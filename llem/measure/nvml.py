"""Energy of NVIDIA GPUs."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import poller
from llem.measure.nvml_client import Gpu, NvmlClient, message
from llem.measure.sampler import Recording, Sampler
from llem.protocols import Device, Edge, EnergyMeter, Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_PERIOD_S = 0.02
"""Time between two samples, that of the GPUs whose power is refreshed most often. Unit: s."""

MIN_PERIOD_S, MAX_PERIOD_S = 0.001, 0.1
"""Shortest and longest time between two samples. A reading takes up to milliseconds. Unit: s."""

COUNTER_REFRESH_S = 0.1
"""Time between two updates of the energy counter: 0.02 to 0.1, by the GPU. Unit: s."""

MAX_FAILED_SHARE = 0.05
"""Share of the readings from which it is told why they failed. Fewer are bridged."""

SCOPES = {0: "gpu", 1: "module", 2: "memory"}
"""What NVML's scopes of a power field cover."""

NVML_TEMPERATURE_GPU = 0


@attrs.frozen
class Timing:
    """
    How often a power sensor is read, and what each reading is the mean of. Unit: s.

    Measured by Yang, Adamek and Armour, "Accurate and Convenient Energy Measurements for GPUs",
    SC24, arXiv:2312.02741; the one-second mean is NVML's word on ``nvmlDeviceGetPowerUsage``.
    """

    refresh_s: float
    window_s: float


PART_TIME = Timing(0.1, 0.025)
RUNNING_MEAN = Timing(0.1, 1.0)


def timing(sensor: Sensor, capability: tuple[int, int]) -> Timing:
    """
    How the power reading *sensor* of a GPU of this compute *capability* comes about.

    The least attentive of those known is taken for a GPU that is not.
    """
    if sensor is Sensor.NVML_POWER_AVERAGE:
        return RUNNING_MEAN
    if sensor is Sensor.NVML_POWER and capability > (8, 0):
        return RUNNING_MEAN
    if capability in {(6, 0), (7, 0)}:
        return Timing(0.02, 0.01)
    if (0, 0) < capability < (8, 0) or capability in {(8, 6), (8, 9)}:
        return Timing(0.1, 0.1)
    return PART_TIME


class NvmlMeter(EnergyMeter):
    """
    Reads the energy counter and samples the power of NVIDIA GPUs.

    Whether a GPU has a counter, and which power reading, is found out by asking it. One connection
    stays open until `close`, over any number of `start` and `stop`.

    Args:
        uuids: The GPUs to read. None: those that CUDA shows to this process.
        period_s: Time between two samples, from `MIN_PERIOD_S` to `MAX_PERIOD_S`. Unit: s.

    Raises:
        MeterError: NVML does not answer, there is no such GPU, or none tells its power or energy.
    """

    def __init__(
        self, *, uuids: Sequence[str] | None = None, period_s: float = DEFAULT_PERIOD_S
    ) -> None:
        if not MIN_PERIOD_S <= period_s <= MAX_PERIOD_S:
            raise MeterError(
                f"period_s must be from {MIN_PERIOD_S} to {MAX_PERIOD_S}, got {period_s}"
            )
        if uuids is not None and not uuids:
            raise MeterError("NVML: the model runs on no GPU: run it on one, or use RAPL")
        self._client = NvmlClient()
        self._sampler: Sampler | None = None
        self._period_s = float(period_s)
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
                scope=source.scope,
                period_s=self._period_s if source.reading != poller.NONE else None,
                parent_of_mig=source.gpu.is_mig_parent,
                limit_w=source.limit_w,
                refresh_s=source.timing.refresh_s,
                window_s=source.timing.window_s,
                counter_refresh_s=COUNTER_REFRESH_S,
            )
            for index, source in enumerate(self._sources)
        )

    def start(self) -> None:
        """Begin sampling. Raises `MeterError`."""
        if self._sampler is not None:
            raise MeterError("the meter samples already: stop it before it starts again")
        sampler = Sampler(
            "nvml",
            [self._client.library, *(source.argument() for source in self._sources)],
            devices=len(self._sources),
            period_s=self._period_s,
        )
        sampler.start()
        self._sampler = sampler

    def mark(self) -> Edge:
        """Read the time and every counter. The time is the middle of the calls."""
        before = time.monotonic()
        counters = tuple(source.counter_j() for source in self._sources)
        after = time.monotonic()
        return Edge(time_s=(before + after) / 2, counters_j=counters, spread_s=after - before)

    def stop(self) -> Samples:
        """End sampling and give all samples. Raises `MeterError`."""
        if self._sampler is None:
            raise MeterError("the meter does not sample: start it first")
        sampler, self._sampler = self._sampler, None
        return _samples(sampler.stop(), [source.gpu.uuid for source in self._sources])

    def close(self) -> None:
        """End sampling, where it goes on, and the connection. Safe to call twice."""
        try:
            if self._sampler is not None:
                self._sampler.stop()
                self._sampler = None
        finally:
            self._client.close()

    def _check(self, gpus: tuple[Gpu, ...]) -> None:
        if not gpus:
            raise MeterError(
                "NVML shows no GPU to this process: check CUDA_VISIBLE_DEVICES and `nvidia-smi -L`"
            )
        if not any(source.reading != poller.NONE or source.has_counter for source in self._sources):
            # Asked once more, so that the error is NVML's own.
            self._client.call("nvmlDeviceGetPowerUsage", gpus[0].handle)


class _Source:
    """
    What one GPU tells of itself, found out by asking it at construction.

    Attributes:
        gpu: The GPU.
        has_counter: Whether its energy counter answers.
        sensor: Its power reading, or its counter where it has no power reading.
        reading: The same as the sampling process calls it.
        scope: What the power reading covers.
        timing: How the power reading comes about.
        limit_w: Power limit in force. Unit: W. None: not known.
    """

    def __init__(self, client: NvmlClient, gpu: Gpu) -> None:
        self._client = client
        self.gpu = gpu
        self.has_counter = self.counter_j() is not None
        self.sensor, self.reading, self.scope = self._find_power()
        limit_mw = client.ask("nvmlDeviceGetEnforcedPowerLimit", gpu.handle)
        self.limit_w = _thousandth(limit_mw)
        capability = client.ask("nvmlDeviceGetCudaComputeCapability", gpu.handle)
        major, minor = capability or (0, 0)
        self.timing = timing(self.sensor, (major, minor))

    def counter_j(self) -> float | None:
        """Energy since the driver was loaded. Unit: J. The library counts in mJ."""
        return _thousandth(self._client.ask("nvmlDeviceGetTotalEnergyConsumption", self.gpu.handle))

    def argument(self) -> str:
        """How the sampling process is told of it."""
        return f"{self.gpu.uuid},{self.reading},{int(self.has_counter)}"

    def _find_power(self) -> tuple[Sensor, str, str]:
        handle = self.gpu.handle
        if (instant := self._client.read_field(handle, "NVML_FI_DEV_POWER_INSTANT")) is not None:
            return Sensor.NVML_POWER_INSTANT, poller.INSTANT, SCOPES.get(instant.scope, "gpu")
        if self._client.ask("nvmlDeviceGetPowerUsage", handle) is not None:
            return Sensor.NVML_POWER, poller.LEGACY, SCOPES[0]
        if (average := self._client.read_field(handle, "NVML_FI_DEV_POWER_AVERAGE")) is not None:
            return Sensor.NVML_POWER_AVERAGE, poller.AVERAGE, SCOPES.get(average.scope, "gpu")
        sensor = Sensor.NVML_TOTAL_ENERGY if self.has_counter else Sensor.NVML_POWER
        return sensor, poller.NONE, SCOPES[0]


def _samples(recording: Recording, uuids: Sequence[str]) -> Samples:
    """What the sampling process recorded of the GPUs *uuids*. It counts energy in mJ."""
    import numpy as np

    rows = recording.rows
    codes = np.where(np.isnan(rows["power_w"]), -rows["reading_age_s"], np.nan)

    def known(name: str, missing: int) -> "npt.NDArray[np.float32]":
        values = rows[name].astype("f4")
        values[rows[name] == missing] = np.nan
        return values

    reasons = rows["clock_event_reasons"]
    told = reasons != poller.NO_REASONS
    return Samples(
        times_s=recording.times_s,
        power_w=rows["power_w"],
        temperature_c=known("temperature_c", poller.NO_TEMPERATURE),
        counter_j=rows["counter"] / 1000,
        utilisation_pct=known("utilisation_pct", poller.NO_UTILISATION),
        memory_utilisation_pct=known("memory_utilisation_pct", poller.NO_UTILISATION),
        memory_mb=rows["memory_mb"],
        clock_event_reasons=np.where(told, reasons, 0) if told.any() else None,
        reading_age_s=np.where(np.isnan(rows["power_w"]), np.nan, rows["reading_age_s"]),
        stride=recording.stride,
        notes=(*recording.notes, *_failures(codes, uuids)),
    )


def _failures(codes: "npt.NDArray[np.float32]", uuids: Sequence[str]) -> Iterator[str]:
    """
    What NVML said of the GPUs that stopped answering, or often did not.

    Args:
        codes: Its return codes, of shape (ticks, GPUs). NaN: it answered.
        uuids: The GPUs.
    """
    for uuid, of_gpu in zip(uuids, codes.T.tolist(), strict=True):
        failed = [int(code) for code in of_gpu if not math.isnan(code)]
        lost = bool(failed) and not math.isnan(of_gpu[-1])
        if lost or len(failed) > MAX_FAILED_SHARE * len(of_gpu):
            ((code, _),) = Counter(failed).most_common(1)
            yield (
                f"{uuid}: power was not read {len(failed)} times of {len(of_gpu)}: error {code} of "
                f"{message(code, 'power')}"
            )


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000
