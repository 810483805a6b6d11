"""What ties the fields of one record together, and what follows from them."""

from datetime import timedelta

import attrs
import pytest

import llem
from llem.domain.conditions import Conditions
from llem.domain.energy import DeviceEnergy, Sensor
from llem.domain.process import InferenceMetrics, Timestamps
from llem.domain.result import ExperimentResult, model_name
from llem.domain.spool import RunManifest
from llem.errors import ResultValidationError
from llem.testing import filled, small_result
from llem.testing.examples import A_TIME

DEVICE = DeviceEnergy(gpu_index=0, uuid="GPU-0", name="A100", sensor=Sensor.REPLAY)


def refusal(**fields):
    with pytest.raises(ResultValidationError) as caught:
        small_result(**fields)
    (name,) = [name for name in fields if str(caught.value).startswith(f"{name} ")] or [None]
    assert caught.value.field == str(caught.value).split()[0]
    return name, str(caught.value)


def test_tokens_add_up():
    assert small_result(total_tokens=5, input_tokens=2, output_tokens=3).total_tokens == 5
    assert small_result(total_tokens=5, input_tokens=2).output_tokens is None
    assert small_result(total_tokens=5, output_tokens=9).input_tokens is None

    name, message = refusal(total_tokens=6, input_tokens=2, output_tokens=3)

    assert name == "total_tokens"
    assert "input_tokens + output_tokens = 5, got 6" in message


def test_tokens_of_a_process_add_up():
    metrics = {"inference_time_sec": 1, "tokens_per_second": 1, "latency_per_token_ms": 1}
    assert InferenceMetrics(total_tokens=5, input_tokens=2, output_tokens=3, **metrics)

    with pytest.raises(ResultValidationError, match=r"^total_tokens must"):
        InferenceMetrics(total_tokens=4, input_tokens=2, output_tokens=3, **metrics)


def test_a_run_does_not_end_before_it_starts():
    assert small_result(end_time=A_TIME).duration_sec == 0.0

    name, message = refusal(end_time=A_TIME - timedelta(microseconds=1))

    assert name == "end_time"
    assert A_TIME.isoformat() in message


def test_a_window_does_not_end_before_it_starts():
    assert Timestamps(start=A_TIME, end=A_TIME).duration_sec == 0.0
    assert Timestamps(start=A_TIME, end=A_TIME + timedelta(seconds=1.5)).duration_sec == 1.5

    with pytest.raises(ResultValidationError, match=r"^end must not be before start"):
        Timestamps(start=A_TIME, end=A_TIME - timedelta(microseconds=1))


@pytest.mark.parametrize("window", [(0.0, 61.25), (5.0, 5.0), (61.25, 61.25), (0, 61.2500009)])
def test_a_window_inside_the_run_is_taken(window):
    """A microsecond beyond its end is what a datetime rounds away."""
    assert small_result(steady_state_window=window).steady_state_window == window


@pytest.mark.parametrize("window", [(6.0, 5.0), (0.0, 61.2502), (61.26, 61.27), (-1.0, 5.0)])
def test_a_window_outside_the_run_is_refused(window):
    with pytest.raises(ResultValidationError, match=r"^steady_state_window"):
        small_result(steady_state_window=window)


@pytest.mark.parametrize(
    "value", ["", "0" * 15, "0" * 17, "0" * 15 + "A", "g" * 16, "0" * 16 + "\n"]
)
def test_a_config_hash_is_16_hex_digits(value):
    name, message = refusal(measurement_config_hash=value)

    assert name == "measurement_config_hash"
    assert "16 lower-case hex digits" in message


@pytest.mark.parametrize("value", ["timeseries.parquet", "a", "...", "a b.parquet", "..a", ".a"])
def test_a_sidecar_is_named_by_a_bare_name(value):
    assert small_result(timeseries=value).timeseries == value


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "/a", "a\\b", "C:a", "a\0", "a\n", "a\nb"])
def test_a_sidecar_is_named_by_nothing_else(value):
    name, message = refusal(timeseries=value)

    assert name == "timeseries"
    assert "bare name of a file" in message


def test_every_device_has_a_figure_or_none_has():
    devices = (DEVICE, attrs.evolve(DEVICE, uuid="GPU-1", gpu_index=1))
    assert small_result(devices=devices, energy_per_device_j=(1, 2)).energy_per_device_j == (1, 2)
    assert small_result(devices=devices).energy_per_device_j is None
    assert small_result(energy_per_device_j=(1, 2)).devices == ()

    with pytest.raises(ResultValidationError) as caught:
        small_result(devices=devices, energy_per_device_j=(1.0,))

    assert str(caught.value).startswith("energy_per_device_j must have a figure for each of the 2")


@pytest.mark.parametrize(("value", "fine"), [("2.0", True), ("2.1", False), ("3.0", False)])
def test_a_record_is_of_this_schema(value, fine):
    if fine:
        assert small_result(schema_version=value).schema_version == "2.0"
    else:
        assert refusal(schema_version=value)[0] == "schema_version"


def test_an_id_may_contain_a_slash_and_not_be_empty():
    assert small_result(experiment_id="a/b").experiment_id == "a/b"
    assert refusal(experiment_id="")[0] == "experiment_id"


def test_figures_per_energy():
    result = small_result(
        total_tokens=300, input_tokens=100, output_tokens=200, total_energy_j=1200.0
    )

    assert result.tokens_per_joule == 0.25
    assert result.energy_per_output_token_j == 6.0
    assert result.duration_sec == 61.25


@pytest.mark.parametrize(
    ("fields", "per_joule", "per_output"),
    [
        ({"total_energy_j": None, "output_tokens": 3}, None, None),
        ({"total_energy_j": 0.0, "output_tokens": 3}, None, 0.0),
        ({"total_energy_j": 3.0, "output_tokens": None}, 100.0, None),
        ({"total_energy_j": 3.0, "output_tokens": 0}, 100.0, None),
    ],
)
def test_what_was_not_measured_has_no_figure(fields, per_joule, per_output):
    result = small_result(**fields)

    assert result.tokens_per_joule == per_joule
    assert result.energy_per_output_token_j == per_output


def test_derived_figures_are_no_fields():
    names = {field.name for field in attrs.fields(ExperimentResult)}

    assert names & {"duration_sec", "tokens_per_joule", "energy_per_output_token_j"} == set()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model": "gpt2"}, "gpt2"),
        ({}, "unnamed"),
        ({"model": ""}, "unnamed"),
        ({"model": 1}, "unnamed"),
    ],
)
def test_the_model_of_a_configuration(config, name):
    assert model_name(config) == name


def test_the_old_name_is_deprecated():
    with pytest.warns(DeprecationWarning, match="ExperimentResult") as met:
        alias = llem.AggregatedResult

    assert alias is ExperimentResult
    assert met[0].filename == __file__


def test_each_device_of_the_conditions_has_its_idle_power():
    with pytest.raises(
        ResultValidationError, match=r"^idle_power_w must have one value for each of"
    ):
        filled(Conditions, idle_uuids=("GPU-0", "GPU-1"), idle_power_w=(50.0,))
    assert filled(Conditions, idle_uuids=("GPU-0",), idle_power_w=(50.0,))


def test_the_window_of_the_conditions_is_ordered():
    with pytest.raises(ResultValidationError, match=r"^window_s must be ordered, got \(2.0, 1.0\)"):
        filled(Conditions, window_s=(2.0, 1.0))
    assert filled(Conditions, window_s=(1.0, 1.0))


@pytest.mark.parametrize("places", [("a:/x",), ("a:/x",) * 3])
def test_each_process_of_a_run_has_a_place(places):
    run = {"run_id": "r", "experiment_id": "e", "measurement_config_hash": "0" * 16}
    with pytest.raises(ResultValidationError, match=r"^places must be 2, or none, got"):
        RunManifest(num_processes=2, places=places, **run)
    assert RunManifest(num_processes=2, places=("a:/x", "b:/x"), **run)
    assert RunManifest(num_processes=2, **run).places == ()
