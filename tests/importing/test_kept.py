"""Each kept document is converted, and nothing that it says is lost."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llem.auditing import audit
from llem.codec import from_json, measurement_config_hash, to_json
from llem.importing import Imported, convert

A100 = Path(__file__).parents[3] / "shared" / "data" / "a100_gpt2_v2.0.json"

FORMATS = {
    "v1": "llenergymeasure 1.x",
    "v2": "llenergymeasure 2.0",
    "v3": "llenergymeasure 3.0",
    "v5": "llenergymeasure 5.0",
    "bundle2": "llenergymeasure bundle 2.0",
}

PROCESS = {
    "cli_overrides.batching.batch_size",
    "config_warnings",
    "parameter_provenance.batching.batch_size.source",
    "parameter_provenance.batching.batch_size.source_detail",
    "parameter_provenance.batching.batch_size.value",
    "parameter_provenance.random_seed.source",
    "parameter_provenance.random_seed.source_detail",
    "parameter_provenance.random_seed.value",
    "preset_chain",
    "timeseries_path",
}
HARDWARE = {
    "collected_at",
    "container.detected",
    "container.runtime",
    "cpu.governor",
    "cpu.model",
    "cpu.platform",
    "cuda.cudnn_version",
    "cuda.driver_version",
    "cuda.version",
    "gpu.compute_capability",
    "gpu.mig_enabled",
    "gpu.name",
    "gpu.pcie_gen",
    "gpu.vram_total_mb",
    "thermal.default_power_limit_w",
    "thermal.fan_speed_pct",
    "thermal.power_limit_w",
    "thermal.temperature_c",
}
LATENCY = {"latency_stats.itl_full_mean_ms", "latency_stats.itl_full_p99_ms"}
CONFIG = {
    "config.json: config_validation_observations[0].field",
    "config.json: config_validation_observations[0].reason",
    "config.json: measurement_window_discard_fraction",
    "config.json: observed_config_hash",
    "config.json: observed_engine_params.dtype",
    "config.json: observed_engine_params.max_model_len",
    "config.json: observed_sampling_params.temperature",
    "config.json: observed_sampling_params.top_k",
    "config.json: resolved_config_hash",
}
ENGINE = (
    LATENCY
    | CONFIG
    | {
        "energy_breakdown.baseline_method",
        "engine_build_cache_hit",
        "latency_stats.measurement_mode",
        "model_load_time_sec",
        "runner_provenance.image",
        "runner_provenance.image_source",
        "runner_provenance.mode",
        "runner_provenance.source",
    }
)
HOMELESS = {
    "v1": LATENCY
    | PROCESS
    | {f"process_results[{i}].{name}" for i in (0, 1) for name in PROCESS}
    | {f"process_results[1].environment.{name}" for name in HARDWARE}
    | {"process_results[1].compute_metrics.flops_confidence"},
    "v2": LATENCY | {"energy_breakdown.baseline_method"},
    "v3": LATENCY,
    "v5": ENGINE
    | {
        "environment.json: runner.image",
        "environment.json: runner.image_digest",
        "environment.json: runner.mode",
        "environment.json: runner.source",
    },
    "bundle2": ENGINE
    | {
        "runner_provenance.image_digest",
        "serving_mode",
        "session.drain_duration_s",
        "session.drain_energy_j",
        "session.launch_duration_s",
        "session.launch_energy_j",
        "session.level_count",
        "session.session_id",
        "session.warmup_total_duration_s",
        "session.warmup_total_energy_j",
        "session.window_count",
    },
}

IDENTITY = {"schema_version", "bundle_version", "energy_tracking_failed"} | {
    f"throttle.{axis}.any" for axis in ("thermal", "power")
}
"""What says the format, and flags whose truth the record tells in its own way."""


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in *node* that is no object and no array, with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, node


def as_met(value: Any) -> Any:
    """*value* as it is looked for: times as such, in UTC where they have no zone."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def lost(source: Any, imported: Imported, prefix: str = "") -> list[str]:
    """
    The paths of values in *source* that are neither in the record, nor listed, nor noted.

    What a file beside the document repeats is listed once.
    """
    text = to_json(imported.result).decode()
    met = {as_met(value) for _, value in leaves(json.loads(text))}
    listed = {field.path: field.value for field in imported.unmapped}
    noted = [note.partition(": ")[0] for note in imported.notes]

    def is_told(path: str, value: Any) -> bool:
        array = path.rpartition("[")[0]
        twin = path.replace("runner.", "runner_provenance.")
        return (
            as_met(value) in met
            or path in noted
            or path.removeprefix("process_results[0].").removeprefix("process_results[1].")
            in IDENTITY
            or (twin in listed and json.loads(listed[twin]) == value)
            or (prefix + path in listed and json.loads(listed[prefix + path]) == value)
            or (prefix + array in listed and value in json.loads(listed[prefix + array]))
        )

    return [path for path, value in leaves(source) if not is_told(path, value)]


def test_every_value_is_in_the_record_or_listed(each):
    """Of the document, and of the files beside it."""
    imported = each.convert()

    assert lost(each.plain, imported) == []
    for name, content in each.beside.items():
        assert lost(json.loads(content), imported, f"{name}: ") == []


def test_a_lost_value_would_be_seen(v3):
    """The test above can fail."""
    document = v3.plain | {"backend_of": "theirs", "pages": [{"n": 987.5}], "names": ["x-1"]}

    assert lost(document, v3.convert()) == ["backend_of", "pages[0].n", "names[0]"]
    assert lost(document, v3.convert(document)) == []


def test_what_has_no_home(each):
    """It is this, for ever."""
    assert {field.path for field in each.convert().unmapped} == HOMELESS[each.name]


def test_the_format_is_known(each):
    assert each.convert().format == FORMATS[each.name]


def test_the_record_is_one_of_ours(each):
    """It is written and read like any other; no llem measured it."""
    result = each.convert().result

    assert from_json(to_json(result)) == result
    assert result.llem_version is None


def test_the_record_says_where_it_is_from(each):
    """As its last warning: the format, what was assumed, and what has no home."""
    imported = each.convert()

    *others, told = imported.result.measurement_warnings

    assert tuple(others) == imported.as_read.measurement_warnings
    assert told.startswith(f"imported: from {FORMATS[each.name]}; ")
    assert all(note in told for note in imported.notes)
    assert "there is no home for " in told
    assert told.endswith(": keep the source")


def test_it_is_the_same_each_time(each):
    assert each.convert() == each.convert()


def test_no_figure_differs_from_its_evidence(each):
    """An audit of the record finds none, though it may lack evidence."""
    assert audit(each.convert().result, None).agrees


def test_naive_times_are_read_as_utc(each):
    """Which is noted; those with a zone keep it."""
    imported = each.convert()

    start = datetime.fromisoformat(each.plain["start_time"] + "+00:00")
    breakdown = imported.result.energy_breakdown
    assert imported.result.start_time == start
    assert imported.notes[-1].startswith("start_time: ")
    assert breakdown.baseline_timestamp == datetime.fromisoformat(
        each.plain["energy_breakdown"]["baseline_timestamp"]
    )


@pytest.mark.parametrize("name", ["v2", "v3", "v5", "bundle2"])
def test_the_hash_is_kept(name, request):
    """As it was written, under either name."""
    document = request.getfixturevalue(name)
    plain = document.plain

    assert document.convert().result.measurement_config_hash == plain.get(
        "measurement_config_hash", plain.get("declared_config_hash")
    )


@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_the_hash_is_that_of_the_configuration(name, request):
    """Computed here for 1.x; theirs is computed as ours is."""
    result = request.getfixturevalue(name).convert().result

    assert result.measurement_config_hash == measurement_config_hash(result.effective_config)


def test_1_x_counts_concurrent_time_once(v1):
    """Time by the wall clock, and the rate of the whole system over it."""
    plain, result = v1.plain, v1.convert().result

    assert result.total_inference_time_sec == 8.625
    assert result.avg_tokens_per_second == plain["total_tokens"] / 8.625
    assert result.aggregation.mean_process_tokens_per_second == plain["avg_tokens_per_second"]


def test_1_x_has_hardware_only(v1):
    """What else an environment says is not known there."""
    snapshot = v1.convert().result.environment_snapshot

    assert snapshot.hardware.gpu.name == "NVIDIA A100-PCIE-40GB"
    assert (snapshot.python_version, snapshot.tool_version) == ("unknown", "unknown")


def test_2_0_packages_as_one_text(v2):
    """Are a list of ours."""
    assert v2.convert().result.environment_snapshot.installed_packages == (
        "numpy==2.1.2",
        "torch==2.5.1+cu124",
        "transformers==5.3.0",
    )


def test_the_engine_is_the_backend(v3):
    """With its version; what lies beside is the configuration and the environment."""
    result = v3.convert().result

    assert (result.backend, result.backend_version) == ("transformers", "5.3.0")
    assert result.effective_config == json.loads(v3.beside["config.json"])
    assert result.environment_snapshot.installed_packages == ("numpy==2.1.2", "torch==2.5.1+cu124")


def test_a_configuration_in_a_frame(v5):
    """5.0 says the methodology and the version of the engine in config.json too."""
    result, beside = v5.convert().result, json.loads(v5.beside["config.json"])

    assert result.measurement_methodology == "steady_state"
    assert result.steady_state_window == (4.0125, 40.125)
    assert result.backend_version == "0.7.3"
    assert result.effective_config == {**beside["declared_config"], "model": "Qwen/Qwen2.5-0.5B"}
    assert (result.input_tokens, result.output_tokens) == (6144, 1536)


def test_throttling_by_axes(bundle2):
    """The driver's power cap is a power limit that is none in hardware; it is noted."""
    imported = bundle2.convert()

    throttle = imported.result.thermal_throttle
    assert throttle.detected
    assert (throttle.thermal, throttle.sw_thermal, throttle.hw_thermal) == (True, True, False)
    assert (throttle.power, throttle.hw_power) == (True, False)
    assert throttle.throttle_timestamps == (12.5, 30.25)
    assert (
        "throttle.power.sw: true is thermal_throttle.power without hw_power, the driver's cap"
    ) in imported.notes


def test_the_baseline_of_a_bundle(bundle2):
    """It has one home there, and two here."""
    result = bundle2.convert().result

    assert result.baseline_power_w == result.energy_breakdown.baseline_power_w == 62.5


@pytest.mark.skipif(not A100.exists(), reason="needs ../shared/data")
def test_a_document_of_a_real_a100():
    """Every value has a home, and is as it was."""
    imported = convert(A100.read_bytes())

    assert imported.format == "llenergymeasure 2.0"
    assert imported.unmapped == ()
    assert lost(json.loads(A100.read_bytes()), imported) == []
    assert imported.result.avg_energy_per_token_j == pytest.approx(228.03882500813023 / 1920)
    assert imported.result.output_tokens == 640
    assert audit(imported.result, None).agrees
