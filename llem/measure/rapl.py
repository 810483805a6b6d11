"""
Energy of CPU packages and their memory, by RAPL through Linux's powercap tree.

RAPL (running average power limit) counters are those of Intel, and of AMD under the same names.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure.readings import is_power
from llem.measure.sampler import Recording, Sampler
from llem.protocols import Device, Edge, EnergyMeter, Samples

POWERCAP_ROOT = "/sys/class/powercap"
DEFAULT_PERIOD_S = 0.1

COUNTER_REFRESH_S = 0.001
"""Time between two updates of a counter: Intel, Software Developer's Manual 3B, 16.10. Unit: s."""

MIN_STEP_S = 0.005
"""Least time that a power is computed over: the counters move about once in 1 ms. Unit: s."""


class RaplMeter(EnergyMeter):
    """
    Reads the energy counters of CPU packages, and of their memory where that is counted apart.

    The counters wrap around after minutes to hours; those sampled between two edges tell how often.
    The power sampled is the mean since the tick before. The domain ``psys`` holds the packages, and
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
                limit_w=domain.limit_w,
                counter_refresh_s=COUNTER_REFRESH_S,
                counter_range_j=domain.range_j,
            )
            for index, domain in enumerate(self._domains)
        )

    def start(self) -> None:
        """Begin sampling. Raises `MeterError`."""
        if self._sampler is not None:
            raise MeterError("the meter samples already: stop it before it starts again")
        for domain in self._domains:
            _read_uj(domain.file)
        sampler = Sampler(
            "files",
            [str(domain.file) for domain in self._domains],
            devices=len(self._domains),
            period_s=self._period_s,
        )
        sampler.start()
        self._sampler = sampler

    def mark(self) -> Edge:
        """Read the time and every counter. The time is the middle of the reads."""
        before = time.monotonic()
        counters = tuple(domain.counter_j() for domain in self._domains)
        after = time.monotonic()
        return Edge(time_s=(before + after) / 2, counters_j=counters, spread_s=after - before)

    def stop(self) -> Samples:
        """End sampling and give all samples. Raises `MeterError`."""
        if self._sampler is None:
            raise MeterError("the meter does not sample: start it first")
        sampler, self._sampler = self._sampler, None
        return _samples(sampler.stop(), [domain.range_j for domain in self._domains])

    def close(self) -> None:
        """End sampling, where it goes on. Safe to call twice."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None


@attrs.frozen
class _Domain:
    """
    One counter.

    Attributes:
        name: What it counts, such as package-0 or package-0/dram.
        scope: package or memory.
        file: Where it stands, in µJ.
        range_j: Where it wraps around to 0. Unit: J.
        limit_w: Greatest power of the domain. Unit: W. None: it does not say.
    """

    name: str
    scope: str
    file: Path
    range_j: float
    limit_w: float | None

    def counter_j(self) -> float | None:
        """The counter as it stands. Unit: J. None: it cannot be read."""
        try:
            return _read_uj(self.file) / 1e6
        except MeterError:
            return None


def _domain(folder: Path, name: str, scope: str) -> _Domain:
    """Raises `MeterError` where the counter cannot be read."""
    file = folder / "energy_uj"
    _read_uj(file)
    try:
        limit_w = _read_uj(folder / "constraint_0_max_power_uw") / 1e6
    except MeterError:
        limit_w = 0.0
    range_j = _read_uj(folder / "max_energy_range_uj") / 1e6
    return _Domain(name, scope, file, range_j, limit_w or None)


def _samples(recording: Recording, ranges_j: Sequence[float]) -> Samples:
    """What was recorded of the counters, in µJ, and the mean power since the tick before."""
    import numpy as np

    times_s = recording.times_s
    counter_j = recording.rows["counter"] / 1e6
    power_w = np.full(counter_j.shape, np.nan)
    for column, range_j in enumerate(ranges_j):
        read = np.isfinite(counter_j[:, column])
        steps_s = np.diff(times_s[read])
        steps_j = np.diff(counter_j[read, column])
        steps_j[steps_j < 0] += range_j
        enough = steps_s >= MIN_STEP_S
        means_w = np.divide(steps_j, steps_s, out=np.full(len(steps_j), np.nan), where=enough)
        power_w[np.flatnonzero(read)[1:], column] = means_w
    # A counter that was reset seems to have run faster than any device can.
    power_w[~is_power(power_w)] = np.nan
    return Samples(
        times_s=times_s,
        power_w=power_w,
        temperature_c=np.full(counter_j.shape, np.nan),
        counter_j=counter_j,
        stride=recording.stride,
        notes=recording.notes,
    )


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
        _domain(package, name, "package"),
        *(_domain(zone, f"{name}/dram", "memory") for zone in memory),
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
