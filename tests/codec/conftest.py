"""Documents, and the places in them."""

import copy
import json
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args, get_origin

import attrs
import pytest

from llem.codec import to_json
from llem.domain.process import Timestamps
from llem.domain.result import ExperimentResult
from llem.testing import filled

Path = tuple[str | int, ...]


@attrs.frozen
class Place:
    """
    A place in the document of a filled result.

    Attributes:
        path: The keys and indices that lead to it.
        kind: The type of what stands there.
        required: Whether it may not be missing.
        rules: The metadata of its field.
    """

    path: Path
    kind: Any
    required: bool = False
    rules: Any = attrs.Factory(dict)

    @property
    def json_path(self) -> str:
        """As messages write it."""
        return "$" + "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in self.path)

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The alternatives of its type."""
        if get_origin(self.kind) is tuple or NoneType not in get_args(self.kind):
            return (self.kind,)
        return get_args(self.kind)

    @property
    def record(self) -> Any:
        """The class of the record that stands there, or None."""
        return next((kind for kind in self.kinds if attrs.has(kind)), None)

    def holder(self, document: Any) -> Any:
        """What of *document* holds it."""
        for key in self.path[:-1]:
            document = document[key]
        return document

    def replaced(self, document: Any, value: Any) -> Any:
        """A copy of *document* with *value* there."""
        changed = copy.deepcopy(document)
        self.holder(changed)[self.path[-1]] = value
        return changed

    def removed(self, document: Any) -> Any:
        """A copy of *document* without it."""
        changed = copy.deepcopy(document)
        del self.holder(changed)[self.path[-1]]
        return changed


def places_in(cls: Any, path: Path = ()) -> Iterator[Place]:
    """Every field of *cls* and of the classes below it, and the first item of every array."""
    for field in attrs.fields(cls):
        here = Place(
            (*path, field.name), field.type, field.default is attrs.NOTHING, field.metadata
        )
        yield here
        for kind in here.kinds:
            if get_origin(kind) is tuple:
                yield Place((*here.path, 0), get_args(kind)[0], rules=field.metadata)
        if here.record:
            yield from places_in(here.record, here.path)
        for kind in here.kinds:
            if get_origin(kind) is tuple and attrs.has(get_args(kind)[0]):
                yield from places_in(get_args(kind)[0], (*here.path, 0))
    if cls is Timestamps:
        yield Place((*path, "duration_sec"), float)


PLACES = list(places_in(ExperimentResult))
FILTERS = {
    "place": lambda place: True,
    "ruled": lambda place: place.rules and tuple not in map(get_origin, place.kinds),
    "required": lambda place: place.required,
    "optional": lambda place: not place.required and isinstance(place.path[-1], str),
    "record": lambda place: place.record is not None,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every place, or those that its name tells, to a test that asks for one."""
    for name, wanted in FILTERS.items():
        if name in metafunc.fixturenames:
            chosen = [place for place in PLACES if wanted(place)]
            metafunc.parametrize(name, chosen, ids=[place.json_path for place in chosen])


@pytest.fixture(scope="session")
def places() -> list[Place]:
    return PLACES


@pytest.fixture(scope="session")
def whole() -> ExperimentResult:
    """A result with every field set."""
    return filled(ExperimentResult)


@pytest.fixture(scope="session")
def document(whole: ExperimentResult) -> dict[str, Any]:
    """Its document. To be read, not to be changed."""
    return json.loads(to_json(whole))
