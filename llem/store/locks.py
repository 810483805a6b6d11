"""Locks of folders that are waited for. The kernel lets go of one when its holder dies."""

import fcntl
import time

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX

_RETRY_S = 0.01


def lock(fd: int, how: int, wait_s: float) -> bool:
    """
    Lock the open folder *fd*, and say whether it is ours now.

    Where no lock is to be had, as on some network file systems, it is.

    Args:
        fd: Descriptor of the folder.
        how: `SHARED` or `EXCLUSIVE`.
        wait_s: How long to wait for others. Unit: s.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_RETRY_S)
        except OSError:
            return True
        else:
            return True
