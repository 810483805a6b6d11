"""The NVML meter: the real binding, and the sampling process, on top of a compiled library."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import attrs
import numpy as np
import pynvml
import pytest

from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure import NvmlMeter, device_energies
from llem.measure.nvml import Timing, timing
from llem.protocols import Edge, EnergyMeter, Samples

from .conftest import Curve, Driver

UUIDS = [f"GPU-{i}0000000-0000-0000-0000-000000000000" for i in range(8)]
NO_COUNTER = {"gpu0__nvmlDeviceGetTotalEnergyConsumption": 3}
NO_POWER = {"gpu0__field": 3, "gpu0__nvmlDeviceGetPowerUsage": 3, "gpu0__field_average": 3}


@pytest.fixture
def opened() -> Iterator[Callable[..., NvmlMeter]]:
    """Opens meters. They are closed after the test."""
    meters = []

    def opened(**options: object) -> NvmlMeter:
        meters.append(NvmlMeter(**options))
        return meters[-1]

    yield opened
    for meter in meters:
        meter.close()


@attrs.frozen
class Run:
    """A measured window."""

    begin: Edge
    end: Edge
    samples: Samples
    energies: tuple[DeviceEnergy, ...]

    @property
    def duration_s(self) -> float:
        return self.end.time_s - self.begin.time_s


def measured(meter: NvmlMeter, seconds: float = 0.25) -> Run:
    """A window of *seconds*."""
    meter.start()
    begin = meter.mark()
    time.sleep(seconds)
    end = meter.mark()
    samples = meter.stop()
    return Run(begin, end, samples, device_energies(meter.devices, samples, begin, end))


def is_shut_down() -> bool:
    """Whether this process has let go of NVML as often as it took it."""
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError_Uninitialized:
        return True
    return False


def test_is_a_meter(driver, opened) -> None:
    meter = opened()
    assert isinstance(meter, EnergyMeter)
    assert meter.name == "nvml"


def test_counter_and_integral_agree(driver, opened) -> None:
    """Counter and power of a ramp give the same energy, both of which are kept."""
    curve = Curve(kind="ramp", base_w=200, slope_w=50)
    driver.set(**curve.settings())

    run = measured(opened())

    (energy,) = run.energies
    truth_j = curve.energy_j(run.begin.time_s - driver.epoch_s, run.end.time_s - driver.epoch_s)
    assert energy.sensor is Sensor.NVML_TOTAL_ENERGY
    assert energy.energy_j == energy.counter_j == pytest.approx(truth_j, rel=0.02)
    assert energy.integrated_j == pytest.approx(truth_j, rel=0.02)
    assert energy.sample_count >= 2
    assert set(energy.codes) <= {"samples_missed", "sampling_gap"}


def test_what_a_device_says_of_itself(driver, opened) -> None:
    driver.set(count=2, gpu0__limit_mw=350_000)
    driver.set(gpu1__name="NVIDIA Other", gpu1__nvmlDeviceGetEnforcedPowerLimit=3)

    first, second = opened(period_s=0.1).devices

    assert (first.index, first.uuid, first.name) == (0, UUIDS[0], "NVIDIA Fake")
    assert (second.index, second.uuid, second.name) == (1, UUIDS[1], "NVIDIA Other")
    assert first.sensor is Sensor.NVML_POWER_INSTANT
    assert (first.scope, first.period_s, first.parent_of_mig) == ("gpu", 0.1, False)
    assert (first.limit_w, second.limit_w) == (350.0, None)
    assert (first.refresh_s, first.window_s, first.counter_refresh_s) == (0.1, 0.025, 0.1)
    assert first.counter_range_j is None


def test_samples_of_every_device(driver, opened) -> None:
    """Each device has its own column of everything."""
    driver.set(count=2, gpu0__power_w=100, gpu1__power_w=300, gpu1__temperature_c=70)
    driver.set(gpu0__utilisation_pct=100, gpu0__memory_utilisation_pct=7)
    driver.set(gpu1__memory_used_mib=512, gpu1__reasons=0x8000_0004, gpu0__counter_offset_j=5000)

    samples = measured(opened()).samples

    assert [set(column) for column in samples.power_w.T] == [{100.0}, {300.0}]
    assert [set(column) for column in samples.temperature_c.T] == [{40.0}, {70.0}]
    assert [set(column) for column in samples.clock_event_reasons.T] == [{0}, {4}]
    assert samples.counter_j[0] == pytest.approx([5000, 1000], abs=900)
    read = np.isfinite(samples.utilisation_pct[:, 0])
    assert read[0]
    assert not read.all()
    assert samples.utilisation_pct[read].tolist() == [[100, 0]] * read.sum()
    assert samples.memory_utilisation_pct[read].tolist() == [[7, 0]] * read.sum()
    assert samples.memory_mb[read].tolist() == [[0, 512]] * read.sum()
    assert (np.isfinite(samples.counter_j[:, 1]) == read).all()
    assert (samples.stride, samples.notes) == (1, ())


def test_eight_gpus(driver, opened) -> None:
    """Each of a whole server's GPUs has its own energy."""
    driver.set(count=8, **{f"gpu{i}__power_w": 50 * (i + 1) for i in range(8)})

    run = measured(opened())

    assert [energy.uuid for energy in run.energies] == UUIDS
    watts = [50 * (i + 1) * run.duration_s for i in range(8)]
    assert [energy.energy_j for energy in run.energies] == pytest.approx(watts, rel=0.05)
    assert [energy.integrated_j for energy in run.energies] == pytest.approx(watts, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "sensor", "lag_s"),
    [
        ({}, Sensor.NVML_POWER_INSTANT, 0),
        ({"gpu0__nvmlDeviceGetPowerUsage": 3}, Sensor.NVML_POWER_INSTANT, 0),
        ({"gpu0__field": 3, "gpu0__legacy_window_s": 2}, Sensor.NVML_POWER, 1),
        ({"gpu0__nvmlDeviceGetFieldValues": 13}, Sensor.NVML_POWER, 0),
        ({"gpu0__field": 3, "gpu0__nvmlDeviceGetPowerUsage": 3}, Sensor.NVML_POWER_AVERAGE, 0.5),
    ],
    ids=["instant", "no legacy", "legacy", "no fields", "average"],
)
def test_power_reading(
    driver, opened, settings: dict[str, object], sensor: Sensor, lag_s: float
) -> None:
    """The first that answers, by its own return code, is the one that is sampled."""
    driver.set(gpu0__power_w=5000, gpu0__slope_w=1000, **settings, **NO_COUNTER)
    meter = opened()

    run = measured(meter)

    assert meter.devices[0].sensor is run.energies[0].sensor is sensor
    truth_w = 5000 + 1000 * (run.samples.times_s - driver.epoch_s - lag_s)
    # A preempted reading may be a little off in time.
    assert np.median(run.samples.power_w[:, 0] - truth_w) == pytest.approx(0, abs=200)
    assert run.energies[0].counter_j is None
    assert run.energies[0].energy_j == run.energies[0].integrated_j > 0


@pytest.mark.parametrize("code", [3, 13, 999])
def test_counter_is_found_by_asking(driver, opened, code: int) -> None:
    """Whatever a call for it returns but success, there is no counter."""
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=code)

    run = measured(opened())

    assert run.begin.counters_j == (None,)
    assert np.isnan(run.samples.counter_j).all()
    (energy,) = run.energies
    assert (energy.counter_j, energy.sensor) == (None, Sensor.NVML_POWER_INSTANT)
    assert energy.energy_j == pytest.approx(100 * run.duration_s, rel=0.02)


def test_counter_without_power(driver, opened) -> None:
    """A device with a counter alone has no power sampled, and has its counter."""
    driver.set(**NO_POWER)
    meter = opened()
    (device,) = meter.devices

    run = measured(meter)

    (energy,) = run.energies
    assert (device.sensor, device.period_s) == (Sensor.NVML_TOTAL_ENERGY, None)
    assert energy.energy_j == energy.counter_j == pytest.approx(100 * run.duration_s, rel=0.1)
    assert (energy.integrated_j, energy.sample_count, energy.codes) == (None, 0, ())
    assert np.isnan(run.samples.power_w).all()
    assert set(run.samples.temperature_c.ravel()) == {40.0}


def test_silent_device_among_others(driver, opened) -> None:
    """A device that tells nothing has no figure; the others keep theirs."""
    driver.set(count=2, **NO_POWER, **NO_COUNTER)

    run = measured(opened())

    silent, other = run.energies
    assert (silent.energy_j, silent.codes) == (None, ("energy_not_measured",))
    assert other.energy_j == pytest.approx(100 * run.duration_s, rel=0.1)


@pytest.mark.parametrize(("scope", "name"), [(0, "gpu"), (1, "module"), (2, "memory"), (9, "gpu")])
def test_scope_of_the_power(driver, opened, monkeypatch, scope: int, name: str) -> None:
    """What a power field covers is what the driver says that it does."""
    read = pynvml.nvmlDeviceGetFieldValues

    def scoped(handle: object, fields: list[object]) -> object:
        values = read(handle, fields)
        for value in values:
            value.scopeId = scope
        return values

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", scoped)
    assert opened().devices[0].scope == name


@pytest.mark.parametrize(
    ("settings", "age_s"),
    [
        ({}, 0),
        ({"gpu0__reading_age_s": 2}, 2),
        ({"gpu0__no_timestamp": 1}, None),
        ({"gpu0__field": 3}, None),
    ],
    ids=["fresh", "old", "undated", "legacy"],
)
def test_age_of_readings(driver, opened, settings: dict[str, object], age_s: float | None) -> None:
    """The time since the driver took a reading, where it says so."""
    driver.set(**settings)
    ages_s = measured(opened(), 0.05).samples.reading_age_s
    if age_s is None:
        assert np.isnan(ages_s).all()
    else:
        assert np.median(ages_s) == pytest.approx(age_s, abs=0.5)


def test_age_counts_in_the_bound(driver, opened) -> None:
    """What readings lag behind is part of what the energy may be off by."""
    driver.set(count=2, **NO_COUNTER, gpu0__reading_age_s=2)
    driver.set(gpu1__nvmlDeviceGetTotalEnergyConsumption=3)
    old, fresh = measured(opened(), 0.05).energies
    assert old.error_bound_j > fresh.error_bound_j + 700


def test_counter_reset_during_the_run(driver, opened) -> None:
    """A counter that starts anew is unknown, and the integral gives the figure."""
    driver.set(gpu0__reset_at_s=time.monotonic() - driver.epoch_s + 0.3)

    run = measured(opened(), 0.5)

    (energy,) = run.energies
    assert (energy.counter_j, energy.sensor) == (None, Sensor.NVML_POWER_INSTANT)
    assert "counter_reset" in energy.codes
    assert energy.energy_j == energy.integrated_j
    assert energy.energy_j == pytest.approx(100 * run.duration_s, rel=0.02)


@pytest.mark.parametrize("setting", ["blind", "field"])
def test_readings_that_fail_for_a_while(driver, opened, setting: str) -> None:
    """Failed readings are not numbers, and are bridged and counted, never zero."""
    driver.set(**NO_COUNTER)
    meter = opened(period_s=0.01)
    meter.start()
    begin = meter.mark()
    time.sleep(0.1)
    # The call succeeds all the same: only the field's own return code tells.
    now = time.monotonic() - driver.epoch_s
    driver.set(**({"gpu0__blind_from_s": now} if setting == "blind" else {"gpu0__field": 999}))
    time.sleep(0.3)
    driver.set(gpu0__blind_from_s="inf", gpu0__field=0)
    time.sleep(0.1)
    end = meter.mark()
    samples = meter.stop()
    (energy,) = device_energies(meter.devices, samples, begin, end)

    assert set(samples.power_w[np.isfinite(samples.power_w)]) == {100.0}
    failed_s = samples.times_s[np.isnan(samples.power_w[:, 0])]
    assert failed_s.min() - driver.epoch_s > now - 0.1
    assert set(samples.temperature_c.ravel()) == {40.0}
    assert energy.energy_j == pytest.approx(100 * (end.time_s - begin.time_s), rel=0.02)
    assert "sampling_gap" in energy.codes
    assert energy.max_gap_s > 0.2
    assert energy.coverage < 0.8


@pytest.mark.parametrize(
    ("function", "column"),
    [
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetUtilizationRates", "utilisation_pct"),
        ("nvmlDeviceGetUtilizationRates", "memory_utilisation_pct"),
        ("nvmlDeviceGetMemoryInfo", "memory_mb"),
        ("nvmlDeviceGetTotalEnergyConsumption", "counter_j"),
    ],
)
def test_call_that_fails_from_some_time_on(driver, opened, function: str, column: str) -> None:
    """It gives no number then, and all others go on."""
    driver.set(gpu0__utilisation_pct=50, gpu0__memory_utilisation_pct=50, count=2)
    driver.set(gpu0__memory_used_mib=100, gpu1__memory_used_mib=100)
    meter = opened(period_s=0.01)
    meter.start()
    driver.set(**{f"gpu0__{function}": 999})
    time.sleep(0.35)
    samples = meter.stop()

    read = np.isfinite(getattr(samples, column))
    first, *_, last = read[read[:, 1], 0]
    assert first
    assert not last
    assert np.isfinite(samples.power_w).all()


@pytest.mark.parametrize(
    ("failing", "expected"), [((), [{4}, {1}]), ((0,), [{0}, {1}]), ((0, 1), None)]
)
def test_clock_event_reasons(driver, opened, failing: tuple[int, ...], expected) -> None:
    """None where no device tells them, and no reason where one does not."""
    driver.set(count=2, gpu0__reasons=4, gpu1__reasons=1)
    for gpu in failing:
        driver.set(**{f"gpu{gpu}__nvmlDeviceGetCurrentClocksEventReasons": 3})
    reasons = measured(opened(), 0.05).samples.clock_event_reasons
    assert (reasons if expected is None else [set(column) for column in reasons.T]) == expected


def test_gpu_lost_during_the_run(driver, opened) -> None:
    """A GPU that is gone leaves no figure that looks whole; the others go on."""
    driver.set(count=2)
    meter = opened(period_s=0.01)
    meter.start()
    begin = meter.mark()
    time.sleep(0.05)
    lost_s = time.monotonic()
    driver.set(gpu0__lost_at_s=lost_s - driver.epoch_s)
    time.sleep(0.3)
    end = meter.mark()
    samples = meter.stop()
    lost, other = device_energies(meter.devices, samples, begin, end)

    assert lost.energy_j is None
    assert {"counter_reset", "sampling_gap", "energy_not_measured"} <= set(lost.codes)
    assert other.energy_j == pytest.approx(100 * (end.time_s - begin.time_s), rel=0.05)
    # A reading that is under way meanwhile may have either.
    gone = samples.times_s > lost_s + 0.1
    assert gone.any()
    for column in (samples.power_w, samples.temperature_c, samples.counter_j):
        assert np.isnan(column[gone, 0]).all()
    assert np.isfinite(samples.power_w[:, 1]).all()
    assert np.isnan(samples.reading_age_s[gone, 0]).all()
    (note,) = samples.notes
    assert note.startswith(f"{lost.uuid}: power was not read ")
    assert "error 15 of NVML (power): the GPU has fallen off the bus: restart the machine" in note


@pytest.mark.parametrize(("failed_s", "told"), [(0.02, False), (0.3, True)])
@pytest.mark.parametrize("setting", ["field", "nvmlDeviceGetPowerUsage"])
def test_why_readings_failed(driver, opened, setting: str, failed_s: float, told: bool) -> None:
    """It is told with NVML's own code, unless they were few: those are bridged."""
    if setting != "field":
        driver.set(gpu0__field=3)
    meter = opened(period_s=0.02)
    meter.start()
    time.sleep(0.1)
    driver.set(**{f"gpu0__{setting}": 17})
    time.sleep(failed_s)
    driver.set(**{f"gpu0__{setting}": 0})
    time.sleep(0.9)
    notes = meter.stop().notes

    assert bool(notes) is told
    assert all("error 17 of NVML (power): the operating system blocked it" in n for n in notes)


def test_slow_calls(driver, opened) -> None:
    """A driver that answers late is sampled less often, and that is counted."""
    meter = opened()
    driver.set(gpu0__delay_ms=40)

    run = measured(meter, 0.6)

    (energy,) = run.energies
    # Power and temperature are two calls.
    assert np.diff(run.samples.times_s)[:-1].min() > 0.07
    assert 0 < energy.sample_count <= 8
    assert energy.coverage < 0.4
    assert "samples_missed" in energy.codes
    assert run.begin.spread_s >= 0.04
    spread_s = (run.begin.spread_s + run.end.spread_s) / 2
    assert abs(energy.energy_j - 100 * run.duration_s) <= 100 * spread_s + 1e-6
    assert energy.integrated_j == pytest.approx(100 * run.duration_s, rel=0.02)


def test_edge_is_in_the_middle_of_its_calls(driver, opened) -> None:
    """The counters were read within half of its spread, before and after."""
    meter = opened()
    driver.set(gpu0__delay_ms=40)
    before_s = time.monotonic()
    edge = meter.mark()
    after_s = time.monotonic()
    assert edge.spread_s >= 0.04
    assert before_s <= edge.time_s - edge.spread_s / 2 + 1e-9
    assert edge.time_s + edge.spread_s / 2 <= after_s + 1e-9


def test_what_is_sampled_is_settled_where_it_is_opened(driver, opened) -> None:
    """A reading that answers later does not come in halfway."""
    driver.set(count=2, **NO_POWER, **NO_COUNTER)
    meter = opened()
    driver.set(**dict.fromkeys([*NO_POWER, *NO_COUNTER], 0))
    samples = measured(meter, 0.05).samples
    assert np.isnan(samples.power_w[:, 0]).all()
    assert np.isnan(samples.counter_j[:, 0]).all()
    assert np.isfinite(samples.power_w[:, 1]).all()


@pytest.mark.parametrize(
    ("setting", "indices"),
    [("2,0", [2, 0]), ("GPU-3", [3]), ("GPU-20", [2]), ("1,x,2", [1]), ("0,9", [0])],
)
def test_visible_devices(driver, opened, monkeypatch, setting: str, indices: list[int]) -> None:
    """The GPUs that CUDA shows, in its order, under indices without holes, and no others."""
    driver.set(count=4, **{f"gpu{i}__power_w": 100 * (i + 1) for i in range(4)})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    meter = opened()

    samples = measured(meter, 0.05).samples

    assert [device.uuid for device in meter.devices] == [UUIDS[i] for i in indices]
    assert [device.index for device in meter.devices] == list(range(len(indices)))
    assert [set(column) for column in samples.power_w.T] == [{100.0 * (i + 1)} for i in indices]


@pytest.mark.parametrize("setting", ["", "-1", "7", "0,0"])
def test_no_visible_device(driver, monkeypatch, setting: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    with pytest.raises(MeterError, match="CUDA_VISIBLE_DEVICES"):
        NvmlMeter()
    assert driver.times_shut_down == 1


def test_uuids_of_the_backend(driver, opened, monkeypatch) -> None:
    """UUIDs say which GPUs are meant, with or without their prefix, whatever CUDA shows."""
    driver.set(count=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    meter = opened(uuids=[UUIDS[2], UUIDS[1].removeprefix("GPU-"), UUIDS[2]])
    assert [device.uuid for device in meter.devices] == [UUIDS[2], UUIDS[1]]


def test_unknown_uuid(driver) -> None:
    with pytest.raises(MeterError, match="GPU-beef"):
        NvmlMeter(uuids=["GPU-beef"])
    assert is_shut_down()


def test_no_gpu_in_use(driver) -> None:
    """A backend on no GPU has nothing that NVML could meter."""
    with pytest.raises(MeterError, match="runs on no GPU"):
        NvmlMeter(uuids=[])


@pytest.mark.parametrize("by", ["environment", "uuids"])
def test_mig_instance(driver, opened, monkeypatch, by: str) -> None:
    """An instance is metered by its GPU, and marked."""
    driver.set(count=2, gpu1__mig=1, mig0__uuid="MIG-abc", mig0__parent=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    meter = opened() if by == "environment" else opened(uuids=["MIG-abc"])

    (energy,) = measured(meter, 0.05).energies

    assert energy.uuid == UUIDS[1]
    assert energy.integrated_j is not None
    assert "mig_parent_energy" in energy.codes


@pytest.mark.parametrize(
    "settings", [{"gpu0__mig": 1}, {"gpu0__nvmlDeviceGetMigMode": 3, "mig0__uuid": "MIG-abc"}]
)
def test_gpu_known_to_be_split(driver, opened, monkeypatch, settings: dict[str, object]) -> None:
    """Its own mode, or an instance of it that is in use, mark a GPU as split."""
    driver.set(**settings)
    if "mig0__uuid" in settings:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    assert opened().devices[0].parent_of_mig


@pytest.mark.parametrize(
    "settings", [{}, {"mig0__nvmlDeviceGetDeviceHandleFromMigDeviceHandle": 6}]
)
def test_unknown_instance(driver, monkeypatch, settings: dict[str, int]) -> None:
    if settings:
        driver.set(mig0__uuid="MIG-abc", **settings)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    with pytest.raises(MeterError, match="no GPU"):
        NvmlMeter()


def test_gpu_of_another_user(driver, opened) -> None:
    """A GPU that may not be opened is none of this process's."""
    driver.set(count=2, gpu0__nvmlDeviceGetHandleByIndex_v2=4)
    assert [device.uuid for device in opened().devices] == [UUIDS[1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nvmlInitWithFlags": 9}, "driver is not loaded.*modprobe nvidia"),
        ({"nvmlInitWithFlags": 4}, "may not.*/dev/nvidia"),
        ({"nvmlInitWithFlags": 18}, "differ in version.*restart"),
        ({"nvmlDeviceGetCount_v2": 999}, "unknown error"),
        ({"gpu0__nvmlDeviceGetHandleByIndex_v2": 15}, "GPU 0.*fallen off the bus"),
        ({"gpu0__nvmlDeviceGetUUID": 15}, "fallen off the bus"),
        ({**NO_POWER, **NO_COUNTER}, "does not support it.*rapl"),
    ],
)
def test_driver_that_does_not_answer(driver, settings: dict[str, int], words: str) -> None:
    """One line says what is wrong and what to do, and no connection stays open."""
    driver.set(**settings)

    with pytest.raises(MeterError, match=words) as caught:
        NvmlMeter()

    assert "\n" not in str(caught.value)
    assert driver.times_shut_down == (0 if "nvmlInitWithFlags" in settings else 1)
    assert is_shut_down()


def test_missing_library(no_driver) -> None:
    with pytest.raises(MeterError, match=r"libnvidia-ml\.so\.1.*install the NVIDIA driver"):
        NvmlMeter()


def test_missing_binding(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        NvmlMeter()


def test_connection_lasts_until_close(driver) -> None:
    """However often it measures it is one connection, and one of each sampling process."""
    meter = NvmlMeter()
    measured(meter, 0.01)
    measured(meter, 0.01)
    assert not is_shut_down()
    assert driver.times_shut_down == 2

    meter.close()
    meter.close()
    assert is_shut_down()
    assert driver.times_shut_down == 3


def test_samples_begin_anew(driver, opened) -> None:
    """A second measurement has none of the samples of the first."""
    meter = opened()
    first, second = measured(meter, 0.05), measured(meter, 0.05)
    assert first.samples.times_s[-1] < second.samples.times_s[0] <= second.begin.time_s


def test_close_ends_sampling(driver) -> None:
    meter = NvmlMeter()
    meter.start()
    meter.close()
    assert is_shut_down()
    assert driver.times_shut_down == 2
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


def test_order_of_calls(driver, opened) -> None:
    meter = opened()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    with pytest.raises(MeterError, match="already"):
        meter.start()
    meter.stop()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


@pytest.fixture
def only_here(driver: Driver, monkeypatch) -> Driver:
    """A library that this process has loaded, and that no other finds by its name."""
    monkeypatch.setattr(pynvml.nvmlLib, "_name", "libnvidia-ml.so.1")
    return driver


def test_thread_where_the_process_does_not_find_the_library(only_here) -> None:
    """This process samples then, and a note says why."""
    meter = NvmlMeter()
    run = measured(meter)
    meter.close()

    (note,) = run.samples.notes
    assert note.startswith("samples were taken by a thread")
    assert "nvml" in note or "libnvidia-ml.so.1" in note
    assert [set(column) for column in run.samples.power_w.T] == [{100.0}]
    assert set(run.samples.temperature_c.ravel()) == {40.0}
    assert run.energies[0].integrated_j == pytest.approx(100 * run.duration_s, rel=0.02)
    assert is_shut_down()
    assert only_here.times_shut_down == 2


@pytest.mark.parametrize("settings", [{"nvmlInit_v2": 9}, {"gpu0__nvmlDeviceGetHandleByUUID": 15}])
def test_neither_process_nor_thread(driver, settings: dict[str, int]) -> None:
    """A meter that cannot sample says so, and lets go of all."""
    meter = NvmlMeter()
    driver.set(**settings)
    with pytest.raises(MeterError, match=r"the sensor cannot be sampled: nvml\w+ returned"):
        meter.start()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.close()
    driver.set(nvmlInit_v2=0)
    assert is_shut_down()


@pytest.mark.parametrize("period_s", [0, -1, 5e-324, 0.0009, 0.11, math.nan])
def test_period_is_from_1_to_100_ms(period_s: float) -> None:
    with pytest.raises(MeterError, match=r"period_s must be from 0\.001 to 0\.1, got"):
        NvmlMeter(period_s=period_s)


@pytest.mark.parametrize("period_s", [np.float64(0.0625), np.float32(0.0625), Fraction(1, 16)])
def test_period_is_any_real_number(driver, period_s: float) -> None:
    """The sampling process is told it as a float."""
    meter = NvmlMeter(period_s=period_s)
    run = measured(meter)
    meter.close()

    assert repr(meter.devices[0].period_s) == "0.0625"
    assert run.samples.notes == ()


INSTANT, AVERAGE, LEGACY = (
    Sensor.NVML_POWER_INSTANT,
    Sensor.NVML_POWER_AVERAGE,
    Sensor.NVML_POWER,
)


@pytest.mark.parametrize(
    ("capability", "instant", "legacy"),
    [
        ((0, 0), Timing(0.1, 0.025), Timing(0.1, 0.025)),
        ((6, 0), Timing(0.02, 0.01), Timing(0.02, 0.01)),
        ((6, 1), Timing(0.1, 0.1), Timing(0.1, 0.1)),
        ((7, 0), Timing(0.02, 0.01), Timing(0.02, 0.01)),
        ((7, 5), Timing(0.1, 0.1), Timing(0.1, 0.1)),
        ((8, 0), Timing(0.1, 0.025), Timing(0.1, 0.025)),
        ((8, 6), Timing(0.1, 0.1), Timing(0.1, 1.0)),
        ((8, 9), Timing(0.1, 0.1), Timing(0.1, 1.0)),
        ((9, 0), Timing(0.1, 0.025), Timing(0.1, 1.0)),
        ((12, 0), Timing(0.1, 0.025), Timing(0.1, 1.0)),
    ],
)
def test_timing(capability: tuple[int, int], instant: Timing, legacy: Timing) -> None:
    """How attentive each reading is, by generation; one not known is taken for the least."""
    assert timing(INSTANT, capability) == instant
    assert timing(LEGACY, capability) == legacy
    assert timing(AVERAGE, capability) == Timing(0.1, 1.0)


def test_timing_of_the_gpu(driver, opened, monkeypatch) -> None:
    """It is that of the GPU's own capability, and the least attentive where it tells none."""
    driver.set(count=2, gpu1__nvmlDeviceGetCudaComputeCapability=3)
    monkeypatch.setattr(
        pynvml,
        "nvmlDeviceGetCudaComputeCapability",
        lambda handle, ask=pynvml.nvmlDeviceGetCudaComputeCapability: ask(handle) and (7, 0),
    )
    first, second = opened().devices
    assert (first.refresh_s, first.window_s) == (0.02, 0.01)
    assert (second.refresh_s, second.window_s) == (0.1, 0.025)


def test_library_loaded_by_name(fake_library: Path, tmp_path: Path) -> None:
    """The binding finds the library as it finds NVIDIA's, and so does the sampling process."""
    (tmp_path / "driver.txt").write_text("count 2\n")
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.fspath(fake_library.parent),
        "FAKE_NVML": os.fspath(tmp_path / "driver.txt"),
    }
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    script = (
        "import sys, llem.measure; assert 'pynvml' not in sys.modules; "
        "meter = llem.measure.NvmlMeter(); meter.start(); samples = meter.stop(); "
        "print(samples.power_w.shape[1], samples.notes)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout == "2 ()\n"
