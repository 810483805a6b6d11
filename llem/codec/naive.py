"""Documents of other writers whose times have no zone."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args

import attrs

from llem.domain.energy import EnergyBreakdown
from llem.domain.result import ExperimentResult

_ALWAYS_UTC = {(EnergyBreakdown, "baseline_timestamp")}
"""Times that the writers of naive documents give with their zone all the same."""


def read_as_utc(document: dict[str, Any]) -> dict[str, Any] | None:
    """
    *document* with UTC said for every time in it.

    None where that is not the way to read it: no time is naive, or only some are.
    """
    mixed = {
        _is_naive(holder[name]) for holder, name, always_utc in _times(document) if not always_utc
    }
    if mixed != {True}:
        return None
    copy: dict[str, Any] = _copy(document)
    for holder, name, _ in _times(copy):
        if _is_naive(holder[name]):
            holder[name] += "+00:00"
    return copy


def _times(node: Any, kind: Any = ExperimentResult) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """Every time in *node*, a document of the class *kind*, as its holder and its name."""
    if isinstance(node, list):
        for item in node:
            yield from _times(item, kind)
    if not isinstance(node, dict):
        return
    for field in attrs.fields(kind):
        value = node.get(field.name)
        kinds = (field.type, *get_args(field.type))
        if datetime in kinds and _is_time(value):
            yield node, field.name, (kind, field.name) in _ALWAYS_UTC
        for inner in filter(attrs.has, kinds):
            yield from _times(value, inner)


def _is_time(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _is_naive(value: str) -> bool:
    return datetime.fromisoformat(value).utcoffset() is None


def _copy(node: Any) -> Any:
    """The containers of *node* anew, where they may hold a time."""
    if isinstance(node, dict):
        return {name: _copy(value) for name, value in node.items()}
    if isinstance(node, list) and node and isinstance(node[0], dict):
        return [_copy(item) for item in node]
    return node
