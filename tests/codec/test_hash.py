"""The config hash is the same for the same configuration, in every version and interpreter."""

import hashlib
import json
import os
import subprocess
import sys

import attrs
import pytest
from hypothesis import given

from llem.codec import measurement_config_hash, to_mapping
from llem.domain.config import (
    BaselineConfig,
    DecoderConfig,
    EnergyConfig,
    ExperimentConfig,
    SyntheticDataset,
    WarmupConfig,
)
from llem.domain.freeform import JsonObject
from llem.errors import ConfigError
from llem.testing import configs

GOLDEN = {
    "default": (ExperimentConfig(), "4e9afb93992660c7"),
    "model": (ExperimentConfig(model="meta-llama/Llama-3.1-8B", n=100), "01bff04d47263643"),
    "unicode": (ExperimentConfig(model="Modèle 🦙", dataset="/data/é.txt"), "fb2b1a6604116353"),
    "nested": (
        ExperimentConfig(
            synthetic_dataset=SyntheticDataset(input_len=7, seed=2**63),
            decoder=DecoderConfig(do_sample=True, temperature=1e-5, top_p=0.9),
            warmup=WarmupConfig(enabled=False, thermal_floor_seconds=0),
            baseline=BaselineConfig(enabled=False),
            energy=EnergyConfig(backend=None),
            passthrough_kwargs={"b": [1, 2.0, None], "a": {"x": 1e22}},
        ),
        "7dbf1727d3ceb516",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_hashes(name):
    """Another hash would make results of the same configuration incomparable."""
    config, golden = GOLDEN[name]

    assert measurement_config_hash(config) == golden


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_the_hash_does_not_depend_on_the_interpreter(seed):
    """Another process, whose sets and dicts hash otherwise, computes the same."""
    code = (
        "from llem.domain.config import *\n"
        "from llem.codec import measurement_config_hash as h\n"
        "print(h(ExperimentConfig()))\n"
        "print(h(ExperimentConfig(model='meta-llama/Llama-3.1-8B', n=100)))\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}

    printed = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout

    assert printed.split() == [GOLDEN["default"][1], GOLDEN["model"][1]]


@given(configs())
def test_a_configuration_and_its_mapping_have_one_hash(config):
    mapping = to_mapping(config)

    hashes = {
        measurement_config_hash(config),
        measurement_config_hash(mapping),
        measurement_config_hash(JsonObject(mapping)),
        measurement_config_hash(json.loads(json.dumps(mapping))),
        measurement_config_hash(dict(reversed(mapping.items()))),
    }

    assert len(hashes) == 1


@given(configs())
def test_the_hash_is_that_of_the_standard_canonical_form(config):
    text = json.dumps(to_mapping(config), sort_keys=True)

    digest = hashlib.sha256(text.encode("ascii")).hexdigest()

    assert measurement_config_hash(config) == digest[:16]


def test_an_integer_where_a_float_belongs_does_not_change_the_hash():
    assert measurement_config_hash(
        ExperimentConfig(decoder=DecoderConfig(temperature=1))
    ) == measurement_config_hash(ExperimentConfig(decoder=DecoderConfig(temperature=1.0)))


def test_every_setting_changes_the_hash():
    """No field is left out."""
    config = ExperimentConfig()
    others = {
        "model": "gpt2",
        "backend": "vllm",
        "n": 31,
        "dataset": "a.txt",
        "synthetic_dataset": SyntheticDataset(seed=1),
        "precision": "fp32",
        "device": "cpu",
        "random_seed": 1,
        "max_input_tokens": 1,
        "max_output_tokens": 1,
        "batch_size": 2,
        "decoder": DecoderConfig(top_k=1),
        "warmup": WarmupConfig(n_warmup=1),
        "baseline": BaselineConfig(duration_seconds=1),
        "energy": EnergyConfig(backend="rapl"),
        "passthrough_kwargs": {},
    }
    assert set(others) == {field.name for field in attrs.fields(ExperimentConfig)}

    hashes = {
        measurement_config_hash(attrs.evolve(config, **{name: value}))
        for name, value in others.items()
    }

    assert len(hashes | {measurement_config_hash(config)}) == len(others) + 1


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"a": float("nan")}, "config.a"),
        ({"a": [1, {2}]}, "config.a[1]"),
        ({1: 2}, "config must have texts as keys"),
    ],
)
def test_what_json_cannot_hold_has_no_hash(mapping, named):
    with pytest.raises(ConfigError) as caught:
        measurement_config_hash(mapping)

    assert str(caught.value).startswith(named)
