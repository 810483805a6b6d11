"""What the processes of a run left, made one result of."""

import contextlib
from collections.abc import Iterator, Sequence

import attrs

from llem.completeness import check_completeness
from llem.domain.result import ExperimentResult
from llem.errors import IncompleteRunError, LlemError
from llem.experiment import conclude
from llem.protocols import StoredResult
from llem.store import Part, ResultStore, Spool
from llem.store.layout import folder_name


def finish(spool: Spool, store: ResultStore, *, allow_incomplete: bool = False) -> StoredResult:
    """
    Make one result of what *spool* holds, keep it in *store*, and remove what is then done with.

    Where it was kept before, and only the removal did not come to its end, nothing is kept twice.

    Args:
        spool: What the processes left.
        store: Where the result goes.
        allow_incomplete: Make do without processes that left nothing, or nothing whole. The result
            says which, and what the others left stays.

    Raises:
        IncompleteRunError: A process is missing, or what it left is not whole; the text names each.
        AggregationError: The processes are not of one run.
        StoreWriteError: The result could not be written.
    """
    with spool.hold():
        manifest = spool.manifest()
        found = check_completeness(manifest, spool.found())
        if not found.complete and not (allow_incomplete and found.usable):
            raise IncompleteRunError(
                f"{spool.folder}: {found}\nwhat is there stays: bring what is missing and call "
                "`llem aggregate` again, or make do without it (--allow-incomplete)"
            )
        parts = [spool.read(index) for index in found.usable]
        result = conclude(
            [(part.process, part.conditions) for part in parts],
            llem_version=manifest.llem_version,
            missing=found.lines,
        )
        if found.complete:
            result = _superseding(store, result)
        kept = _kept_before(store, result) or _keep(store, result, parts, spool)
        if found.complete:
            spool.remove()
    return kept


def _superseding(store: ResultStore, result: ExperimentResult) -> ExperimentResult:
    """*result*, which says what of it was kept before without some of its processes."""
    lines = [
        f"{key} is the same run without some of its processes, which this result has: leave it out"
        for key, kept in _results_like(store, result)
        if kept.aggregation.num_processes < result.aggregation.num_processes
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
    """Results of the same experiment, by key. Their folders have the name of *result*."""
    name = folder_name(result)
    for key in store:
        if key == name or key.startswith(f"{name}_"):
            with contextlib.suppress(LlemError):
                kept = store.get(key)
                if kept.experiment_id == result.experiment_id:
                    yield key, kept


def _keep(
    store: ResultStore, result: ExperimentResult, parts: Sequence[Part], spool: Spool
) -> StoredResult:
    with spool.merged(parts, start_time=result.start_time, max_rows=store.max_rows) as timeseries:
        return store.put(result, timeseries=timeseries)
