"""Which machine this is, and whose clock it has."""

import os
import platform

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLOCK = "/proc/self/ns/time"


def identity() -> tuple[str, str]:
    """
    The name of this machine, and what tells its running kernel from all others.

    Containers on one machine share the latter. It is empty where the system does not tell.
    """
    return platform.node() or "localhost", _kernel()


def clock_identity() -> str:
    """What tells the monotonic clock of this process from those of others. Empty: not known."""
    try:
        # Kernels without time namespaces have one clock for all.
        namespace = os.readlink(_CLOCK) if os.path.lexists(_CLOCK) else "time"
    except OSError:
        return ""
    return f"{kernel}/{namespace}" if (kernel := _kernel()) else ""


def _kernel() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""
