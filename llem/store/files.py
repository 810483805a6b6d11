"""The files of one result: what is written, and what is read back."""

import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from llem.codec import Document, SidecarDigest, read_document, to_stored_json
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import TIMESERIES_NAME
from llem.errors import (
    InvalidNameError,
    LlemError,
    MalformedResultError,
    NoMemoryError,
    ResultIntegrityError,
    ResultNotFoundError,
    ResultValidationError,
    SidecarIntegrityError,
    SidecarMissingWarning,
    SidecarUnverifiedWarning,
)
from llem.store import sidecar
from llem.store.blocks import SeriesFile, max_bytes
from llem.store.layout import RESULT_NAME
from llem.store.reading import MAX_JSON_BYTES, read_regular_file

if TYPE_CHECKING:
    import pyarrow as pa


def load(path: "str | os.PathLike[str]") -> ExperimentResult:
    """
    The result in the folder *path*, or in the file *path*; no store is needed.

    Raises:
        LlemError: Whatever `ResultStore.get` raises.
    """
    return read_result(path_of_result(path_text(path)), MAX_JSON_BYTES, stacklevel=3).result


def path_text(path: object) -> str:
    """
    The text of *path*.

    Raises:
        InvalidNameError: It is neither a text nor a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InvalidNameError(f"a key must be a str or a path, got {type(path).__name__}")
    return text


def path_of_result(path: str) -> str:
    """The path of the ``result.json`` that *path* means: in the folder, or itself."""
    if not path or "\0" in path:
        raise ResultNotFoundError(f"{path!r}: is no path of a result")
    return os.path.join(path, RESULT_NAME) if os.path.isdir(path) and not _is_json(path) else path


def _is_json(path: str) -> bool:
    return os.path.basename(path) == RESULT_NAME


@attrs.frozen
class Prepared:
    """
    A result that is to be kept.

    Attributes:
        result: The result as it is kept.
        sidecar: The bytes of its sidecar: all of them where they are in memory, or the file whose
            rows they are made of. None: it has none.
    """

    result: ExperimentResult
    sidecar: "bytes | SeriesFile | None"

    def files(
        self, commit_id: str, *, max_json_bytes: int = sys.maxsize
    ) -> Iterator[tuple[str, Iterable[bytes]]]:
        """
        The name of each of its files and the parts of its content, which are to be taken in order.

        Nothing but the rows of a file is left to be made once this returns.

        Args:
            commit_id: A unique name that stands in ``result.json``.
            max_json_bytes: Largest document that is made. Unit: bytes.

        Raises:
            ResultValidationError: The document is larger.
        """
        if isinstance(self.sidecar, SeriesFile):
            self._document(commit_id, {TIMESERIES_NAME: _SOME_DIGEST}, max_json_bytes)
            return self._as_read(self.sidecar, commit_id, max_json_bytes)
        sidecars = {} if self.sidecar is None else {TIMESERIES_NAME: self.sidecar}
        document = self._document(commit_id, sidecars, max_json_bytes)
        return ((name, [text]) for name, text in {**sidecars, RESULT_NAME: document}.items())

    def _as_read(
        self, file: SeriesFile, commit_id: str, max_json_bytes: int
    ) -> Iterator[tuple[str, Iterable[bytes]]]:
        counted = _Counted(sidecar.encoded_anew(file, sidecar.heading_of(self.result)))
        yield TIMESERIES_NAME, counted
        digests = {TIMESERIES_NAME: counted.digest}
        yield RESULT_NAME, [self._document(commit_id, digests, max_json_bytes)]

    def _document(
        self, commit_id: str, sidecars: Mapping[str, bytes | SidecarDigest], most: int
    ) -> bytes:
        document = to_stored_json(self.result, commit_id=commit_id, sidecars=sidecars)
        if len(document) > most:
            raise ResultValidationError(
                f"the document of the result has {len(document)} bytes, over the store's limit of "
                f"max_json_bytes={most}, so that it could not be read again"
            )
        return document


_SOME_DIGEST = SidecarDigest(bytes=10**12, sha256=64 * "0")
"""Stands in for one that is not known yet, and is no shorter."""


class _Counted:
    """
    Parts of a file, of which a digest is taken as they pass.

    Args:
        parts: The parts.
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self._size, self._sha256 = 0, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self._size += len(part)
            self._sha256.update(part)
            yield part

    @property
    def digest(self) -> SidecarDigest:
        """That of all that passed."""
        return SidecarDigest(bytes=self._size, sha256=self._sha256.hexdigest())


@contextlib.contextmanager
def prepared(
    result: ExperimentResult,
    timeseries: "pa.Table | str | os.PathLike[str] | None",
    max_rows: int,
) -> Iterator[Prepared]:
    """
    *result* as it is kept, with its sidecar, all of it checked.

    The file *timeseries* is read to its end once, and open as long as the block runs.

    Raises:
        ResultValidationError: *result* is no result, or names a sidecar that was not given.
        LlemError: Whatever `sidecar.read_table` raises.
    """
    if not isinstance(result, ExperimentResult):
        raise ResultValidationError(
            f"put takes an ExperimentResult, got {type(result).__name__}; "
            "`llem.from_json` makes one of a document"
        )
    if timeseries is None:
        yield _without_samples(result)
        return
    with sidecar.opened(timeseries, max_rows, experiment_id=result.experiment_id) as series:
        stored = attrs.evolve(result, timeseries=TIMESERIES_NAME)
        if isinstance(series, SeriesFile):
            series.check()
            yield Prepared(stored, series) if series.rows else _without_samples(result)
        else:
            content = (
                sidecar.encode(series, sidecar.heading_of(stored)) if series.num_rows else None
            )
            yield Prepared(stored, content) if content else _without_samples(result)


def _without_samples(result: ExperimentResult) -> Prepared:
    if result.timeseries is not None:
        raise ResultValidationError(
            f"timeseries names {result.timeseries!r}, and no samples were given: "
            "put them with timeseries=, or set the field to None",
            field="timeseries",
        )
    return Prepared(result, None)


def read_result(path: str, max_json_bytes: int, *, stacklevel: int = 4) -> Document:
    """
    The document in the file *path*, its ``timeseries`` None where the sidecar is gone.

    Args:
        path: The file.
        max_json_bytes: Largest file that is read. Unit: bytes.
        stacklevel: How far up the caller is whom a warning concerns.
    """
    with _want_of_memory_told(path):
        content = read_regular_file(path, limit=max_json_bytes, too_large=MalformedResultError)
        document = read_document(content, source=path, sidecar=TIMESERIES_NAME)
    _check_digests(document, path)
    if document.result.timeseries is None:
        return document
    beside = os.path.join(os.path.dirname(path), TIMESERIES_NAME)
    if os.path.lexists(beside):
        return document
    if not os.path.lexists(path):
        raise ResultNotFoundError(f"{path}: was removed while it was read")
    warnings.warn(
        f"{beside}: is gone; the result is loaded without its time series",
        SidecarMissingWarning,
        stacklevel=stacklevel,
    )
    return attrs.evolve(document, result=attrs.evolve(document.result, timeseries=None))


def _check_digests(document: Document, path: str) -> None:
    """See that digests are of the one sidecar there may be, and not of what is never read."""
    named = document.integrity.sidecars if document.integrity else {}
    if others := [name for name in named if name != TIMESERIES_NAME]:
        raise ResultIntegrityError(
            f"{path}: its integrity member has a digest of {others[0]!r}, which no store writes: "
            "it was changed; restore the file from a copy @ $.integrity.sidecars"
        )


def read_sidecar(path: str, document: Document, max_rows: int) -> "pa.Table":
    """The time series beside the ``result.json`` at *path*, held against its digest."""
    beside = os.path.join(os.path.dirname(path), TIMESERIES_NAME)
    with _want_of_memory_told(beside):
        content = read_regular_file(
            beside, limit=max_bytes(max_rows), too_large=SidecarIntegrityError
        )
        _check_bytes(content, document, beside)
        return sidecar.decode(content, source=beside, max_rows=max_rows)


def _check_bytes(content: bytes, document: Document, beside: str) -> None:
    digest = document.integrity and document.integrity.sidecars.get(TIMESERIES_NAME)
    if not digest:
        warnings.warn(
            f"{beside}: no digest was recorded; its samples are taken on trust",
            SidecarUnverifiedWarning,
            stacklevel=4,
        )
    elif (len(content), hashlib.sha256(content).hexdigest()) != (digest.bytes, digest.sha256):
        raise SidecarIntegrityError(
            f"{beside}: its bytes are not what was written (SHA-256 or size differ, "
            f"{len(content)} bytes of {digest.bytes}); restore the file from a copy"
        )


@contextlib.contextmanager
def _want_of_memory_told(path: str) -> Iterator[None]:
    """Have no file called damaged because its reader ran out of memory."""
    try:
        yield
    except (MemoryError, LlemError) as error:
        if not _is_want_of_memory(error):
            raise
        raise NoMemoryError(f"{path}: there is no memory to read it") from None


def _is_want_of_memory(error: Exception) -> bool:
    if isinstance(error, ResultValidationError):
        # A MemoryError has no text, and what was wrong with a field is kept as text.
        return any(not problem for problem, _ in error.faults)
    cause = error.__context__ if isinstance(error, LlemError) else error
    text = str(cause).lower()
    return isinstance(cause, MemoryError) or "not enough memory" in text or "bad_alloc" in text
