"""The README's code runs, and its numbers of lines and commands are what is promised."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llem.codec import config_from_mapping

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_python_blocks_run_in_order(tmp_path):
    """The Python blocks run one after another, as a reader would paste them, on no GPU."""
    checks = (
        "assert kept.result.total_tokens == 14; assert store.get(kept) == kept.result; "
        "assert kept_by_rank_0.result.total_tokens == 24"
    )
    script = "\n".join([*blocks("python"), checks])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)


def test_toml_block_is_a_configuration():
    """The TOML block has only settings that exist."""
    (block,) = blocks("toml")

    config = config_from_mapping(tomllib.loads(block), source="README")

    assert config.warmup.convergence_detection


def test_readme_is_short():
    assert len(TEXT.splitlines()) < 150


def test_two_commands_install_constrained():
    """Both commands install the tested versions."""
    run, test = blocks("bash")

    assert "-c constraints.txt '.[torch]'" in run
    assert "llem run" in run
    assert "-c constraints.txt nox" in test
    assert "nox -s tests" in test


@pytest.mark.parametrize(
    "verb", ["run", "list", "show", "export", "import", "verify", "aggregate", "env"]
)
def test_every_verb_is_in_the_table(verb):
    assert f"| `llem {verb}" in TEXT


def test_every_test_that_is_named_is_there():
    """A promise names the test that proves it."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", TEXT)

    assert len(named) >= 9
    assert [name for name in named if f"\ndef {name}(" not in tests] == []
