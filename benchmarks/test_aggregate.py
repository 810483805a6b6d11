"""Aggregation of up to 1,024 processes, beside numpy's percentiles of all values concatenated."""

import itertools
import os
import random
import shutil
import tracemalloc

import attrs
import numpy as np
import orjson
import pytest
from sample import sample_result

from llem.aggregate import aggregate_results, latency_statistics
from llem.codec import to_mapping
from llem.domain.latency import LatencyMeasurements
from llem.store import ResultStore

LATENCIES = 10_000
KEPT_LATENCIES = 1_000
"""Of each process in the benchmark of a store: a tenth, so that it takes seconds."""
LIMIT = 2**32


def measured(processes):
    """What each process measured: latencies in ms, as they are spread in a real run."""
    rng = random.Random(1)
    return [
        LatencyMeasurements(itl_full_ms=tuple(rng.gammavariate(9, 3) for _ in range(LATENCIES)))
        for _ in range(processes)
    ]


def by_numpy(parts):
    values = np.concatenate(parts)
    percentiles = np.percentile(values, [50, 95, 99]).tolist()
    return (*percentiles, float(values.mean()), float(values.min()), float(values.max()))


def peak_bytes(run):
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("processes", [8, 64, 1024])
def test_statistics(compare, capsys, processes):
    """Mean, percentiles and extremes, of the tuples of the records and of arrays made before."""
    records = measured(processes)
    tuples = [one.itl_full_ms for one in records]
    arrays = [np.array(values) for values in tuples]

    found, wanted = latency_statistics(records), by_numpy(arrays)
    assert (found.itl_median_ms, found.itl_p95_ms, found.itl_p99_ms) == wanted[:3]
    assert (found.itl_min_ms, found.itl_max_ms) == wanted[4:]
    assert found.itl_mean_ms == pytest.approx(wanted[3])
    share = peak_bytes(lambda: latency_statistics(records)) / (8 * processes * LATENCIES)
    of_numpy = peak_bytes(lambda: by_numpy(tuples)) / (8 * processes * LATENCIES)

    compare(
        {
            "llem": lambda: latency_statistics(records),
            "numpy of tuples": lambda: by_numpy(tuples),
            "numpy of arrays": lambda: by_numpy(arrays),
        },
        reference="numpy of tuples",
        rounds=5,
    )
    with capsys.disabled():
        print(
            f"\n{processes} processes: memory {share:.2f}x of the float64 values at most, "
            f"numpy {of_numpy:.2f}x"
        )


def test_memory_is_flat(capsys):
    """The same tuples over and over; numpy takes two copies of all values."""
    records = measured(64)
    for times in (15, 30, 50):
        many = list(itertools.islice(itertools.cycle(records), 64 * times))
        peak = peak_bytes(lambda many=many: latency_statistics(many))
        count = len(many) * LATENCIES
        with capsys.disabled():
            print(
                f"\n{count / 1e6:.1f} million values: {peak / 2**20:.1f} MiB beside them, "
                f"{peak / (8 * count):.2f}x of the float64 values"
            )
    assert peak < 64 * 2**20


@pytest.mark.parametrize("processes", [8, 64, 1024])
def test_results(compare, processes):
    """All of a result; its cost by process is to stay as it is."""
    one = sample_result(processes, LATENCIES // 10)
    options = {"measurement_config_hash": one.measurement_config_hash}

    made = aggregate_results(one.process_results, **options)
    assert len(made.devices) == processes

    compare(
        {
            "llem": lambda: aggregate_results(one.process_results, **options),
            "numpy, request latencies alone": lambda: by_numpy(
                [process.per_request_latencies_ms for process in one.process_results]
            ),
        },
        reference="numpy, request latencies alone",
        rounds=5,
    )


@pytest.fixture(scope="module")
def large():
    """A result of 1,024 processes."""
    one = sample_result(1024, KEPT_LATENCIES)
    processes = [
        attrs.evolve(
            process,
            inference_metrics=attrs.evolve(
                process.inference_metrics,
                latency_measurements=LatencyMeasurements(
                    itl_full_ms=process.per_request_latencies_ms
                ),
            ),
        )
        for process in one.process_results
    ]
    return aggregate_results(processes, measurement_config_hash=one.measurement_config_hash)


def test_put(compare, capsys, tmp_path, large):
    """Kept with digests and fsync, beside the same data dumped by orjson and written."""
    plain = to_mapping(large)
    numbers = itertools.count()

    def put():
        ResultStore(tmp_path / str(next(numbers)), max_json_bytes=LIMIT).put(large)

    def bare():
        (tmp_path / f"{next(numbers)}.json").write_bytes(orjson.dumps(plain))

    def indented():
        path = tmp_path / f"{next(numbers)}.json"
        with path.open("wb") as file:
            file.write(orjson.dumps(plain, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())

    compare(
        {"llem": put, "orjson and write": bare, "indented, with fsync": indented},
        reference="orjson and write",
        rounds=5,
    )
    peaks = [peak_bytes(run) / 2**20 for run in (put, bare, indented)]
    shutil.rmtree(tmp_path, ignore_errors=True)
    with capsys.disabled():
        print("\nput, at most: {:.0f} MiB, orjson {:.0f} MiB, indented {:.0f} MiB".format(*peaks))


def test_get(compare, capsys, tmp_path, large):
    """Verified and built, beside the same file read and loaded by orjson."""
    store = ResultStore(tmp_path, max_json_bytes=LIMIT)
    kept = store.put(large)
    path = tmp_path / kept.key / "result.json"
    assert store.get(kept) == kept.result

    runs = {
        "llem": lambda: store.get(kept),
        "orjson and read": lambda: orjson.loads(path.read_bytes()),
    }
    compare(runs, reference="orjson and read", rounds=5)
    peaks = [peak_bytes(run) / 2**20 for run in runs.values()]
    with capsys.disabled():
        size = path.stat().st_size / 2**20
        print("\nget of {:.0f} MiB, at most: {:.0f} MiB, orjson {:.0f} MiB".format(size, *peaks))
