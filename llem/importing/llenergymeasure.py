"""
What llenergymeasure wrote, version by version.

======================  ==========================================================================
format                  what differs from ours
======================  ==========================================================================
1.x ``2.0.0``,          Time is summed over processes, and the rate their mean; energy that was not
``3.0.0``               measured is 0 under ``energy_tracking_failed``. No hash, no methodology.
2.0                     Times are local and naive. Early ones have ``pip_freeze`` as one text.
3.0, 4.0                ``engine`` for ``backend``; configuration and environment in files beside.
5.0                     Methodology and the engine's version in ``config.json`` too.
bundle 2.0              ``declared_config_hash``, ``throttle`` by axes, ``system.json``.
======================  ==========================================================================
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from llem.domain.energy import ThermalThrottleInfo
from llem.domain.environment import EnvironmentSnapshot, HardwareEnvironment
from llem.domain.process import EnergyMetrics
from llem.importing.draft import (
    Draft,
    Plain,
    fit,
    forget_empty,
    number,
    part_of,
    processes_of,
    summed,
)

Beside = Mapping[str, Plain]
"""The objects in the files beside a document, by the files' names."""

NOT_MEASURED = "energy_measurement_unavailable"
"""Code of the warning by which 5.0 and later say that no energy was measured."""

_TOTALS = ("total_energy_j", "avg_energy_per_token_j", "energy_adjusted_j")
_ENERGIES = tuple(field.name for field in attrs.fields(EnergyMetrics) if field.name[:3] != "dur")
_NO_PROVENANCE = ("cli_overrides", "config_warnings", "parameter_provenance", "preset_chain")
_NO_V1 = (*_NO_PROVENANCE, "cycle_run_info", "environment", "timeseries_path")

_NO_ENGINE = (
    "engine_build_cache_hit",
    "measurement_window_discard_fraction",
    "model_load_time_sec",
    "runner_provenance",
    "server",
    "server_metrics",
    "session",
)


def read_v1(document: Plain, _: Beside) -> Draft:
    """An aggregated result of llenergymeasure 1.x."""
    draft = Draft.of(document)
    draft.values.setdefault("measurement_methodology", "total")
    draft.forget_empty(*_NO_V1)
    _forget_full_latencies(draft)
    hardware = document.get("environment")
    _take_hardware(draft, hardware)
    rests = draft.left.get("process_results", {})
    for i, process in processes_of(draft.values):
        rest = rests.pop(i, {})
        process.pop("schema_version", None)
        forget_empty(rest, *_NO_V1)
        if "environment_snapshot" in draft.values and rest.get("environment") == hardware:
            rest.pop("environment", None)
        _heed_failure(process, rest)
        if rest:
            rests[i] = rest
    if not rests:
        draft.left.pop("process_results", None)
    _name_model(draft)
    _heed_failure_of_run(draft)
    _count_time_once(draft)
    return draft


def read_2_0(document: Plain, _: Beside) -> Draft:
    """A result of llenergymeasure 2.0, or one of ours with members of somebody else."""
    snapshot = part_of(document, "environment_snapshot")
    listing = snapshot.get("pip_freeze")
    as_lines = isinstance(listing, str) and "installed_packages" not in snapshot
    if as_lines:
        del snapshot["pip_freeze"]
        snapshot["installed_packages"] = [*filter(str.strip, str(listing).splitlines())]
    draft = Draft.of(document)
    if as_lines:
        draft.notes.append("environment_snapshot.pip_freeze: its lines are installed_packages")
    _forget_full_latencies(draft)
    _heed_absence(draft)
    return draft


def read_engine(document: Plain, beside: Beside) -> Draft:
    """A result of llenergymeasure 3.0 or later, with the files beside it."""
    draft = Draft.of(document)
    draft.left.pop("bundle_version", None)
    draft.take("engine", "backend")
    draft.take("engine_version", "backend_version")
    draft.take("declared_config_hash", "measurement_config_hash")
    draft.forget_empty(*_NO_ENGINE)
    _forget_full_latencies(draft)
    _take_axes(draft)
    if "baseline_power_w" not in draft.values:
        draft.values["baseline_power_w"] = draft.part("energy_breakdown").get("baseline_power_w")
    for name in ("environment.json", "system.json"):
        if name in beside:
            _take_environment(draft, name, beside[name])
    _take_config(draft, beside.get("config.json"))
    _heed_absence(draft)
    _forget_millijoules(draft)
    return draft


def _heed_absence(draft: Draft) -> None:
    """Have no energy where the document says, by its own convention, that none was measured."""
    values = draft.values
    if number(values.get("total_energy_j")) != 0:
        return
    told = values.get("measurement_warnings")
    warned = isinstance(told, list) and any(str(text).startswith(NOT_MEASURED) for text in told)
    bare = not values.get("energy_breakdown") and not values.get("avg_energy_per_token_j")
    if warned or bare:
        _forget_energy(draft, "no meter ran")
    else:
        draft.notes.append("total_energy_j: 0 J is kept, since nothing says it was not measured")


def _name_model(draft: Draft) -> None:
    """Have the model's name where records have it; 1.x calls it ``model_name``."""
    config = draft.values.get("effective_config")
    named = [process.get("model_name") for _, process in processes_of(draft.values)]
    if not isinstance(config, dict) or "model" in config:
        return
    for name in (config.get("model_name"), *named[:1]):
        if isinstance(name, str) and name:
            config["model"] = name
            draft.notes.append("effective_config: model was added, which is model_name there")
            return


def _take_hardware(draft: Draft, hardware: Any) -> None:
    """Take the hardware, which is all of the environment that 1.x describes."""
    if not isinstance(hardware, dict) or not hardware or "environment_snapshot" in draft.values:
        return
    taken, rest = fit(hardware, HardwareEnvironment)
    del draft.left["environment"]
    if rest:
        draft.left["environment"] = rest
    draft.values["environment_snapshot"] = {
        "hardware": taken,
        "python_version": "unknown",
        "tool_version": "unknown",
    }
    draft.notes.append("environment_snapshot: the source does not say which Python and tool")


def _heed_failure(process: Plain, rest: dict[Any, Any]) -> None:
    """Have no energy for the process where its tracking failed."""
    failed = rest.get("energy_tracking_failed")
    if not isinstance(failed, bool):
        return
    del rest["energy_tracking_failed"]
    if failed:
        _unmeasure_part(process, rest, "energy_metrics", _ENERGIES)
        _unmeasure_part(process, rest, "energy_breakdown", ("raw_j", "adjusted_j"))


def _heed_failure_of_run(draft: Draft) -> None:
    failed = draft.left.get("energy_tracking_failed")
    if not isinstance(failed, bool):
        return
    del draft.left["energy_tracking_failed"]
    if failed:
        _forget_energy(draft, "energy tracking failed in a process")
    elif number(draft.values.get("total_energy_j")) == 0:
        draft.notes.append("total_energy_j: 0 J is kept, since the source says it was measured")


def _forget_energy(draft: Draft, why: str) -> None:
    """Have no energy; a figure that is not 0 is left, for it is no measurement of the run."""
    had = {name: draft.values.get(name) for name in _TOTALS}
    _unmeasure(draft.values, draft.left, _TOTALS)
    _unmeasure_part(draft.values, draft.left, "energy_breakdown", ("raw_j", "adjusted_j"))
    for name in _TOTALS:
        if had[name]:
            draft.reasons[name] = f"{why}: it is no measurement of the whole run"
    told = draft.values.get("measurement_warnings")
    if told is None or isinstance(told, list):
        warning = f"energy_not_measured: {why}, as the source says"
        draft.values["measurement_warnings"] = [*(told or []), warning]
    draft.notes.append(f"total_energy_j: {had['total_energy_j']} there means not measured: {why}")


def _unmeasure(values: Plain, left: dict[Any, Any], names: tuple[str, ...]) -> None:
    """Have None for *names* in *values*, and leave what was not 0 there."""
    for name in names:
        value = values.get(name)
        if value is not None:
            values[name] = None
            if number(value) != 0:
                left[name] = value


def _unmeasure_part(values: Plain, left: dict[Any, Any], part: str, names: tuple[str, ...]) -> None:
    rest = left.get(part, {})
    if isinstance(values.get(part), dict) and isinstance(rest, dict):
        _unmeasure(values[part], rest, names)
    if rest:
        left[part] = rest


def _count_time_once(draft: Draft) -> None:
    """
    Have the time by the wall clock, and the rate of the whole system.

    1.x sums the time over the processes and takes the mean of their rates, which is the same for
    one process only.
    """
    values, aggregation = draft.values, draft.part("aggregation")
    processes = number(aggregation.get("num_processes")) or 1
    if processes == 1:
        return
    time_s = _wall_clock(
        [part_of(process, "timestamps") for _, process in processes_of(draft.values)]
    )
    time_s = _wall_clock([values], "start_time", "end_time") if time_s is None else time_s
    tokens, summed_s = number(values.get("total_tokens")), values.get("total_inference_time_sec")
    if time_s is None or tokens is None:
        return
    mean = values.get("avg_tokens_per_second")
    if aggregation.setdefault("mean_process_tokens_per_second", mean) != mean:
        draft.leave("avg_tokens_per_second", "the mean of the processes' rates")
    each = [
        part_of(p, "inference_metrics").get("inference_time_sec")
        for _, p in processes_of(draft.values)
    ]
    if not each or not _is_sum(summed_s, each):
        draft.leave("total_inference_time_sec", "summed over processes")
    values["total_inference_time_sec"] = time_s
    values["avg_tokens_per_second"] = tokens / time_s if time_s else 0.0
    draft.notes.append(
        f"total_inference_time_sec: by the wall clock, {time_s} s, for {summed_s} s summed over "
        "processes; avg_tokens_per_second follows it, and the mean of the processes' rates is "
        "aggregation.mean_process_tokens_per_second"
    )


def _wall_clock(windows: list[Plain], start: str = "start", end: str = "end") -> float | None:
    """Length of the union of *windows*. Unit: s. None: their times are not known."""
    try:
        spans = sorted(
            (datetime.fromisoformat(w[start]), datetime.fromisoformat(w[end])) for w in windows
        )
        total, covered = 0.0, spans[0][0]
        for first, last in spans:
            total += max(0.0, (last - max(first, covered)).total_seconds())
            covered = max(covered, last)
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return total


def _is_sum(value: Any, parts: list[Any]) -> bool:
    known = [part for part in parts if number(part) is not None]
    return (
        number(value) is not None
        and len(known) == len(parts)
        and math.isclose(value, summed(known), rel_tol=1e-9)
    )


def _forget_full_latencies(draft: Draft) -> None:
    """Let go of statistics over all intervals where there are none."""
    rest = draft.left.get("latency_stats")
    if isinstance(rest, dict) and isinstance(draft.values.get("latency_stats"), dict):
        forget_empty(rest, "itl_full_mean_ms", "itl_full_p99_ms")
        if not rest:
            del draft.left["latency_stats"]


def _take_axes(draft: Draft) -> None:
    """Take throttling by axes: thermal and power, each in hardware, in software, or any of both."""
    draft.forget_empty("throttle")
    throttle = part_of(draft.left, "throttle")
    axes = [throttle.get(name) for name in ("thermal", "power")]
    if "thermal_throttle" in draft.values or not all(isinstance(axis, dict) for axis in axes):
        return
    del draft.left["throttle"]
    thermal, power = dict(throttle["thermal"]), dict(throttle["power"])
    values = {name: value for name, value in throttle.items() if name not in ("thermal", "power")}
    taken, left = fit(values, ThermalThrottleInfo)
    taken |= {
        "thermal": thermal.pop("any", False),
        "hw_thermal": thermal.pop("hw", False),
        "sw_thermal": thermal.pop("sw", False),
        "hw_power": power.pop("hw", False),
        "power": power.pop("any", False),
    }
    _take_cap(draft, taken, power)
    left |= {name: rest for name, rest in (("thermal", thermal), ("power", power)) if rest}
    draft.values["thermal_throttle"] = taken
    if left:
        draft.left["throttle"] = left


def _take_cap(draft: Draft, taken: Plain, power: Plain) -> None:
    """Take the driver's power cap, a power limit that is none in hardware."""
    cap, brake = power.get("sw"), taken["hw_power"]
    if taken["power"] is False:
        taken["power"] = brake or cap is True
    if not isinstance(cap, bool) or (cap and brake):
        return
    del power["sw"]
    if cap:
        draft.notes.append(
            "throttle.power.sw: true is thermal_throttle.power without hw_power, the driver's cap"
        )


def _take_environment(draft: Draft, name: str, snapshot: Plain) -> None:
    """Take the environment from the file *name* beside the document."""
    rest = _of_this_experiment(draft, name, snapshot)
    if rest is None:
        return
    if "environment_snapshot" in draft.values:
        draft.beside[name] = rest
        return
    cuda = part_of(part_of(rest, "hardware"), "cuda")
    if "driver_supported_version" in cuda and "version" not in cuda:
        cuda["version"] = cuda.pop("driver_supported_version")
    draft.values["environment_snapshot"], rest = fit(rest, EnvironmentSnapshot)
    forget_empty(rest, "runner", "session")
    for key, twin in (("runner", "runner_provenance"), ("session", "session")):
        if key in rest and rest[key] == draft.left.get(twin):
            del rest[key]
    if rest:
        draft.beside[name] = rest


def _take_config(draft: Draft, config: Plain | None) -> None:
    """Take the configuration from ``config.json``: all of it, or its ``declared_config``."""
    declared, rest = config, {}
    if config is not None and not _MARKS_OF_A_FRAME.isdisjoint(config):
        rest = _of_this_experiment(draft, "config.json", config) or {}
        declared = rest.pop("declared_config", None)
    was_kept = declared is not None or "effective_config" in draft.values
    if declared is not None and draft.values.setdefault("effective_config", declared) != declared:
        rest["declared_config"] = declared
    draft.values.setdefault("effective_config", {})
    _take_methodology(draft, rest)
    _take_model(draft, was_kept)
    if rest:
        draft.beside["config.json"] = rest


_MARKS_OF_A_FRAME = {"declared_config", "measurement_methodology", "experiment_id"}
"""What a ``config.json`` has that is more than the configuration alone."""


def _take_methodology(draft: Draft, config: Plain) -> None:
    values = draft.values
    for name, field in (
        ("measurement_methodology", "measurement_methodology"),
        ("steady_state_window", "steady_state_window"),
        ("engine_version", "backend_version"),
    ):
        if name in config and values.get(field) is None:
            values[field] = config.pop(name)
    for holder in (config, draft.left):
        if holder.get("steady_state_not_detected") is False:
            del holder["steady_state_not_detected"]
    if "measurement_methodology" not in values:
        values["measurement_methodology"] = "total"
        draft.notes.append("measurement_methodology: taken as total; the source does not say")


def _take_model(draft: Draft, was_kept: bool) -> None:
    """Have the model's name where records have it, in the configuration."""
    config, name = draft.values["effective_config"], draft.left.get("model_name")
    if not was_kept:
        draft.notes.append("effective_config: there is no config.json beside the source")
    if not isinstance(config, dict) or name is None or config.get("model", name) != name:
        return
    del draft.left["model_name"]
    if "model" not in config:
        config["model"] = name
        if was_kept:
            draft.notes.append("effective_config: model was added, which is model_name there")


def _of_this_experiment(draft: Draft, name: str, content: Plain) -> Plain | None:
    """
    *content* of the file *name*, without what the document says as well.

    None where it is of another experiment: then all of it is left.
    """
    rest = dict(content)
    for key, field in _IDENTITY.items():
        said = draft.values.get(field, draft.left.get(field))
        if key in rest and rest[key] == said:
            del rest[key]
    if "experiment_id" in rest:
        draft.beside[name] = content
        draft.notes.append(f"{name}: was left out, since it is of another experiment")
        return None
    for key in ("schema_version", "bundle_version"):
        if isinstance(rest.get(key), str):
            del rest[key]
    return rest


_IDENTITY = {
    "experiment_id": "experiment_id",
    "measurement_config_hash": "measurement_config_hash",
    "declared_config_hash": "measurement_config_hash",
    "engine": "backend",
    "model_name": "model_name",
}


def _forget_millijoules(draft: Draft) -> None:
    """Let go of millijoules per token where the record says the same in joules."""
    per_token = number(draft.values.get("avg_energy_per_token_j"))
    total = number(draft.values.get("total_energy_j"))
    adjusted = number(draft.values.get("energy_adjusted_j"))
    same = {
        "total": None if per_token is None else 1000 * per_token,
        "adjusted": None
        if not total or per_token is None or adjusted is None
        else 1000 * per_token * adjusted / total,
    }
    for kind, wanted in same.items():
        for name in (f"mj_per_tok_{kind}", f"energy_per_token_mj_{kind}"):
            draft.forget_empty(name)
            found = number(draft.left.get(name))
            if found is None or (wanted is None and found != 0):
                continue
            if wanted is None or math.isclose(found, wanted, rel_tol=1e-9):
                del draft.left[name]
                draft.notes.append(f"{name}: {found} follows from the energies that are kept")
