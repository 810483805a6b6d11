"""What is decided on the way: which format it is, what was measured, what belongs together."""

import codecs
import json
import warnings

import attrs
import pytest

from llem.codec import measurement_config_hash, to_json, to_stored_json
from llem.domain.result import ExperimentResult, model_name
from llem.errors import (
    MalformedResultError,
    ResultIntegrityError,
    ResultValidationError,
    SchemaVersionError,
)
from llem.importing import convert
from llem.testing import filled, small_result

OURS = filled(ExperimentResult, timeseries=None)


def paths(imported):
    return [field.path for field in imported.unmapped]


def noted(imported):
    return [note.partition(": ")[0] for note in imported.notes]


def test_a_document_of_ours_is_taken_as_it_is():
    """Nothing is assumed, and nothing added."""
    imported = convert(to_json(OURS))

    assert imported.result == imported.as_read == OURS
    assert (imported.is_ours, imported.unmapped, imported.notes) == (True, (), ())


def test_a_document_as_text():
    assert convert(to_json(OURS).decode()) == convert(to_json(OURS))


def test_a_stored_document_of_ours():
    """Its digest is checked, and is no part of the record."""
    stored = to_stored_json(OURS, commit_id="c", sidecars={})
    changed = stored.replace(b'"total_tokens": 5', b'"total_tokens": 6')

    assert convert(stored).result == OURS
    assert changed != stored
    with pytest.raises(ResultIntegrityError, match="not what was written"):
        convert(changed)


def test_a_document_of_ours_with_members_of_somebody_else():
    """They are listed, and the record says so."""
    document = json.loads(to_json(OURS)) | {"rack": "B7"}

    imported = convert(json.dumps(document))

    assert paths(imported) == ["rack"]
    assert imported.as_read == OURS
    assert imported.result.measurement_warnings[-1] == (
        "imported: from llem 2.0; there is no home for rack: keep the source"
    )


def test_no_warning_is_given(each):
    """What is assumed is noted instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        each.convert()


@pytest.mark.parametrize(
    ("document", "met"),
    [
        ({}, "no schema_version"),
        ({"schema_version": "9.9"}, "schema_version '9.9'"),
        ({"schema_version": 2.0}, "schema_version 2.0"),
        ({"schema_version": ["2.0"]}, r"schema_version \['2.0'\]"),
        ({"bundle_version": "3.0", "schema_version": "2.0"}, "bundle_version '3.0'"),
    ],
)
def test_other_formats_are_refused(document, met):
    """The error says what was met, and what is known."""
    with pytest.raises(SchemaVersionError, match=met) as caught:
        convert(json.dumps(document), source="a.json")
    assert str(caught.value).startswith("a.json: has ")
    assert "llenergymeasure 1.x, llenergymeasure 2.0, " in str(caught.value)


def test_one_process_is_no_result(v1):
    """The raw result of a process of 1.x is told from the aggregated one."""
    process = v1.plain["process_results"][0]

    with pytest.raises(SchemaVersionError, match="is one process of a run"):
        convert(json.dumps(process))


@pytest.mark.parametrize("text", [b"", b"[]", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff{}"])
def test_what_is_no_json_object_is_refused(text, v3):
    """The document, and the files beside it, each by its name."""
    with pytest.raises(MalformedResultError, match=r"^document: "):
        convert(text)
    with pytest.raises(MalformedResultError, match=r"^document: config\.json: "):
        convert(v3.file.read_bytes(), beside={"config.json": text})


def test_a_byte_order_mark(each):
    """Editors of others write one, in the files beside a document too. llem writes none."""
    mark = codecs.BOM_UTF8
    beside = {name: mark + content for name, content in each.beside.items()}

    assert convert(mark + each.file.read_bytes(), beside=beside) == each.convert()
    assert convert((mark + each.file.read_bytes()).decode(), beside=beside) == each.convert()
    with pytest.raises(MalformedResultError):
        convert(mark + to_json(OURS))


def test_a_value_that_no_record_may_hold_is_refused(each):
    """It is not left out: the document is broken."""
    with pytest.raises(ResultValidationError, match=r"total_tokens must be >= 0, got -1"):
        each.convert(each.plain | {"total_tokens": -1})


def test_a_mixture_of_times_is_refused(each):
    """Which of them is right cannot be known."""
    mixed = each.plain["start_time"] + "+02:00"

    with pytest.raises(ResultValidationError, match="must be timezone-aware"):
        each.convert(each.plain | {"start_time": mixed})


def test_energy_that_was_not_measured_in_1_x(v1):
    """By its flag: the zeros are no figures, in the processes as in the run."""
    document = v1.plain
    holders = [document, *document["process_results"]]
    for holder in holders:
        holder["energy_tracking_failed"] = True
        holder["energy_breakdown"] = None
    for process in document["process_results"]:
        metrics = process["energy_metrics"]
        process["energy_metrics"] = dict.fromkeys(metrics, 0.0) | {"duration_sec": 8.0}
    document |= {"total_energy_j": 0.0, "avg_energy_per_token_j": 0.0}

    imported = v1.convert(document)

    result = imported.result
    assert (result.total_energy_j, result.avg_energy_per_token_j) == (None, None)
    for process in result.process_results:
        metrics = attrs.asdict(process.energy_metrics)
        assert metrics.pop("duration_sec") == 8.0
        assert set(metrics.values()) == {None}
    assert result.measurement_warnings[0].startswith("energy_not_measured: ")
    assert "total_energy_j" in noted(imported)
    assert not [path for path in paths(imported) if "energy" in path]


def test_energy_that_was_measured_in_part_in_1_x(v1):
    """A sum over some processes is no energy of the run: it is listed. Each figure is kept."""
    document = v1.plain | {"energy_tracking_failed": True}
    document["process_results"][1]["energy_tracking_failed"] = True

    imported = v1.convert(document)

    listed = {field.path: field for field in imported.unmapped}
    first, second = imported.result.process_results
    assert imported.result.total_energy_j is None
    assert json.loads(listed["total_energy_j"].value) == document["total_energy_j"]
    assert "no measurement of the whole run" in listed["total_energy_j"].reason
    assert listed["process_results[1].energy_metrics.gpu_energy_j"].value == "1238.0"
    assert first.energy_metrics.total_energy_j == 1210.5
    assert second.energy_metrics.total_energy_j is None


def test_no_energy_in_1_x_without_its_flag(v1):
    """A zero that was measured, as the document says, is kept with a note."""
    imported = v1.convert(v1.plain | {"total_energy_j": 0.0})

    assert imported.result.total_energy_j == 0.0
    assert "total_energy_j" in noted(imported)


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_energy_that_no_meter_measured(name, request):
    """No figure, no breakdown: 0 is what these formats write where no meter ran."""
    document = request.getfixturevalue(name)
    none = {"total_energy_j": 0.0, "avg_energy_per_token_j": 0.0, "energy_breakdown": None}
    none |= {"energy_adjusted_j": None, "mj_per_tok_total": 0.0, "mj_per_tok_adjusted": None}

    imported = document.convert(
        document.plain | {key: value for key, value in none.items() if key in document.plain}
    )

    result = imported.result
    assert (result.total_energy_j, result.avg_energy_per_token_j) == (None, None)
    assert result.measurement_warnings[-2].startswith("energy_not_measured: ")
    assert not [path for path in paths(imported) if "energy" in path or "mj" in path]


def test_no_energy_with_a_breakdown(v2):
    """Nothing says that it was not measured: it is kept, with a note."""
    imported = v2.convert(v2.plain | {"total_energy_j": 0.0, "avg_energy_per_token_j": 0.0})

    assert imported.result.total_energy_j == 0.0
    assert "total_energy_j" in noted(imported)


def test_energy_that_a_warning_says_was_not_measured(v5):
    """The breakdown is that of a placeholder: what is not 0 in it is listed."""
    document = v5.plain
    document["measurement_warnings"] = ["energy_measurement_unavailable: no energy sampler"]
    document["energy_breakdown"] |= {"raw_j": 0.0, "adjusted_j": -2500.0}
    document |= {"total_energy_j": 0.0, "avg_energy_per_token_j": 0.0}
    document |= {"energy_adjusted_j": -2500.0, "mj_per_tok_total": 0.0}

    imported = v5.convert(document)

    result = imported.result
    assert result.total_energy_j is None
    assert result.energy_adjusted_j is None
    assert result.energy_breakdown.raw_j is None
    assert result.energy_breakdown.baseline_power_w == 62.5
    assert {"energy_adjusted_j", "energy_breakdown.adjusted_j"} <= {*paths(imported)}


@pytest.mark.parametrize("name", ["v2", "v3", "v5", "bundle2"])
def test_energy_per_output_token(name, request):
    """Is per token in and out in a record, which is noted; the record still gives the former."""
    document = request.getfixturevalue(name)
    plain, imported = document.plain, document.convert()

    result = imported.result
    former = plain["avg_energy_per_token_j"]
    assert result.avg_energy_per_token_j == plain["total_energy_j"] / plain["total_tokens"]
    assert result.energy_per_output_token_j == pytest.approx(former)
    assert (
        f"avg_energy_per_token_j: was per output token ({former:.4g} J), is per token in and out; "
        "energy_per_output_token_j has the former"
    ) in imported.notes


def test_energy_per_token_in_and_out(v1):
    """It is kept as it was written, and not noted."""
    imported = v1.convert()

    assert imported.result.avg_energy_per_token_j == v1.plain["avg_energy_per_token_j"]
    assert "avg_energy_per_token_j" not in noted(imported)


def test_energy_per_something_else(v5):
    """It is kept as it was written, and noted."""
    imported = v5.convert(v5.plain | {"avg_energy_per_token_j": 1.5})

    assert imported.result.avg_energy_per_token_j == 1.5
    assert (
        "avg_energy_per_token_j: 1.5 is kept, and is neither per total_tokens nor per output token"
    ) in imported.notes


def test_energy_per_output_token_of_a_process(v2):
    """As that of the run."""
    document = v2.plain
    metrics = document["process_results"][0]["energy_metrics"]
    metrics["energy_per_token_j"] = metrics["total_energy_j"] / 160

    imported = v2.convert(document)

    (process,) = imported.result.process_results
    assert process.energy_metrics.energy_per_token_j == metrics["total_energy_j"] / 480
    assert "process_results[0].energy_metrics.energy_per_token_j" in noted(imported)


def test_output_tokens_that_the_source_tells_elsewhere(v1, v2, v3):
    """By its processes, by a figure per token, or by what energy was divided by."""
    none = {"process_results": [], "multi_gpu": None, "flops_per_output_token": None}
    bare = v3.plain | none

    found = [
        (imported.result.output_tokens, note)
        for imported in (v1.convert(), v2.convert(), v3.convert(), v3.convert(bare))
        for note in imported.notes
        if note.startswith("output_tokens: ")
    ]

    assert found == [
        (320, "output_tokens: 320, by the processes"),
        (160, "output_tokens: 160, by the processes"),
        (160, "output_tokens: 160, by flops_per_output_token"),
        (160, "output_tokens: 160, by avg_energy_per_token_j"),
    ]


def test_output_tokens_that_no_figure_gives(v3):
    """They are not known: what comes out is no whole number, or does not fit the tokens in."""
    none = {"multi_gpu": None, "flops_per_output_token": None}

    assert (
        v3.convert(v3.plain | none | {"avg_energy_per_token_j": 7.5}).result.output_tokens is None
    )
    assert v3.convert(v3.plain | none | {"input_tokens": 300}).result.output_tokens is None


def test_zeros_that_may_not_be_measured(v2):
    """They are kept, and noted together."""
    document = v2.plain
    document["extended_metrics"]["memory"]["total_vram_mb"] = 0.0
    document["process_results"][0]["energy_metrics"]["cpu_energy_j"] = 0.0

    imported = v2.convert(document)

    assert imported.result.extended_metrics.memory.total_vram_mb == 0.0
    assert (
        "process_results[0].energy_metrics.cpu_energy_j, "
        "extended_metrics.memory.total_vram_mb: 0 is kept, and may mean not measured there"
    ) in imported.notes


def test_millijoules_that_do_not_follow_are_listed(v3):
    """A figure that the energies do not give is none to let go of."""
    imported = v3.convert(v3.plain | {"mj_per_tok_total": 1.0})

    assert "mj_per_tok_total" in paths(imported)
    assert "mj_per_tok_adjusted" in noted(imported)


def test_time_of_one_process_in_1_x(v1):
    """It is that of the run, summed or not."""
    document = v1.plain
    document["aggregation"]["num_processes"] = 1
    del document["process_results"][1]

    result = v1.convert(document).result

    assert result.total_inference_time_sec == document["total_inference_time_sec"]
    assert result.avg_tokens_per_second == document["avg_tokens_per_second"]


def test_time_of_processes_that_are_not_there(v1):
    """From the start of the first to the end of the last; the sum is listed."""
    imported = v1.convert(v1.plain | {"process_results": []})

    assert imported.result.total_inference_time_sec == 8.625
    assert "total_inference_time_sec" in paths(imported)


def test_time_between_processes_does_not_count(v1):
    """Inference that did not overlap took what each took."""
    document = v1.plain
    window = document["process_results"][1]["timestamps"]
    window |= {"start": "2026-02-17T17:45:03.5", "end": "2026-02-17T17:45:12"}
    document["end_time"] = window["end"]

    assert v1.convert(document).result.total_inference_time_sec == 16.5


def test_a_hash_of_another_form_is_listed(v2):
    """And ours computed."""
    imported = v2.convert(v2.plain | {"measurement_config_hash": "AB"})

    result = imported.result
    assert result.measurement_config_hash == measurement_config_hash(result.effective_config)
    assert "measurement_config_hash" in paths(imported)


def test_without_the_files_beside_it(v3):
    """The model is all that is known of the configuration, which is noted."""
    imported = convert(v3.file.read_bytes())

    assert imported.result.effective_config == {"model": "gpt2"}
    assert imported.result.environment_snapshot is None
    assert "effective_config" in noted(imported)


def test_a_methodology_that_is_not_said(v5):
    """Is total, which is noted."""
    imported = convert(v5.file.read_bytes())

    assert imported.result.measurement_methodology == "total"
    assert "measurement_methodology" in noted(imported)


def test_files_of_another_experiment_are_left_out(v5):
    """All that they say is listed."""
    config = json.loads(v5.beside["config.json"]) | {"experiment_id": "another"}
    environment = json.loads(v5.beside["environment.json"]) | {"experiment_id": "another"}

    imported = v5.convert(config=config, environment=environment)

    assert {"config.json", "environment.json"} <= {*noted(imported)}
    assert imported.result.environment_snapshot is None
    assert imported.result.backend_version is None
    assert {
        "config.json: declared_config.task.model",
        "environment.json: hardware.gpu.name",
    } <= {*paths(imported)}


@pytest.mark.parametrize("place", ["effective_config", "process_results"])
def test_the_model_of_1_x(v1, place):
    """Is in the configuration, by its name there or that of the first process; it is noted."""
    document = v1.plain
    if place == "effective_config":
        document["process_results"] = []
    else:
        del document["effective_config"]["model_name"]

    imported = v1.convert(document)

    assert model_name(imported.result.effective_config) == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert "effective_config: model was added, which is model_name there" in imported.notes


def test_a_model_of_1_x_under_both_names(v1):
    """The one that is ours is taken."""
    document = v1.plain
    document["effective_config"]["model"] = "mine"

    assert v1.convert(document).result.effective_config["model"] == "mine"


def test_a_model_that_the_configuration_names_otherwise(v3):
    """The configuration is kept, and the other name listed."""
    imported = v3.convert(v3.plain | {"model_name": "another"})

    assert imported.result.effective_config["model"] == "gpt2"
    assert "model_name" in paths(imported)


def test_files_that_no_format_has_are_not_looked_at(v3):
    assert v3.convert(notes={"a": 1}) == v3.convert()


def test_without_a_time_series():
    """The record names none, and the reason is told."""
    result = small_result(timeseries="timeseries.parquet")

    imported = convert(to_json(result)).without_timeseries("it is gone")

    assert imported.result.timeseries is None
    assert (imported.samples_lost, imported.unmapped) == ("it is gone", ())
    assert imported.result.measurement_warnings[-1] == (
        "imported: from llem 2.0; its time series was not kept: keep the source"
    )


def test_a_record_names_so_many_fields_and_no_more():
    """A document of a thousand unknown members makes no warning of a thousand names."""
    document = json.loads(to_json(OURS)) | {f"x{i:03}": i for i in range(1000)}

    imported = convert(json.dumps(document))

    assert len(imported.unmapped) == 1000
    assert "x023 and 976 more: keep the source" in imported.result.measurement_warnings[-1]


def test_a_field_under_both_names(v3):
    """The one that is ours is taken, and the other listed."""
    imported = v3.convert(v3.plain | {"backend": "theirs"})

    assert imported.result.backend == "theirs"
    assert "engine" in paths(imported)


def test_fields_of_ours_in_a_document_of_1_x(v1, v3):
    """They are taken, and what else says the same is listed."""
    snapshot = json.loads(v3.beside["environment.json"])

    imported = v1.convert(v1.plain | {"environment_snapshot": snapshot})

    assert imported.result.environment_snapshot.python_version == "3.11.10"
    assert "environment.cpu.model" in paths(imported)


def test_throttling_in_both_ways(bundle2, v3):
    """The way that is ours is taken, and the other listed."""
    ours = v3.plain["thermal_throttle"]

    imported = bundle2.convert(bundle2.plain | {"thermal_throttle": ours})

    assert imported.result.thermal_throttle.max_temperature_c == ours["max_temperature_c"]
    assert "throttle.thermal.sw" in paths(imported)


def test_two_environments_beside_one_document(v5):
    """One is taken, and the other listed."""
    other = json.loads(v5.beside["environment.json"]) | {"python_version": "3.9.1"}

    imported = v5.convert(system=other)

    assert imported.result.environment_snapshot.python_version == "3.12.4"
    assert "system.json: python_version" in paths(imported)


def test_packages_as_text_and_as_a_list(v2):
    """The list is taken, and the text listed."""
    document = v2.plain
    document["environment_snapshot"]["installed_packages"] = ["numpy==1"]

    imported = v2.convert(document)

    assert imported.result.environment_snapshot.installed_packages == ("numpy==1",)
    assert "environment_snapshot.pip_freeze" in paths(imported)


def test_both_power_limits(bundle2):
    """Which the record cannot tell from the one in hardware: that of the driver is listed."""
    document = bundle2.plain
    document["throttle"]["power"] = {"hw": True, "sw": True, "any": True}

    imported = bundle2.convert(document)

    throttle = imported.result.thermal_throttle
    assert (throttle.power, throttle.hw_power) == (True, True)
    assert [path for path in paths(imported) if "throttle" in path] == ["throttle.power.sw"]


def test_throttling_by_no_axes(bundle2):
    """What is not of that form is listed as it is."""
    document = bundle2.plain
    document["throttle"]["thermal"] = "often"

    imported = bundle2.convert(document)

    assert imported.result.thermal_throttle is None
    assert {"throttle.thermal", "throttle.power.hw"} <= {*paths(imported)}


def test_throttling_that_is_not_known(bundle2):
    imported = bundle2.convert(bundle2.plain | {"throttle": None})

    assert imported.result.thermal_throttle is None
    assert not [path for path in paths(imported) if "throttle" in path]


def test_a_mean_rate_under_both_names(v1):
    """The one that is ours is taken, and the other listed."""
    document = v1.plain
    document["aggregation"]["mean_process_tokens_per_second"] = 1.5

    imported = v1.convert(document)

    assert imported.result.aggregation.mean_process_tokens_per_second == 1.5
    assert "avg_tokens_per_second" in paths(imported)


def test_a_configuration_in_the_document_and_beside_it(v5):
    """The one in the document is taken, and the other listed."""
    imported = v5.convert(v5.plain | {"effective_config": {"model": "mine"}})

    assert imported.result.effective_config == {"model": "mine"}
    assert "config.json: declared_config.task.model" in paths(imported)
