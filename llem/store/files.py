"""The files of one result: what is written, and what is read back."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from llem.codec import Document, read_document
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


def prepare(
    result: ExperimentResult,
    timeseries: "pa.Table | str | os.PathLike[str] | None",
    max_rows: int,
) -> tuple[ExperimentResult, dict[str, bytes]]:
    """
    *result* as it is kept, and the content of its sidecars by name.

    Raises:
        ResultValidationError: *result* is no result, or names a sidecar that was not given.
        SidecarSchemaError: *timeseries* has other columns.
    """
    if not isinstance(result, ExperimentResult):
        raise ResultValidationError(
            f"put takes an ExperimentResult, got {type(result).__name__}; "
            "`llem.from_json` makes one of a document"
        )
    table = (
        None
        if timeseries is None
        else sidecar.read_table(timeseries, max_rows, experiment_id=result.experiment_id)
    )
    if table is None or not table.num_rows:
        if result.timeseries is not None:
            raise ResultValidationError(
                f"timeseries names {result.timeseries!r}, and no samples were given: "
                "put them with timeseries=, or set the field to None",
                field="timeseries",
            )
        return result, {}
    stored = attrs.evolve(result, timeseries=TIMESERIES_NAME)
    content = sidecar.encode(
        table,
        experiment_id=stored.experiment_id,
        start_time=stored.start_time,
        devices=stored.devices,
    )
    return stored, {TIMESERIES_NAME: content}


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
            beside, limit=sidecar.max_bytes(max_rows), too_large=SidecarIntegrityError
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
