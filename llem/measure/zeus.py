"""Energy of NVIDIA GPUs as Zeus measures it, https://ml.energy/zeus."""

import contextlib
import importlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure.nvml import COUNTER_REFRESH_S
from llem.measure.nvml_client import Gpu, NvmlClient, message
from llem.protocols import Device, Edge, EnergyMeter, Samples

_WINDOW = "llem"


class ZeusMeter(EnergyMeter):
    """
    Reads GPUs through Zeus' monitor, in one window from `start` to `stop`.

    Zeus reads the energy counter of GPUs of the Volta generation and later. It samples the power of
    older ones, in processes of its own that end at `close`, and leaves out what was drawn before
    the first and after the last change of it. Edges hold the energy since `start` either way, and
    there are no samples.

    Args:
        uuids: The GPUs to read. None: those that CUDA shows to this process.

    Raises:
        MeterError: Zeus is not installed, there is no such GPU, or Zeus cannot measure it.
    """

    def __init__(self, uuids: Sequence[str] | None = None) -> None:
        if uuids is not None and not uuids:
            raise MeterError("Zeus: the model runs on no GPU: run it on one, or use RAPL")
        self._monitor: Any = None
        self._is_measuring = False
        self._last_j: list[float | None] = []
        self._notes: list[str] = []
        _module("zeus.monitor")
        self._client = NvmlClient()
        try:
            gpus = self._client.gpus(uuids)
            self._open(gpus)
            self._devices = tuple(self._device(index, gpu) for index, gpu in enumerate(gpus))
            self._try()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return "zeus"

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs, in CUDA's order, or that of the given UUIDs."""
        return self._devices

    def start(self) -> None:
        """Begin the window. Raises `MeterError`."""
        if self._monitor is None:
            raise MeterError("the meter is closed: open another")
        if self._is_measuring:
            raise MeterError("the meter measures already: stop it before it starts again")
        with _zeus_errors():
            # The backend has synchronized the device, by a framework that Zeus may not know.
            self._monitor.begin_window(_WINDOW, sync_execution=False)
        self._is_measuring = True
        self._last_j = [0.0] * len(self._devices)
        self._notes = []

    def mark(self) -> Edge:
        """
        The time, and the energy of every device since `start`. The time is the middle of the calls.

        A device whose counter ran backwards has no energy until the next `start`. Where Zeus fails
        no device has one, and `stop` tells why.
        """
        if not self._is_measuring:
            raise MeterError("the meter does not measure: start it first")
        before = time.monotonic()
        try:
            energies_j = self._read()
        except MeterError as error:
            self._note(str(error))
            energies_j = (None,) * len(self._devices)
        after = time.monotonic()
        return Edge(time_s=(before + after) / 2, counters_j=energies_j, spread_s=after - before)

    def stop(self) -> Samples:
        """End the window. There are no samples, only what went wrong. Raises `MeterError`."""
        if not self._is_measuring:
            raise MeterError("the meter does not measure: start it first")
        self._is_measuring = False
        with _zeus_errors():
            self._monitor.end_window(_WINDOW, sync_execution=False, cancel=True)
        return Samples(notes=tuple(self._notes))

    def close(self) -> None:
        """End Zeus' processes and the connection. Safe to call twice."""
        monitor, self._monitor, self._is_measuring = self._monitor, None, False
        try:
            if monitor is not None and monitor.power_monitor is not None:
                monitor.power_monitor.stop()
        finally:
            self._client.close()

    def _open(self, gpus: Sequence[Gpu]) -> None:
        """Have a monitor that numbers *gpus* as they stand here."""
        if not gpus:
            raise MeterError(
                "Zeus: NVML shows no GPU to this process: check CUDA_VISIBLE_DEVICES and "
                "`nvidia-smi -L`"
            )
        indices = [self._client.call("nvmlDeviceGetIndex", gpu.handle) for gpu in gpus]
        with _zeus_errors(), _showing(indices):
            try:
                _module("zeus.device.gpu")._gpus = _gpus_class()()  # noqa: SLF001
            finally:
                # Zeus has connected to NVML once more, which the connection of ours is enough for.
                self._client.ask("nvmlShutdown")
            self._monitor = _module("zeus.monitor").ZeusMonitor(cpu_indices=[])
        found = self._monitor.gpus.gpus
        shown = [self._client.ask("nvmlDeviceGetUUID", gpu.handle) for gpu in found]
        if shown != [gpu.uuid for gpu in gpus]:
            raise MeterError(
                f"Zeus reads other GPUs than those that are meant: {', '.join(shown) or 'none'}: "
                "update Zeus, or use energy.backend nvml"
            )

    def _device(self, index: int, gpu: Gpu) -> Device:
        has_counter = self._monitor.gpus.supports_get_total_energy_consumption(index)
        limit_mw = self._client.ask("nvmlDeviceGetEnforcedPowerLimit", gpu.handle)
        return Device(
            index=index,
            uuid=gpu.uuid,
            name=gpu.name,
            sensor=Sensor.NVML_TOTAL_ENERGY if has_counter else Sensor.NVML_POWER,
            parent_of_mig=gpu.is_mig_parent,
            # Nothing bounds the error of what Zeus makes of power that it samples.
            limit_w=limit_mw / 1000 if has_counter and limit_mw is not None else None,
            counter_refresh_s=COUNTER_REFRESH_S,
        )

    def _try(self) -> None:
        """Measure once, so that what Zeus cannot do is known before anything runs."""
        self.start()
        self._read()
        self.stop()

    def _read(self) -> tuple[float | None, ...]:
        """Energy of each device since `start`. Unit: J. None: its counter ran backwards."""
        begun = self._monitor.measurement_states[_WINDOW]
        try:
            with _zeus_errors(), warnings.catch_warnings():
                # It warns of 0 J, which two edges show themselves.
                warnings.simplefilter("ignore")
                energies_j = self._monitor.end_window(_WINDOW, sync_execution=False).gpu_energy
                now_j = [energies_j[index] for index in range(len(self._devices))]
        finally:
            # A window is read by ending it. Put back, it goes on from where it began: one begun
            # anew would lose what the counter gains between the two.
            self._monitor.measurement_states[_WINDOW] = begun
        self._last_j = [
            None if before is None or now < before else now
            for before, now in zip(self._last_j, now_j, strict=True)
        ]
        return tuple(self._last_j)

    def _note(self, fault: str) -> None:
        if fault not in self._notes:
            self._notes.append(fault)


@contextlib.contextmanager
def _showing(indices: Sequence[int]) -> Iterator[None]:
    """
    Have Zeus take the GPUs of these NVML indices for those that CUDA shows.

    Of CUDA_VISIBLE_DEVICES it understands numbers alone. It finds GPUs once in a process, and again
    in each process that it begins to sample them.
    """
    module: Any = _module("zeus.device.gpu")
    found, setting = module._gpus, os.environ.get("CUDA_VISIBLE_DEVICES")  # noqa: SLF001
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, indices))
    try:
        yield
    finally:
        module._gpus = found  # noqa: SLF001
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if setting is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = setting


def _gpus_class() -> Any:
    """
    Zeus' class of all GPUs, less its finalizer.

    That shuts NVML down, which hangs where the garbage collector comes by while NVML's binding
    holds its lock.
    """
    nvidia = _module("zeus.device.gpu").NVIDIAGPUs
    return type(nvidia.__name__, (nvidia,), {"__del__": lambda _: None})


@contextlib.contextmanager
def _zeus_errors() -> Iterator[None]:
    """Whatever Zeus raises, as a `MeterError`."""
    try:
        yield
    except Exception as error:
        code = getattr(error.__cause__, "value", None)
        if isinstance(code, int):
            raise MeterError(message(code, "Zeus")) from error
        said = " ".join(str(error).split()) or type(error).__name__
        raise MeterError(f"Zeus: {said}: if it stays, use energy.backend nvml") from error


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MeterError(f"Zeus is missing ({error}): pip install zeus") from error
