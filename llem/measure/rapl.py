"""
Energy of CPU packages and their memory, by RAPL through Linux's powercap tree.

RAPL (running average power limit) counters are those of Intel, and of AMD under the same names.
"""

import re
import threading
import time
from pathlib import Path

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure.sampler import Reading, Sampler
from llem.protocols import Device, Edge, EnergyMeter, Samples

POWERCAP_ROOT = "/sys/class/powercap"
DEFAULT_PERIOD_S = 0.1

MAX_POWER_W = 10_000.0
"""More than any package draws. A counter that seems to have run faster was reset. Unit: W."""

MIN_STEP_S = 0.005
"""Least time that a power is computed over: the counters move about once in 1 ms. Unit: s."""


class RaplMeter(EnergyMeter):
    """
    Reads the energy counters of CPU packages, and of their memory where that is counted apart.

    The counters wrap around after minutes to hours, so they are followed while sampling. The power
    sampled is the mean since the tick before. The domain ``psys`` holds the packages, and
    ``intel-rapl-mmio`` is a second view of them: both are left out, and nothing counts twice.

    Args:
        root: Where the powercap tree is mounted.
        period_s: Time between two samples. Unit: s.

    Raises:
        MeterError: There are no counters, or they may not be read.
    """

    def __init__(self, root: str = POWERCAP_ROOT, *, period_s: float = DEFAULT_PERIOD_S) -> None:
        self._domains = _domains(Path(root))
        self._period_s = period_s
        self._sampler: Sampler | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return "rapl"

    @property
    def devices(self) -> tuple[Device, ...]:
        """The packages, each followed by its memory."""
        return tuple(
            Device(
                index=index,
                uuid=domain.name,
                name=domain.name,
                sensor=Sensor.RAPL,
                scope=domain.scope,
                period_s=self._period_s,
            )
            for index, domain in enumerate(self._domains)
        )

    def start(self) -> None:
        """Begin sampling. Raises `MeterError`."""
        if self._sampler is not None:
            raise MeterError("the meter samples already: stop it before it starts again")
        for domain in self._domains:
            domain.begin()
        sampler = Sampler(self._read, len(self._domains), self._period_s)
        sampler.start()
        self._sampler = sampler

    def mark(self) -> Edge:
        """Read the time and every counter. The time is the middle of the reads."""
        before = time.monotonic()
        with self._lock:
            counters = tuple(domain.follow() for domain in self._domains)
        return Edge(time_s=(before + time.monotonic()) / 2, counters_j=counters)

    def stop(self) -> Samples:
        """End sampling and give all samples. Raises `MeterError`."""
        if self._sampler is None:
            raise MeterError("the meter does not sample: start it first")
        sampler, self._sampler = self._sampler, None
        return sampler.stop()

    def close(self) -> None:
        """End sampling, where it goes on. Safe to call twice."""
        if self._sampler is not None:
            self.stop()

    def _read(self) -> list[Reading]:
        with self._lock:
            return [(domain.power_w(time.monotonic()), None) for domain in self._domains]


class _Domain:
    """
    One counter, followed over its wrap-arounds.

    Attributes:
        name: What it counts, such as package-0 or package-0/dram.
        scope: package or memory.
    """

    def __init__(self, folder: Path, name: str, scope: str) -> None:
        self.name = name
        self.scope = scope
        self._file = folder / "energy_uj"
        self._range_j = _read_uj(folder / "max_energy_range_uj") / 1e6
        self.begin()

    def begin(self) -> None:
        """Count from 0 again. Raises `MeterError`."""
        self._raw_j = _read_uj(self._file) / 1e6
        self._time_s = time.monotonic()
        self._total_j = 0.0
        self._is_reset = False
        self._sample: tuple[float, float] | None = None

    def follow(self) -> float | None:
        """Energy since `begin`. Unit: J. None: it cannot be read, or was reset meanwhile."""
        return self._total_j if self._advance() and not self._is_reset else None

    def power_w(self, now_s: float) -> float | None:
        """Mean power since the last call that had one. Unit: W. None: it is too early for one."""
        before = self._sample
        if not self._advance() or (before is not None and now_s - before[0] < MIN_STEP_S):
            return None
        # A reset leaves no sample to compare with.
        before, self._sample = self._sample, (now_s, self._total_j)
        return None if before is None else (self._total_j - before[1]) / (now_s - before[0])

    def _advance(self) -> bool:
        """Add what was counted since the last look. False: the counter did not answer."""
        try:
            raw_j = _read_uj(self._file) / 1e6
        except MeterError:
            return False
        now = time.monotonic()
        step_j = raw_j - self._raw_j
        if step_j < 0:
            step_j += self._range_j
            if not 0 <= step_j <= MAX_POWER_W * max(now - self._time_s, 1.0):
                self._is_reset, self._sample, step_j = True, None, 0.0
        self._raw_j, self._time_s = raw_j, now
        self._total_j += step_j
        return True


def _domains(root: Path) -> tuple[_Domain, ...]:
    if not root.is_dir():
        raise MeterError(
            f"RAPL: {root} does not exist: this processor or virtual machine has "
            "none, or its driver is not loaded: sudo modprobe intel_rapl_msr"
        )
    domains = [
        domain
        for package in sorted(root.glob("intel-rapl:*"), key=_zone_order)
        for domain in _package_domains(root, package)
    ]
    if not domains:
        raise MeterError(f"RAPL: {root} holds no CPU package: read energy by NVML, or none")
    return tuple(domains)


def _package_domains(root: Path, package: Path) -> list[_Domain]:
    name = _read_text(package / "name")
    if not name.startswith("package"):
        return []
    # Linux lists the zones of a package beside it, and inside of it as well.
    inner = list(root.glob(f"{package.name}:*")) or list(package.glob(f"{package.name}:*"))
    memory = [zone for zone in inner if _read_text(zone / "name") == "dram"]
    return [
        _Domain(package, name, "package"),
        *(_Domain(zone, f"{name}/dram", "memory") for zone in memory),
    ]


def _zone_order(zone: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", zone.name)]


def _read_uj(path: Path) -> int:
    text = _read_text(path)
    if not text.isdecimal():
        raise MeterError(f"RAPL: {path} holds no number: {text!r:.40}")
    return int(text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except PermissionError as error:
        raise MeterError(
            f"RAPL: {path} may not be read by this user: sudo chmod a+r {path.parent.parent}"
            "/intel-rapl:*/energy_uj"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterError(f"RAPL: {path} cannot be read: {error}") from error
