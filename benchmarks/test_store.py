"""A result kept and read again, beside the save and load of llenergymeasure and bare scripts."""

import itertools
import os
import shutil
import uuid
from pathlib import Path

import attrs
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llenergymeasure.domain.experiment import ExperimentResult as PeerResult
from llenergymeasure.results.persistence import load_result, save_result
from sample import sample_result

from llem.codec import to_mapping
from llem.measure import to_table
from llem.protocols import Device, Samples
from llem.store import ResultStore

TICKS, DEVICES, PERIOD_S = 3125, 8, 0.02
RESULT = sample_result(1, 100)
COMMON = attrs.evolve(
    RESULT, process_results=(), devices=(), environment_snapshot=None, thermal_throttle=None
)
"""What llenergymeasure has a place for: nothing of a process, and no evidence."""
PUT_ROUNDS, GET_ROUNDS = 150, 400


@pytest.fixture
def root(tmp_path):
    """A folder of its own for each call, on the file system of the checkout's parent."""
    numbers = itertools.count()
    yield lambda: tmp_path / str(next(numbers))
    shutil.rmtree(tmp_path, ignore_errors=True)


def recorded():
    """25,000 rows as a sampler leaves them: 8 devices, 50 Hz, power that is new each 0.1 s."""
    rng = np.random.default_rng(0)
    times_s = np.arange(TICKS) * PERIOD_S + rng.uniform(0, 1e-4, TICKS)
    fresh_w = rng.uniform(150, 350, DEVICES) + np.cumsum(rng.normal(0, 0.5, (TICKS, DEVICES)), 0)
    fresh_w = np.round(np.clip(fresh_w + rng.normal(0, 1, fresh_w.shape), 60, 400), 3)
    celsius = 40 + np.arange(DEVICES) + (times_s // 8)[:, None]
    samples = Samples(
        times_s=times_s, power_w=fresh_w[(times_s / 0.1).astype(int)], temperature_c=celsius
    )
    result = sample_result(DEVICES, 0)
    devices = [
        Device(index=i, uuid=device.uuid, name=device.name, sensor=device.sensor, period_s=PERIOD_S)
        for i, device in enumerate(result.devices)
    ]
    return devices, samples


def polled(samples):
    """The same as one polls it: a dict a reading, each with a time of its own."""
    rng = np.random.default_rng(1)
    late_s = np.sort(rng.uniform(0, 1e-3, samples.power_w.shape), axis=1)
    return [
        {
            "timestamp_s": float(time_s + late_s[tick, device]),
            "gpu_power_w": float(samples.power_w[tick, device]),
            "gpu_temperature_c": float(samples.temperature_c[tick, device]),
            "gpu_index": device,
        }
        for tick, time_s in enumerate(samples.times_s.tolist())
        for device in range(DEVICES)
    ]


def as_peer(result):
    """The record of llenergymeasure with the figures of *result*."""
    same = ("experiment_id", "input_tokens", "output_tokens", "total_tokens", "total_energy_j")
    same += ("total_inference_time_sec", "avg_tokens_per_second", "avg_energy_per_token_j")
    same += ("total_flops", "flops_per_output_token", "flops_per_input_token", "flops_per_second")
    same += ("energy_adjusted_j", "energy_per_device_j", "measurement_warnings")
    same += ("reproducibility_notes", "start_time", "end_time")
    fields = {name: getattr(result, name) for name in same}
    fields |= {"energy_per_device_j": [*result.energy_per_device_j]}
    fields |= {"measurement_warnings": [*result.measurement_warnings]}
    extended = to_mapping(result.extended_metrics)
    # It has 0.0 where nothing was measured.
    extended["memory"] = dict.fromkeys(("total_vram_mb", "model_memory_mb", "peak_memory_mb"), 0.0)
    return PeerResult(
        **fields,
        declared_config_hash=result.measurement_config_hash,
        extended_metrics=extended,
    )


def save_as_peer(result, root, source=None):
    return save_result(
        result, root, model_name="sample", engine="pytorch", timeseries_source=source
    )


def written(rows, path):
    """*path*, to which *rows* were written the way llenergymeasure does, whose save copies it."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def replace(root, files):
    """What one writes without a second thought: a temporary file, then `os.replace`, no fsync."""
    folder = root / "result"
    folder.mkdir(parents=True)
    for name, content in files.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


def floor(root, files):
    """The same bytes and the same fsyncs, and nothing else."""
    root.mkdir()
    sync(root.parent)
    staging = root / ".tmp" / str(uuid.uuid4())
    staging.mkdir(parents=True)
    for name, content in files.items():
        fd = os.open(staging / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
    sync(staging)
    (root / "result").mkdir()
    os.rename(staging, root / "result")
    sync(root)


def sync(folder):
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def files_of(kept):
    """Content by name of what was kept, sidecar first."""
    folder = Path(kept.path).parent
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), reverse=True)}


def test_put(compare, root):
    """The same record, without a sidecar. llenergymeasure syncs its file, and no folder."""
    files = files_of(ResultStore(root()).put(COMMON))
    peer = as_peer(COMMON)

    compare(
        {
            "llem": lambda: ResultStore(root()).put(COMMON),
            "llenergymeasure": lambda: save_as_peer(peer, root()),
            "os.replace": lambda: replace(root(), files),
            "floor": lambda: floor(root(), files),
        },
        reference="floor",
        rounds=PUT_ROUNDS,
    )


def test_put_with_a_sidecar(compare, root):
    """
    25,000 rows, from samples in memory to files.

    llenergymeasure makes a Parquet file of rows, which its save then copies, and does not sync it.
    """
    devices, samples = recorded()
    table, rows = to_table(devices, samples, origin_s=0), polled(samples)
    files = files_of(ResultStore(root()).put(RESULT, timeseries=table))
    peer, source = as_peer(RESULT), written(rows, root())

    def put():
        ResultStore(root()).put(RESULT, timeseries=to_table(devices, samples, origin_s=0))

    compare(
        {
            "llem": put,
            "llenergymeasure": lambda: save_as_peer(peer, root(), written(rows, root())),
            "its copy of a file alone": lambda: save_as_peer(peer, root(), source),
            "os.replace": lambda: replace(root(), files),
            "floor": lambda: floor(root(), files),
        },
        reference="llenergymeasure",
        rounds=PUT_ROUNDS // 3,
    )


def test_get(compare, root):
    """The same record, digests included."""
    store = ResultStore(root())
    kept = store.put(COMMON)
    saved = save_as_peer(as_peer(COMMON), root())

    compare(
        {
            "llem": lambda: store.get(kept),
            "llenergymeasure": lambda: load_result(saved),
            "orjson alone": lambda: orjson.loads(Path(kept.path).read_bytes()),
        },
        reference="llenergymeasure",
        rounds=GET_ROUNDS,
    )


def test_size_of_a_sidecar(root, capsys):
    """25,000 rows, beside what pyarrow writes by default of the same table, and of polled rows."""
    devices, samples = recorded()
    table = to_table(devices, samples, origin_s=0)
    files = files_of(ResultStore(root()).put(RESULT, timeseries=table))

    def by_default(table):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return len(sink.getvalue())

    size = len(files["timeseries.parquet"])
    bare, own = by_default(table), by_default(pa.Table.from_pylist(polled(samples)))
    with capsys.disabled():
        print(
            f"\n25,000 rows: {size:,} bytes, {size / own:.2f}x of pyarrow's defaults for rows as "
            f"they are polled, {size / bare:.2f}x for the same table"
        )
