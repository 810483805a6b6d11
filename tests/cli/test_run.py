"""``llem run``: the main job, its settings, and what can go wrong with it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llem.__main__ as entry
from llem.codec import measurement_config_hash
from llem.running import run_experiment
from llem.store import ResultStore, commit

pytest.importorskip("transformers")

from llem.backends.pytorch import PytorchBackend

QUICK = ("--n", "2", "--synthetic-dataset.output-len", "4", "--warmup.n-warmup", "1")


@pytest.fixture
def no_zeus(monkeypatch):
    """A machine without Zeus, whatever this one has."""
    for module in ("zeus", "zeus.monitor"):
        monkeypatch.setitem(sys.modules, module, None)


def test_the_main_job(llem, tmp_path):
    """A model is measured and kept; the summary says what a person wants to know."""
    outcome = llem("run", *QUICK)

    (key,) = ResultStore("results")
    result = ResultStore("results").get(key)
    assert outcome.status == 0
    for label in ("energy", "throughput", "TTFT", "ITL", "kept"):
        assert f"\n{label}" in outcome.out
    assert f"results/{key}/result.json" in outcome.out
    for warning in result.measurement_warnings:
        assert warning in outcome.out
    assert (result.input_tokens, result.output_tokens) == (128, 8)
    assert result.latency_stats.ttft_samples == 2
    assert result.latency_stats.itl_samples == 6
    assert result.total_flops > 0
    assert result.measurement_config_hash == measurement_config_hash(result.effective_config)
    assert result.effective_config["device"] in ("cpu", "cuda:0")
    assert "llem: running prompts" in outcome.err


def test_unmeasured_energy_is_none(llem):
    """No meter: no figure, and a warning that says why."""
    row = llem("run", *QUICK, "--energy.backend", "none", "--json").json

    assert row["total_energy_j"] is None
    assert row["avg_energy_per_token_j"] is None
    assert "energy_not_measured" in row["measurement_warnings"]
    assert Path(row["path"]).is_file()


def test_export_csv(llem, tmp_path):
    llem("run", *QUICK, "--export-csv", "run.csv")

    lines = (tmp_path / "run.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(next(iter(ResultStore("results"))))


def test_options_override_the_file(llem, tmp_path):
    """A file stands over the defaults, an option over the file."""
    toml = 'n = 1\nbatch_size = 2\n[synthetic_dataset]\noutput_len = 3\n[energy]\nbackend = "none"'
    (tmp_path / "run.toml").write_text(toml, encoding="utf-8")

    llem("run", "--config", "run.toml", "--n", "2", "--warmup.no-enabled")

    config = ResultStore("results").get(next(iter(ResultStore("results")))).effective_config
    assert (config["n"], config["batch_size"]) == (2, 2)
    assert config["synthetic_dataset"]["output_len"] == 3
    assert config["warmup"]["enabled"] is False
    assert config["energy"]["backend"] is None


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("bogus = 1", "bogus is no field of ExperimentConfig @ $.bogus"),
        ("[warmup]\nbogus = 1", "bogus is no field of WarmupConfig @ $.warmup.bogus"),
        ("n = 'x'", "n must be a whole number, got 'x' @ $.n"),
        ("n = ", "is no TOML"),
        ("n = 0", "n must be >= 1, got 0"),
        ("precision = 'int4'", "precision must be one of"),
        ("warmup = 3", "warmup must be an object"),
        ("batch-size = 3", "did you mean batch_size?"),
        ("n = " + 5000 * "9", "is no TOML"),
        ("n = " + 20000 * "[", "is no TOML"),
    ],
)
def test_a_wrong_file_is_named(llem, tmp_path, toml, named):
    """One line with the file and the setting, status 2, and nothing is made."""
    (tmp_path / "run.toml").write_text(toml, encoding="utf-8")

    outcome = llem("run", "-c", "run.toml")

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("llem: run.toml: ")
    assert named in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_file_that_is_not_there_or_no_text(llem, tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")

    assert "cannot be read: No such file" in llem("run", "-c", "none.toml").err
    assert "not UTF-8" in llem("run", "-c", "bytes.toml").err


def test_every_fault_of_a_file_is_named(llem, tmp_path):
    (tmp_path / "run.toml").write_text("n = 0\nbatch_size = -1", encoding="utf-8")

    err = llem("run", "-c", "run.toml").err

    assert "@ $.n" in err
    assert "@ $.batch_size" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--n", "0"], "llem: --n: n must be >= 1, got 0"),
        (["--warmup.window-size", "1"], "--warmup.window-size: window_size must be >= 2"),
        (["--precision", "int4"], "--precision"),
        (["--n", "many"], "--n"),
    ],
)
def test_a_wrong_option_is_named(llem, words, named):
    outcome = llem("run", *words)

    assert outcome.status == 2
    assert named in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("age", ["nan", "inf", "-inf", "-1", "1e400", "soon", "", "1 h"])
def test_an_age_that_is_none_is_named(llem, tmp_path, age):
    """One line, status 2, before anything is loaded or made."""
    for words in (["--baseline-max-age", age], [f"--baseline-max-age={age}"]):
        outcome = llem("run", *words)

        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("llem: ")
        assert "--baseline-max-age" in outcome.err
        assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "age_s"),
    [([], 0.0), (["--baseline-max-age", "0"], 0.0), (["--baseline-max-age=90.5"], 90.5)],
)
def test_the_age_of_an_idle_power_is_passed_on(llem, monkeypatch, words, age_s):
    """Unless it is given, idle power is measured."""
    real, given = run_experiment, []

    def noted(*args, **options):
        given.append(options["baseline_max_age_s"])
        return real(*args, **options)

    monkeypatch.setattr("llem.cli.run.run_experiment", noted)

    assert llem("run", *QUICK, *words).status == 0
    assert given == [age_s]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["llem-test/no-such-model"], "llem-test/no-such-model"),
        (["./no-such-folder"], "./no-such-folder"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--backend", "bogus"], "bogus"),
        (["--dataset", "nowhere.txt"], "nowhere.txt"),
        (["--energy.backend", "zeus"], "zeus"),
    ],
)
@pytest.mark.usefixtures("no_zeus")
def test_what_cannot_run_is_named(llem, tmp_path, words, named):
    """One line, status 1, nothing kept."""
    outcome = llem("run", *words, *QUICK)

    assert outcome.status == 1, outcome.err
    message = [line for line in outcome.err.splitlines() if line.startswith("llem: ")][-1]
    assert named in message
    assert "Traceback" not in outcome.err
    assert list(ResultStore("results")) == []


def test_a_csv_that_cannot_be_written_is_found_before_the_run(llem):
    outcome = llem("run", *QUICK, "--export-csv", "no/such/folder.csv")

    assert outcome.status == 1
    assert "there is no folder no/such" in outcome.err
    assert "loading the model" not in outcome.err


@pytest.mark.usefixtures("no_zeus")
def test_a_meter_that_is_not_there_is_found_before_the_run(llem):
    outcome = llem("run", *QUICK, "--energy.backend", "zeus")

    assert outcome.status == 1
    assert "loading the model" not in outcome.err


def test_a_file_that_never_ends(llem):
    outcome = llem("run", "-c", "/dev/zero")

    assert (outcome.status, outcome.err) == (2, "llem: /dev/zero: is no regular file\n")


def test_ctrl_c_while_the_command_line_loads(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llem.cli.main", interrupt)

    with pytest.raises(SystemExit) as ended:
        entry.main()

    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("llem: interrupted")


def test_a_root_that_cannot_be_written_is_found_before_the_run(llem, tmp_path):
    """Not after an hour of measuring."""
    (tmp_path / "file").write_text("", encoding="utf-8")

    outcome = llem("run", "--root", "file")

    assert outcome.status == 1
    assert outcome.err.startswith("llem: file: nothing was written: Not a directory")
    assert "loading the model" not in outcome.err


def test_a_disk_that_fills_during_the_run(llem, tmp_path, monkeypatch):
    """The result is kept elsewhere, and where is said; the root has nothing half written."""
    real = os.write
    shelter = tmp_path / "shelter"
    shelter.mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(shelter))

    def full(fd: int, data: bytes) -> int:
        if "/results/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(commit.os, "write", full)
    outcome = llem("run", *QUICK)

    (key,) = ResultStore(shelter)
    assert outcome.status == 1
    assert "No space left on device" in outcome.err
    assert f"the result was kept at {shelter}/{key}/result.json" in outcome.err
    assert list(ResultStore("results")) == []
    assert list((tmp_path / "results" / ".llem-tmp").iterdir()) == []


def test_ctrl_c_in_the_middle_of_a_run(tmp_path):
    """Status 130, one line, nothing kept."""
    command = [sys.executable, "-m", "llem", "run", "--n", "100000"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        seen = ""
        while "running prompts" not in seen:
            seen += process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err.splitlines()[-1] == "llem: interrupted: what was not finished is not kept"
    assert "Traceback" not in err
    assert out == ""
    assert list(ResultStore(tmp_path / "results")) == []


def test_a_reader_that_goes_away(tmp_path):
    """A closed pipe ends the listing without a word."""
    command = f"{sys.executable} -m llem env | true"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ended.stderr == ""


def test_a_full_device_behind_stdout():
    """One line, status 1."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "llem", "env"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (1, "llem: stdout: No space left on device\n")


def test_ctrl_c_that_a_library_swallows_is_heeded_all_the_same(llem, monkeypatch):
    """At the next step of the run, and nothing is kept."""
    real = PytorchBackend.load

    def swallowing(backend, config):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            pass
        return real(backend, config)

    monkeypatch.setattr(PytorchBackend, "load", swallowing)

    outcome = llem("run", *QUICK)

    assert outcome.status == 130
    assert "running prompts" not in outcome.err
    assert list(ResultStore("results")) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
