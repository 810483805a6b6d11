"""Opening files that may be anything: bounded, without following links, without waiting."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import IO

from llem.errors import LlemError, ResultAccessError, ResultNotFoundError

MAX_JSON_BYTES = 64 * 2**20
"""Largest result.json that is read unless a caller raises the limit. Unit: bytes."""

MAX_MEASURED_BYTES = 4 * 2**30
"""
Largest result.json of one's own measurement, which is kept even where readers must raise their
limit: many ranks and millions of token latencies make it large. Unit: bytes.
"""


def read_regular_file(
    path: str, *, limit: int, too_large: type[LlemError], what: str = "result"
) -> bytes:
    """
    All bytes of the regular file *path*.

    Args:
        path: The file.
        limit: Most bytes to take. Unit: bytes.
        too_large: What is raised past the limit, before a byte is read.
        what: What messages say is not there.

    Raises:
        ResultNotFoundError: There is no such file.
        ResultAccessError: It is no regular file, or may not be read.
    """
    with _opened(path, limit, too_large, what) as (fd, size):
        return _read(fd, path, size)


@contextlib.contextmanager
def opened_regular_file(
    path: str, *, limit: int, too_large: type[LlemError], what: str = "result"
) -> Iterator[IO[bytes]]:
    """The regular file *path*, open in the block; all else as `read_regular_file` has it."""
    with _opened(path, limit, too_large, what) as (fd, _), os.fdopen(fd, "rb", closefd=False) as f:
        yield f


@contextlib.contextmanager
def _opened(
    path: str, limit: int, too_large: type[LlemError], what: str
) -> Iterator[tuple[int, int]]:
    """A descriptor of the file, and its size. Unit: bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as fault:
        raise _why_not(path, fault, what) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ResultAccessError(f"{path}: is {_kind(status.st_mode)}, not a regular file")
        if status.st_size > limit:
            error = too_large(
                f"{path}: has {status.st_size} bytes, over the limit of {limit}; "
                "raise the limit of the store if it is to be trusted (max_json_bytes, max_rows, "
                "or --max-json-mib)"
            )
            error.over_limit = True
            raise error
        yield fd, status.st_size
    finally:
        os.close(fd)


def _read(fd: int, path: str, size: int) -> bytes:
    parts, left = [], size
    try:
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    except OSError as fault:
        raise ResultAccessError(f"{path}: cannot be read: {fault.strerror}") from None
    return b"".join(parts)


def _why_not(path: str, fault: OSError | ValueError, what: str) -> LlemError:
    if isinstance(fault, ValueError):
        return ResultNotFoundError(f"{path!r}: is no path: {fault}")
    if fault.errno in (errno.ENOENT, errno.ENOTDIR):
        return ResultNotFoundError(f"{path}: there is no {what}")
    if fault.errno == errno.ELOOP:
        return ResultAccessError(f"{path}: is a symbolic link, which is not followed")
    if fault.errno == errno.ENXIO:
        return ResultAccessError(f"{path}: is a socket or a device, not a regular file")
    return ResultAccessError(f"{path}: cannot be opened: {fault.strerror}")


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")
