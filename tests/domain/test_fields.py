"""What a field may hold: exact types, and conversions that lose nothing."""

import enum
from array import array
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

from llem.domain.energy import DeviceEnergy, EnergyBreakdown, Sensor
from llem.domain.fields import Setting
from llem.domain.freeform import JsonObject
from llem.domain.latency import WarmupResult
from llem.errors import ConfigError, ResultValidationError
from llem.testing import filled

WRONG = {
    "None": None,
    "bool": True,
    "int": 1,
    "float": 1.5,
    "str": "12",
    "bytes": b"12",
    "list": [],
    "dict": {},
    "set": {1},
    "object": object(),
    "Decimal": Decimal(1),
    "complex": 1j,
    "date": date(2026, 1, 1),
    "class": float,
}
FITTING = {
    "bool": {"bool"},
    "int": {"int"},
    "float": {"int", "float"},
    "str": {"str"},
    "choice": set(),
    "enum": set(),
    "time": set(),
    "tuple": {"list"},
    "mapping": {"dict"},
    "record": set(),
}


def refusal(field, value, at=None):
    """What is said of *value* in *field*: it begins with its name, and the error has it too."""
    error = ConfigError if issubclass(field.cls, Setting) else ResultValidationError
    with pytest.raises(error) as caught:
        filled(field.cls, **{field.name: value})
    assert str(caught.value).startswith(f"{at or field.name} must ")
    assert caught.value.field == (at or field.name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_types_are_refused_by_name(any_field):
    """Every field of every class refuses what it cannot hold, and the message begins with it."""
    fitting = FITTING[any_field.group] | ({"None"} if any_field.nullable else set())
    if any_field.group == "tuple" and get_args(any_field.kind)[-1] is not ...:
        fitting = fitting - {"list"}

    for name in WRONG.keys() - fitting:
        assert "got" in refusal(any_field, WRONG[name])


def test_none_is_taken_where_it_may_be(any_field):
    if any_field.nullable:
        assert getattr(filled(any_field.cls, **{any_field.name: None}), any_field.name) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_floats_are_finite(float_field, value):
    assert "finite" in refusal(float_field, value)


def test_integers_too_large_for_a_float_are_refused(float_field):
    refusal(float_field, 10**400)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1", None, True, []])
def test_items_are_checked_and_named(floats_field, value):
    """The one that is wrong is told by its index."""
    values = [1.0, value]

    refusal(floats_field, values, at=f"{floats_field.name}[1]")
    refusal(floats_field, tuple(values), at=f"{floats_field.name}[1]")


def test_items_below_their_minimum_are_named(floats_field):
    if "minimum" in floats_field.field.metadata:
        refusal(floats_field, (0.0, -0.5), at=f"{floats_field.name}[1]")


def test_bounds(bounded_field):
    """The least value is taken, and anything below it is not; likewise the greatest."""
    rules = bounded_field.field.metadata
    step = 1 if bounded_field.group == "int" else 1e-9

    assert f">= {rules['minimum']}" in refusal(bounded_field, rules["minimum"] - step) or (
        "maximum" in rules
    )
    if "maximum" in rules:
        assert f"to {rules['maximum']}" in refusal(bounded_field, rules["maximum"] + step)


def test_negative_zero_is_zero_enough():
    assert EnergyBreakdown(raw_j=-0.0).raw_j == 0.0


def test_signed_fields_take_either_sign():
    """An adjusted energy may be negative."""
    assert EnergyBreakdown(adjusted_j=-1.5).adjusted_j == -1.5


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_integers_fit_64_bits(int_field, value):
    message = refusal(int_field, value)

    assert "64 bits" in message or ">=" in message or " from " in message


def test_an_integer_where_a_float_belongs_becomes_one(float_field):
    if float_field.field.metadata.get("maximum") != 1:
        record = filled(float_field.cls, **{float_field.name: 1})

        assert type(getattr(record, float_field.name)) is float
        assert getattr(record, float_field.name) == 1.0


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.float32(0.5), np.float16(0.5), Fraction(1, 2)]
)
def test_other_numbers_become_plain_floats(float_field, value):
    record = filled(float_field.cls, **{float_field.name: value})

    assert type(getattr(record, float_field.name)) is float
    assert getattr(record, float_field.name) == 0.5


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_other_integers_become_plain_ones(int_field, kind):
    value = getattr(filled(int_field.cls), int_field.name)

    record = filled(int_field.cls, **{int_field.name: kind(value)})

    assert type(getattr(record, int_field.name)) is int
    assert getattr(record, int_field.name) == value


@pytest.mark.parametrize("value", [np.float64(2), 2.0, np.bool_(True), Fraction(2)])
def test_no_float_is_an_integer(int_field, value):
    refusal(int_field, value)


def test_subclasses_of_str_become_plain_ones(str_field):
    class Text(str):
        __slots__ = ()

    value = Text(getattr(filled(str_field.cls), str_field.name))
    record = filled(str_field.cls, **{str_field.name: value})

    assert type(getattr(record, str_field.name)) is str
    assert getattr(record, str_field.name) == value


def test_lone_surrogates_are_refused(str_field):
    refusal(str_field, "a\ud800")


def test_an_enum_whose_members_are_texts_is_no_text(str_field):
    class Text(enum.StrEnum):
        A = "0123456789abcdef"

    refusal(str_field, Text.A)


def test_lists_become_tuples(tuple_field):
    value = getattr(filled(tuple_field.cls), tuple_field.name)
    assert value

    record = filled(tuple_field.cls, **{tuple_field.name: list(value)})

    assert getattr(record, tuple_field.name) == value
    assert type(getattr(record, tuple_field.name)) is tuple


def test_a_text_is_no_tuple_of_texts(tuple_field):
    for value in ("ab", b"ab", bytearray(b"ab"), {"a"}, iter(())):
        refusal(tuple_field, value)


def test_arrays_of_floats_are_taken():
    assert WarmupResult(**WARMUP, latencies_ms=array("d", [1.0, 2.0])).latencies_ms == (1.0, 2.0)


def test_numbers_of_numpy_in_a_tuple_become_plain_floats():
    latencies = WarmupResult(**WARMUP, latencies_ms=list(np.array([1, 2.5]))).latencies_ms

    assert latencies == (1.0, 2.5)
    assert {type(value) for value in latencies} == {float}


WARMUP = {"converged": True, "iterations_completed": 1, "target_cv": 0.1, "max_prompts": 1}


def test_the_value_of_an_enum_is_taken_for_it(enum_field):
    for member in enum_field.kind:
        record = filled(enum_field.cls, **{enum_field.name: member.value})

        assert getattr(record, enum_field.name) is member


def test_a_choice_is_told(enum_field):
    message = refusal(enum_field, "guess")

    assert all(repr(member.value) in message for member in enum_field.kind)


def test_a_naive_time_is_refused_with_how_to_mend_it(time_field):
    message = refusal(time_field, datetime(2026, 1, 1))  # noqa: DTZ001

    assert "timezone-aware" in message
    assert "datetime.now(timezone.utc)" in message
    assert ".replace(tzinfo=timezone.utc)" in message


@pytest.mark.parametrize("hours", [-12, -3.5, 0, 5.75, 14])
def test_a_time_of_any_zone_becomes_utc(time_field, hours):
    """The same moment, said in UTC."""
    before = getattr(filled(time_field.cls), time_field.name)
    value = before.astimezone(timezone(timedelta(hours=hours))).replace(fold=1)

    time = getattr(filled(time_field.cls, **{time_field.name: value}), time_field.name)

    assert time == before
    assert time.tzinfo is UTC
    assert repr(time) == repr(before)


def test_a_subclass_of_datetime_becomes_a_plain_one(time_field):
    class Moment(datetime):
        pass

    before = getattr(filled(time_field.cls), time_field.name)
    value = Moment.fromtimestamp(before.timestamp(), UTC)

    time = getattr(filled(time_field.cls, **{time_field.name: value}), time_field.name)

    assert type(time) is datetime


def test_a_time_beyond_the_calendar_is_refused():
    edge = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))

    with pytest.raises(ResultValidationError, match=r"^baseline_timestamp .* years 1 to 9999"):
        EnergyBreakdown(baseline_timestamp=edge)


def test_a_mapping_becomes_a_json_object(mapping_field):
    value = {"a": [1, {"b": None}]}

    kept = getattr(filled(mapping_field.cls, **{mapping_field.name: value}), mapping_field.name)

    assert type(kept) is JsonObject
    assert kept == value


def test_what_json_cannot_hold_is_refused_with_its_path(mapping_field):
    for value, at in [({"a": [0, {1}]}, ".a[1]"), ({"a": {"b": float("nan")}}, ".a.b")]:
        error = ConfigError if issubclass(mapping_field.cls, Setting) else ResultValidationError
        with pytest.raises(error) as caught:
            filled(mapping_field.cls, **{mapping_field.name: value})

        assert str(caught.value).startswith(f"{mapping_field.name}{at} must ")


def test_a_long_value_is_shown_in_one_short_line():
    with pytest.raises(ResultValidationError) as caught:
        DeviceEnergy(gpu_index=0, uuid="u", name=["x" * 1000], sensor=Sensor.RAPL)

    assert len(str(caught.value)) < 120


def test_a_value_too_deep_to_show_is_refused_all_the_same():
    value: list = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(ResultValidationError, match=r"^raw_j must be a number, got a list that is"):
        EnergyBreakdown(raw_j=value)
