"""``llem list``: what is kept."""

from llem.cli.output import (
    DEFAULT_MAX_JSON,
    DEFAULT_ROOT,
    AsJson,
    MaxJson,
    Root,
    print_json,
    print_table,
    readable,
)
from llem.domain.result import ExperimentResult
from llem.report.figures import number, number_to_bound, share, to_bound
from llem.report.summary import warnings_of
from llem.report.table import error_bound_j, error_bound_per_token_j, to_row

HEADER = ("key", "energy", "±", "J/token", "tokens/s", "TTFT", "warned")


def list_verb(
    *,
    root: Root = DEFAULT_ROOT,
    max_json_mib: MaxJson = DEFAULT_MAX_JSON,
    as_json: AsJson = False,
) -> int:
    """
    List the results that are kept, oldest first.

    ± is how far off the energy may be, TTFT the median, warned the number of warnings. Where a
    terminal is too narrow, keys are folded; they are whole in a pipe. What cannot be read is named
    on stderr, and the exit status is 1.
    """
    found, status = readable(root, max_json_mib)
    if as_json:
        print_json([to_row(key, result) for key, result in found])
    elif found or status:
        print_table([HEADER, *(_row(*pair) for pair in found)], numeric=(1, 2, 3, 4, 5, 6))
    return status


def _row(key: str, result: ExperimentResult) -> tuple[str, ...]:
    ttft = result.latency_stats.ttft_median_ms if result.latency_stats else None
    return (
        key,
        to_bound(result.total_energy_j, error_bound_j(result), "J"),
        share(_error(result)),
        number_to_bound(
            result.avg_energy_per_token_j, error_bound_per_token_j(result, result.total_tokens)
        ),
        number(result.avg_tokens_per_second),
        number(ttft, "ms"),
        str(len(warnings_of(result))),
    )


def _error(result: ExperimentResult) -> float | None:
    """How far off the energy may be, as a share of it."""
    bound_j = error_bound_j(result)
    if bound_j is None or not result.total_energy_j:
        return None
    return bound_j / result.total_energy_j
