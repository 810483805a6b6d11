"""Statistics are numpy's, bit by bit, in bounded memory, however the values are divided."""

import contextlib
import itertools
import math
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.aggregate import percentile, selection, statistics
from llem.aggregate.selection import exact_terms, select
from llem.aggregate.statistics import Summary, summarise
from llem.errors import AggregationError

ODD = (0.0, -0.0, 5e-324, 2.2e-308, 1e-300, 0.1, 1.0, math.nextafter(1, 2), 2.0**52, 1e16, 1e290)
VALUES = st.lists(
    st.floats(0, 1e290) | st.sampled_from(ODD) | st.floats(599, 601) | st.integers(0, 3).map(float),
    min_size=1,
    max_size=60,
)


@contextlib.contextmanager
def limits(**others: int) -> Iterator[None]:
    """Limits so low that a few values go through all passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SORTED", 0)
        few = {"CHUNK": 4, "PARTITIONED": 0, "KEPT": 16, "GATHERED": 2, "GATHERED_SHARE": 8}
        # Few bins: an array of counts is made for each example.
        for name, value in (few | {"FIRST_SHIFT": 52, "STEP": 7} | others).items():
            patch.setattr(selection, name, value)
        yield


def cut(values: list[float], at: list[int]) -> list[tuple[float, ...]]:
    """*values* as parts that end at the places *at*."""
    ends = [0, *sorted(min(place, len(values)) for place in at), len(values)]
    return [tuple(values[a:b]) for a, b in itertools.pairwise(ends)]


def wanted(values: list[float]) -> Summary:
    """What numpy says of *values*, and `math.fsum` of their sum."""
    median, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return Summary(
        count=len(values),
        mean=math.fsum(values) / len(values),
        median=median,
        p95=p95,
        p99=p99,
        least=min(values),
        greatest=max(values),
    )


CUTS = st.lists(st.integers(0, 60), max_size=5)


@given(values=VALUES, at=CUTS)
def test_few_values_are_numpys(values: list[float], at: list[int]) -> None:
    """Sorted as they are."""
    assert summarise(cut(values, at), "x") == wanted(values)


@pytest.mark.parametrize("kept", [0, 16, 10**6])
@given(values=VALUES, at=CUTS)
def test_many_values_are_numpys(kept: int, values: list[float], at: list[int]) -> None:
    """Counted by their bits, pass by pass, kept or converted anew."""
    with limits(KEPT=kept):
        assert summarise(cut(values, at), "x") == wanted(values)


@pytest.mark.parametrize("kept", [0, 10**6])
@pytest.mark.parametrize("shift", [50, 52, 62])
@given(values=VALUES, at=CUTS, step=st.sampled_from([1, 5, 11]))
def test_whatever_the_limits_are(
    kept: int, shift: int, values: list[float], at: list[int], step: int
) -> None:
    """Values of all ranks, with any number of bits in a pass."""
    with limits(KEPT=kept, FIRST_SHIFT=shift, STEP=step, GATHERED=len(values) // 3):
        total, found = select(cut(values, at), range(len(values)), "x")

    assert total == math.fsum(values)
    assert found == dict(enumerate(sorted(values)))


@given(values=VALUES, at=CUTS)
def test_values_that_are_partitioned_as_a_whole(values: list[float], at: list[int]) -> None:
    """Too few for bins, too many to be sorted."""
    with limits(PARTITIONED=10**6, KEPT=10**6):
        assert summarise(cut(values, at), "x") == wanted(values)


@pytest.mark.parametrize("count", [2**14, 2**14 + 1, 2**15, 2**22 + 1])
@pytest.mark.parametrize("kind", ["latencies", "equal", "all of 64 bits"])
def test_real_limits(count: int, kind: str) -> None:
    """On both sides of each."""
    random = np.random.default_rng(count)
    made = {
        "latencies": lambda: random.gamma(9, 3, count),
        "equal": lambda: np.full(count, 31.25),
        "all of 64 bits": lambda: random.integers(0, 0x7B00 << 48, count).view(np.float64),
    }[kind]()
    parts = [tuple(part.tolist()) for part in np.array_split(made, 7)]

    assert summarise(parts, "x") == wanted(made.tolist())


def test_zeros_have_no_sign() -> None:
    """-0.0 is no float of its own among the ranks, and lies below all that is larger."""
    values = (-0.0, 1.0, -0.0, 0.0, 2.0)
    for partitioned in (0, 10):
        with limits(PARTITIONED=partitioned):
            assert summarise([values], "x") == wanted([*values])


def test_nothing_has_no_statistics() -> None:
    """None is not 0."""
    assert summarise([], "x") is None
    assert summarise([(), ()], "x") is None


@pytest.mark.parametrize("sorted_up_to", [0, 10])
def test_sums_near_the_largest_float(sorted_up_to: int) -> None:
    """Exact as long as there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SORTED", sorted_up_to)
        patch.setattr(selection, "CHUNK", 2)
        parts = [(1.0, 2.0**-80, 1e308), (7e307, 3.0)]

        found = summarise(parts, "x")
        assert found is not None
        assert found.mean == math.fsum(parts[0] + parts[1]) / 5
        with pytest.raises(AggregationError, match=r"^ttft_ms of all processes is larger"):
            summarise([(1e308, 0.0), (1e308,)], "ttft_ms")


@given(st.lists(st.floats(0, 2.0**959) | st.sampled_from(ODD), min_size=1, max_size=40))
def test_terms_have_exactly_the_sum(values: list[float]) -> None:
    """However far the values lie apart."""
    terms = exact_terms(np.array(values))

    assert math.fsum(terms) == math.fsum(values)
    assert math.fsum([*terms, *(-value for value in values)]) == 0


def test_a_few_terms_are_enough() -> None:
    """Of a whole chunk of latencies."""
    values = np.random.default_rng(1).gamma(9, 3, selection.CHUNK)

    assert len(exact_terms(values)) <= 3
    assert math.fsum(exact_terms(values)) == math.fsum(values.tolist())


@given(st.lists(st.floats(0, 1e290), min_size=1, max_size=50), st.sampled_from([0, 0.5, 0.95, 1]))
def test_percentile_has_the_bits_of_numpys(values: list[float], share: float) -> None:
    """Type 7, linear between closest ranks."""
    found = percentile(sorted(values), share)

    assert struct.pack("d", found) == struct.pack("d", np.percentile(values, 100 * share))


def peak_of(parts: list[tuple[float, ...]]) -> int:
    """Most memory that summing them up takes beside them. Unit: bytes."""
    summarise([parts[0]], "x")
    tracemalloc.start()
    summarise(parts, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("deviation", [40.0, 0.1])
def test_memory_is_that_of_the_values(deviation: float) -> None:
    """As float64, and a tenth more, also where all of them lie close together."""
    part = tuple(np.random.default_rng(1).normal(600, deviation, 100_000).tolist())

    assert peak_of([part] * 50) <= 1.1 * 8 * 5_000_000


def test_memory_stays_flat() -> None:
    """Beyond what is kept, however many there are."""
    part = tuple(np.random.default_rng(1).normal(600, 40, 100_000).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PARTITIONED", 2**20)
        patch.setattr(selection, "KEPT", 2**20)
        patch.setattr(selection, "GATHERED", 2**17)
        few, many = peak_of([part] * 12), peak_of([part] * 60)

    assert many <= 1.02 * few
    assert many <= 8 * 2**20


def test_few_values_need_no_numpy() -> None:
    """It takes longer to load than they take to sort."""
    code = (
        "import sys; from llem.aggregate import statistics as s; "
        "s.summarise([(1.0, 2.0)] * 99, 'x'); assert 'numpy' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
