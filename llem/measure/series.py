"""Samples as the table that a sidecar keeps, and back."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llem.domain.timeseries import COLUMNS
from llem.errors import SidecarSchemaError
from llem.protocols import Device, Samples

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

_BLOCK = 4096
"""Ticks that are looked at together."""

_MOST_DEVICES = 1024
"""More than a machine holds."""

_DTYPES = {"float64": "f8", "float32": "f4", "int32": "i4"}


def to_table(devices: Sequence[Device], samples: Samples, *, origin_s: float) -> "pa.Table | None":
    """
    *samples* as a table of the four columns of a time series.

    Rows are in tick order: all devices of the first tick, then all of the second. A reading that
    failed is null.

    Args:
        devices: The devices, one for each column of *samples*.
        samples: What was sampled.
        origin_s: Monotonic time that ``timestamp_s`` counts from. Unit: s.

    Returns:
        None where there are no samples, or the power of no device was ever read.
    """
    import numpy as np

    if np.isnan(samples.power_w).all():
        return None
    arrow = importlib.import_module("pyarrow")
    ticks = len(samples.times_s)
    columns: dict[str, npt.NDArray[Any]] = {
        "timestamp_s": np.repeat(samples.times_s - origin_s, len(devices)),
        "gpu_power_w": samples.power_w.ravel(),
        "gpu_temperature_c": samples.temperature_c.ravel(),
        "gpu_index": np.tile([device.index for device in devices], ticks),
    }
    schema = arrow.schema(
        [arrow.field(c.name, getattr(arrow, c.type)(), c.nullable) for c in COLUMNS]
    )
    arrays = [
        _array(arrow, field.type, columns[column.name].astype(_DTYPES[column.type], copy=False))
        for field, column in zip(schema, COLUMNS, strict=True)
    ]
    return arrow.Table.from_arrays(arrays, schema=schema)


def by_device(table: "pa.Table") -> dict[int, Samples]:
    """
    The samples of each device of a time series, by its index, in memory that its rows bound.

    Each device has the ticks of its own rows, which may come in any order; of several at one time
    the last counts. One table of ticks and devices would be mostly holes where each process had
    ticks of its own.

    Args:
        table: The four columns of a time series, of whatever width.

    Raises:
        SidecarSchemaError: A column is missing.
    """
    times, power, celsius, indices = _columns(table)
    count = _devices_in_tick_order(times, indices)
    rows: dict[int, Any]
    if count:
        rows = {int(indices[first]): slice(first, None, count) for first in range(count)}
    else:
        rows = _rows_by_device(times, indices)
    return {
        index: Samples(times_s=times[own], power_w=power[own], temperature_c=celsius[own])
        for index, own in rows.items()
    }


def _rows_by_device(
    times: "npt.NDArray[Any]", indices: "npt.NDArray[Any]"
) -> "dict[int, npt.NDArray[Any]]":
    """Where the rows of each device stand, by time, the last one of each time."""
    import numpy as np

    order = np.lexsort((times, indices))
    ordered_s, ordered = times[order], indices[order]
    last = np.append((ordered_s[1:] != ordered_s[:-1]) | (ordered[1:] != ordered[:-1]), True)
    order, ordered = order[last[: len(order)]], ordered[last[: len(order)]]
    devices, firsts = np.unique(ordered, return_index=True)
    return dict(zip(devices.tolist(), np.split(order, firsts[1:]), strict=False))


def _columns(table: "pa.Table") -> "list[npt.NDArray[Any]]":
    names = [column.name for column in COLUMNS]
    if missing := set(names).difference(table.column_names):
        raise SidecarSchemaError(f"the time series lacks the column {min(missing)}")
    return [_values(table[name]) for name in names]


def _devices_in_tick_order(times: "npt.NDArray[Any]", indices: "npt.NDArray[Any]") -> int:
    """How many devices have one row each at every tick, in the same order. 0: it is not so."""
    import numpy as np

    first = times[:_MOST_DEVICES]
    count = int((first == first[:1]).sum())
    if not count or len(times) % count or len(set(indices[:count].tolist())) < count:
        return 0
    rows = count * _BLOCK
    pattern = np.tile(indices[:count], _BLOCK)
    # Times rise from the last row of a tick to the first of the next, and nowhere else.
    rises = np.tile([False] * (count - 1) + [True], _BLOCK)
    for start in range(0, len(times), rows):
        of_block = indices[start : start + rows]
        block = times[start : start + rows + 1]
        if not (
            np.array_equal(of_block, pattern[: len(of_block)])
            and np.array_equal(block[1:] > block[:-1], rises[: len(block) - 1])
            and not (block[1:] < block[:-1]).any()
        ):
            return 0
    return count


def _values(column: "pa.ChunkedArray") -> "npt.NDArray[Any]":
    """The values of a column, null as NaN. Read from buffers, which needs no pandas."""
    import numpy as np

    parts = [_chunk(chunk) for chunk in column.chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0)


def _chunk(chunk: "pa.Array") -> "npt.NDArray[Any]":
    import numpy as np

    held = slice(chunk.offset, chunk.offset + len(chunk))
    validity, data = chunk.buffers()
    values = np.frombuffer(data, chunk.type.to_pandas_dtype())[held]
    if chunk.null_count:
        bits = np.unpackbits(np.frombuffer(validity, "u1"), bitorder="little")
        values = np.where(bits[held] == 1, values, np.float32("nan"))
    return values


def _array(arrow: Any, kind: Any, values: "npt.NDArray[Any]") -> Any:
    """An Arrow array over *values*, NaN as null. Made from buffers, which needs no pandas."""
    buffers = [_validity(arrow, values), arrow.py_buffer(values)]
    return arrow.Array.from_buffers(kind, len(values), buffers)


def _validity(arrow: Any, values: "npt.NDArray[Any]") -> Any:
    """One bit a value, the first one lowest, 0 for NaN. None: all are valid."""
    import numpy as np

    read = np.isfinite(values)
    return None if read.all() else arrow.py_buffer(np.packbits(read, bitorder="little"))
