"""
Moving what is at fault out of the way. Nothing that has content is deleted.

1. ``.llem-aside`` is made, and the root synced: what is moved into a folder that a power cut takes
   back would be lost.
2. ``mkdir`` of a name in it is the claim to that name; ``rename`` over our own empty claim moves.
3. The folder moved into is synced, then the root: the new names last before the old ones go.

An empty folder goes by ``rmdir``, which cannot destroy a result, not even that of a writer that is
just about to fill it.
"""

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence

import attrs

from llem.errors import CommitUnknownError, StoreWriteError
from llem.store.durable import sync_folder
from llem.store.layout import ASIDE_NAME, RESULT_FILES, RESULT_NAME, is_of_our_form
from llem.store.staging import abandoned, make_area, open_folder, remove_empty
from llem.store.verify import StoreFault, Verification

_NOTHING_TO_MOVE = {
    "schema_version",
    "sidecar_missing",
    "too_large",
    "no_memory",
    "unfinished",
    "state",
}
"""
What this reader cannot read may be whole, what only lacks its samples is better there, and a run
that was not aggregated is to be finished.
"""

_FULL_OR_GONE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT}


@attrs.frozen(kw_only=True)
class Moved:
    """
    One thing that was moved out of the way.

    Attributes:
        key: The result, or the name of the folder that was left.
        kind: What was wrong with it.
        path: The folder, where it lay.
        to: Where it lies now. None: it was empty, and was taken away.
    """

    key: str
    kind: str
    path: str
    to: str | None


@attrs.frozen(kw_only=True)
class Repair:
    """
    What a repair came to.

    Attributes:
        checked: How many results were read.
        moved: What was moved out of the way.
        left: What is wrong still.
    """

    checked: int
    moved: tuple[Moved, ...]
    left: tuple[StoreFault, ...]


def repair(root: str, found: Verification, is_so_still: Callable[[StoreFault], bool]) -> Repair:
    """
    Move what *found* names aside, into ``.llem-aside`` under *root*.

    Args:
        root: Where results are kept.
        found: What is wrong.
        is_so_still: Whether a fault is still there, just before its result is moved.

    Raises:
        StoreWriteError: There is no place to move anything to. Nothing was moved.
        CommitUnknownError: What was moved may be back after a power cut.
    """
    _check_areas(found.faults)
    left = [_told(fault) for fault in found.faults if not _can_move(fault)]
    moved: list[Moved] = []
    faults = [fault for fault in found.faults if _can_move(fault)]
    if faults:
        aside = _make_aside(root)
        for fault in faults:
            try:
                moved += _mend(fault, aside, is_so_still)
            except OSError as error:
                words = f"{fault.message}; it could not be moved aside: {error.strerror}"
                left.append(attrs.evolve(fault, message=words))
        _sync(aside, root)
    return Repair(checked=found.checked, moved=tuple(moved), left=tuple(left))


def _check_areas(faults: Sequence[StoreFault]) -> None:
    for fault in faults:
        if fault.kind == "area":
            raise StoreWriteError(f"{fault.message}; nothing was moved: {fault.advice}")


def _told(fault: StoreFault) -> StoreFault:
    if _is_ours(fault):
        return fault
    words = f"{fault.message}; its folder holds more than a result, and stays"
    return attrs.evolve(fault, message=words)


def _can_move(fault: StoreFault) -> bool:
    if not _is_ours(fault):
        return False
    if fault.kind != "access":
        return fault.kind not in _NOTHING_TO_MOVE
    # A file that may not be read now, for want of permission or of descriptors, may be whole.
    folder, file = os.path.split(fault.path)
    return file == RESULT_NAME and any(
        _is_no_file(os.path.join(folder, name)) for name in RESULT_FILES
    )


def _is_ours(fault: StoreFault) -> bool:
    """Whether its folder bears a name of ours, or holds nothing but the files of a result."""
    folder, file = os.path.split(fault.path)
    if file != RESULT_NAME or is_of_our_form(os.path.basename(folder)):
        return True
    try:
        with os.scandir(folder) as entries:
            return all(
                e.name in RESULT_FILES and not e.is_dir(follow_symlinks=False) for e in entries
            )
    except OSError:
        return False


def _is_no_file(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _make_aside(root: str) -> str:
    aside = os.path.join(root, ASIDE_NAME)
    try:
        make_area(aside)
        sync_folder(root)
    except OSError as fault:
        raise StoreWriteError(
            f"{aside}: could not be made: {fault.strerror}; nothing was moved: "
            "free some space, or ask for write permission"
        ) from None
    return aside


def _mend(
    fault: StoreFault, aside: str, is_so_still: Callable[[StoreFault], bool]
) -> Sequence[Moved]:
    if fault.kind == "claim":
        return _take_away(fault)
    if fault.kind == "staging":
        with abandoned(fault.path) as is_left:
            was = _status(fault.path)
            if was is None or not is_left:
                return ()
            return _take_away(fault) or _move(fault, fault.path, was, aside)
    folder = os.path.dirname(fault.path)
    with _known(folder) as seen:
        if seen is None or not is_so_still(fault):
            return ()
        return _move(fault, folder, seen, aside)


@contextlib.contextmanager
def _known(folder: str) -> Iterator[os.stat_result | None]:
    """
    What tells *folder* from all others, or None where it has gone.

    It is open as long as the block runs, so that no other can be given its number.
    """
    try:
        fd = open_folder(folder)
    except FileNotFoundError:
        yield None
        return
    try:
        yield os.fstat(fd)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def _take_away(fault: StoreFault) -> Sequence[Moved]:
    try:
        os.rmdir(fault.path)
    except OSError as error:
        if error.errno in _FULL_OR_GONE:
            return ()
        raise
    return (Moved(key=fault.key, kind=fault.kind, path=fault.path, to=None),)


def _move(fault: StoreFault, folder: str, was: os.stat_result, aside: str) -> Sequence[Moved]:
    to = _claim(os.path.join(aside, os.path.basename(folder)))
    try:
        os.rename(folder, to)
    except OSError as error:
        # Where it lies there it was moved after all: the reply of a server was lost.
        if not _is_at(to, was):
            remove_empty(to)
            if isinstance(error, FileNotFoundError) and not os.path.lexists(folder):
                return ()
            raise
    if not _is_at(to, was):
        _move_back(to, folder)
        return ()
    return (Moved(key=fault.key, kind=fault.kind, path=folder, to=to),)


def _move_back(to: str, folder: str) -> None:
    """Undo the move of another that had taken the name since it was looked at."""
    try:
        os.rename(to, folder)
    except OSError as error:
        words = f"another, which had taken its name, was moved to {to}: {error.strerror}"
        raise OSError(error.errno, words) from None


def _is_at(path: str, was: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), was)
    except OSError:
        return False


def _status(path: str) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path)
    return None


def _claim(wanted: str) -> str:
    for number in itertools.count():
        claim = f"{wanted}.{number}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(claim)
            return claim
    raise AssertionError  # pragma: no cover, numbers never end


def _sync(aside: str, root: str) -> None:
    try:
        sync_folder(aside)
        sync_folder(root)
    except OSError as fault:
        raise CommitUnknownError(
            f"{aside}: holds what was moved, but could not be synced ({fault.strerror}): "
            "check the disk, then look with `llem verify`"
        ) from None
