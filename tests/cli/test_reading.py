"""The verbs that read what is kept: list, show, export, verify, env."""

import csv
import errno
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from sample import sample_result

from llem.auditing import Audit, Check
from llem.cli import VERBS, build_app
from llem.codec import from_json, to_json
from llem.domain.config import BaselineConfig, ExperimentConfig
from llem.domain.energy import Sensor
from llem.domain.environment import CUDAEnvironment
from llem.experiment import Experiment
from llem.measure import ReplayMeter, snapshot
from llem.protocols import Clock, Device, Samples
from llem.report.table import COLUMNS
from llem.store import ResultStore
from llem.testing import small_result, small_table

FIRST = attrs.evolve(sample_result(2, 10), total_energy_j=None, avg_energy_per_token_j=None)
SECOND = attrs.evolve(
    sample_result(1, 10, seed=1), start_time=FIRST.start_time + timedelta(minutes=1)
)


@pytest.fixture
def kept(tmp_path):
    """Two results under the default root."""
    store = ResultStore(tmp_path / "results")
    return [store.put(FIRST), store.put(SECOND)]


def test_list_names_every_result(llem, kept):
    """A header, then a line a result, oldest first, with a dash for what is not known."""
    outcome = llem("list")

    header, first, second = outcome.out.splitlines()
    assert outcome.status == 0
    assert header.split()[0] == "key"
    assert first.startswith(kept[0].key)
    assert second.startswith(kept[1].key)
    assert " - " in first
    assert "kJ" not in first
    assert " J " in second


def test_list_says_how_far_off_an_energy_may_be(llem, kept):
    """A share of it, where every device has a bound; a dash where there is none, or no energy."""
    unbounded = attrs.evolve(SECOND.devices[0], error_bound_j=None)
    ResultStore("results").put(attrs.evolve(SECOND, devices=(unbounded,)))

    header, *rows = [line.split() for line in llem("list").out.splitlines()]

    assert header[:3] == ["key", "energy", "±"]
    assert [row[1:4] for row in rows[:2]] == [["-", "-", "-"], ["603", "J", "4.1%"]]
    assert rows[2][1:4] == ["602.7", "J", "-"]


@pytest.mark.parametrize("root", ["results", "empty"])
def test_list_says_where_it_found_nothing(llem, tmp_path, root):
    """The default root may not be there yet, and one that is named may be empty."""
    (tmp_path / "empty").mkdir()

    outcome = llem("list", "--root", root)

    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err == f"llem: no results in {root}: `llem run` makes one\n"
    assert llem("export", "--root", root).status == 0


@pytest.mark.parametrize("verb", ["list", "export", "verify"])
def test_a_root_that_is_not_there(llem, tmp_path, verb):
    """A mistyped root is no empty one, and nothing is written for it."""
    outcome = llem(verb, "--root", "nowhere", *(["-o", "all.csv"] if verb == "export" else []))

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "llem: nowhere: there is no such directory: name one that results are kept in\n"
    )
    assert [*tmp_path.iterdir()] == []


def test_list_as_json(llem, kept):
    """The rows of an export, None as null."""
    rows = llem("list", "--json").json

    assert [row["key"] for row in rows] == [stored.key for stored in kept]
    assert rows[0]["total_energy_j"] is None
    assert rows[1]["total_energy_j"] == SECOND.total_energy_j


def test_one_bad_result_does_not_hide_the_others(llem, kept):
    """It is named on stderr, and the status is 1."""
    with open(kept[0], "w", encoding="utf-8") as file:
        file.write("{")

    outcome = llem("list")

    assert [llem(verb).status for verb in ("list", "export")] == [1, 1]
    assert kept[1].key in outcome.out
    assert kept[0].path.split("results/")[1] in outcome.err
    assert "Traceback" not in outcome.err


def test_show_in_full(llem, kept):
    """Headline, evidence, warnings with their text, and the path."""
    outcome = llem("show", kept[1].key)

    assert outcome.status == 0
    assert "meta-llama/Llama-3.1-8B on pytorch" in outcome.out
    assert "nvml_total_energy" in outcome.out
    assert SECOND.measurement_warnings[0] in outcome.out
    assert outcome.out.count("result.json") == 1


def test_show_takes_a_path(llem, kept):
    assert llem("show", kept[1].path).out == llem("show", kept[1].key).out.replace(
        "results/", kept[1].path.split("results/")[0] + "results/"
    )


def test_show_as_json_is_the_document(llem, kept):
    assert from_json(llem("show", kept[1].key, "--json").out) == SECOND


def test_show_of_an_unknown_key(llem, kept):
    outcome = llem("show", "nothing")

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "llem: results/nothing/result.json: there is no result; `llem list` names what is kept\n"
    )


@attrs.define
class Stepping(Clock):
    """Moves when someone sleeps."""

    time_s: float = 0.0

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def sleep(self, seconds: float, /) -> None:
        self.time_s += seconds


def measured(uuid="GPU-0", watts=200.0):
    """8 s at some power, sampled each 0.25 s."""
    clock, times_s = Stepping(), [0.25 * tick for tick in range(40)]
    device = Device(index=0, uuid=uuid, name="GPU", sensor=Sensor.REPLAY, period_s=0.25)
    samples = Samples(
        times_s=times_s, power_w=[watts] * len(times_s), temperature_c=[50.0] * len(times_s)
    )
    config = ExperimentConfig(model="mine", baseline=BaselineConfig(enabled=False))
    with Experiment(config, clock=clock, meter=ReplayMeter([device], samples, clock=clock)) as run:
        clock.sleep(8.0)
        run.record(input_tokens=8, output_tokens=2, latency_s=8.0)
    return run


UUID = "GPU-00000000-0000-0000-0000-000000000000"


def audited(out):
    """The lines of an audit by label, those under a heading by heading, then by label."""
    verdict, *groups = out.split("\n\n")
    lines = {"verdict": verdict.removeprefix("verdict  ").strip()}
    for group in groups:
        heading, *rows = group.splitlines()
        pairs = (row.split("  ", 1) for row in rows)
        lines[heading] = {label: text.strip() for label, text in pairs}
    return lines


def test_an_audit_has_a_verdict_and_a_line_a_figure(llem, tmp_path):
    """The verdict first, then what was recorded of each device and what comes of the samples."""
    run = measured(uuid=UUID)
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)

    outcome = llem("show", "--audit", kept.key)

    lines = audited(outcome.out)
    assert (outcome.status, outcome.err) == (0, "")
    assert {heading: [*rows] for heading, rows in lines.items() if heading != "verdict"} == {
        f"device 0 ({UUID})": [
            "integrated_j",
            "sample_count",
            "max_gap_s",
            "coverage",
            "sampling_period_s",
            "error_bound_j",
            "energy_j",
        ],
        "process 0": ["inference_time_sec", "tokens_per_second"],
        "result": [
            "total_energy_j",
            "total_tokens",
            "total_inference_time_sec",
            "avg_tokens_per_second",
            "avg_energy_per_token_j",
        ],
    }
    device = lines[f"device 0 ({UUID})"]
    assert device["integrated_j"] == (
        "agrees: recorded 1600, recomputed 1600 (trapezoid rule over 33 samples)"
    )
    assert device["sample_count"] == "agrees: recorded 33, recomputed 33"
    assert lines["verdict"] == "all 14 figures with evidence agree with it"
    assert max(map(len, outcome.out.splitlines())) < 120


def test_an_audit_of_a_path(llem, tmp_path):
    """As of its key."""
    run = measured()
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)

    assert llem("show", kept.path, "--audit") == llem("show", "--audit", kept.key)


def test_an_audit_of_a_figure_that_was_changed(llem, tmp_path):
    """It is named, and the status is 1. Its digest is right: someone wrote it anew."""
    run = measured()
    result = attrs.evolve(run.result, total_energy_j=1.01 * run.result.total_energy_j)
    kept = ResultStore(tmp_path / "results").put(result, timeseries=run.timeseries)

    outcome = llem("show", kept.key, "--audit")

    assert (outcome.status, outcome.err) == (1, "")
    lines = audited(outcome.out)
    assert lines["result"]["total_energy_j"] == (
        "DIFFERS: recorded 1616, recomputed 1600 (sum of the devices)"
    )
    assert lines["verdict"] == "2 of 14 figures DIFFER from their evidence: do not trust them"


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.01, 1)])
def test_an_audit_as_json(llem, tmp_path, factor, status):
    """The same for a program, numbers in full."""
    run = measured(watts=200 / 3)
    result = attrs.evolve(run.result, total_energy_j=factor * run.result.total_energy_j)
    kept = ResultStore(tmp_path / "results").put(result, timeseries=run.timeseries)

    outcome = llem("show", kept.key, "--audit", "--json")

    assert outcome.status == status
    assert outcome.json["agrees"] is (status == 0)
    checks = {check["name"]: check for check in outcome.json["checks"]}
    assert len(checks) == 14
    assert checks["total_energy_j"] == {
        "name": "total_energy_j",
        "recorded": result.total_energy_j,
        "recomputed": run.result.total_energy_j,
        "tolerance": pytest.approx(1e-6 * result.total_energy_j),
        "agrees": status == 0,
        "note": "sum of the devices",
    }


def test_an_audit_refuses_a_sidecar_that_was_tampered_with(llem, tmp_path):
    """Its digest is looked at first: one line, and no verdict on what is no evidence."""
    run = measured()
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)
    sidecar = Path(kept.path).with_name("timeseries.parquet")
    content = bytearray(sidecar.read_bytes())
    content[len(content) // 2] ^= 1
    sidecar.write_bytes(content)

    outcome = llem("show", "--audit", kept.key)

    assert (outcome.status, outcome.out) == (1, "")
    assert "timeseries.parquet" in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_audit_without_a_time_series(llem, tmp_path):
    """What is not checked is said, figure by figure and in the verdict."""
    kept = ResultStore(tmp_path / "results").put(measured().result)

    outcome = llem("show", "--audit", kept.key)

    assert outcome.status == 1
    assert "not checked: there are no samples to integrate" in outcome.out
    assert audited(outcome.out)["verdict"] == (
        "6 figures cannot be checked: their evidence is missing"
    )


AGREES = Check(name="a", recorded=1.0, recomputed=1.0)
DIFFERS = Check(name="b", recorded=1.0, recomputed=2.0)
BARE = Check(name="c", recorded=1.0, recomputed=None, note="no samples")
NEITHER = Check(name="d", recorded=None, recomputed=None)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([AGREES], "1 figure with evidence agrees with it"),
        ([AGREES, AGREES], "all 2 figures with evidence agree with it"),
        ([DIFFERS], "1 of 1 figure DIFFERS from its evidence: do not trust it"),
        ([AGREES, DIFFERS], "1 of 2 figures DIFFERS from its evidence: do not trust it"),
        ([DIFFERS, DIFFERS], "2 of 2 figures DIFFER from their evidence: do not trust them"),
        ([BARE, AGREES], "1 figure cannot be checked: its evidence is missing"),
        ([BARE, BARE], "2 figures cannot be checked: their evidence is missing"),
        ([NEITHER], "nothing to recompute: no energy was measured"),
    ],
)
def test_a_verdict_counts_in_the_right_number(llem, kept, monkeypatch, checks, verdict):
    """One figure is no figures."""
    monkeypatch.setattr("llem.cli.show.audit", lambda *_: Audit(checks=tuple(checks)))

    assert audited(llem("show", "--audit", kept[1].key).out)["verdict"] == verdict


def test_an_audit_of_no_energy(llem, kept):
    """There is nothing to say but that."""
    bare = ResultStore("results").put(small_result(total_energy_j=None))

    outcome = llem("show", "--audit", bare.key)

    assert outcome.status == 0
    assert outcome.out == "verdict  nothing to recompute: no energy was measured\n"
    assert llem("show", "--audit", bare.key, "--json").json == {
        "agrees": True,
        "complete": True,
        "checks": [],
    }


def test_an_audit_of_an_unknown_key(llem, kept):
    assert llem("show", "nothing", "--audit") == llem("show", "nothing")


def test_no_name_of_a_device_is_obeyed_by_the_terminal(llem, tmp_path):
    """In an audit it is part of a heading."""
    run = measured(uuid="GPU\x1b[31m\n")
    kept = ResultStore(tmp_path / "results").put(run.result, timeseries=run.timeseries)

    out = llem("show", "--audit", kept.key).out

    assert "\x1b" not in out
    assert "\ndevice 0 (GPU\\x1b[31m\\n)\nintegrated_j" in out


def test_export_is_csv_in_a_stable_order(llem, kept):
    """The key, then the documented columns; empty for None, figures as they are."""
    rows = list(csv.reader(io.StringIO(llem("export").out)))

    assert rows[0] == ["key", *COLUMNS]
    assert rows[0][:6] == [
        "key",
        "experiment_id",
        "measurement_config_hash",
        "start_time",
        "model",
        "backend",
    ]
    energy = rows[0].index("total_energy_j")
    assert [row[energy] for row in rows[1:]] == ["", repr(SECOND.total_energy_j)]


def test_export_to_a_file(llem, kept, tmp_path):
    outcome = llem("export", "--output", "all.csv")

    assert (outcome.status, outcome.out) == (0, "")
    assert (tmp_path / "all.csv").read_text(encoding="utf-8") == llem("export").out.replace(
        "\r\n", "\n"
    )


def test_export_as_json_to_a_file(llem, kept, tmp_path):
    """What else goes to stdout, whole or not at all."""
    outcome = llem("export", "--json", "-o", "all.json")

    assert (outcome.status, outcome.out) == (0, "")
    assert (tmp_path / "all.json").read_text(encoding="utf-8") == llem("export", "--json").out
    assert llem("export", "--json", "-o", "no/all.json").status == 1


def test_export_to_a_folder_that_is_not_there(llem, kept, tmp_path):
    """One line that names the file; nothing is left behind."""
    outcome = llem("export", "-o", "no/all.csv")

    assert outcome.status == 1
    assert outcome.err.startswith("llem: no/all.csv: the export was not written")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("target", ["", ".", "results"])
def test_export_to_what_is_no_file(llem, kept, target):
    outcome = llem("export", "-o", target)

    assert outcome.status == 1
    assert "it is a folder; name a file" in outcome.err


def test_export_follows_a_link_and_keeps_the_mode(llem, kept, tmp_path):
    """What the link points to is replaced, not the link."""
    target = tmp_path / "target.csv"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o600)
    (tmp_path / "link.csv").symlink_to(target)

    llem("export", "-o", "link.csv")

    assert (tmp_path / "link.csv").is_symlink()
    assert target.read_text(encoding="utf-8").startswith("key,")
    assert target.stat().st_mode & 0o777 == 0o600


def test_export_into_a_pipe_leaves_a_pipe(llem, kept, tmp_path):
    """As into /dev/stdout or /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert llem("export", "-o", "pipe").status == 0
        assert reader.stdout.read().startswith("key,")

    assert (tmp_path / "pipe").is_fifo()


def test_export_that_is_interrupted_leaves_nothing(llem, kept, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)

    assert llem("export", "-o", "all.csv").status == 130
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_settings_that_are_no_scalars_are_text(llem, tmp_path):
    """JSON stays JSON whatever another tool wrote as its settings."""
    config = {**SECOND.effective_config, "precision": {"weights": "int4"}, "n": [1, 2]}
    ResultStore(tmp_path / "results").put(attrs.evolve(SECOND, effective_config=config))

    (row,) = llem("list", "--json").json

    assert row["n"] == "(1, 2)"
    assert "int4" in row["precision"]


def test_no_cell_is_a_formula(llem, tmp_path):
    """A model whose name begins with = is no formula to a spreadsheet."""
    config = {**SECOND.effective_config, "model": '=HYPERLINK("http://x")'}
    ResultStore(tmp_path / "results").put(attrs.evolve(SECOND, effective_config=config))

    _, row = csv.reader(io.StringIO(llem("export").out))

    assert not any(cell.startswith("=") for cell in row)


def test_verify_finds_nothing_wrong(llem, kept):
    outcome = llem("verify")

    assert (outcome.status, outcome.out) == (0, "2 results in results: no fault\n")


def test_verify_names_a_changed_digit(llem, kept):
    """Exit status 1, the kind, the path."""
    with open(kept[1], encoding="utf-8") as file:
        text = file.read()
    with open(kept[1], "w", encoding="utf-8") as file:
        file.write(text.replace('"total_tokens": 2048', '"total_tokens": 2049', 1))

    outcome = llem("verify")

    assert outcome.status == 1
    assert outcome.out.startswith(f"integrity: results/{kept[1].key}/result.json")
    assert outcome.out.endswith("2 results in results: 1 fault\n")
    assert llem("verify", "--json").json["faults"][0]["kind"] == "integrity"


def test_verify_says_what_to_do(llem, kept):
    """Below each fault, and as a member of it for programs."""
    Path(kept[1]).write_text("{")

    assert llem("verify").out.splitlines()[1].startswith("  restore its folder from a copy")
    assert llem("verify", "--json").json["faults"][0]["advice"].startswith("restore")


@pytest.mark.parametrize("verb", ["list", "export", "verify"])
def test_what_may_not_be_looked_at_is_named(llem, kept, monkeypatch, verb):
    """To root nothing is forbidden, so that each look is refused here."""

    def refusing(real):
        def call(path, *args, **options):
            if str(path).endswith(f"{kept[0].key}/result.json"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(path, *args, **options)

        return call

    for name in ("lstat", "open"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    outcome = llem(verb)

    assert outcome.status == 1
    told = outcome.out if verb == "verify" else outcome.err
    assert f"{kept[0].key}/result.json: cannot be opened: Permission denied" in told


def test_repair_moves_aside_what_is_at_fault(llem, kept):
    """And says where it is; exit status 0 where nothing is left to do."""
    Path(kept[1]).write_text("{")
    (Path("results") / f"{kept[1].key}_1").mkdir()

    outcome = llem("verify", "--repair")

    aside = f"results/.llem-aside/{kept[1].key}.0"
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"malformed: results/{kept[1].key}: moved to {aside}",
        f"claim: results/{kept[1].key}_1: an empty folder, taken away",
        "2 results in results: 2 moved aside, no fault left",
    ]
    assert Path(aside, "result.json").read_text() == "{"
    assert llem("verify").out == "1 result in results: no fault\n"


def test_repair_names_what_it_leaves(llem, kept):
    """Exit status 1: the samples are gone, which moving would not mend."""
    sampled = ResultStore("results").put(small_result(), timeseries=small_table())
    Path(sampled).with_name("timeseries.parquet").unlink()

    outcome = llem("verify", "--repair")

    assert outcome.status == 1
    assert outcome.out.startswith("sidecar_missing: ")
    assert outcome.out.endswith("3 results in results: 0 moved aside, 1 fault left\n")
    told = llem("verify", "--repair", "--json").json
    assert (told["checked"], told["moved"], told["left"][0]["kind"]) == (3, [], "sidecar_missing")


def test_names_that_are_no_utf_8_are_spelled_out(llem, kept):
    """In a fault, in what was moved, and in what has no digest."""
    odd = os.fsdecode(b"odd-\xff")
    folder = Path(kept[0]).parent.rename(Path(kept[0]).parents[1] / odd)
    (folder / "result.json").write_bytes(to_json(FIRST))
    told = llem("verify", "--json").json
    assert told["unverified"] == ["odd-\\udcff"]

    (folder / "result.json").write_text("{")
    (fault,) = llem("verify", "--json").json["faults"]
    (moved,) = llem("verify", "--repair", "--json").json["moved"]

    assert fault["key"] == moved["key"] == "odd-\\udcff"
    assert fault["path"] == "results/odd-\\udcff/result.json"
    assert fault["message"].startswith(fault["path"])
    assert moved["path"] == "results/odd-\\udcff"
    assert moved["to"] == "results/.llem-aside/odd-\\udcff.0"


def test_verify_says_what_has_no_digest(llem, kept):
    """A result of another tool is no fault."""
    with open(kept[1], encoding="utf-8") as file:
        document = json.load(file)
    del document["integrity"]
    with open(kept[1], "w", encoding="utf-8") as file:
        json.dump(document, file)

    outcome = llem("verify")

    assert outcome.status == 0
    assert "has no digest" in outcome.err


def test_env_says_what_can_be_measured(llem):
    outcome = llem("env")

    assert outcome.status == 0
    assert {"nvml", "rapl", "torch"} <= {line.split()[0] for line in outcome.out.splitlines()}


@pytest.mark.parametrize(
    ("cuda", "used", "lines"),
    [
        (None, {}, ["driver none found", "CUDA unknown"]),
        (
            CUDAEnvironment(version="12.4", driver_version="550.54.15"),
            {"cuda_version": "13.0", "cuda_version_source": "nvcc"},
            ["driver 550.54.15, CUDA up to 12.4", "CUDA 13.0 (nvcc)"],
        ),
    ],
)
def test_env_says_where_cuda_was_found(llem, monkeypatch, cuda, used, lines):
    """And the driver, as the version that a compiler or torch names is not what the GPU has."""
    found = snapshot()
    none = {"cuda_version": None, "cuda_version_source": None}
    hardware = attrs.evolve(found.hardware, cuda=cuda)
    machine = attrs.evolve(found, hardware=hardware, **(none | used))
    monkeypatch.setattr("llem.cli.env.snapshot", lambda: machine)

    said = [" ".join(line.split()) for line in llem("env").out.splitlines()]

    assert [line for line in said if line.startswith(("driver", "CUDA"))] == lines


def test_env_as_json(llem):
    found = llem("env", "--json").json

    names = [capability["name"] for capability in found["capabilities"]]
    assert names == ["nvml", "rapl", "zeus", "torch"]
    assert found["environment"]["python_version"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(llem, verb):
    """Each says all that its docstring does, and the list of all says it in a sentence."""
    module = importlib.import_module(f"llem.cli.{verb}{'_' if verb == 'import' else ''}")
    described = inspect.getdoc(getattr(module, f"{verb}_verb")).partition("Parameters\n---")[0]

    words = " ".join(llem(verb, "--help").out.split())

    assert f"Usage: llem {verb}" in words
    assert " ".join(described.replace("`", "").split()) in words
    assert VERBS[verb].rstrip(".")[:20] in " ".join(llem("--help").out.split())


def test_help_lists_the_verbs_in_order(llem):
    out = llem("--help").out

    places = [out.index(f" {verb} ") for verb in VERBS]
    assert places == sorted(places)


def test_version(llem):
    assert llem("--version").out.startswith("llem 0.")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["bogus"], "bogus"),
        (["list", "--bogus"], "--bogus"),
        (["show"], "KEY"),
        (["list", "--root"], "--root"),
    ],
)
def test_wrong_usage_is_status_2(llem, words, named):
    """One line on stderr that names what is wrong."""
    outcome = llem(*words)

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("llem: ")
    assert named in outcome.err
    assert outcome.err.count("\n") == 1


def test_every_verb_is_registered():
    app = build_app()

    assert set(VERBS) <= set(app)


def test_no_name_is_obeyed_by_the_terminal(llem, tmp_path):
    """Escape sequences in a result are spelled out, on stdout and on stderr."""
    config = {**SECOND.effective_config, "model": "a\x1b[31mb\nc\u202ed"}
    hostile = attrs.evolve(SECOND, effective_config=config, measurement_warnings=("\x1b]0;x\x07",))
    kept = ResultStore(tmp_path / "results").put(hostile)

    said = llem("list").out + llem("show", kept.key).out + llem("show", "\x1b[2J").err

    assert not any(char in said for char in "\x1b\x07\u202e")
    assert "a\\x1b[31mb\\nc\\u202ed" in said


def test_streams_that_hold_little(tmp_path):
    """ASCII alone, or nothing at all: what cannot be shown is spelled out, not raised."""
    ResultStore(tmp_path).put(SECOND)
    command = [
        sys.executable,
        "-m",
        "llem",
        "show",
        str(tmp_path / next(iter(ResultStore(tmp_path)))),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    closed = subprocess.run(["bash", "-c", f"{' '.join(command)} >&- 2>&-"], check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\\xb1" in ended.stdout
    assert closed.returncode == 0


@pytest.mark.parametrize("verb", ["list", "export", "verify"])
def test_reading_that_takes_long_says_so(llem, kept, monkeypatch, verb):
    """On stderr, once it has taken longer than anyone waits without a word."""
    assert llem(verb).err == ""

    monkeypatch.setattr("llem.cli.output.PATIENCE_S", -1.0)

    assert llem(verb).err == "llem: reading results\n"
