"""Text that is no JSON object is refused with its place, in one line, whatever it is."""

import json
from hashlib import sha256

import pytest

from llem.codec import from_json, to_json, to_stored_json
from llem.errors import LlemError, MalformedResultError, ResultValidationError


@pytest.fixture(scope="module", params=["bare", "stored"])
def text(request, whole):
    """A document without and with what a store adds."""
    if request.param == "bare":
        return to_json(whole)
    return to_stored_json(whole, commit_id="a:b", sidecars={"timeseries.parquet": b"PAR1"})


def refusal(data):
    with pytest.raises(MalformedResultError) as caught:
        from_json(data)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "line 1"),
        (b" \n\t", "line"),
        (b"\0" * 4096, "line 1"),
        (b"<!doctype html>", "line 1 column 1"),
        (b"schema_version: '2.0'\n", "line 1 column 1"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": -1e999}', "-1e999"),
        (b'{"a": 016}', "line 1"),
        (b'{"a": +16}', "line 1"),
        (b'{"a": 0x10}', "line 1"),
        (b'{"a": None}', "None"),
        (b"{'a': 1}", "line 1 column 2"),
        (b'{"a": 1 /* c */}', "line 1"),
        (b'{"a": "b\nc"}', "line 1"),
        (b'{"a": "\\ud800"}', "line 1"),
        (b'{"a": 1,}', "line 1"),
        (b'{"a": 1}\0\0', "line 1"),
        (b'{"a": 1} {}', "line 1"),
        (b"[]", "object, got an array"),
        (b"null", "object, got null"),
        (b'"2.0"', "object, got a string"),
        (b"2", "object, got a number"),
        (b"2.0", "object, got a number"),
        (b"true", "object, got a boolean"),
        ('{"a": "\ud800"}', "UTF-8"),
        (b'{"a": "dur\xe9e"}', "byte 0xe9 at offset 10"),
        (b'{"a": "\xc0\xaf"}', "byte 0xc0 at offset 7"),
        (b"\x1f\x8b\x08\x00", "byte 0x8b at offset 1"),
        (json.dumps({"a": 1}).encode("utf-16"), "UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1"),
        ("\ufeff{}", "line 1"),
    ],
)
def test_what_is_no_json_object_is_refused(data, named):
    assert named in refusal(data)


def test_a_cut_document_is_refused(text):
    """Wherever it is cut."""
    end = len(text.rstrip())
    for size in {*range(0, end, 97), end - 1}:
        with pytest.raises(MalformedResultError, match="line"):
            from_json(text[:size])


def vouched_for(text):
    """*text* with the digest of what a parser makes of it, where it has one."""
    document = json.loads(text)
    if "integrity" not in document:
        return text
    recorded = document.pop("integrity")["content_sha256"]
    form = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace(recorded.encode(), sha256(form.encode()).hexdigest().encode())


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (b'"schema_version"', b'"experiment_id": "x", "schema_version"', "experiment_id"),
        (b'"total_energy_j": ', b'"total_energy_j": 1.0, "total_energy_j": ', "total_energy_j"),
        (b'"total_energy_j": ', b'"total_energy_j": "a", "total_energy_j": ', "total_energy_j"),
        (b'"temperature": 0.5', b'"temperature": 0.5, "temperature": 0.5', "temperature"),
        (b'"temperature": 0.5', b'"temperature": {"x": 1}, "temperature": 0.5', "temperature"),
        (b'"temperature": 0.5', b'"temperatur\\u0065": 1, "temperature": 0.5', "temperature"),
        (b'"temperature": 0.5', b'"a": "\\u003a", "a": "\\u003A\\u003a"', "a"),
        (b'"temperature": 0.5', b'"a": 1, "a": "\\u003a"', "a"),
        (b'"temperature": 0.5', b'"a": 1, "a": "\\u003A"', "a"),
        (b'"temperature": 0.5', b'"a:b": 1, "a:b": 2', "a:b"),
        (b'"temperature": 0.5', b'"a:b": 1, "c": 1, "c": 2', "c"),
        (b'"temperature": 0.5', b'"a": [[{"c": 1, "c": 2}]]', "c"),
        (b'"temperature": 0.5', b'"": 1, "": 2', ""),
        (b'"gpu_name": ', b'"gpu_name": "x", "gpu_name": ', "gpu_name"),
        (b'"process_results": ', b'"process_results": [], "process_results": ', "process_results"),
        (b'"num_processes": ', b'"num_processes": 1, "num_processes": ', "num_processes"),
    ],
)
def test_a_key_given_twice_is_refused(text, old, new, key):
    """At the top, nested, in free-form parts, and with escapes or colons in keys and values."""
    assert old in text

    for place in range(text.count(old)):
        parts = text.split(old)
        changed = old.join(parts[: place + 1]) + new + old.join(parts[place + 1 :])
        assert f"the key {key!r} is given twice" in refusal(vouched_for(changed))


@pytest.mark.parametrize("colons", [b"\\u003a", b":", b"::", b"\\u003A:"])
def test_a_key_given_twice_in_the_integrity_member_is_refused(whole, colons):
    text = to_stored_json(whole, commit_id="x", sidecars={})
    changed = text.replace(b'"commit_id": "x"', b'"commit_id": "' + colons + b'", "commit_id": "x"')

    assert "'commit_id' is given twice" in refusal(changed)


def test_keys_with_colons_are_read(whole):
    """They only need a closer look."""
    config = {"a:b": "c:d", "e": {":": [":", {"::": None}]}, "f": "\u0000:\u2028"}
    result = type(whole)(**{**_fields(whole), "effective_config": config})

    for form in (to_json(result), json.dumps(json.loads(to_json(result))).encode()):
        assert from_json(form) == result
        assert from_json(form.replace(b"c:d", b"c\\u003ad")) == result


def _fields(record):
    return {name: getattr(record, name) for name in record.__slots__}


@pytest.mark.parametrize(
    "digits",
    [str(2**64).encode(), str(-(2**63) - 1).encode(), b"9" * 30, b"-" + b"9" * 30, b"9" * 5000],
    ids=len,
)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"total_tokens": 5,', b'"total_tokens": %s,'),
        (b'"num_batches": 2', b'"num_batches": %s'),
        (b'"temperature": 0.5', b'"temperature": %s'),
        (b'"temperature": 0.5', b'"temperature": [[1, %s]]'),
        (b'"temperature": 0.5', b'"temperature": {"a": %s}'),
    ],
)
def test_an_integer_beyond_64_bits_is_refused(whole, old, new, digits):
    """In a field, and in a free-form part, where it would become a float in silence."""
    text = to_json(whole)
    assert old in text

    message = refusal(text.replace(old, new % digits))

    assert "64 bits" in message
    assert digits[:20].decode() in message


@pytest.mark.parametrize("integer", [2**64 - 1, -(2**63), 2**53 + 1, 0])
def test_integers_of_64_bits_are_read_exactly(whole, integer):
    text = to_json(whole).replace(b'"temperature": 0.5', b'"temperature": %d' % integer)

    again = from_json(text)

    assert again.effective_config["decoder"]["temperature"] == integer
    assert type(again.effective_config["decoder"]["temperature"]) is int
    assert to_json(again) == text


def nested(text, depth, brackets):
    """A document whose configuration nests *depth* levels in brackets of one kind."""
    opening, closing = {"[": (b"[", b"]"), "{": (b'{"a":', b"}")}[brackets]
    inner = opening * depth + (b"0" if brackets == "{" else b"") + closing * depth
    return text.replace(b'"temperature": 0.5', b'"temperature": ' + inner)


@pytest.mark.parametrize("brackets", ["[", "{"])
def test_a_free_form_part_may_nest_deep(whole, brackets):
    """It is read, compared, hashed and written again."""
    text = nested(to_json(whole), 200, brackets)

    result = from_json(text)

    assert result == from_json(to_json(result))
    assert hash(result) == hash(from_json(to_json(result)))
    assert from_json(to_stored_json(result, commit_id="x", sidecars={})) == result


@pytest.mark.parametrize("brackets", ["[", "{"])
@pytest.mark.parametrize("depth", [241, 260, 500, 1010, 2000, 100_000])
def test_what_nests_too_deep_is_refused(text, depth, brackets):
    changed = nested(text, depth, brackets)

    assert "deep" in refusal(vouched_for(changed) if depth < 300 else changed)


@pytest.mark.parametrize("depth", [241, 260, 500, 1010, 2000, 100_000])
def test_what_nests_too_deep_anywhere_is_refused(text, depth):
    """In a field that holds no free form, in an unknown one, and in the integrity member."""
    deep = b"[" * depth + b"]" * depth
    for old in (b'"total_energy_j": 0.75', b'"commit_id": "a:b"', b'"schema_version": "2.0"'):
        name = old.partition(b":")[0]
        if old in text:
            with pytest.raises(LlemError):
                from_json(text.replace(old, name + b": " + deep))
    with pytest.raises(LlemError):
        from_json(text.replace(b'"schema_version"', b'"unknown": ' + deep + b', "schema_version"'))


def test_a_fault_of_the_text_is_told_before_a_fault_of_the_record(whole):
    """A key given twice is told as that, also where its values are no result."""
    text = to_json(whole).replace(b'"backend": "some: text"', b'"backend": 1, "backend": 2')

    assert "'backend' is given twice" in refusal(text)


def test_underflow_is_zero(whole):
    """1e-400 is 0.0 to every parser."""
    text = to_json(whole).replace(b'"total_energy_j": 0.75', b'"total_energy_j": 1e-400')

    assert from_json(text).total_energy_j == 0.0


def test_refusals_are_values_errors(whole):
    with pytest.raises(ResultValidationError):
        from_json(to_json(whole).replace(b'"total_tokens": 5,', b'"total_tokens": "5",'))
