"""
Which GPUs CUDA shows to this process, as the CUDA Programming Guide describes it.

CUDA numbers GPUs by speed unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, NVML by PCI address. Where all
GPUs are alike the two agree. Where they differ CUDA's order cannot be known from outside of it,
and NVML's is used: whoever knows the UUIDs that a backend runs on should give those instead.
"""

import re
from collections.abc import Callable, Sequence


def visible_gpus(
    setting: str | None, uuids: Sequence[str], parent_of: Callable[[str], str | None]
) -> dict[str, bool]:
    """
    The UUIDs of the GPUs that *setting* shows, in its order, each with whether it is a MIG parent.

    The first entry that is not understood, or names nothing, ends the list. One that comes twice
    empties it.

    Args:
        setting: Value of ``CUDA_VISIBLE_DEVICES``. None: it is not set, and all are visible.
        uuids: UUIDs of all GPUs, by NVML index.
        parent_of: Gives the UUID of the GPU that a MIG instance, by its UUID, is a part of.
    """
    if setting is None:
        return dict.fromkeys(uuids, False)
    shown: dict[str, bool] = {}
    seen = set()
    for entry in setting.split(","):
        is_mig = entry.strip().startswith("MIG-")
        uuid = _find(entry.strip(), uuids, parent_of)
        if uuid is None:
            break
        identity = entry.strip() if is_mig else uuid
        if identity in seen:
            return {}
        seen.add(identity)
        shown[uuid] = is_mig
    return shown


def _find(entry: str, uuids: Sequence[str], parent_of: Callable[[str], str | None]) -> str | None:
    if entry.startswith("MIG-GPU-"):
        # The form of drivers before 470: MIG-<UUID of the GPU>/<GPU instance>/<compute instance>.
        return _by_prefix(entry.removeprefix("MIG-").partition("/")[0], uuids)
    if entry.startswith("MIG-"):
        return parent_of(entry)
    if entry.startswith("GPU-"):
        return _by_prefix(entry, uuids)
    # CUDA reads integers like strtol does: what follows the digits is ignored.
    number = re.match(r"\+?\d+", entry)
    index = int(number[0]) if number else len(uuids)
    return uuids[index] if index < len(uuids) else None


def _by_prefix(prefix: str, uuids: Sequence[str]) -> str | None:
    found = [uuid for uuid in uuids if uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None
