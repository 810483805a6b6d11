"""
Which GPUs CUDA shows to this process, as the CUDA Programming Guide describes it.

CUDA numbers GPUs by speed unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, NVML by PCI address. Where all
GPUs are alike the two agree. Where they are not, only CUDA knows its order, and which of the MIG
instances it shows: `ask_cuda` asks it.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

CUDA_TIMEOUT_S = 30.0
"""Time that CUDA may take to say its order. Loading an idle driver takes seconds a GPU. Unit: s."""

ParentOf = Callable[[str], str | None]
"""Gives the UUID of the GPU that a MIG instance, by its UUID, is a part of."""


def visible_gpus(setting: str | None, uuids: Sequence[str], parent_of: ParentOf) -> dict[str, bool]:
    """
    The UUIDs of the GPUs that *setting* shows, in its order, each with whether it is a MIG parent.

    The first entry that is not understood, or names nothing, ends the list. One that comes twice
    empties it.

    Args:
        setting: Value of ``CUDA_VISIBLE_DEVICES``. None: it is not set, and all are visible.
        uuids: UUIDs of all GPUs, in the order that CUDA numbers them.
        parent_of: Gives the UUID of the GPU that a MIG instance, by its UUID, is a part of.
    """
    if setting is None:
        return dict.fromkeys(uuids, False)
    shown: dict[str, bool] = {}
    seen = set()
    for entry in map(str.strip, setting.split(",")):
        is_mig = entry.startswith("MIG-")
        uuid = _find(entry, uuids, parent_of)
        if uuid is None:
            break
        identity = entry if is_mig else uuid
        if identity in seen:
            return {}
        seen.add(identity)
        shown[uuid] = is_mig or shown.get(uuid, False)
    return shown


def is_numbered(setting: str | None) -> bool:
    """Whether what *setting* shows depends on how CUDA numbers the GPUs."""
    if setting is None:
        return True
    return any(_number(entry.strip()) is not None for entry in setting.split(","))


def named_gpus(named: Iterable[str], uuids: Sequence[str], parent_of: ParentOf) -> dict[str, bool]:
    """
    The UUIDs of the GPUs that *named* name, each with whether it is a MIG parent.

    Args:
        named: UUIDs of GPUs or MIG instances. CUDA and torch leave out ``GPU-`` and ``MIG-``.
        uuids: UUIDs of all GPUs.
        parent_of: Gives the UUID of the GPU that a MIG instance, by its UUID, is a part of.

    Raises:
        LookupError: One of *named*, which is the error's text, names none of *uuids*.
    """
    shown: dict[str, bool] = {}
    for name in named:
        has_prefix = name.startswith(("GPU-", "MIG-"))
        for form in (name,) if has_prefix else (f"GPU-{name}", f"MIG-{name}"):
            uuid = _find(form, uuids, parent_of)
            if uuid is not None:
                shown[uuid] = form.startswith("MIG-") or shown.get(uuid, False)
                break
        else:
            raise LookupError(name)
    return shown


def ask_cuda() -> tuple[str, ...] | None:
    """
    The UUIDs, without prefix, of what CUDA shows to this process, in its order. None: no answer.

    A torch that uses CUDA in this process answers, else a child process does: CUDA is never
    initialised here.
    """
    return _ask_torch(sys.modules.get("torch")) or _ask_child()


def _ask_torch(torch: Any) -> tuple[str, ...] | None:
    # A torch without CUDA, or older than its UUIDs, raises many things.
    with contextlib.suppress(Exception):
        cuda = torch.cuda
        if cuda.is_initialized():
            ordinals = range(cuda.device_count())
            return tuple(str(cuda.get_device_properties(ordinal).uuid) for ordinal in ordinals)
    return None


def _ask_child() -> tuple[str, ...] | None:
    program = os.path.join(os.path.dirname(__file__), "cuda_order.py")
    try:
        child = subprocess.run(  # noqa: S603  # our own file, no shell
            [sys.executable or "", "-I", "-S", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CUDA_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return tuple(child.stdout.decode(errors="replace").split()) or None


def _find(entry: str, uuids: Sequence[str], parent_of: ParentOf) -> str | None:
    if entry.startswith("MIG-GPU-"):
        # The form of drivers before 470: MIG-<UUID of the GPU>/<GPU instance>/<compute instance>.
        return _by_prefix(entry.removeprefix("MIG-").partition("/")[0], uuids)
    if entry.startswith("MIG-"):
        parent = parent_of(entry)
        return parent if parent in uuids else None
    if entry.startswith("GPU-"):
        return _by_prefix(entry, uuids)
    index = _number(entry)
    return uuids[index] if index is not None and index < len(uuids) else None


def _number(entry: str) -> int | None:
    """What CUDA reads *entry* as, like strtol does: what follows the digits is ignored."""
    number = re.match(r"\+?[0-9]+", entry)
    return None if number is None else int(number[0])


def _by_prefix(prefix: str, uuids: Sequence[str]) -> str | None:
    found = [uuid for uuid in uuids if uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None
