"""``llem list``: what is kept."""

from llem.cli.message import say
from llem.cli.output import AsJson, Root, print_json, print_table, readable
from llem.domain.result import ExperimentResult, model_name
from llem.report.figures import number, with_unit
from llem.report.table import to_row
from llem.store import ResultStore

HEADER = ("key", "model", "energy", "J/token", "tokens/s", "TTFT p50", "warnings")


def list_verb(*, root: Root = "results", as_json: AsJson = False) -> int:
    """List the results that are kept, oldest first. What cannot be read is named on stderr."""
    found = list(readable(ResultStore(root)))
    if as_json:
        print_json([to_row(key, result) for key, result in found])
    elif found:
        print_table([HEADER, *(_row(*pair) for pair in found)], numeric=(2, 3, 4, 5, 6))
    else:
        say(f"no results in {root}: `llem run` makes one")
    return 0


def _row(key: str, result: ExperimentResult) -> tuple[str, ...]:
    ttft = result.latency_stats.ttft_median_ms if result.latency_stats else None
    return (
        key,
        model_name(result.effective_config),
        with_unit(result.total_energy_j, "J"),
        number(result.avg_energy_per_token_j),
        number(result.avg_tokens_per_second),
        number(ttft, "ms"),
        str(len(result.measurement_warnings)),
    )
