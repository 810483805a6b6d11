"""What a store adds to a document tells whether it is what was written."""

import hashlib
import json
import random

import pytest

from llem.codec import canonical_json, from_json, read_document, to_json, to_stored_json
from llem.errors import LlemError, ResultIntegrityError

SIDECARS = {"timeseries.parquet": b"PAR1"}


@pytest.fixture(scope="module")
def stored(whole):
    return to_stored_json(whole, commit_id="3f2a", sidecars=SIDECARS)


def test_a_stored_document_says_its_digests(whole, stored):
    """Anyone can check them with the standard library."""
    document = json.loads(stored)
    integrity = document.pop("integrity")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert integrity == {
        "commit_id": "3f2a",
        "content_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "sidecars": {
            "timeseries.parquet": {"bytes": 4, "sha256": hashlib.sha256(b"PAR1").hexdigest()}
        },
    }
    assert document == json.loads(to_json(whole))
    assert list(json.loads(stored))[-2:] == ["integrity", "process_results"]


def test_a_stored_document_is_read_with_what_the_store_added(whole, stored):
    document = read_document(stored, source="test")

    assert document.result == whole
    assert document.integrity.commit_id == "3f2a"
    assert document.integrity.sidecars["timeseries.parquet"].bytes == 4
    assert read_document(to_json(whole), source="test").integrity is None


def reversed_keys(node):
    if isinstance(node, dict):
        return {key: reversed_keys(value) for key, value in reversed(node.items())}
    return [reversed_keys(item) for item in node] if isinstance(node, list) else node


def test_layout_and_order_do_not_matter(whole, stored):
    """Re-indented, re-ordered, with other line ends and escapes: the content is the same."""
    document = json.loads(stored)
    forms = [
        json.dumps(document, indent=7),
        json.dumps(reversed_keys(document)),
        json.dumps(document, sort_keys=True, separators=(" ,", " :")),
        stored.replace(b"\n", b"\r\n"),
        stored.replace(b"0.75", b"7.5e-1"),
    ]

    for form in forms:
        assert from_json(form) == whole


def test_every_changed_digit_is_found(stored):
    """A sample of the digits outside the integrity member, each changed in every way."""
    integrity = range(stored.index(b'"integrity"'), stored.index(b'"process_results"'))
    places = [i for i, byte in enumerate(stored) if chr(byte).isdigit() and i not in integrity]

    for place in random.Random(0).sample(places, 120):
        for digit in b"0123456789":
            if digit != stored[place]:
                changed = stored[:place] + bytes([digit]) + stored[place + 1 :]
                with pytest.raises(LlemError):
                    from_json(changed)


def test_a_changed_value_names_both_digests(stored):
    with pytest.raises(ResultIntegrityError) as caught:
        from_json(stored.replace(b'"total_flops": 0.75', b'"total_flops": 0.5'))

    assert json.loads(stored)["integrity"]["content_sha256"] in str(caught.value)


def test_a_digest_of_another_writing_of_exponents_is_taken(whole):
    """The standard library's canonical form is the one that counts, 1e-05 and not 0.00001."""
    document = json.loads(to_json(whole)) | {"total_flops": 1e-5, "flops_per_second": 1e22}
    digest = hashlib.sha256(canonical_json(document)).hexdigest()
    document["integrity"] = {"commit_id": "x", "content_sha256": digest}

    assert from_json(json.dumps(document)).total_flops == 1e-5


@pytest.mark.parametrize(
    "member",
    [
        None,
        [],
        {},
        "text",
        {"commit_id": "x"},
        {"content_sha256": "0" * 64},
        {"commit_id": 1},
        {"content_sha256": 1},
        {"content_sha256": "0" * 64, "commit_id": "x"},
        {"sidecars": None},
        {"sidecars": []},
        {"sidecars": {"timeseries.parquet": None}},
        {"sidecars": {"timeseries.parquet": {}}},
        {"sidecars": {"timeseries.parquet": {"bytes": 4}}},
        {"sidecars": {"timeseries.parquet": {"bytes": 4.0, "sha256": "0" * 64}}},
        {"sidecars": {"timeseries.parquet": {"bytes": -4, "sha256": "0" * 64}}},
        {"sidecars": {"timeseries.parquet": {"bytes": 4, "sha256": "0" * 63}}},
        {"sidecars": {"timeseries.parquet": {"bytes": 4, "sha256": "0" * 64, "md5": "0"}}},
        {"more": 1},
    ],
)
def test_a_tampered_integrity_member_is_refused(stored, member):
    """Its parts missing, of another kind, or with something more."""
    document = json.loads(stored)
    own = document["integrity"]
    keep = isinstance(member, dict) and set(member) & {"sidecars", "more"}
    if isinstance(member, dict) and len(member) == 1 and 1 in member.values():
        keep = True
    document["integrity"] = own | member if keep else member

    with pytest.raises(ResultIntegrityError, match=r"integrity|SHA-256"):
        from_json(json.dumps(document))


def test_sidecars_may_be_missing(whole, stored):
    """A digest of the content alone is enough to read a document."""
    document = json.loads(stored)
    del document["integrity"]["sidecars"]

    assert read_document(json.dumps(document), source="test").result == whole


def test_a_removed_integrity_member_leaves_a_plain_document(whole, stored):
    """As other tools write one: nothing says what it was."""
    document = json.loads(stored)
    del document["integrity"]

    assert from_json(json.dumps(document)) == whole
