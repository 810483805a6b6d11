"""A document is read as it is, or refused with the place of every fault."""

import enum
import json
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Literal, get_args, get_origin

import attrs
import jsonschema
import pytest

from llem.codec import from_json, json_schema, to_json
from llem.domain.process import Timestamps
from llem.errors import ResultValidationError, SchemaVersionError

JSON_VALUES = {
    "null": None,
    "boolean": True,
    "integer": 1,
    "number": 1.5,
    "string": "12",
    "array": [],
    "object": {},
}
FITTING = {
    NoneType: {"null"},
    bool: {"boolean"},
    int: {"integer"},
    float: {"integer", "number"},
    str: {"string"},
    tuple: {"array"},
    Mapping: {"object"},
    datetime: set(),
}


def wrong_values(place):
    """A value of each kind of JSON that does not fit there."""
    fitting = set()
    for kind in place.kinds:
        fitting |= {"object"} if attrs.has(kind) else FITTING.get(get_origin(kind) or kind, set())
    if get_origin(place.kind) is tuple and place.kind.__args__[-1] is not ...:
        fitting -= {"array"}
    return [value for name, value in JSON_VALUES.items() if name not in fitting]


def faults_in(document):
    with pytest.raises(ResultValidationError) as caught:
        from_json(json.dumps(document))
    return caught.value


def test_wrong_kinds_are_refused_with_their_path(place, document):
    """Every field refuses each kind of JSON value that it cannot hold, and says where."""
    if place.json_path == "$.schema_version":
        pytest.skip("the version is looked at first")
    assert wrong_values(place)

    for value in wrong_values(place):
        error = faults_in(place.replaced(document, value))

        assert place.json_path in [path for _, path in error.faults], (value, error)
        assert f"@ {place.json_path}" in str(error)


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_refuses_wrong_kinds(place, document, validator):
    """The JSON Schema refuses them too. A time is a string to it."""
    is_time = datetime in place.kinds
    for value in wrong_values(place):
        if not (is_time and isinstance(value, str)):
            assert not validator.is_valid(place.replaced(document, value)), value


def beyond(rules):
    """Values just outside of *rules*."""
    if "minimum" in rules:
        yield rules["minimum"] - 1
    if "maximum" in rules:
        yield rules["maximum"] + 0.001
    if "min_length" in rules:
        yield ""
    if "pattern" in rules:
        yield from ("", "a/b", "0123456789abcdef\n")


def test_values_out_of_range_are_refused_with_their_path(ruled, document, validator):
    """By the codec and by the JSON Schema alike."""
    for value in beyond(ruled.rules):
        changed = ruled.replaced(document, float(value) if float in ruled.kinds else value)

        assert ruled.json_path in [path for _, path in faults_in(changed).faults], value
        assert not validator.is_valid(changed) or value == "0123456789abcdef\n"


def choices_of(place):
    """Every text that may stand there, where only some may."""
    for kind in place.kinds:
        if get_origin(kind) is Literal:
            return get_args(kind)
        if isinstance(kind, enum.EnumType):
            return [member.value for member in kind]
    return []


def test_every_choice_is_read(place, document, validator):
    """Each value of an enum, and each text that is one of several, is read and written as it is."""
    for choice in choices_of(place):
        changed = place.replaced(document, choice)

        assert json.loads(to_json(from_json(json.dumps(changed)))) == changed
        assert validator.is_valid(changed)


def test_missing_fields_are_refused_with_their_path(required, document, validator):
    """A field without a default may not be missing."""
    error = faults_in(required.removed(document))

    assert not validator.is_valid(required.removed(document))
    assert (f"{required.path[-1]} is missing", required.json_path) in error.faults


def test_fields_with_a_default_may_be_missing(optional, document, validator):
    """A field with a default may be missing, as in documents of other writers."""
    if optional.json_path == "$.schema_version":
        pytest.skip("the version may not be missing")

    result = from_json(json.dumps(optional.removed(document)))

    assert validator.is_valid(optional.removed(document))
    holder = result
    for key in optional.path[:-1]:
        holder = holder[key] if isinstance(key, int) else getattr(holder, key)
    if (type(holder), optional.path[-1]) != (Timestamps, "duration_sec"):
        default = getattr(attrs.fields(type(holder)), optional.path[-1]).default
        assert getattr(holder, optional.path[-1]) == default


def test_unknown_keys_are_refused_with_their_path(record, document, validator):
    """No class takes a key that is none of its fields."""
    holder = record.holder(document)[record.path[-1]]

    changed = record.replaced(document, {**holder, "unknown_key": 1})

    error = faults_in(changed)

    assert not validator.is_valid(changed)
    assert f"{record.json_path}.unknown_key" in [path for _, path in error.faults]
    assert f"unknown_key is no field of {record.record.__name__}" in str(error)


def test_unknown_keys_at_the_top_are_refused(document):
    error = faults_in({**document, "unknown_key": 1})

    assert error.faults == (("unknown_key is no field of ExperimentResult", "$.unknown_key"),)


def test_every_fault_is_listed(document):
    """All faults of a document are told at once, those of nested records included."""
    wrong = json.loads(json.dumps(document))
    wrong["experiment_id"] = 7
    wrong["total_energy_j"] = -1.0
    wrong["aggregation"]["num_processes"] = 0
    wrong["process_results"][0]["energy_metrics"]["total_energy_j"] = -1.0
    del wrong["process_results"][0]["gpu_name"]
    wrong["devices"][0]["sensor"] = "guess"

    error = faults_in(wrong)

    assert [path for _, path in error.faults] == [
        "$.experiment_id",
        "$.total_energy_j",
        "$.devices[0].sensor",
        "$.aggregation.num_processes",
        "$.process_results[0].gpu_name",
        "$.process_results[0].energy_metrics.total_energy_j",
    ]
    assert "6 faults" in str(error)
    assert (
        "total_energy_j must be finite and >= 0, got -1.0 "
        "@ $.process_results[0].energy_metrics.total_energy_j"
    ) in str(error)


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        (["total_tokens"], 6, "$.total_tokens"),
        (["end_time"], "2026-03-13T14:21:11+00:00", "$.end_time"),
        (["steady_state_window"], [1.0, 0.5], "$.steady_state_window"),
        (["steady_state_window"], [0.5, 2.1], "$.steady_state_window"),
        (["steady_state_window"], [0.5], "$.steady_state_window"),
        (["steady_state_window"], [0.5, 0.6, 0.7], "$.steady_state_window"),
        (["measurement_config_hash"], "0123456789ABCDEF", "$.measurement_config_hash"),
        (["energy_per_device_j"], [1.0, 2.0], "$.energy_per_device_j"),
        (["energy_per_device_j"], [1.0, None], "$.energy_per_device_j[1]"),
        (["timeseries"], "../x.parquet", "$.timeseries"),
        (["total_tokens"], 5.0, "$.total_tokens"),
        (["start_time"], "26/02/2026 14:30", "$.start_time"),
        (["start_time"], "2026-06-30T23:59:60+00:00", "$.start_time"),
        (["devices", 0, "coverage"], 1.5, "$.devices[0].coverage"),
        (
            ["process_results", 0, "timestamps", "duration_sec"],
            1.51,
            "$.process_results[0].timestamps.duration_sec",
        ),
        (
            ["process_results", 0, "timestamps", "end"],
            "2026-03-13T14:21:10+00:00",
            "$.process_results[0].timestamps.end",
        ),
        (
            ["process_results", 0, "inference_metrics", "total_tokens"],
            6,
            "$.process_results[0].inference_metrics.total_tokens",
        ),
    ],
)
def test_broken_invariants_are_refused_with_their_path(document, path, value, at):
    """What ties fields together is checked when a document is read."""
    changed = json.loads(json.dumps(document))
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value

    assert at in [where for _, where in faults_in(changed).faults]


def test_a_duration_within_the_resolution_of_a_datetime_is_read(document):
    changed = json.loads(json.dumps(document))
    changed["process_results"][0]["timestamps"]["duration_sec"] = 1.5 + 0.9e-6

    assert from_json(json.dumps(changed)).process_results[0].timestamps.duration_sec == 1.5


@pytest.mark.parametrize("version", ["3.0", "1.0", "2.0.0", " 2.0", "latest", "", 2, 2.0, None, []])
def test_other_schema_versions_are_refused_first(version):
    """Whatever else is wrong: what was met, what is read, and what converts it."""
    with pytest.raises(SchemaVersionError) as caught:
        from_json(json.dumps({"nonsense": 1, "schema_version": version}))

    assert repr(version) in str(caught.value)
    assert "'2.0'" in str(caught.value)
    assert "llem import" in str(caught.value)


def test_a_missing_schema_version_is_refused():
    with pytest.raises(SchemaVersionError, match=r"no schema_version.*'2\.0'"):
        from_json("{}")
