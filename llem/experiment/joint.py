"""What the processes of one run tell each other before they measure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from llem.codec import measurement_config_hash
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


def agree(peers: Peers, *, experiment_id: str, config: Mapping[str, Any], llem_version: str) -> str:
    """
    The experiment's ID, which is that of process 0.

    Raises:
        AggregationError: They run other configurations, or another llem.
        IncompleteRunError: One of them does not come.
    """
    settings = flat(config) | {"llem": llem_version, "hash": measurement_config_hash(config)}
    told = peers.exchange("agree", [experiment_id, settings])
    first_id, first = told[0]
    for index, (_, own) in enumerate(told):
        names = [name for name in {**first, **own} if first.get(name) != own.get(name)]
        if names:
            # The hash says nothing to a person where something else does.
            differing = [name for name in names if name != "hash"] or names
            listed = (f"{name} {own.get(name)} and not {first.get(name)}" for name in differing)
            raise AggregationError(
                f"rank {index} does not run what rank 0 does: {', '.join(listed)}; start all ranks "
                "alike"
            )
    return str(first_id)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    Every setting by its dotted name.

    >>> flat({"model": "gpt2", "warmup": {"enabled": False}})
    {'model': 'gpt2', 'warmup.enabled': False}
    """
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flat(value, f"{prefix}{name}.")
        else:
            settings[f"{prefix}{name}"] = value
    return settings


def share(peers: Peers, gpus: Sequence[str]) -> Sequence[str] | None:
    """
    Which of *gpus* are this process', where several on one machine know of no GPUs of their own.

    Each has as many, in the order of the processes, which is that of a launcher's local ranks;
    where there are more processes than GPUs, some share one.

    Args:
        peers: The processes of the run.
        gpus: UUIDs of the GPUs that it meters. Empty: there are none, or it knows its own.

    Returns:
        None where it keeps those that it meters.

    Raises:
        IncompleteRunError: One of the processes does not come.
    """
    told = peers.exchange("share", [machine_of(identity()), list(gpus)])
    alike = [index for index, one in enumerate(told) if one == told[peers.index]]
    if not gpus or len(alike) < 2:
        return None
    place, count = alike.index(peers.index), len(alike)
    first = place * len(gpus) // count
    return gpus[first : max((place + 1) * len(gpus) // count, first + 1)]


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
    machines = [machine_of(host) for host in hosts]
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


def machine_of(host: tuple[str, str]) -> str:
    """What tells a machine, by its name and kernel, from all others."""
    name, kernel = host
    return kernel or name


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
