"""The schema of the record in pydantic v2 and in msgspec, made from the attrs classes."""

import enum
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
import msgspec
import pydantic

from llem.domain.process import Timestamps


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )


def pydantic_model(cls: type, made: dict[type, Any] | None = None) -> type[pydantic.BaseModel]:
    """The attrs class *cls* as a strict, frozen pydantic model with the same limits."""
    made = {} if made is None else made
    if cls not in made:
        fields = {}
        for field in attrs.fields(cls):
            kind = _translate(
                field.type, field.metadata, lambda c: pydantic_model(c, made), _pydantic
            )
            fields[field.name] = (kind, ... if field.default is attrs.NOTHING else _default(field))
        if cls is Timestamps:
            fields["duration_sec"] = (float, ...)
        made[cls] = pydantic.create_model(cls.__name__, __base__=_Model, **fields)
    return made[cls]


def msgspec_struct(cls: type, made: dict[type, Any] | None = None) -> type:
    """The attrs class *cls* as a strict, frozen msgspec struct with the same limits."""
    made = {} if made is None else made
    if cls not in made:
        fields: list[tuple[str, Any]] = [
            (f.name, _translate(f.type, f.metadata, lambda c: msgspec_struct(c, made), _msgspec))
            for f in attrs.fields(cls)
        ]
        if cls is Timestamps:
            fields.append(("duration_sec", float))
        made[cls] = msgspec.defstruct(
            cls.__name__, fields, frozen=True, kw_only=True, forbid_unknown_fields=True
        )
    return made[cls]


def _default(field: Any) -> Any:
    return None if attrs.has(type(field.default)) else field.default


def _translate(kind: Any, rules: Mapping[str, Any], nested: Any, limit: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if NoneType in args:
        (inner,) = [arg for arg in args if arg is not NoneType]
        return _translate(inner, rules, nested, limit) | None
    if origin is tuple:
        return tuple[tuple(a if a is ... else _translate(a, rules, nested, limit) for a in args)]
    if origin is Mapping:
        return dict[str, Any]
    if origin is Literal or kind is datetime or issubclass(kind, enum.Enum):
        return kind
    if attrs.has(kind):
        return nested(kind)
    return limit(kind, rules)


def _pydantic(kind: type, rules: Mapping[str, Any]) -> Any:
    limits = {
        name: rules[ours]
        for ours, name in (("minimum", "ge"), ("maximum", "le"), ("min_length", "min_length"))
        if ours in rules
    }
    if "pattern" in rules and "(?!" not in rules["pattern"]:
        limits["pattern"] = f"^{rules['pattern']}$"
    return Annotated[kind, pydantic.Field(**limits)] if limits else kind


def _msgspec(kind: type, rules: Mapping[str, Any]) -> Any:
    limits = {
        name: rules[ours]
        for ours, name in (("minimum", "ge"), ("maximum", "le"), ("min_length", "min_length"))
        if ours in rules
    }
    if "pattern" in rules:
        limits["pattern"] = f"^(?:{rules['pattern']})$"
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind
