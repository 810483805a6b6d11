"""The JSON Schema of a result document, made from the classes of the record."""

import enum
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import attrs

from llem.domain.fields import descriptions
from llem.domain.process import Timestamps
from llem.domain.result import ExperimentResult

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}


def json_schema() -> dict[str, Any]:
    """
    The JSON Schema (draft 2020-12) of a result document.

    It says the type and the range of every field. What ties fields together, such as token counts
    that add up, only reading checks.
    """
    definitions: dict[str, Any] = {}
    _define(ExperimentResult, definitions)
    top = definitions.pop("ExperimentResult")
    top["properties"]["integrity"] = {
        "type": "object",
        "description": "Added by a store: digests of the rest of the document and of the sidecars.",
    }
    return {"$schema": DIALECT, "title": "ExperimentResult", **top, "$defs": definitions}


def _define(cls: type, definitions: dict[str, Any]) -> None:
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = {}
    described = descriptions(cls)
    properties = {}
    required = []
    for field in attrs.fields(cls):
        schema = _schema(field.type, field.metadata, definitions)
        properties[field.name] = {"description": described.get(field.name, ""), **schema}
        if field.default is attrs.NOTHING:
            required.append(field.name)
    if cls is Timestamps:
        properties["duration_sec"] = {"description": "end - start. Unit: s.", "type": "number"}
    definitions[cls.__name__] = {
        "type": "object",
        "description": (cls.__doc__ or "").strip().splitlines()[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schema(kind: Any, rules: Mapping[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    schema: dict[str, Any]
    if NoneType in args:
        (inner,) = [arg for arg in args if arg is not NoneType]
        schema = {"anyOf": [_schema(inner, rules, definitions), {"type": "null"}]}
    elif origin is Literal:
        schema = {"enum": list(args)}
    elif origin is tuple:
        schema = _array(args, rules, definitions)
    elif origin is Mapping:
        schema = {"type": "object"}
    elif kind is datetime:
        schema = {"type": "string", "format": "date-time"}
    elif issubclass(kind, enum.Enum):
        schema = {"enum": [member.value for member in kind]}
    elif attrs.has(kind):
        _define(kind, definitions)
        schema = {"$ref": f"#/$defs/{kind.__name__}"}
    else:
        schema = {"type": _SCALARS[kind], **_limits(rules)}
    return schema


def _array(
    args: tuple[Any, ...], rules: Mapping[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _schema(args[0], rules, definitions)}
    if args[1] is not ...:
        schema |= {"minItems": len(args), "maxItems": len(args)}
    return schema


def _limits(rules: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: rules[name] for name in ("minimum", "maximum") if name in rules}
    if "pattern" in rules:
        limits["pattern"] = f"^(?:{rules['pattern']})$"
    if "min_length" in rules:
        limits["minLength"] = rules["min_length"]
    return limits
