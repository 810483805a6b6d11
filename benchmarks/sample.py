"""One result of a size that is asked for, as a run of several processes would leave it."""

import random
from datetime import UTC, datetime, timedelta

from llem.codec import measurement_config_hash, to_mapping
from llem.domain.config import ExperimentConfig
from llem.domain.efficiency import ExtendedEfficiencyMetrics, RequestLatencyMetrics
from llem.domain.energy import DeviceEnergy, EnergyBreakdown, Sensor, ThermalThrottleInfo
from llem.domain.environment import (
    ContainerEnvironment,
    CPUEnvironment,
    CUDAEnvironment,
    EnvironmentSnapshot,
    GPUEnvironment,
    HardwareEnvironment,
    ThermalEnvironment,
)
from llem.domain.latency import LatencyMeasurements, LatencyStatistics
from llem.domain.process import (
    ComputeMetrics,
    EnergyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from llem.domain.result import AggregationMetadata, ExperimentResult

START = datetime(2026, 3, 13, 14, 21, 11, 145237, UTC)


def sample_result(processes: int, latencies: int, seed: int = 0) -> ExperimentResult:
    """A result of *processes* processes with *latencies* request latencies each."""
    rng = random.Random(seed)
    config = to_mapping(ExperimentConfig(model="meta-llama/Llama-3.1-8B", n=latencies or 1))
    devices = tuple(_device(i, rng) for i in range(processes))
    energy = sum(device.energy_j or 0.0 for device in devices)
    end = START + timedelta(seconds=61.25)
    return ExperimentResult(
        experiment_id="sample/run-1",
        measurement_config_hash=measurement_config_hash(config),
        llem_version="0.1.0",
        backend_version="5.23.0",
        measurement_methodology="total",
        total_tokens=2048 * processes,
        input_tokens=1024 * processes,
        output_tokens=1024 * processes,
        total_energy_j=energy,
        total_inference_time_sec=60.5,
        avg_tokens_per_second=2048 * processes / 60.5,
        avg_energy_per_token_j=energy / (2048 * processes),
        total_flops=2.62e14,
        flops_per_output_token=2.62e14 / (1024 * processes),
        flops_per_input_token=2.62e14 / (1024 * processes),
        flops_per_second=2.62e14 / 60.5,
        baseline_power_w=61.7 * processes,
        energy_adjusted_j=energy - 61.7 * processes * 60.5,
        energy_per_device_j=tuple(device.energy_j or 0.0 for device in devices),
        energy_breakdown=EnergyBreakdown(raw_j=energy),
        devices=devices,
        environment_snapshot=_environment(processes),
        measurement_warnings=("low_sample_count: 8 prompts, run at least 30",),
        reproducibility_notes="NVML total-energy counter.",
        start_time=START,
        end_time=end,
        effective_config=config,
        aggregation=AggregationMetadata(method="late_aggregation", num_processes=processes),
        thermal_throttle=ThermalThrottleInfo(max_temperature_c=61.0),
        latency_stats=LatencyStatistics(ttft_mean_ms=31.2, ttft_samples=processes),
        extended_metrics=ExtendedEfficiencyMetrics(tpot_ms=11.5),
        process_results=tuple(
            _process(i, latencies, config, devices[i], rng) for i in range(processes)
        ),
    )


def _device(index: int, rng: random.Random) -> DeviceEnergy:
    joules = 600 + 20 * rng.random()
    return DeviceEnergy(
        gpu_index=index,
        uuid=f"GPU-{rng.getrandbits(128):032x}",
        name="NVIDIA A100-PCIE-40GB",
        energy_j=joules,
        sensor=Sensor.NVML_TOTAL_ENERGY,
        counter_j=joules,
        integrated_j=joules * 1.003,
        disagreement=0.003,
        sample_count=1210,
        sampling_period_s=0.05,
        max_gap_s=0.061,
        coverage=0.999,
        error_bound_j=24.5,
    )


def _process(
    index: int, latencies: int, config: dict, device: DeviceEnergy, rng: random.Random
) -> RawProcessResult:
    end = START + timedelta(seconds=60.5 + rng.random() / 2)
    millis = tuple(rng.gauss(600, 40) for _ in range(latencies))
    return RawProcessResult(
        experiment_id="sample/run-1",
        process_index=index,
        gpu_id=index,
        gpu_name=device.name,
        gpu_uuid=device.uuid,
        config_name="sample",
        model_name="meta-llama/Llama-3.1-8B",
        timestamps=Timestamps(start=START, end=end),
        inference_metrics=InferenceMetrics(
            total_tokens=2048,
            input_tokens=1024,
            output_tokens=1024,
            inference_time_sec=60.5,
            tokens_per_second=2048 / 60.5,
            latency_per_token_ms=60500 / 2048,
            latency_measurements=LatencyMeasurements(request_count=latencies),
        ),
        energy_metrics=EnergyMetrics(total_energy_j=device.energy_j, duration_sec=60.5),
        compute_metrics=ComputeMetrics(flops_total=3.2e13, flops_method="flop_counter"),
        effective_config=config,
        extended_metrics=ExtendedEfficiencyMetrics(
            request_latency=RequestLatencyMetrics(e2e_latency_samples=latencies)
        ),
        per_request_latencies_ms=millis,
        energy_breakdown=EnergyBreakdown(raw_j=device.energy_j),
        thermal_throttle=ThermalThrottleInfo(max_temperature_c=61.0),
        devices=(device,),
    )


def _environment(gpus: int) -> EnvironmentSnapshot:
    gpu = GPUEnvironment(name="NVIDIA A100-PCIE-40GB", vram_total_mb=40960.0)
    return EnvironmentSnapshot(
        hardware=HardwareEnvironment(
            gpu=gpu,
            gpus=(gpu,) * gpus,
            cuda=CUDAEnvironment(version="12.2", driver_version="535.261.03"),
            thermal=ThermalEnvironment(temperature_c=23.0),
            cpu=CPUEnvironment(governor="ondemand", model="x86_64", platform="Linux"),
            container=ContainerEnvironment(detected=True, runtime="docker"),
            collected_at=START,
        ),
        python_version="3.11.10",
        installed_packages=tuple(f"package-{i}=={i}.0.{i}" for i in range(150)),
        tool_version="0.1.0",
        cuda_version="12.4",
        cuda_version_source="torch",
    )
