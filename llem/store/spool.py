"""
The spool: what the processes of a run leave under ``.state`` until they are aggregated.

1. ``run.json`` says which run the folder is of. The processes agree on it.
2. Each process writes its record, its conditions and its samples: into a file of another name,
   synced, and linked to its own name, so that a name stands for a whole file and none is replaced.
3. The folder is synced, and only then the marker written in the same way, with the digests of all
   of them. Without a marker that is right, nothing of a process is taken.
4. What is removed leaves as a whole, by a rename out of ``.state``.

A process holds a shared lock of the folder while it measures, and whoever aggregates an exclusive
one. The kernel lets go of both when their holder dies.
"""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from llem.codec import record_to_json
from llem.domain.conditions import Conditions
from llem.domain.fields import Record, shown
from llem.domain.process import RawProcessResult
from llem.domain.spool import (
    CONDITIONS,
    MARKER,
    RECORD,
    SAMPLES,
    Found,
    Marker,
    RunManifest,
    file_name,
)
from llem.errors import (
    AggregationError,
    IncompleteRunError,
    InvalidNameError,
    LlemError,
    ResultAccessError,
    ResultNotFoundError,
    ResultValidationError,
    StoreWriteError,
)
from llem.store import sidecar
from llem.store.durable import make_folders, name_file, remedy, sync_folder, write_new
from llem.store.layout import STATE_NAME
from llem.store.locks import EXCLUSIVE, SHARED, lock
from llem.store.parts import (
    RUN_NAME,
    Part,
    Parts,
    index_of,
    is_ours,
    name_on_its_way,
    no_folder,
    sha256,
    too_large,
)
from llem.store.reading import MAX_MEASURED_BYTES
from llem.store.removal import take_away
from llem.store.staging import check_area, make_area, opened, remove_empty

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_BYTES: Final = 2**20
"""Most bytes of a file that are given at once to be sent. Unit: bytes."""

_LOOK_S = 0.05
"""How long one waits for others who only look whether a run is at work. Unit: s."""

_TRIES = 10
"""How often the folder is made anew where others take away the one that it is to lie in."""

_ADVICE = {
    errno.EEXIST: "give each run a name, and each of its processes a rank, of its own",
    errno.ENOENT: "begin the run first",
}

Made = list[tuple[str, os.stat_result | None]]
"""Paths that were made, each with what tells its file from that of another. None: its name does."""


def _absolute(path: "str | os.PathLike[str]") -> Path:
    return Path(os.path.abspath(path))


@attrs.frozen
class Spool:
    """
    What the processes of one run leave, in the folder *folder*.

    Attributes:
        folder: The folder, which is called as the run.
        max_json_bytes: Largest document that is written or read. Unit: bytes.
        max_rows: Most rows of one process' time series.
    """

    folder: Path = attrs.field(converter=_absolute)
    max_json_bytes: int = attrs.field(default=MAX_MEASURED_BYTES, kw_only=True)
    max_rows: int = attrs.field(default=sidecar.MAX_ROWS, kw_only=True)

    @classmethod
    def of(cls, root: "str | os.PathLike[str]", run_id: str) -> "Spool":
        """
        The spool of run *run_id* under *root*, where results are kept.

        Raises:
            InvalidNameError: *run_id* is no plain file name.
        """
        pattern = attrs.fields(RunManifest).run_id.metadata["pattern"]
        if not isinstance(run_id, str) or not re.fullmatch(pattern, run_id):
            raise InvalidNameError(f"run_id must be a plain file name, got {shown(run_id)}")
        return cls(Path(root, STATE_NAME, run_id))

    @property
    def run_id(self) -> str:
        """The run, by the name of the folder."""
        return self.folder.name

    @property
    def root(self) -> Path:
        """Where results are kept."""
        parent = self.folder.parent
        return parent.parent if parent.name == STATE_NAME else parent

    def check_writable(self) -> None:
        """
        See that the folder can be made, before a long run and not after it. None is left.

        Raises:
            StoreWriteError: It cannot.
        """
        with self._writing("nothing can be written there"):
            try:
                # Who removed it meanwhile could write there too.
                with contextlib.suppress(FileNotFoundError):
                    self._make_folder()
            finally:
                remove_empty(str(self.folder))
                remove_empty(str(self.folder.parent))

    def begin(self, manifest: RunManifest) -> None:
        """
        Make the folder, and write down which run it is of. Every process of the run may do so.

        Raises:
            InvalidNameError: *manifest* is of a run of another name.
            StoreWriteError: That could not be done, or another run has this name.
        """
        if manifest.run_id != self.run_id:
            raise InvalidNameError(
                f"{self.folder}: is the spool of run {self.run_id!r}, not of {manifest.run_id!r}"
            )
        made: Made = []
        with self._writing("nothing of the run was written there"):
            self._make_folder()
            try:
                self._add(RUN_NAME, record_to_json(manifest), made)
                sync_folder(str(self.folder))
            except BaseException:
                # What bears the name may be what another process of the run relies on by now.
                _withdraw(made[:1])
                raise

    @contextlib.contextmanager
    def taking_part(self, manifest: RunManifest, *, wait_s: float = 1.0) -> Iterator[None]:
        """
        Begin the run, and be known to work on it as long as the block runs.

        Args:
            manifest: The run.
            wait_s: How long to wait for others who hold the folder. Unit: s.

        Raises:
            AggregationError: The run is being aggregated.
            LlemError: Whatever `begin` raises.
        """
        self.begin(manifest)
        with self._locked(SHARED, wait_s):
            yield

    @contextlib.contextmanager
    def hold(self, *, wait_s: float = 1.0) -> Iterator[None]:
        """
        Have the spool for oneself as long as the block runs, to aggregate and remove it.

        Args:
            wait_s: How long to wait for those who hold it. Unit: s.

        Raises:
            ResultNotFoundError: It is not there, or was removed meanwhile.
            IncompleteRunError: Processes of the run are still at work.
            AggregationError: Another process aggregates it.
        """
        with self._locked(EXCLUSIVE, wait_s):
            yield

    def is_held(self) -> bool:
        """Whether a living process of this machine measures for the run, or aggregates it."""
        try:
            with opened(str(self.folder)) as fd:
                return not lock(fd, EXCLUSIVE, _LOOK_S)
        except (OSError, ValueError):
            return False

    def leave(
        self,
        process: RawProcessResult,
        conditions: Conditions,
        timeseries: "pa.Table | str | os.PathLike[str] | None" = None,
    ) -> None:
        """
        Keep what one process measured, durably, with a marker that vouches for it.

        Args:
            process: What it measured.
            conditions: What it measured under.
            timeseries: Its samples, in s from the start time of *conditions*: a table, or the path
                of a Parquet file. None, or a table without rows: it has none.

        Raises:
            ResultValidationError: A document would be over the limit.
            SidecarIntegrityError: *timeseries* has too many rows, or is of another run.
            SidecarSchemaError: *timeseries* has other columns.
            StoreWriteError: It could not be written, or another process has left something under
                this index. Nothing of this process is there.
        """
        index = process.process_index
        files = {
            file_name(index, RECORD): self._document(process),
            file_name(index, CONDITIONS): self._document(conditions),
            **self._samples(process, conditions, timeseries),
        }
        digests = {name: sha256(content) for name, content in files.items()}
        marker = Marker(run_id=self.run_id, process_index=index, files=digests)
        vouching = {file_name(index, MARKER): self._document(marker)}
        self._keep(f"nothing of process {index} was left there", [files, vouching])

    def manifest(self) -> RunManifest:
        """
        Which run this is.

        Raises:
            ResultNotFoundError: Nothing says so.
            ResultIntegrityError: It is another one than the folder is called.
            LlemError: Its document cannot be read.
        """
        return self._parts.manifest()

    def found(self) -> Iterator[Found]:
        """
        What is there of each process, whatever it is, in the order of their indices.

        One after the other is read.

        Raises:
            ResultNotFoundError: There is no such folder.
            ResultAccessError: It is no folder, or cannot be listed.
        """
        return map(self._parts.found, self._parts.indices())

    def indices(self) -> tuple[int, ...]:
        """
        The processes that something is there of, were it but on its way, in order.

        Raises:
            LlemError: Whatever `found` raises.
        """
        return tuple(self._parts.indices())

    def strangers(self) -> tuple[str, ...]:
        """
        The names of what lies in the folder and is not of llem.

        Raises:
            LlemError: Whatever `found` raises.
        """
        return tuple(name for name in self._parts.names() if not is_ours(name))

    def read(self, index: int) -> Part:
        """
        What process *index* left, held against what its marker says.

        Raises:
            ResultNotFoundError: A file of it is not there.
            ResultIntegrityError: Its marker is of another, or a file is not what was written.
            LlemError: A file cannot be read.
        """
        return self._parts.read(index)

    def is_marked(self, index: int) -> bool:
        """Whether a marker of process *index* is there, whatever it says."""
        return os.path.lexists(self.folder / file_name(index, MARKER))

    def files_of(self, index: int) -> Mapping[str, int]:
        """Size of each file of process *index*, by name, its marker last. Unit: bytes."""
        return self._parts.sizes(index)

    def export(self, index: int) -> Iterator[tuple[str, bytes]]:
        """
        The files of process *index* to be sent, its marker last: name, and one chunk of content.

        Chunks of one file follow each other. `take` takes them on the other side.

        Raises:
            LlemError: A file cannot be read.
        """
        for name in self.files_of(index):
            content = self._parts.content(name)
            for start in range(0, len(content) or 1, CHUNK_BYTES):
                yield name, content[start : start + CHUNK_BYTES]

    def take(self, name: str, chunks: Iterable[bytes]) -> None:
        """
        Keep the file *name*, which a process on another machine sent, as durably as `leave` does.

        A file that is there with the same content stays, so that a transfer can be repeated.

        Raises:
            InvalidNameError: No file of a process is called so.
            MalformedResultError: A document has more bytes than the limit.
            SidecarIntegrityError: A time series has more bytes than the limit.
            StoreWriteError: It could not be written, or one of other content is there.
        """
        if not isinstance(name, str) or index_of(name) is None:
            raise InvalidNameError(f"{shown(name)}: is no name of a file that a process leaves")
        content, limit = bytearray(), self._parts.limit(name)
        for chunk in chunks:
            content += chunk
            if len(content) > limit:
                raise too_large(name)(f"{name}: has more than {limit} bytes")
        self._keep(f"{name} was not taken", [{name: bytes(content)}])

    def remove(self) -> None:
        """
        Remove the spool as a whole, durably. One that is not there is no matter.

        Files that are not of llem are kept in the staging area of the root, which `verify` names.

        Raises:
            StoreWriteError: It could not be removed, and is there as before.
            CommitUnknownError: It went, but may be back after a power cut.
        """
        try:
            files = [name for name in self._parts.names() if is_ours(name)]
            take_away(str(self.root), str(self.folder), files, what="state of a run")
        except ResultNotFoundError:
            pass
        except ResultAccessError as fault:
            raise StoreWriteError(f"{fault}; it was not removed") from None
        if self.folder.parent.name == STATE_NAME:
            remove_empty(str(self.folder.parent))

    @property
    def _parts(self) -> Parts:
        return Parts(str(self.folder), self.max_json_bytes, self.max_rows)

    def _make_folder(self) -> None:
        root, state, folder = str(self.root), str(self.folder.parent), str(self.folder)
        make_folders(root)
        for tries_left in reversed(range(_TRIES)):
            try:
                make_area(state)
                make_area(folder)
                break
            except FileNotFoundError:
                # Another run was the last, and took the empty folder of all states with it.
                if not tries_left:
                    raise
        sync_folder(root)
        sync_folder(state)

    def _keep(self, what: str, groups: Iterable[Mapping[str, bytes]]) -> None:
        """Write each group of files, durable before the next; where that fails, none is left."""
        made: Made = []
        with self._writing(what):
            check_area(str(self.folder))
            try:
                for files in groups:
                    for name, content in files.items():
                        self._add(name, content, made)
                    sync_folder(str(self.folder))
            except BaseException:
                _withdraw(made)
                raise

    def _add(self, name: str, content: bytes, made: Made) -> None:
        """Write the file *name*, unless it is there with this content. *made* grows by what is."""
        target = os.path.join(self.folder, name)
        place = os.path.join(self.folder, name_on_its_way(name, uuid.uuid4().hex))
        made.append((place, None))
        write_new(place, [content])
        made.append((target, os.lstat(place)))
        try:
            name_file(place, target)
        except FileExistsError:
            if not self._holds(name, content):
                raise FileExistsError(errno.EEXIST, f"{name} is there, of another", name) from None
            os.unlink(place)

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self._parts.content(name) == content
        except LlemError:
            return False

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except ValueError as fault:
            raise StoreWriteError(f"{str(self.folder)!r}: {what}: it is no path: {fault}") from None
        except OSError as fault:
            advice = _ADVICE.get(
                fault.errno or 0, f"{remedy(fault, str(self.folder))}, or choose another root"
            )
            raise StoreWriteError(f"{self.folder}: {what}: {fault.strerror}; {advice}") from None

    @contextlib.contextmanager
    def _locked(self, how: int, wait_s: float) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                fd = held.enter_context(opened(str(self.folder)))
            except (OSError, ValueError) as fault:
                raise no_folder(str(self.folder), fault) from None
            if not lock(fd, how, wait_s):
                raise self._refusal(fd)
            if not self._is_there(fd):
                raise ResultNotFoundError(f"{self.folder}: was removed by another process")
            yield

    def _refusal(self, fd: int) -> LlemError:
        if lock(fd, SHARED, 0.0):
            return IncompleteRunError(
                f"{self.folder}: processes of the run are still at work: wait for them"
            )
        return AggregationError(
            f"{self.folder}: is being aggregated by another process: wait for it"
        )

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.folder))
        except OSError:
            return False

    def _document(self, record: Record) -> bytes:
        content = record_to_json(record)
        if len(content) > self.max_json_bytes:
            raise ResultValidationError(
                f"the {type(record).__name__} has {len(content)} bytes, over the limit of "
                f"max_json_bytes={self.max_json_bytes}, so that it could not be read again"
            )
        return content

    def _samples(
        self,
        process: RawProcessResult,
        conditions: Conditions,
        timeseries: "pa.Table | str | os.PathLike[str] | None",
    ) -> dict[str, bytes]:
        if timeseries is None:
            return {}
        table = sidecar.read_table(timeseries, self.max_rows, experiment_id=process.experiment_id)
        if not table.num_rows:
            return {}
        heading = sidecar.heading_of_piece(process, conditions.start_time)
        content = sidecar.encode(table, heading)
        return {file_name(process.process_index, SAMPLES): content}


def _withdraw(made: Made) -> None:
    """Take away what we wrote, the marker first, and nothing of others that has its name."""
    for path, was in reversed(made):
        with contextlib.suppress(OSError):
            if was is None or os.path.samestat(os.lstat(path), was):
                os.unlink(path)
