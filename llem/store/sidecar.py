"""
The sidecar: a time series as Parquet bytes, and back from bytes that may be anything.

Time and power are split by byte, which brings equal bytes of neighbouring values together; index
and temperature, of few values each, are a dictionary; zstd does the rest.
"""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llem.domain.energy import DeviceEnergy
from llem.domain.process import SCHEMA_VERSION
from llem.domain.timeseries import COLUMNS, REQUESTS_KEY, TIMING_KEY, Column
from llem.errors import SidecarIntegrityError, SidecarSchemaError
from llem.store.reading import read_regular_file

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 10_000_000
"""Most rows that are read unless a caller raises the limit."""

_SPLIT = {"timestamp_s": "BYTE_STREAM_SPLIT", "gpu_power_w": "BYTE_STREAM_SPLIT"}
_RUN_KEY = b"llem.experiment_id"
_KEPT = (TIMING_KEY, REQUESTS_KEY)
_DICTIONARY: Any = ["gpu_temperature_c", "gpu_index"]


def max_bytes(max_rows: int) -> int:
    """Largest file that *max_rows* rows may take. Unit: bytes."""
    return 64 * max_rows + 2**20


def read_table(
    timeseries: "pa.Table | str | os.PathLike[str]", max_rows: int, *, experiment_id: str
) -> "pa.Table":
    """
    The time series that a caller gave, a table or the path of a Parquet file.

    Args:
        timeseries: The table, or the path.
        max_rows: Most rows that are taken.
        experiment_id: The run that it is to be of, which a file may contradict.

    Raises:
        SidecarSchemaError: Its columns are not the four of a time series, or hold what no meter
            gives: values that are not finite, times that decrease, a negative index.
        SidecarIntegrityError: It has more than *max_rows* rows, or the file is no Parquet, or says
            that it is of another run.
    """
    import pyarrow as pa

    if isinstance(timeseries, str | os.PathLike):
        source = os.fspath(timeseries)
        content = read_regular_file(
            source, limit=max_bytes(max_rows), too_large=SidecarIntegrityError, what="Parquet file"
        )
        table = decode(content, source=source, max_rows=max_rows)
        _check_run(table, source, experiment_id)
    elif isinstance(timeseries, pa.Table):
        source, table = "timeseries", timeseries
        _check_schema(table.schema, source)
        _check_rows(table.num_rows, source, max_rows)
        _check_nulls(table, source)
    else:
        raise SidecarSchemaError(
            f"timeseries must be a pyarrow.Table or the path of a Parquet file, "
            f"got {type(timeseries).__name__}"
        )
    return _as_written(table, source)


def _check_run(table: "pa.Table", source: str, experiment_id: str) -> None:
    """See that a file that says of which run it is says the right one."""
    told = (table.schema.metadata or {}).get(_RUN_KEY, experiment_id.encode())
    if told != experiment_id.encode():
        raise SidecarIntegrityError(
            f"{source}: holds the samples of {told.decode('utf-8', 'backslashreplace')!r}, not of "
            f"{experiment_id!r}: name the file of this run, or give them as a table"
        )


def _as_written(table: "pa.Table", source: str) -> "pa.Table":
    """*table* in the types that are written, its values such as a meter can give."""
    told = table.schema.metadata or {}
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made when it is imported, which no type checker sees
    try:
        table = table.cast(pa.schema([_field(column) for column in COLUMNS]))
    except pa.ArrowException as fault:
        reason = str(fault).splitlines()[0]
        raise SidecarSchemaError(f"{source}: has values that do not fit: {reason}") from None
    for column in COLUMNS:
        finite = pc.all(pc.is_finite(table.column(column.name))).as_py()
        if finite is False:
            raise SidecarSchemaError(
                f"{source}: column {column.name} must be finite; what was not read is null"
            )
    times = table.column("timestamp_s")
    if pc.all(pc.less_equal(times[:-1], times[1:])).as_py() is False:
        raise SidecarSchemaError(f"{source}: column timestamp_s must not decrease")
    if table.num_rows and pc.min(table.column("gpu_index")).as_py() < 0:
        raise SidecarSchemaError(f"{source}: column gpu_index must be >= 0")
    return table.replace_schema_metadata({key: told[key] for key in _KEPT if key in told})


def encode(
    table: "pa.Table",
    *,
    experiment_id: str,
    start_time: datetime,
    devices: Sequence[DeviceEnergy],
) -> bytes:
    """
    The Parquet bytes of *table*, which says whose samples it holds, of which devices.

    Args:
        table: The samples.
        experiment_id: The run.
        start_time: What its times are counted from.
        devices: The devices that it has samples of.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(experiment_id, start_time, devices)
    schema = schema.with_metadata(schema.metadata | (table.schema.metadata or {}))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.cast(schema),
        sink,
        compression="zstd",
        use_dictionary=_DICTIONARY,
        column_encoding=_SPLIT,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode(content: bytes, *, source: str, max_rows: int) -> "pa.Table":
    """
    The table whose Parquet bytes *content* is.

    Columns, then the number of rows, are looked at before a page is decoded.

    Raises:
        SidecarIntegrityError: It is no Parquet, or has more than *max_rows* rows.
        SidecarSchemaError: Its columns are not the four of a time series.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        rows, schema = _rows_of(file.metadata), file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _no_parquet(source, fault) from None
    _check_schema(schema, source)
    _check_rows(rows, source, max_rows)
    try:
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _no_parquet(source, fault) from None
    _check_nulls(table, source)
    return table


def _rows_of(metadata: Any) -> int:
    """How many rows a file has, by itself and by its row groups, which are what is decoded."""
    rows: int = metadata.num_rows
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(groups) != rows or min(groups, default=0) < 0:
        raise ValueError(f"it says that it has {rows} rows, and its row groups have others")
    return rows


def _check_rows(rows: int, source: str, max_rows: int) -> None:
    if rows > max_rows:
        error = SidecarIntegrityError(
            f"{source}: has {rows} rows, over the limit of {max_rows}; raise the limit of the "
            "store if it is to be trusted"
        )
        error.over_limit = True
        raise error


def _no_parquet(source: str, fault: Exception) -> SidecarIntegrityError:
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    return SidecarIntegrityError(f"{source}: is no whole Parquet file: {reason}")


def _schema(
    experiment_id: str, start_time: datetime, devices: Sequence[DeviceEnergy]
) -> "pa.Schema":
    import pyarrow as pa

    named = {
        str(device.gpu_index): {
            "uuid": device.uuid,
            "name": device.name,
            "sensor": device.sensor.value,
            "scope": device.scope,
            "period_s": device.sampling_period_s,
        }
        for device in devices
    }
    return pa.schema(
        [_field(column) for column in COLUMNS],
        metadata={
            "llem.schema_version": SCHEMA_VERSION,
            _RUN_KEY: experiment_id,
            "llem.start_time": start_time.isoformat(),
            "llem.devices": json.dumps(named),
        },
    )


def _field(column: Column) -> "pa.Field":
    import pyarrow as pa

    types = {"float64": pa.float64(), "float32": pa.float32(), "int32": pa.int32()}
    unit = {"unit": column.unit} if column.unit else None
    return pa.field(column.name, types[column.type], nullable=True, metadata=unit)


def _check_schema(schema: "pa.Schema", source: str) -> None:
    import pyarrow as pa

    wanted = [column.name for column in COLUMNS]
    if schema.names != wanted:
        raise SidecarSchemaError(
            f"{source}: must have the columns {', '.join(wanted)}, in this order, "
            f"got {', '.join(schema.names) or 'none'}"
        )
    is_kind: dict[str, Any] = {"floating": pa.types.is_floating, "integer": pa.types.is_integer}
    for column in COLUMNS:
        found = schema.field(column.name).type
        if not is_kind[column.kind](found):
            raise SidecarSchemaError(
                f"{source}: column {column.name} must be of a {column.kind} type, got {found}"
            )


def _check_nulls(table: "pa.Table", source: str) -> None:
    for column in COLUMNS:
        if not column.nullable and table.column(column.name).null_count:
            raise SidecarSchemaError(f"{source}: column {column.name} must have no nulls")
