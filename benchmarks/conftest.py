"""Contenders timed in turn, round by round, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable

import pytest

_REPORTS = pytest.StashKey[list[str]]()


@pytest.fixture
def compare(benchmark, request):
    """Time contenders against each other; ratios are to the one named *reference*."""

    def run(contenders: dict[str, Callable[[], object]], *, reference: str, rounds: int) -> None:
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                began = time.perf_counter()
                contender()
                times[name].append(time.perf_counter() - began)
        ratios = {
            name: statistics.median(
                own / base for own, base in zip(times[name], times[reference], strict=True)
            )
            for name in contenders
        }
        shown = "  ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
        line = f"{request.node.name}: {shown}"
        request.config.stash.setdefault(_REPORTS, []).append(line)
        benchmark.extra_info["ratios"] = ratios
        benchmark.pedantic(contenders["llem"], rounds=3)

    return run


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(_REPORTS, [])
    if lines:
        terminalreporter.section("ratios of medians, contenders in turn")
        for line in lines:
            terminalreporter.write_line(line)
