"""``llem import``: files in, results kept, and a line for all that has no home."""

import csv
import errno
import io
import json
import os
import shutil
import stat
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llem.codec import from_json, to_json
from llem.store import ResultStore
from llem.testing import small_result, small_table

KEPT = Path(__file__).parents[1] / "importing" / "kept"

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")


@pytest.fixture
def v3(tmp_path):
    """A folder as llenergymeasure 3.0 wrote it."""
    return Path(shutil.copytree(KEPT / "v3", tmp_path / "theirs"))


def only(root="results"):
    """The one result that is kept, and its key."""
    store = ResultStore(root)
    (key,) = store
    return key, store.get(key)


def put_samples(folder, table):
    pq.write_table(table, folder / "timeseries.parquet")


def their_table():
    """One tick, in the columns of llenergymeasure."""
    columns = ["timestamp_s", "gpu_index", "power_w", "temperature_c", "throttle_reasons"]
    return pa.table({name: [0] for name in columns})


def test_a_file_is_kept_under_a_key(llem):
    """One line says the key, and one each what has no home and what was assumed."""
    outcome = llem("import", KEPT / "v2.json")

    key, result = only()
    first, *others = outcome.out.splitlines()
    assert (outcome.status, outcome.err) == (0, "")
    assert first == f"{KEPT / 'v2.json'}: kept as {key}, from llenergymeasure 2.0"
    assert '  no home: energy_breakdown.baseline_method = "validated"' in others
    assert any(line.startswith("  note: start_time: times have no zone there") for line in others)
    assert result.measurement_warnings[-1].startswith("imported: from llenergymeasure 2.0; ")


@pytest.mark.parametrize("name", ["v1.json", "v2.json", "v3", "v5", "bundle2"])
def test_each_format_keeps_the_name_of_its_model(llem, name):
    """The export shows it."""
    llem("import", KEPT / name)

    (row,) = csv.DictReader(io.StringIO(llem("export").out))
    assert row["model"] in ("gpt2", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Qwen/Qwen2.5-0.5B")


@pytest.mark.parametrize("name", ["v1.json", "v2.json", "v3", "v5", "bundle2"])
def test_each_format_keeps_its_devices(llem, name):
    """Two GPUs each; the export shows it."""
    llem("import", KEPT / name)

    (row,) = csv.DictReader(io.StringIO(llem("export").out))
    assert row["num_devices"] == "2"
    assert row["device_name"].startswith("NVIDIA A100")


def test_a_folder_is_its_result(llem, v3):
    """With the files beside it."""
    assert llem("import", v3).status == 0

    result = only()[1]
    assert result.effective_config == json.loads((v3 / "config.json").read_bytes())
    assert result.environment_snapshot.python_version == "3.11.10"


def test_a_file_in_the_working_folder(llem, v3, monkeypatch):
    """A bare name is a path too."""
    monkeypatch.chdir(v3)

    assert llem("import", "result.json").status == 0
    assert only()[1].backend == "transformers"


def test_the_source_is_left_as_it_is(llem, v3):
    before = {file.name: file.read_bytes() for file in v3.iterdir()}

    llem("import", v3)

    assert {file.name: file.read_bytes() for file in v3.iterdir()} == before


@pytest.mark.parametrize("words", [["--timezone", "-05:00"], ["--timezone=America/Bogota"]])
def test_times_of_a_zone(llem, words):
    """Where the source has none."""
    assert llem("import", *words, KEPT / "v2.json").status == 0

    start = only()[1].start_time
    assert start == datetime.fromisoformat("2026-02-17T16:45:03.500000-05:00")


def test_a_zone_that_is_not_known(llem):
    """It is wrong usage, and nothing is kept."""
    outcome = llem("import", "--timezone", "Mars/Base", KEPT / "v2.json")

    assert outcome.status == 2
    assert "--timezone: 'Mars/Base' is no time zone" in outcome.err
    assert not Path("results").exists()


def test_samples_in_our_columns_are_taken_along(llem, v3):
    put_samples(v3, small_table())

    outcome = llem("import", v3)

    key, result = only()
    assert "no home: timeseries" not in outcome.out
    assert result.timeseries == "timeseries.parquet"
    assert ResultStore("results").timeseries(key).equals(small_table())


def test_samples_in_other_columns_are_not_kept(llem, v3):
    """A line of its own says why; the record names none, and says so."""
    put_samples(v3, their_table())

    outcome = llem("import", v3)

    result = only()[1]
    assert outcome.status == 0
    assert f"  samples not kept: {v3 / 'timeseries.parquet'}: " in outcome.out
    assert "no home: timeseries" not in outcome.out
    assert "must have the columns timestamp_s, gpu_power_w" in outcome.out
    assert result.timeseries is None
    assert "its time series was not kept" in result.measurement_warnings[-1]


def test_samples_that_are_gone(llem, v3):
    outcome = llem("import", v3)

    assert outcome.status == 0
    lost = f"{v3 / 'timeseries.parquet'}: there is no Parquet file"
    assert f"  samples not kept: {lost}\n" in outcome.out
    (entry,) = llem("import", "--json", "--again", v3).json
    assert entry["samples_not_kept"] == lost


def test_samples_that_are_broken(llem, v3):
    (v3 / "timeseries.parquet").write_bytes(b"PAR1")

    outcome = llem("import", v3)

    assert outcome.status == 0
    assert f"  samples not kept: {v3 / 'timeseries.parquet'}: " in outcome.out
    assert only()[1].timeseries is None


@pytest.mark.parametrize("content", [None, b"PAR1"])
def test_strict_needs_the_samples(llem, v3, content):
    """They are there and whole, or nothing is kept."""
    document = json.loads((v3 / "result.json").read_bytes())
    document["latency_stats"] |= {"itl_full_mean_ms": None, "itl_full_p99_ms": None}
    (v3 / "result.json").write_text(json.dumps(document))
    if content is not None:
        (v3 / "timeseries.parquet").write_bytes(content)

    outcome = llem("import", "--strict", v3)

    assert (outcome.status, outcome.out) == (1, "")
    assert f"\n  samples not kept: {v3 / 'timeseries.parquet'}: " in outcome.err
    assert not Path("results").exists()


def test_samples_under_another_name_are_not_kept(llem, v3):
    """Whatever lies there is not read."""
    document = json.loads((v3 / "result.json").read_bytes()) | {"timeseries": "power.parquet"}
    (v3 / "result.json").write_text(json.dumps(document))

    outcome = llem("import", v3)

    assert "  samples not kept: power.parquet is not called timeseries.parquet\n" in outcome.out


def test_a_result_of_ours_from_another_root(llem, tmp_path):
    """It is kept as it is, with its samples."""
    kept = ResultStore(tmp_path / "other").put(small_result(), timeseries=small_table())

    outcome = llem("import", kept.path)

    key, result = only()
    assert outcome.out == f"{kept.path}: kept as {key}, from llem 2.0\n"
    assert result == kept.result
    assert ResultStore("results").timeseries(key).equals(small_table())


def test_samples_of_ours_that_were_changed(llem, tmp_path):
    """They are no samples of that result: it is refused."""
    kept = ResultStore(tmp_path / "other").put(small_result(), timeseries=small_table())
    sidecar = Path(kept.path).with_name("timeseries.parquet")
    sidecar.write_bytes(sidecar.read_bytes()[:-1] + b"x")

    outcome = llem("import", kept.path)

    assert outcome.status == 1
    assert "its bytes are not what was written" in outcome.err
    assert [*ResultStore("results")] == []


def test_samples_of_ours_that_are_gone(llem, tmp_path):
    kept = ResultStore(tmp_path / "other").put(small_result(), timeseries=small_table())
    Path(kept.path).with_name("timeseries.parquet").unlink()

    outcome = llem("import", kept.path)

    assert outcome.status == 0
    assert "  samples not kept: timeseries.parquet is gone\n" in outcome.out
    assert only()[1].timeseries is None


def test_the_same_file_twice(llem):
    """The second time it is not kept: nothing is lost. The line says under which key it is."""
    llem("import", KEPT / "v2.json")
    key = only()[0]

    outcome = llem("import", KEPT / "v2.json")

    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == (
        f"{KEPT / 'v2.json'}: already kept as {key}\n--again keeps once more what is kept already\n"
    )
    assert len(ResultStore("results")) == 1
    assert llem("import", "--json", KEPT / "v2.json").json == [
        {"file": str(KEPT / "v2.json"), "already_kept": key}
    ]


def test_the_same_file_twice_in_one_call(llem):
    outcome = llem("import", KEPT / "v2.json", KEPT / "v2.json")

    assert outcome.status == 0
    assert outcome.out.splitlines()[-1] == (
        "1 kept, 1 already kept, 0 refused; --again keeps once more what is kept already"
    )
    assert len(ResultStore("results")) == 1


def test_other_figures_of_the_same_experiment(llem, tmp_path):
    """They are not kept already: the file is refused, and the line says what to do."""
    llem("import", KEPT / "v2.json")
    key = only()[0]
    document = json.loads((KEPT / "v2.json").read_bytes()) | {"total_energy_j": 99.0}
    file = tmp_path / "other.json"
    file.write_text(json.dumps(document))

    outcome = llem("import", file)

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        f"llem: {file}: not kept: {key} is of the same experiment, gpt2_20260217_164503, "
        "and has other figures; --again keeps this one too\n"
    )


def test_a_folder_of_folders(llem, tmp_path):
    """Each that has a result is imported, in the order of their names, and no other."""
    top = tmp_path / "top"
    for name, source in (("b", "v3"), ("a", "v5"), (".hidden", "bundle2")):
        shutil.copytree(KEPT / source, top / name)
    (top / "empty").mkdir()
    (top / "loose.json").write_text("{")

    outcome = llem("import", top)

    assert (outcome.status, outcome.err) == (0, "")
    lines = [line for line in outcome.out.splitlines() if not line.startswith(" ")]
    assert [line.partition(": ")[0] for line in lines] == [
        str(top / "a"),
        str(top / "b"),
        "2 kept, 0 already kept, 0 refused",
    ]


def test_a_folder_without_any_result(llem, tmp_path):
    (tmp_path / "top" / "empty").mkdir(parents=True)

    outcome = llem("import", tmp_path / "top")

    assert outcome.status == 1
    assert f"{tmp_path / 'top' / 'result.json'}: " in outcome.err


@as_user
def test_a_folder_of_another_user(llem, tmp_path):
    """What is in it cannot be known: it is refused."""
    (tmp_path / "top").mkdir(mode=0o100)

    assert llem("import", tmp_path / "top").status == 1


def test_several_files_are_summed_up(llem):
    """At the end, also where some are refused; not in JSON."""
    outcome = llem("import", KEPT / "v2.json", "nowhere.json", KEPT / "v1.json")

    assert outcome.status == 1
    assert outcome.out.splitlines()[-1] == "2 kept, 0 already kept, 1 refused"
    assert len(llem("import", "--json", KEPT / "v2.json", KEPT / "v1.json").json) == 2


def test_the_same_file_again(llem):
    """On demand, beside the other."""
    llem("import", KEPT / "v2.json")
    key = only()[0]

    outcome = llem("import", "--again", KEPT / "v2.json")

    assert outcome.status == 0
    assert [*ResultStore("results")] == [key, f"{key}_1"]


def test_a_kept_result_that_cannot_be_read_is_passed_over(llem):
    """It is no reason not to import; `llem verify` names it."""
    broken = Path("results", "broken")
    broken.mkdir(parents=True)
    (broken / "result.json").write_text("{")

    assert llem("import", KEPT / "v2.json").status == 0


def test_strict_keeps_nothing_that_has_no_home(llem):
    """Each field is named, with its value."""
    outcome = llem("import", "--strict", KEPT / "v3")

    assert (outcome.status, outcome.out) == (1, "")
    assert "not kept: 2 fields have no home" in outcome.err
    assert "samples not kept: " in outcome.err
    assert "latency_stats.itl_full_mean_ms = 22.125" in outcome.err
    assert not Path("results").exists()


def test_strict_keeps_what_has_a_home(llem, v3):
    """All of it."""
    document = json.loads((v3 / "result.json").read_bytes())
    document["latency_stats"] |= {"itl_full_mean_ms": None, "itl_full_p99_ms": None}
    (v3 / "result.json").write_text(json.dumps(document))
    put_samples(v3, small_table())

    assert llem("import", "--strict", v3).status == 0
    assert only()[1].timeseries


def test_one_bad_file_does_not_stop_the_others(llem, tmp_path):
    """Each is named on stderr, with what is wrong."""
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    link = tmp_path / "link.json"
    link.symlink_to(KEPT / "v2.json")

    outcome = llem("import", bad, "nowhere.json", link, tmp_path, KEPT / "v2.json")

    assert outcome.status == 1
    assert only()[1].experiment_id == "gpt2_20260217_164503"
    assert [line.split(": ")[1] for line in outcome.err.splitlines()] == [
        str(bad),
        "nowhere.json",
        str(link),
        str(tmp_path / "result.json"),
    ]


def test_a_file_beside_that_is_broken(llem, v3):
    """It is named: the result would be less without it."""
    (v3 / "config.json").write_text("[]")

    outcome = llem("import", v3)

    assert outcome.status == 1
    assert "config.json: must hold a JSON object" in outcome.err


def test_other_formats_are_named(llem, tmp_path):
    file = tmp_path / "new.json"
    file.write_text('{"schema_version": "7.0"}')

    outcome = llem("import", file)

    assert outcome.status == 1
    assert "has schema_version '7.0'; what can be converted are results of" in outcome.err


def test_nothing_to_import_is_wrong_usage(llem):
    assert llem("import").status == 2


def test_as_json(llem, tmp_path):
    """One entry a file, the failed ones too; values in full."""
    document = json.loads((KEPT / "v2.json").read_bytes()) | {"notes": ["x" * 200]}
    file = tmp_path / "long.json"
    file.write_text(json.dumps(document))

    outcome = llem("import", "--json", file, "nowhere.json")

    good, bad = outcome.json
    key = only()[0]
    assert outcome.status == 1
    assert (good["file"], good["key"], good["format"]) == (str(file), key, "llenergymeasure 2.0")
    assert Path(good["path"]).is_file()
    assert {"path": "notes", "value": ["x" * 200], "reason": None} in good["unmapped"]
    assert any(note.startswith("start_time: ") for note in good["notes"])
    assert bad["file"] == "nowhere.json"
    assert "there is no result" in bad["error"]


def test_long_values_are_cut(llem, tmp_path):
    document = json.loads((KEPT / "v2.json").read_bytes()) | {"notes": "x" * 200}
    file = tmp_path / "long.json"
    file.write_text(json.dumps(document))

    lines = llem("import", file).out.splitlines()

    (line,) = [line for line in lines if "notes" in line]
    assert line == f'  no home: notes = "{"x" * 55} ...'


def test_names_that_a_terminal_might_obey_are_spelled_out(llem, tmp_path):
    document = json.loads((KEPT / "v2.json").read_bytes()) | {"a\x1b[31mb": 1}
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(document))

    outcome = llem("import", file)

    assert "\x1b" not in outcome.out
    assert r"a\x1b[31mb = 1" in outcome.out


def test_what_the_codec_promises_is_true(llem, tmp_path):
    """The error of a document that only import reads names the verb that does."""
    with pytest.raises(ValueError, match="`llem import` converts older and foreign documents"):
        from_json((KEPT / "v1.json").read_bytes())

    assert llem("import", KEPT / "v1.json").status == 0
    assert from_json(to_json(only()[1])) == only()[1]


@as_user
def test_a_root_that_is_read_only(llem, tmp_path):
    """It is said once, at the first file."""
    root = tmp_path / "locked"
    root.mkdir(mode=0o555)

    outcome = llem("import", "--root", root, KEPT / "v2.json", KEPT / "v1.json")

    assert outcome.status == 1
    assert outcome.err == (
        f"llem: {root}: nothing was written: Permission denied; ask for write permission, "
        "or choose another root\n"
    )


@as_user
def test_a_file_of_another_user(llem, v3):
    (v3 / "result.json").chmod(0)

    outcome = llem("import", v3)

    assert outcome.status == 1
    assert outcome.err == f"llem: {v3 / 'result.json'}: cannot be opened: Permission denied\n"


@as_user
def test_samples_of_another_user(llem, v3):
    """They are not kept, and a line says why."""
    put_samples(v3, small_table())
    (v3 / "timeseries.parquet").chmod(0)

    outcome = llem("import", v3)

    assert outcome.status == 0
    assert "timeseries.parquet: cannot be opened: Permission denied\n" in outcome.out


def test_a_source_that_is_read_only(llem, v3):
    """Nothing is written there."""
    put_samples(v3, small_table())
    for path in (*v3.iterdir(), v3):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path == v3 else 0))
    try:
        assert llem("import", v3).status == 0
    finally:
        v3.chmod(stat.S_IRWXU)
    assert only()[1].timeseries


@pytest.mark.parametrize("failure", ["EXDEV", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_that_cannot_rename_folders(llem, monkeypatch, failure):
    """It is said so, and nothing is left behind."""
    number = getattr(errno, failure)

    def refuse(source, target):
        raise OSError(number, os.strerror(number), source)

    monkeypatch.setattr(os, "rename", refuse)

    outcome = llem("import", KEPT / "v2.json")

    assert outcome.status == 1
    assert "this file system cannot rename folders, or choose another root" in outcome.err
    assert [*Path("results").rglob("*")] == [Path("results", ".llem-tmp")]
