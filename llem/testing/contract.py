"""
The contract of a store, as tests over one fixture.

A test module imports them and gives the fixture ``open_store``, of module scope: what is called
without arguments for an empty store.
"""
# ruff: noqa: S101

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llem.domain.result import AggregationMetadata, ExperimentResult
from llem.domain.timeseries import COLUMNS, TIMESERIES_NAME
from llem.errors import (
    ResultNotFoundError,
    ResultValidationError,
    SidecarIntegrityError,
    SidecarSchemaError,
)
from llem.protocols import Store, StoredResult
from llem.testing.examples import A_TIME, small_result, small_table
from llem.testing.strategies import results, timeseries_tables

if TYPE_CHECKING:
    import pyarrow as pa

OpenStore = Callable[[], Store]
"""Makes an empty store."""

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


def test_store_refuses_in_a_file_what_it_refuses_in_a_table(
    open_store: OpenStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Samples that are none, or of another run, or too damaged to read: nothing is kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("samples") / "samples.parquet"
    store, table = open_store(), small_table()
    negative = table.set_column(3, "gpu_index", pa.array([0, 1, 0, -1], "int32"))
    backwards = table.take([2, 3, 0, 1])

    for samples in (negative, backwards, table.drop_columns(["gpu_index"])):
        pq.write_table(samples, path)
        for given_as in (samples, path):
            with pytest.raises(SidecarSchemaError):
                store.put(small_result(), timeseries=given_as)
    pq.write_table(table.replace_schema_metadata({"llem.experiment_id": "another"}), path)
    with pytest.raises(SidecarIntegrityError, match="another"):
        store.put(small_result(), timeseries=path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SidecarIntegrityError):
        store.put(small_result(), timeseries=path)
    path.unlink()
    with pytest.raises(ResultNotFoundError):
        store.put(small_result(), timeseries=path)

    assert list(store) == []


def test_store_takes_a_file_without_rows_for_none(
    open_store: OpenStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No sidecar is kept, and a result that names one is refused."""
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("samples") / "samples.parquet"
    pq.write_table(small_table().slice(0, 0), path)
    store = open_store()

    kept = store.put(small_result(), timeseries=path)

    assert (kept.result.timeseries, store.timeseries(kept)) == (None, None)
    with pytest.raises(ResultValidationError, match="timeseries"):
        store.put(small_result(timeseries=TIMESERIES_NAME), timeseries=path)
    assert len(store) == 1


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


def _rows(table: "pa.Table | None") -> "list[dict[str, Any]] | None":
    return None if table is None else table.to_pylist()
