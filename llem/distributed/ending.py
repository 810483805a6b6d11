"""What the processes of a run left, made one result of."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import attrs

from llem.completeness import check_completeness
from llem.domain.result import ExperimentResult
from llem.errors import IncompleteRunError, LlemError, LlemWarning
from llem.experiment import INCOMPLETE, conclude
from llem.protocols import StoredResult
from llem.store import Part, ResultStore, Spool, merged
from llem.store.layout import folder_name

Item = TypeVar("Item")


def finish(
    spool: Spool,
    store: ResultStore,
    *,
    allow_incomplete: bool = False,
    step: Callable[[], None] = lambda: None,
) -> StoredResult:
    """
    Make one result of what *spool* holds, keep it in *store*, and remove what is then done with.

    Where it was kept before, and only the removal did not come to its end, nothing is kept twice.

    Args:
        spool: What the processes left.
        store: Where the result goes.
        allow_incomplete: Make do without processes that left nothing, or nothing whole. The result
            says which, and what the others left stays.
        step: Called now and then, each time that it got on.

    Raises:
        IncompleteRunError: A process is missing, or what it left is not whole; the text names each.
        AggregationError: The processes are not of one run.
        StoreWriteError: The result could not be written.
    """
    with spool.hold():
        manifest = spool.manifest()
        found = check_completeness(manifest, _stepping(step, spool.found()))
        if not found.complete and not (allow_incomplete and found.usable):
            raise IncompleteRunError(
                f"{spool.folder}: {found}\nwhat is there stays: bring what is missing and call "
                "`llem aggregate` again, or make do without it (--allow-incomplete)"
            )
        parts = [spool.read(index) for index in _stepping(step, found.usable)]
        result = conclude(
            [(part.process, part.conditions) for part in parts],
            llem_version=manifest.llem_version,
            completeness=found,
        )
        if found.complete:
            result = _superseding(store, result)
        step()
        kept = _kept_before(store, result) or _keep(store, result, parts, step)
        if found.complete:
            with told_on_the_way_out(kept.path):
                remove_done(spool)
    return kept


def _stepping(step: Callable[[], None], items: Iterable[Item]) -> Iterator[Item]:
    """*items*, with a *step* for each."""
    for item in items:
        step()
        yield item


def remove_done(spool: Spool) -> None:
    """Remove *spool*, whose result is kept: where that cannot be, it is nothing to fail for."""
    try:
        spool.remove()
    except LlemError as fault:
        warnings.warn(f"{fault}: its result is kept, so take it away", LlemWarning, stacklevel=2)


@contextlib.contextmanager
def told_on_the_way_out(path: str) -> Iterator[None]:
    """Whatever ends the block says that the result was kept at *path* before."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the result was kept at {path}")
        raise


def _superseding(store: ResultStore, result: ExperimentResult) -> ExperimentResult:
    """*result*, which says what of it was kept before without some of its processes."""
    lines = [
        f"{key} is the same run without some of its processes, which this result has: leave it out"
        for key, kept in _results_like(store, result)
        if kept.aggregation.method == INCOMPLETE
    ]
    aggregation = result.aggregation
    told = attrs.evolve(aggregation, warnings=(*lines, *aggregation.warnings))
    return attrs.evolve(result, aggregation=told)


def _kept_before(store: ResultStore, result: ExperimentResult) -> StoredResult | None:
    """The same result, where whoever kept it died before the state was removed."""
    for key, kept in _results_like(store, result):
        if kept.process_results == result.process_results:
            return StoredResult(key=key, path=store.path_of(key), result=kept)
    return None


def _results_like(
    store: ResultStore, result: ExperimentResult
) -> Iterator[tuple[str, ExperimentResult]]:
    """
    Results of the same experiment, by key.

    Their folders have the name of *result*, or that of a neighbouring minute: without some of its
    processes a run may begin later.
    """
    minutes = [timedelta(minutes=minutes) for minutes in (-1, 0, 1)]
    names = [folder_name(result, moved_by=by) for by in minutes]
    for key in store:
        if any(key == name or key.startswith(f"{name}_") for name in names):
            with contextlib.suppress(LlemError):
                kept = store.get(key)
                if kept.experiment_id == result.experiment_id:
                    yield key, kept


def _keep(
    store: ResultStore,
    result: ExperimentResult,
    parts: Sequence[Part],
    step: Callable[[], None],
) -> StoredResult:
    with merged(
        parts,
        root=store.root,
        start_time=result.start_time,
        max_rows=store.max_rows,
        step=step,
    ) as timeseries:
        return store.put(result, timeseries=timeseries)
