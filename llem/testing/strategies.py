"""Hypothesis strategies for every record, small ones composed into bigger ones."""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs
from hypothesis import strategies as st

from llem.domain.conditions import Conditions
from llem.domain.config import ExperimentConfig
from llem.domain.fields import Record
from llem.domain.process import InferenceMetrics, RawProcessResult, Timestamps
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import TIMESERIES_NAME
from llem.testing.examples import table_of

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T", bound=Record)

EARLIEST = datetime(1970, 1, 1)  # noqa: DTZ001, hypothesis adds the zone
LATEST = datetime(2200, 1, 1)  # noqa: DTZ001


def texts(min_size: int = 0) -> st.SearchStrategy[str]:
    """Any text that JSON can hold, of at least *min_size* characters."""
    return st.text(st.characters(codec="utf-8"), min_size=min_size, max_size=12)


def times() -> st.SearchStrategy[datetime]:
    """Aware times, of all zones."""
    zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
    return st.datetimes(EARLIEST, LATEST, timezones=st.just(UTC) | zones)


def json_objects() -> st.SearchStrategy[dict[str, Any]]:
    """Objects of whatever JSON can hold."""
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | texts()
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=8,
    )
    return st.dictionaries(texts(), values, max_size=4)


def values_of(kind: Any, rules: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a field of type *kind* under *rules*, its metadata."""
    origin, args = get_origin(kind), get_args(kind)
    strategy: st.SearchStrategy[Any]
    if NoneType in args:
        (inner,) = [arg for arg in args if arg is not NoneType]
        strategy = st.none() | values_of(inner, rules)
    elif origin is Literal:
        strategy = st.sampled_from(args)
    elif origin is tuple:
        # One of any length, or of a fixed one.
        least, most = (0, 2) if args[-1] is ... else (len(args), len(args))
        strategy = st.lists(values_of(args[0], rules), min_size=least, max_size=most).map(tuple)
    elif origin is Mapping:
        strategy = json_objects()
    elif kind is datetime:
        strategy = times()
    elif issubclass(kind, Record):
        strategy = records(kind)
    elif issubclass(kind, enum.Enum):
        strategy = st.sampled_from(kind)
    else:
        strategy = _scalars(kind, rules)
    return strategy


def records(cls: type[T], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Records of the class *cls*, each field by its type, unless *fields* gives its strategy."""
    if cls in _WHOLE and not fields:
        whole: st.SearchStrategy[T] = _WHOLE[cls]()
        return whole
    own = {
        field.name: values_of(field.type, field.metadata)
        for field in attrs.fields(cls)  # type: ignore[arg-type]
    }
    return st.builds(cls, **(own | fields))


def configs() -> st.SearchStrategy[ExperimentConfig]:
    """Configurations."""
    return records(ExperimentConfig)


@st.composite
def inference_metrics(draw: st.DrawFn) -> InferenceMetrics:
    """Metrics whose tokens add up."""
    return draw(records(InferenceMetrics, **_just(draw(_token_counts()))))


@st.composite
def timestamps(draw: st.DrawFn) -> Timestamps:
    """Windows that end at their start or after it."""
    start = draw(times())
    return Timestamps(start=start, end=start + draw(_durations()))


def process_results() -> st.SearchStrategy[RawProcessResult]:
    """What one process measured."""
    return records(RawProcessResult)


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    """What one process measured under, with an idle power for each device that has one."""
    edges = st.floats(0, 1e9)
    idle = draw(st.dictionaries(texts(), st.floats(0, 1e4), max_size=2))
    return draw(
        records(
            Conditions,
            window_s=st.tuples(edges, edges).map(lambda pair: tuple(sorted(pair))),
            **_just({"idle_uuids": (*idle,), "idle_power_w": (*idle.values(),)}),
        )
    )


@st.composite
def results(draw: st.DrawFn) -> ExperimentResult:
    """Results, of every shape that is valid, every field of every class reached."""
    start, length = draw(times()), draw(_durations())
    bounds = st.floats(0, length.total_seconds())
    window = st.none() | st.tuples(bounds, bounds).map(lambda pair: tuple(sorted(pair)))
    fixed = _just(draw(_token_counts()) | {"start_time": start, "end_time": start + length})
    result = draw(
        records(
            ExperimentResult,
            **fixed,
            measurement_config_hash=st.text("0123456789abcdef", min_size=16, max_size=16),
            steady_state_window=window,
            energy_per_device_j=st.none(),
            timeseries=st.none() | st.just(TIMESERIES_NAME),
        )
    )
    count = len(result.devices) or draw(st.integers(0, 2))
    figures = st.lists(st.floats(0, 1e9), min_size=count, max_size=count).map(tuple)
    return attrs.evolve(result, energy_per_device_j=draw(st.none() | figures))


def _scalars(kind: type, rules: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    low, high = rules.get("minimum"), rules.get("maximum")
    if kind is bool:
        return st.booleans()
    if kind is int:
        least = -(2**63) if low is None else low
        return st.integers(least, 2**64 - 1 if high is None else high)
    if kind is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return texts(rules.get("min_length", 0))


@st.composite
def _token_counts(draw: st.DrawFn) -> dict[str, int | None]:
    counts = st.integers(0, 2**62)
    known = draw(st.none() | counts), draw(st.none() | counts)
    total = draw(counts) if None in known else sum(count or 0 for count in known)
    return {"input_tokens": known[0], "output_tokens": known[1], "total_tokens": total}


def _durations() -> st.SearchStrategy[timedelta]:
    return st.timedeltas(timedelta(0), timedelta(days=30))


def _just(values: Mapping[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.just(value) for name, value in values.items()}


_WHOLE: dict[Any, Any] = {
    Conditions: conditions,
    ExperimentResult: results,
    InferenceMetrics: inference_metrics,
    Timestamps: timestamps,
}


def timeseries_tables(min_ticks: int = 0) -> "st.SearchStrategy[pa.Table]":
    """Time series of one to three devices over at least *min_ticks* ticks, readings missing."""
    ticks = st.lists(st.floats(0, 1e6), min_size=min_ticks, max_size=4).map(sorted)
    reading = st.none() | st.floats(0, 1e4, width=32)
    return st.tuples(st.integers(1, 3), ticks).flatmap(
        lambda size: st.builds(
            table_of,
            st.just(size[1]),
            st.just(size[0]),
            *[st.lists(reading, min_size=n, max_size=n) for n in [size[0] * len(size[1])] * 2],
        )
    )
