"""A free-form mapping holds JSON, and never changes."""

import copy
import enum
import json
import pickle
from collections import OrderedDict, UserDict
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given

from llem.domain.freeform import MAX_DEPTH, JsonObject
from llem.testing import json_objects


@given(json_objects())
def test_it_holds_whatever_json_can_hold(values):
    kept = JsonObject(values)

    assert kept == values
    assert kept.to_dict() == values
    assert json.loads(json.dumps(kept.to_dict())) == values
    assert repr(kept.to_dict()) == repr(values)


@given(json_objects())
def test_equal_objects_have_equal_hashes(values):
    first, second = JsonObject(values), JsonObject(dict(reversed(values.items())))

    assert first == second
    assert hash(first) == hash(second)


@given(json_objects())
def test_it_is_copied_and_pickled(values):
    kept = JsonObject(values)

    assert copy.copy(kept) == copy.deepcopy(kept) == pickle.loads(pickle.dumps(kept)) == kept
    assert hash(pickle.loads(pickle.dumps(kept))) == hash(kept)


def test_it_copies_what_it_is_given():
    inner = {"stop": ["a"]}
    kept = JsonObject({"decoder": inner})

    inner["stop"].append("b")
    inner["top_k"] = 1

    assert kept == {"decoder": {"stop": ["a"]}}


def test_it_never_changes():
    """Neither at the top nor anywhere below."""
    kept = JsonObject({"a": {"b": [1, {"c": 2}]}})

    for change in (
        lambda: kept.__setitem__("a", 1),
        lambda: kept.__delitem__("a"),
        lambda: kept.update(a=1),
        lambda: setattr(kept, "_data", {}),
        lambda: delattr(kept, "_data"),
        lambda: setattr(kept, "other", 1),
        lambda: kept["a"].__setitem__("b", 1),
        lambda: kept["a"]["b"].append(1),
        lambda: kept["a"]["b"][1].__setitem__("c", 1),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    kept.to_dict()["a"]["b"].append(3)
    assert kept == {"a": {"b": [1, {"c": 2}]}}


def test_what_is_inside_is_seen_immutable():
    kept = JsonObject({"a": [[1], {"b": []}]})

    assert kept["a"] == ((1,), {"b": []})
    assert type(kept["a"]) is tuple
    assert type(kept["a"][1]) is JsonObject
    assert kept["a"][1]["b"] == ()


def test_it_is_a_mapping():
    kept = JsonObject({"b": 1, "a": None})

    assert list(kept) == ["b", "a"]
    assert len(kept) == 2
    assert "a" in kept
    assert kept.get("c", 3) == 3
    assert dict(kept.items()) == {"b": 1, "a": None}
    assert {**kept, "c": 2} == {"b": 1, "a": None, "c": 2}
    assert repr(kept) == "JsonObject({'b': 1, 'a': None})"
    assert JsonObject() == {}
    with pytest.raises(KeyError):
        kept["c"]


def test_equality():
    kept = JsonObject({"a": [1, 2]})

    assert kept == {"a": (1, 2)}
    assert kept == OrderedDict(a=[1, 2])
    assert kept != {"a": [2, 1]}
    assert kept != {"a": {1, 2}}
    assert kept != [("a", [1, 2])]
    assert kept is not None


def test_other_containers_and_numbers_become_plain():
    class Level(enum.IntEnum):
        LOW = 1

    class Text(str):
        __slots__ = ()

    kept = JsonObject(
        MappingProxyType(
            {
                "mapping": UserDict(a=1),
                "json": JsonObject({"b": 2}),
                "tuple": (1, 2),
                "range": range(2),
                "level": Level.LOW,
                "text": Text("a"),
                Text("key"): Text("b"),
                "int": np.int32(3),
                "float": np.float32(0.5),
            }
        )
    ).to_dict()

    assert kept == {
        "mapping": {"a": 1},
        "json": {"b": 2},
        "tuple": [1, 2],
        "range": [0, 1],
        "level": 1,
        "text": "a",
        "key": "b",
        "int": 3,
        "float": 0.5,
    }
    assert type(kept["level"]) is type(kept["int"]) is int
    assert type(kept["float"]) is float
    assert {type(key) for key in kept} == {str}
    assert type(kept["text"]) is type(kept["key"]) is str


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": float("nan")}, ".a must be finite, got nan"),
        ({"a": {"b": [0, float("inf")]}}, ".a.b[1] must be finite, got inf"),
        ({"a": np.float32("-inf")}, ".a must be finite, got -inf"),
        ({"a": {1, 2}}, ".a must be something JSON can hold, got set"),
        ({"a": b"x"}, ".a must be something JSON can hold, got bytes"),
        ({"a": [object()]}, ".a[0] must be something JSON can hold, got object"),
        ({"a": 1j}, ".a must be something JSON can hold, got complex"),
        ({"a": {1: 2}}, ".a must have texts as keys, got 1"),
        ({None: 2}, " must have texts as keys, got None"),
        ({"a": 2**64}, ".a must fit 64 bits, got a larger integer"),
        ({"a": [-(2**63) - 1]}, ".a[0] must fit 64 bits, got a larger integer"),
        ({"a": "\ud800"}, ".a must be valid Unicode, got a lone surrogate"),
        ({"a": {"\ud800": 1}}, ".a must be valid Unicode, got a lone surrogate"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(values, message):
    with pytest.raises(ValueError, match=r"^") as caught:
        JsonObject(values)

    assert str(caught.value) == message


def nested(depth, make):
    value = 0
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,)])
def test_nesting_is_bounded(make):
    """The deepest that is taken can be compared, hashed, copied and written."""
    deepest = JsonObject({"a": nested(MAX_DEPTH - 1, make)})

    assert deepest == JsonObject(deepest.to_dict())
    assert pickle.loads(pickle.dumps(deepest)) == deepest
    assert json.loads(json.dumps(deepest.to_dict())) == deepest.to_dict()
    with pytest.raises(ValueError, match=f"must nest at most {MAX_DEPTH} deep"):
        JsonObject({"a": nested(MAX_DEPTH, make)})


def test_a_cycle_is_refused():
    values: dict = {}
    values["a"] = values

    with pytest.raises(ValueError, match="nest"):
        JsonObject(values)
