"""A document of any record is read as strictly as that of a result."""

import pytest
from hypothesis import given

from llem.codec import record_from_json, record_to_json, to_json
from llem.domain.conditions import Conditions
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult
from llem.domain.spool import Marker, RunManifest
from llem.errors import MalformedResultError, ResultValidationError, SchemaVersionError
from llem.testing import conditions, process_results, small_result

MARKER = Marker(run_id="run-1", process_index=3, files={"process-00003.json": "0" * 64})
TEXT = record_to_json(MARKER)


@given(process_results())
def test_a_process_is_read_as_it_was_written(process):
    text = record_to_json(process)

    assert record_from_json(text, RawProcessResult, source="x") == process
    assert record_from_json(text.decode(), RawProcessResult, source="x") == process


@given(conditions())
def test_conditions_are_read_as_they_were_written(left):
    text = record_to_json(left)

    assert record_from_json(text, Conditions, source="x") == left
    assert record_to_json(record_from_json(text, Conditions, source="x")) == text


def test_a_result_has_the_same_document():
    assert record_to_json(small_result()) == to_json(small_result())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is no JSON"),
        (b"[]", "must hold a JSON object"),
        (TEXT[:40], "is no JSON"),
        (TEXT.replace(b": 3", b": NaN"), "is no JSON"),
        (TEXT.replace(b": 3", b': 3, "process_index": 3'), "'process_index' is given twice"),
        (TEXT.replace(b"{\n    ", b'{"process-00003.json": "1", '), "is given twice"),
        (TEXT.replace(b": 3", b": 36893488147419103232"), "does not fit 64 bits"),
        (b'{"files": ' + b"[" * 10**5, "nested too deep"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_what_is_no_object_is_refused(text, words):
    with pytest.raises(MalformedResultError, match=words) as caught:
        record_from_json(text, Marker, source="some/path")

    assert str(caught.value).startswith("some/path: ")


def test_every_fault_is_listed_with_its_place():
    text = b'{"run_id": "a/b", "process_index": "3", "files": {}, "other": null}'

    with pytest.raises(ResultValidationError, match=r"some/path: is no Marker: 3 faults") as caught:
        record_from_json(text, Marker, source="some/path")

    paths = sorted(path for _, path in caught.value.faults)
    assert paths == ["$.other", "$.process_index", "$.run_id"]


@pytest.mark.parametrize("missing", ["run_id", "process_index", "files"])
def test_a_missing_field_is_named(missing):
    text = TEXT.replace(missing.encode(), b"x", 1)

    with pytest.raises(ResultValidationError, match=f"{missing} is missing"):
        record_from_json(text, Marker, source="x")


@pytest.mark.parametrize("cls", [RawProcessResult, RunManifest, ExperimentResult])
@pytest.mark.parametrize("text", [b"{}", b'{"schema_version": "3.0"}', b'{"schema_version": 2.0}'])
def test_the_schema_version_is_looked_at_first(cls, text):
    with pytest.raises(SchemaVersionError, match="use the llem that wrote it"):
        record_from_json(text, cls, source="x")
