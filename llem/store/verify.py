"""Reading everything under a root, to find what is wrong with it."""

import os
import shlex
import warnings
from collections.abc import Callable, Sequence

import attrs

from llem.errors import (
    LlemError,
    MalformedResultError,
    NoMemoryError,
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
from llem.store import leftovers
from llem.store.files import read_result, read_sidecar

_KINDS: tuple[tuple[type[LlemError], str], ...] = (
    (SidecarPathError, "sidecar_path"),
    (ResultNotFoundError, "missing"),
    (NoMemoryError, "no_memory"),
    (ResultAccessError, "access"),
    (MalformedResultError, "malformed"),
    (SchemaVersionError, "schema_version"),
    (ResultIntegrityError, "integrity"),
    (ResultValidationError, "validation"),
    (SidecarIntegrityError, "sidecar_integrity"),
    (SidecarSchemaError, "sidecar_schema"),
)

_REPAIR = "`llem verify --repair`"
_ADVICE = {
    "access": "see that a regular file lies there which you may read",
    "no_memory": "free some memory, or look on a larger machine; nothing is known of the file",
    "too_large": (
        "restore its folder from a copy if it is not meant to be so large; "
        "else `llem.ResultStore(root, max_json_bytes=..., max_rows=...)` reads it"
    ),
    "schema_version": "read it with the llem that wrote it",
    "sidecar_missing": "restore the file from a copy; the record itself is whole",
    "area": "take it away: the next put or repair makes a folder there",
    "claim": f"{_REPAIR} takes it away",
    "state": "take it away, or restore it from a copy: no result can be made of it",
    "staging": f"{_REPAIR} moves it aside; nothing that was said to be kept is in it",
}
_USUAL_ADVICE = f"restore its folder from a copy, or let {_REPAIR} move it aside"


@attrs.frozen(kw_only=True)
class StoreFault:
    """
    One thing that is wrong with a result, or that a dead writer left.

    Attributes:
        key: The result, or the name of the folder that was left.
        path: Its ``result.json``, or the folder that was left.
        kind: What kind of fault, a stable word such as integrity or sidecar_missing. claim: an
            empty folder under the name of a result. staging: what was never published, or was
            removed in part. area: what lies where llem would put those. unfinished: what the
            processes of a run left and nobody aggregated. state: what lies there and is of no run.
        message: What is wrong, and where.
    """

    key: str
    path: str
    kind: str
    message: str

    @property
    def advice(self) -> str:
        """What to do. ``llem verify --repair`` is `ResultStore.repair`."""
        if self.kind == "unfinished":
            folder = shlex.quote(self.path)
            return (
                f"`llem aggregate {folder}` finishes it, with --allow-incomplete without what is "
                f"missing; `rm -r {folder}` gives it up, as where a result without that is kept, "
                "or rank 0 has kept the whole one elsewhere"
            )
        return _ADVICE.get(self.kind, _USUAL_ADVICE)


@attrs.frozen(kw_only=True)
class Verification:
    """
    What reading everything came to.

    Attributes:
        checked: How many results were read.
        faults: What is wrong.
        unverified: Keys of results that lack a digest, as other tools write them.
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

    A result that another removes meanwhile is none.

    Args:
        paths: Key, and path of ``result.json``, of each result.
        max_json_bytes: Largest ``result.json`` that is read. Unit: bytes.
        max_rows: Most rows of a time series that are read.
        progress: Is told how many are read, of how many.
    """
    faults: list[StoreFault] = []
    unverified, removed = [], 0
    for done, (key, path) in enumerate(paths):
        progress(done, len(paths))
        try:
            verified, gone = _look(path, max_json_bytes, max_rows)
        except LlemError as error:
            if os.path.lexists(os.path.dirname(path)):
                fault = StoreFault(key=key, path=path, kind=_kind_of(error), message=str(error))
                faults.append(fault)
            else:
                removed += 1
            continue
        faults += [StoreFault(key=key, path=path, kind="sidecar_missing", message=m) for m in gone]
        unverified += [] if verified else [key]
    checked = len(paths) - removed
    return Verification(checked=checked, faults=tuple(faults), unverified=tuple(unverified))


def faults_left(root: str) -> tuple[StoreFault, ...]:
    """What the dead left under *root*, and what is in the way of writers, as faults."""
    claims, folders = leftovers.find(root)
    areas = tuple(
        StoreFault(key=os.path.basename(path), path=path, kind=kind, message=words)
        for path, kind, words in (*leftovers.areas_at_fault(root), *leftovers.spools(root))
    )
    return areas + tuple(
        StoreFault(key=os.path.basename(path), path=path, kind=kind, message=f"{path}: {words}")
        for kind, words, paths in (
            ("claim", "is an empty folder that a writer left which died", claims),
            ("staging", "was left by a writer that died", folders),
        )
        for path in paths
    )


def _look(path: str, max_json_bytes: int, max_rows: int) -> tuple[bool, list[str]]:
    """Whether the result at *path* has its digests, and what is said of a sidecar that is gone."""
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        document = read_result(path, max_json_bytes)
        if document.result.timeseries is not None:
            read_sidecar(path, document, max_rows)
    gone = [str(w.message) for w in met if issubclass(w.category, SidecarMissingWarning)]
    integrity, named = document.integrity, document.result.timeseries
    return integrity is not None and (named is None or named in integrity.sidecars), gone


def _kind_of(error: LlemError) -> str:
    if error.over_limit:
        return "too_large"
    return next((kind for cls, kind in _KINDS if isinstance(error, cls)), "other")
