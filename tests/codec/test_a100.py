"""A result that another tool measured on an A100 is read with every value kept."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from llem.codec import from_json, measurement_config_hash, to_json
from llem.errors import NaiveTimeWarning

FILE = Path(__file__).parents[3] / "shared" / "data" / "a100_gpt2_v2.0.json"

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="needs ../shared/data")


@pytest.fixture(scope="module")
def original():
    return json.loads(FILE.read_bytes())


@pytest.fixture(scope="module")
def result():
    with pytest.warns(NaiveTimeWarning):
        return from_json(FILE.read_bytes())


def differences(old, new, path="$"):
    """Where *new* does not hold what *old* holds; it may hold more."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key not in new:
                yield f"{path}.{key} is gone"
            else:
                yield from differences(value, new[key], f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{i}]")
    elif not (_is_the_same(old, new) or _is_the_same_time(old, new)):
        yield f"{path}: {old!r} became {new!r}"


def _is_the_same(old, new):
    """An integer where a float belongs is written as a float."""
    return old == new and (type(old) is type(new) or (type(old), type(new)) == (int, float))


def _is_the_same_time(old, new):
    try:
        before, after = datetime.fromisoformat(old), datetime.fromisoformat(new)
    except (TypeError, ValueError):
        return False
    return before.replace(tzinfo=before.tzinfo or after.tzinfo) == after


def test_every_value_is_kept(original, result):
    assert list(differences(original, json.loads(to_json(result)))) == []


def test_the_differences_would_be_seen(original, result):
    """The comparison above is able to fail."""
    changed = json.loads(to_json(result))
    changed["total_energy_j"] += 1e-9
    del changed["environment_snapshot"]["hardware"]["gpu"]["name"]

    assert len(list(differences(original, changed))) == 2


def test_packages_are_a_tuple(original, result):
    assert result.environment_snapshot.installed_packages == tuple(
        original["environment_snapshot"]["installed_packages"]
    )


def test_its_hash_is_that_of_its_configuration(original, result):
    """As computed by the tool that wrote it."""
    recorded = original["measurement_config_hash"]

    assert measurement_config_hash(original["effective_config"]) == recorded
    assert measurement_config_hash(result.effective_config) == recorded
    assert result.measurement_config_hash == recorded


def test_it_is_written_and_read_again(result):
    assert from_json(to_json(result)) == result
