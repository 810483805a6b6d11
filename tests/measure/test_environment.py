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

import attrs
import pynvml
import pytest

from llem.domain.environment import (
    ContainerEnvironment,
    CUDAEnvironment,
    GPUEnvironment,
    ThermalEnvironment,
)
from llem.measure import Capability, capabilities, environment, snapshot

VARIABLES = (
    "container",
    "APPTAINER_CONTAINER",
    "SINGULARITY_CONTAINER",
    "KUBERNETES_SERVICE_HOST",
    "CUDA_DEVICE_ORDER",
)

INSTALLED = [
    package for package in importlib.metadata.distributions() if "cudnn" not in (package.name or "")
]


@pytest.fixture(autouse=True)
def bare(monkeypatch) -> None:
    """No torch loaded, no compiler in the path, no cuDNN installed, no container named."""
    monkeypatch.delitem(environment.sys.modules, "torch", raising=False)
    monkeypatch.setattr(environment, "_version", {"llem": "1.2"}.get)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: INSTALLED)


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


THERMAL_FUNCTIONS = {
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetFanSpeed": {"fan_speed_pct"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetPowerManagementDefaultLimit": {"default_power_limit_w"},
}


def unknown(record: object) -> set[str]:
    """The names of what *record* says nothing of."""
    return {
        field.name for field in attrs.fields(type(record)) if getattr(record, field.name) is None
    }


@pytest.mark.parametrize("code", [3, 999])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_failing_call_spoils_no_other(driver, tmp_path: Path, function: str, code: int) -> None:
    """What one GPU does not tell is unknown of it alone."""
    driver.set(count=2, **{f"gpu0__{function}": code})

    first, second = snapshot(root=tmp_path).hardware.gpus

    assert unknown(first) == FUNCTIONS[function]
    assert unknown(second) == set()


def test_every_value_of_a_gpu_has_its_failing_call() -> None:
    names = {field.name for field in attrs.fields(GPUEnvironment)} - {"name", "uuid"}
    assert set().union(*FUNCTIONS.values()) == names
    assert set().union(*THERMAL_FUNCTIONS.values()) == {
        field.name for field in attrs.fields(ThermalEnvironment)
    }


@pytest.mark.parametrize("function", THERMAL_FUNCTIONS)
def test_one_failing_call_spoils_no_other_limit(driver, tmp_path: Path, function: str) -> None:
    driver.set(**{f"gpu0__{function}": 3})
    assert unknown(snapshot(root=tmp_path).hardware.thermal) == THERMAL_FUNCTIONS[function]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("nvmlSystemGetDriverVersion", "driver_version"),
        ("nvmlSystemGetCudaDriverVersion_v2", "version"),
    ],
)
def test_one_failing_call_spoils_no_other_version(
    driver, tmp_path: Path, function: str, name: str
) -> None:
    driver.set(**{function: 999})
    hardware = snapshot(root=tmp_path).hardware
    assert unknown(hardware.cuda) == {name, "cudnn_version"}
    assert hardware.gpu is not None


def test_binding_of_another_age(driver, tmp_path: Path, monkeypatch) -> None:
    """Functions that the binding lacks, and text that is none, are unknown."""
    monkeypatch.delattr(pynvml, "nvmlDeviceGetMigMode")
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"\xff")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"NVIDIA Old")

    hardware = snapshot(root=tmp_path).hardware

    assert (hardware.gpu.name, hardware.gpu.mig_enabled) == ("NVIDIA Old", None)
    assert hardware.cuda == CUDAEnvironment(version="12.4")


@pytest.mark.parametrize("settings", [{"gpu0__mig": 1}, {"gpu0__nvmlDeviceGetMigMode": 3}])
def test_gpu_of_a_mig_instance(driver, tmp_path: Path, monkeypatch, settings) -> None:
    """An instance is described by its GPU, which is split whatever its mode says."""
    driver.set(mig0__uuid="MIG-abc", mig0__parent=0, **settings)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    (gpu,) = snapshot(root=tmp_path).hardware.gpus
    assert gpu.uuid == "GPU-00000000-0000-0000-0000-000000000000"
    assert gpu.vram_total_mb == 81920
    assert gpu.mig_enabled is True


def test_gpus_that_cuda_shows(driver, tmp_path: Path, monkeypatch) -> None:
    """The GPUs are those that CUDA shows, in its order."""
    driver.set(count=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    gpus = snapshot(root=tmp_path).hardware.gpus
    assert [gpu.uuid[:5] for gpu in gpus] == ["GPU-2", "GPU-0"]


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


class Cudnn:
    """A torch with cuDNN."""

    def __init__(self, version: object, cuda: str | None = "12.6") -> None:
        self.said = version
        self.version = types.SimpleNamespace(cuda=cuda)
        self.backends = types.SimpleNamespace(cudnn=types.SimpleNamespace(version=self.tell))

    def tell(self) -> object:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def install(monkeypatch, *packages: str) -> None:
    """Have *packages*, as name==version, and no others."""
    found = [
        types.SimpleNamespace(metadata={"Name": name}, version=version)
        for name, version in (package.split("==") for package in packages)
    ]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (90100, "9.1.0"),
        (91002, "9.10.2"),
        (90000, "9.0.0"),
        (8902, "8.9.2"),
        (8005, "8.0.5"),
        (7605, "7.6.5"),
    ],
)
def test_cudnn_of_the_loaded_torch(driver, tmp_path, monkeypatch, said: int, version: str) -> None:
    """It counts whatever is installed, and leaves what the driver says."""
    monkeypatch.setitem(environment.sys.modules, "torch", Cudnn(said))
    install(monkeypatch, "nvidia-cudnn-cu12==9.5.1.17")
    cuda = snapshot(root=tmp_path).hardware.cuda
    assert cuda == CUDAEnvironment(
        version="12.4", driver_version="550.54.15", cudnn_version=version
    )


@pytest.mark.parametrize(
    "torch",
    [
        None,
        Cudnn(None),
        Cudnn(RuntimeError("cuDNN version incompatibility")),
        Cudnn(3002000, cuda=None),
        types.SimpleNamespace(),
        types.SimpleNamespace(version=types.SimpleNamespace(cuda="12.6")),
    ],
    ids=["not loaded", "without cuDNN", "failing", "of another maker", "being imported", "bare"],
)
def test_cudnn_that_is_installed(no_driver, tmp_path, monkeypatch, torch: object) -> None:
    """Where torch does not tell, the package does, also where no driver answers."""
    if torch is not None:
        monkeypatch.setitem(environment.sys.modules, "torch", torch)
    install(monkeypatch, "nvidia-cudnn-frontend==1.2", "nvidia_cudnn_cu13==9.13.0.50", "attrs==25")
    assert snapshot(root=tmp_path).hardware.cuda == CUDAEnvironment(cudnn_version="9.13.0.50")


@pytest.mark.parametrize(
    "packages", [["attrs==25"], ["nvidia-cudnn-cu11==8.9.6", "nvidia-cudnn-cu12==9.1.0.70"]]
)
def test_cudnn_unknown(driver, tmp_path: Path, monkeypatch, packages: list[str]) -> None:
    """With none or several installed, which one is used is unknown."""
    install(monkeypatch, *packages)
    assert snapshot(root=tmp_path).hardware.cuda.cudnn_version is None


def test_nothing_heavy_is_imported(no_driver, tmp_path: Path, monkeypatch) -> None:
    """Neither the snapshot nor the capabilities load what they look for."""
    heavy = {"torch", "transformers", "zeus"}
    for name in heavy:
        monkeypatch.delitem(environment.sys.modules, name, raising=False)
    snapshot(root=tmp_path)
    capabilities(powercap_root=os.fspath(tmp_path))
    assert not heavy & environment.sys.modules.keys()


def test_processor(no_driver, tmp_path: Path) -> None:
    write(
        tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2 GHz\n"
    )
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")

    cpu = snapshot(root=tmp_path).hardware.cpu

    assert (cpu.model, cpu.governor) == ("Some CPU @ 2 GHz", "powersave")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("proc/cpuinfo", "model"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "governor"),
    ],
)
def test_one_unreadable_file_spoils_no_other(
    no_driver, tmp_path: Path, monkeypatch, path: str, name: str
) -> None:
    """A file that cannot be read leaves its own value unknown, here by being a folder."""
    test_processor(no_driver, tmp_path)
    (tmp_path / path).unlink()
    (tmp_path / path).mkdir()
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    monkeypatch.setattr(environment.platform, "machine", lambda: "")
    assert unknown(snapshot(root=tmp_path).hardware.cpu) == {name}


def container(root: Path) -> str | None:
    """The runtime that is found."""
    found = snapshot(root=root).hardware.container
    assert found == ContainerEnvironment(detected=found.runtime is not None, runtime=found.runtime)
    return found.runtime


def write_mounts(root: Path, *mounts: str) -> None:
    """Mounts as *root of the mount*, *mount point*, *type*, *source* and *options*."""
    lines = []
    for number, mount in enumerate(mounts):
        within, point, kind, source, options = mount.split()
        lines.append(f"{number} 1 0:33 {within} {point} rw,relatime - {kind} {source} {options}")
    write(root, "proc/self/mountinfo", "\n".join(lines))


@pytest.mark.parametrize(
    ("path", "text", "runtime"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        (".singularity.d/env/01-base.sh", "", "apptainer"),
        ("run/systemd/container", "lxc\n", "lxc"),
        ("proc/1/cgroup", "0::/kubepods/besteffort/pod1", "kubernetes"),
        ("proc/1/cgroup", "0::/kubepods.slice/cri-containerd-1.scope", "kubernetes"),
        ("proc/1/cgroup", "1:name=systemd:/docker/abc", "docker"),
        ("proc/1/cgroup", "0::/machine.slice/libpod-1.scope", "podman"),
        ("proc/1/cgroup", "0::/lxc/one", "lxc"),
        ("proc/1/cgroup", "0::/system.slice/containerd.service/1", "containerd"),
        ("proc/1/cgroup", "0::/init.scope", None),
        ("proc/1/cgroup", "0::/", None),
        ("proc/1/cgroup", "9:name=systemd:/\n8:pids:/\n0::/", None),
    ],
)
def test_container(no_driver, tmp_path: Path, path: str, text: str, runtime: str | None) -> None:
    """The marks that each runtime leaves, and none on a host."""
    write(tmp_path, path, text)
    assert container(tmp_path) == runtime


@pytest.mark.parametrize(
    ("mounts", "runtime"),
    [
        (["/ / overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A"], "docker"),
        (["/ / xfs /dev/sda rw", "/docker/containers/1/hosts /etc/hosts ext4 /d rw"], "docker"),
        (["/ / overlay overlay rw,upperdir=/home/u/.local/share/containers/storage/1"], "podman"),
        (
            [
                "/ / overlay overlay rw,upperdir=/var/lib/containerd/io.containerd.snapshotter/1",
                "/var/lib/kubelet/pods/1/etc-hosts /etc/hosts ext4 /dev/sda rw",
            ],
            "kubernetes",
        ),
        (["/ / overlay overlay rw,upperdir=/var/lib/containerd/io.containerd.1"], "containerd"),
        (["/ / zfs tank rw", "/proc/cpuinfo /proc/cpuinfo fuse.lxcfs lxcfs rw"], "lxc"),
        (["/ / ext4 /dev/sda rw"], None),
        (
            [
                "/ / ext4 /dev/sda rw",
                "/ /var/lib/docker/overlay2/1/merged overlay overlay rw,upperdir=/var/lib/docker/1",
                "/ /var/lib/lxcfs fuse.lxcfs lxcfs rw",
                "/ /var/lib/kubelet/pods/1/volumes/2 tmpfs tmpfs rw",
            ],
            None,
        ),
    ],
    ids=[
        "docker",
        "docker's files",
        "podman",
        "kubernetes",
        "containerd",
        "lxc",
        "host",
        "host of containers",
    ],
)
def test_container_by_mounts(no_driver, tmp_path: Path, mounts: list[str], runtime) -> None:
    """Where the control group is a namespace's root, what is mounted for a container tells it."""
    write(tmp_path, "proc/1/cgroup", "0::/")
    write_mounts(tmp_path, *mounts)
    assert container(tmp_path) == runtime


def test_container_with_broken_mounts(no_driver, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/mountinfo", "1 2\n\n1 2 3 4\n1 1 0:1 /docker/1 /etc/hosts rw")
    assert container(tmp_path) == "docker"


@pytest.mark.parametrize(
    ("variable", "value", "runtime"),
    [
        ("container", "podman", "podman"),
        ("container", "", None),
        ("APPTAINER_CONTAINER", "/images/one.sif", "apptainer"),
        ("SINGULARITY_CONTAINER", "/images/one.sif", "apptainer"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1", "kubernetes"),
    ],
)
def test_container_by_variable(
    no_driver, tmp_path: Path, monkeypatch, variable: str, value: str, runtime: str | None
) -> None:
    monkeypatch.setenv(variable, value)
    assert container(tmp_path) == runtime


def test_innermost_container(no_driver, tmp_path: Path, monkeypatch) -> None:
    """Of several marks that of the innermost runtime counts, and a runtime's own over a guess."""
    write(tmp_path, "proc/1/cgroup", "0::/system.slice/containerd.service/1")
    assert container(tmp_path) == "containerd"
    # Red Hat's images say so under whatever runtime.
    monkeypatch.setenv("container", "oci")
    assert container(tmp_path) == "oci"
    write(tmp_path, ".dockerenv")
    assert container(tmp_path) == "docker"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert container(tmp_path) == "kubernetes"
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/one.sif")
    assert container(tmp_path) == "apptainer"


def test_capabilities(driver, powercap) -> None:
    """What answers says what it found."""
    tree = powercap("intel-rapl:0", "package-0", 0)

    nvml, rapl, zeus, torch = capabilities(powercap_root=os.fspath(tree.parent))

    found = "NVIDIA Fake (GPU-00000000-0000-0000-0000-000000000000)"
    assert nvml == Capability(name="nvml", available=True, detail=found)
    assert rapl == Capability(name="rapl", available=True, detail="package-0")
    assert (zeus.name, torch.name) == ("zeus", "torch")
    assert driver.times_shut_down == 1


def test_capabilities_of_a_bare_machine(no_driver, tmp_path: Path, monkeypatch) -> None:
    """What does not answer says why, and what to do."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    found = capabilities(powercap_root=os.fspath(tmp_path / "none"))

    assert [one.available for one in found] == [False] * 4
    assert "install the NVIDIA driver" in found[0].detail
    assert "modprobe" in found[1].detail
    assert found[2].detail == "zeus not installed: pip install zeus"
    assert found[3].detail == "torch and transformers not installed: pip install torch transformers"


VERSIONS = {"torch": "2.5", "transformers": "4.46", "zeus": "0.13.1"}


def test_capabilities_of_packages(driver, tmp_path: Path, monkeypatch) -> None:
    """What is installed says its version."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(environment, "_version", VERSIONS.get)
    *_, zeus, torch = capabilities(powercap_root=os.fspath(tmp_path))
    assert zeus == Capability(name="zeus", available=True, detail="zeus 0.13.1")
    assert torch == Capability(name="torch", available=True, detail="torch 2.5, transformers 4.46")


def test_zeus_measures_through_nvml(no_driver, tmp_path: Path, monkeypatch) -> None:
    """Where that does not answer, no package helps."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(environment, "_version", VERSIONS.get)

    nvml, _, zeus, torch = capabilities(powercap_root=os.fspath(tmp_path))

    assert not nvml.available
    assert (zeus.available, zeus.detail) == (
        False,
        "zeus 0.13.1 needs NVML: see nvml",
    )
    assert torch.available


def test_capability_of_half_of_its_packages(no_driver, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else object()
    )
    monkeypatch.setattr(environment, "_version", VERSIONS.get)
    torch = capabilities(powercap_root=os.fspath(tmp_path))[-1]
    assert (torch.available, torch.detail) == (
        False,
        "transformers not installed: pip install transformers",
    )


def test_folder_of_the_name_of_a_package(no_driver, tmp_path: Path, monkeypatch) -> None:
    """A folder that could be imported is not what it is called."""
    (tmp_path / "zeus").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    zeus = capabilities(powercap_root=os.fspath(tmp_path))[2]
    assert (zeus.name, zeus.available) == ("zeus", False)


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
