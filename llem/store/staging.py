"""
The staging area: folders on their way into the root, or out of it, and who still works on them.

Each lies in ``.llem-tmp`` under a name of its own, and whoever works on it holds a lock on it. The
kernel lets go of a lock when its holder dies, however that comes about; no number of a process,
which another may bear by now, needs to be asked about.

A lock does not reach beyond the kernel that gave it: on a network file system a folder of another
machine looks free. So a name begins with what tells this boot of this kernel from all others, and
a folder of another name is called abandoned only once no writer takes that long.
"""

import contextlib
import errno
import fcntl
import functools
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator

from llem.store.layout import STAGING_NAME

UNLOCKED_S = 60.0
"""How long a folder may be without a lock and empty, having just been made. Unit: s."""

ELSEWHERE_S = 24 * 3600.0
"""How long a folder of another machine is taken for that of a living writer. Unit: s."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@functools.cache
def boot_id() -> str:
    """What tells this boot of this kernel from all others. Empty: not known."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def new_place(root: str) -> str:
    """A path in the staging area of *root*, which is made where it is not there."""
    area = os.path.join(root, STAGING_NAME)
    make_area(area)
    return os.path.join(area, f"{boot_id()}_{uuid.uuid4()}")


def make_area(area: str) -> None:
    """
    Make the folder *area* where it is not there.

    Raises:
        NotADirectoryError: Something else is there, such as a link out of the root.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(area)
        mode = stat.S_IMODE(os.lstat(area).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            # Under such a umask all later writings would fail, whatever theirs is.
            os.chmod(area, mode | stat.S_IRWXU)
    check_area(area)


def check_area(area: str) -> None:
    """
    See that *area* is a folder of its own, and no link to one.

    Raises:
        NotADirectoryError: It is something else.
        FileNotFoundError: It is not there.
    """
    mode = os.lstat(area).st_mode
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
        raise NotADirectoryError(errno.ENOTDIR, f"{area} is {what}, not a folder")


@contextlib.contextmanager
def staging_folder(root: str) -> Iterator[tuple[str, int]]:
    """Make a folder in the staging area, and hold it; gives its path and its descriptor."""
    path = new_place(root)
    os.mkdir(path)
    try:
        with hold(path) as fd:
            yield path, fd
    except BaseException:
        remove_empty(path)
        raise


@contextlib.contextmanager
def hold(folder: str) -> Iterator[int]:
    """
    Hold the lock of *folder* as long as the block runs; gives a descriptor of the folder.

    Where no lock is to be had the block runs all the same: nothing is written twice without it.
    """
    with opened(folder) as fd:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd


@contextlib.contextmanager
def opened(folder: str) -> Iterator[int]:
    """
    A descriptor of *folder*. Locks of it go with the block, or with this process.

    A child that is forked meanwhile has none of them.
    """
    fd = open_folder(folder)
    _HELD.add(fd)
    try:
        yield fd
    finally:
        _let_go(fd)


_HELD: set[int] = set()
"""Descriptors whose locks a child that is forked meanwhile would keep beyond our death."""


def _let_go(fd: int) -> None:
    _HELD.discard(fd)
    with contextlib.suppress(OSError):
        # Closing alone leaves it to a child that was forked meanwhile.
        fcntl.flock(fd, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(fd)


def _close_in_child() -> None:
    for fd in tuple(_HELD):
        with contextlib.suppress(OSError):
            os.close(fd)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def abandoned(folder: str) -> Iterator[bool]:
    """Whether the staging folder *folder* is that of a dead writer. It stays so in the block."""
    try:
        fd = open_folder(folder)
    except OSError:
        yield False
        return
    try:
        yield _is_abandoned(os.path.basename(folder), fd)
    finally:
        _let_go(fd)


def _is_abandoned(name: str, fd: int) -> bool:
    try:
        age = time.time() - os.fstat(fd).st_ctime
        if age < UNLOCKED_S and not os.listdir(fd):
            return False
    except OSError:
        return False
    try:
        # Shared, so that two who look do not take each other for writers.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > ELSEWHERE_S
    is_ours = boot_id() and name.startswith(f"{boot_id()}_")
    return bool(is_ours) or age > ELSEWHERE_S


def open_folder(path: str) -> int:
    """A descriptor of the folder *path*, of which nothing is read but what lies in it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def remove_empty(folder: str) -> None:
    """Take away *folder*, unless something is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def discard(folder: str, names: Iterable[str]) -> None:
    """Take away the files *names*, and *folder* itself unless something else is in it."""
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
    remove_empty(folder)
