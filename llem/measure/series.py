"""Samples as the table that a sidecar keeps."""

import importlib
import math
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llem.domain.timeseries import COLUMNS
from llem.protocols import Device, Samples

if TYPE_CHECKING:
    import pyarrow as pa

_TYPECODES = {"float64": "d", "float32": "f", "int32": "i"}


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
    if all(math.isnan(power) for column in samples.power_w for power in column):
        return None
    arrow = importlib.import_module("pyarrow")
    since_origin = array("d", (time - origin_s for time in samples.times_s))
    ticks = len(since_origin)
    columns: dict[str, Sequence[array[Any]]] = {
        "timestamp_s": (since_origin,) * len(devices),
        "gpu_power_w": samples.power_w,
        "gpu_temperature_c": samples.temperature_c,
        "gpu_index": tuple(array("i", [device.index]) * ticks for device in devices),
    }
    schema = arrow.schema(
        [arrow.field(c.name, getattr(arrow, c.type)(), c.nullable) for c in COLUMNS]
    )
    arrays = [
        _array(arrow, field.type, _interleaved(columns[column.name], _TYPECODES[column.type]))
        for field, column in zip(schema, COLUMNS, strict=True)
    ]
    return arrow.Table.from_arrays(arrays, schema=schema)


def _interleaved(columns: "Sequence[array[Any]]", typecode: str) -> "array[Any]":
    """The first of each column, then the second of each, and so on."""
    rows = array(typecode, bytes(array(typecode).itemsize * sum(map(len, columns))))
    for offset, column in enumerate(columns):
        rows[offset :: len(columns)] = array(typecode, column)
    return rows


def _array(arrow: Any, kind: Any, values: "array[Any]") -> Any:
    """An Arrow array over *values*, NaN as null. Made from buffers, which needs no pandas."""
    buffers = [_validity(arrow, values), arrow.py_buffer(values)]
    return arrow.Array.from_buffers(kind, len(values), buffers)


def _validity(arrow: Any, values: "array[Any]") -> Any:
    """One bit a value, the first one lowest, 0 for NaN. None: all are valid."""
    if values.typecode == "i" or not math.isnan(sum(values)):
        return None
    bits = "".join("0" if math.isnan(value) else "1" for value in reversed(values))
    return arrow.py_buffer(int(bits, 2).to_bytes((len(values) + 7) // 8, "little"))
