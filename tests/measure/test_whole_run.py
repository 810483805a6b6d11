"""A whole run on GPUs, from the driver to the stored result, on the real binding."""

import os
import signal
import sys
import time
from pathlib import Path

import attrs
import pytest

from llem.domain.config import BaselineConfig, EnergyConfig, ExperimentConfig, WarmupConfig
from llem.domain.energy import BaselineMethod, Sensor
from llem.domain.result import ExperimentResult
from llem.errors import MeterError
from llem.experiment import Experiment
from llem.measure import NvmlMeter
from llem.protocols import BackendInfo
from llem.store import ResultStore

CONFIG = ExperimentConfig(
    model="mine",
    backend="vllm",
    energy=EnergyConfig(backend="nvml"),
    baseline=BaselineConfig(duration_seconds=0.3),
    warmup=WarmupConfig(thermal_floor_seconds=0.0, n_warmup=2),
)
BRIEF = attrs.evolve(
    CONFIG, baseline=BaselineConfig(enabled=False), warmup=WarmupConfig(enabled=False)
)
"""The same without what comes before the window."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def serve(run: Experiment, requests: int = 5) -> None:
    """Requests that take a tenth of a second each."""
    for _ in range(requests):
        time.sleep(0.1)
        run.record(input_tokens=8, output_tokens=2, latency_s=0.1, ttft_s=0.02)


def measure(config: ExperimentConfig = CONFIG, info: BackendInfo | None = None) -> Experiment:
    """Half a second of one request a tenth of a second."""
    with Experiment(config, info=info) as run:
        run.warm_up(lambda: 0.01)
        serve(run)
    return run


def codes(result: ExperimentResult) -> set[str]:
    """What the warnings are about."""
    return {warning.partition(":")[0] for warning in result.measurement_warnings}


def test_two_gpus_from_driver_to_store(driver, tmp_path: Path) -> None:
    """Power times time, summed over the GPUs, with its evidence and its samples."""
    driver.set(count=2, gpu0__power_w=100, gpu1__power_w=50)

    run = measure()
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)
    result = ResultStore(tmp_path / "results").get(kept)

    seconds = result.total_inference_time_sec
    assert result.total_energy_j == pytest.approx(150 * seconds, rel=0.1)
    for device, watts in zip(result.devices, (100, 50), strict=True):
        assert abs(device.energy_j - watts * seconds) <= device.error_bound_j + 1e-3
    assert result.avg_energy_per_token_j == pytest.approx(result.total_energy_j / 50)
    assert result.baseline_power_w == pytest.approx(150, rel=0.1)
    assert abs(result.energy_adjusted_j) < 0.2 * result.total_energy_j
    assert result.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert [device.sensor for device in result.devices] == [Sensor.NVML_TOTAL_ENERGY] * 2
    assert result.multi_gpu.num_gpus == 2
    assert len(result.environment_snapshot.hardware.gpus) == 2
    assert codes(result) & {"energy_not_measured", "sampler_degraded"} == set()
    table = ResultStore(tmp_path / "results").timeseries(kept)
    assert set(table.column("gpu_index").to_pylist()) == {0, 1}
    times = table.column("timestamp_s").to_pylist()
    assert min(times) < 0 < seconds < max(times)
    assert ResultStore(tmp_path / "results").verify().faults == ()


def test_what_is_sampled_beside_power(driver) -> None:
    """Load, memory, temperature and throttling are in the result."""
    driver.set(gpu0__utilisation_pct=80, gpu0__memory_utilisation_pct=30, gpu0__temperature_c=71)
    driver.set(gpu0__memory_used_mib=512, gpu0__reasons=0x40)

    result = measure(BRIEF).result

    busy = result.extended_metrics.gpu_utilisation
    assert (busy.sm_utilisation_mean, busy.memory_bandwidth_utilisation) == (80, 30)
    assert busy.sm_utilisation_samples >= 1
    assert result.thermal_throttle.hw_thermal
    assert result.thermal_throttle.max_temperature_c == 71
    assert 0 < result.thermal_throttle.throttle_duration_sec <= result.total_inference_time_sec


def test_a_uuid_with_a_comma(driver) -> None:
    """It reaches the sampling process whole."""
    driver.set(gpu0__uuid="GPU-a,b")

    result = measure(BRIEF).result

    assert [device.uuid for device in result.devices] == ["GPU-a,b"]
    drawn_j = 100 * result.total_inference_time_sec
    assert result.devices[0].integrated_j == pytest.approx(drawn_j, rel=0.1)
    assert "sampler_degraded" not in codes(result)


def test_sampling_that_is_killed(driver) -> None:
    """A run goes on without it: the counter has the energy, and a warning says what is missing."""
    with Experiment(BRIEF, meter=(meter := NvmlMeter())) as run:
        serve(run, 1)
        os.kill(meter._sampler._runner._process.pid, signal.SIGKILL)
        serve(run)
    result = run.result

    assert result.total_energy_j == pytest.approx(100 * result.total_inference_time_sec, rel=0.1)
    assert result.devices[0].sensor is Sensor.NVML_TOTAL_ENERGY
    assert {"sampler_degraded", "sampling_gap"} <= codes(result)
    assert "killed by signal 9" in " ".join(result.measurement_warnings)


def test_sampling_by_a_thread(driver, monkeypatch) -> None:
    """Where no process can be started there is a figure all the same, and a warning."""
    monkeypatch.setattr(sys, "executable", "")
    result = measure(BRIEF).result
    assert result.total_energy_j == pytest.approx(100 * result.total_inference_time_sec, rel=0.1)
    assert "sampler_degraded" in codes(result)


@pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_run_that_fails(driver, fault: type[BaseException]) -> None:
    """It leaves neither sampling nor a connection behind."""
    meter = NvmlMeter()
    with pytest.raises(fault), Experiment(BRIEF, meter=meter) as run:
        serve(run, 1)
        raise fault
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    assert meter.mark().counters_j == (None,)


def test_only_the_gpus_of_the_model_are_metered(driver) -> None:
    """A backend that says where it runs is measured there."""
    driver.set(count=2, gpu0__power_w=100, gpu1__power_w=50, gpu1__uuid="GPU-the-second")
    info = BackendInfo(device="cuda:1", device_name="GPU", device_uuids=("GPU-the-second",))

    result = measure(info=info).result

    assert [device.uuid for device in result.devices] == ["GPU-the-second"]
    assert result.total_energy_j == pytest.approx(50 * result.total_inference_time_sec, rel=0.1)
    assert result.process_results[0].gpu_uuid == "GPU-the-second"


def test_gpus_that_the_model_is_not_on_are_not_metered(driver) -> None:
    """A model on the CPU has no part in what an idle GPU draws."""
    info = BackendInfo(device="cpu", device_name="CPU")

    result = measure(attrs.evolve(CONFIG, energy=EnergyConfig(backend="auto")), info).result

    assert result.total_energy_j is None
    assert "the model runs on no GPU" in " ".join(result.measurement_warnings)
