"""Whatever is in a document: it is in the record, it is listed, or the document is refused."""

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llem.codec import to_json
from llem.domain.result import ExperimentResult
from llem.errors import LlemError
from llem.importing import convert
from llem.testing import filled, results

OURS = json.loads(to_json(filled(ExperimentResult, timeseries=None)))

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
FREE_FORM = "effective_config"


def objects(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object in *node* that is no free-form one, with its path."""
    if isinstance(node, list):
        return [pair for i, item in enumerate(node) for pair in objects(item, f"{path}[{i}]")]
    if not isinstance(node, dict):
        return []
    inner = [
        pair
        for key, value in node.items()
        if key != FREE_FORM
        for pair in objects(value, f"{path}.{key}" if path else key)
    ]
    return [(path, node), *inner]


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in *node*, as what holds it and its key or index."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in items:
        found.append((node, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


@given(results())
def test_results_of_ours_are_taken_as_they_are(result):
    assert convert(to_json(result)).result == result


@given(st.data())
def test_unknown_members_of_ours_are_listed(data):
    """Wherever they stand and whatever they are; the rest is as it was."""
    document = copy.deepcopy(OURS)
    added = {}
    for path, holder in objects(document):
        if data.draw(st.integers(0, 9), label=path) == 0:
            name = "new" + data.draw(st.text(max_size=4))
            holder[name] = data.draw(VALUES)
            added[f"{path}.{name}" if path else name] = holder[name]

    imported = convert(json.dumps(document))

    assert imported.as_read == convert(json.dumps(OURS)).result
    listed = [field.path for field in imported.unmapped]
    for path in added:
        assert any(found.startswith(path) for found in listed)
    for found in listed:
        assert any(found.startswith(path) for path in added)


@given(data=st.data())
def test_unknown_members_of_others_are_listed(each, data):
    """As in ours, in every format."""
    document = each.plain
    before = {field.path for field in each.convert().unmapped}
    path, holder = data.draw(st.sampled_from(objects(document)), label="holder")
    holder["novel"] = value = data.draw(VALUES)
    wanted = f"{path}.novel" if path else "novel"

    listed = {field.path: field.value for field in each.convert(document).unmapped}

    assert before - {path} <= {*listed}
    found = [field for field in listed if field.startswith(wanted)]
    assert found
    if not isinstance(value, dict | list):
        assert json.loads(listed[wanted]) == value


@given(data=st.data())
def test_any_value_anywhere(each, data):
    """A document is converted, or refused with an error of ours; nothing else happens."""
    document = each.plain
    holder, key = data.draw(st.sampled_from(places(document)))
    holder[key] = data.draw(VALUES)

    try:
        imported = each.convert(document)
    except LlemError:
        return

    assert to_json(imported.result)


@given(data=st.data())
def test_any_value_in_the_files_beside(framed, data):
    """As in the document."""
    file = data.draw(st.sampled_from(sorted(framed.beside)))
    content = json.loads(framed.beside[file])
    holder, key = data.draw(st.sampled_from(places(content)))
    holder[key] = data.draw(VALUES)

    try:
        imported = framed.convert(**{file.removesuffix(".json"): content})
    except LlemError:
        return

    assert to_json(imported.result)


@given(data=st.data())
def test_anything_missing(each, data):
    """As with other values."""
    document = each.plain
    holder, key = data.draw(st.sampled_from(places(document)))
    del holder[key]

    try:
        imported = each.convert(document)
    except LlemError:
        return

    assert to_json(imported.result)
