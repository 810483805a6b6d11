"""What a meter says, held against what it promises: it may be anyone's."""

import contextlib
import math
import numbers
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from llem.errors import MeterError
from llem.protocols import Clock, Device, Edge, EnergyMeter, Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EDGE_SLACK_S = 0.1
"""Time by which an edge may lie outside of the call that reads it, as old counters do. Unit: s."""


def checked_devices(meter: EnergyMeter) -> tuple[Device, ...]:
    """
    The devices of *meter*.

    Raises:
        MeterError: Several have one index, which would mix their samples.
    """
    devices = tuple(meter.devices)
    for index, count in Counter(device.index for device in devices).items():
        if count > 1:
            raise MeterError(
                f"the meter {meter.name} has {count} devices of index {index}: give each its own"
            )
    return devices


def checked_mark(meter: EnergyMeter, devices: Sequence[Device], clock: Clock) -> Edge:
    """
    What *meter* reads at an edge, in floats.

    Args:
        meter: What reads.
        devices: Its devices.
        clock: What the time of the edge is held against, give or take `EDGE_SLACK_S`.

    Raises:
        MeterError: It gives no edge, one of another time, or not one counter for each device.
    """
    before_s = clock.monotonic()
    edge = meter.mark()
    after_s = clock.monotonic()
    with _faults_of(meter, "no edge"):
        return Edge(
            time_s=_time_s(edge.time_s, before_s, after_s),
            counters_j=_counters_j(edge.counters_j, devices),
            spread_s=_spread_s(edge.spread_s),
        )


def checked_samples(meter: EnergyMeter, devices: Sequence[Device]) -> Samples:
    """
    What *meter* has sampled, which ends sampling.

    Args:
        meter: What sampled.
        devices: Its devices.

    Returns:
        The samples, their notes as texts.

    Raises:
        MeterError: It gives no samples, their times do not rise, or they are of other devices.
    """
    samples: object = meter.stop()
    with _faults_of(meter, "no samples"):
        if not isinstance(samples, Samples):
            raise MeterError(f"gave {reprlib.repr(samples)} as samples: give llem.Samples")
        stride, notes = _stride(samples.stride), _texts(samples.notes)
        if not len(samples.times_s):
            return Samples(stride=stride, notes=notes)
        if not _rise(samples.times_s):
            raise MeterError(
                "gave times of samples that do not rise: give time.monotonic() of each"
            )
        if samples.power_w.shape[1] != len(devices):
            raise MeterError(f"has {len(devices)} devices and sampled {samples.power_w.shape[1]}")
        return attrs.evolve(samples, stride=stride, notes=notes)


@contextlib.contextmanager
def _faults_of(meter: EnergyMeter, what: str) -> Iterator[None]:
    """Whatever goes wrong in looking at what *meter* gave, as a `MeterError` that names it."""
    try:
        yield
    except MeterError as fault:
        raise MeterError(f"the meter {meter.name} {fault}") from None
    except Exception as error:
        raise MeterError(
            f"the meter {meter.name} gave {what}: {type(error).__name__}: {error}"
        ) from error


def _time_s(time_s: object, before_s: float, after_s: float) -> float:
    if before_s - EDGE_SLACK_S <= (given_s := _real(time_s)) <= after_s + EDGE_SLACK_S:
        return given_s
    raise MeterError(
        f"gave {reprlib.repr(time_s)} as the time of an edge at {after_s:.3f}: "
        "give time.monotonic()"
    )


def _counters_j(
    counters_j: Iterable[object], devices: Sequence[Device]
) -> tuple[float | None, ...]:
    given = tuple(counters_j)
    if len(given) != len(devices):
        raise MeterError(
            f"gave {len(given)} counters for {len(devices)} devices: give one for each, None where "
            "it has none"
        )
    for counter in given:
        if not isinstance(counter, numbers.Real | None):
            raise MeterError(f"gave {reprlib.repr(counter)} as a counter: give J, or None")
    return tuple(None if counter is None else _real(counter) for counter in given)


def _spread_s(spread_s: object) -> float:
    if 0 <= (given_s := _real(spread_s)) < math.inf:
        return given_s
    raise MeterError(f"gave {reprlib.repr(spread_s)} as the time that reading took: give seconds")


def _real(value: object) -> float:
    """*value* as a float. NaN: it is no number, or more than a float holds."""
    try:
        return float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        return math.nan


def _stride(stride: object) -> int:
    given = int(stride) if isinstance(stride, numbers.Integral) else 0
    if given >= 1:
        return given
    raise MeterError(f"gave {reprlib.repr(stride)} as the stride of its samples: give 1 or more")


def _rise(times_s: "npt.NDArray[np.float64]") -> bool:
    """Whether each is finite and later than the one before."""
    ends_are_finite = math.isfinite(times_s[0]) and math.isfinite(times_s[-1])
    return ends_are_finite and bool((times_s[1:] > times_s[:-1]).all())


def _texts(notes: object) -> tuple[str, ...]:
    """*notes* as texts that a record can hold: one, where they are no row of them."""
    if notes is None:
        return ()
    row: Iterable[object] = [notes]
    if isinstance(notes, Iterable) and not isinstance(notes, str | bytes):
        row = notes
    return tuple(plain_text(note) for note in row)


def plain_text(value: object) -> str:
    """*value* as a text, with a question mark for whatever is no character."""
    return str(value).encode(errors="replace").decode()
