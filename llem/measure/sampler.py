"""Samples of power and more, taken in the background at a steady rate."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from llem.errors import MeterError
from llem.measure import poller

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_ROWS = 4_000_000
"""Rows that are kept of one run, 28 bytes each. Then every second tick goes. Stores read more."""

START_TIMEOUT_S = 10.0
"""Time until the first sample: 0.02 s, or longer where the driver wakes up. Unit: s."""

STOP_TIMEOUT_S = 10.0
"""Time that a reading may still take once sampling ends. It takes milliseconds. Unit: s."""

MAX_TOLD = 2**16
"""More than the sampling process ever tells, and what a pipe holds. Unit: byte."""


@attrs.frozen(eq=False)
class Recording:
    """
    What was recorded.

    Attributes:
        times_s: Monotonic time of each tick. Unit: s. Shape: (ticks,).
        rows: What was read, NaN where it was not, its names those of `row_type`. Shape: (ticks,
            devices).
        stride: Only every *stride*-th tick was kept.
        notes: What went wrong.
    """

    times_s: "npt.NDArray[np.float64]"
    rows: "npt.NDArray[np.void]"
    stride: int
    notes: tuple[str, ...]


def row_type() -> list[tuple[str, str]]:
    """Names and types of what `poller.ROW` packs."""
    return [
        ("power_w", "<f4"),
        ("temperature_c", "<i2"),
        ("utilisation_pct", "i1"),
        ("memory_utilisation_pct", "i1"),
        ("clock_event_reasons", "<u4"),
        ("counter", "<f8"),
        ("reading_age_s", "<f4"),
        ("memory_mb", "<f4"),
    ]


class Sampler:
    """
    Samples from `start` to `stop`, in a process of its own.

    A thread waits for the interpreter's lock and falls far behind while the program computes, so it
    is what is left where no process can be started, and a note says so. Samples go to a file that
    has no name: whichever side ends first, and however, what was written is there and nothing
    stays behind. The first sample is taken before `start` returns and the last one by `stop`.

    Args:
        kind: What is read: nvml or files.
        arguments: The devices, as `poller` wants them.
        devices: How many they are.
        period_s: Time between two ticks. Unit: s.
    """

    def __init__(
        self, kind: str, arguments: Sequence[str], *, devices: int, period_s: float
    ) -> None:
        max_ticks = max(MAX_ROWS // devices, 2)
        self._command = [kind, repr(float(period_s)), str(max_ticks), *arguments]
        self._devices = devices
        self._notes: list[str] = []
        self._file: Any = None
        self._runner: _Runner | None = None
        self._owner = os.getpid()

    def start(self) -> None:
        """Take the first sample, then begin. Raises `MeterError`."""
        try:
            self._file = tempfile.TemporaryFile(prefix="llem-samples-")  # noqa: SIM115  # stop() closes it
        except OSError as error:
            raise MeterError(
                f"samples cannot be kept: {error}; set TMPDIR to a folder with space"
            ) from error
        try:
            self._runner = self._started()
        except BaseException:
            self._file.close()
            raise

    def stop(self) -> Recording:
        """
        End, take the last sample, and give all of them.

        A process that was forked meanwhile has no part in it: there, nothing was recorded.
        """
        runner, self._runner = self._runner, None
        if runner is None or os.getpid() != self._owner:
            return _recording(b"", self._devices, 1, ())
        try:
            stride = runner.stop(self._notes)
            size = os.fstat(self._file.fileno()).st_size
            return _recording(
                _read_all(self._file.fileno(), size), self._devices, stride, tuple(self._notes)
            )
        finally:
            self._file.close()

    def _started(self) -> "_Runner":
        try:
            return _Process(self._command, self._file)
        except MeterError as error:
            self._notes.append(
                f"samples were taken by a thread, which falls behind while Python is busy: {error}"
            )
            return _Thread(self._command, self._file.fileno())


class _Runner(Protocol):
    """Runs `poller.poll` somewhere. Making one returns once the first sample is taken."""

    def stop(self, notes: list[str], /) -> int:
        """End it, add to *notes* what went wrong, and return its stride."""
        ...


class _Process:
    def __init__(self, command: list[str], file: Any) -> None:
        if not sys.executable or getattr(sys, "frozen", False) or os.name != "posix":
            raise MeterError("no Python interpreter can be started here")
        self._told = ""
        try:
            # A session of its own: Ctrl-C in the terminal is for the parent alone.
            self._process = subprocess.Popen(  # noqa: S603  # our own file, no shell
                [sys.executable, "-I", "-S", os.fspath(poller.__file__), *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise MeterError(f"the sampling process cannot be started: {error}") from error
        try:
            self._await_first()
        except BaseException:
            self._kill()
            raise

    def stop(self, notes: list[str]) -> int:
        stdin, stderr = self._pipes()
        with contextlib.suppress(OSError):
            # The end of the pipe does not do where a process forked meanwhile holds it open too.
            os.write(stdin.fileno(), b"\n")
        stdin.close()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            said = self._said()
            self._kill()
            notes.append(_overdue("process"))
        else:
            said = self._said()
            stderr.close()
            if code:
                notes.append(f"the sampling process ended early: {_ending(code, said)}")
        return _stride(said)

    def _said(self) -> str:
        """What it has told until now."""
        _, stderr = self._pipes()
        if _readable(stderr.fileno(), 0):
            self._told += os.read(stderr.fileno(), MAX_TOLD).decode(errors="replace")
        return self._told

    def _await_first(self) -> None:
        """Return once it is ready, whatever the loader and the interpreter have said before."""
        _, stderr = self._pipes()
        until_s = time.monotonic() + START_TIMEOUT_S
        while "ready" not in self._told.splitlines():
            told = self._told
            if not _readable(stderr.fileno(), max(until_s - time.monotonic(), 0.0)):
                raise MeterError(f"the sampling process has not begun for {START_TIMEOUT_S:g} s")
            if self._said() == told:
                raise MeterError(f"the sampling process did not begin: {self._why_ended(told)}")

    def _why_ended(self, told: str) -> str:
        try:
            return _ending(self._process.wait(1), told)
        except subprocess.TimeoutExpired:
            return "it goes on, and says nothing"

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            os.kill(self._process.pid, signal.SIGKILL)
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        # One that hangs in the kernel does not even die of this; it is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _pipes(self) -> tuple[Any, Any]:
        return self._process.stdin, self._process.stderr


class _Thread:
    def __init__(self, command: list[str], descriptor: int) -> None:
        kind, period_s, max_ticks, *arguments = command
        self._ending, self._begun = threading.Event(), threading.Event()
        self._fault: BaseException | None = None
        self._stride = 1
        try:
            self._source = poller.source(kind, arguments)
        except Exception as error:
            raise MeterError(f"the sensor cannot be sampled: {error}") from error
        self._thread = threading.Thread(
            target=self._run,
            args=(float(period_s), int(max_ticks), descriptor),
            name="llem-sampler",
            daemon=True,
        )
        self._thread.start()
        if not self._begun.wait(START_TIMEOUT_S):
            self._ending.set()
            raise MeterError(f"the sensor has not answered for {START_TIMEOUT_S:g} s: see `dmesg`")
        if self._fault is not None:
            raise MeterError(f"the sensor cannot be sampled: {self._fault}") from self._fault

    def stop(self, notes: list[str]) -> int:
        self._ending.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            notes.append(_overdue("thread"))
        elif self._fault is not None:
            notes.append(f"sampling ended early: {self._fault}")
        return self._stride

    def _run(self, period_s: float, max_ticks: int, descriptor: int) -> None:
        # Its own descriptor: a thread that hangs must not write into a file that came after.
        output = os.dup(descriptor)
        try:
            poller.poll(
                self._source,
                period_s=period_s,
                max_ticks=max_ticks,
                output=output,
                ready=self._begun.set,
                thinned=self._thinned,
                wait=self._ending.wait,
            )
        except Exception as fault:  # noqa: BLE001  # a thread has no caller: stop() tells it
            self._fault = fault
        finally:
            self._source.close()
            self._begun.set()
            os.close(output)

    def _thinned(self, stride: int) -> None:
        self._stride = stride


def _recording(data: bytes, devices: int, stride: int, notes: tuple[str, ...]) -> Recording:
    import numpy as np

    kind = np.dtype([("time_s", "<f8"), ("rows", row_type(), (devices,))])
    records = np.frombuffer(data, kind, count=len(data) // kind.itemsize)
    return Recording(records["time_s"], records["rows"], stride, notes)


def _read_all(descriptor: int, size: int) -> bytes:
    parts, at = [], 0
    while at < size and (part := os.pread(descriptor, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _readable(descriptor: int, timeout_s: float) -> bool:
    # poll() takes any descriptor, select() only the first thousand.
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * timeout_s))


def _overdue(runner: str) -> str:
    return (
        f"the sampling {runner} did not end within {STOP_TIMEOUT_S:g} s: it was stopped or held "
        "up, or the driver hangs; see `dmesg`, and restart the machine if that does not recover"
    )


def _stride(said: str) -> int:
    """The last stride that *said* tells of."""
    strides = [line for line in said.splitlines() if line.startswith("stride ")]
    return int(strides[-1].split()[1]) if strides else 1


def _ending(code: int, said: str) -> str:
    last = said.strip().rpartition("\n")[2]
    if last and not last.startswith(("ready", "stride ")):
        return last.removeprefix("error ")
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
