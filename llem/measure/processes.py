"""Which processes hold a context on a GPU, and which of them are not this run's."""

import os
from collections.abc import Collection, Iterable

from llem.domain.conditions import GpuProcess
from llem.errors import MeterError
from llem.measure.nvml_client import NvmlClient

_MIB = 1024 * 1024


def gpu_processes(uuids: Iterable[str]) -> tuple[GpuProcess, ...] | None:
    """
    The processes that compute on the GPUs *uuids*. None: NVML does not answer, or does not say.

    A GPU that does not say is left out where others do.
    """
    try:
        client = NvmlClient()
    except MeterError:
        return None
    try:
        listed = {
            gpu.uuid: client.ask("nvmlDeviceGetComputeRunningProcesses", gpu.handle)
            for gpu in client.gpus(uuids)
        }
    except MeterError:
        return None
    finally:
        client.close()
    if all(processes is None for processes in listed.values()):
        return None
    return tuple(
        GpuProcess(uuid=uuid, pid=process.pid, memory_mb=_mebibytes(process.usedGpuMemory))
        for uuid, processes in listed.items()
        for process in processes or ()
    )


def own_processes(proc: str = "/proc") -> frozenset[int]:
    """
    This process, all that descend from it, and those that it descends from up to the first one.

    Args:
        proc: Where the system shows its processes. Elsewhere only the parent is known.
    """
    parents = _parents(proc) | {os.getpid(): os.getppid()}
    own, ancestor = {os.getpid()}, os.getppid()
    while ancestor > 1 and ancestor not in own:
        own.add(ancestor)
        ancestor = parents.get(ancestor, 0)
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    left = [os.getpid()]
    while left:
        young = children.pop(left.pop(), [])
        own.update(young)
        left += young
    return frozenset(own)


def context_held(processes: Collection[GpuProcess] | None, own: Collection[int]) -> bool | None:
    """
    Whether one of the processes *own* holds a context on a GPU. None: it cannot be told.

    That is so where *processes* are not known, and where there are only strangers: in a container
    they may be ourselves, see `foreign`.
    """
    if processes is None:
        return None
    if not processes:
        return False
    return True if any(process.pid in own for process in processes) else None


def foreign(
    processes: Collection[GpuProcess], own: Collection[int], holds_context: bool
) -> tuple[GpuProcess, ...]:
    """
    Those of *processes* that are not of this run.

    In a container with process IDs of its own the driver shows those of the host, which match
    nothing. So where none of *own* is listed although *holds_context*, one process on each GPU is
    taken to be this run: the one with most memory, as a model takes most of it.

    Args:
        processes: What computes on the GPUs.
        own: Process IDs of this run.
        holds_context: Whether this run holds a context on these GPUs.
    """
    strangers = [process for process in processes if process.pid not in own]
    if not holds_context or len(strangers) < len(processes):
        return tuple(strangers)
    largest: dict[str, GpuProcess] = {}
    for process in strangers:
        other = largest.setdefault(process.uuid, process)
        if (process.memory_mb or 0.0) > (other.memory_mb or 0.0):
            largest[process.uuid] = process
    return tuple(process for process in strangers if process is not largest[process.uuid])


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / _MIB


def _parents(proc: str) -> dict[int, int]:
    """The parent of each process that can be seen."""
    try:
        pids = [int(name) for name in os.listdir(proc) if name.isdecimal()]
    except OSError:
        return {}
    found = {pid: _parent(f"{proc}/{pid}/stat") for pid in pids}
    return {pid: parent for pid, parent in found.items() if parent is not None}


def _parent(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            # A name in brackets comes before, which may hold brackets and spaces itself.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, LookupError):
        return None
