"""Canonical JSON is what the standard library writes, so that anyone can check a digest."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.codec import canonical_json, to_mapping
from llem.testing import json_objects, results


def standard(document):
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


@given(json_objects())
def test_any_object(document):
    assert canonical_json(document) == standard(document)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_floats(values):
    """With and without exponents, in lists and in tuples."""
    assert canonical_json({"a": values}) == standard({"a": values})
    assert canonical_json({"a": tuple(values)}) == standard({"a": values})


@pytest.mark.parametrize(
    "value",
    [
        *(1e16, 1e15, 9999999999999998.0, 123456789012345680.0, 1e300, 1.7976931348623157e308),
        *(1e-4, 9.999e-5, 1e-5, 5e-324, -1e22, -1e-7, 0.0, -0.0),
    ],
)
def test_floats_near_the_exponent(value):
    beside = {"b": [], "a": {'é"': value}, "\n": [[value], [{}], "é", 7, value, (1, 2.5)]}
    for document in ({"a": value}, {"a": [1.0, value]}, {"a": [{"b": value}, None]}, beside):
        assert canonical_json(document) == standard(document)


@pytest.mark.parametrize("value", [1e16, -1e16, 1e300, 9.999e-5, -5e-324])
def test_no_exponent_is_left_to_orjson(monkeypatch, value):
    """However the installed version writes them, another may write them otherwise."""
    monkeypatch.setattr(orjson, "dumps", lambda *_, **__: pytest.fail("orjson wrote it"))

    for document in ({"a": value}, {"a": [1.0, value]}, {"a": (1.0, value)}, {"a": [{"b": value}]}):
        assert canonical_json(document) == standard(document)


@given(results())
def test_any_result(result):
    document = to_mapping(result)

    assert canonical_json(document) == standard(json.loads(json.dumps(document)))


def test_keys_are_sorted_by_code_point():
    """Also beyond the first plane, where UTF-16 would sort them otherwise."""
    document = {"\uffff": 1, "\U00010000": 2, "a": {"é": 3, "z": 4, "\x7f": 5, "\x00": 6}}

    assert canonical_json(document) == standard(document)
