"""What a person sees on a terminal: a real one, of 80 columns."""

import os
import pty
import re
import subprocess
import sys

import attrs
import pytest
from sample import sample_result

from llem.store import ResultStore


def on_terminal(*words: str, columns: int = 80) -> str:
    """What ``llem`` prints on a terminal of *columns*."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "llem", *words],
        stdout=secondary,
        stderr=secondary,
        env=environment,
    ) as process:
        os.close(secondary)
        shown = b""
        while True:
            try:
                part = os.read(primary, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(primary)
    assert process.returncode == 0, shown
    return shown.decode()


def plain(shown: str) -> list[str]:
    """The lines of what was *shown*, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


NAME = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture
def long_key(tmp_path):
    """The key of a result that is kept, longer than what a narrow terminal has room for."""
    result = sample_result(1, 5)
    config = {**result.effective_config, "model": NAME}
    return ResultStore(tmp_path).put(attrs.evolve(result, effective_config=config)).key


@pytest.mark.parametrize("columns", [80, 100])
def test_a_list_folds_its_keys_alone(tmp_path, long_key, columns):
    """Between their parts. Figures and headers are whole, and no line is wider than asked for."""
    lines = plain(on_terminal("list", "--root", str(tmp_path), columns=columns))

    header, row, *rest = (line.split() for line in lines)
    assert header == ["key", "energy", "±", "J/token", "tokens/s", "TTFT", "warned"]
    assert row[1:3] == ["617", "J"]
    assert len(row) == 8
    assert "".join([row[0], *(part for line in rest for part in line)]) == long_key
    assert all(line[0].endswith(("_", "-")) for line in (row, *rest[:-1]))
    assert max(map(len, lines)) <= columns


def test_a_key_is_whole_where_there_is_room(tmp_path, long_key):
    """So that it can be copied."""
    assert long_key in on_terminal("list", "--root", str(tmp_path), columns=140)


def test_a_list_on_the_narrowest_terminal(tmp_path, long_key):
    """What there is no room for is not cut: the terminal wraps it."""
    shown = "".join(plain(on_terminal("list", "--root", str(tmp_path), columns=20)))

    assert "tokens/s" in shown
    assert "617 J" in shown


def test_show_on_a_terminal(tmp_path):
    """Folded between words and under the label. A path is whole, so that it can be copied."""
    kept = ResultStore(tmp_path / ("long-" * 20)).put(sample_result(1, 5))

    lines = plain(on_terminal("show", kept.path))

    assert f"path                {kept.path}" in lines
    assert max(len(line) for line in lines if kept.path not in line) <= 80
    (device,) = (place for place, line in enumerate(lines) if line.startswith("device 0"))
    assert lines[device + 1].startswith(" " * 20 + "(GPU-")


def test_help_on_a_terminal():
    """Folded where the terminal ends, and not where a line of a docstring does."""
    assert "most so many seconds ago" in "\n".join(plain(on_terminal("run", "--help")))


def test_progress_on_a_terminal(tmp_path):
    """Bars while it runs, gone when it is done."""
    shown = on_terminal(
        "run", "--n", "2", "--root", str(tmp_path), "--synthetic-dataset.output-len", "2"
    )

    assert "loading the model" in shown
    assert "kept" in shown
