"""
Values of given ranks among many, and their exact sum, in bounded memory: radix selection.

The bits of floats >= 0, read as integers, are in the order of the floats. So a first pass counts
values by their leading bits, which tells the bins that hold the wanted ranks; a bin with too many
values is divided further, by more bits; what is left of it is gathered and partitioned. Every pass
goes chunk by chunk, and the result is exact.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from struct import Struct

import attrs
import numpy as np
import numpy.typing as npt

from llem.aggregate.unknown import exact_sum

CHUNK = 2**15
"""Values looked at in one go: they stay in the cache."""
PARTITIONED = 2**22
"""Up to so many values are partitioned as a whole: bins would take more memory than they."""
KEPT = 2**24
"""Up to so many values are kept as float64; more are converted anew by each pass."""
GATHERED = 2**20
"""Most values of a bin that are gathered from more than are kept."""
GATHERED_SHARE = 64
"""Of those that are kept, one in so many is gathered at most from a bin."""
FIRST_SHIFT = 44
"""The first pass counts by the bits above these: sign, exponent, and 8 bits of the fraction."""
STEP = 16
"""Bits by which a bin is divided further."""
HUGE = 2.0**960
"""From here on the terms of an exact sum may exceed a float on their way."""

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int64]


def select(
    parts: Sequence[tuple[float, ...]], ranks: Collection[int], field: str
) -> tuple[float, dict[int, float]]:
    """
    The sum of all values, correctly rounded, and the value of each of *ranks*.

    Args:
        parts: Values, finite and >= 0; together at least one.
        ranks: Places among the sorted values, from 0.
        field: What they are called.

    Raises:
        AggregationError: Their sum is larger than a float can be.
    """
    values = Values(parts)
    survey = Survey(values.count)
    for chunk in values.chunks():
        survey.add(chunk)
    total = exact_sum(survey.terms if survey.is_moderate else _each(parts), field)
    at = {0: survey.least, values.count - 1: survey.greatest}
    between = sorted({*ranks} - at.keys())
    if survey.counts is None:
        at |= values.partitioned(between)
    else:
        bins = list(_bins(survey.counts, 0, FIRST_SHIFT, 0, between))
        survey.counts = None
        at |= _found(values, bins)
    return total, at


class Values:
    """
    The values of many tuples as float64, chunk by chunk, as often as they are asked for.

    Attributes:
        count: How many there are.
    """

    def __init__(self, parts: Sequence[tuple[float, ...]]) -> None:
        self.count = sum(map(len, parts))
        self._parts = parts
        self._kept: Floats | None = None

    def chunks(self) -> Iterator[Floats]:
        """Each is valid until the next one is asked for."""
        if self._kept is not None:
            for start in range(0, self.count, CHUNK):
                yield self._kept[start : start + CHUNK]
            return
        keeping = self.count <= KEPT
        buffer = np.empty(self.count if keeping else CHUNK)
        start = 0
        for pieces in _pieces(self._parts, CHUNK):
            end = start + sum(map(len, pieces))
            _pack(pieces, buffer[start:end])
            yield buffer[start:end]
            start = end if keeping else 0
        self._kept = buffer if keeping else None

    def partitioned(self, ranks: Sequence[int]) -> dict[int, float]:
        """The value of each of *ranks*, once all chunks were asked for. Changes their order."""
        assert self._kept is not None  # noqa: S101, few enough are kept
        if ranks:
            self._kept.partition(ranks)
        return {rank: float(self._kept[rank]) for rank in ranks}


class Survey:
    """
    What one pass over all values tells.

    Attributes:
        least: The least value.
        greatest: The greatest value.
        is_moderate: Whether *terms* were taken of all values.
        terms: What has exactly the sum of all values.
        counts: How many values have which leading bits. None: they are not counted.
    """

    def __init__(self, count: int) -> None:
        self.least, self.greatest = math.inf, 0.0
        self.is_moderate = True
        self.terms: list[float] = []
        self.counts: npt.NDArray[np.integer] | None = None
        if count > PARTITIONED:
            kind = np.int32 if count <= KEPT else np.int64
            self.counts = np.zeros(1 << (63 - FIRST_SHIFT), kind)

    def add(self, chunk: Floats) -> None:
        """Look at the values of *chunk*."""
        least, greatest = float(chunk.min()), float(chunk.max())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        self.is_moderate &= greatest < HUGE
        if self.is_moderate:
            self.terms += exact_terms(chunk)
        if self.counts is not None:
            first = int(chunk.min().view(np.int64)) >> FIRST_SHIFT
            leading = chunk.view(np.int64) >> FIRST_SHIFT
            leading -= first
            _add(self.counts, np.bincount(leading), first)


def exact_terms(values: Floats) -> list[float]:
    """
    A few terms that have exactly the sum of *values*, all of them below `HUGE` in size.

    Adding and taking off a large power of two rounds each value to a multiple of that power's last
    bit. Sums of such multiples are exact, and what was rounded off goes into the next round.
    Rump, Ogita and Oishi, "Accurate Floating-Point Summation Part I", 2008.

    >>> exact_terms(np.array([1.0, 2.0**-80]))
    [1.0, 8.271806125530277e-25]
    """
    rest, terms = values.copy(), list[float]()
    room = len(rest).bit_length() + 1
    while (top := max(float(rest.max()), -float(rest.min()))) > 0:
        power = math.ldexp(1.0, math.frexp(top)[1] + room)
        rounded = rest + power
        rounded -= power
        terms.append(float(rounded.sum()))
        rest -= rounded
    return terms


@attrs.frozen
class _Bin:
    """
    The values whose bits are *low* or more, and less than ``low + 2**shift``.

    Attributes:
        low: Bits of the least value that it may hold.
        shift: Bits that its values differ in.
        below: Values that are less.
        count: Values that it holds.
        ranks: Wanted ranks that it holds, among all values.
    """

    low: int
    shift: int
    below: int
    count: int
    ranks: list[int]


def _bins(
    counts: npt.NDArray[np.integer], low: int, shift: int, below: int, ranks: Sequence[int]
) -> Iterator[_Bin]:
    """
    The bins that hold *ranks*.

    Args:
        counts: Values in each bin; changed.
        low: Bits of the least value of the first bin.
        shift: Bits that the values of a bin differ in.
        below: Values that are less than *low*.
        ranks: Wanted ranks, sorted.
    """
    up_to = np.cumsum(counts, out=counts)
    # Of another type they would have it converted as a whole.
    within_bins = np.array([rank - below for rank in ranks], up_to.dtype)
    places = np.searchsorted(up_to, within_bins, side="right").tolist()
    for place, within in itertools.groupby(zip(places, ranks, strict=True), lambda pair: pair[0]):
        before = int(up_to[place - 1]) if place else 0
        yield _Bin(
            low=low + (place << shift),
            shift=shift,
            below=below + before,
            count=int(up_to[place]) - before,
            ranks=[rank for _, rank in within],
        )


def _found(values: Values, bins: Sequence[_Bin]) -> dict[int, float]:
    """The value of each rank that *bins* hold."""
    most = GATHERED if values.count > KEPT else values.count // GATHERED_SHARE
    at: dict[int, float] = {}
    while bins:
        looks = [_Gathered(one) if one.count <= most else _Divided(one) for one in bins]
        for chunk in values.chunks():
            bits = chunk.view(np.int64)
            for look in looks:
                look.add(bits)
        bins = []
        for look in looks:
            if isinstance(look, _Divided):
                bins += look.bins()
            else:
                at |= look.values()
        at |= {rank: _float(one.low) for one in bins if not one.shift for rank in one.ranks}
        bins = [one for one in bins if one.shift]
    return at


class _Gathered:
    """The values of one bin, gathered."""

    def __init__(self, one: _Bin) -> None:
        self._bin = one
        self._bits = np.empty(one.count, np.int64)
        self._filled = 0

    def add(self, bits: Bits) -> None:
        picked = _inside(bits, self._bin)
        self._bits[self._filled : self._filled + len(picked)] = picked
        self._filled += len(picked)

    def values(self) -> dict[int, float]:
        """The value of each wanted rank."""
        places = [rank - self._bin.below for rank in self._bin.ranks]
        self._bits.partition(places)
        found = (_float(self._bits[place]) for place in places)
        return dict(zip(self._bin.ranks, found, strict=True))


class _Divided:
    """One bin, divided into smaller ones."""

    def __init__(self, one: _Bin) -> None:
        self._bin = one
        self._shift = max(one.shift - STEP, 0)
        self._counts = np.zeros(1 << (one.shift - self._shift), np.int64)

    def add(self, bits: Bits) -> None:
        picked = _inside(bits, self._bin)
        picked -= self._bin.low
        picked >>= self._shift
        _add(self._counts, np.bincount(picked), 0)

    def bins(self) -> Iterator[_Bin]:
        """The smaller ones that hold wanted ranks."""
        one = self._bin
        return _bins(self._counts, one.low, self._shift, one.below, one.ranks)


def _inside(bits: Bits, one: _Bin) -> Bits:
    mask = bits >= one.low
    mask &= bits < one.low + (1 << one.shift)
    picked: Bits = bits[mask]
    return picked


def _add(counts: npt.NDArray[np.integer], more: Bits, first: int) -> None:
    counts[first : first + len(more)] += more


def _float(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))


def _each(parts: Sequence[tuple[float, ...]]) -> Iterator[float]:
    return itertools.chain.from_iterable(parts)


def _pieces(parts: Sequence[tuple[float, ...]], size: int) -> Iterator[list[tuple[float, ...]]]:
    """*parts* in their order, cut and put together to *size* values each, the last one to fewer."""
    pieces, room = list[tuple[float, ...]](), size
    for part in parts:
        start = 0
        while start < len(part):
            piece = part[start : start + room]
            pieces.append(piece)
            start, room = start + len(piece), room - len(piece)
            if not room:
                yield pieces
                pieces, room = [], size
    if pieces:
        yield pieces


def _pack(pieces: Sequence[tuple[float, ...]], into: Floats) -> None:
    """A quarter of the time that numpy takes for a tuple. -0.0 becomes 0.0."""
    offset = 0
    for piece in pieces:
        Struct(f"{len(piece)}d").pack_into(into.data, offset, *piece)
        offset += into.itemsize * len(piece)
    into += 0.0
