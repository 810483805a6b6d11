"""Calling the command line in this process, on a root of its own."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from llem.cli import status_of


@attrs.frozen
class Outcome:
    """What a call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def llem(capsys, monkeypatch, tmp_path):
    """Call the command line with words, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Outcome:
        capsys.readouterr()
        status = status_of([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call
