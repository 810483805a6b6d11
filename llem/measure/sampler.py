"""Samples of power and temperature, taken in the background at a steady rate."""

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence

from llem.errors import MeterError
from llem.protocols import Samples

Reading = tuple[float | None, float | None]
"""Power in W and temperature in °C of one device. None: it did not answer."""

JOIN_TIMEOUT_S = 10.0
"""Time that a reading may still take once sampling ends. Longer, and the driver hangs. Unit: s."""


class Sampler:
    """
    Calls *read* every *period_s*, in a thread, and keeps what it says in columns.

    Deadlines are absolute, so that a late tick does not delay the next ones. Ticks that were
    missed are left out, not made up for. The first sample is taken by `start` and the last one by
    `stop`, in the caller's thread, so that samples lie on both sides of every window between them.

    Args:
        read: Gives one reading for each device. A `MeterError` from it is a gap for all of them.
        devices: How many devices it reads.
        period_s: Time between two ticks. Unit: s.
    """

    def __init__(
        self, read: Callable[[], Sequence[Reading]], devices: int, period_s: float
    ) -> None:
        self._read = read
        self._period_s = period_s
        self._samples = Samples(
            times_s=array("d"),
            power_w=tuple(array("d") for _ in range(devices)),
            temperature_c=tuple(array("d") for _ in range(devices)),
        )
        self._fault: Exception | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llem-sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample, then begin. Raises `MeterError`."""
        self._take()
        self._raise_fault()
        self._thread.start()

    def stop(self) -> Samples:
        """
        End, take the last sample, and give all of them.

        Raises:
            MeterError: Sampling broke off on an error that is no failed reading, or the driver
                does not come back from one.
        """
        self._ending.set()
        self._thread.join(JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            raise MeterError(
                f"the sensor has not answered for {JOIN_TIMEOUT_S:g} s: its driver hangs; "
                "see `dmesg`, and restart the machine if it does not recover"
            )
        if self._fault is None:
            self._take()
        self._raise_fault()
        return self._samples

    def _run(self) -> None:
        origin = time.monotonic()
        tick = 0
        while self._fault is None:
            elapsed = time.monotonic() - origin
            tick = max(tick + 1, math.ceil(elapsed / self._period_s))
            if self._ending.wait(origin + tick * self._period_s - time.monotonic()):
                return
            self._take()

    def _take(self) -> None:
        try:
            self._append()
        except Exception as fault:  # noqa: BLE001  # a thread has no caller: stop() raises it
            self._fault = fault

    def _append(self) -> None:
        count = len(self._samples.power_w)
        before = time.monotonic()
        try:
            readings = list(self._read())
        except MeterError:
            readings = [(None, None)] * count
        if len(readings) != count:
            raise ValueError(f"{len(readings)} readings of {count} devices")
        # One time for all devices: the middle of the calls, which take up to milliseconds.
        rows = [(_number(power), _number(celsius)) for power, celsius in readings]
        self._samples.times_s.append((before + time.monotonic()) / 2)
        for column, (power, _) in zip(self._samples.power_w, rows, strict=True):
            column.append(power)
        for column, (_, celsius) in zip(self._samples.temperature_c, rows, strict=True):
            column.append(celsius)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise MeterError(f"sampling broke off: {self._fault!r}") from self._fault


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
