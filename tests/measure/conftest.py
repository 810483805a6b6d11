"""A clock that only sleeping moves, and a GPU driver that a text file describes."""

import ctypes
import os
import shutil
import subprocess
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


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libnvidia-ml.so.1 compiled from fake_nvml.c, in a folder of its own."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("driver") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    return library


@attrs.frozen
class Driver:
    """The description that the fake library reads at each call."""

    file: Path
    shutdowns: Path

    def set(self, **values: object) -> None:
        """Add *values* to it; in their names __ stands for a dot."""
        lines = [f"{key.replace('__', '.')} {value}\n" for key, value in values.items()]
        with self.file.open("a") as file:
            file.writelines(lines)

    @property
    def times_shut_down(self) -> int:
        return self.shutdowns.stat().st_size if self.shutdowns.exists() else 0


@pytest.fixture
def driver(fake_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """The real binding on top of the fake library, with one GPU that answers everything."""
    file = tmp_path / "driver.txt"
    file.write_text("count 1\n")
    monkeypatch.setenv("FAKE_NVML", str(file))
    monkeypatch.setenv("FAKE_NVML_SHUTDOWNS", str(tmp_path / "shutdowns"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(os.fspath(fake_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return Driver(file, tmp_path / "shutdowns")


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
