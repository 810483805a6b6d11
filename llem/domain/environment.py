"""The machine a run took place on. What is not known is None."""

from datetime import datetime

import attrs

from llem.domain.fields import Record, quantity


@attrs.frozen(kw_only=True, weakref_slot=False)
class GPUEnvironment(Record):
    """
    One GPU.

    Attributes:
        name: Product name.
        vram_total_mb: Memory. Unit: MiB.
        compute_capability: CUDA compute capability, such as 8.0.
        pcie_gen: PCIe generation of the current link.
        mig_enabled: Whether it is split into MIG instances.
        uuid: Identity of the device.
        pcie_width: Lanes of the current link.
        ecc_enabled: Whether its memory corrects errors. None: it has no ECC, or did not say.
        persistence_mode: Whether the driver stays loaded without clients.
        clock_sm_mhz: Clock of the multiprocessors at the snapshot. Unit: MHz.
        clock_memory_mhz: Clock of the memory at the snapshot. Unit: MHz.
        power_limit_w: Power limit in force. Unit: W.
        default_power_limit_w: Power limit the device came with. Unit: W.
    """

    name: str
    vram_total_mb: float | None = quantity(None)
    compute_capability: str | None = None
    pcie_gen: int | None = quantity(None)
    mig_enabled: bool | None = None
    uuid: str | None = None
    pcie_width: int | None = quantity(None)
    ecc_enabled: bool | None = None
    persistence_mode: bool | None = None
    clock_sm_mhz: float | None = quantity(None)
    clock_memory_mhz: float | None = quantity(None)
    power_limit_w: float | None = quantity(None)
    default_power_limit_w: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class CUDAEnvironment(Record):
    """
    The CUDA stack.

    Attributes:
        version: CUDA version that the driver supports.
        driver_version: Version of the driver.
        cudnn_version: Version of cuDNN.
    """

    version: str | None = None
    driver_version: str | None = None
    cudnn_version: str | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class ThermalEnvironment(Record):
    """
    Temperature and power limits of the first GPU at the snapshot.

    Attributes:
        temperature_c: Temperature. Unit: °C.
        power_limit_w: Power limit in force. Unit: W.
        default_power_limit_w: Power limit the device came with. Unit: W.
        fan_speed_pct: Fan speed. Unit: % of the greatest.
    """

    temperature_c: float | None = None
    power_limit_w: float | None = quantity(None)
    default_power_limit_w: float | None = quantity(None)
    fan_speed_pct: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class CPUEnvironment(Record):
    """
    The processor and the system.

    Attributes:
        governor: Frequency governor of the first core.
        model: Model name.
        platform: Operating system, such as Linux.
    """

    governor: str | None = None
    model: str | None = None
    platform: str


@attrs.frozen(kw_only=True, weakref_slot=False)
class ContainerEnvironment(Record):
    """
    Whether the run took place in a container.

    Attributes:
        detected: Signs of one were met.
        runtime: Which, such as docker or podman.
    """

    detected: bool
    runtime: str | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class HardwareEnvironment(Record):
    """
    The hardware.

    Attributes:
        gpu: The first GPU that the run could see. None: there is none, or it did not answer.
        gpus: All of them.
        cuda: The CUDA stack.
        thermal: The first GPU's temperature and limits.
        cpu: The processor and the system.
        container: Whether the run took place in a container.
        collected_at: When all this was read.
    """

    gpu: GPUEnvironment | None = None
    gpus: tuple[GPUEnvironment, ...] = ()
    cuda: CUDAEnvironment | None = None
    thermal: ThermalEnvironment | None = None
    cpu: CPUEnvironment
    container: ContainerEnvironment
    collected_at: datetime


@attrs.frozen(kw_only=True, weakref_slot=False)
class EnvironmentSnapshot(Record):
    """
    The machine and the software.

    Attributes:
        hardware: The hardware.
        python_version: Version of the interpreter.
        installed_packages: One requirement each, as name==version, sorted.
        conda_list: Output of ``conda list``, where another tool kept it.
        tool_version: Version of the tool that took the snapshot.
        cuda_version: CUDA version that the run used.
        cuda_version_source: Where that was read: torch, version_txt or nvcc.
    """

    hardware: HardwareEnvironment
    python_version: str
    installed_packages: tuple[str, ...] = ()
    conda_list: str | None = None
    tool_version: str
    cuda_version: str | None = None
    cuda_version_source: str | None = None
