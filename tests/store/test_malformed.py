"""Every known way for a result to be wrong, one after another: told by class, path and cause."""

import base64
import contextlib
import gzip
import hashlib
import json
import os
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llem
from llem.errors import LlemWarning, StoreWriteError
from llem.store import ResultStore
from llem.store.layout import MAX_SLUG, slug

FILE = Path(__file__).parents[3] / "shared" / "data" / "malformed.json"
BASE, *CASES = json.loads(FILE.read_bytes()) if FILE.exists() else [{}]

pytestmark = pytest.mark.skipif(not CASES, reason="needs ../shared/data")


def cases(*targets):
    """The cases whose target is one of *targets*."""
    chosen = [case for case in CASES if case["target"] in targets]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case["id"])


def a_table(rows=50):
    return pa.table(
        {
            "timestamp_s": pa.array([i / 10 for i in range(rows)], "float64"),
            "gpu_power_w": pa.array([100 + i % 7 for i in range(rows)], "float32"),
            "gpu_temperature_c": pa.array([40 + i % 3 for i in range(rows)], "float32"),
            "gpu_index": pa.array([0] * rows, "int32"),
        }
    )


@pytest.fixture
def result():
    return llem.from_json(json.dumps(BASE["result"] | {"timeseries": None}))


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results")


@pytest.fixture
def kept(store, result):
    """The valid result that every case starts from, beside its sidecar."""
    return store.put(result, timeseries=a_table())


def content_sha256(document):
    plain = {name: value for name, value in document.items() if name != "integrity"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Folder:
    """The folder of a result, and what a step does to it."""

    def __init__(self, path):
        self.path = path
        self.json = path / "result.json"
        self.sidecar = path / "timeseries.parquet"

    def apply(self, step, target):
        """Apply *step*, whose first key names a method, to *target*."""
        name = next(iter(step))
        getattr(self, name)(target, step)

    def vouch(self):
        """Make the digest of the content match it, where it is an object that has one."""
        with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError, OSError):
            if self.json.is_symlink() or self.json.stat().st_size > 2**27:
                return
            text = self.json.read_bytes()
            document = json.loads(text)
            recorded = document["integrity"]["content_sha256"]
            digest = content_sha256(document)
            self.json.write_bytes(text.replace(recorded.encode(), digest.encode()))

    def write_b64(self, target, step):
        target.write_bytes(base64.b64decode(step["write_b64"]))

    def append_b64(self, target, step):
        target.write_bytes(target.read_bytes() + base64.b64decode(step["append_b64"]))

    def replace_tail_b64(self, target, step):
        tail = base64.b64decode(step["replace_tail_b64"])
        target.write_bytes(target.read_bytes()[: -len(tail)] + tail)

    def truncate_fraction(self, target, step):
        content = target.read_bytes()
        target.write_bytes(content[: int(len(content) * step["truncate_fraction"])])

    def _replace(self, target, old, new):
        content = target.read_bytes()
        assert old in content
        target.write_bytes(content.replace(old, new))

    def replace_raw(self, target, step):
        self._replace(target, *(text.encode() for text in step["replace_raw"]))

    def replace_raw_b64(self, target, step):
        self._replace(target, *map(base64.b64decode, step["replace_raw_b64"]))

    def replace_raw_repeat(self, target, step):
        old, head, first, firsts, middle, last, lasts = step["replace_raw_repeat"]
        new = head + first * firsts + middle + last * lasts
        self._replace(target, old.encode(), new.encode())

    def reformat(self, target, step):
        document = json.loads(target.read_bytes())
        target.write_text(json.dumps(document, sort_keys=True, indent=4))

    def gzip(self, target, step):
        target.write_bytes(gzip.compress(target.read_bytes()))

    def sparse(self, target, step):
        os.truncate(target, step["sparse"])

    def _change(self, target, change):
        document = json.loads(target.read_bytes())
        change(document)
        target.write_text(json.dumps(document, indent=2))

    def json_set(self, target, step):
        name, value = step["json_set"]
        self._change(target, lambda document: document.update({name: value}))

    def json_delete(self, target, step):
        name = step["json_delete"]
        self._change(
            target,
            lambda document: (document["integrity"] if name == "sidecars" else document).pop(name),
        )

    def write_json(self, target, step):
        target.write_text(json.dumps(step["write_json"], indent=2))

    def fs(self, target, step):
        {
            "unlink": target.unlink,
            "mkdir": lambda: (target.unlink(), target.mkdir()),
            "fifo": lambda: (target.unlink(), os.mkfifo(target)),
            "symlink": lambda: self._link(target, step["to"]),
            "chmod": lambda: target.chmod(int(step["mode"], 8)),
            "hardlink": lambda: os.link(target, self.path.parent / "another"),
        }[step["fs"]]()

    def _link(self, target, to):
        if to.startswith("../"):
            outside = self.path / to
            outside.parent.mkdir(exist_ok=True)
            outside.write_bytes(target.read_bytes())
        target.unlink()
        target.symlink_to(to)

    def flip_bit(self, target, step):
        content = bytearray(target.read_bytes())
        content[int(len(content) * step["flip_bit"])] ^= 1
        target.write_bytes(content)

    def arrow_ipc(self, target, step):
        with pa.ipc.new_file(str(target), a_table().schema) as writer:
            writer.write_table(a_table())

    def redigest(self, target, step):
        content = self.sidecar.read_bytes()
        digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        def change(document):
            document["integrity"]["sidecars"]["timeseries.parquet"] = digest

        self._change(self.json, change)

    def parquet(self, target, step):
        ((how, value),) = step["parquet"].items()
        if how == "bomb":
            self._bomb(target, value)
            return
        pq.write_table(CHANGES[how](a_table(), value), target)

    def _bomb(self, target, rows):
        """Many rows in few bytes: *rows* of one value."""
        part = pa.table(
            [pa.repeat(pa.scalar(0, field.type), 10**6) for field in a_table().schema],
            schema=a_table().schema,
        )
        with pq.ParquetWriter(target, part.schema) as writer:
            for _ in range(min(rows // 10**6, 11)):
                writer.write_table(part)


def with_null(table, value):
    name, row = value
    values = table.column(name).to_pylist()
    values[row] = None
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def cast(table, types):
    for name, kind in types.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, table.column(name).cast(kind))
    return table


def dictionary(table, names):
    for name in names:
        at = table.column_names.index(name)
        table = table.set_column(at, name, table.column(name).dictionary_encode())
    return table


CHANGES = {
    "drop": lambda table, names: table.drop_columns(names),
    "rename": lambda table, names: table.rename_columns(
        [names.get(name, name) for name in table.column_names]
    ),
    "add": lambda table, value: table.append_column(value[0], pa.array([0.0] * 50, value[1])),
    "order": lambda table, names: table.select(names),
    "cast": cast,
    "null": with_null,
    "dup": lambda table, name: table.append_column(name, table.column(name)),
    "empty_schema": lambda table, _: pa.table({}),
    "rows": lambda table, rows: table.slice(0, rows),
    "dictionary": dictionary,
    "metadata": lambda table, metadata: table.replace_schema_metadata(metadata),
}


def skip_where_root_may_do_anything(case):
    if case.get("unprivileged") and os.geteuid() == 0:
        pytest.skip("root may read and write everything")


def hold_to(case, call, path):
    """*call* ends as *case* expects, and says *path* and whatever else it is to name."""
    expect = case["expect"]
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        try:
            outcome, said, value = "ok", "", call()
        except llem.LlemError as error:
            outcome, said, value = "error", str(error), type(error).__name__
    ours = [warning for warning in met if issubclass(warning.category, LlemWarning)]
    if outcome == "ok" and ours:
        outcome, said, value = "warn", str(ours[0].message), ours[0].category.__name__
    assert (outcome, value if outcome != "ok" else None) == (expect["outcome"], expect["error"])
    for name in expect["message_names"]:
        assert (str(path) if name == "path" else name) in said, said
    assert len(said) < 2000


@cases("result.json")
def test_a_result(case, store, kept):
    """By its store, by its path alone, and by verify: the same is said of it."""
    skip_where_root_may_do_anything(case)
    folder = Folder(Path(kept.path).parent)
    for step in case["steps"]:
        folder.apply(step, folder.json)
    folder.vouch()
    about_samples = case["expect"]["error"] == "SidecarUnverifiedWarning"
    path = folder.sidecar if about_samples else folder.json

    if about_samples:
        hold_to(case, lambda: store.timeseries(kept.key), path)
    else:
        hold_to(case, lambda: store.get(kept.key), path)
        hold_to(case, lambda: llem.load(folder.path), path)
        hold_to(case, lambda: llem.load(folder.json), path)
    wrong = case["expect"]["outcome"] == "error"
    assert [fault.key for fault in store.verify().faults if fault.key == kept.key] == (
        [kept.key] * wrong
    )
    if case.get("expect_table") is False:
        assert store.timeseries(kept.key) is None


@cases("timeseries.parquet")
def test_a_sidecar(case, store, kept):
    """The record is read all the same; its samples are not."""
    skip_where_root_may_do_anything(case)
    folder = Folder(Path(kept.path).parent)
    for step in case["steps"]:
        folder.apply(step, folder.sidecar)

    hold_to(case, lambda: store.timeseries(kept.key), folder.sidecar)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlemWarning)
        assert store.get(kept.key).total_tokens == 16384
        if case["expect"]["outcome"] != "error":
            assert (store.timeseries(kept.key) is not None) == case.get("expect_table", True)
    wrong = case["expect"]["outcome"] != "ok"
    assert [fault.key for fault in store.verify().faults] == [kept.key] * wrong


@cases("directory")
def test_a_directory(case, tmp_path):
    (step,) = case["steps"]
    path = tmp_path / "run"
    if step.get("dir") == "empty":
        path.mkdir()
    elif step.get("dir") == "file":
        path.write_text("something")

    hold_to(case, lambda: llem.load(step.get("path", path)), step.get("path", path))


@cases("name")
def test_a_name(case, tmp_path, result):
    """Whatever the model is called, its folder has a safe name, in the root."""
    (step,) = case["steps"]
    name = step.get("name", json.loads(f'"{step.get("name_escape", "")}"'))
    if step.get("name_py") == "bytes":
        hold_to(case, lambda: slug(b"x"), "")
        return

    assert slug(name) == case["expect_slug"][:MAX_SLUG]


def spoil(step, root, store, result):
    """What *step* makes of *root* before a result is put there; returns the store to put it in."""
    how = step["root"]
    name = store.put(result).key if how.startswith("taken") else ""
    taken = root.parent / "other" / name
    if how.startswith("taken"):
        taken.parent.mkdir()
    {
        "absent/deeper": dict,
        "file": lambda: root.write_text("x"),
        "chmod": lambda: (root.mkdir(), root.chmod(0o555)),
        "symlink": lambda: ((root.parent / "real").mkdir(), root.symlink_to("real")),
        "dangling": lambda: root.symlink_to("nowhere"),
        "unicode": dict,
        "taken-file": lambda: taken.write_text("x"),
        "taken-symlink": lambda: taken.symlink_to("nowhere"),
        "taken-empty": taken.mkdir,
    }[how]()
    if how.startswith("taken"):
        return ResultStore(taken.parent), taken
    deeper = {"absent/deeper": root / "absent" / "deeper", "unicode": root / "a 'b' \"c\" é 🦙"}
    return ResultStore(deeper.get(how, root)), None


@cases("store")
def test_a_store(case, tmp_path, result):
    """One bad entry never hides the others, and a root that cannot be written to is told."""
    skip_where_root_may_do_anything(case)
    (step,) = case["steps"]
    root = tmp_path / "root"
    if step.get("root") == "full":
        pytest.skip("a full file system has a test of its own")
    if "root" in step:
        store, taken = spoil(step, root, ResultStore(tmp_path / "first"), result)
        hold_to(case, lambda: store.put(result), store.root)
        if case["expect"]["outcome"] == "ok":
            (key,) = list(store)
            assert store.get(key) == result
            assert taken is None or key == f"{taken.name}_1"
        return
    store = ResultStore(root)
    kept = store.put(result, timeseries=a_table())
    if "sibling" in step:
        (root / step["sibling"]).mkdir()
    elif "inside" in step:
        (root / kept.key / step["inside"]).write_text("x")
    else:
        (root / step["sibling_symlink"]).symlink_to(kept.key)

    assert list(store) == [kept.key]
    assert len(list(store)) == case["expect_listed"]
    assert store.verify().faults == ()


def test_a_refused_root_stays_as_it_is(tmp_path, result):
    root = tmp_path / "root"
    root.write_text("x")

    with pytest.raises(StoreWriteError):
        ResultStore(root).put(result)

    assert root.read_text() == "x"
