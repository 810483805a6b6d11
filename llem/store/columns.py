"""The rows of a time series: the types they are written in, and what may stand in them."""

import math
from typing import TYPE_CHECKING, Any

from llem.domain.timeseries import COLUMNS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY, Column
from llem.errors import SidecarIntegrityError, SidecarSchemaError

if TYPE_CHECKING:
    import pyarrow as pa

RUN_KEY = b"llem.experiment_id"
"""Where the metadata of a sidecar tells of which run it is."""

KEPT = (TIMING_KEY, REQUESTS_KEY, STRIDE_KEY)
"""What of the metadata of a table is kept with it."""


def schema_of(metadata: dict[Any, Any] | None = None) -> "pa.Schema":
    """The four columns as they are written, under *metadata*."""
    import pyarrow as pa

    return pa.schema([_field(column) for column in COLUMNS], metadata=metadata)


def _field(column: Column) -> "pa.Field":
    import pyarrow as pa

    types = {"float64": pa.float64(), "float32": pa.float32(), "int32": pa.int32()}
    unit = {"unit": column.unit} if column.unit else None
    return pa.field(column.name, types[column.type], nullable=True, metadata=unit)


def check_schema(schema: "pa.Schema", source: str) -> None:
    """
    See that *schema* has the four columns, of whatever width.

    Raises:
        SidecarSchemaError: It has not. *source* is named.
    """
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


def check_rows(rows: int, source: str, max_rows: int) -> None:
    """
    See that there are no more than *max_rows* rows.

    Raises:
        SidecarIntegrityError: There are.
    """
    if rows > max_rows:
        error = SidecarIntegrityError(
            f"{source}: has {rows} rows, over the limit of {max_rows}; raise the limit of the "
            "store if it is to be trusted"
        )
        error.over_limit = True
        raise error


def check_nulls(table: "pa.Table", source: str) -> None:
    """
    See that nothing is missing but readings.

    Raises:
        SidecarSchemaError: A time or an index is.
    """
    for column in COLUMNS:
        if not column.nullable and table.column(column.name).null_count:
            raise SidecarSchemaError(f"{source}: column {column.name} must have no nulls")


def check_run(told: dict[bytes, bytes], source: str, experiment_id: str) -> None:
    """
    See that a file that says of which run it is says the right one.

    Raises:
        SidecarIntegrityError: It says another.
    """
    run = told.get(RUN_KEY, experiment_id.encode())
    if run != experiment_id.encode():
        raise SidecarIntegrityError(
            f"{source}: holds the samples of {run.decode('utf-8', 'backslashreplace')!r}, not of "
            f"{experiment_id!r}: name the file of this run, or give them as a table"
        )


def as_written(table: "pa.Table", source: str, *, after_s: float = -math.inf) -> "pa.Table":
    """
    *table* in the types that are written, its values such as a meter can give.

    Args:
        table: The four columns, of whatever width.
        source: What errors call it.
        after_s: Time of the row before the first one. Unit: s.

    Raises:
        SidecarSchemaError: Values are not finite or do not fit, times decrease, or an index does
            not exist.
    """
    told = table.schema.metadata or {}
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made when it is imported, which no type checker sees
    try:
        table = table.cast(schema_of())
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
    decreases = pc.all(pc.less_equal(times[:-1], times[1:])).as_py() is False
    if decreases or (table.num_rows and times[0].as_py() < after_s):
        raise SidecarSchemaError(f"{source}: column timestamp_s must not decrease")
    if table.num_rows and pc.min(table.column("gpu_index")).as_py() < 0:
        raise SidecarSchemaError(f"{source}: column gpu_index must be >= 0")
    return table.replace_schema_metadata({key: told[key] for key in KEPT if key in told})
