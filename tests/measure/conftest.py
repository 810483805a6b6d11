"""A clock that only sleeping moves, and a GPU driver that a text file describes."""

import bisect
import ctypes
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pynvml
import pytest

from llem.protocols import Clock


class FakeClock(Clock):
    """Starts at 100 s, and moves when someone sleeps."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def sleep(self, seconds: float, /) -> None:
        self.time_s += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@attrs.frozen(kw_only=True)
class Curve:
    """
    The power of a GPU over the seconds since the epoch, as fake_nvml.c has it.

    Attributes:
        kind: constant and ramp: never high. square: high for the first *duty* of each *period_s*.
            burst: for *length_s* from *at_s*. step: from *at_s*. points: each of *points* holds
            until the next, the first before it too.
        base_w: Level where it is not high. Unit: W.
        high_w: Level where it is high. Unit: W.
        slope_w: Rise added to both in a second, but not to points. Unit: W/s.
        points: Times and powers, in order of time. Unit: s, W.
    """

    kind: str = attrs.field(
        default="constant",
        validator=attrs.validators.in_(["constant", "ramp", "square", "burst", "step", "points"]),
    )
    base_w: float = 100.0
    high_w: float = 100.0
    slope_w: float = 0.0
    period_s: float = 1.0
    duty: float = 0.5
    at_s: float = 0.0
    length_s: float = 1.0
    points: tuple[tuple[float, float], ...] = ()

    def power_w(self, t: float) -> float:
        """Power at *t*. Unit: W."""
        if self.kind == "points":
            before = bisect.bisect_right(self.points, t, key=lambda point: point[0])
            return self.points[max(before - 1, 0)][1]
        is_high = {
            "square": t - math.floor(t / self.period_s) * self.period_s < self.duty * self.period_s,
            "burst": self.at_s <= t < self.at_s + self.length_s,
            "step": t >= self.at_s,
        }
        return (self.high_w if is_high.get(self.kind) else self.base_w) + self.slope_w * t

    def energy_j(self, t0: float, t1: float) -> float:
        """Energy from *t0* to *t1*, the exact integral. Unit: J."""
        if self.kind == "points":
            return self._energy_of_points_j(t0, t1)
        rise_j = self.slope_w * (t1**2 - t0**2) / 2
        high_s = self._high_s(t1) - self._high_s(t0)
        return self.base_w * (t1 - t0) + rise_j + (self.high_w - self.base_w) * high_s

    def settings(self, gpu: int = 0) -> dict[str, object]:
        """What `Driver.set` takes to give GPU *gpu* this curve, whatever it had before."""
        values = attrs.asdict(self, recurse=False)
        values["curve"], values["power_w"] = values.pop("kind"), values.pop("base_w")
        values["points"] = ",".join(f"{t}:{power_w}" for t, power_w in self.points)
        return {f"gpu{gpu}__{name}": value for name, value in values.items()}

    def _high_s(self, t: float) -> float:
        match self.kind:
            case "step":
                return max(t - self.at_s, 0)
            case "burst":
                return min(max(t - self.at_s, 0), self.length_s)
            case "square":
                whole, high_s = math.floor(t / self.period_s), self.duty * self.period_s
                return whole * high_s + min(t - whole * self.period_s, high_s)
        return 0.0

    def _energy_of_points_j(self, t0: float, t1: float) -> float:
        edges = [-math.inf, *(t for t, _ in self.points[1:]), math.inf]
        return math.fsum(
            power_w * max(min(t1, end) - max(t0, begin), 0)
            for (_, power_w), begin, end in zip(self.points, edges[:-1], edges[1:], strict=True)
        )


@attrs.frozen
class Driver:
    """
    The description that the fake library reads where it has changed.

    Attributes:
        file: The description.
        shutdowns: Has a byte for each time that NVML was shut down.
        library: The library, for a child process to load: FAKE_NVML tells it the description.
        epoch_s: `time.monotonic` at 0 of all curves, counters and events. Unit: s.
    """

    file: Path
    shutdowns: Path
    library: Path
    epoch_s: float

    def set(self, **values: object) -> None:
        """Add *values* to it; in their names __ stands for a dot."""
        lines = [f"{key.replace('__', '.')} {value}\n" for key, value in values.items()]
        with self.file.open("ab", buffering=0) as file:
            file.write("".join(lines).encode())

    @property
    def times_shut_down(self) -> int:
        return self.shutdowns.stat().st_size if self.shutdowns.exists() else 0


@pytest.fixture
def driver(fake_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """The real binding on top of the fake library, with one GPU that answers everything."""
    file = tmp_path / "driver.txt"
    epoch_s = time.monotonic()
    file.write_text(f"count 1\nepoch_s {epoch_s!r}\n")
    monkeypatch.setenv("FAKE_NVML", str(file))
    monkeypatch.setenv("FAKE_NVML_SHUTDOWNS", str(tmp_path / "shutdowns"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(os.fspath(fake_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return Driver(file, tmp_path / "shutdowns", fake_library, epoch_s)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the driver's library, whatever this one has."""

    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)


@pytest.fixture
def powercap(tmp_path: Path) -> Callable[..., Path]:
    """Adds one zone to a powercap tree, or changes it, and gives its folder."""

    def zone(path: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
        folder = tmp_path / "powercap" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return folder

    return zone
