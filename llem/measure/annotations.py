"""What an audit needs beside the samples: how their sensors read, and when requests ran."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from llem.domain.conditions import RequestSpan
from llem.domain.timeseries import MAX_REQUESTS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY
from llem.measure.counters import standstills
from llem.measure.integrate import as_refreshed
from llem.protocols import Device, Edge, Samples

if TYPE_CHECKING:
    import pyarrow as pa

MAX_VALUE = 1e15
"""More than any of these values is, thirty years in microseconds included."""

_UNREADABLE = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What parsing ends in where a file holds anything but what was written."""


@attrs.frozen(kw_only=True)
class Timing:
    """
    How one device of a time series was read.

    Attributes:
        limit_w: Its power limit. Unit: W. None: not known.
        period_s: Time between two ticks. Unit: s. None: power was not sampled.
        refresh_s: Time between two readings of its power sensor. Unit: s.
        window_s: Time that each of these is the mean of. Unit: s. None: all between two.
        counter_refresh_s: Time between two updates of its counter. Unit: s.
        standstill_s: Longest time that the counter was seen to stand still. Unit: s.
        spread_s: Time that reading the counters took, the mean of both edges. Unit: s.
    """

    limit_w: float | None
    period_s: float | None
    refresh_s: float
    window_s: float | None
    counter_refresh_s: float
    standstill_s: float
    spread_s: float


_MAY_LACK = {"limit_w", "period_s", "window_s"}


def annotate(
    table: "pa.Table | None",
    devices: Sequence[Device],
    samples: Samples,
    begin: Edge,
    end: Edge,
    *,
    origin_s: float,
    requests: Sequence[RequestSpan] = (),
) -> "pa.Table | None":
    """
    *table* with what `timings` and `request_spans` give in its metadata.

    Args:
        table: The time series. None: there is none.
        devices: The meter's devices.
        samples: What was sampled.
        begin: First edge of the window.
        end: Last edge.
        origin_s: Monotonic time that ``timestamp_s`` counts from. Unit: s.
        requests: Requests that were served. Of more than `MAX_REQUESTS` none is told.
    """
    if table is None:
        return None
    edges_s = begin.time_s, end.time_s
    read = as_refreshed(devices, samples, *edges_s)
    still_s = standstills(samples, len(devices), *edges_s)
    timing = {
        device.index: attrs.asdict(
            Timing(
                limit_w=device.limit_w,
                period_s=None if device.period_s is None else device.period_s * samples.stride,
                refresh_s=device.refresh_s,
                window_s=device.window_s,
                counter_refresh_s=device.counter_refresh_s,
                standstill_s=standstill_s,
                spread_s=(begin.spread_s + end.spread_s) / 2,
            )
        )
        for device, standstill_s in zip(read, still_s, strict=True)
    }
    told = {TIMING_KEY: json.dumps(timing)}
    if 0 < len(requests) <= MAX_REQUESTS:
        told[REQUESTS_KEY] = json.dumps(
            [
                [_microseconds(at_s, origin_s) for at_s in (r.start_s, r.first_token_s, r.end_s)]
                for r in requests
            ],
            separators=(",", ":"),
        )
    return table.replace_schema_metadata(told)


def timings(table: "pa.Table") -> dict[int, Timing]:
    """
    How the devices of a time series were read, by device index.

    Empty where the table does not tell, or what it tells is not that.
    """
    try:
        told = _told(table, TIMING_KEY)
        return {int(index): _timing(values) for index, values in told.items()}
    except _UNREADABLE:
        return {}


def request_spans(table: "pa.Table", process_index: int = 0) -> tuple[RequestSpan, ...]:
    """
    When the requests of one process ran. Unit: s from the start of the run.

    Empty where the table does not tell, or what it tells is not that.

    Args:
        table: The time series.
        process_index: The process, where the time series tells of several.
    """
    return requests_of(table, [process_index])[process_index]


def requests_of(table: "pa.Table", processes: Iterable[int]) -> dict[int, tuple[RequestSpan, ...]]:
    """What `request_spans` gives for each of *processes*."""
    try:
        told = _told(table, REQUESTS_KEY)
    except _UNREADABLE:
        told = None
    return {process: _spans(told, process) for process in processes}


def _spans(told: Any, process_index: int) -> tuple[RequestSpan, ...]:
    try:
        own = told[str(process_index)] if isinstance(told, dict) else told
        return tuple(
            RequestSpan(
                start_s=_seconds(start),
                first_token_s=None if first is None else _seconds(first),
                end_s=_seconds(end),
            )
            for start, first, end in own[:MAX_REQUESTS]
        )
    except _UNREADABLE:
        return ()


def stride(table: "pa.Table") -> int:
    """
    K where only every k-th tick of what was integrated is kept, else 1.

    1 too where what the table tells is no such number.
    """
    try:
        return max(int((table.schema.metadata or {})[STRIDE_KEY]), 1)
    except _UNREADABLE:
        return 1


def _told(table: "pa.Table", key: bytes) -> Any:
    return json.loads((table.schema.metadata or {})[key])


def _timing(values: dict[str, Any]) -> Timing:
    timing = {}
    for field in attrs.fields(Timing):
        value = values[field.name]
        lacks = value is None and field.name in _MAY_LACK
        timing[field.name] = None if lacks else _number(value, least=0.0)
    return Timing(**timing)  # type: ignore[arg-type]  # those that may not lack do not


def _microseconds(at_s: float | None, origin_s: float) -> int | None:
    return None if at_s is None else round((at_s - origin_s) * 1e6)


def _seconds(microseconds: object) -> float:
    return _number(microseconds, least=-MAX_VALUE) / 1e6


def _number(value: object, *, least: float) -> float:
    if not isinstance(value, int | float) or not (least <= value <= MAX_VALUE):
        raise TypeError(value)
    return float(value)
