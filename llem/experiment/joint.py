"""What the processes of one run tell each other before they measure."""

from collections import Counter
from collections.abc import Collection, Sequence

import attrs

from llem.domain.energy import Sensor
from llem.errors import AggregationError, LlemError
from llem.measure.machine import identity
from llem.protocols import BackendInfo, Device, Peers


@attrs.frozen(kw_only=True)
class Introduction:
    """
    One process among its peers.

    Attributes:
        devices: Its devices, numbered over all processes, under names that no other machine has.
        processes: Process IDs of all processes of the run on this machine. Those in another
            container are left out: it may count them by itself.
        node: What this machine is called.
        align_on: The device on which all may meet, each on a GPU of its own. None: they may not.
    """

    devices: tuple[Device, ...]
    processes: frozenset[int]
    node: str
    align_on: str | None


def agree(peers: Peers, *, experiment_id: str, config_hash: str, llem_version: str) -> str:
    """
    The experiment's ID, which is that of process 0.

    Raises:
        AggregationError: They run other configurations, or another llem.
        IncompleteRunError: One of them does not come.
    """
    told = peers.exchange("agree", [config_hash, llem_version, experiment_id])
    for position, what in enumerate(["configuration", "version of llem"]):
        for index, values in enumerate(told):
            if values[position] != told[0][position]:
                raise AggregationError(
                    f"rank {index} runs another {what} than rank 0, {values[position]} and not "
                    f"{told[0][position]}: start all ranks alike"
                )
    return str(told[0][2])


def introduce(
    peers: Peers,
    devices: Sequence[Device],
    own: Collection[int],
    info: BackendInfo | None,
) -> Introduction:
    """
    This process among its peers.

    Args:
        peers: The processes of the run.
        devices: The devices that this one meters.
        own: Process IDs of this process and its kin.
        info: What its engine says of itself. None: nothing.

    Raises:
        IncompleteRunError: One of the processes does not come.
    """
    here = identity()
    gpus = [] if info is None or not info.device.startswith("cuda") else info.device_uuids
    told = peers.exchange("introduce", [here, len(devices), sorted(own), list(gpus)])
    hosts = [(str(name), str(kernel)) for (name, kernel), *_ in told]
    machines = [kernel or name for name, kernel in hosts]
    name = _node_name(hosts, machines, peers.index)
    first = sum(count for _, count, *_ in told[: peers.index])
    return Introduction(
        devices=tuple(
            attrs.evolve(
                device,
                index=first + position,
                uuid=_named(device, name if len(set(machines)) > 1 else None),
            )
            for position, device in enumerate(devices)
        ),
        processes=frozenset(
            pid
            for host, (_, _, pids, _) in zip(hosts, told, strict=True)
            if host == hosts[peers.index]
            for pid in pids
        ),
        node=name,
        align_on=info.device if info and _are_apart([uuids for *_, uuids in told]) else None,
    )


def _node_name(hosts: Sequence[tuple[str, str]], machines: Sequence[str], index: int) -> str:
    """
    The name of a machine, with what tells it from others of that name where there are any.

    Containers on one machine have names of their own: that of the first one stands for all.
    """
    first = {machine: at for at, machine in reversed([*enumerate(machines)])}
    name, kernel = hosts[first[machines[index]]]
    alike = Counter(hosts[at][0] for at in first.values())
    return f"{name}-{kernel[:8]}" if alike[name] > 1 else name


def _named(device: Device, node: str | None) -> str:
    """The name of a RAPL domain is that of another one on every other machine."""
    return f"{node}/{device.uuid}" if node and device.sensor is Sensor.RAPL else device.uuid


def _are_apart(gpus: Sequence[Sequence[str]]) -> bool:
    """Whether each process has GPUs, and none of another."""
    distinct = {uuid for uuids in gpus for uuid in uuids}
    return all(gpus) and len(distinct) == sum(map(len, gpus))


def reason_of(error: BaseException) -> str:
    """What *error* says, for those who did not see it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        return f"left with exit status {error.code or 0} before the run was over"
    if isinstance(error, LlemError) or not isinstance(error, Exception):
        return str(error)
    return ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
