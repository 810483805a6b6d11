"""Each case of a corpus of damaged results ends in the one outcome that it names."""

import base64
import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext
from functools import reduce
from pathlib import Path

import attrs
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llem
from llem.codec import content_sha256, to_stored_json
from llem.errors import LlemError
from llem.store import ResultStore
from llem.store.layout import MAX_SLUG, slug

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "malformed.json"
BASE, *CASES = json.loads(CORPUS.read_text()) if CORPUS.is_file() else [None]

NAME = "meta-llama-llama-3.1-8b_pytorch_2026-02-26T14-30"
SIDECAR = "timeseries.parquet"
ROWS = 50

ENTERED = set()


def marks(case):
    """Whether *case* runs here."""
    needed = case.get("unprivileged") and os.geteuid() == 0
    return [pytest.mark.skip(reason="root may read and write anything")] if needed else []


def cases(*targets):
    """Those of the corpus about one of *targets*."""
    ENTERED.update(targets)
    chosen = [case for case in CASES if case["target"] in targets]
    parameters = [pytest.param(case, id=case["id"], marks=marks(case)) for case in chosen]
    return pytest.mark.parametrize("case", parameters)


@pytest.fixture(autouse=True)
def _corpus():
    if BASE is None:
        pytest.skip("the corpus lies beside the repository, and does not here")


def samples(rows=ROWS):
    """A time series as other tools write it: every float a double."""
    columns = {
        "timestamp_s": [tick * 0.1 for tick in range(rows)],
        "gpu_power_w": [200.0 + tick % 7 for tick in range(rows)],
        "gpu_temperature_c": [40.0 + tick // 10 for tick in range(rows)],
    }
    floats = {name: pa.array(values, pa.float64()) for name, values in columns.items()}
    return pa.table({**floats, "gpu_index": pa.array([0] * rows, pa.int32())})


def parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@attrs.define
class Place:
    """A stored result, to be damaged."""

    root: Path
    folder: Path
    target: Path

    @property
    def document(self):
        return self.folder / "result.json"

    @property
    def sidecar(self):
        return self.folder / SIDECAR

    def edit(self, change):
        """Rewrite the document as *change* has it."""
        document = json.loads(self.document.read_bytes())
        change(document)
        self.document.write_text(json.dumps(document, indent=2, ensure_ascii=False))

    def rewrite(self, change):
        """Rewrite the bytes of what the case is about."""
        self.target.write_bytes(change(self.target.read_bytes()))


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "root" / NAME
    folder.mkdir(parents=True)
    content = parquet(samples())
    (folder / SIDECAR).write_bytes(content)
    result = llem.from_json(json.dumps(BASE["result"]))
    text = to_stored_json(result, commit_id="corpus", sidecars={SIDECAR: content})
    (folder / "result.json").write_bytes(text)
    return Place(tmp_path / "root", folder, folder / "result.json")


def replaced(content, old, new):
    assert old in content
    return content.replace(old, new)


def repeat(old, before, left, left_count, middle, right, right_count):
    new = before + left * left_count + middle + right * right_count
    return lambda content: replaced(content, old.encode(), new.encode())


def flip(fraction):
    def change(content):
        changed = bytearray(content)
        changed[int(len(content) * fraction)] ^= 1
        return bytes(changed)

    return change


def reformat(place, how):
    assert how == "sorted,indent=4"
    document = json.loads(place.document.read_bytes())
    place.document.write_text(json.dumps(document, sort_keys=True, indent=4))


def delete(place, name):
    """A member of the document, or of what the store added to it."""

    def change(document):
        holder = document if name in document else document["integrity"]
        del holder[name]

    place.edit(change)


def redigest(place):
    content = place.sidecar.read_bytes()
    digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    place.edit(lambda document: document["integrity"]["sidecars"].update({SIDECAR: digest}))


def special(place, step):
    path, kind = place.target, step["fs"]
    if kind == "chmod":
        path.chmod(int(step["mode"], 8))
    elif kind == "hardlink":
        os.link(path, place.folder / "second")
    else:
        path.unlink()
    if kind == "symlink":
        other = place.root / "other"
        other.mkdir()
        (other / "result.json").write_text("{}")
        (place.root / "outside.parquet").write_bytes(parquet(samples()))
        path.symlink_to(step["to"])
    elif kind == "mkdir":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        assert kind in ("chmod", "hardlink", "unlink")


def with_null(table, name, row):
    values = table[name].to_pylist()
    values[row] = None
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table[name].type))


def cast(table, kinds):
    for name, kind in kinds.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table[name].cast(kind))
    return table


TABLES = {
    "drop": lambda t, names: t.drop_columns(names),
    "rename": lambda t, new: t.rename_columns([new.get(n, n) for n in t.column_names]),
    "add": lambda t, new: t.append_column(new[0], pa.array([0.0] * len(t), new[1])),
    "order": lambda t, names: t.select(names),
    "cast": cast,
    "null": lambda t, where: with_null(t, *where),
    "dup": lambda t, name: t.append_column(name, t[name]),
    "empty_schema": lambda t, _: t.select([]),
    "rows": lambda _, rows: samples(rows),
    "dictionary": lambda t, names: reduce(
        lambda t, n: t.set_column(t.column_names.index(n), n, t[n].dictionary_encode()), names, t
    ),
    "metadata": lambda t, new: t.replace_schema_metadata(new),
}


def bomb(rows):
    """Row groups of one value in each column, which take next to no space."""
    part, sink = 5_000_000, io.BytesIO()
    schema = samples(0).schema
    index = pa.Array.from_buffers(pa.int8(), part, [None, pa.py_buffer(bytes(part))])
    columns = [
        pa.nulls(part, kind)
        if name in ("gpu_power_w", "gpu_temperature_c")
        else pa.DictionaryArray.from_arrays(index, pa.array([0], kind))
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    table = pa.Table.from_arrays(columns, names=schema.names)
    with pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
        for _ in range(rows // part):
            writer.write_table(table, row_group_size=part)
    content = sink.getvalue()
    assert pq.read_schema(pa.BufferReader(content)).equals(schema)
    assert pq.read_metadata(pa.BufferReader(content)).num_rows == rows
    return content


def write_parquet(place, change):
    ((kind, value),) = change.items()
    content = bomb(value) if kind == "bomb" else parquet(TABLES[kind](samples(), value))
    place.target.write_bytes(content)


def arrow_ipc(place):
    sink = io.BytesIO()
    table = samples()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    place.target.write_bytes(sink.getvalue())


def b64(text):
    return base64.b64decode(text)


STEPS = {
    "write_b64": lambda p, v: p.target.write_bytes(b64(v)),
    "truncate_fraction": lambda p, v: p.rewrite(lambda c: c[: int(len(c) * v)]),
    "append_b64": lambda p, v: p.rewrite(lambda c: c + b64(v)),
    "replace_raw": lambda p, v: p.rewrite(lambda c: replaced(c, *(s.encode() for s in v))),
    "replace_raw_b64": lambda p, v: p.rewrite(lambda c: replaced(c, *map(b64, v))),
    "replace_raw_repeat": lambda p, v: p.rewrite(repeat(*v)),
    "replace_tail_b64": lambda p, v: p.rewrite(lambda c: c[: -len(b64(v))] + b64(v)),
    "gzip": lambda p, _: p.rewrite(gzip.compress),
    "reformat": reformat,
    "sparse": lambda p, v: os.truncate(p.target, v),
    "json_set": lambda p, v: p.edit(lambda d: d.__setitem__(*v)),
    "json_delete": delete,
    "write_json": lambda p, v: p.target.write_text(json.dumps(v)),
    "redigest": lambda p, _: redigest(p),
    "flip_bit": lambda p, v: p.rewrite(flip(v)),
    "parquet": write_parquet,
    "arrow_ipc": lambda p, _: arrow_ipc(p),
}


def damage(place, case):
    """Take the steps of *case*, and make the digest of the document right again."""
    place.target = place.folder / case["target"]
    for step in case["steps"]:
        if "fs" in step:
            special(place, step)
        else:
            ((kind, value),) = step.items()
            STEPS[kind](place, value)
    if all(not {"fs", "sparse"} & step.keys() for step in case["steps"]):
        make_digest_right(place.document)


def make_digest_right(path):
    """Of the changed document, in its text and nowhere else."""
    text = path.read_bytes()
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    if isinstance(document, dict) and "integrity" in document:
        recorded = document.pop("integrity")["content_sha256"]
        path.write_bytes(text.replace(recorded.encode(), content_sha256(document).encode()))


def assert_ends_as_told(case, act, path):
    """*act* gives a value, warns, or raises, with exactly the class and the words expected."""
    expect = case["expect"]
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        try:
            value = act()
        except LlemError as error:
            outcome, told, value = "error", error, None
        else:
            outcome, told = ("warn", met[0].message) if met else ("ok", None)
    assert outcome == expect["outcome"], told
    assert (type(told).__name__ if told else None) == expect["error"], told
    for word in expect["message_names"]:
        assert (str(path) if word == "path" else word) in str(told)
    return value


def file_of(case, place):
    """The file that messages are about: for want of a digest, that is the sidecar."""
    return place.sidecar if case["expect"]["error"] == "SidecarUnverifiedWarning" else place.target


@cases("result.json", "timeseries.parquet")
def test_a_damaged_result(place, case):
    damage(place, case)
    store = ResultStore(place.root)

    table = assert_ends_as_told(case, lambda: store.timeseries(NAME), file_of(case, place))

    if "expect_table" in case:
        assert (table is not None) == case["expect_table"]
    if case["expect"]["outcome"] == "ok":
        kept = store.get(NAME)
        assert llem.from_json(place.document.read_bytes()) == kept
        assert (kept.timeseries is None) == (table is None)
    if "max_rss_mib" in case:
        assert peak_mib(store.root) < case["max_rss_mib"]


READ = """
import sys, llem
try:
    llem.ResultStore(sys.argv[1]).timeseries(sys.argv[2])
except llem.LlemError:
    print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


def peak_mib(root):
    """Most memory of a process that reads the damaged result. Unit: MiB."""
    command = [sys.executable, "-c", READ, str(root), NAME]
    return int(subprocess.run(command, check=True, capture_output=True).stdout) / 1024


@cases("result.json")
def test_every_reader_meets_the_damage(place, case):
    """With and without a store; `verify` names it, and a good one beside it is read."""
    if "max_rss_mib" in case or case["expect"]["outcome"] == "warn":
        pytest.skip("is about the time series, or large")
    damage(place, case)
    store = ResultStore(place.root)

    assert_ends_as_told(case, lambda: store.get(NAME), place.document)
    assert_ends_as_told(case, lambda: llem.load(place.folder), place.document)
    faults = [fault for fault in store.verify().faults if fault.key == NAME]
    assert len(faults) == (case["expect"]["outcome"] == "error")
    kept = store.put(llem.from_json(json.dumps(BASE["result"] | {"timeseries": None})))
    assert store.get(kept) == kept.result


@cases("directory")
def test_a_damaged_folder(place, case):
    (step,) = case["steps"]
    shutil.rmtree(place.folder)
    path = os.fspath(place.folder)
    if "path" in step:
        path = step["path"]
    elif step["dir"] == "empty":
        place.folder.mkdir()
    elif step["dir"] == "file":
        place.folder.write_text("theirs")
    else:
        assert step["dir"] == "absent"

    for read in (ResultStore(place.root).get, llem.load):
        assert_ends_as_told(case, lambda read=read: read(path), path)


def taken(root, kind):
    path = root / NAME
    root.mkdir()
    if kind == "taken-file":
        path.write_text("theirs")
    elif kind == "taken-symlink":
        path.symlink_to("nowhere")
    else:
        assert kind == "taken-empty"
        path.mkdir()


def make_root(path, step):
    """The root of *step* at or under *path*."""
    kind = step["root"]
    if kind == "file":
        path.write_text("theirs")
    elif kind == "symlink":
        (path.parent / "elsewhere").mkdir()
        path.symlink_to("elsewhere")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "chmod":
        path.mkdir()
        path.chmod(int(step["mode"], 8))
    elif kind == "unicode":
        return path / "with spaces 'and' \"quotes\" ümläut"
    elif kind.startswith("taken"):
        taken(path, kind)
    elif kind != "full":
        return path / kind
    return path


@contextmanager
def no_space():
    """Files may have no more than 100 bytes, this run's own log as well: for as short as can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@cases("store")
def test_a_store(place, tmp_path, case):
    (step,) = case["steps"]
    if "root" not in step:
        neighbours(place, step)
        store = ResultStore(place.root)
        assert_ends_as_told(case, lambda: store.timeseries(NAME), place.document)
        assert list(store) == [NAME]
        assert len(store) == case["expect_listed"]
        return
    store = ResultStore(make_root(tmp_path / "new", step))
    result = llem.from_json(json.dumps(BASE["result"]))
    table = samples()

    def put():
        with no_space() if step["root"] == "full" else nullcontext():
            return store.put(result, timeseries=table)

    kept = assert_ends_as_told(case, put, store.root)

    if case["expect"]["outcome"] == "ok":
        suffix = "_1" if step["root"].startswith("taken") else ""
        assert [kept.key] == [NAME + suffix] == list(store)
        assert store.get(kept) == kept.result
        assert len(store.timeseries(kept)) == ROWS


def neighbours(place, step):
    """What lies beside a result, or in its folder."""
    ((kind, name),) = step.items()
    if kind == "sibling":
        (place.root / name).mkdir()
    elif kind == "inside":
        (place.folder / name).write_text("{")
    else:
        assert kind == "sibling_symlink"
        (place.root / name).symlink_to(NAME, target_is_directory=True)


@cases("name")
def test_a_name(case):
    (step,) = case["steps"]
    name = step.get("name", b"x")
    if "name_escape" in step:
        name = json.loads(f'"{step["name_escape"]}"')

    made = assert_ends_as_told(case, lambda: slug(name), None)

    wanted = case.get("expect_slug")
    assert made == (wanted and wanted[:MAX_SLUG])


def test_every_case_is_run():
    """A new kind of case in the corpus is met here."""
    assert {case["target"] for case in CASES} == ENTERED
    assert len(CASES) == len({case["id"] for case in CASES})
