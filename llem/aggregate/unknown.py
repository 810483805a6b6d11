"""Sums, ratios and means in which what is not known makes the whole unknown: None is not 0."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from llem.errors import AggregationError

T = TypeVar("T", int, float)


def total(values: Iterable[T | None], field: str) -> T | None:
    """
    Their sum, correctly rounded whatever their order. None where one is not known, or none is.

    Args:
        values: What is summed.
        field: The field that it is for.

    Raises:
        AggregationError: It is larger than a float can be.
    """
    known: list[Any] = list(values)
    if not known or None in known:
        return None
    whole = not any(isinstance(value, float) for value in known)
    summed: Any = sum(known) if whole else exact_sum(known, field)
    return summed  # type: ignore[no-any-return]


def exact_sum(values: Iterable[float], field: str) -> float:
    """
    The sum of *values*, correctly rounded.

    Raises:
        AggregationError: It is larger than a float can be; *field* is named.
    """
    try:
        return math.fsum(values)
    except OverflowError:
        raise _too_large(field) from None


def product(value: float | None, times: float | None, field: str) -> float | None:
    """
    One times the other. None where one is not known.

    Raises:
        AggregationError: It is larger than a float can be; *field* is named.
    """
    if value is None or times is None:
        return None
    if not math.isfinite(value * times):
        raise _too_large(field)
    return value * times


def ratio(value: float | None, per: float | None) -> float | None:
    """One per the other. None where one is not known, *per* is 0, or no float can hold it."""
    if value is None or not per:
        return None
    quotient = value / per
    return quotient if math.isfinite(quotient) else None


def weighted_mean(pairs: Iterable[tuple[float | None, float | None]], field: str) -> float | None:
    """
    Mean of each (value, weight), those of weight 0 left out.

    None where a value or a weight is not known, or nothing weighs anything.

    >>> weighted_mean([(1.0, 3), (5.0, 1), (None, 0)], "batch_utilisation")
    2.0
    """
    weighing = [pair for pair in pairs if pair[1] != 0]
    return ratio(
        total((product(value, weight, field) for value, weight in weighing), field),
        total((weight for _, weight in weighing), field),
    )


def highest(values: Iterable[float | None]) -> float | None:
    """The highest that is known. None where none is."""
    return max((value for value in values if value is not None), default=None)


def _too_large(field: str) -> AggregationError:
    return AggregationError(f"{field} of all processes is larger than a number of 64 bits can be")
