"""
Removing a result, so that no reader meets a part of one, and no power cut brings back a part.

1. The folder is renamed into the staging area: it goes as a whole, for every reader at once.
2. The root is synced: files that went before the name did would be missed after a power cut.
3. Our own files are deleted, then the folder with ``rmdir``: what else lies there is kept.
"""

import contextlib
import os
from collections.abc import Iterable

from llem.errors import CommitUnknownError, ResultNotFoundError, StoreWriteError
from llem.store.durable import sync_folder
from llem.store.layout import RESULT_FILES
from llem.store.staging import discard, hold, new_place


def remove(root: str, name: str) -> None:
    """
    Remove the folder *name* under *root*.

    Raises:
        ResultNotFoundError: It is not there any more.
        StoreWriteError: It could not be removed, and is there as before.
        CommitUnknownError: It went, but may come back after a power cut.
    """
    take_away(root, os.path.join(root, name), RESULT_FILES, what="result")


def take_away(root: str, folder: str, files: Iterable[str], *, what: str) -> None:
    """
    Remove *folder*, which lies somewhere under *root*, with those of its files that are *files*.

    Args:
        root: Where results are kept.
        folder: The folder.
        files: Names of what is deleted. All else is kept in the staging area.
        what: What messages say is not there.

    Raises:
        LlemError: Whatever `remove` raises.
    """
    parent = os.path.dirname(folder)
    with contextlib.ExitStack() as held:
        try:
            place = new_place(root)
            # Held before it comes into the staging area, where it would look like a dead writer's.
            held.enter_context(hold(folder))
            _rename(folder, place)
        except FileNotFoundError:
            raise ResultNotFoundError(f"{folder}: there is no {what}") from None
        except OSError as fault:
            raise StoreWriteError(
                f"{folder}: was not removed: {fault.strerror}; check the path and your permissions"
            ) from None
        try:
            sync_folder(parent)
        except OSError as fault:
            raise CommitUnknownError(
                f"{folder}: was removed, but {parent} could not be synced ({fault.strerror}): "
                f"check the disk; its files lie in {place}"
            ) from None
        discard(place, files)


def _rename(folder: str, place: str) -> None:
    try:
        os.rename(folder, place)
    except OSError:
        # Nobody shares the name, so that it took place if the name is there: a lost reply.
        if not os.path.lexists(place):
            raise
