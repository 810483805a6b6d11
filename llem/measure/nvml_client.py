"""
One connection to NVML, NVIDIA's management library.

Every error of the library becomes a `MeterError` that says what to do, or None where a value is
asked for that a device may not have.
"""

import contextlib
import importlib
import math
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import attrs

from llem.errors import MeterError
from llem.measure.visible import ask_cuda, is_numbered, named_gpus, visible_gpus

NO_PERMISSION = 4
FUNCTION_NOT_FOUND = 13

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
    FUNCTION_NOT_FOUND: (
        "the driver or its binding lacks the function",
        "update the NVIDIA driver and nvidia-ml-py",
    ),
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

_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Where the binding holds the value of a field, by the type that NVML gives for it."""


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


@attrs.frozen
class FieldValue:
    """
    What one field of a device says.

    Attributes:
        value: The value, in the field's own unit.
        timestamp_s: When the driver read it, in seconds since 1970. None: it did not say.
        scope: The part of the device that it is about: for power 0 is the GPU, 1 the module and 2
            the memory.
    """

    value: int | float
    timestamp_s: float | None
    scope: int


class NvmlClient:
    """
    A connection to NVML, open until `close`.

    Raises:
        MeterError: NVML does not answer here.
    """

    def __init__(self) -> None:
        self._nvml = _binding()
        self._failures = _failures(self._nvml)
        self._open = False
        self.call("nvmlInit")
        self._open = True

    @property
    def library(self) -> str:
        """Name or path of the library in use, for another process to load the same one."""
        return str(self._nvml.nvmlLib._name)  # noqa: SLF001  # ctypes has no other way to ask

    def call(self, function: str, *args: Any) -> Any:
        """What *function* of NVML returns for *args*, bytes as text. Raises `MeterError`."""
        return self._call(function, function, *args)

    def ask(self, function: str, *args: Any) -> Any:
        """What *function* of NVML returns for *args*, bytes as text. None: it has no answer."""
        try:
            return self.call(function, *args)
        except MeterError:
            return None

    def fields(
        self, handle: Any, names: Sequence[str | tuple[str, int]]
    ) -> tuple[FieldValue | None, ...]:
        """
        The fields *names* of a device, read in one call, each None where the device lacks it.

        Args:
            handle: The device.
            names: The binding's name of each field, such as NVML_FI_DEV_POWER_INSTANT, or that and
                the scope to ask about.
        """
        codes = [self._field_code(name) for name in names]
        asked = [code for code in codes if code is not None]
        answers = self.ask("nvmlDeviceGetFieldValues", handle, asked) if asked else None
        found = dict(zip(asked, map(_field_value, answers or ()), strict=False))
        return tuple(None if code is None else found.get(code) for code in codes)

    def read_field(self, handle: Any, name: str) -> FieldValue | None:
        """The field *name* of a device. None: it does not have it."""
        return self.fields(handle, (name,))[0]

    def field(self, handle: Any, name: str) -> int | None:
        """The value of the integer field *name* of a device. None: it does not have it."""
        found = self.read_field(handle, name)
        return None if found is None else int(found.value)

    def gpus(self, uuids: Iterable[str] | None = None) -> tuple[Gpu, ...]:
        """
        The GPUs that CUDA shows to this process, or those named by *uuids*, whatever it shows.

        A UUID may be that of a MIG instance, which stands for its GPU, and lack its prefix.

        Raises:
            MeterError: A GPU does not answer, or NVML does not know one of *uuids*.
        """
        known = {gpu.uuid: gpu for gpu in self._all()}
        shown = self._visible(known.values()) if uuids is None else self._named(uuids, list(known))
        return tuple(
            attrs.evolve(known[uuid], is_mig_parent=is_mig or known[uuid].is_mig_parent)
            for uuid, is_mig in shown.items()
        )

    def close(self) -> None:
        """Shut NVML down. Safe to call twice."""
        if self._open:
            self._open = False
            self.ask("nvmlShutdown")

    def _call(self, what: str, function: str, *args: Any) -> Any:
        try:
            answer = getattr(self._nvml, function)(*args)
            return answer.decode() if isinstance(answer, bytes) else answer
        except self._failures as error:
            raise MeterError(self._explain(error, what)) from error

    def _explain(self, error: Any, what: str) -> str:
        if isinstance(error, self._nvml.NVMLError):
            return message(error.value, what)
        if isinstance(error, (OSError, ValueError)):
            return f"NVML ({what}): {' '.join(str(error).split())}: {_UPDATE}"
        return message(FUNCTION_NOT_FOUND, what)

    def _field_code(self, name: str | tuple[str, int]) -> tuple[int, int] | None:
        """Number and scope of a field. None: the binding is older than it."""
        name, scope = (name, 0) if isinstance(name, str) else name
        number = getattr(self._nvml, name, None)
        return None if number is None else (number, scope)

    def _all(self) -> list[Gpu]:
        return [
            gpu
            for index in range(self.call("nvmlDeviceGetCount"))
            if (gpu := self._gpu(index)) is not None
        ]

    def _gpu(self, index: int) -> Gpu | None:
        """The GPU of this NVML index. None: this user may not see it, and so CUDA does not."""
        try:
            handle = self._call(f"GPU {index}", "nvmlDeviceGetHandleByIndex", index)
        except MeterError as error:
            if getattr(error.__cause__, "value", None) == NO_PERMISSION:
                return None
            raise
        modes = self.ask("nvmlDeviceGetMigMode", handle)
        return Gpu(
            handle=handle,
            uuid=self.call("nvmlDeviceGetUUID", handle),
            name=self.ask("nvmlDeviceGetName", handle) or "GPU",
            is_mig_parent=bool(modes and modes[0]),
        )

    def _visible(self, gpus: Collection[Gpu]) -> dict[str, bool]:
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        uuids = [gpu.uuid for gpu in gpus]
        if is_numbered(setting) and _only_cuda_knows(gpus):
            # An answer about GPUs that NVML does not know is none.
            with contextlib.suppress(LookupError):
                if shown := named_gpus(ask_cuda() or (), uuids, self._parent_of):
                    return shown
        return visible_gpus(setting, uuids, self._parent_of)

    def _named(self, named: Iterable[str], known: list[str]) -> dict[str, bool]:
        try:
            return named_gpus(named, known, self._parent_of)
        except LookupError as error:
            raise MeterError(
                f"NVML does not know {error}: see `nvidia-smi -L` for what there is"
            ) from error

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


def _only_cuda_knows(gpus: Collection[Gpu]) -> bool:
    """Whether CUDA may number *gpus* otherwise than NVML does, or hide some of them."""
    if len(gpus) < 2:
        return False
    if any(gpu.is_mig_parent for gpu in gpus):
        return True
    by_address = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return not by_address and len({gpu.name for gpu in gpus}) > 1


def _field_value(field: Any) -> FieldValue | None:
    if field.nvmlReturn != 0 or field.valueType >= len(_MEMBERS):
        return None
    value = getattr(field.value, _MEMBERS[field.valueType], None)
    if value is None or not math.isfinite(value):
        return None
    # NVML dates a field in microseconds.
    timestamp_s = field.timestamp / 1e6 if field.timestamp > 0 else None
    return FieldValue(value=value, timestamp_s=timestamp_s, scope=field.scopeId)


def _failures(nvml: Any) -> tuple[type[Exception], ...]:
    """What the binding raises where the library lacks a function, or gives no text."""
    mismatch = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
    return (nvml.NVMLError, mismatch, AttributeError, OSError, ValueError)


def _binding() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise MeterError("NVML's binding is missing: pip install nvidia-ml-py") from error
