"""What concurrent time comes to, and whether processes ran together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import aggregate, device, process


@pytest.mark.parametrize(
    ("windows", "seconds"),
    [
        ([(0, 60), (0, 60)], 60),
        ([(0, 60), (10, 50)], 60),
        ([(10, 50), (0, 60)], 60),
        ([(0, 60), (30, 90)], 90),
        ([(0, 10), (20, 30)], 20),
        ([(20, 30), (0, 10)], 20),
        ([(0, 10), (10, 20)], 20),
        ([(0, 60), (10, 20), (30, 70)], 70),
        ([(0, 10), (5, 5)], 10),
        ([(0, 0), (5, 5)], 0),
    ],
)
def test_concurrent_time_counts_once(windows, seconds: float) -> None:
    """The length of the union of all windows."""
    result = aggregate(*(process(i, window=window) for i, window in enumerate(windows)))

    assert result.total_inference_time_sec == pytest.approx(seconds)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=2, max_size=5))
def test_time_is_the_seconds_that_any_process_ran(spans) -> None:
    """Counted one by one."""
    run = [process(i, window=(begin, begin + long)) for i, (begin, long) in enumerate(spans)]
    seconds = {second for begin, long in spans for second in range(begin, begin + long)}

    assert aggregate(*run).total_inference_time_sec == pytest.approx(len(seconds))


@pytest.mark.parametrize(
    ("windows", "overlap"),
    [
        ([(0, 60), (0, 60)], True),
        ([(0, 60), (50, 70)], True),
        ([(0, 60), (50.1, 70)], False),
        ([(0, 60), (30, 90)], True),
        ([(0, 60), (30.1, 90)], False),
        ([(0, 60), (60, 120)], False),
        ([(0, 60), (100, 120)], False),
        ([(0, 60), (0, 60), (45, 105)], False),
    ],
)
def test_overlap_is_half_of_the_shortest(windows, overlap: bool) -> None:
    """Processes that did not run together were not one run; the result says so."""
    metadata = aggregate(
        *(process(i, window=window) for i, window in enumerate(windows))
    ).aggregation

    assert metadata.temporal_overlap_verified is overlap
    assert ("did not run at the same time" in " ".join(metadata.warnings)) is not overlap
    assert metadata.method == "late_aggregation"
    assert metadata.num_processes == len(windows)


@pytest.mark.parametrize(
    ("uuids", "attributed"),
    [(["a", "b"], True), (["a", "a"], False), (["a", ""], None), (["", ""], None)],
)
def test_attribution(uuids, attributed) -> None:
    """Each device to one process. Without evidence that is not known."""
    run = [process(i, devices=(device(x),) if x else ()) for i, x in enumerate(uuids)]

    metadata = aggregate(*run).aggregation

    assert metadata.gpu_attribution_verified is attributed
    assert ("shared the device" in " ".join(metadata.warnings)) is (attributed is False)
