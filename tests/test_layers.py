"""Imports point down: never up, never sideways between stages."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llem

SEAMS = {"errors", "domain", "protocols", "codec"}
STAGES = {
    "measure",
    "backends",
    "aggregate",
    "completeness",
    "quality",
    "accuracy",
    "recording",
    "store",
    "report",
}

MAY_IMPORT = {
    "errors": set(),
    "domain": {"errors"},
    "protocols": {"errors", "domain"},
    "codec": {"errors", "domain"},
    "importing": {"errors", "domain", "codec"},
    "measure": SEAMS,
    "backends": {"errors", "domain", "protocols"},
    "aggregate": {"errors", "domain"},
    "completeness": {"errors", "domain"},
    "quality": {"errors", "domain"},
    "accuracy": {"errors", "domain"},
    "recording": SEAMS,
    "store": SEAMS,
    "report": {"errors", "domain", "codec"},
    "testing": SEAMS,
    "experiment": SEAMS | STAGES,
    "distributed": SEAMS | STAGES | {"experiment"},
    "auditing": SEAMS | {"aggregate", "measure", "recording"},
    "running": SEAMS | STAGES | {"experiment"},
    "cli": SEAMS | STAGES | {"experiment", "distributed", "running", "auditing", "importing"},
    "__main__": {"cli"},
    "": SEAMS | STAGES | {"experiment", "distributed", "running", "auditing", "importing"},
}
"""What each part may import of ours beside itself. The empty name: the package's own module."""

NOT_IN_DOMAIN = {"os", "pathlib", "time", "json", "numpy", "logging"}

ROOT = Path(llem.__file__).parent


def module_names() -> dict[str, Path]:
    """The file of each module of llem, by the module's name."""
    return {
        ".".join(["llem", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in sorted(ROOT.rglob("*.py"))
    }


MODULES = module_names()
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def part_of(module: str) -> str:
    """The part that *module* belongs to: the name below llem."""
    return [*module.split("."), ""][1]


def imports(module: str, source: str) -> Iterator[str]:
    """Every module that *source*, the text of *module*, imports anywhere, by its full name."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            home = importlib.util.resolve_name(home, package)
            inner = {f"{home}.{alias.name}" for alias in node.names}
            yield from inner & MODULES.keys()
            if inner - MODULES.keys():
                yield home
        elif isinstance(node, ast.Call):
            yield from _by_name(node)


def _by_name(call: ast.Call) -> Iterator[str]:
    """``import_module("...")`` and ``__import__("...")``."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("import_module", "__import__") and call.args:
        value = getattr(call.args[0], "value", None)
        if isinstance(value, str):
            yield value


def faults(module: str, source: str) -> list[str]:
    """Every import in *source*, the text of *module*, that it may not have."""
    part = part_of(module)
    allowed = MAY_IMPORT[part] | {part}
    return [
        imported
        for imported in imports(module, source)
        if (imported.split(".")[0] == "llem" and part_of(imported) not in allowed)
        or (part == "domain" and imported.split(".")[0] in NOT_IN_DOMAIN)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports what lies below its part, or in it, and nothing else of ours."""
    assert faults(module, MODULES[module].read_text("utf-8")) == []


def test_every_part_has_a_rule() -> None:
    """The table and the package have the same parts."""
    assert {part_of(module) for module in MODULES} == MAY_IMPORT.keys()


def test_the_table_has_no_circle() -> None:
    """What a part may import may not import it."""
    assert [
        (upper, lower)
        for upper, below in MAY_IMPORT.items()
        for lower in below
        if upper in MAY_IMPORT[lower]
    ] == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("llem.errors", "import llem.domain.energy", "llem.domain.energy"),
        ("llem.domain.energy", "from llem import protocols", "llem.protocols"),
        ("llem.domain.energy", "from llem import ResultStore", "llem"),
        ("llem.domain.energy", "from ..codec import to_json", "llem.codec"),
        ("llem.domain", "from ..codec import to_json", "llem.codec"),
        ("llem.codec.schema", "from llem.store.layout import age_order", "llem.store.layout"),
        ("llem.measure.rapl", "def f():\n    from llem.store import load", "llem.store"),
        ("llem.store.files", "if TYPE_CHECKING:\n    import llem.measure", "llem.measure"),
        ("llem.quality", "try:\n    import llem.codec\nexcept E:\n    pass", "llem.codec"),
        ("llem.report.table", "import_module('llem.store')", "llem.store"),
        ("llem.report.table", "importlib.import_module('llem.store')", "llem.store"),
        ("llem.backends.prompts", "__import__('llem.codec')", "llem.codec"),
        ("llem.experiment", "from llem.cli import main", "llem.cli"),
        ("llem.testing", "from llem.store import MemoryStore", "llem.store"),
        ("llem.domain.energy", "import os.path", "os.path"),
        ("llem.domain.energy", "from time import monotonic", "time"),
        ("llem.domain.energy", "def f():\n    import numpy as np", "numpy"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, found: str) -> None:
    """Wherever an import stands and however it is written."""
    assert faults(module, source) == [found]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("llem.domain.energy", "from llem.domain import fields\nimport math"),
        ("llem.domain.energy", "from .fields import Record"),
        ("llem.store.files", "from llem.store import sidecar\nimport os, json, time"),
        ("llem.experiment", "from llem import measure, quality"),
        ("llem.cli.run", "from llem.running import run_experiment"),
    ],
)
def test_a_fine_import_is_not_found(module: str, source: str) -> None:
    """What points down, or beyond llem, is let through."""
    assert faults(module, source) == []


def test_imports_are_met() -> None:
    """The walk over the package is not empty: it meets each part that experiment is built of."""
    met = {
        part_of(name)
        for module, path in MODULES.items()
        if part_of(module) == "experiment"
        for name in imports(module, path.read_text("utf-8"))
    }

    assert {"measure", "aggregate", "quality", "recording", "protocols"} <= met


def test_nothing_but_the_standard_library_below_the_codec() -> None:
    """Errors, domain and protocols need attrs alone, but for pyarrow and numpy where called for."""
    outside = {
        name.split(".")[0]
        for module, path in MODULES.items()
        if part_of(module) in ("errors", "domain", "protocols")
        for name in imports(module, path.read_text("utf-8"))
    }

    assert outside - sys.stdlib_module_names - {"llem"} == {"attrs", "numpy", "pyarrow"}
