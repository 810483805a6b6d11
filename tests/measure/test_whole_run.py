"""A whole run on GPUs, from the driver to the stored result, on the real binding."""

import time
from pathlib import Path

import attrs
import pytest

from llem.domain.config import BaselineConfig, EnergyConfig, ExperimentConfig, WarmupConfig
from llem.domain.energy import BaselineMethod, Sensor
from llem.experiment import Experiment
from llem.protocols import BackendInfo
from llem.store import ResultStore

CONFIG = ExperimentConfig(
    model="mine",
    backend="vllm",
    energy=EnergyConfig(backend="nvml"),
    baseline=BaselineConfig(duration_seconds=0.3),
    warmup=WarmupConfig(thermal_floor_seconds=0.0, n_warmup=2),
)


def measure(config: ExperimentConfig = CONFIG, info: BackendInfo | None = None) -> Experiment:
    """Half a second of one request a tenth of a second."""
    with Experiment(config, info=info) as run:
        run.warm_up(lambda: 0.01)
        for _ in range(5):
            time.sleep(0.1)
            run.record(input_tokens=8, output_tokens=2, latency_s=0.1, ttft_s=0.02)
    return run


def test_two_gpus_from_driver_to_store(driver, tmp_path: Path) -> None:
    """Power times time, summed over the GPUs, with its evidence and its samples."""
    driver.set(count=2, gpu0__power_w=100, gpu1__power_w=50)

    run = measure()
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)
    result = ResultStore(tmp_path / "results").get(kept)

    seconds = result.total_inference_time_sec
    assert result.total_energy_j == pytest.approx(150 * seconds, rel=0.1)
    assert result.avg_energy_per_token_j == pytest.approx(result.total_energy_j / 50)
    assert result.baseline_power_w == pytest.approx(150, rel=0.1)
    assert abs(result.energy_adjusted_j) < 0.2 * result.total_energy_j
    assert result.energy_breakdown.baseline_method is BaselineMethod.FRESH
    assert [device.sensor for device in result.devices] == [Sensor.NVML_TOTAL_ENERGY] * 2
    assert result.multi_gpu.num_gpus == 2
    assert len(result.environment_snapshot.hardware.gpus) == 2
    assert "energy_not_measured" not in " ".join(result.measurement_warnings)
    table = ResultStore(tmp_path / "results").timeseries(kept)
    assert set(table.column("gpu_index").to_pylist()) == {0, 1}
    times = table.column("timestamp_s").to_pylist()
    assert min(times) < 0 < seconds < max(times)
    assert ResultStore(tmp_path / "results").verify().faults == ()


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
