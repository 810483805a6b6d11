"""What a person sees on a terminal: a real one, of 80 columns."""

import os
import pty
import re
import subprocess
import sys

from sample import sample_result

from llem.store import ResultStore


def on_terminal(*words: str) -> str:
    """What ``llem`` prints on a terminal of 80 columns."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
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


def test_a_key_is_whole_on_any_terminal(tmp_path):
    """So that it can be copied: the terminal wraps the line, the table does not."""
    kept = ResultStore(tmp_path).put(sample_result(1, 5))

    shown = on_terminal("list", "--root", str(tmp_path))

    assert kept.key in shown
    assert "tokens/s" in shown


def plain(shown: str) -> list[str]:
    """The lines of what was *shown*, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


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
