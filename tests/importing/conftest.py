"""The documents that are kept for ever: one of each format, every field set to something."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from llem.importing import Imported, convert

KEPT = Path(__file__).parent / "kept"


@attrs.frozen
class Kept:
    """
    A document of another tool.

    Attributes:
        file: Where it lies.
        beside: Content of the files beside it, by name.
    """

    file: Path
    beside: dict[str, bytes]

    @property
    def name(self) -> str:
        return self.file.stem if self.file.parent == KEPT else self.file.parent.name

    @property
    def plain(self) -> dict[str, Any]:
        """A fresh copy, to be changed."""
        return json.loads(self.file.read_bytes())

    def convert(self, document: Any = None, **beside: Any) -> Imported:
        """The record of it, of *document* in its place; *beside* in place of what lies there."""
        files = self.beside | {
            f"{name}.json": json.dumps(content).encode() for name, content in beside.items()
        }
        return convert(json.dumps(document) if document else self.file.read_bytes(), beside=files)


def kept(name: str) -> Kept:
    """The kept document called *name*."""
    folder = KEPT / name
    if not folder.is_dir():
        return Kept(folder.with_suffix(".json"), {})
    beside = {file.name: file.read_bytes() for file in folder.iterdir()}
    del beside["result.json"]
    return Kept(folder / "result.json", beside)


NAMES = ["v1", "v2", "v3", "v5", "bundle2"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each kept document, or those with files beside them, to a test that asks for one."""
    for asked, names in (("each", NAMES), ("framed", NAMES[2:])):
        if asked in metafunc.fixturenames:
            metafunc.parametrize(asked, [kept(name) for name in names], ids=names)


@pytest.fixture
def v1() -> Kept:
    return kept("v1")


@pytest.fixture
def v2() -> Kept:
    return kept("v2")


@pytest.fixture
def v3() -> Kept:
    return kept("v3")


@pytest.fixture
def v5() -> Kept:
    return kept("v5")


@pytest.fixture
def bundle2() -> Kept:
    return kept("bundle2")
