"""Times are read in any zone and kept in UTC; documents without zones are read as UTC."""

import copy
import json
import re
import warnings
from datetime import UTC, datetime

import pytest

from llem.codec import from_json, to_json
from llem.errors import NaiveTimeWarning, ResultValidationError

TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")


def naive(document):
    """*document* with every zone left out."""
    return json.loads(re.sub(r"(\d{4}-\d\d-\d\dT[\d:.]+)\+00:00", r"\1", json.dumps(document)))


def test_every_time_of_a_document_has_its_zone(whole):
    text = to_json(whole).decode()

    assert len(TIME.findall(text)) == len(re.findall(r"\d{4}-\d\d-\d\dT", text)) == 7


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-13T14:21:11.145237+00:00",
        "2026-03-13T14:21:11.145237Z",
        "2026-03-13T15:21:11.145237+01:00",
        "2026-03-13T08:51:11.145237-05:30",
        "20260313T142111.145237Z",
    ],
)
def test_any_zone_is_read_as_utc(document, text):
    time = from_json(json.dumps(document | {"start_time": text})).start_time

    assert time == datetime(2026, 3, 13, 14, 21, 11, 145237, UTC)
    assert time.tzinfo is UTC


def test_a_document_without_zones_is_read_as_utc(whole, document):
    """With one warning that names the document, whatever the number of its times."""
    with pytest.warns(NaiveTimeWarning, match="UTC") as met:
        result = from_json(json.dumps(naive(document)))

    assert result == whole
    assert len(met) == 1


def test_the_warning_points_at_the_caller(document):
    with pytest.warns(NaiveTimeWarning) as met:
        from_json(json.dumps(naive(document)))

    assert met[0].filename == __file__


def test_the_one_time_that_has_a_zone_in_such_documents_may_have_it(whole, document):
    """Their writers give ``baseline_timestamp`` with its zone all the same."""
    mixed = naive(document)
    mixed["energy_breakdown"] = document["energy_breakdown"]

    with pytest.warns(NaiveTimeWarning):
        assert from_json(json.dumps(mixed)) == whole


def times_in(node, path=()):
    """The path of every time in *node*."""
    if isinstance(node, str) and TIME.fullmatch(node):
        yield path
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from times_in(value, (*path, key))


def test_a_mixture_is_refused_with_the_path_of_each_naive_time(document):
    """A time without zone among others with one could be of any zone."""
    for path in times_in(document):
        mixed = copy.deepcopy(document)
        holder = mixed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = holder[path[-1]].removesuffix("+00:00")
        at = "$" + "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path)

        with warnings.catch_warnings(), pytest.raises(ResultValidationError) as caught:
            warnings.simplefilter("error")
            from_json(json.dumps(mixed))

        assert at in [where for _, where in caught.value.faults]
        assert "timezone-aware" in str(caught.value)


def test_other_faults_of_a_document_without_zones_are_told_alone(document):
    """Not the times, which are fine."""
    wrong = naive(document) | {"total_energy_j": -1.0}

    with pytest.raises(ResultValidationError) as caught:
        from_json(json.dumps(wrong))

    assert [path for _, path in caught.value.faults] == ["$.total_energy_j"]


def test_texts_that_look_like_times_stay_what_they_are(document):
    """Only fields that hold times are times."""
    text = "2026-03-13T14:21:11"
    changed = naive(document) | {"reproducibility_notes": text, "effective_config": {"at": text}}

    with pytest.warns(NaiveTimeWarning):
        result = from_json(json.dumps(changed))

    assert (result.reproducibility_notes, result.effective_config["at"]) == (text, text)
