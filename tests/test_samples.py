"""What a meter sampled."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.errors import ResultValidationError
from llem.protocols import COLUMNS_OF_SAMPLES, Samples

TYPES = {"times_s": "f8", "counter_j": "f8", "clock_event_reasons": "u4"}
OPTIONAL = [name for name in COLUMNS_OF_SAMPLES if name not in {"power_w", "temperature_c"}]


def filled(ticks: int, devices: int, **fields: Any) -> Samples:
    """Samples with every column, each with values of its own."""
    columns = {
        name: np.arange(ticks * devices).reshape(ticks, devices) + 100 * place
        for place, name in enumerate(COLUMNS_OF_SAMPLES)
    }
    return Samples(**({"times_s": np.arange(ticks)} | columns | fields))


def test_nothing() -> None:
    """Samples of nothing are of no devices, and know nothing."""
    samples = Samples()

    assert samples.times_s.shape == (0,)
    assert samples.power_w.shape == samples.temperature_c.shape == (0, 0)
    assert [getattr(samples, name) for name in OPTIONAL] == [None] * len(OPTIONAL)
    assert (samples.stride, samples.notes) == (1, ())


def test_lists_are_taken() -> None:
    """One row a tick; of one device the readings do, without a row around each."""
    of_two = Samples(times_s=[0, 1], power_w=[[1, 2], [3, 4]], temperature_c=[[5, 6], [7, 8]])
    of_one = Samples(
        times_s=(0, 1), power_w=range(2), temperature_c=[5, math.nan], clock_event_reasons=[0, 4]
    )

    assert of_two.power_w[:, 1].tolist() == [2, 4]
    assert of_one.power_w.tolist() == [[0], [1]]
    assert of_one.clock_event_reasons.tolist() == [[0], [4]]


@pytest.mark.parametrize("name", ["times_s", *COLUMNS_OF_SAMPLES])
def test_columns_have_types(name: str) -> None:
    """Readings are as wide as a sidecar keeps them, times and counters wider."""
    assert getattr(filled(3, 2), name).dtype == TYPES.get(name, "f4")


@pytest.mark.parametrize("name", ["times_s", *COLUMNS_OF_SAMPLES])
def test_columns_are_read_only(name: str) -> None:
    """They cannot be written to, and whoever gave an array can write to that still."""
    given = np.zeros(3 if name == "times_s" else (3, 2), TYPES.get(name, "f4"))
    column = getattr(filled(3, 2, **{name: given}), name)

    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1
    given[0] = 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *itertools.product(COLUMNS_OF_SAMPLES, [(), (2, 2), (4, 2), (3, 2, 1), (6,)]),
        *itertools.product(COLUMNS_OF_SAMPLES[1:], [(3,), (3, 1), (3, 3)]),
    ],
)
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """Each column has one row a tick and one value a device; the error names the one without."""
    with pytest.raises(ResultValidationError, match=r"of shape \(ticks, devices\) = ") as caught:
        filled(3, 2, **{name: np.zeros(shape)})
    assert caught.value.field == name
    assert str(caught.value).startswith(f"{name} ")


@pytest.mark.parametrize("shape", [(), (3, 1), (3, 2), (1, 3)])
def test_times_are_shared(shape: tuple[int, ...]) -> None:
    """A tick has one time, for all devices."""
    with pytest.raises(ResultValidationError, match=r"of shape \(ticks,\)") as caught:
        filled(3, 2, times_s=np.zeros(shape))
    assert caught.value.field == "times_s"


def test_power_tells_how_many_devices_there_are() -> None:
    """Where it differs from the others, these do not fit."""
    with pytest.raises(ResultValidationError) as caught:
        filled(3, 2, power_w=np.zeros((3, 4)))
    assert caught.value.field == "temperature_c"


@given(st.integers(0, 5), st.integers(0, 3), st.data())
def test_between(ticks: int, devices: int, data: st.DataObject) -> None:
    """The ticks of a stretch, in all columns alike, and all else as it is."""
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, ticks + 2)] * 2)))
    unknown = data.draw(st.sets(st.sampled_from(OPTIONAL)))
    fields = dict.fromkeys(unknown) | {"stride": 4, "notes": ("a note",)}
    samples = filled(ticks, devices, **fields)

    part = samples.between(first, last)

    for name in ("times_s", *COLUMNS_OF_SAMPLES):
        column, whole = getattr(part, name), getattr(samples, name)
        if name in unknown:
            assert column is None
        else:
            np.testing.assert_array_equal(column, whole[first:last], strict=True)
            assert not column.flags.writeable
    assert (part.stride, part.notes) == (4, ("a note",))
