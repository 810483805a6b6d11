"""Energy of prefill and of decode, from one pass."""

import math
import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.conditions import RequestSpan
from llem.domain.energy import Phase, PhaseEnergy, Sensor
from llem.measure import device_energies
from llem.measure.phases import MIN_RESOLUTIONS, OVERLAP_SHARE, phase_energies
from llem.measure.readings import MAX_POWER_W
from llem.protocols import Device, Edge, Samples

from .conftest import Curve

NAN = math.nan
GPU = Device(index=0, uuid="GPU-0", name="Fake", sensor=Sensor.NVML_POWER_INSTANT, period_s=0.125)

Times = tuple[float, float | None, float]
"""Start, first token and end of a request."""


def split(
    samples: Samples,
    requests: Sequence[Times],
    begin: float,
    end: float,
    *,
    devices: Sequence[Device] = (GPU,),
    counters: tuple[tuple[float | None, ...], tuple[float | None, ...]] | None = None,
) -> tuple[tuple[PhaseEnergy, ...], float]:
    """The energy of the phases, and of all devices together."""
    marks = counters or [(None,) * len(devices)] * 2
    edges = [Edge(time_s=t, counters_j=c) for t, c in zip((begin, end), marks, strict=True)]
    energies = device_energies(devices, samples, *edges)
    spans = [RequestSpan(start_s=s, first_token_s=f, end_s=e) for s, f, e in requests]
    phases = phase_energies(devices, energies, samples, spans, begin_s=begin, end_s=end)
    return phases, math.fsum(one.energy_j or 0 for one in energies)


def sampled(points: Sequence[tuple[float, Any]], **columns: Any) -> Samples:
    """Samples of one device, or of many, at (time, power) or (time, powers)."""
    power_w = [power for _, power in points]
    return Samples(
        times_s=[time for time, _ in points], power_w=power_w, temperature_c=power_w, **columns
    )


def steady(seconds: float, power: Any = 100.0) -> Samples:
    """One sample a period, from a second before to a second after."""
    return sampled([(t / 8, power) for t in range(-8, int(8 * seconds) + 9)])


@st.composite
def runs(draw: st.DrawFn) -> tuple[Samples, list[Times], float, float]:
    """Any power of two devices over a window, and any requests around it."""
    luck = random.Random(draw(st.integers(0, 2**32)))
    wild = draw(st.booleans())
    readings = [
        [luck.choice([50, 200, 400]) + luck.random() * wild for _ in range(2)] for _ in range(200)
    ]
    for row in readings[20:-20:7]:
        row[luck.randrange(2)] = luck.choice([NAN, math.inf, -1.0, 100.0])
    samples = sampled([(t / 8, row) for t, row in enumerate(readings)])
    begin, end = sorted(draw(st.tuples(*[st.floats(1, 23)] * 2)))
    times = sorted(draw(st.lists(st.floats(0, 25), min_size=3, max_size=18, unique=True)))
    requests = [tuple(times[i : i + 3]) for i in range(0, len(times) - 2, 3)]
    luck.shuffle(requests)
    return samples, requests, begin, end


PAIR = (GPU, attrs.evolve(GPU, index=1, uuid="GPU-1"))


@given(runs(), st.booleans())
def test_phases_add_up(run, counted: bool) -> None:
    """Where all three have a figure it adds up to the energy, and so do their times."""
    samples, requests, begin, end = run
    counters = ((100.0, 200.0), (1100.0, 5200.0)) if counted else None

    phases, total = split(samples, requests, begin, end, devices=PAIR, counters=counters)

    assert [phase.phase for phase in phases] == list(Phase)
    assert math.fsum(p.duration_s for p in phases) == pytest.approx(end - begin, abs=1e-9)
    if all(phase.code is None for phase in phases):
        assert math.fsum(p.energy_j for p in phases) == pytest.approx(total)
    for phase in phases:
        assert (phase.energy_j is None) == (phase.error_bound_j is None) == (phase.code is not None)


@given(runs())
def test_spans_in_any_order(run) -> None:
    """Nothing depends on which request is told of first."""
    samples, requests, *edges = run
    assert split(samples, sorted(requests), *edges, devices=PAIR) == split(
        samples, requests, *edges, devices=PAIR
    )


@pytest.mark.parametrize(
    ("second", "prefill_s", "decode_s"), [((4.7, 6, 9), 1 + 1, 3 + 3), ((4.7, 4.9, 9), 1, 3 + 4)]
)
def test_a_request_ends_where_the_next_begins(
    second: Times, prefill_s: float, decode_s: float
) -> None:
    """No time counts twice where it seems to begin a little before, or even had its first token."""
    (prefill, decode, other), _ = split(steady(10), [(1, 2, 5), second], 0, 10)

    assert (prefill.duration_s, decode.duration_s, other.duration_s) == (prefill_s, decode_s, 2)
    assert decode.energy_j == pytest.approx(100 * decode_s)


def test_empty_spans_in_any_order() -> None:
    """Of two that begin together the one that ends at once comes first."""
    requests = [(1, 2, 5), (1, 1, 1)]
    phases, _ = split(steady(10), requests, 0, 10)
    assert {phase.code for phase in phases} == {None}
    assert split(steady(10), requests[::-1], 0, 10)[0] == phases


@given(runs())
def test_spans_are_cut_at_the_edges(run) -> None:
    """What of a request lies beyond the window is none of it."""
    samples, requests, begin, end = run
    cut = [tuple(min(max(t, begin), end) for t in request) for request in requests]
    assert split(samples, cut, begin, end, devices=PAIR) == split(
        samples, requests, begin, end, devices=PAIR
    )


@st.composite
def served(draw: st.DrawFn, resolution: float) -> tuple[Curve, list[Times], float, float]:
    """Power of one level each in prefill, decode and between, and a window around all of it."""
    idle, decode, prefill = draw(st.permutations([60.0, 250.0, 600.0]))
    lengths = st.floats(1.01 * MIN_RESOLUTIONS, 20).map(lambda n: n * resolution)
    begin = draw(st.floats(3, 4))
    now, points, requests = begin, [(-10.0, idle)], []
    for _ in range(draw(st.integers(1, 6))):
        start = now + draw(st.just(0.0) | st.floats(0, 1))
        first = start + draw(lengths)
        now = first + draw(lengths)
        requests.append((start, first, now))
        points += [(start, prefill), (first, decode), (now, idle)]
    return Curve(kind="points", points=tuple(points)), requests, begin, now + draw(st.floats(0, 1))


def assert_within(curve: Curve, requests: list[Times], phases: tuple[PhaseEnergy, ...]) -> None:
    pieces = [(start, first) for start, first, _ in requests], [r[1:] for r in requests]
    for phase, parts in zip(phases, pieces, strict=False):
        truth = math.fsum(curve.energy_j(*part) for part in parts)
        assert phase.spans == len(parts)
        assert phase.duration_s == pytest.approx(math.fsum(b - a for a, b in parts))
        if phase.energy_j is None:
            assert phase.code == "phase_too_short"
        else:
            assert phase.error_bound_j < phase.energy_j
            assert abs(phase.energy_j - truth) <= phase.error_bound_j + 1e-6 * truth


def ticks(period: float, until: float, data: st.DataObject) -> list[float]:
    phase = data.draw(st.floats(0, 1))
    jitter = random.Random(data.draw(st.integers(0, 2**32)))
    count = math.ceil((until + 1) / period)
    return [(i + phase + jitter.uniform(-0.2, 0.2)) * period for i in range(count)]


@given(served(0.02), st.data())
def test_levels_are_told_apart(run, data: st.DataObject) -> None:
    """By samples that are exact, to within the bound."""
    curve, requests, begin, end = run
    device = attrs.evolve(GPU, period_s=0.02)
    points = [(t, curve.power_w(t)) for t in ticks(0.02, end, data)]

    phases, total = split(sampled(points), requests, begin, end, devices=[device])

    assert_within(curve, requests, phases)
    rest = curve.energy_j(begin, end) - sum(
        curve.energy_j(start, last) for start, _, last in requests
    )
    if phases[2].energy_j is not None:
        assert abs(phases[2].energy_j - rest) <= phases[2].error_bound_j + 1e-6 * total


@given(st.sampled_from([(0.1, None), (0.1, 0.025), (0.1, 0.3)]), st.booleans(), st.data())
def test_slow_sensors_tell_levels_apart(timing, counted: bool, data: st.DataObject) -> None:
    """A sensor that is refreshed seldom, or gives means, does so too, of long enough phases."""
    refresh, window = timing
    mean_of = window or refresh
    curve, requests, begin, end = data.draw(served(max(refresh, mean_of)))
    phase = data.draw(st.floats(0, 1))

    def made(t: float) -> float:
        return (math.floor(t / refresh - phase) + phase) * refresh

    def reading(t: float) -> float:
        return curve.energy_j(made(t) - mean_of, made(t)) / mean_of

    device = attrs.evolve(
        GPU,
        period_s=0.02,
        refresh_s=refresh,
        window_s=window,
        counter_refresh_s=refresh,
        limit_w=600.0,
    )
    counters = [(curve.energy_j(0, made(t)) if counted else None,) for t in (begin, end)]
    samples = sampled([(t, reading(t)) for t in ticks(0.02, end, data)])

    phases, _ = split(samples, requests, begin, end, devices=[device], counters=counters)

    assert_within(curve, requests, phases)


SLOW = attrs.evolve(GPU, refresh_s=0.5)
MEAN = attrs.evolve(GPU, refresh_s=0.25, window_s=1.0)


@pytest.mark.parametrize(
    ("devices", "stride", "resolution"),
    [
        ([GPU], 1, 0.125),
        ([GPU], 2, 0.25),
        ([SLOW], 1, 0.5),
        ([attrs.evolve(SLOW, window_s=0.1)], 1, 0.5),
        ([MEAN], 1, 1.0),
        ([GPU, attrs.evolve(MEAN, index=1, uuid="GPU-1")], 1, 1.0),
    ],
)
@pytest.mark.parametrize(("more", "code"), [(-0.01, "phase_too_short"), (0, None), (0.01, None)])
def test_short_phases(
    devices: list[Device], stride: int, resolution: float, more: float, code: str | None
) -> None:
    """A phase lasts two resolutions of the slowest sensor at least, or it has no figure."""
    first = 4 + MIN_RESOLUTIONS * resolution + more
    samples = attrs.evolve(steady(10, [100.0] * len(devices)), stride=stride)

    (prefill, decode, other), _ = split(samples, [(4, first, 9)], 0, 10, devices=devices)

    assert (prefill.code, decode.code, other.code) == (code, None, code)
    assert (prefill.energy_j is None) == (other.energy_j is None) == (code is not None)
    assert decode.energy_j == pytest.approx(len(devices) * 100 * (9 - first))
    assert (prefill.duration_s, other.duration_s) == (pytest.approx(first - 4), 5)


def test_short_decode() -> None:
    """It has no figure either, and prefill keeps its."""
    (prefill, decode, other), _ = split(steady(10), [(1, 8.9, 9)], 0, 10)

    assert (prefill.energy_j, prefill.code) == (pytest.approx(790), None)
    assert (decode.energy_j, decode.code) == (None, "phase_too_short")
    assert (other.energy_j, other.code) == (None, "phase_too_short")


@pytest.mark.parametrize(("length", "code"), [(0.09, "phase_too_short"), (0.11, None)])
def test_pieces_are_long_enough_on_average(length: float, code: str | None) -> None:
    """Some of many may be short."""
    requests = [(1, 1.4, 2), (3, 3 + length, 4)]
    (prefill, *_), _ = split(steady(10), requests, 0, 10)
    assert (prefill.code, prefill.spans) == (code, 2)


def test_what_did_not_happen_has_no_figure() -> None:
    """One token each, or requests that were over before: nothing of a phase was seen."""
    one_token, _ = split(steady(10), [(2, 4, 4)], 0, 10)
    long_ago, _ = split(steady(10), [(-0.75, -0.5, -0.25)], 0, 10)

    assert [phase.energy_j for phase in one_token] == [200, None, None]
    assert [phase.spans for phase in one_token] == [1, 0, 0]
    assert [phase.energy_j for phase in long_ago] == [None, None, None]
    assert {phase.code for phase in long_ago} == {"phase_too_short"}


@pytest.mark.parametrize(
    ("level", "limit", "bound"),
    [(100, None, 2), (100, 200, 2), (100, 500, 4), (300, None, 3), (300, 500, 3), (300, 700, 4)],
)
def test_a_bound_is_no_more_than_can_be_drawn(
    level: float, limit: float | None, bound: float
) -> None:
    """What lies between two requests for a moment may be all of that or nothing."""
    device = attrs.evolve(GPU, limit_w=limit)
    points = [(t / 8, level if 36 < t < 44 else 400.0 - level) for t in range(-8, 89)]
    points[7] = (points[7][0], 2 * MAX_POWER_W)
    requests = [(0, 2, 4.99), (5, 7, 10)]

    (prefill, _, rest), _ = split(sampled(points), requests, 0, 10, devices=[device])

    assert prefill.error_bound_j < prefill.energy_j
    assert rest.energy_j == pytest.approx(level * 0.01)
    assert rest.error_bound_j == pytest.approx(bound)


@pytest.mark.parametrize(
    ("requests", "overlap"),
    [
        ([(1, 2, 5), (5, 6, 9)], False),
        ([(1, 2, 5), (5 - 3.9 * OVERLAP_SHARE, 6, 9)], False),
        ([(1, 2, 5), (5 - 4.2 * OVERLAP_SHARE, 6, 9)], True),
        ([(1, 2, 5), (4.85, 5.5, 6)], True),
        ([(5, 6, 9), (1, 2, 8)], True),
        ([(1, 2, 9), (3, 4, 5), (6, 7, 8)], True),
        ([(1, 2, 5), (1, 2, 5)], True),
    ],
)
def test_requests_at_the_same_time(requests: list[Times], overlap: bool) -> None:
    """Their phases are not told apart. That the next begins a little early is no such thing."""
    phases, total = split(steady(10), requests, 0, 10)

    assert {phase.code for phase in phases} == {"phases_overlap" if overlap else None}
    if overlap:
        assert {(phase.energy_j, phase.error_bound_j) for phase in phases} == {(None, None)}
    else:
        assert math.fsum(phase.duration_s for phase in phases) == pytest.approx(10)
        assert math.fsum(phase.energy_j for phase in phases) == pytest.approx(total)


def test_requests_of_another_time_may_have_run_together() -> None:
    """Before the window or after it."""
    served = [(1, 2, 5), (1, 2, 5), (7, 8, 11), (13, 14, 17), (13, 14, 17)]

    phases, total_j = split(steady(20, 100.0), served, 6, 12)

    assert [phase.energy_j for phase in phases] == pytest.approx([100, 300, total_j - 400])


@pytest.mark.parametrize(
    "requests", [[], [(1, None, 2)], [(1, 2, 4), (5, None, 8)], [(1, None, 2), (5, 6, 8)]]
)
def test_without_first_tokens(requests: list[Times]) -> None:
    """Nobody knows where prefill ended."""
    assert split(steady(10), requests, 0, 10)[0] == ()


def test_without_devices() -> None:
    """There is no energy to share out."""
    assert (
        phase_energies(
            [],
            [],
            Samples(),
            [RequestSpan(start_s=1, first_token_s=2, end_s=3)],
            begin_s=0,
            end_s=4,
        )
        == ()
    )


@pytest.mark.parametrize("wrong", [NAN, math.inf, -math.inf, -5.0, 1.01 * MAX_POWER_W])
def test_gaps_are_bridged(wrong: float) -> None:
    """A failed reading counts as if there had been no tick."""
    points = [(t / 8, 100.0 + 10 * (t % 5)) for t in range(81)]
    failed = [(t, wrong if 20 < i < 24 else power) for i, (t, power) in enumerate(points)]
    kept = [(t, power) for t, power in failed if power == 100 + 10 * (round(8 * t) % 5)]
    requests = [(1, 2.7, 5.1), (6, 7.3, 9.9)]

    assert split(sampled(failed), requests, 0, 10) == split(sampled(kept), requests, 0, 10)


def test_power_goes_on_beyond_the_samples() -> None:
    """As it does for the energy, so that the phases add up to that."""
    points = [(t / 8, 100.0 if t < 40 else 300.0) for t in range(2, 79)]

    phases, total = split(sampled(points), [(0, 1, 2), (8, 9, 10)], 0, 10)

    assert [phase.energy_j for phase in phases[:2]] == [pytest.approx(400), pytest.approx(400)]
    assert math.fsum(phase.energy_j for phase in phases) == pytest.approx(total)


@pytest.mark.parametrize(
    ("power", "counters"),
    [
        ([100, NAN], (0, 1000)),
        ([100, NAN], (None, None)),
        ([NAN, NAN], (0, 1000)),
    ],
)
def test_power_that_was_not_sampled(power: list[float], counters) -> None:
    """The counter of one device gives its energy, and does not tell when it was drawn."""
    marks = [(counter, counter) for counter in counters]

    phases, _ = split(steady(10, power), [(1, 2, 5)], 0, 10, devices=PAIR, counters=marks)

    assert {phase.code for phase in phases} == {"power_not_sampled"}
    assert {phase.energy_j for phase in phases} == {None}
    assert [phase.duration_s for phase in phases] == [1, 3, 6]


def test_devices_are_shared_out_one_by_one() -> None:
    """Each by its own curve: one may work while the other waits."""
    points = [(t / 8, [300, 0] if t < 32 else [0, 300]) for t in range(-8, 89)]

    phases, _ = split(
        sampled(points), [(2, 4, 6)], 0, 8, devices=PAIR, counters=((0, 0), (1000, 2000))
    )

    shares = [phase.energy_j for phase in phases[:2]]
    assert shares == [pytest.approx(500, rel=0.05), pytest.approx(1000, rel=0.05)]


def test_bound_of_a_phase() -> None:
    """Its share of the total's and of the disagreement, and a resolution at each edge."""
    device = attrs.evolve(GPU, limit_w=500.0, counter_refresh_s=0.5)
    points = [(t / 8, 150.0 if t == -1 else 100.0) for t in range(-8, 97)]
    requests = [(1, 2, 3), (4, 5, 6)]

    (prefill, decode, other), _ = split(
        sampled(points), requests, 0, 10, devices=[device], counters=((0,), (1250,))
    )

    edges = 2 * 2 * 0.125 * 50
    assert prefill.energy_j == decode.energy_j == pytest.approx(250)
    assert prefill.error_bound_j == pytest.approx(0.2 * 0.5 * 500 + 0.2 * 250 + edges)
    assert other.energy_j == pytest.approx(750)
    assert other.error_bound_j == pytest.approx(prefill.error_bound_j + decode.error_bound_j)


def test_nothing_drawn() -> None:
    """Nothing was read then, and what a counter alone saw belongs to no phase."""
    none, _ = split(steady(10, 0.0), [(1, 2, 5)], 0, 10)
    little, _ = split(steady(10, 0.0), [(1, 2, 5)], 0, 10, counters=((0,), (5,)))

    assert [phase.energy_j for phase in none] == [None] * 3
    assert {phase.code for phase in none} == {"power_not_sampled"}
    assert [phase.energy_j for phase in little] == [None] * 3


def alternating(begin: float, until: float) -> tuple[Curve, list[Times]]:
    """A second of prefill at 500 W, and one of decode at 200 W, again and again."""
    starts = [begin + 2 * i for i in range(math.floor((until - begin) / 2))]
    steps = [step for s in starts for step in ((s, 500.0), (s + 1, 200.0))]
    return Curve(kind="points", points=tuple(steps)), [(s, s + 1, s + 2) for s in starts]


@pytest.mark.parametrize("blind_s", [0.0, 0.05, 0.5, 3.0, 18.0])
def test_what_nobody_saw_is_not_told_apart(blind_s: float) -> None:
    """However good the total: what a phase drew between samples far apart is in its bound."""
    curve, requests = alternating(0, 20)
    device = attrs.evolve(GPU, period_s=0.02, limit_w=700.0)
    times = [t / 50 for t in range(-5, 1006) if not 0.9 < t / 50 < 0.9 + blind_s]
    whole_j = curve.energy_j(0, 20)

    phases, total_j = split(
        sampled([(t, curve.power_w(t)) for t in times]),
        requests,
        0,
        20,
        devices=[device],
        counters=((0.0,), (whole_j,)),
    )

    assert total_j == whole_j
    assert_within(curve, requests, phases)
    assert [phase.energy_j is None for phase in phases[:2]] == 2 * [blind_s > 5]


@pytest.mark.parametrize(("begin", "end"), [(-5.0, 10.0), (10.0, 25.0)])
def test_what_lies_beyond_the_samples_was_not_seen(begin: float, end: float) -> None:
    """Between the outermost sample and the edge of a phase."""
    curve, requests = alternating(-6, 26)
    device = attrs.evolve(GPU, period_s=3.0, limit_w=700.0)
    times = [t / 10 for t in range(201)]

    phases, _ = split(
        sampled([(t, curve.power_w(t)) for t in times]),
        requests,
        begin,
        end,
        devices=[device],
        counters=((0.0,), (curve.energy_j(begin, end),)),
    )

    within = [[min(max(t, begin), end) for t in r] for r in requests if r[2] > begin and r[0] < end]
    for phase, (i, j) in zip(phases, ((0, 1), (1, 2)), strict=False):
        truth_j = math.fsum(curve.energy_j(r[i], r[j]) for r in within)
        assert phase.energy_j is None or abs(phase.energy_j - truth_j) <= phase.error_bound_j
