"""
What dead writers left: staging folders, claims to names that never got their result, and spools
that nobody aggregated.
"""

import contextlib
import os
import time
from collections.abc import Iterator

from llem.errors import ResultAccessError, ResultNotFoundError
from llem.store import staging
from llem.store.layout import ASIDE_NAME, RESULT_NAME, STAGING_NAME, STATE_NAME, is_of_our_form
from llem.store.parts import RUN_NAME
from llem.store.spool import Spool
from llem.store.staging import abandoned, check_area


def find(root: str) -> tuple[list[str], list[str]]:
    """
    The paths of claims, and those of staging folders, that dead writers left under *root*.

    A writer claims once its staging folder is filled. So a claim that is older than what each
    living writer has filled is nobody's.
    """
    claims = list(_empty_folders(root))
    left, since = [], float("inf")
    for path in _staging_folders(root):
        with abandoned(path) as is_left:
            if is_left:
                left.append(path)
            elif not is_empty(path):
                since = min(since, _changed(path))
    # The writer of a claim that was seen first may be done by now.
    return [path for path in claims if _changed(path) < since and is_empty(path)], left


def spools(root: str) -> Iterator[tuple[str, str, str]]:
    """The path of what lies under ``.state`` and no living process works on, the kind, and why."""
    state = os.path.join(root, STATE_NAME)
    try:
        check_area(state)
        names = sorted(os.listdir(state))
    except FileNotFoundError:
        return
    except NotADirectoryError as fault:
        yield state, "state", f"{fault.strerror}, so that no run of many processes can begin"
        return
    except OSError as fault:
        yield state, "access", f"{state}: cannot be listed: {fault.strerror}"
        return
    for name in names:
        path = os.path.join(state, name)
        if (told := _left_in(Spool(path))) is not None:
            yield path, *told


def areas_at_fault(root: str) -> Iterator[tuple[str, str, str]]:
    """The path of each area of llem under *root* that is no folder to list, the kind, and why."""
    for name in (STAGING_NAME, ASIDE_NAME):
        area = os.path.join(root, name)
        try:
            check_area(area)
            os.listdir(area)
        except FileNotFoundError:
            continue
        except NotADirectoryError as fault:
            yield area, "area", str(fault.strerror)
        except OSError as fault:
            yield area, "access", f"{area}: cannot be listed: {fault.strerror}"


def is_empty(folder: str) -> bool:
    """Whether *folder* is there, and nothing is in it."""
    try:
        return not os.listdir(folder)
    except OSError:
        return False


def _empty_folders(root: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if (
                is_of_our_form(entry.name)
                and entry.is_dir(follow_symlinks=False)
                and not os.path.lexists(os.path.join(entry.path, RESULT_NAME))
                and is_empty(entry.path)
            ):
                yield entry.path


def _staging_folders(root: str) -> list[str]:
    area = os.path.join(root, STAGING_NAME)
    try:
        check_area(area)
        with os.scandir(area) as entries:
            return sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _changed(path: str) -> float:
    """When *path* was changed last, or infinity where it has gone. Unit: ns."""
    try:
        return os.stat(path, follow_symlinks=False).st_ctime_ns
    except OSError:
        return float("inf")


def _left_in(spool: Spool) -> tuple[str, str] | None:
    """The kind of fault that *spool* is, and why. None: it is none."""
    path = str(spool.folder)
    if spool.is_held():
        return None
    try:
        count = len(spool.indices())
    except ResultNotFoundError:
        return None
    except ResultAccessError as fault:
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        return "access" if is_folder else "state", str(fault)
    if not count:
        is_young = time.time() - _changed(path) / 1e9 < staging.UNLOCKED_S
        return None if is_young else ("state", f"{path}: holds nothing that a process measured")
    words = f"is a run that was not aggregated, with files of {count} of its processes"
    if not os.path.lexists(spool.folder / RUN_NAME):
        words += f", and without {RUN_NAME}, of which each machine of the run has had a copy"
    return "unfinished", f"{path}: {words}; no process of this machine works on it"
