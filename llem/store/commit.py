"""
The commit protocol: how files become visible together, durably, under a name nobody else has.

0. Everything is in memory before the first step, so that a bad value never touches the disk. A
   file of samples may be too large for that: it was read to its end by then, and is read again as
   the sidecar is written.
1. The root is made, and the parent of each directory made is synced: the root itself could vanish
   with a power cut.
2. A staging folder with a name nobody shares, on the same file system, hidden from ``*/...``, and
   held: who tidies up can tell it from that of a dead writer.
3. The sidecar, then 4. ``result.json``, which has the digest of what was written: created
   exclusively, written whole, synced, closed. Bytes come before names.
5. The staging folder is synced: its names come before anything points to it.
6. ``mkdir`` of the final name is the claim, exclusive on every POSIX file system. Taken: the next
   suffix.
7. ``rename`` of the staging folder over our own empty claim is the commit.
8. The root is synced, and only then is the result said to be kept.
9. Whatever fails before 7 takes away our own two files and empty folders. ``rmdir`` cannot
   destroy a result.
"""

import bisect
import contextlib
import errno
import os
import uuid
from collections.abc import Iterable

from llem.errors import CommitUnknownError, LlemError, StoreWriteError
from llem.store.durable import make_folders, remedy, sync_folder, write_new
from llem.store.layout import RESULT_NAME, candidates
from llem.store.staging import discard, remove_empty, staging_folder

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
"""What a rename over a folder with something in it ends in: ext4, xfs and others differ."""


def new_commit_id() -> str:
    """A name that no other writing has."""
    return str(uuid.uuid4())


def commit(
    root: str, name: str, files: Iterable[tuple[str, Iterable[bytes]]], commit_id: str
) -> str:
    """
    Make *files* visible in a folder of their own under *root*, and return its name.

    Args:
        root: Where results are kept; made where it does not exist.
        name: The wanted name of the folder; a suffix is added where it is taken.
        files: Name and parts of the content of each, sidecar first, ``result.json`` last. They are
            taken as they are written.
        commit_id: A unique name that stands in ``result.json``.

    Raises:
        StoreWriteError: Nothing became visible.
        CommitUnknownError: It became visible, but may not outlive a power cut.
        LlemError: Whatever taking a part of *files* raises. Nothing became visible.
    """
    begun: list[str] = []
    try:
        make_folders(root)
        with staging_folder(root) as (staging, fd):
            try:
                _fill(staging, fd, files, begun)
                final = _publish(root, name, staging, commit_id)
            except BaseException:
                discard(staging, begun)
                raise
    except LlemError:
        raise
    except (OSError, ValueError) as fault:
        raise _cannot_write(root, fault) from None
    try:
        sync_folder(root)
    except OSError as fault:
        raise CommitUnknownError(
            f"{os.path.join(root, final)}: was written, but {root} could not be synced "
            f"({fault.strerror}): check the disk, then look with `llem verify`"
        ) from None
    return final


def check_writable(root: str) -> None:
    """
    Make *root*, and make and remove a staging folder in it.

    Raises:
        StoreWriteError: That could not be done.
    """
    try:
        make_folders(root)
        with staging_folder(root) as (staging, fd):
            os.fsync(fd)
            os.rmdir(staging)
    except (OSError, ValueError) as fault:
        raise _cannot_write(root, fault) from None


def _fill(
    staging: str, fd: int, files: Iterable[tuple[str, Iterable[bytes]]], begun: list[str]
) -> None:
    for name, parts in files:
        begun.append(name)
        write_new(os.path.join(staging, name), parts)
    os.fsync(fd)


def _publish(root: str, name: str, staging: str, commit_id: str) -> str:
    for candidate in candidates(name, _first_free(root, name)):
        final = os.path.join(root, candidate)
        try:
            os.mkdir(final)
        except FileExistsError:
            continue
        try:
            os.rename(staging, final)
        except OSError as fault:
            if fault.errno in _TAKEN:
                if not _is_empty_claim(final):
                    continue
                # This file system renames over no folder, not even an empty one.
                _rename_to_free(staging, final)
                return candidate
            if _bears(final, commit_id):
                return candidate
            remove_empty(final)
            raise
        except BaseException:
            remove_empty(final)
            raise
        return candidate
    raise AssertionError  # pragma: no cover, candidates never end


def _first_free(root: str, name: str) -> int:
    """
    A number whose name is free, where that of the one before it is taken.

    Thousands of results of one name would else be met one by one by each put. What is free here
    may be taken by the time it is claimed, so that nothing rests on this but speed.
    """

    def is_free(number: int) -> bool:
        return not os.path.lexists(os.path.join(root, next(candidates(name, number))))

    beyond = 1
    while not is_free(beyond - 1):
        beyond *= 2
    return bisect.bisect_left(range(beyond), True, beyond // 2, key=is_free)


def _is_empty_claim(final: str) -> bool:
    """Take away our claim where nothing came into it, and say whether that was so."""
    try:
        os.rmdir(final)
    except OSError:
        return False
    return True


def _rename_to_free(staging: str, final: str) -> None:
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "File exists", final)
    os.rename(staging, final)


def _bears(final: str, commit_id: str) -> bool:
    """Whether our rename took place after all, as when the reply of a file server was lost."""
    with contextlib.suppress(OSError), open(os.path.join(final, RESULT_NAME), "rb") as file:
        return commit_id.encode() in file.read()
    return False


def _cannot_write(root: str, fault: OSError | ValueError) -> StoreWriteError:
    if isinstance(fault, ValueError):
        return StoreWriteError(f"{root!r}: nothing was written: it is no path: {fault}")
    return StoreWriteError(
        f"{root}: nothing was written: {fault.strerror}; {remedy(fault, root)}, "
        "or choose another root"
    )
