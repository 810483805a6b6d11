"""Samples are kept bit for bit, small, self-describing, and nothing else passes for them."""

import io
import json
import math
import random
import subprocess
import sys
from array import array
from pathlib import Path

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample import sample_result

from llem.domain.timeseries import REQUESTS_KEY, TIMING_KEY
from llem.errors import (
    ResultAccessError,
    ResultValidationError,
    SidecarIntegrityError,
    SidecarSchemaError,
)
from llem.store import ResultStore
from llem.testing import small_result, small_table

COLUMNS = ["timestamp_s", "gpu_power_w", "gpu_temperature_c", "gpu_index"]


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "root")


def sidecar_of(kept):
    return Path(kept).with_name("timeseries.parquet")


def realistic(devices, period_s, seconds=30.0):
    """
    Samples as NVML gives them: power in whole mW, temperature in whole degrees.

    The power of a device wanders between its idle and its limit, with noise of 1 W; ticks come
    with a jitter of 0.1 ms, and one time is shared by all devices of a tick.
    """
    rng = random.Random(0)
    level = [rng.uniform(150, 350) for _ in range(devices)]
    columns = {name: array(code) for name, code in zip(COLUMNS, "dffi", strict=True)}
    for tick in range(round(seconds / period_s)):
        time = tick * period_s + rng.uniform(0, 1e-4)
        for device in range(devices):
            level[device] = min(400.0, max(60.0, level[device] + rng.gauss(0, 0.5)))
            columns["timestamp_s"].append(time)
            columns["gpu_power_w"].append(round(level[device] + rng.gauss(0, 1), 3))
            columns["gpu_temperature_c"].append(40 + device + tick * period_s // 8)
            columns["gpu_index"].append(device)
    return pa.Table.from_arrays(
        [
            pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
            for kind, values in zip(
                [pa.float64(), pa.float32(), pa.float32(), pa.int32()],
                columns.values(),
                strict=True,
            )
        ],
        names=COLUMNS,
    )


def test_the_four_columns(store):
    """Names, order, types, and the unit of each."""
    kept = store.put(small_result(), timeseries=small_table())

    schema = pq.read_schema(sidecar_of(kept))
    assert schema.names == COLUMNS
    assert schema.types == [pa.float64(), pa.float32(), pa.float32(), pa.int32()]
    units = [(field.metadata or {}).get(b"unit") for field in schema]
    assert units == [b"s", b"W", "°C".encode(), None]


def test_a_sidecar_says_whose_samples_it_holds(store):
    """A file that lost its record still says of which run, when, and of which devices."""
    result = sample_result(2, 1)
    kept = store.put(result, timeseries=small_table())

    metadata = pq.read_schema(sidecar_of(kept)).metadata
    assert metadata[b"llem.schema_version"] == b"2.0"
    assert metadata[b"llem.experiment_id"].decode() == result.experiment_id
    assert metadata[b"llem.start_time"].decode() == result.start_time.isoformat()
    assert json.loads(metadata[b"llem.devices"]) == {
        str(device.gpu_index): {
            "uuid": device.uuid,
            "name": device.name,
            "sensor": "nvml_total_energy",
            "scope": "gpu",
            "period_s": 0.05,
            "process_index": process.process_index,
        }
        for process in result.process_results
        for device in process.devices
    }


def devices_told(store, kept):
    return json.loads(store.timeseries(kept).schema.metadata[b"llem.devices"])


def test_of_one_process_the_devices_are_those_of_the_result(store):
    """There is no other whose they could be."""
    result = sample_result(1, 1)

    told = devices_told(store, store.put(result, timeseries=small_table()))

    assert [*told] == [str(device.gpu_index) for device in result.devices]
    assert "process_index" not in told["0"]


def test_a_device_that_two_processes_metered_is_told_of_twice(store):
    """Each has rows of its own. Where they bear the same number, it is told of as in the result."""
    result = sample_result(2, 1)
    first, second = result.process_results
    (device,) = first.devices
    for index in (1, 0):
        again = attrs.evolve(device, gpu_index=index)
        both = (first, attrs.evolve(second, devices=(again,)))
        shared = attrs.evolve(
            result, process_results=both, devices=(device,), energy_per_device_j=None
        )

        told = devices_told(store, store.put(shared, timeseries=small_table()))

        assert {one["uuid"] for one in told.values()} == {device.uuid}
        assert [one.get("process_index") for one in told.values()] == ([0, 1] if index else [None])


def test_a_file_of_another_run_is_refused(store):
    """What it says of itself would be overwritten. Someone who means it gives the table."""
    first = store.put(small_result(experiment_id="first"), timeseries=small_table())
    second = small_result(experiment_id="second")

    with pytest.raises(SidecarIntegrityError, match="samples of 'first', not of 'second'"):
        store.put(second, timeseries=sidecar_of(first))
    kept = store.put(second, timeseries=store.timeseries(first))

    assert store.timeseries(kept) == small_table()
    assert len(store) == 2


def test_a_sidecar_keeps_how_the_sensors_read(store, tmp_path):
    """From a table, or from a file; and nothing else that a table may say of itself."""
    told = {TIMING_KEY: b'{"0": {}}', REQUESTS_KEY: b"[]", b"llem.experiment_id": b"another"}
    told[b"mine"] = b"1"
    table = small_table().replace_schema_metadata(told)

    kept = store.put(small_result(), timeseries=table)
    again = store.put(small_result(), timeseries=sidecar_of(kept))

    for key in (kept, again):
        metadata = store.timeseries(key).schema.metadata
        assert (metadata[TIMING_KEY], metadata[REQUESTS_KEY]) == (b'{"0": {}}', b"[]")
        assert metadata[b"llem.experiment_id"].decode() == small_result().experiment_id
        assert b"mine" not in metadata


def test_encodings(store):
    """Time and power split by byte, temperature and index as dictionaries, all under zstd."""
    kept = store.put(small_result(), timeseries=realistic(2, 0.05))

    group = pq.ParquetFile(sidecar_of(kept)).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(4)}
    for name in ("timestamp_s", "gpu_power_w"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert not columns[name].has_dictionary_page
    for name in ("gpu_temperature_c", "gpu_index"):
        assert columns[name].has_dictionary_page
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def size_by_default(table):
    """What pyarrow writes without being told anything."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.tell()


def as_polled(table):
    """The samples of *table* with a time of its own for each reading, all in doubles."""
    rng = random.Random(1)
    times = [time + rng.uniform(0, 1e-3) for time in table["timestamp_s"].to_pylist()]
    doubles = [table[name].cast(pa.float64()) for name in COLUMNS[1:3]]
    index = table["gpu_index"].cast(pa.int64())
    return pa.Table.from_arrays([pa.array(times), *doubles, index], names=COLUMNS)


@pytest.mark.parametrize("period_s", [0.01, 0.05])
def test_a_sidecar_is_small(store, period_s):
    """
    Of 8 devices over 30 s: at most 0.3 of a poller's own table as pyarrow writes it by default.

    The shared times and the narrow types take their part in that: of the very same table it is at
    most 0.6, as the noise of the power cannot be compressed.
    """
    table = realistic(8, period_s)

    kept = store.put(small_result(), timeseries=table)

    size = sidecar_of(kept).stat().st_size
    assert size <= 0.3 * size_by_default(as_polled(table))
    assert size <= 0.6 * size_by_default(table)
    assert store.timeseries(kept) == table


def test_values_are_kept_bit_for_bit(store):
    """The sign of zero, the smallest and the largest numbers included."""
    times = array("d", [-1.5, -0.0, 5e-324, 1e-300, 0.1 + 0.2, 1.0, 1.7976931348623157e308])
    power = array("f", [0.1, 1e-38, 7.0, -0.0, 1e-45, 55.5, 3.4e38])
    table = pa.Table.from_arrays(
        [
            pa.Array.from_buffers(pa.float64(), 7, [None, pa.py_buffer(times)]),
            pa.Array.from_buffers(pa.float32(), 7, [None, pa.py_buffer(power)]),
            pa.Array.from_buffers(pa.float32(), 7, [None, pa.py_buffer(power)]),
            pa.array([0, 1, 1, 2**31 - 1, 3, 0, 0], pa.int32()),
        ],
        names=COLUMNS,
    )

    read = store.timeseries(store.put(small_result(), timeseries=table))

    for column, raw in zip(COLUMNS, (times, power, power), strict=False):
        assert array(raw.typecode, read[column].to_pylist()).tobytes() == raw.tobytes()
    assert read["gpu_index"] == table["gpu_index"]


def test_missing_readings_stay_missing(store):
    """A null is neither 0 nor NaN."""
    table = small_table()

    read = store.timeseries(store.put(small_result(), timeseries=table))

    assert read["gpu_power_w"].to_pylist() == [100.5, None, 101.25, 99.0]
    assert read["gpu_temperature_c"].to_pylist() == [40.0, 41.0, None, 41.5]


@pytest.mark.parametrize("form", [Path, str])
def test_a_file_is_a_source(store, tmp_path, form):
    """It is written anew, as any table is."""
    path = tmp_path / "samples.parquet"
    pq.write_table(small_table(), path, compression="gzip")

    kept = store.put(small_result(), timeseries=form(path))

    assert store.timeseries(kept) == small_table()
    assert sidecar_of(kept).read_bytes() != path.read_bytes()
    assert pq.ParquetFile(sidecar_of(kept)).metadata.row_group(0).column(0).compression == "ZSTD"


def test_other_widths_are_written_as_ours(store):
    """Floats and integers of another width are of the same kind."""
    table = small_table()
    wide = table.cast(
        pa.schema([(name, pa.float64()) for name in COLUMNS[:3]] + [("gpu_index", pa.uint8())])
    )

    assert store.timeseries(store.put(small_result(), timeseries=wide)) == table


def test_columns_in_chunks_are_kept(store):
    whole = small_table()
    table = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])

    assert table.column(0).num_chunks == 2
    assert store.timeseries(store.put(small_result(), timeseries=table)) == table


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("timestamp_s", [0.0, math.nan], "timestamp_s must be finite"),
        ("timestamp_s", [1.0, 0.5], "timestamp_s must not decrease"),
        ("gpu_power_w", [math.nan, 1.0], "gpu_power_w must be finite; what was not read is null"),
        ("gpu_power_w", [1.0, 1e300], "gpu_power_w must be finite"),
        ("gpu_temperature_c", [math.inf, 1.0], "gpu_temperature_c must be finite"),
        ("gpu_index", [0, -1], "gpu_index must be >= 0"),
        ("gpu_index", [0, 2**40], "values that do not fit"),
    ],
)
def test_values_that_no_meter_gives_are_refused(store, name, values, why):
    """And nothing is kept."""
    columns = {
        "timestamp_s": [0.0, 1.0],
        "gpu_power_w": [1.0, 1.0],
        "gpu_temperature_c": [50.0, 50.0],
        "gpu_index": [0, 0],
    }
    table = pa.table(columns | {name: values})

    with pytest.raises(SidecarSchemaError, match=why):
        store.put(small_result(), timeseries=table)

    assert list(store) == []


def test_more_rows_than_could_be_read_again_are_refused(tmp_path):
    store = ResultStore(tmp_path, max_rows=1)

    with pytest.raises(SidecarIntegrityError, match="over the limit of 1"):
        store.put(small_result(), timeseries=small_table())

    assert list(store) == []


def test_a_document_larger_than_could_be_read_again_is_refused(tmp_path):
    store = ResultStore(tmp_path, max_json_bytes=100)

    with pytest.raises(ResultValidationError, match="max_json_bytes=100"):
        store.put(small_result())

    assert list(store) == []


def with_null(table, name):
    column = table[name].to_pylist()
    column[1] = None
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(column, table.schema.types[index]))


def cast(table, name, kind, *, safe=True):
    return table.set_column(COLUMNS.index(name), name, table[name].cast(kind, safe=safe))


def indices(table):
    return table["gpu_index"]


WRONG = {
    **{f"no {name}": (lambda t, n=name: t.drop_columns([n]), name) for name in COLUMNS},
    "renamed": (lambda t: t.rename_columns(["timestamp_s", "power_w", *COLUMNS[2:]]), "power_w"),
    "extra": (lambda t: t.append_column("extra", indices(t)), "extra"),
    "order": (lambda t: t.select(COLUMNS[::-1]), "in this order"),
    "duplicate": (lambda t: t.append_column("gpu_index", indices(t)), "gpu_index, gpu_index"),
    "no columns": (lambda t: t.select([]), "got none"),
    "string time": (lambda t: cast(t, "timestamp_s", pa.string()), "timestamp_s must be"),
    "integer time": (lambda t: cast(t, "timestamp_s", pa.int64(), safe=False), "got int64"),
    "boolean power": (lambda t: cast(t, "gpu_power_w", pa.bool_()), "gpu_power_w must be"),
    "string degrees": (lambda t: cast(t, "gpu_temperature_c", pa.string()), "gpu_temperature_c"),
    "float index": (lambda t: cast(t, "gpu_index", pa.float64()), "gpu_index must be of a integer"),
    "null time": (lambda t: with_null(t, "timestamp_s"), "timestamp_s must have no nulls"),
    "null index": (lambda t: with_null(t, "gpu_index"), "gpu_index must have no nulls"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_columns_are_refused(store, tmp_path, kind):
    """A table, a file and a sidecar; the column is named, and nothing is written."""
    change, named = WRONG[kind]
    table = change(small_table())
    path = tmp_path / "samples.parquet"
    pq.write_table(table, path)

    with pytest.raises(SidecarSchemaError, match=named):
        store.put(small_result(), timeseries=table)
    with pytest.raises(SidecarSchemaError, match=named) as caught:
        store.put(small_result(), timeseries=path)

    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert not store.root.exists()


@pytest.mark.parametrize("other", [[1, 2], {"timestamp_s": [0.0]}, 7, b"PAR1"], ids=repr)
def test_what_is_no_table_is_refused(store, other):
    with pytest.raises(SidecarSchemaError, match=f"got {type(other).__name__}"):
        store.put(small_result(), timeseries=other)


def written(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def arrow_ipc(table):
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


NO_PARQUET = {
    "empty": lambda _: b"",
    "magic": lambda _: b"PAR1",
    "csv": lambda _: b"timestamp_s,gpu_power_w\n0,1\n",
    "arrow ipc": arrow_ipc,
    "half": lambda t: written(t)[: len(written(t)) // 2],
    "without the last byte": lambda t: written(t)[:-1],
    "encrypted": lambda t: written(t)[:-4] + b"PARE",
    "no footer": lambda t: written(t)[:-8] + b"\xff\xff\xff\x7fPAR1",
    "no pages": lambda t: (
        b"PAR1" + bytes(len(written(t)) - 4 - footer(t)) + written(t)[-footer(t) :]
    ),
}


def footer(table):
    content = written(table)
    return int.from_bytes(content[-8:-4], "little") + 8


@pytest.mark.parametrize("kind", NO_PARQUET)
def test_what_is_no_whole_parquet_is_refused(store, tmp_path, kind):
    """Named in one line, and nothing is written."""
    path = tmp_path / "samples.parquet"
    path.write_bytes(NO_PARQUET[kind](small_table()))

    with pytest.raises(SidecarIntegrityError) as caught:
        store.put(small_result(), timeseries=path)

    assert f"{path}: is no whole Parquet file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not store.root.exists()


def test_a_source_that_is_no_file_is_refused(store, tmp_path):
    with pytest.raises(ResultAccessError, match="directory"):
        store.put(small_result(), timeseries=tmp_path)

    assert not store.root.exists()


def test_too_many_rows_are_refused_from_the_footer(tmp_path):
    """No page is decoded: these could not be."""
    table = small_table()
    content = NO_PARQUET["no pages"](table)
    path = tmp_path / "samples.parquet"
    path.write_bytes(content)
    rows = table.num_rows

    with pytest.raises(SidecarIntegrityError, match=f"has {rows} rows, over the limit of 3"):
        ResultStore(tmp_path / "root", max_rows=3).put(small_result(), timeseries=path)


def test_wrong_columns_are_refused_from_the_footer(tmp_path, store):
    content = NO_PARQUET["no pages"](small_table().drop_columns(["gpu_index"]))
    path = tmp_path / "samples.parquet"
    path.write_bytes(content)

    with pytest.raises(SidecarSchemaError, match="gpu_index"):
        store.put(small_result(), timeseries=path)


MAKE_TABLE = """
import sys, pyarrow as pa
from array import array
kinds = [pa.float64(), pa.float32(), pa.float32(), pa.int32()]
columns = [array("d", [0.0, 0.1]), array("f", [1, 2]), array("f", [1, 2]), array("i", [0, 0])]
table = pa.Table.from_arrays(
    [pa.Array.from_buffers(k, 2, [None, pa.py_buffer(c)]) for k, c in zip(kinds, columns)],
    names=["timestamp_s", "gpu_power_w", "gpu_temperature_c", "gpu_index"],
)
"""

PUT_AND_READ = (
    MAKE_TABLE
    + """
import llem, pyarrow.parquet as pq
from llem.testing import small_result
store = llem.ResultStore(sys.argv[1])
kept = store.put(small_result(), timeseries=table)
assert store.get(kept).timeseries and store.timeseries(kept).num_rows == 2
path = str(kept.path).replace("result.json", "timeseries.parquet")
again = store.put(small_result(), timeseries=path)
assert llem.load(again) == kept.result and not store.verify().faults
"""
)

CONTROL = MAKE_TABLE + "\npa.table({'a': [1.0]})\n"


@pytest.mark.parametrize(("script", "imported"), [(PUT_AND_READ, False), (CONTROL, True)])
def test_pandas_is_not_imported(tmp_path, script, imported):
    """Where it is installed, pyarrow would import it in passing, which takes 0.3 s."""
    fake, met = tmp_path / "path" / "pandas", tmp_path / "met"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(
        f"open({str(met)!r}, 'w').close()\nraise ImportError('pandas was imported')\n"
    )
    start = f"import sys; sys.path.insert(0, {str(fake.parent)!r})\n"

    command = [sys.executable, "-c", start + script, str(tmp_path / "root")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert met.exists() == imported
