"""Reading everything under a root, to find what is wrong with it."""

import warnings
from collections.abc import Callable, Sequence

import attrs

from llem.errors import (
    LlemError,
    MalformedResultError,
    ResultAccessError,
    ResultIntegrityError,
    ResultNotFoundError,
    ResultValidationError,
    SchemaVersionError,
    SidecarIntegrityError,
    SidecarMissingWarning,
    SidecarPathError,
    SidecarSchemaError,
)
from llem.store.files import read_result, read_sidecar

_KINDS: tuple[tuple[type[LlemError], str], ...] = (
    (SidecarPathError, "sidecar_path"),
    (ResultNotFoundError, "missing"),
    (ResultAccessError, "access"),
    (MalformedResultError, "malformed"),
    (SchemaVersionError, "schema_version"),
    (ResultIntegrityError, "integrity"),
    (ResultValidationError, "validation"),
    (SidecarIntegrityError, "sidecar_integrity"),
    (SidecarSchemaError, "sidecar_schema"),
)


@attrs.frozen(kw_only=True)
class StoreFault:
    """
    One thing that is wrong with a result.

    Attributes:
        key: The result.
        path: Its ``result.json``.
        kind: What kind of fault, a stable word such as integrity or sidecar_missing.
        message: What is wrong, where, and what to do.
    """

    key: str
    path: str
    kind: str
    message: str


@attrs.frozen(kw_only=True)
class Verification:
    """
    What reading everything came to.

    Attributes:
        checked: How many results were read.
        faults: What is wrong.
        unverified: Keys of results that have no digest, as other tools write them.
    """

    checked: int
    faults: tuple[StoreFault, ...]
    unverified: tuple[str, ...]


def verify(
    paths: Sequence[tuple[str, str]],
    *,
    max_json_bytes: int,
    max_rows: int,
    progress: Callable[[int, int], None],
) -> Verification:
    """
    Read every result of *paths*, its sidecar included, and say all that is wrong.

    Args:
        paths: Key, and path of ``result.json``, of each result.
        max_json_bytes: Largest ``result.json`` that is read. Unit: bytes.
        max_rows: Most rows of a time series that are read.
        progress: Is told how many are read, of how many.
    """
    faults: list[StoreFault] = []
    unverified = []
    for done, (key, path) in enumerate(paths):
        progress(done, len(paths))
        try:
            verified, gone = _look(path, max_json_bytes, max_rows)
        except LlemError as error:
            fault = StoreFault(key=key, path=path, kind=_kind_of(error), message=str(error))
            faults.append(fault)
            continue
        faults += [StoreFault(key=key, path=path, kind="sidecar_missing", message=m) for m in gone]
        unverified += [] if verified else [key]
    return Verification(checked=len(paths), faults=tuple(faults), unverified=tuple(unverified))


def _look(path: str, max_json_bytes: int, max_rows: int) -> tuple[bool, list[str]]:
    """Whether the result at *path* has a digest, and what is said of a sidecar that is gone."""
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        document = read_result(path, max_json_bytes)
        if document.result.timeseries is not None:
            read_sidecar(path, document, max_rows)
    gone = [str(w.message) for w in met if issubclass(w.category, SidecarMissingWarning)]
    return document.integrity is not None, gone


def _kind_of(error: LlemError) -> str:
    return next((kind for cls, kind in _KINDS if isinstance(error, cls)), "other")
