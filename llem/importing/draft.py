"""A document on its way into a record: what was taken of it, and what is left."""

import enum
import math
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin

import attrs

from llem.domain.fields import Record
from llem.domain.process import Timestamps
from llem.domain.result import ExperimentResult

Plain = dict[str, Any]
"""A JSON object."""

LONGEST_NAME = 80
"""Characters of a member's name that stand in a path: each value below it has the whole path."""

_DERIVED = {Timestamps: frozenset({"duration_sec"})}
"""Members of a document that are no fields: they are checked when it is read."""


@attrs.define(kw_only=True)
class Draft:
    """
    A document half converted.

    Attributes:
        values: What goes into the record, by its fields.
        left: What has no home, under the names it has in the source. A key that is a number is the
            place in an array.
        notes: What was assumed or worked out, each beginning with the field.
        reasons: Why a field that is left was not taken, by its path.
        beside: What has no home of the files beside the document, by their names.
    """

    values: Plain
    left: dict[Any, Any]
    notes: list[str] = attrs.Factory(list)
    reasons: dict[str, str] = attrs.Factory(dict)
    beside: dict[str, Plain] = attrs.Factory(dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """*document*, taken as far as the fields of a record go."""
        values, left = fit(document, ExperimentResult)
        return cls(values=values, left=left)

    def take(self, name: str, field: str) -> None:
        """Take what is left under *name* as the value of *field*, unless that has one."""
        if name in self.left and field not in self.values:
            self.values[field] = self.left.pop(name)

    def leave(self, name: str, reason: str) -> None:
        """Take the value of *name* out of the record again; it was not what its name says."""
        if name in self.values:
            self.left[name] = self.values.pop(name)
            self.reasons[name] = reason

    def forget_empty(self, *names: str) -> None:
        """Let go of what says nothing: null, and arrays and objects without content."""
        forget_empty(self.left, *names)

    def homeless(self) -> Iterator[tuple[str, Any]]:
        """Every value that has no home, with its path."""
        yield from leaves(self.left)
        for name, rest in self.beside.items():
            for path, value in leaves(rest):
                yield f"{name}: {path}", value

    def part(self, name: str) -> Plain:
        """The object that goes into the record as *name*; an empty one where there is none."""
        return part_of(self.values, name)


def fit(source: Mapping[str, Any], cls: Any) -> tuple[Plain, dict[Any, Any]]:
    """What of the object *source* the class *cls* has fields for, and what is left of it."""
    kinds = {field.name: field for field in attrs.fields(cls)}
    derived = _DERIVED.get(cls, frozenset())
    values: Plain = {}
    left: dict[Any, Any] = {}
    for name, value in source.items():
        field = kinds.get(name)
        if name in derived:
            values[name] = value
        elif field is None or _is_unknown_word(value, field):
            left[name] = value
        else:
            values[name], rest = _fit_value(value, field.type)
            if rest:
                left[name] = rest
    return values, left


def leaves(node: Any, path: str | None = None) -> Iterator[tuple[str, Any]]:
    """Every value in *node* with its path; an array of plain values is one, as it stands."""
    items: Any = None
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        items = enumerate(node)
    if not items and path is not None:
        yield path, node
    for key, value in items or ():
        yield from leaves(value, _joined(path, key))


def forget_empty(left: dict[Any, Any], *names: str) -> None:
    """Let go of those of *names* in *left* that are null, or have no content."""
    for name in names:
        if name in left and (left[name] is None or left[name] in ({}, [])):
            del left[name]


def part_of(values: Mapping[str, Any], name: str) -> Plain:
    """The object *name* of *values*; an empty one where there is none."""
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def processes_of(values: Mapping[str, Any]) -> Iterator[tuple[int, Plain]]:
    """The processes that go into the record, with their places."""
    processes = values.get("process_results")
    for i, process in enumerate(processes if isinstance(processes, list) else []):
        if isinstance(process, dict):
            yield i, process


def summed(values: Iterable[float]) -> float:
    """The sum of *values*; infinite where no double holds it."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def number(value: Any) -> float | None:
    """*value* where it is a number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fit_value(value: Any, kind: Any) -> tuple[Any, dict[Any, Any]]:
    """What of *value* a field of type *kind* has room for, and what is left of it."""
    kinds = [arg for arg in (kind, *get_args(kind)) if _is_record(arg)]
    if kinds and isinstance(value, dict):
        return fit(value, kinds[0])
    if kinds and isinstance(value, list) and get_origin(kind) is tuple:
        pairs = [_fit_value(item, kinds[0]) for item in value]
        return [taken for taken, _ in pairs], {i: rest for i, (_, rest) in enumerate(pairs) if rest}
    return value, {}


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


def _is_unknown_word(value: Any, field: Any) -> bool:
    """Whether *value* is a word that an optional field of a few words does not know."""
    if not isinstance(value, str) or field.default is not None:
        return False
    words: set[Any] = set()
    for kind in get_args(field.type):
        if get_origin(kind) is Literal:
            words.update(get_args(kind))
        elif kind is not NoneType and isinstance(kind, type) and issubclass(kind, enum.Enum):
            words.update(member.value for member in kind)
    return bool(words) and value not in words


def _joined(path: str | None, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path or ''}[{key}]"
    name = key if len(key) <= LONGEST_NAME else f"{key[:LONGEST_NAME]}... ({len(key)} characters)"
    return name if path is None else f"{path}.{name}"
