"""
What a field may hold, said once: by its type, and by the helper that declares it.

Every `Record` checks its fields at construction, whoever constructs it. The codec and the JSON
Schema read the same types and the same metadata, so that a rule stands in one place.

Exact types are wanted, with the conversions that lose nothing: an int for a float, a numpy scalar
for a number, a list for a tuple, the value of an enum for the enum, another zone's time for UTC.
"""

import enum
import functools
import marshal
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import attrs

from llem.domain.freeform import JsonObject, fits_64_bits, is_unicode
from llem.errors import ConfigError, ResultValidationError

Check = Callable[[Any, str], Any]
Refuse = type[ResultValidationError] | type[ConfigError]


def quantity(default: Any = attrs.NOTHING) -> Any:
    """A number that is finite and >= 0."""
    return attrs.field(default=default, metadata={"minimum": 0})


def fraction(default: Any = attrs.NOTHING) -> Any:
    """A number from 0 to 1."""
    return up_to(1, default)


def up_to(maximum: int, default: Any = attrs.NOTHING) -> Any:
    """A number from 0 to *maximum*."""
    return between(0, maximum, default)


def between(minimum: int, maximum: int, default: Any = attrs.NOTHING) -> Any:
    """A number from *minimum* to *maximum*."""
    return attrs.field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def at_least(minimum: int, default: Any = attrs.NOTHING) -> Any:
    """A number that is finite and >= *minimum*."""
    return attrs.field(default=default, metadata={"minimum": minimum})


def text(pattern: str, wanted: str, default: Any = attrs.NOTHING) -> Any:
    """A text that matches *pattern* as a whole; *wanted* says so in words."""
    return attrs.field(default=default, metadata={"pattern": pattern, "wanted": wanted})


def some_text(default: Any = attrs.NOTHING) -> Any:
    """A text that is not empty."""
    return attrs.field(default=default, metadata={"min_length": 1})


class Record:
    """
    What every class of the schema is: checked at construction, and immutable after it.

    Raises:
        ResultValidationError: A field has a value it cannot hold; the text begins with its name.
    """

    __slots__ = ()
    _refuse: ClassVar[Refuse] = ResultValidationError

    def __attrs_post_init__(self) -> None:
        cls: Any = type(self)
        for name, check in checks(cls):
            object.__setattr__(self, name, check(getattr(self, name), name))
        self.check_whole()

    def check_whole(self) -> None:
        """Refuse fields that are fine one by one and do not go together."""


class Setting(Record):
    """
    What every class of the configuration is: a `Record` whose faults are the caller's settings.

    Raises:
        ConfigError: A setting has a value it cannot hold; the text begins with its name.
    """

    __slots__ = ()
    _refuse = ConfigError


@functools.cache
def checks(cls: Any) -> tuple[tuple[str, Check], ...]:
    """The fields of the `Record` class *cls* by name, each with its check."""
    return tuple(
        (field.name, check_for(field.type, field.metadata, cls._refuse))
        for field in attrs.fields(cls)
    )


def descriptions(cls: type) -> dict[str, str]:
    """What the docstring of *cls* says of each of its attributes, by name."""
    _, _, rest = (cls.__doc__ or "").partition("Attributes:\n")
    section = re.split(r"^ {0,4}\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words) for name, words in entries}


def check_for(kind: Any, rules: Mapping[str, Any], refuse: Refuse = ResultValidationError) -> Check:
    """
    The check of a field of type *kind* under *rules*, its metadata.

    It takes a value and the field's name, returns the value as the record holds it, and raises
    *refuse* with a message that begins with the name.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        check = _optional(kind, rules, refuse)
    elif origin is Literal:
        check = _choice(get_args(kind), refuse)
    elif origin is tuple:
        check = _sequence(kind, rules, refuse)
    elif origin is Mapping:
        check = _mapping(refuse)
    elif issubclass(kind, enum.Enum):
        check = _enum(kind, refuse)
    elif attrs.has(kind):
        check = _instance(kind, refuse)
    else:
        check = _SCALARS[kind](rules, refuse)
    return check


def plain_floats(values: list[Any] | tuple[Any, ...], minimum: float | None = None) -> bool:
    """
    Whether *values* are floats of moderate size and >= *minimum*, looked at as one batch.

    False may also mean that they need a closer look, value by value.

    In marshal's format a list or tuple of floats is 5 bytes, then for each the letter g and its 8
    bytes, sign and exponent last: a third of the time of looking at type, sign and size in turn.
    """
    try:
        packed = marshal.dumps(values, 2)
    except ValueError:
        return False
    count = len(values)
    if len(packed) != 5 + 9 * count or packed[5::9] != b"g" * count:
        return False
    signs = packed[13::9]
    if signs.translate(None, _MODERATE):
        return False
    if minimum is None or (minimum == 0 and signs.isascii()):
        return True
    return min(values, default=minimum) >= minimum


_MODERATE = bytes([*range(0x43), *range(0x80, 0xC3)])
"""Last bytes of a double below 2**49 in size: none of them may have been too large an integer."""


def shown(value: Any) -> str:
    """*value* as a message shows it, in one line of at most 80 characters."""
    try:
        line = repr(value)
    except RecursionError:
        line = f"a {type(value).__name__} that is nested too deep"
    except Exception:  # noqa: BLE001, a message must not fail for what it is about
        line = f"a {type(value).__name__} that cannot be shown"
    return line if len(line) <= 80 else line[:76] + " ..."


def _optional(kind: Any, rules: Mapping[str, Any], refuse: Refuse) -> Check:
    (inner,) = [arg for arg in get_args(kind) if arg is not NoneType]
    if get_origin(inner) is Literal:
        return _choice((*get_args(inner), None), refuse)
    check = check_for(inner, rules, refuse)
    return lambda value, name: None if value is None else check(value, name)


def _choice(choices: tuple[Any, ...], refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> Any:
        if (value is None or value.__class__ is str) and value in choices:
            return value
        listed = ", ".join(map(repr, choices))
        raise refuse(f"{name} must be one of {listed}, got {shown(value)}", field=name)

    return check


def _enum(kind: type[enum.Enum], refuse: Refuse) -> Check:
    listed = ", ".join(repr(member.value) for member in kind)

    def check(value: Any, name: str) -> enum.Enum:
        if isinstance(value, kind):
            return value
        if value.__class__ is str and value in kind._value2member_map_:
            return kind(value)
        raise refuse(f"{name} must be one of {listed}, got {shown(value)}", field=name)

    return check


def _instance(kind: type, refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> Any:
        if isinstance(value, kind):
            return value
        raise refuse(f"{name} must be a {kind.__name__}, got {shown(value)}", field=name)

    return check


def _sequence(kind: Any, rules: Mapping[str, Any], refuse: Refuse) -> Check:
    first, *rest = get_args(kind)
    length = None if rest == [...] else 1 + len(rest)
    item = check_for(first, rules, refuse)

    def check(value: Any, name: str) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
            raise refuse(f"{name} must be a list or a tuple, got {shown(value)}", field=name)
        if length is not None and len(value) != length:
            raise refuse(f"{name} must have {length} items, got {len(value)}", field=name)
        items = tuple(value)
        if first is float and plain_floats(items, rules.get("minimum")):
            return items
        return tuple(item(entry, f"{name}[{i}]") for i, entry in enumerate(items))

    return check


def _float(rules: Mapping[str, Any], refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> float:
        if value.__class__ is not float:
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise refuse(f"{name} must be a number, got {shown(value)}", field=name)
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
        if not (math.isfinite(value) and _within(value, rules)):
            raise refuse(
                f"{name} must be finite{_bounds(rules, ' and')}, got {shown(value)}", field=name
            )
        return value  # type: ignore[no-any-return]

    return check


def _int(rules: Mapping[str, Any], refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> int:
        if value.__class__ is not int:
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise refuse(f"{name} must be a whole number, got {shown(value)}", field=name)
            value = int(value)
        if not _within(value, rules):
            raise refuse(f"{name} must be{_bounds(rules)}, got {shown(value)}", field=name)
        if not fits_64_bits(value):
            raise refuse(f"{name} must fit 64 bits, got {shown(value)}", field=name)
        return value  # type: ignore[no-any-return]

    return check


def _within(value: float, rules: Mapping[str, Any]) -> bool:
    return bool(rules.get("minimum", value) <= value <= rules.get("maximum", value))


def _bounds(rules: Mapping[str, Any], joint: str = "") -> str:
    if "maximum" in rules:
        return f"{joint} from {rules['minimum']} to {rules['maximum']}"
    return f"{joint} >= {rules['minimum']}" if "minimum" in rules else ""


def _str(rules: Mapping[str, Any], refuse: Refuse) -> Check:
    pattern = re.compile(rules["pattern"]) if "pattern" in rules else None
    min_length = rules.get("min_length", 0)
    wanted = rules.get("wanted", "a text that is not empty" if min_length else "a text")

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or isinstance(value, enum.Enum):
            raise refuse(f"{name} must be {wanted}, got {shown(value)}", field=name)
        if not is_unicode(value):
            raise refuse(
                f"{name} must be valid Unicode, got a lone surrogate in {shown(value)}", field=name
            )
        if len(value) < min_length or (pattern and not pattern.fullmatch(value)):
            raise refuse(f"{name} must be {wanted}, got {shown(value)}", field=name)
        return str.__str__(value)

    return check


def _bool(_: Mapping[str, Any], refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> bool:
        if value.__class__ is not bool:
            raise refuse(f"{name} must be true or false, got {shown(value)}", field=name)
        return value

    return check


def _datetime(_: Mapping[str, Any], refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> datetime:
        if not isinstance(value, datetime):
            raise refuse(f"{name} must be a datetime, got {shown(value)}", field=name)
        if _offset_of(value) is None:
            raise refuse(
                f"{name} must be timezone-aware, got {value.isoformat()}: use "
                "datetime.now(timezone.utc), or .replace(tzinfo=timezone.utc) for a time in UTC",
                field=name,
            )
        try:
            utc = value.astimezone(UTC)
        except OverflowError:
            raise refuse(
                f"{name} must lie in the years 1 to 9999, got {value}", field=name
            ) from None
        return datetime.combine(utc.date(), utc.time().replace(fold=0), UTC)

    return check


def _offset_of(value: datetime) -> timedelta | None:
    try:
        return value.utcoffset()
    except Exception:  # noqa: BLE001, a zone that cannot tell its offset is none
        return None


def _mapping(refuse: Refuse) -> Check:
    def check(value: Any, name: str) -> JsonObject:
        if not isinstance(value, Mapping):
            raise refuse(f"{name} must be a mapping, got {shown(value)}", field=name)
        try:
            return value if isinstance(value, JsonObject) else JsonObject(value)
        except ValueError as fault:
            raise refuse(f"{name}{fault}", field=name) from None

    return check


_SCALARS: dict[type, Callable[[Mapping[str, Any], Refuse], Check]] = {
    float: _float,
    int: _int,
    str: _str,
    bool: _bool,
    datetime: _datetime,
}
