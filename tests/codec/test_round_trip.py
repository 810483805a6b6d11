"""What is written is read back equal, byte for byte, whatever it is."""

import json
from typing import get_args

import attrs
import jsonschema
from hypothesis import HealthCheck, Phase, given, seed, settings

from llem.codec import config_from_mapping, from_json, json_schema, to_json, to_mapping
from llem.domain.config import ExperimentConfig
from llem.domain.fields import Record
from llem.domain.freeform import JsonObject
from llem.domain.result import ExperimentResult
from llem.testing import configs, results


@given(results())
def test_reading_what_was_written_gives_an_equal_result(result):
    text = to_json(result)

    assert from_json(text) == result
    assert from_json(text.decode()) == result


@given(results())
def test_writing_what_was_read_gives_the_same_bytes(result):
    text = to_json(result)

    again = from_json(text)

    assert to_json(again) == text
    assert hash(again) == hash(result)
    assert repr(again) == repr(result)


@given(results())
def test_a_document_is_what_its_schema_says(result):
    """Every document is valid JSON for the standard library, and by the JSON Schema."""
    document = json.loads(to_json(result))

    jsonschema.Draft202012Validator(SCHEMA).validate(document)


SCHEMA = json_schema()


def test_form_of_a_document(whole):
    """UTF-8, two spaces a level, fields in the order of the class, a newline at the end."""
    text = to_json(attrs.evolve(whole, reproducibility_notes="±5 %"))
    document = json.loads(text)

    assert "±5 %".encode() in text
    assert text.startswith(b'{\n  "schema_version": "2.0",\n  "experiment_id": ')
    assert text.endswith(b"\n}\n")
    assert list(document) == [field.name for field in attrs.fields(ExperimentResult)]
    assert list(document)[-1] == "process_results"


@given(configs())
def test_a_configuration_is_read_back_from_its_mapping(config):
    assert config_from_mapping(to_mapping(config), source="test") == config
    assert config_from_mapping(json.loads(json.dumps(to_mapping(config))), source="t") == config


def classes_below(cls):
    """*cls*, and every class that its fields may hold."""
    kinds = {cls}
    for field in attrs.fields(cls):
        for kind in (field.type, *get_args(field.type)):
            for inner in (kind, *get_args(kind)):
                if attrs.has(inner):
                    kinds |= classes_below(inner)
    return kinds


def set_fields(node, met):
    """Add to *met* every field in *node* that is neither None nor its default."""
    if isinstance(node, Record):
        for field in attrs.fields(type(node)):
            value = getattr(node, field.name)
            if value is not None and value != field.default:
                met.add((type(node), field.name))
            set_fields(value, met)
    elif isinstance(node, tuple):
        for item in node:
            set_fields(item, met)


def fields_met(round_number):
    """Every field that a run of the strategies sets, the same in each run of that number."""
    met: set = set()
    run = settings(
        max_examples=60,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for strategy in (results(), configs()):
        run(seed(round_number)(given(strategy)(lambda record: set_fields(record, met))))()
    return met


def test_the_strategies_reach_every_field():
    """
    A run of them sets every field of every class to something else than None and the default.

    Only the schema version cannot be anything else.
    """
    missing = {
        (cls, field.name)
        for cls in classes_below(ExperimentResult) | classes_below(ExperimentConfig)
        for field in attrs.fields(cls)
        if field.name != "schema_version"
    }
    assert len(missing) > 250

    for round_number in range(6):
        if missing:
            missing -= fields_met(round_number)

    assert missing == set()


def test_free_form_mappings_stay_json_objects(whole):
    """The same type, read or built."""
    again = from_json(to_json(whole))

    assert type(again.effective_config) is type(whole.effective_config) is JsonObject
    assert again.effective_config["decoder"]["stop"] == ("a:b", None)
