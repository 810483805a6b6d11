"""``llem run``: measure a model and keep the result."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from llem.cli.export import check_target, write_file
from llem.cli.interrupt import heeded_interrupts
from llem.cli.kept import tell_kept
from llem.cli.options import option_class, resolve
from llem.cli.output import (
    DEFAULT_ROOT,
    AsJson,
    Root,
    writing_store,
)
from llem.cli.progress import no_progress, show_progress
from llem.cli.status import FAILED
from llem.distributed import Ranks, launched
from llem.distributed.ranks import MAX_TIMEOUT_S, TIMEOUT_S
from llem.domain.config import ExperimentConfig
from llem.errors import ConfigError, LlemError, StoreWriteError
from llem.experiment import Experiment
from llem.protocols import StoredResult
from llem.report.table import to_csv
from llem.running import run_experiment
from llem.store import ResultStore

if TYPE_CHECKING:
    Options = Any
else:
    Options = option_class(ExperimentConfig)


def run_verb(
    model: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
    options: Annotated[Options | None, Parameter(name="*")] = None,
    root: Root = DEFAULT_ROOT,
    export_csv: Path | None = None,
    baseline_max_age: float = 0.0,
    rank_timeout: float = TIMEOUT_S,
    as_json: AsJson = False,
) -> int:
    """
    Measure a model, and keep the result.

    Progress goes to stderr, the summary and the path of the result to stdout. Under `torchrun
    --nproc-per-node N -m llem run` each rank runs its share of the prompts, and one result is kept.

    Parameters
    ----------
    model
        Name on the model hub, path of a local folder, or a built-in model of random weights:
        builtin:tiny-llama, the default, or builtin:llama-1b, which keeps a GPU busy.
    config
        TOML file of settings, named as the options are: n, warmup.n_warmup and so on. Options on
        the command line override it.
    baseline_max_age
        Take the idle power that an earlier run measured on this machine, where that was at most so
        many seconds ago, instead of measuring it. 0: measure it.
    rank_timeout
        How long ranks wait for each other, in seconds, before they give up: more than the slowest
        takes longer than the quickest. One that died is found out sooner.
    export_csv
        CSV file to write the result to as well, over what is there.
    """
    settings = resolve(model, options, config)
    if not 0 <= baseline_max_age < math.inf:
        raise ConfigError(
            f"--baseline-max-age must be a number of seconds, 0 or more, got {baseline_max_age}"
        )
    if not 0 < rank_timeout <= MAX_TIMEOUT_S:
        raise ConfigError(
            f"--rank-timeout must be a number of seconds, more than 0 and up to "
            f"{MAX_TIMEOUT_S:.0f}, got {rank_timeout}"
        )
    store = writing_store(root)
    if launched() is None:
        _check_targets(store, export_csv)
        kept = _run(settings, store, baseline_max_age)
    else:
        with told_by_one(Ranks(root, timeout_s=rank_timeout)) as ranks:
            _check_targets(store, export_csv if ranks.index == 0 else None)
            if not ranks.kept_before:
                of_all = _run_as_rank(ranks, settings, baseline_max_age)
            else:
                of_all = _kept_before(store, ranks.kept_before[0]) if ranks.index == 0 else None
        if of_all is None:
            return 0
        kept = of_all
    tell_kept(kept, as_json=as_json)
    if export_csv is not None:
        write_file(export_csv, to_csv([(kept.key, kept.result)]))
    return 0


def _check_targets(store: ResultStore, export_csv: Path | None) -> None:
    """See that what is to be written can be, before a long run and not after it."""
    store.check_writable()
    if export_csv is not None:
        check_target(export_csv)


def _run(settings: ExperimentConfig, store: ResultStore, baseline_max_age: float) -> StoredResult:
    with heeded_interrupts() as heed:
        with show_progress() as progress:

            def update(stage: str, done: float, total: float | None) -> None:
                heed()
                progress(stage, done, total)

            run = run_experiment(settings, baseline_max_age_s=baseline_max_age, progress=update)
        heed()
        return keep(store, run)


def _run_as_rank(
    ranks: Ranks, settings: ExperimentConfig, baseline_max_age: float
) -> StoredResult | None:
    """What all ranks measured, kept as one result, on rank 0. None on the others."""
    with show_progress() if ranks.index == 0 else no_progress() as progress:

        def update(stage: str, done: float, total: float | None) -> None:
            ranks.heed()
            progress(stage, done, total)

        run_experiment(settings, baseline_max_age_s=baseline_max_age, peers=ranks, progress=update)
        update("gather", 0, None)
        return ranks.keep()


def _kept_before(store: ResultStore, path: str) -> StoredResult:
    """What ranks kept, one of which died then, so that the launcher started all again."""
    return StoredResult(
        key=os.path.basename(os.path.dirname(path)), path=path, result=store.get(path)
    )


@contextmanager
def told_by_one(ranks: Ranks) -> Iterator[Ranks]:
    """Enter *ranks*. Of a failure that all of them meet, one of them tells."""
    try:
        with ranks:
            yield ranks
    except LlemError:
        if ranks.is_to_tell():
            raise
        raise SystemExit(FAILED) from None


def keep(store: ResultStore, run: Experiment) -> StoredResult:
    """
    Put the result of *run* into *store*; a measurement that is done is not given up easily.

    Raises:
        StoreWriteError: It could not be put there; the text says where it was put instead.
    """
    try:
        return store.put(run.result, timeseries=run.timeseries)
    except StoreWriteError as error:
        shelter = writing_store(tempfile.mkdtemp(prefix="llem-"))
        kept = shelter.put(run.result, timeseries=run.timeseries)
        raise StoreWriteError(f"{error}; the result was kept at {kept.path}") from None
