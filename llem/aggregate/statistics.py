"""Mean, percentiles and extremes of the concatenated values of all processes."""

import itertools
import math
from collections.abc import Mapping, Sequence

import attrs

from llem.aggregate.unknown import exact_sum

SORTED = 2**14
"""Up to so many values are sorted as they are. More are worth the time that numpy takes to load."""

_SHARES = (0.5, 0.95, 0.99)


@attrs.frozen(kw_only=True)
class Summary:
    """
    What many values come to.

    Attributes:
        count: How many there are.
        mean: Their sum, correctly rounded, by their number.
        median: 50th percentile, as all percentiles in the manner of `percentile`.
        p95: 95th percentile.
        p99: 99th percentile.
        least: The least.
        greatest: The greatest.
    """

    count: int
    mean: float
    median: float
    p95: float
    p99: float
    least: float
    greatest: float


def summarise(parts: Sequence[tuple[float, ...]], field: str) -> Summary | None:
    """
    What the values of all *parts* come to, bit by bit the same however they are divided.

    Args:
        parts: Values, finite and >= 0.
        field: What they are called.

    Returns:
        None where there is no value.

    Raises:
        AggregationError: Their sum is larger than a float can be.
    """
    count = sum(map(len, parts))
    if not count:
        return None
    if count <= SORTED:
        ordered = sorted(itertools.chain.from_iterable(parts))
        total, at = exact_sum(ordered, field), dict(enumerate(ordered))
    else:
        # It loads numpy.
        from llem.aggregate.selection import select

        ranks = {rank for share in _SHARES for rank in _neighbours(count, share)[:2]}
        total, at = select(parts, {0, count - 1, *ranks}, field)
    median, p95, p99 = (_interpolated(at, count, share) for share in _SHARES)
    return Summary(
        count=count,
        mean=total / count,
        median=median,
        p95=p95,
        p99=p99,
        least=at[0],
        greatest=at[count - 1],
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """
    The value below which *share* of the sorted values *ordered* lie, interpolated linearly.

    Type 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996, in the arithmetic
    of numpy, so that it gives the same bits.

    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    return _interpolated(ordered, len(ordered), share)


def _interpolated(at: Sequence[float] | Mapping[int, float], count: int, share: float) -> float:
    below, above, part = _neighbours(count, share)
    low, high = at[below], at[above]
    if part < 0.5:
        return low + (high - low) * part
    return high - (high - low) * (1 - part)


def _neighbours(count: int, share: float) -> tuple[int, int, float]:
    """The ranks on both sides of *share* of *count* values, and how far it lies between them."""
    position = share * (count - 1)
    below = math.floor(position)
    return below, min(below + 1, count - 1), position - below
