"""A configuration is read from a mapping, as a TOML file gives one, with every fault told."""

import tomllib

import pytest

from llem.codec import config_from_mapping
from llem.domain.config import DecoderConfig, EnergyConfig, ExperimentConfig, WarmupConfig
from llem.errors import ConfigError

TOML = """
model = "gpt2"
n = 100
precision = "fp32"

[decoder]
temperature = 1

[warmup]
convergence_detection = true
cv_threshold = 0.1

[energy]
backend = "nvml"

[passthrough_kwargs]
num_beams = 2
"""


def test_a_configuration_is_read():
    config = config_from_mapping(tomllib.loads(TOML), source="run.toml")

    assert config == ExperimentConfig(
        model="gpt2",
        n=100,
        precision="fp32",
        decoder=DecoderConfig(temperature=1.0),
        warmup=WarmupConfig(convergence_detection=True, cv_threshold=0.1),
        energy=EnergyConfig(backend="nvml"),
        passthrough_kwargs={"num_beams": 2},
    )


def test_nothing_given_is_the_default():
    assert config_from_mapping({}, source="test") == ExperimentConfig()


def test_the_mapping_given_stays_what_it_is():
    values = {"decoder": {"top_k": 1}}

    config_from_mapping(values, source="test")

    assert values == {"decoder": {"top_k": 1}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"modle": "gpt2"},
            ["modle is no field of ExperimentConfig (did you mean model?) @ $.modle"],
        ),
        (
            {"decoder": {"topk": 1}},
            ["topk is no field of DecoderConfig", "(did you mean top_k?) @ $.decoder.topk"],
        ),
        ({"xyz": 1}, ["xyz is no field of ExperimentConfig @ $.xyz"]),
        ({"batch-size": 1}, ["(did you mean batch_size?) @ $.batch-size"]),
        ({"n": 0}, ["n must be >= 1, got 0 @ $.n"]),
        ({"n": "100"}, ["n must be a whole number, got '100' @ $.n"]),
        ({"n": 1.5}, ["n must be a whole number, got 1.5 @ $.n"]),
        ({"n": True}, ["n must be a whole number, got True @ $.n"]),
        ({"model": ""}, ["model must be a text that is not empty, got '' @ $.model"]),
        ({"precision": "int8"}, ["precision must be one of 'fp32', 'fp16', 'bf16', got 'int8'"]),
        ({"decoder": 1}, ["decoder must be an object, got 1 @ $.decoder"]),
        ({"decoder": None}, ["decoder must be an object, got None @ $.decoder"]),
        ({"decoder": {"top_p": 1.5}}, ["from 0 to 1, got 1.5 @ $.decoder.top_p"]),
        ({"warmup": {"enabled": 1}}, ["enabled must be true or false, got 1 @ $.warmup.enabled"]),
        ({"baseline": {"duration_seconds": float("inf")}}, ["@ $.baseline.duration_seconds"]),
        ({"energy": {"backend": "watt"}}, ["'rapl'", "got 'watt' @ $.energy.backend"]),
        ({"passthrough_kwargs": {"a": {1, 2}}}, ["passthrough_kwargs.a", "@ $.passthrough_kwargs"]),
        ({"n": 0, "decoder": {"top_k": -1, "x": 1}}, ["$.n", "$.decoder.top_k", "$.decoder.x"]),
    ],
)
def test_every_fault_is_told_with_its_path(values, told):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values, source="run.toml")

    message = str(caught.value)
    assert message.startswith("run.toml: ")
    assert "\n" not in message
    assert [part for part in told if part not in message] == []
