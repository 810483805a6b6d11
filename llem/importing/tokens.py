"""
Tokens, and energy per token.

llenergymeasure 2.0 and later divides energy by the generated tokens alone; 1.x and records of llem
have it per token in and out.
"""

import math
from collections.abc import Iterator
from typing import Any

from llem.importing.draft import Draft, Plain, number, part_of, processes_of, summed

TOLERANCE, WHOLE = 1e-6, 1e-9
"""How far a quotient may be off, and how far one that must be a whole number. Relative."""


def take_output_tokens(draft: Draft) -> None:
    """Have the generated tokens of the run, where the source tells them in another place."""
    values = draft.values
    total, inputs = number(values.get("total_tokens")), number(values.get("input_tokens"))
    if total is None or number(values.get("output_tokens")) is not None:
        return
    for found, why in _counts(values):
        if not 0 < found <= total or not math.isclose(found, round(found), rel_tol=WHOLE):
            continue
        if inputs is None or inputs + round(found) == total:
            values["output_tokens"] = round(found)
            draft.notes.append(f"output_tokens: {round(found)}, by {why}")
            return


def divide_by_all_tokens(draft: Draft) -> None:
    """Have energy per token in and out, and say where it was per generated token."""
    values = draft.values
    path = "avg_energy_per_token_j"
    if was := _divide(draft, path, values, values, values):
        draft.notes.append(f"{path}: {was}; energy_per_output_token_j has the former")
    for i, process in processes_of(values):
        energy, counts = part_of(process, "energy_metrics"), part_of(process, "inference_metrics")
        path = f"process_results[{i}].energy_metrics.energy_per_token_j"
        if was := _divide(draft, path, energy, energy, counts):
            draft.notes.append(f"{path}: {was}")


def _divide(draft: Draft, path: str, holder: Plain, energy: Plain, counts: Plain) -> str | None:
    """What the figure at *path* was, where it was per generated token; elsewhere it is kept."""
    name = path.rpartition(".")[2]
    figure, total_j = number(holder.get(name)), number(energy.get("total_energy_j"))
    tokens, outputs = (number(counts.get(f"{kind}_tokens")) for kind in ("total", "output"))
    if figure is None or total_j is None or not tokens:
        return None
    if math.isclose(figure, total_j / tokens, rel_tol=TOLERANCE):
        return None
    if not outputs or not math.isclose(figure, total_j / outputs, rel_tol=TOLERANCE):
        draft.notes.append(
            f"{path}: {figure} is kept, and is neither per total_tokens nor per output token"
        )
        return None
    holder[name] = total_j / tokens
    return f"was per output token ({figure:.4g} J), is per token in and out"


def _counts(values: Plain) -> Iterator[tuple[float, str]]:
    """What the number of generated tokens may be, and what tells it."""
    metrics = [part_of(process, "inference_metrics") for _, process in processes_of(values)]
    counts = [number(each.get("output_tokens")) for each in metrics]
    known = [count for count in counts if count is not None]
    if known and len(known) == len(counts):
        yield summed(known), "the processes"
    energy_j, several = values.get("total_energy_j"), part_of(values, "multi_gpu")
    for whole, by_each, why in (
        (values.get("total_flops"), values.get("flops_per_output_token"), "flops_per_output_token"),
        (energy_j, several.get("energy_per_output_token_j"), "multi_gpu"),
        (energy_j, values.get("avg_energy_per_token_j"), "avg_energy_per_token_j"),
    ):
        if (found := _quotient(whole, by_each)) is not None:
            yield found, why


def _quotient(whole: Any, by_each: Any) -> float | None:
    """*whole* by *by_each*, where that is a number."""
    dividend, divisor = number(whole), number(by_each)
    if dividend is None or not divisor:
        return None
    found = float(dividend) / float(divisor)
    return found if math.isfinite(found) else None
