"""Every class of the record and of the configuration, and every field of them."""

import enum
import inspect
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest

from llem.domain import (
    config,
    efficiency,
    energy,
    environment,
    freeform,
    latency,
    process,
    result,
    timeseries,
)
from llem.domain.fields import Record, Setting

MODULES = [config, efficiency, energy, environment, freeform, latency, process, result, timeseries]

CLASSES = sorted(
    {
        cls
        for module in MODULES
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Record) and cls not in (Record, Setting)
    },
    key=lambda cls: cls.__name__,
)


@attrs.frozen
class Field:
    """
    One field of one class.

    Attributes:
        cls: The class.
        field: The field.
        nullable: Whether it may be None.
        kind: Its type, None aside.
        group: The kind of its type in one word.
    """

    cls: Any
    field: Any
    nullable: bool
    kind: Any
    group: str

    @property
    def name(self) -> str:
        return self.field.name


def group_of(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return "tuple"
    if origin is Mapping:
        return "mapping"
    if attrs.has(kind):
        return "record"
    if issubclass(kind, enum.Enum):
        return "enum"
    return {datetime: "time"}.get(kind, kind.__name__)


def field_of(cls: Any, field: Any) -> Field:
    args = get_args(field.type)
    nullable = NoneType in args
    kind = next(arg for arg in args if arg is not NoneType) if nullable else field.type
    return Field(cls, field, nullable, kind, group_of(kind))


FIELDS = [field_of(cls, field) for cls in CLASSES for field in attrs.fields(cls)]

FILTERS = {
    "any_field": lambda field: True,
    "float_field": lambda field: field.group == "float",
    "int_field": lambda field: field.group == "int",
    "str_field": lambda field: field.group == "str",
    "enum_field": lambda field: field.group == "enum",
    "time_field": lambda field: field.group == "time",
    "tuple_field": lambda field: field.group == "tuple",
    "floats_field": lambda field: field.group == "tuple" and get_args(field.kind)[0] is float,
    "mapping_field": lambda field: field.group == "mapping",
    "bounded_field": lambda field: (
        field.group in ("int", "float") and "minimum" in field.field.metadata
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every class, or every field of the kind that its name tells, to a test that asks."""
    if "cls" in metafunc.fixturenames:
        metafunc.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
    for name, wanted in FILTERS.items():
        if name in metafunc.fixturenames:
            chosen = [field for field in FIELDS if wanted(field)]
            ids = [f"{field.cls.__name__}.{field.name}" for field in chosen]
            metafunc.parametrize(name, chosen, ids=ids)


@pytest.fixture(scope="session")
def classes() -> list[Any]:
    return CLASSES
