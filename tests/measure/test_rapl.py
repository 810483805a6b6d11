"""The RAPL meter, on a powercap tree of files."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure import RaplMeter, device_energies, rapl
from llem.protocols import EnergyMeter

Zone = Callable[..., Path]


def opened(tree: Path, **options: float) -> RaplMeter:
    return RaplMeter(os.fspath(tree.parent), **options)


def counted(meter: RaplMeter, change: Callable[[], object]) -> tuple[DeviceEnergy, ...]:
    """The energies of a window in which *change* happens."""
    meter.start()
    begin = meter.mark()
    change()
    time.sleep(0.02)
    end = meter.mark()
    return device_energies(meter.devices, meter.stop(), begin, end)


def test_packages_and_memory(powercap: Zone) -> None:
    """Packages in the order of their numbers, each followed by its memory, each once."""
    for number in (10, 2):
        tree = powercap(f"intel-rapl:{number}", f"package-{number}", 0)
        powercap(f"intel-rapl:{number}:0", "core", 0)
        powercap(f"intel-rapl:{number}:1", "dram", 0)
        powercap(f"intel-rapl:{number}/intel-rapl:{number}:1", "dram", 0)
    powercap("intel-rapl:11", "psys", 0)
    powercap("intel-rapl-mmio:0", "package-2", 0)
    powercap("intel-rapl", "", 0)

    meter = opened(tree)

    assert isinstance(meter, EnergyMeter)
    assert meter.name == "rapl"
    assert [(device.index, device.uuid, device.scope) for device in meter.devices] == [
        (0, "package-2", "package"),
        (1, "package-2/dram", "memory"),
        (2, "package-10", "package"),
        (3, "package-10/dram", "memory"),
    ]
    assert {device.sensor for device in meter.devices} == {Sensor.RAPL}


def test_memory_inside_its_package(powercap: Zone) -> None:
    """Some trees list the memory only inside of its package."""
    tree = powercap("intel-rapl:0", "package-0", 0)
    powercap("intel-rapl:0/intel-rapl:0:0", "dram", 0)
    assert [device.uuid for device in opened(tree).devices] == ["package-0", "package-0/dram"]


def test_energy(powercap: Zone) -> None:
    """The difference of the counter, in J."""
    tree = powercap("intel-rapl:0", "package-0", 5_000_000)
    meter = opened(tree)

    (energy,) = counted(meter, lambda: powercap("intel-rapl:0", "package-0", 7_500_000))

    assert energy.energy_j == energy.counter_j == 2.5
    assert energy.sensor is Sensor.RAPL
    meter.close()


def test_wrap_around(powercap: Zone) -> None:
    """A counter that wraps goes on, however often."""
    tree = powercap("intel-rapl:0", "package-0", 900_000_000, 1_000_000_000)
    meter = opened(tree, period_s=0.01)

    def wrap_twice() -> None:
        for energy_uj in (100_000_000, 800_000_000, 100_000_000):
            powercap("intel-rapl:0", "package-0", energy_uj, 1_000_000_000)
            time.sleep(0.05)

    (energy,) = counted(meter, wrap_twice)

    assert energy.counter_j == pytest.approx(200 + 700 + 300)


def test_reset(powercap: Zone) -> None:
    """A counter that would have drawn more than any package does was reset, and is unknown."""
    tree = powercap("intel-rapl:0", "package-0", 50_000_000)
    meter = opened(tree)

    (energy,) = counted(meter, lambda: powercap("intel-rapl:0", "package-0", 1_000_000))

    assert energy.counter_j is None
    assert "counter_reset" in energy.codes
    assert 0 <= (energy.energy_j or 0) < 1


def test_reset_is_forgotten_at_the_next_start(powercap: Zone) -> None:
    """What the counter did before the start is of no matter."""
    tree = powercap("intel-rapl:0", "package-0", 50_000_000)
    meter = opened(tree)
    counted(meter, lambda: powercap("intel-rapl:0", "package-0", 1_000_000))

    powercap("intel-rapl:0", "package-0", 500_000)

    (energy,) = counted(meter, lambda: powercap("intel-rapl:0", "package-0", 3_000_000))

    assert energy.energy_j == 2.5


def test_power_from_the_counter(powercap: Zone) -> None:
    """Between two ticks power is the counter's difference over time; there is no temperature."""
    tree = powercap("intel-rapl:0", "package-0", 0)
    meter = opened(tree, period_s=0.02)
    meter.start()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 0.3:
        # Replaced as a whole: a real counter is never seen half written.
        (tree / "next").write_text(str(int(passed * 50e6)))
        (tree / "next").rename(tree / "energy_uj")
        time.sleep(0.001)
    samples = meter.stop()

    powers = [power for power in samples.power_w[0] if power == power]
    assert len(powers) >= 8
    assert sorted(powers)[len(powers) // 2] == pytest.approx(50, rel=0.2)
    assert all(celsius != celsius for celsius in samples.temperature_c[0])


def test_too_early_for_a_power(powercap: Zone, monkeypatch) -> None:
    """Two looks within less than the counter's own steps make one power, and lose no energy."""
    tree = powercap("intel-rapl:0", "package-0", 0)
    domain = rapl._Domain(tree, "package-0", "package")
    powers = []
    for now_s, energy_uj in [(1.0, 0), (2.0, 10_000_000), (2.001, 11_000_000), (3.0, 20_000_000)]:
        (tree / "energy_uj").write_text(str(energy_uj))
        powers.append(domain.power_w(now_s))

    assert powers == [None, 10, None, 10]


def test_counter_that_cannot_be_read_for_a_while(powercap: Zone) -> None:
    """A reading that fails is None, and the counter goes on where it was."""
    tree = powercap("intel-rapl:0", "package-0", 0)
    meter = opened(tree)
    meter.start()
    edges = []
    for content in ("1000000", "", "3000000"):
        (tree / "energy_uj").write_text(content)
        edges.append(meter.mark().counters_j)
    meter.close()

    assert edges == [(1.0,), (None,), (3.0,)]


def test_no_tree(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=r"does not exist.*modprobe"):
        RaplMeter(os.fspath(tmp_path / "powercap"))


def test_tree_without_packages(powercap: Zone) -> None:
    tree = powercap("intel-rapl:0", "psys", 0)
    with pytest.raises(MeterError, match="no CPU package"):
        opened(tree)


def test_file_that_cannot_be_read(powercap: Zone) -> None:
    tree = powercap("intel-rapl:0", "package-0", 0)
    (tree / "energy_uj").unlink()
    (tree / "energy_uj").mkdir()
    with pytest.raises(MeterError, match="energy_uj cannot be read"):
        opened(tree)


def test_file_without_a_number(powercap: Zone) -> None:
    tree = powercap("intel-rapl:0", "package-0", 0)
    (tree / "max_energy_range_uj").write_text("many\n")
    with pytest.raises(MeterError, match="max_energy_range_uj holds no number"):
        opened(tree)


def test_forbidden_file(powercap: Zone, monkeypatch) -> None:
    """What this user may not read names the file and the command that mends it."""
    tree = powercap("intel-rapl:0", "package-0", 0)

    def forbidden(path: Path, encoding: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return path.read_bytes().decode(encoding)

    monkeypatch.setattr(Path, "read_text", forbidden)
    command = f"sudo chmod a+r {tree.parent}/intel-rapl:*/energy_uj"
    with pytest.raises(MeterError) as caught:
        opened(tree)
    assert command in str(caught.value)
    assert str(tree / "energy_uj") in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_of_another_user(powercap: Zone) -> None:
    tree = powercap("intel-rapl:0", "package-0", 0)
    (tree / "energy_uj").chmod(0)
    with pytest.raises(MeterError, match=r"sudo chmod a\+r"):
        opened(tree)


def test_order_of_calls(powercap: Zone) -> None:
    meter = opened(powercap("intel-rapl:0", "package-0", 0))
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    with pytest.raises(MeterError, match="already"):
        meter.start()
    meter.close()
    meter.close()
