"""``llem list``: what is kept."""

from llem.cli.message import say
from llem.cli.output import AsJson, Root, print_json, print_table, readable
from llem.domain.result import ExperimentResult
from llem.report.figures import number, with_unit
from llem.report.table import to_row
from llem.store import ResultStore

HEADER = ("key", "energy", "J/token", "tokens/s", "TTFT p50", "warned")


def list_verb(*, root: Root = "results", as_json: AsJson = False) -> int:
    """
    List the results that are kept, oldest first.

    What cannot be read is named on stderr, and the exit status is 1.
    """
    found, status = readable(ResultStore(root))
    if as_json:
        print_json([to_row(key, result) for key, result in found])
    elif found or status:
        print_table([HEADER, *(_row(*pair) for pair in found)], numeric=(1, 2, 3, 4, 5))
    else:
        say(f"no results in {root}: `llem run` makes one")
    return status


def _row(key: str, result: ExperimentResult) -> tuple[str, ...]:
    ttft = result.latency_stats.ttft_median_ms if result.latency_stats else None
    return (
        key,
        with_unit(result.total_energy_j, "J"),
        number(result.avg_energy_per_token_j),
        number(result.avg_tokens_per_second),
        number(ttft, "ms"),
        str(len(result.measurement_warnings)),
    )
