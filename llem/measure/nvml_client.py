"""
One connection to NVML, NVIDIA's management library.

Every error of the library becomes a `MeterError` that says what to do, or None where a value is
asked for that a device may not have.
"""

import importlib
import os
from collections.abc import Iterable
from typing import Any

import attrs

from llem.errors import MeterError
from llem.measure.visible import visible_gpus

NO_PERMISSION = 4

_REBOOT = "reset the GPU with `sudo nvidia-smi --gpu-reset`, or restart the machine"
_UPDATE = "update the NVIDIA driver, or install an nvidia-ml-py of its age"
_RETRY = "run again; if it stays, see `dmesg` for NVRM messages"

ADVICE = {
    1: ("it is not initialised", "something else in this process shut NVML down: keep it open"),
    2: ("an argument is invalid", _UPDATE),
    3: ("the device does not support it", "use a device that does, or energy.backend rapl"),
    NO_PERMISSION: (
        "this user may not",
        "run as a user with access to /dev/nvidia*, or ask the administrator to grant it",
    ),
    5: ("it is already initialised", _RETRY),
    6: ("it was not found", "see `nvidia-smi -L` for what there is"),
    7: ("a buffer is too small", _UPDATE),
    8: ("the GPU's power cables are not connected", "connect them"),
    9: (
        "the NVIDIA driver is not loaded",
        "load it with `sudo modprobe nvidia` and see that `nvidia-smi` lists the GPUs",
    ),
    10: ("the driver did not answer in time", _RETRY),
    11: ("the kernel found a fault with the GPU's interrupts", _RETRY),
    12: (
        "libnvidia-ml.so.1 was not found",
        "install the NVIDIA driver; in a container, start it with `--gpus all`",
    ),
    13: ("the installed driver lacks the function", "update the NVIDIA driver"),
    14: ("the GPU's infoROM is corrupted", "have the GPU serviced"),
    15: ("the GPU has fallen off the bus", "restart the machine; if it comes back, check the GPU"),
    16: ("the GPU needs a reset", _REBOOT),
    17: ("the operating system blocked it", "check the container's device and cgroup rules"),
    18: (
        "the driver's library and kernel module differ in version",
        "restart the machine, or reload the module: the driver was updated while loaded",
    ),
    19: ("the device is in use", "wait for the other program to end"),
    20: ("memory is exhausted", "free some memory"),
    21: ("there are no data yet", "run again"),
    22: ("ECC cannot be set under a vGPU", "read energy on the host"),
    23: ("resources are exhausted", "end other programs that watch the GPU"),
    24: ("the clock is not supported", _UPDATE),
    25: ("library and binding differ in version", _UPDATE),
    26: ("the function is deprecated", "install a newer nvidia-ml-py"),
    27: ("the device is not ready", "run again in a moment"),
    28: ("no GPU was found", "see that `nvidia-smi` lists the GPUs"),
    29: ("the device's state does not allow it", _REBOOT),
    30: ("the device does not support this reset", "restart the machine"),
    999: ("an unknown error", _RETRY),
}
"""What each return code of NVML says, and what to do about it."""


@attrs.frozen
class Gpu:
    """
    One GPU.

    Attributes:
        handle: NVML's handle of it.
        uuid: Its UUID.
        name: Product name.
        is_mig_parent: Whether it is split into MIG instances.
    """

    handle: Any
    uuid: str
    name: str
    is_mig_parent: bool


class NvmlClient:
    """
    A connection to NVML, open until `close`.

    Raises:
        MeterError: NVML does not answer here.
    """

    def __init__(self) -> None:
        self._nvml = _binding()
        self._open = False
        self.call("nvmlInit")
        self._open = True

    def call(self, function: str, *args: Any) -> Any:
        """What *function* of NVML returns for *args*. Raises `MeterError`."""
        try:
            return getattr(self._nvml, function)(*args)
        except self._nvml.NVMLError as error:
            raise MeterError(message(error.value, function)) from error

    def ask(self, function: str, *args: Any) -> Any:
        """What *function* of NVML returns for *args*. None: it has no answer."""
        try:
            return getattr(self._nvml, function)(*args)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def field(self, handle: Any, name: str) -> int | None:
        """
        The value of the unsigned field *name* of a device. None: it does not have it.

        Each field has a return code of its own, next to the call's.
        """
        values = self.ask("nvmlDeviceGetFieldValues", handle, [getattr(self._nvml, name)])
        if values is None or values[0].nvmlReturn != 0:
            return None
        return int(values[0].value.uiVal)

    def gpus(self, uuids: Iterable[str] | None = None) -> tuple[Gpu, ...]:
        """
        The GPUs that CUDA shows to this process, or those named by *uuids*, whatever it shows.

        A UUID may be that of a MIG instance, which stands for its GPU, and lack its ``GPU-``.

        Raises:
            MeterError: A GPU does not answer, or NVML does not know one of *uuids*.
        """
        known = {gpu.uuid: gpu for gpu in self._all()}
        if uuids is None:
            setting = os.environ.get("CUDA_VISIBLE_DEVICES")
            shown = visible_gpus(setting, list(known), self._parent_of)
        else:
            shown = {}
            for uuid in uuids:
                shown |= self._named(uuid, list(known))
        return tuple(
            attrs.evolve(known[uuid], is_mig_parent=is_mig or known[uuid].is_mig_parent)
            for uuid, is_mig in shown.items()
        )

    def close(self) -> None:
        """Shut NVML down. Safe to call twice."""
        if self._open:
            self._open = False
            self.ask("nvmlShutdown")

    def _all(self) -> list[Gpu]:
        return [
            gpu
            for index in range(self.call("nvmlDeviceGetCount"))
            if (gpu := self._gpu(index)) is not None
        ]

    def _gpu(self, index: int) -> Gpu | None:
        """The GPU of this NVML index. None: this user may not see it, and so CUDA does not."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            if error.value == NO_PERMISSION:
                return None
            raise MeterError(message(error.value, f"GPU {index}")) from error
        modes = self.ask("nvmlDeviceGetMigMode", handle)
        return Gpu(
            handle=handle,
            uuid=self.call("nvmlDeviceGetUUID", handle),
            name=self.ask("nvmlDeviceGetName", handle) or "GPU",
            is_mig_parent=bool(modes and modes[0]),
        )

    def _named(self, uuid: str, known: list[str]) -> dict[str, bool]:
        entry = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        found = visible_gpus(entry, known, self._parent_of)
        if not found:
            raise MeterError(f"NVML does not know {uuid}: see `nvidia-smi -L` for what there is")
        return found

    def _parent_of(self, mig_uuid: str) -> str | None:
        instance = self.ask("nvmlDeviceGetHandleByUUID", mig_uuid)
        if instance is None:
            return None
        parent = self.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", instance)
        return None if parent is None else self.ask("nvmlDeviceGetUUID", parent)


def message(code: int, what: str) -> str:
    """One line on the return *code* that NVML gave for *what*, with what to do about it."""
    problem, advice = ADVICE.get(code, (f"error {code}", _RETRY))
    return f"NVML ({what}): {problem}: {advice}"


def _binding() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise MeterError("NVML's binding is missing: pip install nvidia-ml-py") from error
