"""Results as folders of a directory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from llem.codec import Document
from llem.domain.result import ExperimentResult
from llem.errors import (
    InvalidNameError,
    ResultAccessError,
    ResultNotFoundError,
)
from llem.protocols import Key, Store, StoredResult
from llem.store import sidecar
from llem.store.commit import check_writable, commit, new_commit_id
from llem.store.files import path_of_result, path_text, prepared, read_result, read_sidecar
from llem.store.layout import RESULT_FILES, RESULT_NAME, age_order, folder_name
from llem.store.reading import MAX_JSON_BYTES
from llem.store.removal import remove
from llem.store.repair import Repair, repair
from llem.store.verify import StoreFault, Verification, faults_left, verify

if TYPE_CHECKING:
    import pyarrow as pa

_OF_THE_SYSTEM = "lost+found"
"""Lies at the top of a disk, and is nobody's to look into."""


@attrs.frozen
class ResultStore(Store):
    """
    Results under the directory *root*, each in a folder of its own.

    The folder is called ``{model}_{backend}_{start}``, and holds ``result.json`` and, where energy
    was sampled, ``timeseries.parquet``. Nothing is ever overwritten, however many write at once,
    and a reader sees a whole result or none.

    Attributes:
        root: The directory. Made by the first `put`.
        max_json_bytes: Largest ``result.json`` that is read. Unit: bytes.
        max_rows: Most rows of a time series that are read.
    """

    root: Path = attrs.field(converter=Path)
    max_json_bytes: int = attrs.field(default=MAX_JSON_BYTES, kw_only=True)
    max_rows: int = attrs.field(default=sidecar.MAX_ROWS, kw_only=True)

    def put(
        self,
        result: ExperimentResult,
        /,
        *,
        timeseries: "pa.Table | str | os.PathLike[str] | None" = None,
    ) -> StoredResult:
        """
        Keep *result*, with *timeseries* beside it, durably, under a name of its own.

        Args:
            result: The record.
            timeseries: Its samples: a table with the four columns of a time series, or the path of
                a Parquet file with them, which is read twice, by blocks, in bounded memory. None,
                or a table without rows: no sidecar is written.

        Returns:
            The result as kept: its ``timeseries`` is set if and only if a sidecar was written.

        Raises:
            ResultValidationError: *result* names a sidecar and none was given, is no result, or is
                over the store's own limit.
            SidecarIntegrityError: *timeseries* has more rows than the store's limit.
            SidecarSchemaError: *timeseries* has other columns.
            StoreWriteError: Nothing became visible.
            CommitUnknownError: It may or may not outlive a power cut.
        """
        with prepared(result, timeseries, self.max_rows) as one:
            commit_id, name = new_commit_id(), folder_name(one.result)
            files = one.files(commit_id, max_json_bytes=self.max_json_bytes)
            key = commit(str(self.root), name, files, commit_id)
        return StoredResult(key=key, path=str(self.root / key / RESULT_NAME), result=one.result)

    def check_writable(self) -> None:
        """
        Make the root, and see that a folder can be made in it, before a long run and not after it.

        Raises:
            StoreWriteError: Nothing can be written.
        """
        check_writable(str(self.root))

    def get(self, key: Key, /) -> ExperimentResult:
        """
        The result named *key*, verified.

        Args:
            key: A `StoredResult`, a key, or the path of a folder or of its ``result.json``.

        Raises:
            ResultNotFoundError: There is none.
            ResultAccessError: Its file is no regular one, or may not be read.
            MalformedResultError: It is no JSON object, or too large.
            SchemaVersionError: Its schema is not one this llem reads.
            ResultIntegrityError: It is not what was written.
            ResultValidationError: It is no result.
            SidecarPathError: It names a file other than its sidecar.

        Warns:
            SidecarMissingWarning: Its sidecar is gone; its ``timeseries`` is None.
        """
        return self._read(key)[1].result

    def timeseries(self, key: Key, /) -> "pa.Table | None":
        """
        The time series of the result named *key*, verified. None: it has none.

        Raises:
            ResultAccessError: The sidecar is no regular file, or may not be read.
            SidecarIntegrityError: It is not what was written, is no Parquet, or is too large.
            SidecarSchemaError: It has other columns.
            LlemError: Whatever `get` raises.

        Warns:
            SidecarMissingWarning: The sidecar is gone.
            SidecarUnverifiedWarning: No digest was recorded for it.
        """
        path, document = self._read(key)
        if document.result.timeseries is None:
            return None
        return read_sidecar(path, document, self.max_rows)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> Verification:
        """
        Read every result, its sidecar included, and say all that is wrong. Changes nothing.

        A folder with a sidecar and no record is a fault as well, and so is what a dead writer left:
        a staging folder, or an empty folder under the name of a result. What a living writer is
        about to publish is none. A run that was not aggregated, and that no living process works
        on, is unfinished.

        Args:
            progress: Is told how many results are read, of how many.

        Raises:
            ResultNotFoundError: There is no root.
            ResultAccessError: The root cannot be listed.
        """
        keys = self._names(*RESULT_FILES)
        if not os.path.lexists(self.root):
            raise ResultNotFoundError(
                f"{self.root}: there is no such directory: name one that results are kept in"
            )
        found = self._verify([(key, self.path_of(key)) for key in keys], progress)
        return attrs.evolve(found, faults=(*found.faults, *faults_left(str(self.root))))

    def repair(self, *, progress: Callable[[int, int], None] | None = None) -> Repair:
        """
        Move what `verify` names into ``.llem-aside``, from where it can be moved back by hand.

        No file is deleted; an empty folder that a dead writer left is taken away. A result stays
        where nothing of it is known to be damaged: it has another schema version, its samples alone
        are gone, it is over a limit of this store, or its files cannot be read just now. So do
        a folder of another's name that holds more than a result, and a run that is unfinished.

        Args:
            progress: Is told how many results are read, of how many.

        Raises:
            ResultNotFoundError: There is no root.
            ResultAccessError: The root cannot be listed.
            StoreWriteError: There is no place to move anything to. Nothing was moved.
            CommitUnknownError: What was moved may be back after a power cut.
        """

        def is_so_still(fault: StoreFault) -> bool:
            again = self._verify([(fault.key, fault.path)], None).faults
            return fault.kind in {fault.kind for fault in again}

        return repair(str(self.root), self.verify(progress=progress), is_so_still)

    def remove(self, key: Key, /) -> None:
        """
        Remove the result named *key*, durably, as a whole for every reader.

        Files in its folder that are not of llem are kept in the staging area, which `verify` names.

        Args:
            key: A `StoredResult`, a key, or the path of a folder or of its ``result.json``.

        Raises:
            ResultNotFoundError: There is none in this store.
            StoreWriteError: It could not be removed, and is there as before.
            CommitUnknownError: It went, but may be back after a power cut.
        """
        folder = os.path.dirname(os.path.abspath(self.path_of(key)))
        name = os.path.basename(folder)
        if key not in self or name.startswith("."):
            raise ResultNotFoundError(f"{folder}: is no result in {self.root}")
        remove(str(self.root), name)

    def __iter__(self) -> Iterator[str]:
        """The keys, oldest start first, as their names have it."""
        return iter(self._names(RESULT_NAME))

    def _names(self, *files: str) -> list[str]:
        """The names of folders that hold one of *files*, or that may not be looked into."""
        try:
            # The dot can be named only where what lies in the root can be.
            with os.scandir(os.path.join(self.root, os.curdir)) as entries:
                names = [entry.name for entry in entries if _holds(entry, files)]
        except FileNotFoundError:
            names = []
        except ValueError as fault:
            raise ResultNotFoundError(f"{str(self.root)!r}: is no path: {fault}") from None
        except OSError as fault:
            raise ResultAccessError(f"{self.root}: cannot be listed: {fault.strerror}") from None
        return sorted(names, key=age_order)

    def __len__(self) -> int:
        """How many results are kept."""
        return sum(1 for _ in self)

    def __contains__(self, key: object, /) -> bool:
        """Whether *key* names a result that is kept here."""
        if not isinstance(key, str | os.PathLike):
            return False
        try:
            path = os.path.abspath(self.path_of(key))
        except (ResultNotFoundError, InvalidNameError):
            return False
        folder = os.path.dirname(path)
        if os.path.islink(folder) or os.path.islink(path):
            # A link is no result of its own, and what it points to has another name.
            return False
        parent = os.path.realpath(os.path.dirname(folder))
        return parent == os.path.realpath(self.root) and os.path.isfile(path)

    def path_of(self, key: Key, /) -> str:
        """
        The path of the ``result.json`` that *key* names, whether or not it is there.

        Raises:
            ResultNotFoundError: *key* cannot name a result here.
            InvalidNameError: *key* is neither a text nor a path.
        """
        if isinstance(key, StoredResult):
            if not key.path:
                raise ResultNotFoundError(f"{key.key} is kept in a store without files")
            return key.path
        text = path_text(key)
        if not isinstance(key, str) or os.sep in text:
            return path_of_result(text)
        if not text or text.startswith(".") or "\0" in text:
            raise ResultNotFoundError(f"{text!r} in {self.root}: there is no result of that name")
        return str(self.root / text / RESULT_NAME)

    def _verify(
        self, paths: list[tuple[str, str]], progress: Callable[[int, int], None] | None
    ) -> Verification:
        return verify(
            paths,
            max_json_bytes=self.max_json_bytes,
            max_rows=self.max_rows,
            progress=progress or (lambda *_: None),
        )

    def _read(self, key: Key) -> tuple[str, Document]:
        path = self.path_of(key)
        return path, read_result(path, self.max_json_bytes)


def _holds(entry: "os.DirEntry[Any]", files: tuple[str, ...]) -> bool:
    is_hidden = entry.name.startswith(".") or entry.name == _OF_THE_SYSTEM
    if is_hidden or not entry.is_dir(follow_symlinks=False):
        return False
    return any(_may_be_there(os.path.join(entry.path, name)) for name in files)


def _may_be_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
