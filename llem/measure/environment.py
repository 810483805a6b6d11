"""What the machine is, and what it can measure. What is not known is None."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from llem.domain.environment import (
    ContainerEnvironment,
    CPUEnvironment,
    CUDAEnvironment,
    EnvironmentSnapshot,
    GPUEnvironment,
    HardwareEnvironment,
    ThermalEnvironment,
)
from llem.errors import MeterError
from llem.measure.clock import SystemClock
from llem.measure.nvml import NVML_TEMPERATURE_GPU, NvmlMeter
from llem.measure.nvml_client import Gpu, NvmlClient
from llem.measure.rapl import POWERCAP_ROOT, RaplMeter
from llem.protocols import Clock, EnergyMeter

NVCC_TIMEOUT_S = 10.0
"""Time that ``nvcc --version`` may take. Unit: s."""

_RUNTIMES = {
    "kubernetes": r"kubepods|kubelet/pods",
    "podman": r"libpod|containers/storage",
    "docker": r"docker",
    "lxc": r"lxc",
    "containerd": r"containerd",
}
"""What the control group and the mounts of a container's first process say of its runtime."""

_OWN_MOUNTS = {"/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc/cpuinfo"}
"""What a runtime mounts in a container. Elsewhere a host mounts the containers that it runs."""

_MIB = 1024 * 1024
_SM_CLOCK, _MEMORY_CLOCK = 1, 2


@attrs.frozen(kw_only=True)
class Capability:
    """
    One thing that a machine may be able to do.

    Attributes:
        name: nvml, rapl, zeus or torch.
        available: Whether it can.
        detail: What was found, or what stops it and what to do.
    """

    name: str
    available: bool
    detail: str


def snapshot(*, clock: Clock | None = None, root: Path = Path("/")) -> EnvironmentSnapshot:
    """
    The machine and the software as they are now. One value that cannot be read spoils no other.

    Args:
        clock: What dates the snapshot.
        root: Root of the file system that is looked at.
    """
    gpus, cuda, thermal = _nvml()
    packages = _packages()
    cuda_version, source = _cuda_version(root)
    return EnvironmentSnapshot(
        hardware=HardwareEnvironment(
            gpu=gpus[0] if gpus else None,
            gpus=gpus,
            cuda=_with_cudnn(cuda, _cudnn_version(packages)),
            thermal=thermal,
            cpu=_cpu(root),
            container=_container(root),
            collected_at=(SystemClock() if clock is None else clock).now(),
        ),
        python_version=platform.python_version(),
        installed_packages=packages,
        tool_version=_version("llem") or "0+unknown",
        cuda_version=cuda_version,
        cuda_version_source=source,
    )


def capabilities(*, powercap_root: str = POWERCAP_ROOT) -> tuple[Capability, ...]:
    """What this machine can measure and run, and what stops it where it cannot."""
    nvml = _meter_capability("nvml", NvmlMeter)
    return (
        nvml,
        _meter_capability("rapl", lambda: RaplMeter(powercap_root)),
        _zeus_capability(nvml),
        _package_capability("torch", "torch", "transformers"),
    )


def _meter_capability(name: str, opened: Any) -> Capability:
    try:
        meter: EnergyMeter = opened()
    except MeterError as error:
        return Capability(name=name, available=False, detail=str(error))
    meter.close()
    found = (
        device.uuid if device.uuid == device.name else f"{device.name} ({device.uuid})"
        for device in meter.devices
    )
    return Capability(name=name, available=True, detail=", ".join(found))


def _zeus_capability(nvml: Capability) -> Capability:
    """Zeus reads GPUs through *nvml*."""
    zeus = _package_capability("zeus", "zeus")
    if not zeus.available or nvml.available:
        return zeus
    detail = f"{zeus.detail} needs NVML: see nvml"
    return attrs.evolve(zeus, available=False, detail=detail)


def _package_capability(name: str, *packages: str) -> Capability:
    """Whether *packages* are installed. A folder of such a name is importable, but no package."""
    versions = {
        package: _version(package) if importlib.util.find_spec(package) else None
        for package in packages
    }
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        detail = f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}"
        return Capability(name=name, available=False, detail=detail)
    found = (f"{package} {version}" for package, version in versions.items())
    return Capability(name=name, available=True, detail=", ".join(found))


def _nvml() -> tuple[tuple[GPUEnvironment, ...], CUDAEnvironment | None, ThermalEnvironment | None]:
    """The GPUs that CUDA shows to this process, the driver, and the first GPU's temperature."""
    try:
        client = NvmlClient()
    except MeterError:
        return (), None, None
    try:
        gpus = client.gpus()
    except MeterError:
        gpus = ()
    try:
        thermal = _thermal(client, gpus[0]) if gpus else None
        return tuple(_gpu(client, gpu) for gpu in gpus), _cuda(client), thermal
    finally:
        client.close()


def _gpu(client: NvmlClient, gpu: Gpu) -> GPUEnvironment:
    def ask(function: str, *args: Any) -> Any:
        return client.ask(function, gpu.handle, *args)

    memory = ask("nvmlDeviceGetMemoryInfo")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    return GPUEnvironment(
        name=gpu.name,
        uuid=gpu.uuid,
        vram_total_mb=None if memory is None else memory.total / _MIB,
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        pcie_gen=ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        pcie_width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
        mig_enabled=gpu.is_mig_parent or _is_on(ask("nvmlDeviceGetMigMode")),
        ecc_enabled=_is_on(ask("nvmlDeviceGetEccMode")),
        persistence_mode=_is_on(ask("nvmlDeviceGetPersistenceMode")),
        clock_sm_mhz=_as_float(ask("nvmlDeviceGetClockInfo", _SM_CLOCK)),
        clock_memory_mhz=_as_float(ask("nvmlDeviceGetClockInfo", _MEMORY_CLOCK)),
        power_limit_w=_as_float(ask("nvmlDeviceGetEnforcedPowerLimit"), 1000),
        default_power_limit_w=_as_float(ask("nvmlDeviceGetPowerManagementDefaultLimit"), 1000),
    )


def _thermal(client: NvmlClient, gpu: Gpu) -> ThermalEnvironment:
    def ask(function: str, *args: Any) -> Any:
        return client.ask(function, gpu.handle, *args)

    return ThermalEnvironment(
        temperature_c=_as_float(ask("nvmlDeviceGetTemperature", NVML_TEMPERATURE_GPU)),
        power_limit_w=_as_float(ask("nvmlDeviceGetEnforcedPowerLimit"), 1000),
        default_power_limit_w=_as_float(ask("nvmlDeviceGetPowerManagementDefaultLimit"), 1000),
        fan_speed_pct=_as_float(ask("nvmlDeviceGetFanSpeed")),
    )


def _cuda(client: NvmlClient) -> CUDAEnvironment:
    version = client.ask("nvmlSystemGetCudaDriverVersion_v2")
    return CUDAEnvironment(
        # 12040 stands for 12.4.
        version=None if version is None else f"{version // 1000}.{version % 1000 // 10}",
        driver_version=client.ask("nvmlSystemGetDriverVersion"),
    )


def _is_on(state: Any) -> bool | None:
    """Whether a mode is on, given its state, or its current and its pending one."""
    return None if state is None else bool(state[0] if isinstance(state, list) else state)


def _as_float(value: Any, divisor: float = 1) -> float | None:
    return None if value is None else value / divisor


def _cuda_version(root: Path) -> tuple[str | None, str | None]:
    """The CUDA version and where it was read: torch, version_txt or nvcc."""
    for source, version in (
        ("torch", _torch_cuda()),
        ("version_txt", _version_file(root / "usr/local/cuda")),
        ("nvcc", _nvcc()),
    ):
        if version is not None:
            return version, source
    return None, None


def _torch_cuda() -> str | None:
    """What torch was built with: as it says where it is loaded, else by its version."""
    torch = sys.modules.get("torch")
    if torch is not None:
        version = getattr(getattr(torch, "version", None), "cuda", None)
        return None if version is None else str(version)
    tagged = re.search(r"\+cu(\d+)(\d)$", _version("torch") or "")
    return None if tagged is None else ".".join(tagged.groups())


def _version_file(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "version.json").read_bytes())["cuda"]["version"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    words = (_text(folder / "version.txt") or "").split()
    return words[-1] if words else None


def _nvcc() -> str | None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        return None
    try:
        said = subprocess.run(  # noqa: S603  # the user's own PATH, no shell
            [compiler, "--version"], capture_output=True, timeout=NVCC_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(rb"release (\d+\.\d+)", said)
    return None if release is None else release[1].decode()


def _with_cudnn(cuda: CUDAEnvironment | None, version: str | None) -> CUDAEnvironment | None:
    if version is None:
        return cuda
    return attrs.evolve(cuda or CUDAEnvironment(), cudnn_version=version)


def _cudnn_version(packages: tuple[str, ...]) -> str | None:
    """What torch has loaded, else what is installed, if that is one."""
    torch = sys.modules.get("torch")
    # A torch without CUDA has none, or the version of something else.
    if torch is not None and _torch_cuda() is not None:
        with contextlib.suppress(Exception):
            return _dotted(torch.backends.cudnn.version())
    found = [re.match(r"nvidia[-_]cudnn[-_]cu\d+==(.+)", package) for package in packages]
    versions = {match[1] for match in found if match}
    return versions.pop() if len(versions) == 1 else None


def _dotted(version: int) -> str:
    """The *version* that cuDNN tells, with dots: 8902 is 8.9.2, and 90100 is 9.1.0."""
    unit = 10000 if version >= 90000 else 1000
    return f"{version // unit}.{version % unit // 100}.{version % 100}"


def _cpu(root: Path) -> CPUEnvironment:
    described = _text(root / "proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", described, re.MULTILINE)
    return CPUEnvironment(
        model=model[1] if model else platform.processor() or platform.machine() or None,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        platform=platform.system(),
    )


def _container(root: Path) -> ContainerEnvironment:
    """By the marks that runtimes leave: environment variables, files, control group, mounts."""
    runtime = _marked_runtime(root) or _named_runtime(_text(root / "proc/1/cgroup") or "")
    if runtime is None:
        # Under the second version of control groups a container sees its own as the root.
        runtime = _named_runtime(_own_mounts(root))
    return ContainerEnvironment(detected=runtime is not None, runtime=runtime)


def _marked_runtime(root: Path) -> str | None:
    """The innermost of the runtimes that leave a variable or a file of their own."""
    variables = os.environ.keys()
    if {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & variables:
        return "apptainer"
    if "KUBERNETES_SERVICE_HOST" in variables:
        return "kubernetes"
    files = {".singularity.d": "apptainer", "run/.containerenv": "podman", ".dockerenv": "docker"}
    for file, runtime in files.items():
        if os.path.exists(root / file):
            return runtime
    # The name that systemd gave both.
    return os.environ.get("container") or _text(root / "run/systemd/container")  # noqa: SIM112


def _named_runtime(text: str) -> str | None:
    return next((name for name, signs in _RUNTIMES.items() if re.search(signs, text)), None)


def _own_mounts(root: Path) -> str:
    lines = (_text(root / "proc/self/mountinfo") or "").splitlines()
    return "\n".join(line for line in lines if {*line.split()[4:5]} & _OWN_MOUNTS)


def _packages() -> tuple[str, ...]:
    """Every installed package as name==version. A broken one is left out."""
    found = set()
    for package in importlib.metadata.distributions():
        with contextlib.suppress(Exception):
            name, version = package.metadata["Name"], package.version
            if name and version:
                found.add(f"{name}=={version}")
    return tuple(sorted(found))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").strip() or None
    except OSError:
        return None
