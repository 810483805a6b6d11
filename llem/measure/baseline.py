"""
Idle power, measured before the run the way the run is measured, and kept for the next one.

A GPU under a CUDA context draws more than one without, so that the two are kept apart.
"""

import contextlib
import hashlib
import os
import secrets
import socket
import stat
from datetime import datetime
from pathlib import Path

import attrs
import orjson

from llem.domain.energy import BaselineMethod
from llem.domain.fields import Record, quantity
from llem.measure.checked import checked_devices, checked_mark, checked_samples
from llem.measure.integrate import device_energies, mean_power_w
from llem.measure.readings import MAX_POWER_W
from llem.protocols import Clock, EnergyMeter

MAX_AGE_S = 3600.0
"""Age up to which idle power is used again. Rooms warm up and cool down in hours. Unit: s."""

MACHINE_ID = Path("/etc/machine-id")
"""What systemd tells machines apart by."""

_MAX_BYTES = 2**16
"""More than any baseline takes: the largest file that is read."""

_LONG_ENOUGH = 0.99
"""Share of the asked-for time that a kept baseline covers: clocks are not exact."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Baseline(Record):
    """
    Idle power of a meter's devices.

    Attributes:
        power_w: Mean power of each device, by index. Unit: W. None: it gave no figure.
        timestamp: When it was measured: the start of the window.
        duration_s: Length of the window. Unit: s.
        had_context: Whether a CUDA context was on the GPUs. None: not known.
    """

    power_w: tuple[float | None, ...] = quantity()
    timestamp: datetime
    duration_s: float = quantity()
    had_context: bool | None = None

    @property
    def total_w(self) -> float | None:
        """Idle power of all devices. Unit: W. None: one of them has no figure, or there is none."""
        known = [power for power in self.power_w if power is not None]
        return sum(known) if known and len(known) == len(self.power_w) else None

    def age_s(self, now: datetime) -> float:
        """Time from *timestamp* to *now*, negative where it lies in the future. Unit: s."""
        return (now - self.timestamp).total_seconds()


@attrs.frozen(kw_only=True)
class IdlePower:
    """
    A baseline, and how it was come by.

    Attributes:
        baseline: The idle power.
        cache_age_s: Age of a kept one. Unit: s. None: it was measured for this run.
        notes: What went wrong with keeping it.
    """

    baseline: Baseline
    cache_age_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def method(self) -> BaselineMethod:
        """What a record calls it."""
        if self.baseline.total_w is None:
            return BaselineMethod.UNAVAILABLE
        return BaselineMethod.FRESH if self.cache_age_s is None else BaselineMethod.CACHED


@attrs.frozen
class BaselineCache:
    """
    Baselines that outlive a run, each in a file of its own in *folder*.

    Any number of processes may use one folder. Nothing that lies there is an error.
    """

    folder: Path = attrs.field(converter=Path)

    def load(self, key: str) -> Baseline | None:
        """The baseline kept under *key*. None: there is none, or what is there is no baseline."""
        try:
            document = orjson.loads(_read(self._path(key)))
            if document.pop("key") != key:
                return None
            measured = datetime.fromisoformat(document.pop("timestamp"))
            return Baseline(timestamp=measured, **document)
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def store(self, key: str, baseline: Baseline) -> str | None:
        """
        Keep *baseline* under *key*, in place of an older one.

        Returns:
            Why it could not be kept, and what to do about it. None: it was kept.
        """
        content = orjson.dumps({"key": key} | attrs.asdict(baseline))
        try:
            os.makedirs(self.folder, exist_ok=True)
            _replace(self._path(key), content)
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            return (
                f"idle power could not be kept in {self.folder}: {why}; "
                "set XDG_CACHE_HOME to a folder that can be written"
            )
        return None

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")


def default_cache_folder() -> Path | None:
    """Where baselines are kept unless a caller says otherwise. None: this user has no home."""
    # The XDG specification has relative paths ignored.
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    cache = chosen if os.path.isabs(chosen) else os.path.expanduser(os.path.join("~", ".cache"))
    return Path(cache, "llem", "baselines") if os.path.isabs(cache) else None


def baseline_key(meter: EnergyMeter, driver: str | None, had_context: bool | None) -> str:
    """What a baseline holds for: the machine, the meter, its devices, the driver, the context."""
    devices = [(device.uuid, device.sensor.value, device.scope) for device in meter.devices]
    return ascii((socket.gethostname(), _machine_id(), meter.name, devices, driver, had_context))


def measure_baseline(
    meter: EnergyMeter, duration_s: float, clock: Clock, *, had_context: bool | None = None
) -> Baseline:
    """
    The idle power of *meter*'s devices over *duration_s* seconds of *clock*.

    The meter must not be sampling, and is not afterwards.

    Raises:
        MeterError: The meter cannot sample, or does not do what a meter does.
    """
    devices, timestamp = checked_devices(meter), clock.now()
    meter.start()
    try:
        begin = checked_mark(meter, devices, clock)
        clock.sleep(duration_s)
        end = checked_mark(meter, devices, clock)
    except BaseException:
        with contextlib.suppress(Exception):
            meter.stop()
        raise
    samples = checked_samples(meter, devices)
    energies = device_energies(devices, samples, begin, end)
    passed_s = end.time_s - begin.time_s
    return Baseline(
        power_w=mean_power_w(energies, passed_s),
        timestamp=timestamp,
        duration_s=passed_s,
        had_context=had_context,
    )


def idle_power(
    meter: EnergyMeter,
    duration_s: float,
    clock: Clock,
    *,
    cache: BaselineCache | None = None,
    max_age_s: float = MAX_AGE_S,
    driver: str | None = None,
    had_context: bool | None = None,
) -> IdlePower:
    """
    The idle power of *meter*'s devices: a kept one where it still holds, else measured and kept.

    A kept one holds where it is of the same machine, devices, driver and kind of context, was
    measured for as long as is asked for, and is neither older than *max_age_s* nor of the future.

    Args:
        meter: What measures. It must not be sampling, and is not afterwards.
        duration_s: How long to measure. Unit: s.
        clock: What that is waited by, and what tells the age.
        cache: Where baselines are kept. None: nowhere.
        max_age_s: Age up to which a kept one is used. Unit: s. 0: it is measured anew.
        driver: Version of the driver. None: not known.
        had_context: Whether a CUDA context is on the GPUs. None: not known.

    Raises:
        MeterError: The meter cannot sample.
    """
    key = baseline_key(meter, driver, had_context)
    kept = None if cache is None else cache.load(key)
    if kept is not None and max_age_s > 0:
        age_s = kept.age_s(clock.now())
        long_enough = kept.duration_s >= _LONG_ENOUGH * duration_s
        of_each = len(kept.power_w) == len(meter.devices) and all(
            power is not None and 0 < power <= MAX_POWER_W for power in kept.power_w
        )
        if 0 <= age_s <= max_age_s and long_enough and of_each:
            return IdlePower(baseline=kept, cache_age_s=age_s)
    fresh = measure_baseline(meter, duration_s, clock, had_context=had_context)
    note = None if cache is None or fresh.total_w is None else cache.store(key, fresh)
    return IdlePower(baseline=fresh, notes=() if note is None else (note,))


def _machine_id() -> str | None:
    """What tells machines of one name apart. None: this one has no such thing."""
    try:
        return MACHINE_ID.read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _read(path: str) -> bytes:
    """The content of a small regular file. A FIFO is not waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise ValueError(f"{path}: is no small regular file")
        return file.read(_MAX_BYTES)


def _replace(path: str, content: bytes) -> None:
    """Let *path* be a file of *content*, at once and whole."""
    unfinished = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(unfinished)
        raise
