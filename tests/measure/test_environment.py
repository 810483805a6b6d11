"""The snapshot of the machine."""

import importlib.metadata
import importlib.util
import os
import subprocess
import time
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from llem.domain.environment import (
    ContainerEnvironment,
    CUDAEnvironment,
    GPUEnvironment,
    ThermalEnvironment,
)
from llem.measure import Capability, capabilities, environment, snapshot


@pytest.fixture(autouse=True)
def bare(monkeypatch) -> None:
    """No torch loaded, no compiler in the path, no container named."""
    monkeypatch.delitem(environment.sys.modules, "torch", raising=False)
    monkeypatch.setattr(environment, "_version", {"llem": "1.2"}.get)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    for name in ("container", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(name, raising=False)


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_unknown_is_none(no_driver, tmp_path: Path, clock, monkeypatch) -> None:
    """A machine that tells nothing gives a snapshot all the same."""
    monkeypatch.setattr(environment, "_version", lambda name: None)
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    monkeypatch.setattr(environment.platform, "machine", lambda: "")

    seen = snapshot(root=tmp_path, clock=clock)

    assert (seen.hardware.gpu, seen.hardware.gpus) == (None, ())
    assert (seen.hardware.cuda, seen.hardware.thermal) == (None, None)
    assert (seen.hardware.cpu.model, seen.hardware.cpu.governor) == (None, None)
    assert seen.hardware.container == ContainerEnvironment(detected=False)
    assert seen.hardware.collected_at == datetime(2026, 1, 1, 0, 1, 40, tzinfo=UTC)
    assert (seen.cuda_version, seen.cuda_version_source) == (None, None)
    assert seen.tool_version == "0+unknown"


def test_this_machine() -> None:
    """The packages are those that are installed, once each, in order."""
    seen = snapshot()

    assert seen.tool_version == "1.2"
    assert f"attrs=={importlib.metadata.version('attrs')}" in seen.installed_packages
    assert list(seen.installed_packages) == sorted(set(seen.installed_packages))
    assert seen.hardware.collected_at.tzinfo is UTC
    assert seen.hardware.cpu.platform


def test_gpus(driver, tmp_path: Path) -> None:
    """Everything that a GPU tells; gpu is the first of all."""
    driver.set(count=2, gpu1__mig=1, gpu1__ecc=0, gpu1__persistence=0, gpu1__name="NVIDIA Other")

    hardware = snapshot(root=tmp_path).hardware

    assert hardware.gpu == hardware.gpus[0]
    assert hardware.gpu == GPUEnvironment(
        name="NVIDIA Fake",
        uuid="GPU-00000000-0000-0000-0000-000000000000",
        vram_total_mb=81920,
        compute_capability="9.0",
        pcie_gen=5,
        pcie_width=16,
        mig_enabled=False,
        ecc_enabled=True,
        persistence_mode=True,
        clock_sm_mhz=1001,
        clock_memory_mhz=1002,
        power_limit_w=700,
        default_power_limit_w=700,
    )
    other = hardware.gpus[1]
    assert (other.name, other.mig_enabled, other.ecc_enabled) == ("NVIDIA Other", True, False)
    assert other.persistence_mode is False
    assert hardware.cuda == CUDAEnvironment(version="12.4", driver_version="550.54.15")
    assert hardware.thermal == ThermalEnvironment(
        temperature_c=40, power_limit_w=700, default_power_limit_w=700, fan_speed_pct=30
    )
    assert driver.times_shut_down == 1


FUNCTIONS = {
    "nvmlDeviceGetMemoryInfo": {"vram_total_mb"},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"pcie_gen"},
    "nvmlDeviceGetCurrPcieLinkWidth": {"pcie_width"},
    "nvmlDeviceGetMigMode": {"mig_enabled"},
    "nvmlDeviceGetEccMode": {"ecc_enabled"},
    "nvmlDeviceGetPersistenceMode": {"persistence_mode"},
    "nvmlDeviceGetClockInfo": {"clock_sm_mhz", "clock_memory_mhz"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetPowerManagementDefaultLimit": {"default_power_limit_w"},
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_failing_call_spoils_no_other(driver, tmp_path: Path, function: str) -> None:
    driver.set(**{f"gpu0__{function}": 3})

    gpu = snapshot(root=tmp_path).hardware.gpu

    unknown = {name for name in GPUEnvironment.__slots__ if getattr(gpu, name, 0) is None}
    assert unknown == FUNCTIONS[function]


def test_driver_without_gpus(driver, tmp_path: Path) -> None:
    """The driver's version is kept where no GPU can be listed."""
    driver.set(nvmlDeviceGetCount_v2=999, nvmlSystemGetCudaDriverVersion_v2=999)

    hardware = snapshot(root=tmp_path).hardware

    assert hardware.gpus == ()
    assert hardware.cuda == CUDAEnvironment(driver_version="550.54.15")


def cuda(tmp_path: Path) -> tuple[str | None, str | None]:
    seen = snapshot(root=tmp_path)
    return seen.cuda_version, seen.cuda_version_source


def test_cuda_of_the_loaded_torch(no_driver, tmp_path: Path, monkeypatch) -> None:
    torch = types.SimpleNamespace(version=types.SimpleNamespace(cuda="12.6"))
    monkeypatch.setitem(environment.sys.modules, "torch", torch)
    write(tmp_path, "usr/local/cuda/version.txt", "CUDA Version 11.0.1\n")
    assert cuda(tmp_path) == ("12.6", "torch")


@pytest.mark.parametrize("version", ["2.5.1+cpu", "2.5.1", None])
def test_torch_without_cuda(no_driver, tmp_path: Path, monkeypatch, version) -> None:
    """A torch without CUDA leaves it to the other sources."""
    monkeypatch.setattr(environment, "_version", {"torch": version}.get)
    write(tmp_path, "usr/local/cuda/version.txt", "CUDA Version 11.0.1\n")
    assert cuda(tmp_path) == ("11.0.1", "version_txt")

    torch = types.SimpleNamespace(version=types.SimpleNamespace(cuda=None))
    monkeypatch.setitem(environment.sys.modules, "torch", torch)
    assert cuda(tmp_path) == ("11.0.1", "version_txt")


def test_cuda_of_the_installed_torch(no_driver, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(environment, "_version", {"torch": "2.5.1+cu124"}.get)
    assert cuda(tmp_path) == ("12.4", "torch")


@pytest.mark.parametrize("text", ["{", "[]", '{"cuda": 3}', "{}"])
def test_version_files(no_driver, tmp_path: Path, text: str) -> None:
    """The newer file is read where it can be, else the older one."""
    write(tmp_path, "usr/local/cuda/version.json", text)
    write(tmp_path, "usr/local/cuda/version.txt", "CUDA Version 10.2\n")
    assert cuda(tmp_path) == ("10.2", "version_txt")

    write(tmp_path, "usr/local/cuda/version.json", '{"cuda": {"version": "12.4.1"}}')
    assert cuda(tmp_path) == ("12.4.1", "version_txt")


def compiler(tmp_path: Path, monkeypatch, script: str) -> None:
    """An nvcc that runs *script*."""
    program = tmp_path / "nvcc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(environment.shutil, "which", {"nvcc": os.fspath(program)}.get)


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 'Cuda compilation tools, release 12.3, V12.3.107'", "12.3"),
        ("echo nonsense", None),
        ("exec sleep 5", None),
    ],
)
def test_compiler(no_driver, tmp_path: Path, monkeypatch, script: str, version) -> None:
    monkeypatch.setattr(environment, "NVCC_TIMEOUT_S", 0.5)
    compiler(tmp_path, monkeypatch, script)
    began = time.monotonic()
    assert cuda(tmp_path) == (version, version and "nvcc")
    assert time.monotonic() - began < 4


def test_compiler_that_cannot_run(no_driver, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda name: os.fspath(tmp_path))
    assert cuda(tmp_path) == (None, None)


def test_processor(no_driver, tmp_path: Path) -> None:
    write(
        tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2 GHz\n"
    )
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")

    cpu = snapshot(root=tmp_path).hardware.cpu

    assert (cpu.model, cpu.governor) == ("Some CPU @ 2 GHz", "powersave")


@pytest.mark.parametrize(
    ("path", "text", "runtime"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("proc/1/cgroup", "0::/kubepods/besteffort/pod1", "kubernetes"),
        ("proc/1/cgroup", "1:name=systemd:/docker/abc", "docker"),
        ("proc/1/cgroup", "0::/machine.slice/libpod-1.scope", "podman"),
        ("proc/1/cgroup", "0::/lxc/one", "lxc"),
        ("proc/1/cgroup", "0::/init.scope", None),
    ],
)
def test_container(no_driver, tmp_path: Path, path: str, text: str, runtime) -> None:
    write(tmp_path, path, text)
    container = snapshot(root=tmp_path).hardware.container
    assert container == ContainerEnvironment(detected=runtime is not None, runtime=runtime)


@pytest.mark.parametrize(
    ("variable", "runtime"), [("container", "podman"), ("APPTAINER_CONTAINER", "apptainer")]
)
def test_container_by_variable(no_driver, tmp_path, monkeypatch, variable, runtime) -> None:
    monkeypatch.setenv(variable, "podman")
    assert snapshot(root=tmp_path).hardware.container.runtime == runtime


def test_capabilities(driver, powercap) -> None:
    """What answers says what it found."""
    tree = powercap("intel-rapl:0", "package-0", 0)

    nvml, rapl, torch = capabilities(powercap_root=os.fspath(tree.parent))

    found = "NVIDIA Fake (GPU-00000000-0000-0000-0000-000000000000)"
    assert nvml == Capability(name="nvml", available=True, detail=found)
    assert rapl == Capability(name="rapl", available=True, detail="package-0")
    assert torch.name == "torch"
    assert driver.times_shut_down == 1


def test_capabilities_of_a_bare_machine(no_driver, tmp_path: Path, monkeypatch) -> None:
    """What does not answer says why, and what to do."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    found = capabilities(powercap_root=os.fspath(tmp_path / "none"))

    assert [one.available for one in found] == [False] * 3
    assert "install the NVIDIA driver" in found[0].detail
    assert "modprobe" in found[1].detail
    assert found[2].detail == "torch and transformers not installed: pip install 'llem[torch]'"


def test_capability_torch(no_driver, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(environment, "_version", {"torch": "2.5", "transformers": "4.46"}.get)
    torch = capabilities(powercap_root=os.fspath(tmp_path))[2]
    assert torch == Capability(name="torch", available=True, detail="torch 2.5, transformers 4.46")


def test_version_of_what_is_not_installed() -> None:
    done = subprocess.run(
        [
            environment.sys.executable,
            "-c",
            "from llem.measure import environment as e; print(e._version('no-such-package'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"


def test_one_broken_package_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata that cannot be read, or says no version, is left out."""

    class Broken:
        version = "1"

        @property
        def metadata(self) -> dict[str, str]:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    class Unversioned:
        version = None
        metadata: ClassVar = {"Name": "unversioned"}

    class Fine:
        version = "2.0"
        metadata: ClassVar = {"Name": "fine"}

    monkeypatch.setattr(
        "importlib.metadata.distributions", lambda: [Broken(), Unversioned(), Fine()]
    )

    assert snapshot().installed_packages == ("fine==2.0",)
