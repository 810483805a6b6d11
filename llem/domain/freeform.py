"""The one free-form part of a record: a JSON object, immutable all the way down."""

import enum
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self

MAX_DEPTH = 240
"""
How deep free-form values may nest. Below the 254 levels that orjson writes, with room for the
levels of the record around them.
"""


def fits_64_bits(value: int) -> bool:
    """Whether every JSON reader with 64-bit integers, signed or not, keeps *value* exactly."""
    return -(2**63) <= value < 2**64


def is_unicode(value: str) -> bool:
    """Whether *value* can be written as UTF-8: it holds no lone surrogate."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


class JsonObject(Mapping[str, Any]):
    """
    A mapping of what JSON can hold: None, bool, int, float, str, and lists and objects of these.

    It copies what it is given and never changes: an inner list is seen as a tuple, an inner mapping
    as another `JsonObject`. It equals any mapping of the same content, lists and tuples alike, and
    is hashable.

    >>> config = JsonObject({"decoder": {"stop": ["a", "b"]}})
    >>> config["decoder"]["stop"]
    ('a', 'b')

    Raises:
        ValueError: A value that JSON cannot hold. Its text begins with the path, as
            ``.decoder.stop[1] must be finite, got nan``.
    """

    __slots__ = ("_data",)
    _data: dict[str, Any]

    def __init__(self, values: Mapping[str, Any] | None = None, /) -> None:
        object.__setattr__(self, "_data", _copy_object(values or {}, "", 1))

    @classmethod
    def adopt(cls, data: dict[str, Any], /) -> Self:
        """
        Take over *data* without looking at it.

        For a codec: *data* came from a JSON parser, so that it holds nothing else, nests at most
        `MAX_DEPTH` deep, and nobody else has it.
        """
        adopted = cls.__new__(cls)
        object.__setattr__(adopted, "_data", data)
        return adopted

    def to_dict(self) -> dict[str, Any]:
        """A copy as plain dicts and lists."""
        return _copy_object(self._data, "", 1)

    @property
    def plain(self) -> dict[str, Any]:
        """The content itself, as plain dicts and lists. For a codec that only reads it."""
        return self._data

    def __getitem__(self, key: str) -> Any:
        return _view(self._data[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JsonObject):
            return self._data == other._data
        if isinstance(other, Mapping):
            try:
                return self._data == _copy_object(other, "", 1)
            except ValueError:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._data))

    def __repr__(self) -> str:
        return f"JsonObject({self._data!r})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a JsonObject never changes: build another with {**this, key: value}")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (JsonObject, (self._data,))


def _view(value: Any) -> Any:
    if value.__class__ is dict:
        return JsonObject.adopt(value)
    if value.__class__ is list:
        return tuple(map(_view, value))
    return value


def _copy_object(values: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError(f" must nest at most {MAX_DEPTH} deep")
    if isinstance(values, JsonObject):
        values = values.plain
    copied = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ValueError(  # noqa: TRY004, one class for all that JSON cannot hold
                f"{path} must have texts as keys, got {key!r}"
            )
        copied[_copy_text(key, path)] = _copy(value, f"{path}.{key}", depth)
    return copied


def _copy(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _copy_text(value, path)
    if isinstance(value, numbers.Integral):
        return _copy_int(int(value), path)
    if isinstance(value, numbers.Real):
        return _copy_float(float(value), path)
    if isinstance(value, Mapping):
        return _copy_object(value, path, depth + 1)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        if depth >= MAX_DEPTH:
            raise ValueError(f" must nest at most {MAX_DEPTH} deep")
        return [_copy(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise ValueError(f"{path} must be something JSON can hold, got {type(value).__name__}")


def _copy_text(value: str, path: str) -> str:
    if not is_unicode(value):
        raise ValueError(f"{path} must be valid Unicode, got a lone surrogate")
    return str.__str__(value)


def _copy_int(value: int, path: str) -> int:
    if not fits_64_bits(value):
        raise ValueError(f"{path} must fit 64 bits, got a larger integer")
    return value


def _copy_float(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{path} must be finite, got {value}")
    return value
