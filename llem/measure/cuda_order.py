"""
A program that prints the UUIDs of the GPUs that CUDA shows, in its order, one a line.

It runs in a process of its own, since ``cuInit`` cannot be undone and its process cannot fork and
use CUDA in the child. It makes no context on any GPU, and imports nothing that is slow to load.
"""

import ctypes
import sys

LIBRARY = "libcuda.so.1"


class _UUID(ctypes.Structure):
    _fields_ = (("octets", ctypes.c_ubyte * 16),)


def shown_uuids(library: str = LIBRARY) -> list[str]:
    """
    The UUIDs, without prefix, of the GPUs that CUDA shows to this process, in its order.

    Args:
        library: Name or path of CUDA's driver library.

    Raises:
        OSError: There is no such library, or CUDA does not answer.
    """
    cuda = ctypes.CDLL(library)
    # The second version gives the UUID of a MIG instance, the first one that of its GPU.
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    _check(cuda.cuInit(0), "cuInit")
    count = ctypes.c_int()
    _check(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    uuids = []
    for ordinal in range(count.value):
        device, uuid = ctypes.c_int(), _UUID()
        _check(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        _check(get_uuid(ctypes.byref(uuid), device), "cuDeviceGetUuid")
        uuids.append(_text(bytes(uuid.octets).hex()))
    return uuids


def _check(code: int, function: str) -> None:
    if code:
        raise OSError(f"CUDA ({function}): error {code}")


def _text(digits: str) -> str:
    """The 32 *digits* of a UUID in its groups."""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


if __name__ == "__main__":
    sys.stdout.writelines(f"{uuid}\n" for uuid in shown_uuids())
