"""
The converter: what stands in a document for each type of the record. This is the wire format.

=====================  ==============================================================
in the record          in the document
=====================  ==============================================================
bool, int, float, str  the JSON value of that kind; an integer also where a float is
                       wanted, and nothing else for anything
None                   null
datetime               ISO 8601 text in UTC, as ``2026-03-13T14:21:11.145237+00:00``;
                       any offset is read
enum                   the text of its value
tuple                  an array
mapping                an object, its values as they are
a class                an object with exactly the fields of the class, in their order;
                       when read, a field with a default may be missing
`Timestamps`           its fields, and ``duration_sec``, checked when read
=====================  ==============================================================

Nothing is coerced: ``"12"`` is no number, ``1.5`` no integer, ``true`` no float, an unknown key no
field. Every fault of a document is found, not only the first.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from types import NoneType
from typing import Any, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from llem.codec.compiled import (
    NotPlainError,
    compile_count_colons,
    compile_structure,
    compile_unstructure,
)
from llem.domain.fields import Record, check_for, shown
from llem.domain.process import Timestamps
from llem.domain.result import CLOCK_RESOLUTION_S
from llem.errors import ConfigError, ResultValidationError

Fault = tuple[str, str]
"""What is wrong, and the JSONPath of where."""


@functools.cache
def converter() -> cattrs.Converter:
    """The one converter of llem."""
    made = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)
    made.register_structure_hook_factory(attrs.has, _structure_factory)
    made.register_unstructure_hook_factory(attrs.has, _unstructure_factory)
    made.register_structure_hook_factory(lambda cls: cls is Timestamps, _timestamps_factory)
    made.register_unstructure_hook(Timestamps, _unstructure_timestamps)
    return made


@functools.cache
def plain_structure(cls: Any) -> Callable[[Any], Any]:
    """
    What makes a record of the class *cls* of an object that is exactly as `to_json` writes it.

    It raises any exception where the object is not, right or wrong as it may be.
    """
    if cls is Timestamps:
        return _plain_timestamps
    return compile_structure(cls, plain_structure)


@functools.cache
def colon_counter(cls: Any) -> Callable[[Any], int]:
    """What counts the colons in the document of a record of the class *cls*."""
    return compile_count_colons(cls, 1 if cls is Timestamps else 0, colon_counter)


def faults_of(error: BaseException, path: str = "$") -> Iterator[Fault]:
    """Every fault that *error* is made of, with its path."""
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for fault, note in noted:
            yield from _faults_of_field(fault, path, note.name)
        for fault in others:
            yield from faults_of(fault, path)
    elif isinstance(error, IterableValidationError):
        for fault, item in error.group_exceptions()[0]:
            yield from faults_of(fault, f"{path}[{item.index}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        for extra in sorted(error.extra_fields):
            name = extra[:80]
            yield (
                f"{name} is no field of {error.cl.__name__}{_hint(name, error.cl)}",
                f"{path}.{name}",
            )
    elif isinstance(error, ResultValidationError | ConfigError) and error.field is not None:
        yield str(error), f"{path}.{error.field}"
    else:
        yield str(error), path


def _hint(name: str, cls: Any) -> str:
    """The field that *name* may have meant."""
    close = difflib.get_close_matches(name.replace("-", "_"), attrs.fields_dict(cls), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _faults_of_field(fault: BaseException, path: str, name: str) -> Iterator[Fault]:
    if isinstance(fault, KeyError):
        yield f"{name} is missing", f"{path}.{name}"
    elif isinstance(fault, ResultValidationError | ConfigError):
        yield str(fault), f"{path}.{fault.field}"
    else:
        yield from faults_of(fault, f"{path}.{name}")


def _structure_factory(cls: type[Record], made: cattrs.Converter) -> Any:
    own = {
        field.name: override(struct_hook=_field_hook(field, cls, made))
        for field in attrs.fields(cls)  # type: ignore[arg-type]
    }
    detailed: Any = make_dict_structure_fn(cls, made, **own)  # type: ignore[arg-type]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise cls._refuse(f"must be an object, got {shown(value)}")
        return detailed(value, cls)

    return structure


def _field_hook(field: Any, cls: type[Record], made: cattrs.Converter) -> Any:
    kind = field.type
    check = check_for(kind, field.metadata, cls._refuse)
    if datetime in (kind, *get_args(kind)):
        return lambda value, _: check(_parsed_time(value, field.name), field.name)
    if get_origin(kind) is tuple and attrs.has(get_args(kind)[0]):
        hook = made.get_structure_hook(kind)
        return lambda value, _: hook(_array(value, field.name), kind)
    inner = [arg for arg in (kind, *get_args(kind)) if attrs.has(arg)]
    if inner:
        return _object_hook(field.name, inner[0], NoneType in get_args(kind), made)
    return lambda value, _: check(value, field.name)


def _object_hook(name: str, cls: Any, nullable: bool, made: cattrs.Converter) -> Any:
    hook = made.get_structure_hook(cls)

    def structure(value: Any, _: Any) -> Any:
        if value is None and nullable:
            return None
        if not isinstance(value, dict):
            raise cls._refuse(f"{name} must be an object, got {shown(value)}", field=name)
        return hook(value, cls)

    return structure


def _array(value: Any, name: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ResultValidationError(f"{name} must be an array, got {shown(value)}", field=name)
    return value


def _parsed_time(value: Any, name: str) -> Any:
    if value is None or isinstance(value, datetime):
        return value
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        time = None
    if time is None or re.search(r"[.,]\d{7}", value):
        raise ResultValidationError(
            f"{name} must be an ISO 8601 time, in microseconds at the finest, got {shown(value)}",
            field=name,
        )
    return time


def _unstructure_factory(cls: type, made: cattrs.Converter) -> Any:
    return compile_unstructure(cls, made.get_unstructure_hook)


def _timestamps_factory(cls: Any, made: cattrs.Converter) -> Any:
    """The hook of `Timestamps`: of its fields, and of ``duration_sec``, which is derived."""
    fields = _structure_factory(cls, made)

    def structure(value: Any, _: Any) -> Timestamps:
        if not isinstance(value, dict) or "duration_sec" not in value:
            window: Timestamps = fields(value, cls)
            return window
        window = fields({k: v for k, v in value.items() if k != "duration_sec"}, cls)
        _check_duration(window, value["duration_sec"])
        return window

    return structure


def _plain_timestamps(value: Any) -> Timestamps:
    start, end, duration_sec = value["start"], value["end"], value["duration_sec"]
    if value.__class__ is not dict or len(value) != 3:
        raise NotPlainError
    window: Timestamps = _window_structure()({"start": start, "end": end})
    _check_duration(window, duration_sec)
    return window


@functools.cache
def _window_structure() -> Callable[[Any], Any]:
    return compile_structure(Timestamps, plain_structure)


def _check_duration(window: Timestamps, duration_sec: Any) -> None:
    if (
        duration_sec.__class__ not in (float, int)
        or not abs(duration_sec - window.duration_sec) <= CLOCK_RESOLUTION_S
    ):
        fault = ResultValidationError(
            f"duration_sec must be end - start = {window.duration_sec}, got {shown(duration_sec)}",
            field="duration_sec",
        )
        raise ClassValidationError("", [fault], Timestamps)  # pyright: ignore[reportCallIssue]


def _unstructure_timestamps(value: Timestamps) -> dict[str, Any]:
    return {
        "start": value.start.isoformat(),
        "end": value.end.isoformat(),
        "duration_sec": value.duration_sec,
    }
