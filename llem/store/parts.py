"""Reading what the processes of a run left, whatever it is by now."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from llem.codec import measurement_config_hash, record_from_json
from llem.domain.conditions import Conditions
from llem.domain.fields import Record
from llem.domain.process import RawProcessResult
from llem.domain.spool import (
    CONDITIONS,
    MARKER,
    PARTS,
    RECORD,
    SAMPLES,
    Found,
    Marker,
    RunManifest,
    file_name,
)
from llem.errors import (
    LlemError,
    MalformedResultError,
    ResultAccessError,
    ResultIntegrityError,
    ResultNotFoundError,
    SidecarIntegrityError,
)
from llem.store import sidecar
from llem.store.blocks import max_bytes
from llem.store.reading import read_regular_file
from llem.store.staging import check_area

T = TypeVar("T")
R = TypeVar("R", bound=Record)

RUN_NAME = "run.json"

_NAME = re.compile(rf"process-([0-9]{{5,20}})({'|'.join(map(re.escape, PARTS.values()))})")
_ON_ITS_WAY = re.compile(r"\.(.+)\.[0-9a-f]{32}")


def index_of(name: str) -> int | None:
    """The process that the file *name* is of. None: it is of none."""
    parts = _NAME.fullmatch(name)
    if parts is None or f"{int(parts[1]):05d}" != parts[1] or int(parts[1]) >= 2**64:
        return None
    return int(parts[1])


def name_on_its_way(name: str, unique: str) -> str:
    """What the file *name* is called until it is whole; *unique* is 32 hex digits."""
    return f".{name}.{unique}"


def name_at_last(name: str) -> str:
    """What the file *name* is to be called once it is whole."""
    on_its_way = _ON_ITS_WAY.fullmatch(name)
    return on_its_way[1] if on_its_way else name


def is_ours(name: str) -> bool:
    """Whether the file *name* of a spool is of llem."""
    name = name_at_last(name)
    return name == RUN_NAME or index_of(name) is not None


def sha256(content: bytes) -> str:
    """SHA-256 of *content*, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


@attrs.frozen(kw_only=True)
class Part:
    """
    What one process left, read back and held against its digests.

    Attributes:
        process: What it measured.
        conditions: What it measured under.
        timeseries: Path of the Parquet file with its samples. None: it has none.
    """

    process: RawProcessResult
    conditions: Conditions
    timeseries: str | None


@attrs.frozen
class Parts:
    """
    The files of all processes, in the folder *folder*.

    Attributes:
        folder: The folder, which is called as the run.
        max_json_bytes: Largest document that is read. Unit: bytes.
        max_rows: Most rows of a time series that are read.
    """

    folder: str
    max_json_bytes: int
    max_rows: int

    @property
    def run_id(self) -> str:
        """The run."""
        return os.path.basename(self.folder)

    def names(self) -> list[str]:
        """
        The names of all that lies in the folder.

        Raises:
            ResultNotFoundError: There is no such folder.
            ResultAccessError: It is no folder, or cannot be listed.
        """
        try:
            check_area(self.folder)
            return sorted(os.listdir(self.folder))
        except (OSError, ValueError) as fault:
            raise no_folder(self.folder, fault) from None

    def indices(self) -> list[int]:
        """Each process that something is there of, were it but on its way, in order."""
        found = {index_of(name_at_last(name)) for name in self.names()}
        return sorted(index for index in found if index is not None)

    def path(self, index: int, part: str) -> str:
        """The path of *part* of process *index*."""
        return os.path.join(self.folder, file_name(index, part))

    def limit(self, name: str) -> int:
        """Most bytes that the file *name* may have."""
        return max_bytes(self.max_rows) if _is_samples(name) else self.max_json_bytes

    def content(self, name: str, what: str = "file of a process") -> bytes:
        """All bytes of the file *name*, as `read_regular_file` reads them."""
        path, limit = os.path.join(self.folder, name), self.limit(name)
        return read_regular_file(path, limit=limit, too_large=too_large(name), what=what)

    def manifest(self) -> RunManifest:
        """Which run this is, as `Spool.manifest` has it."""
        path = os.path.join(self.folder, RUN_NAME)
        content = self.content(RUN_NAME, what="state of a run")
        manifest = record_from_json(content, RunManifest, source=path)
        if manifest.run_id != self.run_id:
            raise ResultIntegrityError(
                f"{path}: is of run {manifest.run_id!r}, and its folder is called "
                f"{self.run_id!r}: it was renamed or copied; give it the name of its run"
            )
        return manifest

    def read(self, index: int) -> Part:
        """What process *index* left, as `Spool.read` has it."""
        path = self.path(index, MARKER)
        marker = record_from_json(self.content(file_name(index, MARKER)), Marker, source=path)
        if (marker.run_id, marker.process_index) != (self.run_id, index):
            raise ResultIntegrityError(
                f"{path}: is of process {marker.process_index} of run {marker.run_id!r}: its "
                "files are not those of this run"
            )
        process = self._record(index, RECORD, RawProcessResult, marker)
        if process.process_index != index:
            raise ResultIntegrityError(
                f"{self.path(index, RECORD)}: is of process {process.process_index}, not {index}"
            )
        has_samples = file_name(index, SAMPLES) in marker.files
        if has_samples:
            self._vouched(index, SAMPLES, marker)
        return Part(
            process=process,
            conditions=self._record(index, CONDITIONS, Conditions, marker),
            timeseries=self.path(index, SAMPLES) if has_samples else None,
        )

    def found(self, index: int) -> Found:
        """What is there of process *index*, whatever it is."""
        look = _Look(self, index)
        marker = look.read(MARKER, lambda *it: record_from_json(it[0], Marker, source=it[1]))
        process = look.read(
            RECORD, lambda *it: record_from_json(it[0], RawProcessResult, source=it[1])
        )
        config = None if process is None else look.read(RECORD, lambda *_: _hash_of(process))
        look.read(CONDITIONS, lambda *it: record_from_json(it[0], Conditions, source=it[1]))
        look.read(SAMPLES, lambda *it: sidecar.decode(it[0], source=it[1], max_rows=self.max_rows))
        return Found(
            index=index,
            process_index=None if process is None else process.process_index,
            experiment_id=None if process is None else process.experiment_id,
            measurement_config_hash=config,
            marker=marker,
            sha256=look.digests,
            faults=look.faults,
        )

    def sizes(self, index: int) -> Mapping[str, int]:
        """Size of each file of process *index*, by name, its marker last. Unit: bytes."""
        sizes = {}
        for part in PARTS:
            with contextlib.suppress(OSError):
                sizes[file_name(index, part)] = os.lstat(self.path(index, part)).st_size
        return sizes

    def _vouched(self, index: int, part: str, marker: Marker) -> bytes:
        """The bytes of *part*, which are those that *marker* vouches for."""
        content = self.content(name := file_name(index, part))
        if marker.files.get(name) != sha256(content):
            raise ResultIntegrityError(
                f"{self.path(index, part)}: is not what its process wrote: its marker has "
                "another SHA-256, or none"
            )
        return content

    def _record(self, index: int, part: str, cls: type[R], marker: Marker) -> R:
        content = self._vouched(index, part, marker)
        return record_from_json(content, cls, source=self.path(index, part))


class _Look:
    """
    A look at the files of one process, which goes on whatever it meets.

    Attributes:
        digests: SHA-256 of each file but the marker, by name.
        faults: Why a part cannot be read, by part.
    """

    def __init__(self, parts: Parts, index: int) -> None:
        self._parts, self._index = parts, index
        self.digests: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self._contents: dict[str, bytes] = {}
        for part in PARTS:
            self._open(part)

    def read(self, part: str, make: Callable[[bytes, str], T]) -> T | None:
        """What *make* makes of the bytes of *part*. None: that is not there, or at fault."""
        if part not in self._contents:
            return None
        try:
            return make(self._contents[part], self._parts.path(self._index, part))
        except LlemError as fault:
            self._note(part, fault)
            return None

    def _open(self, part: str) -> None:
        name = file_name(self._index, part)
        try:
            content = self._contents[part] = self._parts.content(name)
        except ResultNotFoundError:
            return
        except LlemError as fault:
            self._note(part, fault)
            return
        if part != MARKER:
            self.digests[name] = sha256(content)

    def _note(self, part: str, fault: LlemError) -> None:
        # The path may be no Unicode.
        self.faults[part] = str(fault).encode("utf-8", "backslashreplace").decode()


def no_folder(folder: str, fault: OSError | ValueError) -> LlemError:
    """What is raised where opening or listing the spool *folder* ended in *fault*."""
    if isinstance(fault, ValueError):
        return ResultNotFoundError(f"{folder!r}: is no path: {fault}")
    if isinstance(fault, FileNotFoundError):
        return ResultNotFoundError(
            f"{folder}: there is no state of a run: it was aggregated, or lies elsewhere"
        )
    return ResultAccessError(f"{folder}: is no folder of a run: {fault.strerror}")


def too_large(name: str) -> type[LlemError]:
    """What is raised where the file *name* is over its limit."""
    return SidecarIntegrityError if _is_samples(name) else MalformedResultError


def _is_samples(name: str) -> bool:
    return name.endswith(PARTS[SAMPLES])


def _hash_of(process: RawProcessResult) -> str:
    return measurement_config_hash(process.effective_config)
