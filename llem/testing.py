"""
What tests of and around llem are made of: hypothesis strategies, and the contract of a store.

The contract is a set of test functions over one fixture, so that any store can be held to it. A
test module imports them and gives the fixture, of module scope::

    import pytest
    from llem.testing import *  # noqa: F403

    @pytest.fixture(scope="module")
    def open_store():
        return MyStore  # called without arguments: an empty store

Needs hypothesis and pytest; the contract also needs pyarrow.
"""
# ruff: noqa: S101

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llem.domain.config import ExperimentConfig
from llem.domain.fields import Record
from llem.domain.process import InferenceMetrics, RawProcessResult, Timestamps
from llem.domain.result import AggregationMetadata, ExperimentResult
from llem.domain.timeseries import COLUMNS, TIMESERIES_NAME
from llem.errors import ResultNotFoundError, ResultValidationError, SidecarSchemaError
from llem.protocols import Store, StoredResult

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "OpenStore",
    "configs",
    "filled",
    "json_objects",
    "process_results",
    "records",
    "results",
    "small_result",
    "small_table",
    "test_store_counts_and_contains_what_was_put",
    "test_store_finds_nothing_under_an_unknown_key",
    "test_store_gives_back_a_result_with_its_sidecar",
    "test_store_gives_back_the_result",
    "test_store_gives_what_put_said",
    "test_store_is_a_store",
    "test_store_keeps_the_four_columns",
    "test_store_lists_the_oldest_start_first",
    "test_store_never_overwrites",
    "test_store_refuses_a_named_sidecar_that_is_not_given",
    "test_store_refuses_other_columns",
    "test_store_refuses_what_is_no_result",
    "test_store_sets_timeseries_with_a_sidecar",
    "test_store_sets_timeseries_with_a_sidecar_only",
    "test_store_takes_the_path_of_a_parquet_file",
    "texts",
    "times",
    "timeseries_tables",
    "values_of",
]

T = TypeVar("T", bound=Record)

OpenStore = Callable[[], Store]
"""Makes an empty store."""

EARLIEST = datetime(1970, 1, 1)  # noqa: DTZ001, hypothesis adds the zone
LATEST = datetime(2200, 1, 1)  # noqa: DTZ001
A_TIME = datetime(2026, 3, 13, 14, 21, 11, 145237, UTC)


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
        strategy = st.lists(values_of(args[0], rules), max_size=2).map(tuple)
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
        return st.integers(low, 2**64 - 1 if high is None else high)
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
            _table,
            st.just(size[1]),
            st.just(size[0]),
            *[st.lists(reading, min_size=n, max_size=n) for n in [size[0] * len(size[1])] * 2],
        )
    )


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
    return _table([0.0, 0.1], 2, [100.5, None, 101.25, 99.0], [40.0, 41.0, None, 41.5])


_SOME = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_store_is_a_store(open_store: OpenStore) -> None:
    """It has the methods of the protocol, and is empty at first."""
    store = open_store()

    assert isinstance(store, Store)
    assert list(store) == []
    assert len(store) == 0


def test_store_gives_what_put_said(open_store: OpenStore) -> None:
    """A result is found by what put returned and by its key, equal to what was kept."""
    store = open_store()

    kept = store.put(small_result())

    assert isinstance(kept, StoredResult)
    assert kept.result == small_result()
    assert store.get(kept) == store.get(kept.key) == kept.result


@_SOME
@given(result=results())
def test_store_gives_back_the_result(open_store: OpenStore, result: ExperimentResult) -> None:
    """Every valid result is read back equal."""
    result = attrs.evolve(result, timeseries=None)
    store = open_store()

    kept = store.put(result)

    assert kept.result == result
    assert store.get(kept) == result


@_SOME
@given(result=results(), data=st.data())
def test_store_gives_back_a_result_with_its_sidecar(
    open_store: OpenStore, result: ExperimentResult, data: st.DataObject
) -> None:
    """Every valid result is read back equal, and so is its time series."""
    table = data.draw(timeseries_tables(min_ticks=1))
    store = open_store()

    kept = store.put(result, timeseries=table)

    assert kept.result == attrs.evolve(result, timeseries=TIMESERIES_NAME)
    assert store.get(kept) == kept.result
    assert _rows(store.timeseries(kept)) == _rows(table)


def test_store_never_overwrites(open_store: OpenStore) -> None:
    """The same result put again is kept again, and keys are in the order of putting."""
    store = open_store()

    keys = [store.put(small_result(total_tokens=n)).key for n in range(12)]

    assert list(store) == keys
    assert [store.get(key).total_tokens for key in keys] == list(range(12))


def test_store_lists_the_oldest_start_first(open_store: OpenStore) -> None:
    """Keys are in the order of start times, whatever they were put in and models are called."""
    store = open_store()
    starts = [A_TIME + timedelta(hours=hours) for hours in (5, -3, 0, 9000)]
    keys = {
        start: store.put(small_result(start_time=start, effective_config={"model": model})).key
        for start, model in zip(starts, "badc", strict=True)
    }

    assert list(store) == [keys[start] for start in sorted(starts)]


def test_store_counts_and_contains_what_was_put(open_store: OpenStore) -> None:
    """What was put is counted and contained, and nothing else is."""
    store = open_store()

    kept = store.put(small_result())

    assert len(store) == 1
    assert kept in store
    assert kept.key in store
    for other in ("", "nothing", kept.key + "_1", b"nothing", None, 1, 1.5, [], {}, object()):
        assert other not in store, repr(other)


def test_store_keeps_the_four_columns(open_store: OpenStore) -> None:
    """A time series is read back with its values, its nulls, its columns and their types."""
    store = open_store()

    table = store.timeseries(store.put(small_result(), timeseries=small_table()))

    assert table is not None
    assert table.column_names == [column.name for column in COLUMNS]
    assert [str(t) for t in table.schema.types] == ["double", "float", "float", "int32"]
    assert _rows(table) == _rows(small_table())


def test_store_sets_timeseries_with_a_sidecar(open_store: OpenStore) -> None:
    """The result as kept names its sidecar, whether it did before or not."""
    store = open_store()

    for named in (None, TIMESERIES_NAME):
        kept = store.put(small_result(timeseries=named), timeseries=small_table())

        assert kept.result.timeseries == TIMESERIES_NAME
        assert store.get(kept).timeseries == TIMESERIES_NAME


def test_store_sets_timeseries_with_a_sidecar_only(open_store: OpenStore) -> None:
    """Without samples there is no sidecar: none were given, or the table has no rows."""
    store = open_store()

    for samples in (None, small_table().slice(0, 0)):
        kept = store.put(small_result(), timeseries=samples)

        assert kept.result.timeseries is None
        assert store.get(kept).timeseries is None
        assert store.timeseries(kept) is None


def test_store_takes_the_path_of_a_parquet_file(
    open_store: OpenStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A time series may be given as a file, which stays what it is."""
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("samples") / "samples.parquet"
    pq.write_table(small_table(), path)
    before = path.read_bytes()
    store = open_store()

    for given_as in (path, str(path)):
        kept = store.put(small_result(), timeseries=given_as)

        assert _rows(store.timeseries(kept)) == _rows(small_table())
    assert path.read_bytes() == before


def test_store_refuses_a_named_sidecar_that_is_not_given(open_store: OpenStore) -> None:
    """A result that names a sidecar put without one is refused, and nothing is kept."""
    store = open_store()

    for samples in (None, small_table().slice(0, 0)):
        with pytest.raises(ResultValidationError, match="timeseries"):
            store.put(small_result(timeseries=TIMESERIES_NAME), timeseries=samples)

    assert list(store) == []


def test_store_refuses_other_columns(open_store: OpenStore) -> None:
    """Columns missing, renamed, reordered, of another kind or with nulls: nothing is kept."""
    store = open_store()
    table = small_table()
    names = table.column_names
    indices = table.column("gpu_index")
    no_table: Any = [1, 2]
    wrong = [
        table.drop_columns(["gpu_index"]),
        table.append_column("extra", indices),
        table.rename_columns(["time", *names[1:]]),
        table.select(names[::-1]),
        table.set_column(3, "gpu_index", indices.cast("float64")),
        table.set_column(0, "timestamp_s", table.column("timestamp_s").cast("string")),
        table.set_column(0, "timestamp_s", table.column("gpu_power_w").cast("float64")),
    ]

    for samples in wrong:
        with pytest.raises(SidecarSchemaError):
            store.put(small_result(), timeseries=samples)
    with pytest.raises(SidecarSchemaError):
        store.put(small_result(), timeseries=no_table)

    assert list(store) == []


def test_store_refuses_what_is_no_result(open_store: OpenStore) -> None:
    """Only a record is kept."""
    store = open_store()

    others: list[Any] = [None, {}, "{}", b"{}", AggregationMetadata(method="x", num_processes=1)]

    for other in others:
        with pytest.raises(ResultValidationError, match="ExperimentResult"):
            store.put(other)

    assert list(store) == []


def test_store_finds_nothing_under_an_unknown_key(open_store: OpenStore) -> None:
    """An unknown key is an error that is also a FileNotFoundError."""
    store = open_store()
    kept = store.put(small_result())
    unknown = attrs.evolve(kept, key=kept.key + "_1", path="")

    for key in ("", "nothing", ".", "..", ".llem-tmp", "a\0b", kept.key + "_1", unknown):
        with pytest.raises(ResultNotFoundError):
            store.get(key)
        with pytest.raises(ResultNotFoundError):
            store.timeseries(key)


def _table(
    times: list[float], devices: int, power: list[float | None], celsius: list[float | None]
) -> "pa.Table":
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


def _rows(table: "pa.Table | None") -> "list[dict[str, Any]] | None":
    return None if table is None else table.to_pylist()


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
