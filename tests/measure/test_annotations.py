"""What a time series tells of its sensors and requests, and nothing where a file holds else."""

import json
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.conditions import RequestSpan
from llem.domain.energy import Sensor
from llem.domain.timeseries import MAX_REQUESTS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY
from llem.measure import (
    Timing,
    annotate,
    request_spans,
    requests_of,
    stride,
    timings,
    to_table,
)
from llem.protocols import Device, Edge, Samples

GPU = Device(index=0, uuid="GPU-0", name="Fake", sensor=Sensor.NVML_POWER, period_s=0.02)
TABLE = to_table([GPU], Samples(times_s=[0], power_w=[1], temperature_c=[math.nan]), origin_s=0)
EDGES = (
    Edge(time_s=10.0, counters_j=(0.0, None), spread_s=0.002),
    Edge(time_s=11.0, counters_j=(0.0, None), spread_s=0.004),
)


def test_a_time_series_tells_how_its_devices_were_read() -> None:
    """By index, as seldom as was seen, and what is not known as that."""
    first = attrs.evolve(GPU, limit_w=700.0, refresh_s=0.1, window_s=0.025, counter_refresh_s=0.1)
    second = attrs.evolve(GPU, index=5, uuid="GPU-5", period_s=None)
    samples = Samples(
        times_s=[10.0, 10.3, 10.6, 11.0],
        power_w=[[1, 2]] * 4,
        temperature_c=[[40, 40]] * 4,
        counter_j=[[5.0, math.nan], [5.0, math.nan], [5.0, math.nan], [6.0, math.nan]],
        reading_age_s=[[0.25, math.nan]] * 4,
        stride=2,
    )
    devices = [first, second]

    table = annotate(to_table(devices, samples, origin_s=9.0), devices, samples, *EDGES, origin_s=9)

    assert timings(table) == {
        0: Timing(
            limit_w=700.0,
            period_s=0.04,
            refresh_s=0.25,
            window_s=0.025,
            counter_refresh_s=0.1,
            standstill_s=pytest.approx(0.6),
            spread_s=0.003,
        ),
        5: Timing(
            limit_w=None,
            period_s=None,
            refresh_s=0.0,
            window_s=None,
            counter_refresh_s=0.0,
            standstill_s=0.0,
            spread_s=0.003,
        ),
    }


spans = st.builds(
    lambda start, first, end: RequestSpan(start_s=start, first_token_s=first, end_s=end),
    st.floats(-10, 1e5),
    st.none() | st.floats(-10, 1e5),
    st.floats(-10, 1e5),
)


@given(st.lists(spans, min_size=1, max_size=20))
def test_a_time_series_tells_when_requests_ran(requests: list[RequestSpan]) -> None:
    """From the start of the run, to the microsecond."""
    samples = Samples(times_s=[0], power_w=[1], temperature_c=[math.nan])

    table = annotate(TABLE, [GPU], samples, *EDGES, origin_s=7.5, requests=requests)

    for told, span in zip(request_spans(table), requests, strict=True):
        assert told.start_s == pytest.approx(span.start_s - 7.5, abs=1e-6)
        assert told.end_s == pytest.approx(span.end_s - 7.5, abs=1e-6)
        assert (told.first_token_s is None) is (span.first_token_s is None)
        assert told.first_token_s == pytest.approx(
            None if span.first_token_s is None else span.first_token_s - 7.5, abs=1e-6
        )


def test_requests_of_several_processes_are_told_apart() -> None:
    """By the number of each. Of one alone they are its own, whatever its number."""
    both = {REQUESTS_KEY: '{"0": [[1000000, null, 2000000]], "12": [[0, 1, 2], [3, 4, 5]], "x": 1}'}
    alone = {REQUESTS_KEY: "[[1000000, null, 2000000]]"}
    first = RequestSpan(start_s=1.0, first_token_s=None, end_s=2.0)
    table = TABLE.replace_schema_metadata(both)

    assert request_spans(table) == request_spans(table, 0) == (first,)
    assert [span.start_s for span in request_spans(table, 12)] == [0, 3e-6]
    assert requests_of(table, [0, 1, 12]) == {i: request_spans(table, i) for i in (0, 1, 12)}
    assert request_spans(table, 1) == ()
    assert request_spans(TABLE.replace_schema_metadata(alone), 12) == (first,)


@pytest.mark.parametrize("count", [0, 1, MAX_REQUESTS, MAX_REQUESTS + 1])
def test_many_requests_are_not_told(count: int) -> None:
    """The footer of a file is read whenever the file is."""
    samples = Samples(times_s=[0], power_w=[1], temperature_c=[math.nan])
    requests = [RequestSpan(start_s=1.0, first_token_s=2.0, end_s=3.0)] * count

    table = annotate(TABLE, [GPU], samples, *EDGES, origin_s=0, requests=requests)

    assert len(request_spans(table)) == (count if count <= MAX_REQUESTS else 0)


def test_no_table_tells_nothing() -> None:
    """Where no power was sampled there is none."""
    assert annotate(None, [GPU], Samples(), *EDGES, origin_s=0) is None


GOOD = json.dumps(
    {
        "limit_w": None,
        "period_s": None,
        "refresh_s": 0,
        "window_s": None,
        "counter_refresh_s": 0,
        "standstill_s": 0,
        "spread_s": 0,
    }
)


@pytest.mark.parametrize(
    "told",
    [
        "",
        "5",
        "[]",
        "{",
        "[" * 100_000,
        '{"0": 5}',
        '{"0": {}}',
        f'{{"x": {GOOD}}}',
        *(
            f'{{"0": {GOOD.replace(*change)}}}'
            for change in [
                ("null", "-1", 1),
                ("null", "NaN", 1),
                ("null", "1e999", 1),
                ("null", "9" * 400, 1),
                ("null", "1e300", 1),
                ("0,", "null,", 1),
                ("0,", '"0",', 1),
            ]
        ),
    ],
)
def test_what_tells_nothing_of_sensors(told: str) -> None:
    """A file may hold anything there."""
    assert timings(TABLE.replace_schema_metadata({TIMING_KEY: f'{{"0": {GOOD}}}'})) == {
        0: Timing(**json.loads(GOOD))
    }
    assert timings(TABLE.replace_schema_metadata({TIMING_KEY: told})) == {}
    assert timings(TABLE.replace_schema_metadata(None)) == {}


@pytest.mark.parametrize(
    "told",
    [
        "",
        "5",
        "{}",
        '{"0": 5}',
        '{"0": {"0": [1, 2, 3]}}',
        '{"0": "abc"}',
        '{"0": [[1,2]], "1": [[1,2,3]]}',
        "[5]",
        "[[]]",
        "[[1,2]]",
        "[[1,2,3,4]]",
        '[["1",2,3]]',
        "[[null,1,2]]",
        "[[1,2,NaN]]",
        "[[1,2,1e999]]",
        "[" * 100_000,
        f"[[1,2,{'9' * 5000}]]",
    ],
)
def test_what_tells_nothing_of_requests(told: str) -> None:
    """A file may hold anything there."""
    assert request_spans(TABLE.replace_schema_metadata({REQUESTS_KEY: told})) == ()
    assert request_spans(TABLE.replace_schema_metadata(None)) == ()


@pytest.mark.parametrize(
    ("told", "found"),
    [("3", 3), ("1", 1), ("", 1), ("0", 1), ("-2", 1), ("2.5", 1), ("x", 1), ("9" * 5000, 1)],
)
def test_a_time_series_tells_of_how_many_ticks_one_is_kept(told: str, found: int) -> None:
    """A file may hold anything there."""
    assert stride(TABLE.replace_schema_metadata({STRIDE_KEY: told})) == found
    assert stride(TABLE.replace_schema_metadata(None)) == 1
