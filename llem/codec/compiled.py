"""
Functions compiled for one class each: the fast way through a document that is exactly ours.

The plain structure takes an object whose keys are exactly the fields of the class and whose values
need no conversion, and builds the record without going through its constructor. Whatever else it
meets it gives up on, and the converter looks at the whole document carefully. So it decides
nothing: it only knows some of what the converter would accept.

That a float is finite is the parser's word. The gain is most of the time of a load: no call per
field, no second look at a value.
"""

import enum
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import attrs

from llem.codec.document import LARGE, count_colons
from llem.domain.fields import Record, plain_floats
from llem.domain.freeform import JsonObject

Hook = Callable[..., Any]


class NotPlainError(Exception):
    """A value that needs a careful look."""


def compile_structure(cls: type[Record], plain_of: Callable[[Any], Hook]) -> Hook:
    """
    The plain structure of the class *cls*. It raises any exception where it gives up.

    Args:
        cls: The class.
        plain_of: Gives the plain structure of a nested class.
    """
    names: dict[str, Any] = {"twin": _mutable_twin(cls), "cls": cls, "NotPlain": NotPlainError}
    tests, builds, sets = [], [], []
    fields = attrs.fields(cls)  # type: ignore[arg-type]
    for i, field in enumerate(fields):
        test, build = _code(f"v{i}", field.type, field.metadata, names, plain_of)
        tests += [test] if test else []
        builds += [build] if build else []
        sets.append(f"record.{field.name} = v{i}")
    sets.append("record.__class__ = cls")
    if cls.check_whole is not Record.check_whole:
        sets.append("record.check_whole()")
    lines = [
        "def structure(o):",
        f" if o.__class__ is not dict or len(o) != {len(fields)}: raise NotPlain",
        *(f" v{i} = o[{field.name!r}]" for i, field in enumerate(fields)),
        f" if not ({' and '.join(tests) or 'True'}): raise NotPlain",
        *(f" {line}" for line in builds),
        " record = twin()",
        *(f" {line}" for line in sets),
        " return record",
    ]
    exec(compile("\n".join(lines), f"<structure {cls.__name__}>", "exec"), names)  # noqa: S102
    return names["structure"]  # type: ignore[no-any-return]


def _mutable_twin(cls: type[Record]) -> type:
    """
    A class laid out as *cls* that can be assigned to.

    A frozen class has to be gone around, at a call for each field, while an instance of the twin
    takes plain assignments and then changes its class, once.
    """
    names = tuple(field.name for field in attrs.fields(cls))  # type: ignore[arg-type]
    return type(cls.__name__, cls.__bases__, {"__slots__": names})


def compile_unstructure(cls: type, hook_of: Callable[[Any], Callable[[Any], Any]]) -> Any:
    """The unstructure hook of the class *cls*: a dict of what JSON can hold, in field order."""
    names: dict[str, Any] = {}
    items = []
    for i, field in enumerate(attrs.fields(cls)):
        value = _plain_code(f"o.{field.name}", field.type, f"h{i}", names, hook_of)
        items.append(f"{field.name!r}: {value}")
    source = f"def unstructure(o):\n return {{{', '.join(items)}}}"
    exec(compile(source, f"<unstructure {cls.__name__}>", "exec"), names)  # noqa: S102
    return names["unstructure"]


def compile_count_colons(
    cls: type, derived: int, hook_of: Callable[[Any], Callable[[Any], int]]
) -> Callable[[Any], int]:
    """
    What counts the colons in the document of a record of the class *cls*.

    Args:
        cls: The class.
        derived: Members of its document that are no fields.
        hook_of: Gives the same for a nested class.
    """
    names: dict[str, Any] = {"count_colons": count_colons}
    terms = [str(len(attrs.fields(cls)) + derived)]
    for i, field in enumerate(attrs.fields(cls)):
        term = _colon_code(f"o.{field.name}", field.type, f"h{i}", names, hook_of)
        if term and NoneType in get_args(field.type):
            term = f"(0 if o.{field.name} is None else {term})"
        terms += [term] if term else []
    source = f"def count(o):\n return {' + '.join(terms)}"
    exec(compile(source, f"<count {cls.__name__}>", "exec"), names)  # noqa: S102
    return names["count"]  # type: ignore[no-any-return]


def _colon_code(
    value: str, kind: Any, name: str, names: dict[str, Any], hook_of: Callable[[Any], Any]
) -> str:
    """Code that counts the colons in the expression *value*, or nothing where there is none."""
    kinds = [arg for arg in get_args(kind) if arg is not NoneType] or [kind]
    code = ""
    if Mapping in (get_origin(kind), get_origin(kinds[0])):
        code = f"count_colons({value}.plain)"
    elif str in kinds:
        code = f"{value}.count(':')"
        if get_origin(kind) is tuple:
            code = f"''.join({value}).count(':')"
    elif datetime in kinds:
        code = "3"
    elif attrs.has(kinds[0]):
        names[name] = hook_of(kinds[0])
        code = f"sum(map({name}, {value}))" if get_origin(kind) is tuple else f"{name}({value})"
    return code


def _code(
    v: str,
    kind: Any,
    rules: Mapping[str, Any],
    names: dict[str, Any],
    plain_of: Callable[[Any], Hook],
) -> tuple[str, str]:
    """Code that tests the variable *v*, and code that then builds the field's value from it."""
    if NoneType in get_args(kind):
        (inner,) = [arg for arg in get_args(kind) if arg is not NoneType]
        test, build = _code(v, inner, rules, names, plain_of)
        return (
            f"({v} is None or {test})" if test else "",
            f"if {v} is not None: {build}" if build else "",
        )
    if kind is float or kind is int:
        test = f"{v}.__class__ is {kind.__name__}"
        test += f" and {v} >= {kind(rules['minimum'])}" if "minimum" in rules else ""
        test += f" and {v} <= {kind(rules['maximum'])}" if "maximum" in rules else ""
        test += f" and -{LARGE} < {v} < {LARGE}" if kind is float and "maximum" not in rules else ""
        return f"({test})", ""
    if kind is bool:
        return f"{v}.__class__ is bool", ""
    if kind is str:
        return _str_code(v, rules, names), ""
    if get_origin(kind) is Literal:
        names[f"choices_{v}"] = frozenset(get_args(kind))
        return f"({v}.__class__ is str and {v} in choices_{v})", ""
    names[f"build_{v}"] = _builder(kind, rules, plain_of)
    return "", f"{v} = build_{v}({v})"


def _str_code(v: str, rules: Mapping[str, Any], names: dict[str, Any]) -> str:
    test = f"{v}.__class__ is str"
    if "pattern" in rules:
        names[f"matches_{v}"] = re.compile(rules["pattern"]).fullmatch
        test += f" and matches_{v}({v}) is not None"
    if "min_length" in rules:
        test += f" and len({v}) >= {rules['min_length']}"
    return f"({test})"


def _builder(kind: Any, rules: Mapping[str, Any], plain_of: Callable[[Any], Hook]) -> Any:
    if kind is datetime:
        return _utc
    if get_origin(kind) is Mapping:
        return _adopt
    if get_origin(kind) is tuple:
        return _tuple_builder(kind, rules, plain_of)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {member.value: member for member in kind}.__getitem__
    return plain_of(kind)


def _tuple_builder(kind: Any, rules: Mapping[str, Any], plain_of: Callable[[Any], Hook]) -> Any:
    item, *rest = get_args(kind)
    minimum = rules.get("minimum")
    if item is float:
        length = None if rest == [...] else 1 + len(rest)
        return _builder_of(lambda value: plain_floats(value, minimum), length)
    if item is int:
        return _builder_of(lambda value: _plain_integers(value, minimum))
    if item is str:
        return _builder_of(lambda value: set(map(type, value)) <= {str})
    structure = plain_of(item)

    def records(value: Any) -> tuple[Any, ...]:
        if value.__class__ is not list:
            raise NotPlainError
        return tuple(map(structure, value))

    return records


def _builder_of(is_plain: Callable[[list[Any]], bool], length: int | None = None) -> Any:
    """What makes a tuple of a list that *is_plain*, and of that *length* where one is given."""

    def build(value: Any) -> tuple[Any, ...]:
        if value.__class__ is not list or not is_plain(value):
            raise NotPlainError
        if length is not None and len(value) != length:
            raise NotPlainError
        return tuple(value)

    return build


def _plain_integers(values: list[Any], minimum: int | None) -> bool:
    is_plain = set(map(type, values)) <= {int}
    return is_plain and (minimum is None or not values or min(values) >= minimum)


def _utc(value: Any) -> datetime:
    """A time in the very form that is written, of three colons, with microseconds or without."""
    if len(value) not in (25, 32) or value[10] != "T" or not value.endswith("+00:00"):
        raise NotPlainError
    if value.count(":") != 3:  # 14:21.112145237 is as long as 14:21:11.145237
        raise NotPlainError
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def _adopt(value: Any) -> JsonObject:
    if value.__class__ is not dict:
        raise NotPlainError
    return JsonObject.adopt(value)


def _plain_code(
    value: str, kind: Any, name: str, names: dict[str, Any], hook_of: Callable[[Any], Any]
) -> str:
    """Code that gives what JSON holds of the expression *value*."""
    if NoneType in get_args(kind):
        (inner,) = [arg for arg in get_args(kind) if arg is not NoneType]
        code = _plain_code(value, inner, name, names, hook_of)
        return code if code == value else f"None if {value} is None else {code}"
    item = get_args(kind)[0] if get_origin(kind) is tuple else kind
    if attrs.has(item):
        names[name] = hook_of(item)
        code = f"{name}({value})" if item is kind else f"[*map({name}, {value})]"
    elif kind is datetime:
        code = f"{value}.isoformat()"
    elif get_origin(kind) is Mapping:
        code = f"{value}.plain"
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        code = f"{value}._value_"
    else:
        code = value
    return code
