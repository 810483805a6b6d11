"""
Text to a plain JSON object and back, and the canonical form that digests are taken of.

orjson parses. What it lets pass in silence is found afterwards, mostly without a second parse: a
key given twice (the last one wins) leaves fewer colons in the object than in the text, and an
integer beyond 64 bits has become a float of at least 2**63.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llem.domain.fields import plain_floats, shown
from llem.domain.freeform import MAX_DEPTH
from llem.domain.process import SCHEMA_VERSION
from llem.errors import MalformedResultError, SchemaVersionError

_LEAST_POSITIONAL, _LEAST_EXPONENT = 1e-4, 1e16
LARGE = 2.0**63
"""From here on a float may have been an integer that does not fit 64 bits."""
ROOM = 8
"""Levels of a document around its free-form values, and some to spare."""
_SHALLOW = 8
_MANY = 2**60
_WITHOUT_COLON = frozenset({int, bool, type(None)})


def dump(document: Mapping[str, Any]) -> bytes:
    """*document* as the text of a file: UTF-8, two spaces a level, a newline at the end."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """
    *document* in the one form that does not depend on layout, nor on the order of keys.

    It is what the standard library writes with ``json.dumps(document, sort_keys=True,
    separators=(",", ":"), ensure_ascii=False)``, in UTF-8, so that anyone can check a digest.
    """
    return b"".join(_canonical_parts(document))


def _canonical_parts(node: Any) -> Iterator[bytes]:
    """
    The canonical JSON of *node*, bit by bit.

    orjson writes the same many times as fast where no float needs an exponent; how it writes
    exponents differs between its versions.
    """
    if not _has_exponents(node):
        yield orjson.dumps(node, option=orjson.OPT_SORT_KEYS)
    elif node.__class__ is dict:
        for i, key in enumerate(sorted(node)):
            yield (b"," if i else b"{") + json.dumps(key, ensure_ascii=False).encode() + b":"
            yield from _canonical_parts(node[key])
        yield b"}"
    elif node.__class__ is float or all(item.__class__ is float for item in node):
        yield json.dumps(node, separators=(",", ":")).encode()
    else:
        for i, item in enumerate(node):
            yield b"," if i else b"["
            yield from _canonical_parts(item)
        yield b"]"


def content_sha256(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of *document*, 64 hex digits."""
    digest = hashlib.sha256()
    for part in _canonical_parts(document):
        digest.update(part)
    return digest.hexdigest()


def is_content(document: Mapping[str, Any], sha256: str) -> bool:
    """Whether *sha256* is the `content_sha256` of *document*."""
    quick = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return sha256 == quick or sha256 == content_sha256(document)


def _has_exponents(node: Any) -> bool:
    """Whether a float in *node* may be written with an exponent."""
    kind = node.__class__
    if kind is float:
        return node != 0.0 and not _LEAST_POSITIONAL <= abs(node) < _LEAST_EXPONENT
    if kind is dict:
        return any(map(_has_exponents, node.values()))
    if kind is list or kind is tuple:
        if plain_floats(node, _LEAST_POSITIONAL):
            # None of them is as large as to need an exponent.
            return False
        return any(map(_has_exponents, node))
    return False


def parse(text: bytes, source: str) -> dict[str, Any]:
    """
    The JSON object that *text* is.

    Args:
        text: The text, in UTF-8.
        source: What messages call it, such as its path.

    Raises:
        MalformedResultError: It is no JSON object; the message says where.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise MalformedResultError(f"{source}: {_explain(text, fault)}") from None
    if document.__class__ is not dict:
        raise MalformedResultError(
            f"{source}: must hold a JSON object, got {_JSON_NAMES[type(document)]}"
        )
    return document


def check_version(
    document: Mapping[str, Any],
    source: str,
    advice: str = "`llem import` converts older and foreign documents",
) -> None:
    """
    Refuse any schema version but our own.

    Args:
        document: The document.
        source: What messages call it, such as its path.
        advice: What to do about another version.

    Raises:
        SchemaVersionError: It says what was met, what is read, and what converts it.
    """
    if "schema_version" not in document:
        met = "no schema_version"
    elif document["schema_version"] == SCHEMA_VERSION:
        return
    else:
        met = f"schema_version {shown(document['schema_version'])}"
    raise SchemaVersionError(
        f"{source}: has {met}, and this llem reads '{SCHEMA_VERSION}': {advice}"
    )


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def count_colons(node: Any) -> int:
    """
    Colons in the text of the plain *node*: one for each key, and those inside its strings.

    Fewer, where a closer look is due: at keys with colons, deep nesting, integers too large.
    """
    return _count_in_object(node, _SHALLOW) if node.__class__ is dict else 0


def is_text_of(text: bytes, colons: int) -> bool:
    """
    Whether *text* has *colons* colons, so that nothing in it was lost in parsing.

    An escaped character may be a colon, so that text with escapes of that kind needs a closer look.
    """
    return text.count(b":") == colons and (b"\\" not in text or b"\\u003" not in text)


def _count_in_object(node: dict[str, Any], depth: int) -> int:
    colons = len(node)
    for value in node.values():
        kind = value.__class__
        if kind in _WITHOUT_COLON:
            continue
        if kind is str:
            colons += value.count(":")
        elif kind is float:
            if not -LARGE < value < LARGE:
                return -_MANY
        else:
            colons += _count_in_container(value, depth - 1)
    return colons


def _count_in_container(node: Any, depth: int) -> int:
    if depth == 0:
        return -_MANY
    if node.__class__ is dict:
        return _count_in_object(node, depth)
    return _count_in_object(dict(enumerate(node)), depth) - len(node)  # type: ignore[arg-type]


def refuse_what_orjson_lets_pass(text: bytes, source: str) -> None:
    """
    Parse *text* once more, with an eye on each key and each integer.

    Raises:
        MalformedResultError: A key is given twice, an integer does not fit 64 bits, or it is nested
            too deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise MalformedResultError(f"{source}: the key {shown(key)} is given twice")
            keys.add(key)
        return dict(pairs)

    def whole(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
            raise MalformedResultError(f"{source}: the integer {digits[:40]} does not fit 64 bits")
        return int(digits)

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_int=whole)
    except RecursionError:
        document = None
    if document is None or _depth(document) > MAX_DEPTH + ROOM:
        raise MalformedResultError(f"{source}: is nested too deep")


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level:
        depth += 1
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
    return depth


def _explain(text: bytes, fault: orjson.JSONDecodeError) -> str:
    place = f"line {fault.lineno} column {fault.colno}"
    try:
        decoded = text.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8: byte 0x{text[wrong.start]:02x} at offset {wrong.start}"
    if "depth" in fault.msg:
        return f"is nested too deep, at {place}"
    token = re.match(r"-?\w[\w.+-]*", decoded[fault.pos : fault.pos + 6000])
    if token is None:
        return f"is no JSON, at {place}: {fault.msg}"
    if re.fullmatch(r"-?\d{20,}", token[0]):
        return f"the integer {token[0][:40]} does not fit 64 bits, at {place}"
    return f"is no JSON, at {place}, at {token[0][:40]!r}: {fault.msg}"
