"""The fast way decides nothing: where it does not give up, the careful one comes to the same."""

import copy
import json

import pytest
from cattrs import BaseValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from llem.codec import from_json, to_mapping
from llem.codec.converter import colon_counter, converter, faults_of, plain_structure
from llem.codec.document import count_colons
from llem.domain.config import ExperimentConfig
from llem.domain.result import ExperimentResult
from llem.errors import ConfigError, MalformedResultError, ResultValidationError
from llem.testing import configs, json_objects, results


def plain(document, cls):
    """The record by the fast way, or None where that gives up."""
    try:
        return plain_structure(cls)(copy.deepcopy(document))
    except Exception:  # noqa: BLE001, any exception means it gives up
        return None


def careful(document, cls):
    """The record, or every fault."""
    try:
        return converter().structure(copy.deepcopy(document), cls)
    except (BaseValidationError, ResultValidationError, ConfigError) as error:
        return sorted(faults_of(error))


def agree(document, cls):
    """What the fast way makes, if anything, the careful one makes as well."""
    made = plain(document, cls)
    assert made is None or (
        made == careful(document, cls) and repr(made) == repr(careful(document, cls))
    )


def places(node, path=()):
    """The path of everything in *node*."""
    yield path
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


SCALARS = [None, True, False, 0, 1, -1, 2**63, 1.0, 0.5, -0.0, -0.5, "", "12", "a", "fp16"]
TIMES = ["2026-03-13T14:21:11Z", "2026-03-13T14:21:11", "2026-03-13T15:21:11.5+01:00"]
WHOLES = [[], [1], [0.5], [1.0, 2.0], [2.0, 1.0], [None], ["a"], [{}], {}, {"a": 1}]
ODD = st.sampled_from([*SCALARS, *TIMES, *WHOLES, "nvml_power", "timeseries.parquet", "../x"])


@settings(max_examples=150)
@given(data=st.data())
def test_on_changed_documents(document, data):
    """One or two places of a document hold something else, are missing, or are new."""
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(changed))[1:]))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.integers(0, 4)) == 0:
            del holder[path[-1]]
        elif isinstance(holder, dict) and data.draw(st.integers(0, 4)) == 0:
            holder["new"] = data.draw(ODD)
        else:
            holder[path[-1]] = data.draw(ODD | st.floats(-1e9, 1e9))

    agree(changed, ExperimentResult)


@settings(max_examples=25)
@given(results())
def test_on_any_result(result):
    """The fast way takes whatever has no float that may have been a larger integer."""
    document = json.loads(json.dumps(to_mapping(result)))

    agree(document, ExperimentResult)
    assert careful(document, ExperimentResult) == result


@pytest.mark.parametrize("missing", [[-1], [0, -1], [True], [1.0], ["1"], 1, None, {}])
def test_processes_that_are_none_are_no_plain_ones(document, missing):
    """The careful way says what is wrong with them."""
    changed = copy.deepcopy(document)
    changed["aggregation"]["missing_processes"] = missing

    assert plain(changed, ExperimentResult) is None
    assert any("missing_processes" in text for text, _ in careful(changed, ExperimentResult))


def test_the_fast_way_is_taken(document):
    """By a document as it is written."""
    assert plain(document, ExperimentResult) == careful(document, ExperimentResult)


@given(configs(), st.data())
def test_on_changed_configurations(config, data):
    changed = json.loads(json.dumps(to_mapping(config)))
    path = data.draw(st.sampled_from(list(places(changed))[1:]))
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(ODD)

    agree(changed, ExperimentConfig)


SECOND = '"total_energy_j": 123.0, "total_energy_j":'


@pytest.mark.parametrize(
    ("once", "instead"),
    [
        ('"llem_version"', None),
        ("+00:00", "Z"),
        ("+00:00", "+0000"),
        ("\\u", "\\u"),
    ],
)
def test_a_key_given_twice_hides_behind_nothing(document, once, instead):
    """Not behind a colon that is missing somewhere else, as in a shorter time."""
    lines = json.dumps({**document, "llem_version": "é"}, indent=2).splitlines()
    spoilt = next(i for i, line in enumerate(lines) if once in line)
    lines[spoilt : spoilt + 1] = (
        [] if instead is None else [lines[spoilt].replace(once, instead, 1)]
    )
    text = "\n".join(lines)
    from_json(text)

    with pytest.raises(MalformedResultError, match="'total_energy_j' is given twice"):
        from_json(text.replace('"total_energy_j":', SECOND, 1))


def test_a_record_built_without_its_constructor_is_one_like_any_other(whole, document):
    """Its class, its slots, its hash, and that it does not change."""
    built = plain(document, ExperimentResult)

    assert type(built) is ExperimentResult
    assert type(built.process_results[0]) is type(whole.process_results[0])
    assert hash(built) == hash(whole)
    assert repr(built) == repr(whole)
    with pytest.raises(AttributeError):
        built.total_tokens = 1
    assert not hasattr(built, "__dict__")


@settings(max_examples=25)
@given(results())
def test_the_colons_of_a_record_are_those_of_its_text(result):
    """Where they are counted as fewer, a closer look is due, which is never wrong."""
    text = json.dumps(to_mapping(result), ensure_ascii=False)

    assert colon_counter(ExperimentResult)(result) <= text.count(":")


def test_the_colons_of_an_ordinary_record_are_counted_exactly(whole):
    """So that no second parse is needed."""
    text = json.dumps(to_mapping(whole), ensure_ascii=False)

    assert colon_counter(ExperimentResult)(whole) == text.count(":")


@given(json_objects())
def test_the_colons_of_an_object_are_never_counted_as_more(document):
    assert count_colons(document) <= json.dumps(document, ensure_ascii=False).count(":")
