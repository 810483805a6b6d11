"""Records and samples made to order, for tests that need one and care little which."""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs

from llem.domain.fields import Record
from llem.domain.process import InferenceMetrics, Timestamps
from llem.domain.result import AggregationMetadata, ExperimentResult
from llem.domain.timeseries import COLUMNS, TIMESERIES_NAME

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T", bound=Record)

A_TIME = datetime(2026, 3, 13, 14, 21, 11, 145237, UTC)


def filled(cls: type[T], **fields: Any) -> T:
    """A record of the class *cls* with every field set, unless *fields* gives its value."""
    own = {
        field.name: _some_value(field.type, field.metadata)
        for field in attrs.fields(cls)  # type: ignore[arg-type]
    }
    return cls(**(own | _MATCHING.get(cls, {}) | fields))


def small_result(**fields: Any) -> ExperimentResult:
    """A result with little in it, unless *fields* gives more."""
    start = fields.get("start_time", A_TIME)
    own: dict[str, Any] = {
        "experiment_id": "exp-1",
        "measurement_config_hash": "0123456789abcdef",
        "measurement_methodology": "total",
        "total_tokens": 300,
        "total_energy_j": 1234.5,
        "total_inference_time_sec": 61.25,
        "avg_tokens_per_second": 300 / 61.25,
        "start_time": start,
        "end_time": start + timedelta(seconds=61.25),
        "effective_config": {"model": "gpt2"},
        "aggregation": AggregationMetadata(method="single_process", num_processes=1),
    }
    return ExperimentResult(**(own | fields))


def small_table() -> "pa.Table":
    """Two ticks of two devices, with a reading missing in both columns that may lack one."""
    return table_of([0.0, 0.1], 2, [100.5, None, 101.25, 99.0], [40.0, 41.0, None, 41.5])


def table_of(
    times: list[float], devices: int, power: list[float | None], celsius: list[float | None]
) -> "pa.Table":
    """A time series of *devices* devices at *times*, readings in the order of its rows."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        "timestamp_s": [time for time in times for _ in range(devices)],
        "gpu_power_w": power,
        "gpu_temperature_c": celsius,
        "gpu_index": list(range(devices)) * len(times),
    }
    return pa.Table.from_arrays(
        [pa.array(columns[column.name], column.type) for column in COLUMNS], names=list(columns)
    )


def _some_value(kind: Any, rules: Mapping[str, Any]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    value: Any
    if NoneType in args:
        (inner,) = [arg for arg in args if arg is not NoneType]
        value = _some_value(inner, rules)
    elif origin is Literal:
        value = args[-1]
    elif origin is tuple:
        value = (_some_value(args[0], rules),) * (1 if args[-1] is ... else len(args))
    elif origin is Mapping:
        value = {"model": "gpt2", "decoder": {"stop": ["a:b", None], "temperature": 0.5}}
    elif issubclass(kind, Record):
        value = filled(kind)
    elif issubclass(kind, enum.Enum):
        value = list(kind)[-1]
    else:
        value = _SOME_SCALARS[kind]
    return value


_SOME_SCALARS: dict[type, Any] = {
    bool: True,
    int: 2,
    float: 0.75,
    str: "some: text",
    datetime: A_TIME,
}

_TOKENS = {"total_tokens": 5, "input_tokens": 2, "output_tokens": 3}

_MATCHING: dict[Any, dict[str, Any]] = {
    ExperimentResult: {
        **_TOKENS,
        "end_time": A_TIME + timedelta(seconds=2),
        "measurement_config_hash": "0123456789abcdef",
        "timeseries": TIMESERIES_NAME,
    },
    InferenceMetrics: _TOKENS,
    Timestamps: {"end": A_TIME + timedelta(seconds=1.5)},
}
