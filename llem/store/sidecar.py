"""
The sidecar: a time series as Parquet bytes, and back from bytes that may be anything.

Time and power are split by byte, which brings equal bytes of neighbouring values together; index
and temperature, of few values each, are a dictionary; zstd does the rest.
"""

import json
import os
from typing import TYPE_CHECKING, Any

from llem.domain.process import SCHEMA_VERSION
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import COLUMNS, Column
from llem.errors import SidecarIntegrityError, SidecarSchemaError
from llem.store.reading import read_regular_file

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 10_000_000
"""Most rows that are read unless a caller raises the limit."""

_SPLIT = {"timestamp_s": "BYTE_STREAM_SPLIT", "gpu_power_w": "BYTE_STREAM_SPLIT"}
_DICTIONARY: Any = ["gpu_temperature_c", "gpu_index"]


def max_bytes(max_rows: int) -> int:
    """Largest file that *max_rows* rows may take. Unit: bytes."""
    return 64 * max_rows + 2**20


def read_table(timeseries: "pa.Table | str | os.PathLike[str]", max_rows: int) -> "pa.Table":
    """
    The time series that a caller gave, a table or the path of a Parquet file.

    Raises:
        SidecarSchemaError: Its columns are not the four of a time series.
    """
    if isinstance(timeseries, str | os.PathLike):
        path = os.fspath(timeseries)
        content = read_regular_file(
            path, limit=max_bytes(max_rows), too_large=SidecarIntegrityError
        )
        return decode(content, source=path, max_rows=max_rows)
    if not hasattr(timeseries, "schema"):
        raise SidecarSchemaError(
            f"timeseries must be a pyarrow.Table or the path of a Parquet file, "
            f"got {type(timeseries).__name__}"
        )
    _check_schema(timeseries.schema, "timeseries")
    _check_nulls(timeseries, "timeseries")
    return timeseries


def encode(table: "pa.Table", result: ExperimentResult) -> bytes:
    """The Parquet bytes of *table*, which says whose samples it holds, of which devices."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table.cast(_schema(result)),
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
        rows, schema = file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _no_parquet(source, fault) from None
    _check_schema(schema, source)
    if rows > max_rows:
        raise SidecarIntegrityError(
            f"{source}: has {rows} rows, over the limit of {max_rows}; raise the limit of the "
            "store if it is to be trusted"
        )
    try:
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _no_parquet(source, fault) from None
    _check_nulls(table, source)
    return table


def _no_parquet(source: str, fault: Exception) -> SidecarIntegrityError:
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    return SidecarIntegrityError(f"{source}: is no whole Parquet file: {reason}")


def _schema(result: ExperimentResult) -> "pa.Schema":
    import pyarrow as pa

    devices = {
        str(device.gpu_index): {
            "uuid": device.uuid,
            "name": device.name,
            "sensor": device.sensor.value,
            "scope": device.scope,
            "period_s": device.sampling_period_s,
        }
        for device in result.devices
    }
    return pa.schema(
        [_field(column) for column in COLUMNS],
        metadata={
            "llem.schema_version": SCHEMA_VERSION,
            "llem.experiment_id": result.experiment_id,
            "llem.start_time": result.start_time.isoformat(),
            "llem.devices": json.dumps(devices),
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
