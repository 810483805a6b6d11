"""The NVML meter: the real binding on top of a library compiled from C."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest

import llem.measure.nvml_client as client_module
from llem.domain.energy import DeviceEnergy, Sensor
from llem.errors import MeterError
from llem.measure import NvmlMeter, device_energies
from llem.measure.nvml_client import ADVICE, NvmlClient, message
from llem.protocols import EnergyMeter

UUIDS = [f"GPU-{i}0000000-0000-0000-0000-000000000000" for i in range(8)]


def measured(meter: NvmlMeter, seconds: float = 0.3) -> tuple[DeviceEnergy, ...]:
    """The energies of a window of *seconds*."""
    meter.start()
    begin = meter.mark()
    time.sleep(seconds)
    end = meter.mark()
    return device_energies(meter.devices, meter.stop(), begin, end)


def test_is_a_meter(driver) -> None:
    meter = NvmlMeter()
    assert isinstance(meter, EnergyMeter)
    assert meter.name == "nvml"
    meter.close()


def test_counter_and_integral_agree(driver) -> None:
    """Counter and power of a ramp give the same energy, both of which are kept."""
    driver.set(gpu0__power_w=200, gpu0__slope_w=50)
    meter = NvmlMeter(period_s=0.02)

    (energy,) = measured(meter)
    meter.close()

    assert energy.sensor is Sensor.NVML_TOTAL_ENERGY
    assert energy.energy_j == energy.counter_j > 60
    assert energy.integrated_j == pytest.approx(energy.counter_j, rel=0.02)
    assert energy.sample_count >= 10
    assert energy.codes == ()


def test_what_a_device_says_of_itself(driver) -> None:
    driver.set(count=2, gpu1__name="NVIDIA Other")
    meter = NvmlMeter(period_s=0.1)

    first, second = meter.devices
    meter.close()

    assert (first.index, first.uuid, first.name) == (0, UUIDS[0], "NVIDIA Fake")
    assert (second.index, second.uuid, second.name) == (1, UUIDS[1], "NVIDIA Other")
    assert first.sensor is Sensor.NVML_POWER_INSTANT
    assert (first.scope, first.period_s, first.parent_of_mig) == ("gpu", 0.1, False)


def test_samples_of_every_device(driver) -> None:
    """Each device has its own power and temperature."""
    driver.set(count=2, gpu0__power_w=100, gpu1__power_w=300, gpu1__temperature_c=70)
    meter = NvmlMeter(period_s=0.02)
    meter.start()
    time.sleep(0.1)
    samples = meter.stop()
    meter.close()

    assert [set(column) for column in samples.power_w] == [{100.0}, {300.0}]
    assert [set(column) for column in samples.temperature_c] == [{40.0}, {70.0}]


@pytest.mark.parametrize(
    ("settings", "sensor"),
    [
        ({}, Sensor.NVML_POWER_INSTANT),
        ({"gpu0__field": 3}, Sensor.NVML_POWER),
        ({"gpu0__nvmlDeviceGetFieldValues": 13}, Sensor.NVML_POWER),
    ],
)
def test_power_without_counter(driver, settings: dict[str, int], sensor: Sensor) -> None:
    """The instant field where it answers, by its own return code; the legacy call elsewhere."""
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=3, **settings)
    meter = NvmlMeter(period_s=0.02)

    (energy,) = measured(meter)
    meter.close()

    assert energy.sensor is sensor
    assert energy.counter_j is None
    assert energy.energy_j == energy.integrated_j == pytest.approx(30, rel=0.1)


def test_counter_without_power(driver) -> None:
    """A device with a counter alone is not sampled, and has its counter."""
    driver.set(gpu0__field=3, gpu0__nvmlDeviceGetPowerUsage=3)
    meter = NvmlMeter()
    (device,) = meter.devices

    (energy,) = measured(meter)
    meter.close()

    assert (device.sensor, device.period_s) == (Sensor.NVML_TOTAL_ENERGY, None)
    assert energy.energy_j == energy.counter_j == pytest.approx(30, rel=0.1)
    assert (energy.integrated_j, energy.sample_count, energy.codes) == (None, 0, ())


def test_silent_device_among_others(driver) -> None:
    """A device that tells nothing has no figure; the others keep theirs."""
    driver.set(count=2, gpu0__field=3, gpu0__nvmlDeviceGetPowerUsage=3)
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=3)
    meter = NvmlMeter()

    silent, other = measured(meter)
    meter.close()

    assert (silent.energy_j, silent.codes) == (None, ("energy_not_measured",))
    assert other.energy_j == pytest.approx(30, rel=0.1)


def test_counter_reset_during_the_run(driver) -> None:
    """A counter that starts anew is unknown, and the integral gives the figure."""
    meter = NvmlMeter(period_s=0.02)
    meter.start()
    begin = meter.mark()
    time.sleep(0.2)
    driver.set(gpu0__counter_offset_j=0)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    meter.close()

    assert (energy.counter_j, energy.codes) == (None, ("counter_reset",))
    assert energy.energy_j == pytest.approx(20, rel=0.1)


def test_readings_that_fail_for_a_while(driver) -> None:
    """Failed readings are bridged and counted, never zero."""
    driver.set(gpu0__nvmlDeviceGetTotalEnergyConsumption=3)
    meter = NvmlMeter(period_s=0.01)
    meter.start()
    begin = meter.mark()
    time.sleep(0.1)
    driver.set(gpu0__field=999, gpu0__nvmlDeviceGetTemperature=999)
    time.sleep(0.2)
    driver.set(gpu0__field=0)
    time.sleep(0.1)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    meter.close()

    assert energy.energy_j == pytest.approx(40, rel=0.1)
    assert energy.codes == ("sampling_gap",)
    assert energy.max_gap_s == pytest.approx(0.2, abs=0.05)
    assert 0.2 < energy.coverage < 0.8


def test_gpu_lost_during_the_run(driver) -> None:
    """A GPU that is gone leaves no figure that looks whole."""
    meter = NvmlMeter(period_s=0.01)
    meter.start()
    begin = meter.mark()
    time.sleep(0.05)
    driver.set(gpu0__field=15, gpu0__nvmlDeviceGetTotalEnergyConsumption=15)
    driver.set(gpu0__nvmlDeviceGetTemperature=15)
    time.sleep(0.2)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    meter.close()

    assert energy.energy_j is None
    assert energy.codes == ("counter_reset", "sampling_gap", "energy_not_measured")


@pytest.mark.parametrize(
    ("setting", "indices"),
    [("2,0", [2, 0]), ("GPU-3", [3]), ("1,x,2", [1]), ("0,9", [0])],
)
def test_visible_devices(driver, monkeypatch, setting: str, indices: list[int]) -> None:
    """The GPUs that CUDA shows, in its order, under indices without holes."""
    driver.set(count=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    meter = NvmlMeter()
    meter.close()

    assert [device.uuid for device in meter.devices] == [UUIDS[i] for i in indices]
    assert [device.index for device in meter.devices] == list(range(len(indices)))


@pytest.mark.parametrize("setting", ["", "-1", "7", "0,0"])
def test_no_visible_device(driver, monkeypatch, setting: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    with pytest.raises(MeterError, match="CUDA_VISIBLE_DEVICES"):
        NvmlMeter()
    assert driver.times_shut_down == 1


def test_uuids_of_the_backend(driver, monkeypatch) -> None:
    """UUIDs say which GPUs are meant, with or without their prefix, whatever CUDA shows."""
    driver.set(count=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    meter = NvmlMeter(uuids=[UUIDS[2], UUIDS[1].removeprefix("GPU-"), UUIDS[2]])
    meter.close()

    assert [device.uuid for device in meter.devices] == [UUIDS[2], UUIDS[1]]


def test_unknown_uuid(driver) -> None:
    with pytest.raises(MeterError, match="GPU-beef"):
        NvmlMeter(uuids=["GPU-beef"])


def test_no_gpu_in_use(driver) -> None:
    """A backend on no GPU has nothing that NVML could meter."""
    with pytest.raises(MeterError, match="runs on no GPU"):
        NvmlMeter(uuids=[])


@pytest.mark.parametrize("by", ["environment", "uuids"])
def test_mig_instance(driver, monkeypatch, by: str) -> None:
    """An instance is metered by its GPU, and marked."""
    driver.set(count=2, gpu1__mig=1, mig0__uuid="MIG-abc", mig0__parent=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    meter = NvmlMeter() if by == "environment" else NvmlMeter(uuids=["MIG-abc"])

    (energy,) = measured(meter, 0.05)
    meter.close()

    assert energy.uuid == UUIDS[1]
    assert "mig_parent_energy" in energy.codes


@pytest.mark.parametrize(
    "settings", [{"gpu0__mig": 1}, {"gpu0__nvmlDeviceGetMigMode": 3, "mig0__uuid": "MIG-abc"}]
)
def test_gpu_known_to_be_split(driver, monkeypatch, settings: dict[str, object]) -> None:
    """Its own mode, or an instance of it that is in use, mark a GPU as split."""
    driver.set(**settings)
    if "mig0__uuid" in settings:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    meter = NvmlMeter()
    meter.close()
    assert meter.devices[0].parent_of_mig


@pytest.mark.parametrize(
    "settings", [{}, {"mig0__nvmlDeviceGetDeviceHandleFromMigDeviceHandle": 6}]
)
def test_unknown_instance(driver, monkeypatch, settings: dict[str, int]) -> None:
    if settings:
        driver.set(mig0__uuid="MIG-abc", **settings)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    with pytest.raises(MeterError, match="no GPU"):
        NvmlMeter()


def test_gpu_of_another_user(driver) -> None:
    """A GPU that may not be opened is none of this process's."""
    driver.set(count=2, gpu0__nvmlDeviceGetHandleByIndex_v2=4)
    meter = NvmlMeter()
    meter.close()
    assert [device.uuid for device in meter.devices] == [UUIDS[1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nvmlInitWithFlags": 9}, "driver is not loaded.*modprobe nvidia"),
        ({"nvmlInitWithFlags": 4}, "may not.*/dev/nvidia"),
        ({"nvmlInitWithFlags": 18}, "differ in version.*restart"),
        ({"nvmlInitWithFlags": 777}, "error 777"),
        ({"nvmlDeviceGetCount_v2": 999}, "unknown error"),
        ({"gpu0__nvmlDeviceGetHandleByIndex_v2": 15}, "GPU 0.*fallen off the bus"),
        ({"gpu0__nvmlDeviceGetUUID": 15}, "fallen off the bus"),
        (
            {
                "gpu0__field": 3,
                "gpu0__nvmlDeviceGetPowerUsage": 3,
                "gpu0__nvmlDeviceGetTotalEnergyConsumption": 3,
            },
            "does not support it.*rapl",
        ),
    ],
)
def test_driver_that_does_not_answer(driver, settings: dict[str, int], words: str) -> None:
    """One line says what is wrong and what to do, and no connection stays open."""
    driver.set(**settings)

    with pytest.raises(MeterError, match=words) as caught:
        NvmlMeter()

    assert "\n" not in str(caught.value)
    assert driver.times_shut_down == (0 if "nvmlInitWithFlags" in settings else 1)


def test_missing_library(no_driver) -> None:
    with pytest.raises(MeterError, match=r"libnvidia-ml\.so\.1.*install the NVIDIA driver"):
        NvmlMeter()


def test_missing_binding(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        NvmlMeter()


def test_every_error_has_advice() -> None:
    """Each return code that the binding knows has a text of its own."""
    codes = {
        value for name, value in vars(pynvml).items() if re.fullmatch("NVML_ERROR_[A-Z_]+", name)
    }
    assert codes == ADVICE.keys()
    assert len({message(code, "x") for code in codes}) == len(codes)


def test_function_that_the_driver_lacks(driver) -> None:
    """A function missing from the library, or from the binding, has no answer."""
    client = NvmlClient()
    handle = client.gpus()[0].handle

    assert client.ask("nvmlDeviceGetSerial", handle) is None
    assert client.ask("nvmlDeviceGetNothing", handle) is None
    with pytest.raises(MeterError, match="lacks the function"):
        client.call("nvmlDeviceGetSerial", handle)
    client.close()


def test_connection_lasts_until_close(driver) -> None:
    """Measuring twice is one connection, and closing twice is once."""
    meter = NvmlMeter()
    measured(meter, 0.01)
    measured(meter, 0.01)
    assert driver.times_shut_down == 0

    meter.close()
    meter.close()
    assert driver.times_shut_down == 1


def test_close_ends_sampling(driver) -> None:
    meter = NvmlMeter()
    meter.start()
    meter.close()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


def test_order_of_calls(driver) -> None:
    meter = NvmlMeter()
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    with pytest.raises(MeterError, match="already"):
        meter.start()
    meter.close()


@pytest.mark.parametrize("period_s", [0, -1, 0.11])
def test_period_is_at_most_100_ms(period_s: float) -> None:
    with pytest.raises(MeterError, match="period_s"):
        NvmlMeter(period_s=period_s)


def test_library_loaded_by_name(fake_library: Path, tmp_path: Path) -> None:
    """The binding finds the library as it finds NVIDIA's, once a meter is opened and no sooner."""
    (tmp_path / "driver.txt").write_text("count 2\n")
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.fspath(fake_library.parent),
        "FAKE_NVML": os.fspath(tmp_path / "driver.txt"),
        "PYTHONPATH": os.fspath(Path(client_module.__file__).parents[2]),
    }
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    script = (
        "import sys, llem.measure; assert 'pynvml' not in sys.modules; "
        "print(len(llem.measure.NvmlMeter().devices))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout == "2\n"
