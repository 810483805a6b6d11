"""
Reads devices at a steady rate: the one file that the sampling process runs.

``python -I -S poller.py KIND PERIOD_S MAX_TICKS ARGUMENT...`` writes one record a tick to stdout, a
file, until stdin ends. It starts in milliseconds, as it imports neither llem nor any package, and
nothing that its parent does holds it up, as a thread of the parent waits for the interpreter's
lock. stderr tells ``ready`` once the first record is written, ``stride N`` whenever records are
dropped and at the end, or how else it ended. What the driver writes to either goes nowhere.
"""

import ctypes
import math
import os
import select
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Importing these would take longer than all of the rest.
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    class Source(Protocol):
        """What is read."""

        def read(self, slowly: bool, /) -> list[tuple[float, ...]]:
            """One row a device."""
            ...

        def close(self) -> None:
            """Let go of it."""
            ...


TICK = struct.Struct("=d")
"""Head of a record: monotonic time in s. One row a device follows."""

ROW = struct.Struct("=fhbbIdff")
"""
Power in W, temperature in °C, utilisation and memory utilisation in %, clock event reasons, energy
counter in the sensor's own unit, age of the power reading in s, memory in use in MiB. Where power
was not read its age is the return code, below 0.
"""

NO_TEMPERATURE, NO_UTILISATION, NO_REASONS, NAN = -(2**15), -1, 2**32 - 1, math.nan
"""What stands for a reading that was not taken or failed."""

SLOW_PERIOD_S = 0.1
"""Time between two readings of what changes slowly: counter, utilisation, memory. Unit: s."""

INSTANT, AVERAGE, LEGACY, NONE = "instant", "average", "legacy", "none"
FIELDS = {AVERAGE: 185, INSTANT: 186}
"""NVML's field identifiers of its power readings."""

TEMPERATURE_OF_GPU = 0
MIB = 1024.0 * 1024.0


class _FieldUnion(ctypes.Union):
    _fields_ = (("u", ctypes.c_uint), ("widest", ctypes.c_ulonglong))


class _FieldValue(ctypes.Structure):
    _fields_ = (
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp_us", ctypes.c_longlong),
        ("latency_us", ctypes.c_longlong),
        ("value_type", ctypes.c_uint),
        ("code", ctypes.c_uint),
        ("value", _FieldUnion),
    )


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """
    GPUs, read by NVML.

    Args:
        library: Path or name of NVML's shared library.
        devices: For each GPU its UUID, how its power is read, and 1 where it has an energy counter,
            joined by commas. A UUID may hold commas itself.

    Raises:
        OSError: The library cannot be loaded, or does not answer.
    """

    def __init__(self, library: str, devices: "Iterable[str]") -> None:
        self._library = ctypes.CDLL(library)
        code = self._library.nvmlInit_v2()
        if code:
            raise OSError(f"nvmlInit_v2 returned {code}")
        try:
            self._gpus = [_Gpu(self._library, *device.rsplit(",", 2)) for device in devices]
        except OSError:
            self.close()
            raise

    def read(self, slowly: bool, /) -> list[tuple[float, ...]]:
        """One row for each GPU; *slowly* with what is read now and then."""
        return [gpu.read(slowly) for gpu in self._gpus]

    def close(self) -> None:
        """Let go of the library."""
        self._library.nvmlShutdown()


class _Gpu:
    def __init__(self, library: "Any", uuid: str, reading: str, counts: str) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        code = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle))
        if code:
            raise OSError(f"nvmlDeviceGetHandleByUUID returned {code} for {uuid}")
        self._field = FIELDS.get(reading)
        self._legacy = reading == LEGACY
        self._counts = counts == "1"
        self._reasons_of = _first_of(
            library,
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )

    def read(self, slowly: bool) -> tuple[float, ...]:
        power_w, age_s = self._power()
        counter = memory_mib = NAN
        busy = memory_busy = NO_UTILISATION
        if slowly:
            counter = self._counter_mj()
            busy, memory_busy = self._utilisation()
            memory_mib = self._memory_mib()
        celsius, reasons = self._temperature(), self._reasons()
        return power_w, celsius, busy, memory_busy, reasons, counter, age_s, memory_mib

    def _power(self) -> tuple[float, float]:
        if self._field is not None:
            value = _FieldValue(field=self._field)
            code = self._library.nvmlDeviceGetFieldValues(self._handle, 1, ctypes.byref(value))
            if code or value.code:
                return NAN, -float(code or value.code)
            stamp_us = value.timestamp_us
            age_s = time.time() - stamp_us * 1e-6 if stamp_us > 0 else NAN
            return value.value.u / 1000.0, age_s
        milliwatts = ctypes.c_uint()
        if not self._legacy:
            return NAN, NAN
        code = self._ask("nvmlDeviceGetPowerUsage", milliwatts)
        return (NAN, -float(code)) if code else (milliwatts.value / 1000.0, NAN)

    def _temperature(self) -> int:
        celsius = ctypes.c_uint()
        code = self._library.nvmlDeviceGetTemperature(
            self._handle, TEMPERATURE_OF_GPU, ctypes.byref(celsius)
        )
        return NO_TEMPERATURE if code or celsius.value > 1000 else celsius.value

    def _reasons(self) -> int:
        reasons = ctypes.c_ulonglong()
        if self._reasons_of is None or self._reasons_of(self._handle, ctypes.byref(reasons)):
            return NO_REASONS
        return reasons.value & (NO_REASONS >> 1)

    def _counter_mj(self) -> float:
        counter = ctypes.c_ulonglong()
        if not self._counts or self._ask("nvmlDeviceGetTotalEnergyConsumption", counter):
            return NAN
        return float(counter.value)

    def _utilisation(self) -> tuple[int, int]:
        rates = _Utilization()
        if self._ask("nvmlDeviceGetUtilizationRates", rates):
            return NO_UTILISATION, NO_UTILISATION
        return min(rates.gpu, 100), min(rates.memory, 100)

    def _memory_mib(self) -> float:
        memory = _Memory()
        return NAN if self._ask("nvmlDeviceGetMemoryInfo", memory) else memory.used / MIB

    def _ask(self, function: str, value: "Any") -> int:
        """The return code of *function*, which fills *value*."""
        found = getattr(self._library, function, None)
        return 13 if found is None else found(self._handle, ctypes.byref(value))


class Files:
    """
    Energy counters that stand in files, such as those of RAPL.

    Args:
        paths: The files. Each holds one decimal number.

    Raises:
        OSError: One cannot be opened.
    """

    def __init__(self, *paths: str) -> None:
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]

    def read(self, slowly: bool, /) -> list[tuple[float, ...]]:
        """One row for each file."""
        del slowly
        return [
            (
                NAN,
                NO_TEMPERATURE,
                NO_UTILISATION,
                NO_UTILISATION,
                NO_REASONS,
                _number(file),
                NAN,
                NAN,
            )
            for file in self._files
        ]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)


def source(kind: str, arguments: list[str]) -> "Source":
    """What is read: the GPUs or the files that *arguments* name. Raises `OSError`."""
    if kind == "nvml":
        return Nvml(arguments[0], arguments[1:])
    return Files(*arguments)


def poll(
    source: "Source",
    *,
    period_s: float,
    max_ticks: int,
    output: int,
    ready: "Callable[[], object]",
    thinned: "Callable[[int], object]",
    wait: "Callable[[float], bool]",
) -> int:
    """
    Write a record a tick to the file *output*, until *wait* says that it is time to end.

    Deadlines are absolute, so that a late tick does not delay the next ones. Ticks that were missed
    are left out, not made up for. Once *max_ticks* are written every second one is dropped, and
    from then on half as many are taken.

    Args:
        source: What is read.
        period_s: Time between two ticks. Unit: s.
        max_ticks: Ticks that are kept at most.
        output: File descriptor, to read and write.
        ready: Called once the first tick is written.
        thinned: Called with the stride whenever it has grown.
        wait: Lets a time in s pass, and returns whether it is time to end.

    Returns:
        How many ticks each kept one stands for.
    """
    slow_s = -math.inf
    written, stride = 0, 1

    def take() -> int:
        nonlocal slow_s, written
        before = time.monotonic()
        slowly = before - slow_s >= SLOW_PERIOD_S
        rows = source.read(slowly)
        # One time for all devices: the middle of the calls, which take up to milliseconds.
        now = (before + time.monotonic()) / 2
        slow_s = before if slowly else slow_s
        record = TICK.pack(now) + b"".join([ROW.pack(*row) for row in rows])
        _write(output, record)
        written += 1
        return len(record)

    origin, tick = time.monotonic(), 0
    size = take()
    ready()
    while True:
        late = (time.monotonic() - origin) / period_s
        tick = max(tick // stride + 1, math.ceil(late / stride)) * stride
        if wait(max(origin + tick * period_s - time.monotonic(), 0.0)):
            take()
            return stride
        take()
        if written >= max_ticks:
            written = _thin(output, size)
            stride *= 2
            thinned(stride)


def _thin(output: int, size: int) -> int:
    """Drop every second record of *size* bytes from *output*. Returns how many are left."""
    count, kept, block = os.fstat(output).st_size // size, 0, 2048 * size
    for start in range(0, count * size, block):
        data = os.pread(output, block, start)
        chosen = b"".join([data[at : at + size] for at in range(0, len(data), 2 * size)])
        os.pwrite(output, chosen, kept * size)
        kept += len(chosen) // size
    os.ftruncate(output, kept * size)
    os.lseek(output, 0, os.SEEK_END)
    return kept


def _write(output: int, data: bytes) -> None:
    while data:
        data = data[os.write(output, data) :]


def _first_of(library: "Any", *names: str) -> "Any":
    return next((found for name in names if (found := getattr(library, name, None))), None)


def _number(file: int) -> float:
    try:
        return float(os.pread(file, 32, 0))
    except (OSError, ValueError):
        return NAN


def main(arguments: list[str]) -> int:
    """Poll until stdin ends, or the parent is gone."""
    kind, period_s, max_ticks, *rest = arguments
    parent, records, told = os.getppid(), _taken(1), _taken(2)

    def tell(text: str) -> None:
        os.write(told, f"{text}\n".encode())

    def wait(seconds: float) -> bool:
        # A process that the parent forked meanwhile may hold stdin open after the parent's death.
        return bool(select.select([0], [], [], seconds)[0]) or os.getppid() != parent

    try:
        devices = source(kind, rest)
        stride = poll(
            devices,
            period_s=float(period_s),
            max_ticks=int(max_ticks),
            output=records,
            ready=lambda: tell("ready"),
            thinned=lambda stride: tell(f"stride {stride}"),
            wait=wait,
        )
        devices.close()
        tell(f"stride {stride}")
    except OSError as error:
        tell(f"error {error}")
        return 1
    except Exception as error:  # noqa: BLE001  # stderr is gone: nobody else tells it
        tell(f"error {error!r}")
        return 1
    return 0


def _taken(descriptor: int) -> int:
    """A duplicate of *descriptor*, which leads nowhere from now on: drivers write to it at will."""
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
