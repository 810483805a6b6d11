"""Writing files and folders so that they outlive a power cut, and saying why that failed."""

import contextlib
import errno
import os
from collections.abc import Iterable

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What a file system that knows no second names of a file says."""


def make_folders(path: str) -> None:
    """
    Make the folder *path* and those above it, as far as they are not there.

    Raises:
        NotADirectoryError: Something else is there.
    """
    missing = []
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
        if not missing[-1] or path == missing[-1]:
            break
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", folder)
        sync_folder(os.path.dirname(folder))


def write_new(path: str, chunks: Iterable[bytes]) -> None:
    """
    Make the file *path* of *chunks*, and have its bytes outlive a power cut.

    Raises:
        FileExistsError: Something is there.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            left = memoryview(chunk)
            while left:
                left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def name_file(source: str, target: str) -> None:
    """
    Give the file *source* the name *target*, which is there as a whole or not at all.

    Raises:
        FileExistsError: Something has the name.
    """
    try:
        os.link(source, target)
    except OSError as fault:
        if fault.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists", target) from None
        os.rename(source, target)
        return
    os.unlink(source)


def sync_folder(path: str) -> None:
    """Have the names in the folder *path* outlive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remedy(fault: OSError, place: str) -> str:
    """What to do where writing in *place* ended in *fault*."""
    return {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EACCES: f"ask for write permission in {_blocking(place, fault)}",
        errno.EPERM: f"ask for write permission in {_blocking(place, fault)}",
        errno.EROFS: "it is mounted read-only",
        errno.EFBIG: "the result is larger than a file may be",
        errno.EXDEV: "this file system cannot rename folders",
        errno.ENOSYS: "this file system cannot rename folders",
        errno.EOPNOTSUPP: "this file system cannot rename folders",
    }.get(fault.errno or 0, "check the path")


def _blocking(place: str, fault: OSError) -> str:
    """The folder in which *fault* came about."""
    return os.path.dirname(fault.filename) if isinstance(fault.filename, str) else place
