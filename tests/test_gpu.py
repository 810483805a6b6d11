"""What only a real GPU can show. Each test prints what it found."""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from llem.auditing import audit
from llem.domain.config import (
    BaselineConfig,
    EnergyConfig,
    ExperimentConfig,
    SyntheticDataset,
    WarmupConfig,
)
from llem.measure import NvmlMeter, device_energies
from llem.measure.nvml import COUNTER_REFRESH_S
from llem.measure.nvml_client import NvmlClient
from llem.running import run_experiment
from llem.store import ResultStore

pytestmark = pytest.mark.gpu

MODEL = os.environ.get("LLEM_GPU_MODEL", "builtin:llama-1b")


@pytest.fixture
def torch() -> Any:
    """torch, with a GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return torch


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n[gpu] {line}")

    return say


@pytest.fixture
def meter(torch: Any) -> Iterator[NvmlMeter]:
    meter = NvmlMeter(uuids=[f"GPU-{torch.cuda.get_device_properties(0).uuid}"])
    yield meter
    meter.close()


def work(torch: Any) -> Callable[[float], None]:
    """Keeps the GPU busy for as long as it is told."""
    size = 8192
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)

    def run(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(8):
                torch.matmul(left, right)
            torch.cuda.synchronize()

    run(1.0)
    return run


def config(**settings: Any) -> ExperimentConfig:
    given = ExperimentConfig(
        model=MODEL,
        energy=EnergyConfig(backend="nvml"),
        baseline=BaselineConfig(duration_seconds=5.0),
        warmup=WarmupConfig(n_warmup=2, thermal_floor_seconds=2.0),
    )
    return attrs.evolve(given, **settings)


def test_counter_is_refreshed_as_often_as_is_said(torch: Any, say: Any) -> None:
    """The bound of a counter's figure rests on the time between two of its updates."""
    busy = work(torch)
    client = NvmlClient()
    (gpu, *_) = client.gpus([f"GPU-{torch.cuda.get_device_properties(0).uuid}"])
    changes: list[float] = []
    last = None
    end = time.monotonic() + 3.0
    busy(0.5)
    while time.monotonic() < end:
        counter = client.ask("nvmlDeviceGetTotalEnergyConsumption", gpu.handle)
        if counter is not None and counter != last:
            last = counter
            changes.append(time.monotonic())
    client.close()

    periods = [later - earlier for earlier, later in itertools.pairwise(changes)]
    say(
        f"counter of {gpu.name}: {len(periods)} updates, median "
        f"{statistics.median(periods):.4f} s, longest {max(periods):.4f} s"
    )
    assert statistics.median(periods) <= COUNTER_REFRESH_S


@pytest.mark.parametrize("seconds", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("load", ["idle", "load"])
def test_counter_and_integral(
    torch: Any, meter: NvmlMeter, say: Any, load: str, seconds: float
) -> None:
    """Two sources for one figure: how far they lie apart."""
    busy = work(torch) if load == "load" else time.sleep
    meter.start()
    time.sleep(0.2)
    begin = meter.mark()
    busy(seconds)
    torch.cuda.synchronize()
    end = meter.mark()
    samples = meter.stop()

    (found,) = device_energies(meter.devices, samples, begin, end)
    say(
        f"{load} {seconds:g} s: counter {found.counter_j} J, integral {found.integrated_j} J, "
        f"{found.disagreement} apart, ± {found.error_bound_j} J, {found.sample_count} samples, "
        f"coverage {found.coverage}, {found.sensor.value}, {meter.devices[0].sensor.value} of "
        f"{meter.devices[0].refresh_s} s, {found.codes}"
    )
    assert found.energy_j is not None
    assert found.energy_j > 0


def test_the_sampler_keeps_its_rate_while_a_model_generates(torch: Any, say: Any) -> None:
    """Samples that were asked for, and what sampling costs."""
    before = os.times()
    began = time.monotonic()
    run = run_experiment(config(n=20))
    spent = os.times()
    (device,) = run.result.devices
    share = (spent.children_user + spent.children_system) - (
        before.children_user + before.children_system
    )
    say(
        f"{MODEL}: {device.sample_count} samples at {device.sampling_period_s} s, coverage "
        f"{device.coverage}, longest gap {device.max_gap_s} s; child processes took "
        f"{share / (time.monotonic() - began):.2%} of a core"
    )
    assert device.coverage is not None
    assert device.coverage >= 0.95


def test_prefill_and_decode_of_a_real_model(torch: Any, say: Any) -> None:
    """Long prompts, so that the sensor sees both phases."""
    run = run_experiment(
        config(
            n=64,
            batch_size=32,
            max_input_tokens=8192,
            max_output_tokens=256,
            synthetic_dataset=SyntheticDataset(input_len=8192, output_len=256, seed=1),
        )
    )
    result = run.result
    assert result.energy_breakdown is not None
    phases = result.energy_breakdown.phases
    for phase in phases:
        say(
            f"{phase.phase.value}: {phase.energy_j} J ± {phase.error_bound_j} J in "
            f"{phase.duration_s:.3f} s, {phase.spans} spans, {phase.code}"
        )
    say(f"total {result.total_energy_j} J in {result.total_inference_time_sec:.2f} s")
    known = [phase.energy_j for phase in phases if phase.energy_j is not None]
    if len(known) == len(phases):
        assert sum(known) == pytest.approx(result.total_energy_j)


def test_llem_run_from_end_to_end(torch: Any, tmp_path: Path, say: Any) -> None:
    """The command, then the audit of what it kept."""
    llem = [sys.executable, "-m", "llem"]
    options = ["--n", "30", "--baseline.duration-seconds", "5"]
    options += ["--warmup.thermal-floor-seconds", "2", "--energy.backend", "nvml"]
    root = ["--root", str(tmp_path)]
    ran = subprocess.run(
        [*llem, "run", MODEL, *options, *root], check=False, capture_output=True, text=True
    )
    say(ran.stdout + ran.stderr)
    assert ran.returncode == 0
    (key,) = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    audited = subprocess.run(
        [*llem, "show", key, "--audit", *root], check=False, capture_output=True, text=True
    )
    say(audited.stdout)
    assert audited.returncode == 0


@pytest.mark.parametrize("count", [1, 2])
def test_ranks(torch: Any, say: Callable[[str], None], tmp_path: Path, count: int) -> None:
    """A GPU that ranks share is counted once; a rank with one of its own is aligned by nccl."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    settings = ["--num-prompts=64", "--warmup.thermal-floor-seconds=0", "--energy.backend=nvml"]
    settings += ["--baseline.duration-seconds=2", f"--root={tmp_path}"]

    ended = subprocess.run(
        [*launcher, "--nproc-per-node", str(count), "-m", "llem", "run", MODEL, *settings],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    store = ResultStore(tmp_path)
    (key,) = store
    result = store.get(key)
    say(f"{count} ranks: {result.total_energy_j} J, {result.aggregation}")
    assert len({device.uuid for device in result.devices}) == min(count, torch.cuda.device_count())
    assert result.total_energy_j is not None
    assert result.total_energy_j > 0
    assert audit(result, store.timeseries(key)).agrees
