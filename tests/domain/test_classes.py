"""Every class is a value: frozen, slotted, keyword-only, compared and hashed by content."""

import ast
import copy
import inspect
import pickle
import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings

import llem.domain
from llem.domain.fields import Record, descriptions
from llem.domain.result import ExperimentResult
from llem.testing import filled, results

FORBIDDEN = {"os", "pathlib", "time", "json", "numpy", "logging", "io", "sys", "subprocess"}
UNITS = {
    "_j": "J",
    "_w": "W",
    "_s": "s",
    "_sec": "s",
    "_ms": "ms",
    "_mb": "MiB",
    "_c": "°C",
    "_mhz": "MHz",
    "_seconds": "s",
    "_kg_co2": "kg",
}


def test_there_are_classes(classes):
    assert len(classes) > 30
    assert ExperimentResult in classes


def test_frozen(cls):
    """A field can be neither assigned, nor deleted, nor added."""
    record = filled(cls)
    name = attrs.fields(cls)[0].name

    for change in (
        lambda: setattr(record, name, None),
        lambda: delattr(record, name),
        lambda: setattr(record, "another", None),
    ):
        with pytest.raises(AttributeError):
            change()
    assert record == filled(cls)


def test_slotted(cls):
    assert not hasattr(filled(cls), "__dict__")
    assert "__dict__" not in dir(filled(cls))


def test_keyword_only(cls):
    assert all(field.kw_only for field in attrs.fields(cls))
    with pytest.raises(TypeError):
        cls(*attrs.astuple(filled(cls), recurse=False))


def test_equal_and_hashable_by_content(cls):
    first, second = filled(cls), filled(cls)

    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second}) == 1
    assert first != object()


def test_every_field_counts(cls):
    """Two records that differ in any field are not equal."""
    whole = filled(cls)
    for field in attrs.fields(cls):
        if field.default not in (attrs.NOTHING, getattr(whole, field.name)):
            other = attrs.evolve(whole, **{field.name: field.default})
            assert other != whole, field.name


def test_copied_and_pickled(cls):
    record = filled(cls)

    assert copy.copy(record) == record
    assert copy.deepcopy(record) == record
    assert pickle.loads(pickle.dumps(record)) == record
    assert hash(pickle.loads(pickle.dumps(record))) == hash(record)


def test_sequences_are_tuples(cls):
    """And so is everything in them."""
    for field in attrs.fields(cls):
        assert not isinstance(getattr(filled(cls), field.name), list | dict | set)


@settings(max_examples=20)
@given(results())
def test_any_result_is_hashable_and_pickled(result):
    assert pickle.loads(pickle.dumps(result)) == result
    assert hash(result) == hash(copy.deepcopy(result))


def test_docstrings_say_every_field_and_its_unit(cls):
    """What a field means stands in the docstring; a field with a unit in its name has it there."""
    described = descriptions(cls)

    assert list(described) == [field.name for field in attrs.fields(cls)]
    for name, words in described.items():
        units = [unit for suffix, unit in UNITS.items() if name.endswith(suffix)]
        assert words.endswith(".") or "`" in words, name
        for unit in units:
            assert re.search(rf"Unit: {re.escape(unit)}\b", words), name


def test_docstrings_of_properties_say_their_unit(cls):
    for name, member in inspect.getmembers(cls, lambda member: isinstance(member, property)):
        assert member.__doc__, name
        for suffix, unit in UNITS.items():
            if name.endswith(suffix):
                assert f"Unit: {unit}" in member.__doc__, name


def modules():
    return sorted(Path(llem.domain.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_no_input_or_output(path):
    """The domain opens no file, reads no clock and knows no format."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        assert {name.partition(".")[0] for name in names} & FORBIDDEN == set()
        assert all(
            name.startswith(("llem.domain", "llem.errors"))
            for name in names
            if name.startswith("llem")
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_no_open(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}


def test_a_record_cannot_be_built_around_its_checks():
    """Whoever constructs it: evolve checks as well."""
    with pytest.raises(ValueError, match=r"^total_tokens must"):
        attrs.evolve(filled(ExperimentResult), total_tokens=-1)
    assert issubclass(ExperimentResult, Record)
