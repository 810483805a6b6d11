"""The fake driver, whose curves other tests take for the truth."""

import ctypes
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest

from .conftest import Curve, Driver

FIELDS = [
    pynvml.NVML_FI_DEV_POWER_INSTANT,
    pynvml.NVML_FI_DEV_POWER_AVERAGE,
    pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
]
CODES = {
    pynvml.NVML_FI_DEV_POWER_INSTANT: "field",
    pynvml.NVML_FI_DEV_POWER_AVERAGE: "field_average",
    pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: "field_energy",
}
LEVELS = {"base_w": 9e4, "high_w": 4e5}
CURVES = [
    Curve(kind="constant", base_w=9e4),
    Curve(kind="ramp", base_w=9e4, slope_w=1234.5),
    Curve(kind="square", period_s=0.7, duty=0.3, **LEVELS),
    Curve(kind="square", period_s=1 / 3, slope_w=100, **LEVELS),
    Curve(kind="burst", at_s=2.5, length_s=4.2, **LEVELS),
    Curve(kind="step", at_s=3.1, slope_w=-50, **LEVELS),
    Curve(kind="points", points=((1, 9e4), (2.25, 1e5), (2.5, 4e5), (7, 2e5))),
    Curve(
        kind="points",
        points=tuple((i * 0.013, 1e5 + 3e5 * random.Random(i).random()) for i in range(2000)),
    ),
]
SQUARE = Curve(kind="square", base_w=100, high_w=400, period_s=0.5)


@pytest.fixture
def gpu(driver: Driver) -> Iterator[Any]:
    """A handle of the first GPU."""
    pynvml.nvmlInit()
    yield pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlShutdown()


def field(gpu: Any, number: int, scope: int = 0) -> Any:
    return pynvml.nvmlDeviceGetFieldValues(gpu, [(number, scope)])[0]


def instant_w(gpu: Any) -> float:
    return field(gpu, pynvml.NVML_FI_DEV_POWER_INSTANT).value.uiVal / 1000


def average_w(gpu: Any) -> float:
    return field(gpu, pynvml.NVML_FI_DEV_POWER_AVERAGE).value.uiVal / 1000


def legacy_w(gpu: Any) -> float:
    return pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000


def counter_j(gpu: Any) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000


def code_of(call: Callable[[], object]) -> int:
    """The return code of *call*."""
    try:
        call()
    except pynvml.NVMLError as error:
        return error.value
    return 0


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: f"{curve.kind}-{len(curve.points)}")
def test_library_and_python_have_the_same_curve(driver, gpu, curve: Curve) -> None:
    """Power and counter of the library are those of `Curve` at any time."""
    driver.set(gpu0__counter_offset_j=0, **curve.settings())
    times = random.Random(0)
    for t in [0.0, *(times.uniform(0.05, 40) for _ in range(200))]:
        driver.set(now_s=t)
        assert instant_w(gpu) == legacy_w(gpu) == pytest.approx(curve.power_w(t), rel=1e-6)
        assert counter_j(gpu) == pytest.approx(curve.energy_j(0, t), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: f"{curve.kind}-{len(curve.points)}")
def test_energy_is_the_integral_of_power(curve: Curve) -> None:
    """The formula for energy agrees with many thin slices of power."""
    begin, end, slices = 1.7, 8.3, 100_000
    width = (end - begin) / slices
    total = sum(curve.power_w(begin + (i + 0.5) * width) for i in range(slices)) * width
    assert curve.energy_j(begin, end) == pytest.approx(total, rel=1e-4)
    parts = curve.energy_j(begin, 3.0) + curve.energy_j(3.0, end)
    assert curve.energy_j(begin, end) == pytest.approx(parts, rel=1e-12)


def test_curve_before_the_epoch(driver, gpu) -> None:
    """A window that began before the epoch sees the curve going on there."""
    driver.set(now_s=0.25, gpu0__average_window_s=2, **SQUARE.settings())
    assert average_w(gpu) == pytest.approx(SQUARE.energy_j(-1.75, 0.25) / 2, abs=1e-3)


def test_curves_follow_each_other(driver, gpu) -> None:
    """The settings of a curve leave nothing of the one before."""
    driver.set(now_s=2, **CURVES[6].settings())
    driver.set(**CURVES[1].settings())
    assert instant_w(gpu) == pytest.approx(CURVES[1].power_w(2), rel=1e-6)
    driver.set(**Curve(base_w=70).settings())
    assert instant_w(gpu) == 70


def test_unknown_curve() -> None:
    with pytest.raises(ValueError, match="kind"):
        Curve(kind="sqare")


def test_each_gpu_has_its_own(driver, gpu) -> None:
    """32 GPUs, with curves and identities of their own."""
    driver.set(count=32, now_s=1.0)
    for i in range(32):
        driver.set(**Curve(kind="ramp", base_w=100 + i, slope_w=i).settings(i))
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(32)]

    assert [instant_w(handle) for handle in handles] == [100 + 2 * i for i in range(32)]
    assert [counter_j(handle) for handle in handles] == [1100 + 1.5 * i for i in range(32)]
    assert [pynvml.nvmlDeviceGetIndex(handle) for handle in handles] == list(range(32))
    assert len({pynvml.nvmlDeviceGetUUID(handle) for handle in handles}) == 32
    assert len({pynvml.nvmlDeviceGetPciInfo(handle).busId for handle in handles}) == 32
    assert code_of(lambda: pynvml.nvmlDeviceGetHandleByIndex(32)) == 2


CHILD = """
import ctypes, sys, time
library, handle, counter = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), ctypes.c_ulonglong()
codes = [library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)), library.nvmlInit_v2()]
codes.append(library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)))
before = time.monotonic()
codes.append(library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(counter)))
after = time.monotonic()
codes += [library.nvmlShutdown(), library.nvmlShutdown()]
codes.append(library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(counter)))
print(before, counter.value, after, *codes)
"""


def test_child_process_sees_the_same_counter(driver, gpu) -> None:
    """Processes share the epoch; each has a connection of its own."""
    driver.set(gpu0__counter_offset_j=0, **SQUARE.settings())
    first_j = counter_j(gpu)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, driver.library], capture_output=True, text=True, check=True
    )
    last_j = counter_j(gpu)

    before_s, millijoules, after_s, *codes = map(float, done.stdout.split())
    at_least_j = SQUARE.energy_j(0, before_s - driver.epoch_s)
    at_most_j = SQUARE.energy_j(0, after_s - driver.epoch_s)
    assert at_least_j - 0.001 <= millijoules / 1000 <= at_most_j + 0.001
    assert first_j < millijoules / 1000 < last_j
    assert codes == [1, 0, 0, 0, 0, 1, 1]


def test_counter_refresh(driver, gpu) -> None:
    """The counter stands still between its refreshes."""
    driver.set(gpu0__counter_refresh_s=0.25, gpu0__counter_offset_j=5, **SQUARE.settings())
    for t, refreshed in [(0.1, 0), (0.25, 0.25), (0.49, 0.25), (1.3, 1.25)]:
        driver.set(now_s=t)
        expected = pytest.approx(5 + SQUARE.energy_j(0, refreshed), abs=1e-3)
        assert counter_j(gpu) == expected
        value = field(gpu, pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION).value
        assert value.ullVal / 1000 == expected


@pytest.mark.parametrize(
    ("sensor", "read"), [("instant", instant_w), ("average", average_w), ("legacy", legacy_w)]
)
def test_power_sensors(driver, gpu, sensor: str, read: Callable[[Any], float]) -> None:
    """A reading is the mean of the window that ended at the last refresh."""
    driver.set(**SQUARE.settings())
    driver.set(**{f"gpu0__{sensor}_window_s": 0.4, f"gpu0__{sensor}_refresh_s": 0.3})
    for t, refreshed in [(2.35, 2.1), (2.39, 2.1), (2.41, 2.4), (5.95, 5.7)]:
        driver.set(now_s=t)
        mean_w = SQUARE.energy_j(refreshed - 0.4, refreshed) / 0.4
        assert read(gpu) == pytest.approx(mean_w, abs=1e-3)
    driver.set(**{f"gpu0__{sensor}_window_s": 0})
    assert read(gpu) == SQUARE.power_w(5.7)


def test_sensors_by_default(driver, gpu) -> None:
    """Instant and legacy are exact, the average is over a second."""
    driver.set(now_s=3.1, **SQUARE.settings())
    assert instant_w(gpu) == legacy_w(gpu) == 400
    assert average_w(gpu) == pytest.approx(250)


def test_mean_of_a_constant(driver, gpu) -> None:
    """The rounding of floats does not show in a mean."""
    driver.set(gpu0__average_window_s=0.3)
    for t in range(1, 100):
        driver.set(now_s=t / 7)
        assert average_w(gpu) == 100


def test_fields_of_one_call(driver, gpu) -> None:
    """Each field has its type, its value and the time; one that is unknown has an error."""
    driver.set(now_s=2, **Curve(base_w=300).settings())
    before_us = time.time_ns() // 1000
    values = pynvml.nvmlDeviceGetFieldValues(gpu, [*FIELDS, 1])
    after_us = time.time_ns() // 1000

    assert [value.nvmlReturn for value in values] == [0, 0, 0, 3]
    assert [value.fieldId for value in values] == [*FIELDS, 1]
    assert [value.valueType for value in values[:3]] == [1, 1, 3]
    assert [value.value.uiVal for value in values[:2]] == [300_000, 300_000]
    assert values[2].value.ullVal == 1_600_000
    assert all(before_us - 1 <= value.timestamp <= after_us + 1 for value in values)
    assert ctypes.sizeof(values[0]) == 40


@pytest.mark.parametrize("number", FIELDS)
def test_code_of_a_field(driver, gpu, number: int) -> None:
    """A field that fails leaves the others and the call alone."""
    driver.set(**{f"gpu0__{CODES[number]}": 999})
    codes = {value.fieldId: value.nvmlReturn for value in field_values(gpu)}
    assert codes == {one: 999 if one == number else 0 for one in FIELDS}


def field_values(gpu: Any) -> Any:
    return pynvml.nvmlDeviceGetFieldValues(gpu, FIELDS)


def test_scopes(driver, gpu) -> None:
    """The module's power is there where it is set; memory and energy have no scope."""
    instant, average, energy = FIELDS
    module, memory = pynvml.NVML_POWER_SCOPE_MODULE, pynvml.NVML_POWER_SCOPE_MEMORY
    assert field(gpu, instant, module).nvmlReturn == 3

    driver.set(gpu0__module_w=650)

    for number in (instant, average):
        assert field(gpu, number, module).value.uiVal == 650_000
        assert field(gpu, number, memory).nvmlReturn == 3
        assert field(gpu, number).value.uiVal == 100_000
    assert field(gpu, energy, module).nvmlReturn == 3


def test_age_of_a_reading(driver, gpu) -> None:
    """An old reading has the value and the timestamp of then."""
    curve = Curve(kind="ramp", base_w=100, slope_w=10)
    driver.set(now_s=10, gpu0__reading_age_s=4, gpu0__average_window_s=0, **curve.settings())
    before_us = time.time_ns() // 1000
    instant, average, energy = field_values(gpu)
    after_us = time.time_ns() // 1000

    assert before_us - 4_000_001 <= instant.timestamp <= after_us - 3_999_999
    assert instant.value.uiVal == average.value.uiVal == 160_000
    assert energy.value.ullVal / 1000 == pytest.approx(1000 + curve.energy_j(0, 6))
    assert legacy_w(gpu) == 200

    driver.set(gpu0__no_timestamp=1)
    assert [value.timestamp for value in field_values(gpu)] == [0, 0, 0]


def test_counter_reset(driver, gpu) -> None:
    """From its time on the counter starts at 0."""
    driver.set(gpu0__reset_at_s=5, gpu0__power_w=200, now_s=4.999)
    assert counter_j(gpu) == pytest.approx(1999.8)
    driver.set(now_s=5)
    assert counter_j(gpu) == 0
    driver.set(now_s=6.5)
    assert counter_j(gpu) == pytest.approx(300)
    driver.set(gpu0__counter_refresh_s=2)
    assert counter_j(gpu) == pytest.approx(200)
    driver.set(now_s=5.5)
    assert counter_j(gpu) == 0


def test_blind_interval(driver, gpu) -> None:
    """Power fails, and only power, and only for a while."""
    driver.set(gpu0__blind_from_s=2, gpu0__blind_to_s=3)
    for t, code in [(1.9, 0), (2, 999), (2.9, 999), (3, 0)]:
        driver.set(now_s=t)
        assert [value.nvmlReturn for value in field_values(gpu)] == [code, code, 0]
        assert code_of(lambda: legacy_w(gpu)) == code
        assert code_of(lambda: counter_j(gpu)) == 0


def test_temperature_curve(driver, gpu) -> None:
    driver.set(gpu0__temperature_c=50, gpu0__temperature_slope_c=1.5)
    for t, celsius in [(0, 50), (4, 56), (5, 57)]:
        driver.set(now_s=t)
        assert pynvml.nvmlDeviceGetTemperature(gpu, 0) == celsius
        assert pynvml.nvmlDeviceGetTemperatureV(gpu, 0) == celsius


def test_clock_event_reasons(driver, gpu) -> None:
    """A constant mask, and intervals after it, by either name of the function."""
    driver.set(gpu0__reasons="0x1", gpu0__reasons_at="2:0x8,3:0,4.5:0x8000000000")
    for t, mask in [(1.9, 1), (2, 8), (2.9, 8), (3.5, 0), (5, 0x8000000000)]:
        driver.set(now_s=t)
        assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu) == mask
        assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) == mask


@pytest.mark.parametrize(
    "read",
    [legacy_w, counter_j, field_values, lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, 0)],
    ids=["power", "counter", "fields", "temperature"],
)
def test_slow_calls(driver, gpu, read: Callable[[Any], object]) -> None:
    driver.set(gpu0__delay_ms=30)
    begin = time.monotonic()
    read(gpu)
    assert time.monotonic() - begin >= 0.03


CALLS: dict[str, Callable[[Any], object]] = {
    "nvmlDeviceGetHandleByIndex_v2": lambda gpu: pynvml.nvmlDeviceGetHandleByIndex(0),
    "nvmlDeviceGetHandleByUUID": lambda gpu: pynvml.nvmlDeviceGetHandleByUUID("GPU-a"),
    "nvmlDeviceGetUUID": pynvml.nvmlDeviceGetUUID,
    "nvmlDeviceGetName": pynvml.nvmlDeviceGetName,
    "nvmlDeviceGetIndex": pynvml.nvmlDeviceGetIndex,
    "nvmlDeviceGetMinorNumber": pynvml.nvmlDeviceGetMinorNumber,
    "nvmlDeviceGetPciInfo_v3": pynvml.nvmlDeviceGetPciInfo,
    "nvmlDeviceGetCudaComputeCapability": pynvml.nvmlDeviceGetCudaComputeCapability,
    "nvmlDeviceGetArchitecture": pynvml.nvmlDeviceGetArchitecture,
    "nvmlDeviceGetTotalEnergyConsumption": counter_j,
    "nvmlDeviceGetPowerUsage": legacy_w,
    "nvmlDeviceGetFieldValues": field_values,
    "nvmlDeviceGetTemperature": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, 0),
    "nvmlDeviceGetTemperatureV": lambda gpu: pynvml.nvmlDeviceGetTemperatureV(gpu, 0),
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlDeviceGetCurrentClocksEventReasons,
    "nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    "nvmlDeviceGetUtilizationRates": pynvml.nvmlDeviceGetUtilizationRates,
    "nvmlDeviceGetMemoryInfo": pynvml.nvmlDeviceGetMemoryInfo,
    "nvmlDeviceGetMemoryInfo_v2": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(
        gpu, pynvml.nvmlMemory_v2
    ),
    "nvmlDeviceGetComputeRunningProcesses_v3": pynvml.nvmlDeviceGetComputeRunningProcesses,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    "nvmlDeviceGetPowerManagementLimit": pynvml.nvmlDeviceGetPowerManagementLimit,
    "nvmlDeviceGetPowerManagementDefaultLimit": pynvml.nvmlDeviceGetPowerManagementDefaultLimit,
    "nvmlDeviceGetPowerManagementLimitConstraints": (
        pynvml.nvmlDeviceGetPowerManagementLimitConstraints
    ),
    "nvmlDeviceGetEnforcedPowerLimit": pynvml.nvmlDeviceGetEnforcedPowerLimit,
    "nvmlDeviceGetPersistenceMode": pynvml.nvmlDeviceGetPersistenceMode,
    "nvmlDeviceGetComputeMode": pynvml.nvmlDeviceGetComputeMode,
    "nvmlDeviceGetEccMode": pynvml.nvmlDeviceGetEccMode,
    "nvmlDeviceGetClockInfo": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, 1),
    "nvmlDeviceGetFanSpeed": pynvml.nvmlDeviceGetFanSpeed,
    "nvmlDeviceGetCurrPcieLinkGeneration": pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
    "nvmlDeviceGetCurrPcieLinkWidth": pynvml.nvmlDeviceGetCurrPcieLinkWidth,
    "nvmlDeviceGetC2cModeInfoV": pynvml.nvmlDeviceGetC2cModeInfoV,
    "nvmlDeviceGetMigMode": pynvml.nvmlDeviceGetMigMode,
    "nvmlDeviceGetMaxMigDeviceCount": pynvml.nvmlDeviceGetMaxMigDeviceCount,
    "nvmlDeviceIsMigDeviceHandle": pynvml.nvmlDeviceIsMigDeviceHandle,
    "nvmlDeviceGetMigDeviceHandleByIndex": lambda gpu: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(
        gpu, 0
    ),
}


@pytest.mark.parametrize("function", CALLS)
def test_every_call_of_a_device_can_fail(driver, gpu, function: str) -> None:
    """By a code of its own, and where the device is lost, but not otherwise."""
    driver.set(gpu0__uuid="GPU-a", gpu0__c2c=0, mig0__uuid="MIG-a", gpu0__lost_at_s=2, now_s=1)
    assert code_of(lambda: CALLS[function](gpu)) == 0
    driver.set(**{f"gpu0__{function}": 777})
    assert code_of(lambda: CALLS[function](gpu)) == 777
    driver.set(now_s=2)
    assert code_of(lambda: CALLS[function](gpu)) == 15


def test_no_handle(gpu) -> None:
    """What is no handle is refused."""
    assert code_of(lambda: legacy_w(None)) == 2
    assert code_of(lambda: pynvml.nvmlDeviceGetName(ctypes.c_void_p(1))) == 2


def test_what_a_gpu_is(driver, gpu) -> None:
    """Each value arrives where the binding looks for it."""
    driver.set(gpu0__memory_mib=100, gpu0__memory_used_mib=30, gpu0__utilisation_pct=70)
    driver.set(gpu0__memory_utilisation_pct=20, gpu0__architecture=7, gpu0__limit_mw=5e5)
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    newer = pynvml.nvmlDeviceGetMemoryInfo(gpu, pynvml.nvmlMemory_v2)
    rates = pynvml.nvmlDeviceGetUtilizationRates(gpu)
    pci = pynvml.nvmlDeviceGetPciInfo(gpu)

    for info in (memory, newer):
        assert (info.total, info.free, info.used) == (100 << 20, 70 << 20, 30 << 20)
    assert newer.reserved == 0
    assert (rates.gpu, rates.memory) == (70, 20)
    assert (pci.bus, pci.busId, pci.busIdLegacy) == (1, "00000000:01:00.0", "0000:01:00.0")
    assert pynvml.nvmlDeviceGetArchitecture(gpu) == pynvml.NVML_DEVICE_ARCH_AMPERE
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu) == 500_000
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu) == [200_000, 700_000]
    assert pynvml.nvmlDeviceGetMinorNumber(gpu) == 0
    assert code_of(lambda: pynvml.nvmlDeviceGetC2cModeInfoV(gpu)) == 3
    assert code_of(lambda: pynvml.nvmlDeviceGetTemperature(gpu, 1)) == 2


def test_processes(driver, gpu) -> None:
    """None by default; the binding asks for their number first."""
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
    driver.set(gpu0__processes="4194303:512,17:3")
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert [(p.pid, p.usedGpuMemory) for p in processes] == [(4194303, 512 << 20), (17, 3 << 20)]
    assert pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu) == []


def test_mig_instances(driver, gpu) -> None:
    """They are found by index and UUID, know their GPU, and tell no power."""
    driver.set(count=2, gpu1__mig=1)
    driver.set(mig0__uuid="MIG-a", mig0__parent=1, mig3__uuid="MIG-b", mig3__parent=1)
    parent = pynvml.nvmlDeviceGetHandleByIndex(1)

    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(parent) == 7
    assert code_of(lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)) == 6
    assert code_of(lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 2)) == 6
    instances = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, i) for i in range(2)]
    assert [pynvml.nvmlDeviceGetUUID(instance) for instance in instances] == ["MIG-a", "MIG-b"]
    instance = pynvml.nvmlDeviceGetHandleByUUID("MIG-b")
    assert pynvml.nvmlDeviceIsMigDeviceHandle(instance).value == 1
    assert pynvml.nvmlDeviceIsMigDeviceHandle(parent).value == 0
    found = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    assert pynvml.nvmlDeviceGetIndex(found) == 1
    for read in (legacy_w, counter_j, field_values):
        assert code_of(lambda read=read: read(instance)) == 3


def test_gpu_by_uuid(driver, gpu) -> None:
    driver.set(count=2, gpu1__uuid="GPU-mine")
    for index, uuid in [(0, "GPU-00000000-0000-0000-0000-000000000000"), (1, "GPU-mine")]:
        found = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        assert pynvml.nvmlDeviceGetIndex(found) == index
    for uuid in ("", "GPU-10000000-0000-0000-0000-000000000000", "MIG-mine"):
        assert code_of(lambda uuid=uuid: pynvml.nvmlDeviceGetHandleByUUID(uuid)) == 6


def test_system_calls_can_fail(driver, gpu) -> None:
    driver.set(nvmlSystemGetDriverVersion=9, nvmlDeviceGetCount_v2=8, nvmlInitWithFlags=7)
    assert code_of(pynvml.nvmlSystemGetDriverVersion) == 9
    assert code_of(pynvml.nvmlDeviceGetCount) == 8
    assert code_of(pynvml.nvmlInit) == 7


def test_description_that_changes(driver, gpu) -> None:
    """A file in place of another is read, even of the same size; a line half written is not."""
    driver.set(gpu0__power_w=111)
    assert instant_w(gpu) == 111
    other = driver.file.with_name("other.txt")
    other.write_text(driver.file.read_text().replace("111", "222"))
    stat = driver.file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(driver.file)
    assert instant_w(gpu) == 222
    with driver.file.open("a") as file:
        file.write("gpu0.power_w 33")
        file.flush()
        assert instant_w(gpu) == 222
        file.write("3\n")
    assert instant_w(gpu) == 333


def test_threads(driver, gpu) -> None:
    """Many threads read while the description changes, and see one or the other."""
    first, second = (Curve(kind="points", points=((0, w), (1, w + 50))) for w in (100, 200))
    driver.set(now_s=2, **first.settings())
    seen: set[float] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(instant_w(gpu))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for curve in (second, first) * 50:
        driver.set(**curve.settings())
        time.sleep(0.001)
    done.set()
    for thread in threads:
        thread.join()

    assert seen == {150.0, 250.0}
