"""The RAPL meter, on a powercap tree of files."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure import RaplMeter, device_energies
from llem.measure.poller import ROW, TICK
from llem.measure.rapl import COUNTER_REFRESH_S, MIN_STEP_S, _samples
from llem.measure.sampler import Recording, row_type
from llem.protocols import EnergyMeter, Samples

Zone = Callable[..., Path]


@pytest.fixture
def opened() -> Iterator[Callable[..., RaplMeter]]:
    """Opens the meter of the tree that a zone is in. It is closed after the test."""
    meters = []

    def opened(zone: Path, **options: float) -> RaplMeter:
        meters.append(RaplMeter(os.fspath(zone.parent), **options))
        return meters[-1]

    yield opened
    for meter in meters:
        meter.close()


def counted(meter: RaplMeter, change: Callable[[], object]) -> tuple[DeviceEnergy, ...]:
    """The energies of a window in which *change* happens."""
    meter.start()
    begin = meter.mark()
    change()
    time.sleep(0.02)
    end = meter.mark()
    return device_energies(meter.devices, meter.stop(), begin, end)


def put(zone: Path, energy_uj: int) -> None:
    """Change a counter as the kernel does: never seen half written, and in the same file."""
    file = os.open(zone / "energy_uj", os.O_WRONLY)
    os.pwrite(file, b"%18d\n" % energy_uj, 0)
    os.close(file)


def wait_for_ticks(meter: RaplMeter) -> None:
    """Return once *meter* has sampled a few times more."""
    file = meter._sampler._file.fileno()
    before = os.fstat(file).st_size
    while os.fstat(file).st_size < before + 4 * (TICK.size + len(meter.devices) * ROW.size):
        time.sleep(0.005)


def test_packages_and_memory(powercap: Zone, opened) -> None:
    """Packages in the order of their numbers, each followed by its memory, each once."""
    for number in (10, 2):
        zone = powercap(f"intel-rapl:{number}", f"package-{number}", 0)
        powercap(f"intel-rapl:{number}:0", "core", 0)
        powercap(f"intel-rapl:{number}:1", "dram", 0)
        powercap(f"intel-rapl:{number}/intel-rapl:{number}:1", "dram", 0)
    powercap("intel-rapl:11", "psys", 0)
    powercap("intel-rapl-mmio:0", "package-2", 0)
    powercap("intel-rapl", "", 0)

    meter = opened(zone)

    assert isinstance(meter, EnergyMeter)
    assert meter.name == "rapl"
    assert [(device.index, device.uuid, device.scope) for device in meter.devices] == [
        (0, "package-2", "package"),
        (1, "package-2/dram", "memory"),
        (2, "package-10", "package"),
        (3, "package-10/dram", "memory"),
    ]
    assert {device.sensor for device in meter.devices} == {Sensor.RAPL}


def test_memory_inside_its_package(powercap: Zone, opened) -> None:
    """Some trees list the memory only inside of its package."""
    zone = powercap("intel-rapl:0", "package-0", 0)
    powercap("intel-rapl:0/intel-rapl:0:0", "dram", 0)
    assert [device.uuid for device in opened(zone).devices] == ["package-0", "package-0/dram"]


def test_what_a_device_says_of_itself(powercap: Zone, opened) -> None:
    zone = powercap("intel-rapl:0", "package-0", 0, range_uj=262_000_000)
    (zone / "constraint_0_max_power_uw").write_text("125000000\n")
    (device,) = opened(zone, period_s=0.05).devices
    assert (device.name, device.scope, device.period_s) == ("package-0", "package", 0.05)
    assert (device.limit_w, device.counter_range_j) == (125.0, 262.0)
    assert device.counter_refresh_s == COUNTER_REFRESH_S


@pytest.mark.parametrize("content", ["0\n", "unknown\n", None])
def test_no_limit(powercap: Zone, opened, content: str | None) -> None:
    """Some domains have none, and some say that it is 0."""
    zone = powercap("intel-rapl:0", "package-0", 0)
    if content is not None:
        (zone / "constraint_0_max_power_uw").write_text(content)
    assert opened(zone).devices[0].limit_w is None


def test_energy(powercap: Zone, opened) -> None:
    """The difference of the counter, in J, with its bound."""
    zone = powercap("intel-rapl:0", "package-0", 5_000_000)
    memory = powercap("intel-rapl:0:0", "dram", 1_000_000)
    (zone / "constraint_0_max_power_uw").write_text("125000000\n")

    def draw() -> None:
        put(zone, 7_500_000)
        put(memory, 1_250_000)

    package, dram = counted(opened(zone), draw)

    assert package.energy_j == package.counter_j == 2.5
    assert dram.energy_j == dram.counter_j == 0.25
    assert package.sensor is dram.sensor is Sensor.RAPL
    assert package.error_bound_j >= 125 * COUNTER_REFRESH_S


def test_wrap_around(powercap: Zone, opened) -> None:
    """A counter that wraps goes on, however often."""
    zone = powercap("intel-rapl:0", "package-0", 900_000_000, 1_000_000_000)
    meter = opened(zone, period_s=0.01)

    def wrap_twice() -> None:
        for energy_uj in (100_000_000, 800_000_000, 100_000_000):
            put(zone, energy_uj)
            wait_for_ticks(meter)

    (energy,) = counted(meter, wrap_twice)

    assert energy.counter_j == pytest.approx(200 + 700 + 300)
    assert "counter_reset" not in energy.codes


def test_reset(powercap: Zone, opened) -> None:
    """A counter that would have drawn more than any package does was reset, and is unknown."""
    zone = powercap("intel-rapl:0", "package-0", 50_000_000)

    (energy,) = counted(opened(zone), lambda: put(zone, 1_000_000))

    assert energy.counter_j is None
    assert "counter_reset" in energy.codes
    assert 0 <= (energy.energy_j or 0) < 1


def test_reset_is_forgotten_at_the_next_start(powercap: Zone, opened) -> None:
    """What the counter did before the start is of no matter."""
    zone = powercap("intel-rapl:0", "package-0", 50_000_000)
    meter = opened(zone)
    counted(meter, lambda: put(zone, 1_000_000))

    put(zone, 500_000)

    (energy,) = counted(meter, lambda: put(zone, 3_000_000))

    assert energy.energy_j == 2.5


def test_power_from_the_counter(powercap: Zone, opened) -> None:
    """Between two ticks power is the counter's difference over time; there is no temperature."""
    zone = powercap("intel-rapl:0", "package-0", 0)
    put(zone, 0)
    meter, stops = opened(zone, period_s=0.02), threading.Event()
    began_s = time.monotonic()

    def count() -> None:
        while not stops.wait(0.001):
            put(zone, int((time.monotonic() - began_s) * 50e6))

    counting = threading.Thread(target=count)
    counting.start()
    meter.start()
    time.sleep(0.5)
    samples = meter.stop()
    stops.set()
    counting.join()

    powers_w = samples.power_w[np.isfinite(samples.power_w)]
    assert len(powers_w) >= 2
    assert np.median(powers_w) == pytest.approx(50, rel=0.5)
    assert np.isnan(samples.temperature_c).all()


def recorded(times_s: list[float], *counters_uj: list[float], range_j: float = 1000.0) -> Samples:
    """What becomes of counters that were read at *times_s*."""
    rows = np.zeros((len(times_s), len(counters_uj)), row_type())
    for column, counter_uj in enumerate(counters_uj):
        rows["counter"][:, column] = counter_uj
    recording = Recording(np.array(times_s), rows, 4, ("late",))
    return _samples(recording, [range_j] * len(counters_uj))


def test_power_of_each_step() -> None:
    """There is none before the first step, and each domain has its own."""
    samples = recorded([1.0, 2.0, 2.5, 4.5], [0, 10e6, 20e6, 20e6], [5e6, 6e6, 7e6, 9e6])
    np.testing.assert_array_equal(
        samples.power_w.T, np.array([[np.nan, 10, 20, 0], [np.nan, 1, 2, 1]], "f4")
    )
    np.testing.assert_array_equal(samples.counter_j[:, 1], [5, 6, 7, 9])
    assert (samples.stride, samples.notes) == (4, ("late",))


def test_power_over_a_wrap() -> None:
    """The counter goes on from 0."""
    samples = recorded([1.0, 2.0], [990e6, 15e6])
    assert samples.power_w[1, 0] == 25


@pytest.mark.parametrize("passed_s", [0.001, MIN_STEP_S / 2])
def test_too_early_for_a_power(passed_s: float) -> None:
    """Less than the counter's own steps apart there is no telling."""
    samples = recorded([1.0, 2.0, 2.0 + passed_s, 3.0], [0, 10e6, 11e6, 20e6])
    known = np.isfinite(samples.power_w[:, 0])
    assert known.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("counters_uj", "watts"),
    [([0, np.nan, 20e6, 30e6], [np.nan, np.nan, 10, 10]), ([np.nan] * 4, [np.nan] * 4)],
)
def test_power_over_a_reading_that_failed(counters_uj: list[float], watts: list[float]) -> None:
    """It is the mean since the one before."""
    samples = recorded([1.0, 2.0, 3.0, 4.0], counters_uj)
    np.testing.assert_array_equal(samples.power_w[:, 0], np.array(watts, "f4"))


def test_power_of_a_counter_that_was_reset() -> None:
    """More than any device draws is no power."""
    samples = recorded([1.0, 1.1, 1.2], [500e6, 0, 1e6], range_j=262_143.0)
    known = np.isfinite(samples.power_w[:, 0])
    assert known.tolist() == [False, False, True]
    assert samples.power_w[2, 0] == pytest.approx(10)


def test_counter_that_cannot_be_read_for_a_while(powercap: Zone, opened) -> None:
    """A reading that fails is None, and the counter goes on where it was."""
    zone = powercap("intel-rapl:0", "package-0", 0)
    meter = opened(zone)
    meter.start()
    edges = []
    for content in ("1000000", "", "3000000"):
        (zone / "energy_uj").write_text(content)
        edges.append(meter.mark().counters_j)

    assert edges == [(1.0,), (None,), (3.0,)]


def test_samples_on_both_sides(powercap: Zone, opened) -> None:
    """However short the window, a counter is sampled before it and another time after it."""
    meter = opened(powercap("intel-rapl:0", "package-0", 7_000_000), period_s=10.0)
    meter.start()
    begin, end = meter.mark(), meter.mark()
    samples = meter.stop()
    assert samples.times_s[0] <= begin.time_s <= end.time_s <= samples.times_s[-1]
    assert begin.spread_s >= 0
    assert samples.counter_j.ravel().tolist() == [7.0, 7.0]
    assert samples.notes == ()


def test_no_tree(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=r"does not exist.*modprobe"):
        RaplMeter(os.fspath(tmp_path / "powercap"))


def test_tree_without_packages(powercap: Zone, opened) -> None:
    zone = powercap("intel-rapl:0", "psys", 0)
    with pytest.raises(MeterError, match="no CPU package"):
        opened(zone)


def test_file_that_cannot_be_read(powercap: Zone, opened) -> None:
    zone = powercap("intel-rapl:0", "package-0", 0)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()
    with pytest.raises(MeterError, match="energy_uj cannot be read"):
        opened(zone)


@pytest.mark.parametrize("content", ["many\n", "", "-5\n", "1.5\n"])
def test_file_without_a_number(powercap: Zone, opened, content: str) -> None:
    zone = powercap("intel-rapl:0", "package-0", 0)
    (zone / "max_energy_range_uj").write_text(content)
    with pytest.raises(MeterError, match="max_energy_range_uj holds no number"):
        opened(zone)


def test_counter_that_is_gone_at_the_start(powercap: Zone, opened) -> None:
    """What cannot be sampled is said before anything runs."""
    zone = powercap("intel-rapl:0", "package-0", 0)
    meter = opened(zone)
    (zone / "energy_uj").unlink()
    with pytest.raises(MeterError, match="energy_uj cannot be read"):
        meter.start()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


def test_forbidden_file(powercap: Zone, opened, monkeypatch) -> None:
    """What this user may not read names the file and the command that mends it."""
    zone = powercap("intel-rapl:0", "package-0", 0)

    def forbidden(path: Path, encoding: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return path.read_bytes().decode(encoding)

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(MeterError) as caught:
        opened(zone)
    assert f"sudo chmod a+r {zone.parent}/intel-rapl:*/energy_uj" in str(caught.value)
    assert str(zone / "energy_uj") in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_of_another_user(powercap: Zone, opened) -> None:
    zone = powercap("intel-rapl:0", "package-0", 0)
    (zone / "energy_uj").chmod(0)
    with pytest.raises(MeterError, match=r"sudo chmod a\+r"):
        opened(zone)


def test_the_command_mends_every_domain(powercap: Zone, opened, monkeypatch) -> None:
    """Run as it stands, by a shell, it makes all counters readable that the meter reads."""
    zones = [
        powercap("intel-rapl:0", "package-0", 0),
        powercap("intel-rapl:0:0", "dram", 0),
        powercap("intel-rapl:1", "package-1", 0),
    ]
    counters = [zone / "energy_uj" for zone in zones]
    for counter in counters:
        counter.chmod(0)
    read = Path.read_text

    def as_a_user(path: Path, encoding: str) -> str:
        if not path.stat().st_mode & 0o004:
            raise PermissionError(13, "Permission denied")
        return read(path, encoding)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    with pytest.raises(MeterError) as caught:
        opened(zones[0])
    command = re.search(r"sudo (chmod .*)$", str(caught.value)).group(1)
    assert os.waitstatus_to_exitcode(os.system(command)) == 0
    assert len(opened(zones[0]).devices) == 3


def test_order_of_calls(powercap: Zone, opened) -> None:
    meter = opened(powercap("intel-rapl:0", "package-0", 0))
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    with pytest.raises(MeterError, match="already"):
        meter.start()
    meter.stop()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
