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

_MIB = 1024 * 1024
_SM_CLOCK, _MEMORY_CLOCK = 1, 2


@attrs.frozen(kw_only=True)
class Capability:
    """
    One thing that a machine may be able to do.

    Attributes:
        name: nvml, rapl or torch.
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
    cuda_version, source = _cuda_version(root)
    return EnvironmentSnapshot(
        hardware=HardwareEnvironment(
            gpu=gpus[0] if gpus else None,
            gpus=gpus,
            cuda=cuda,
            thermal=thermal,
            cpu=_cpu(root),
            container=_container(root),
            collected_at=(SystemClock() if clock is None else clock).now(),
        ),
        python_version=platform.python_version(),
        installed_packages=_packages(),
        tool_version=_version("llem") or "0+unknown",
        cuda_version=cuda_version,
        cuda_version_source=source,
    )


def capabilities(*, powercap_root: str = POWERCAP_ROOT) -> tuple[Capability, ...]:
    """What this machine can measure and run, and what stops it where it cannot."""
    return (
        _meter_capability("nvml", NvmlMeter),
        _meter_capability("rapl", lambda: RaplMeter(powercap_root)),
        _torch_capability(),
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


def _torch_capability() -> Capability:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        detail = f"{' and '.join(missing)} not installed: pip install 'llem[torch]'"
        return Capability(name="torch", available=False, detail=detail)
    versions = (f"{name} {_version(name)}" for name in ("torch", "transformers"))
    return Capability(name="torch", available=True, detail=", ".join(versions))


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
        mig_enabled=_is_on(ask("nvmlDeviceGetMigMode")),
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


def _cpu(root: Path) -> CPUEnvironment:
    described = _text(root / "proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", described, re.MULTILINE)
    return CPUEnvironment(
        model=model[1] if model else platform.processor() or platform.machine() or None,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        platform=platform.system(),
    )


def _container(root: Path) -> ContainerEnvironment:
    """By the marks that runtimes leave: an environment variable, a file, the control group."""
    runtime = os.environ.get("container") or None  # noqa: SIM112  # systemd's name for it
    if runtime is None and {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & os.environ.keys():
        runtime = "apptainer"
    if runtime is None and (root / "run/.containerenv").exists():
        runtime = "podman"
    if runtime is None and (root / ".dockerenv").exists():
        runtime = "docker"
    if runtime is None:
        groups = _text(root / "proc/1/cgroup") or ""
        named = re.search(r"kubepods|docker|libpod|containerd|lxc", groups)
        names = {"kubepods": "kubernetes", "libpod": "podman"}
        runtime = names.get(named[0], named[0]) if named else None
    return ContainerEnvironment(detected=runtime is not None, runtime=runtime)


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
