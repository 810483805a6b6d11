"""``llem import``: results that other tools or older versions wrote, converted and kept."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import orjson
from cyclopts import Parameter

from llem.cli.message import say
from llem.cli.output import AsJson, Root, print_json
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import TIMESERIES_NAME
from llem.errors import (
    CommitUnknownError,
    InvalidNameError,
    LlemError,
    MalformedResultError,
    ResultAccessError,
    ResultNotFoundError,
    ResultValidationError,
    SidecarIntegrityError,
    SidecarSchemaError,
    StoreWriteError,
)
from llem.importing import Imported, Unmapped, convert
from llem.importing.convert import BESIDE
from llem.importing.zone import zone_of
from llem.protocols import StoredResult
from llem.report.figures import count, counted, printable, unicode_text
from llem.store import ResultStore
from llem.store.files import path_of_result
from llem.store.layout import RESULT_NAME
from llem.store.reading import MAX_JSON_BYTES, read_regular_file
from llem.store.sidecar import MAX_ROWS, read_table

if TYPE_CHECKING:
    import pyarrow as pa

Figures = tuple[int, float | None, float]
"""Tokens, energy and time of a result, by which two of one experiment are told apart."""

Known = dict[str, dict[Figures, str]]
"""The keys of the results that are kept, by experiment and figures."""

WIDEST = 60
"""Most characters of a value that are shown; JSON output has all of them."""


def import_verb(
    *files: Annotated[Path, Parameter(required=True)],
    root: Root = "results",
    strict: Annotated[bool, Parameter(negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
    timezone: Annotated[str, Parameter(allow_leading_hyphen=True)] = "UTC",
    as_json: AsJson = False,
) -> int:
    """
    Convert results that other tools or older versions wrote, and keep them.

    Reads what llenergymeasure wrote: 1.x, 2.0, 3.0, 4.0, 5.0 and its bundles; and results of llem.
    The files are left as they are. What has no home in a record is listed, field by field.

    Parameters
    ----------
    files
        Documents, folders that hold a result.json, or folders of such folders. What lies beside
        one, such as timeseries.parquet, config.json and environment.json, is taken along. What is
        kept already is passed over.
    strict
        Keep no result of which a field has no home.
    again
        Keep a result also where one of the same experiment is kept already.
    timezone
        Zone of times that have none there: its name, such as Europe/Berlin, or the offset from UTC,
        such as +02:00. llenergymeasure writes local times of the machine it runs on.
    """
    store, zone = ResultStore(root), zone_of(timezone)
    known = {} if again else _experiments(store)
    documents = [document for file in files for document in _documents(file)]
    told = []
    for file in documents:
        try:
            imported, table = read(os.fspath(file), zone)
            key = _kept_already(imported.as_read, known)
            if key is not None:
                told.append(_already(file, key, quiet=as_json))
                continue
            _check(imported, strict=strict)
            kept = store.put(imported.result, timeseries=table)
        except (StoreWriteError, CommitUnknownError):
            raise
        except LlemError as error:
            told.append(_refused(file, error))
            continue
        if not again:
            known.setdefault(kept.result.experiment_id, {})[_figures(kept.result)] = kept.key
        told.append(_as_json(file, kept, imported))
        if not as_json:
            _print(file, kept, imported)
    if as_json:
        print_json(told)
    else:
        _print_summary(told)
    return int(any("error" in entry for entry in told))


def _documents(file: Path) -> list[Path]:
    """*file*; of a folder without a result, the folders in it that have one, sorted."""
    if not os.path.isdir(file) or os.path.lexists(file / RESULT_NAME):
        return [file]
    try:
        inner = sorted(file.iterdir())
    except OSError:
        return [file]
    shown = (folder for folder in inner if not folder.name.startswith("."))
    return [folder for folder in shown if os.path.lexists(folder / RESULT_NAME)] or [file]


def read(file: str, zone: tzinfo = UTC) -> tuple[Imported, "pa.Table | None"]:
    """
    The document in *file*, or in the folder *file*, as a record, and its time series.

    Args:
        file: The path.
        zone: Zone of times that have none.

    Raises:
        LlemError: It cannot be read or converted.
    """
    path = path_of_result(file)
    document = _bytes_of(path)
    folder = os.path.dirname(path)
    beside = {
        name: _bytes_of(os.path.join(folder, name))
        for name in BESIDE
        if os.path.lexists(os.path.join(folder, name)) and name != os.path.basename(path)
    }
    imported = convert(document, beside=beside, source=path, timezone=zone)
    if imported.as_read.timeseries is None:
        return imported, None
    return _with_timeseries(imported, path)


def _with_timeseries(imported: Imported, path: str) -> tuple[Imported, "pa.Table | None"]:
    """*imported* with the samples beside *path*, or without where they are none of ours."""
    if imported.is_ours and not imported.unmapped:
        table = ResultStore(os.path.dirname(path) or ".").timeseries(Path(path))
        return imported if table else imported.without_timeseries(
            f"{TIMESERIES_NAME} is gone"
        ), table
    if imported.as_read.timeseries != TIMESERIES_NAME:
        name = imported.as_read.timeseries
        return imported.without_timeseries(f"{name} is not called {TIMESERIES_NAME}"), None
    try:
        beside = os.path.join(os.path.dirname(path), TIMESERIES_NAME)
        return imported, read_table(beside, MAX_ROWS, experiment_id=imported.result.experiment_id)
    except (
        ResultAccessError,
        ResultNotFoundError,
        SidecarIntegrityError,
        SidecarSchemaError,
    ) as error:
        return imported.without_timeseries(str(error)), None


def _bytes_of(path: str) -> bytes:
    return read_regular_file(path, limit=MAX_JSON_BYTES, too_large=MalformedResultError)


def _experiments(store: ResultStore) -> Known:
    """The results that are kept; what cannot be read is passed over."""
    found: Known = {}
    for key in store:
        try:
            result = store.get(key)
        except LlemError:
            continue
        found.setdefault(result.experiment_id, {})[_figures(result)] = key
    return found


def _figures(result: ExperimentResult) -> Figures:
    return result.total_tokens, result.total_energy_j, result.total_inference_time_sec


def _kept_already(result: ExperimentResult, known: Known) -> str | None:
    """
    The key under which *result* is kept.

    Raises:
        InvalidNameError: One of the same experiment is, and its figures are others.
    """
    same = known.get(result.experiment_id, {})
    key = same.get(_figures(result))
    if key is None and same:
        raise InvalidNameError(
            f"not kept: {next(iter(same.values()))} is of the same experiment, "
            f"{result.experiment_id}, and has other figures; --again keeps this one too"
        )
    return key


def _check(imported: Imported, *, strict: bool) -> None:
    if not strict or not _lost(imported):
        return
    what = "its samples would be lost"
    if imported.unmapped:
        what = f"{counted(len(imported.unmapped), 'field has', 'fields have')} no home"
    listed = "\n  ".join(_lost(imported))
    raise ResultValidationError(f"not kept: {what}; without --strict the rest is kept:\n  {listed}")


def _lost(imported: Imported) -> list[str]:
    """A line for each part of the source that is not in the record."""
    lost = [_line(field) for field in imported.unmapped]
    if imported.samples_lost is not None:
        lost.append(f"samples not kept: {imported.samples_lost}")
    return lost


def _with_path(message: str, file: Path) -> str:
    return message if str(file) in message.partition(": ")[0] else f"{file}: {message}"


def _refused(file: Path, error: LlemError) -> dict[str, Any]:
    say(_with_path(str(error), file))
    return {"file": unicode_text(str(file)), "error": unicode_text(str(error))}


def _already(file: Path, key: str, *, quiet: bool) -> dict[str, Any]:
    if not quiet:
        print(printable(f"{file}: already kept as {key}"))
    return {"file": unicode_text(str(file)), "already_kept": unicode_text(key)}


def _print_summary(told: Sequence[Mapping[str, Any]]) -> None:
    """How many came to what, where there are several; what to do about those kept already."""
    counts = {
        "kept": sum("key" in entry for entry in told),
        "already kept": (already := sum("already_kept" in entry for entry in told)),
        "refused": sum("error" in entry for entry in told),
    }
    hint = "--again keeps once more what is kept already"
    if len(told) > 1:
        summary = ", ".join(f"{count(number)} {what}" for what, number in counts.items())
        print(f"{summary}; {hint}" if already else summary)
    elif already:
        print(hint)


def _print(file: Path, kept: StoredResult, imported: Imported) -> None:
    print(printable(f"{file}: kept as {kept.key}, from {imported.format}"))
    for field in imported.unmapped:
        print(printable(f"  no home: {_line(field)}"))
    if imported.samples_lost is not None:
        print(printable(f"  samples not kept: {imported.samples_lost}"))
    for note in imported.notes:
        print(printable(f"  note: {note}"))


def _line(field: Unmapped) -> str:
    value = field.value if len(field.value) <= WIDEST else f"{field.value[: WIDEST - 4]} ..."
    return f"{field.path} = {value}" + (f" ({field.reason})" if field.reason else "")


def _as_json(file: Path, kept: StoredResult, imported: Imported) -> dict[str, Any]:
    return {
        "file": unicode_text(str(file)),
        "key": kept.key,
        "path": unicode_text(kept.path),
        "format": imported.format,
        "unmapped": [
            {**attrs.asdict(field), "value": orjson.loads(field.value)}
            for field in imported.unmapped
        ],
        "notes": imported.notes,
        "samples_not_kept": imported.samples_lost and unicode_text(imported.samples_lost),
    }
