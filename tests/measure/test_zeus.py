"""The Zeus meter: the real Zeus on top of a driver compiled from C."""

import itertools
import multiprocessing
import os
import sys
import threading
import time
from typing import Any

import pynvml
import pytest
import zeus.device.gpu
import zeus.monitor.energy

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import device_energies
from llem.measure.zeus import ZeusMeter
from llem.protocols import Edge, EnergyMeter

from .conftest import Curve, Driver

UUIDS = [f"GPU-{i}0000000-0000-0000-0000-000000000000" for i in range(4)]
ROUNDING_J, ROUNDING_S = 0.002, 1e-6
OURS_AND_ZEUS = 2
PASCAL = pynvml.NVML_DEVICE_ARCH_PASCAL

CURVES = [
    Curve(kind="constant", base_w=250),
    Curve(kind="ramp", base_w=100, slope_w=80),
    Curve(kind="square", base_w=80, high_w=600, period_s=0.05, duty=0.3),
    Curve(kind="burst", base_w=60, high_w=700, at_s=0.12, length_s=0.1),
]


@pytest.fixture(autouse=True)
def _driver(driver: Driver) -> None:
    """No test of this file meets a driver of this machine."""


def energy_j(begin: Edge, end: Edge, device: int = 0) -> float:
    """What the counters of two edges differ by. Unit: J."""
    before_j, after_j = begin.counters_j[device], end.counters_j[device]
    assert before_j is not None
    assert after_j is not None
    return after_j - before_j


def constant(power_w: float, begin: Edge, end: Edge) -> Any:
    """What *power_w* comes to between two edges, as closely as these were read."""
    reading_j = power_w * (begin.spread_s + end.spread_s)
    return pytest.approx(power_w * (end.time_s - begin.time_s), abs=reading_j + ROUNDING_J)


def marked(meter: ZeusMeter, seconds: float = 0.05) -> tuple[Edge, Edge]:
    """The edges of a window of *seconds*."""
    meter.start()
    begin = meter.mark()
    time.sleep(seconds)
    end = meter.mark()
    meter.stop()
    return begin, end


def test_is_a_meter() -> None:
    meter = ZeusMeter()
    assert isinstance(meter, EnergyMeter)
    assert meter.name == "zeus"
    meter.close()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.kind)
def test_any_two_marks_give_an_energy(driver, curve: Curve) -> None:
    """It is the integral of the power between them."""
    driver.set(**curve.settings())
    meter = ZeusMeter()
    meter.start()
    edges = [meter.mark()]
    for _ in range(4):
        time.sleep(0.07)
        edges.append(meter.mark())
    meter.stop()
    meter.close()

    for begin, end in itertools.combinations(edges, 2):
        truth_j = curve.energy_j(begin.time_s - driver.epoch_s, end.time_s - driver.epoch_s)
        reading_j = 800 * (begin.spread_s + end.spread_s)
        assert energy_j(begin, end) == pytest.approx(truth_j, abs=reading_j + ROUNDING_J)


def test_marks_lose_no_energy() -> None:
    """Those between two others do not change what these tell."""
    meter = ZeusMeter()
    meter.start()
    begin = meter.mark()
    for _ in range(1000):
        meter.mark()
    end = meter.mark()
    meter.stop()
    meter.close()

    assert energy_j(begin, end) == constant(100, begin, end)


def test_time_of_a_mark(driver) -> None:
    """It is the middle of the calls, and their length is told."""
    meter = ZeusMeter()
    meter.start()
    driver.set(gpu0__delay_ms=80)
    before = time.monotonic()
    edge = meter.mark()
    after = time.monotonic()
    meter.close()

    assert before <= edge.time_s - edge.spread_s / 2 + ROUNDING_S
    assert edge.time_s + edge.spread_s / 2 - ROUNDING_S <= after
    assert edge.spread_s >= 0.08


def test_energy_without_samples(driver) -> None:
    """The edges are enough for a figure and its bound."""
    driver.set(gpu0__power_w=300, gpu0__limit_mw=400_000, gpu0__counter_refresh_s=0.1)
    meter = ZeusMeter()
    meter.start()
    begin = meter.mark()
    time.sleep(0.25)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    meter.close()

    assert energy.energy_j == energy.counter_j
    assert energy.sensor is Sensor.NVML_TOTAL_ENERGY
    assert (energy.integrated_j, energy.sample_count, energy.codes) == (None, 0, ())
    assert energy.error_bound_j == pytest.approx(400 * 0.1, rel=0.1)
    truth_j = 300 * (end.time_s - begin.time_s)
    assert abs(energy.energy_j - truth_j) <= energy.error_bound_j


def test_what_a_device_says_of_itself(driver) -> None:
    driver.set(count=2, gpu1__name="NVIDIA Other", gpu1__nvmlDeviceGetEnforcedPowerLimit=3)

    meter = ZeusMeter()
    meter.close()

    first, second = meter.devices
    assert (first.index, first.uuid, first.name) == (0, UUIDS[0], "NVIDIA Fake")
    assert (second.index, second.uuid, second.name) == (1, UUIDS[1], "NVIDIA Other")
    assert (first.sensor, first.period_s) == (Sensor.NVML_TOTAL_ENERGY, None)
    assert (first.limit_w, second.limit_w) == (700, None)
    assert not first.parent_of_mig


@pytest.mark.parametrize(
    ("setting", "uuids", "indices"),
    [
        (None, None, [0, 1, 2, 3]),
        ("2,0", None, [2, 0]),
        ("GPU-3,1", None, [3, 1]),
        ("MIG-abc", None, [1]),
        ("0", [UUIDS[2], UUIDS[1].removeprefix("GPU-"), UUIDS[2]], [2, 1]),
        ("GPU-1", ["MIG-abc"], [1]),
    ],
)
def test_which_gpus(driver, monkeypatch, setting, uuids, indices: list[int]) -> None:
    """Those that CUDA shows, in every form it knows, or those given; each with its own energy."""
    driver.set(count=4, gpu1__mig=1, mig0__uuid="MIG-abc", mig0__parent=1)
    driver.set(**{f"gpu{i}__power_w": 100 * (i + 1) for i in range(4)})
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)

    meter = ZeusMeter(uuids)
    begin, end = marked(meter, 0.1)
    meter.close()

    assert [device.uuid for device in meter.devices] == [UUIDS[i] for i in indices]
    assert [device.index for device in meter.devices] == list(range(len(indices)))
    assert [device.parent_of_mig for device in meter.devices] == [i == 1 for i in indices]
    for device, i in enumerate(indices):
        assert energy_j(begin, end, device) == constant(100 * (i + 1), begin, end)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == setting


def test_gpu_of_another_user(driver) -> None:
    """A GPU that may not be opened is none of this process's."""
    driver.set(count=2, gpu0__nvmlDeviceGetHandleByIndex_v2=4)
    meter = ZeusMeter()
    meter.close()
    assert [device.uuid for device in meter.devices] == [UUIDS[1]]


def test_leaves_zeus_as_it_was(monkeypatch) -> None:
    """Whoever uses Zeus in this process keeps the GPUs that it has found for him."""
    theirs = object()
    monkeypatch.setattr(zeus.device.gpu, "_gpus", theirs)
    meter = ZeusMeter()
    meter.close()
    assert zeus.device.gpu.get_gpus() is theirs


def test_leaves_the_cpus_alone(monkeypatch) -> None:
    """Zeus would begin a process for each, and end it with this one."""

    class Cpus:
        def __len__(self) -> int:
            return 1

    monkeypatch.setattr(zeus.monitor.energy, "get_cpus", Cpus)
    meter = ZeusMeter()
    begin, end = marked(meter)
    meter.close()
    assert energy_j(begin, end) > 0


@pytest.mark.parametrize(("setting", "words"), [("", "CUDA_VISIBLE_DEVICES"), ("7", "no GPU")])
def test_no_visible_gpu(driver, monkeypatch, setting: str, words: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    with pytest.raises(MeterError, match=words):
        ZeusMeter()
    assert driver.times_shut_down == 1


def test_no_gpu_in_use() -> None:
    with pytest.raises(MeterError, match="runs on no GPU"):
        ZeusMeter(())


def test_unknown_uuid() -> None:
    with pytest.raises(MeterError, match="GPU-beef"):
        ZeusMeter(["GPU-beef"])


def test_zeus_is_missing(driver, monkeypatch) -> None:
    """Which comes before anything that only a machine with a GPU has."""
    driver.set(nvmlInitWithFlags=9)
    monkeypatch.setitem(sys.modules, "zeus.monitor", None)
    with pytest.raises(MeterError, match=r"pip install zeus"):
        ZeusMeter()


def test_no_driver(driver) -> None:
    driver.set(nvmlInitWithFlags=9)
    with pytest.raises(MeterError, match=r"driver is not loaded.*modprobe nvidia"):
        ZeusMeter()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpu0__nvmlDeviceGetArchitecture": 15}, "Zeus.*fallen off the bus.*restart"),
        ({"gpu0__nvmlDeviceGetTotalEnergyConsumption": 3}, "Zeus.*does not support it.*rapl"),
    ],
)
def test_what_zeus_cannot_do_is_known_at_once(driver, settings: dict[str, int], words: str) -> None:
    """One line says what is wrong and what to do, and nothing stays open."""
    driver.set(**settings)

    with pytest.raises(MeterError, match=words) as caught:
        ZeusMeter()

    assert "\n" not in str(caught.value)
    assert driver.times_shut_down == OURS_AND_ZEUS


@pytest.mark.parametrize(
    ("fault", "words"),
    [(ValueError("no\nsuch  thing"), "Zeus: no such thing: .*nvml"), (KeyError(), "KeyError")],
)
def test_fault_of_zeus_itself(driver, monkeypatch, fault: Exception, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(zeus.monitor.energy.ZeusMonitor, "begin_window", fail)
    with pytest.raises(MeterError, match=words) as caught:
        ZeusMeter()

    assert isinstance(caught.value.__cause__, type(fault))
    assert driver.times_shut_down == OURS_AND_ZEUS


def test_fault_of_zeus_while_measuring(monkeypatch) -> None:
    """It costs the energy, and nothing else."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such thing")

    meter = ZeusMeter()
    meter.start()
    monkeypatch.setattr(meter._monitor, "end_window", fail)

    assert meter.mark().counters_j == (None,)
    with pytest.raises(MeterError, match="no such thing"):
        meter.stop()
    meter.close()


def test_zeus_reads_other_gpus(driver, monkeypatch) -> None:
    """The energy of another GPU, or of none, is not taken for that of this one."""
    monkeypatch.setattr(zeus.monitor.energy, "get_gpus", zeus.monitor.energy.EmptyGPUs)
    with pytest.raises(MeterError, match=r"other GPUs.*none"):
        ZeusMeter()
    assert driver.times_shut_down == OURS_AND_ZEUS


def test_gpu_lost_for_a_while(driver) -> None:
    """Marks in that time have no energy, and the reason is told once. Those after it have."""
    meter = ZeusMeter()
    meter.start()
    begin = meter.mark()
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=15)
    lost = meter.mark(), meter.mark()
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=0)
    time.sleep(0.05)
    end = meter.mark()
    samples = meter.stop()
    meter.start()
    notes_of_next = meter.stop().notes
    meter.close()

    assert [edge.counters_j for edge in lost] == [(None,), (None,)]
    assert len(samples.notes) == 1
    assert "fallen off the bus: restart" in samples.notes[0]
    assert energy_j(begin, end) == constant(100, begin, end)
    assert notes_of_next == ()
    (energy,) = device_energies(meter.devices, samples, begin, lost[0])
    assert energy.codes == ("counter_reset", "energy_not_measured")


def test_counter_that_runs_backwards(driver) -> None:
    """No figure, neither below 0 nor above, until measuring starts anew; others keep theirs."""
    driver.set(count=2)
    meter = ZeusMeter()
    meter.start()
    meter.mark()
    driver.set(gpu0__counter_offset_j=900)
    after = meter.mark()
    driver.set(gpu0__counter_offset_j=2000)
    later = meter.mark()
    meter.stop()
    anew = marked(meter)
    meter.close()

    assert after.counters_j[0] is later.counters_j[0] is None
    assert energy_j(after, later, 1) == constant(100, after, later)
    assert energy_j(*anew) == constant(100, *anew)


def test_counter_that_stands_still(driver, capfd) -> None:
    """Two edges show that themselves: nothing is printed, and nobody is warned."""
    driver.set(gpu0__counter_refresh_s=1e6)
    meter = ZeusMeter()

    begin, end = marked(meter)
    meter.close()

    assert energy_j(begin, end) == 0
    assert capfd.readouterr() == ("", "")


def test_gpu_before_volta(driver, monkeypatch, capfd) -> None:
    """Zeus samples it, in processes that are gone afterwards, and no bound is known."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.library.parent))
    curve = Curve(kind="square", base_w=100, high_w=300, period_s=0.1)
    driver.set(gpu0__architecture=PASCAL, gpu0__average_window_s=0, **curve.settings())
    meter = ZeusMeter()
    meter.start()
    begin = meter.mark()
    time.sleep(1)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    busy, monitor = multiprocessing.active_children(), meter._monitor
    meter.close()

    assert meter.devices[0].sensor is Sensor.NVML_POWER
    assert energy.energy_j == pytest.approx(200 * (end.time_s - begin.time_s), rel=0.5)
    assert energy.error_bound_j is None
    assert busy
    assert monitor.power_monitor
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def test_close_leaves_nothing_behind(driver) -> None:
    """Closing twice is once, also in the midst of measuring."""
    before = threading.enumerate(), multiprocessing.active_children()
    meter = ZeusMeter()
    meter.start()
    meter.close()
    meter.close()

    assert driver.times_shut_down == OURS_AND_ZEUS
    assert (threading.enumerate(), multiprocessing.active_children()) == before
    with pytest.raises(MeterError, match="closed"):
        meter.start()
    with pytest.raises(MeterError, match="start it first"):
        meter.mark()


def test_collecting_garbage_leaves_nvml_alone(driver) -> None:
    """Zeus would shut NVML down then, which hangs where that happens inside NVML's binding."""
    meter = ZeusMeter()
    gpus = [meter._monitor.gpus]
    meter.close()
    gpus.clear()
    assert driver.times_shut_down == OURS_AND_ZEUS


def test_order_of_calls() -> None:
    meter = ZeusMeter()
    for call in (meter.mark, meter.stop):
        with pytest.raises(MeterError, match="start it first"):
            call()
    meter.start()
    with pytest.raises(MeterError, match="stop it before"):
        meter.start()
    meter.stop()
    with pytest.raises(MeterError, match="start it first"):
        meter.mark()
    meter.close()
