"""``llem run``: measure a model and keep the result."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from llem.cli.export import check_target, write_file
from llem.cli.interrupt import heeded_interrupts
from llem.cli.options import option_class, resolve
from llem.cli.output import DEFAULT_ROOT, AsJson, Root, print_json, print_lines, print_warnings
from llem.cli.progress import show_progress
from llem.domain.config import ExperimentConfig
from llem.errors import ConfigError, StoreWriteError
from llem.experiment import Experiment
from llem.protocols import StoredResult
from llem.report.figures import unicode_text
from llem.report.summary import Line, headline
from llem.report.table import to_csv, to_row
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
    as_json: AsJson = False,
) -> int:
    """
    Measure a model, and keep the result.

    Progress goes to stderr, the summary and the path of the result to stdout.

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
    export_csv
        CSV file to write the result to as well, over what is there.
    """
    settings = resolve(model, options, config)
    if not 0 <= baseline_max_age < math.inf:
        raise ConfigError(
            f"--baseline-max-age must be a number of seconds, 0 or more, got {baseline_max_age}"
        )
    store = ResultStore(root)
    store.check_writable()
    if export_csv is not None:
        check_target(export_csv)
    with heeded_interrupts() as heed:
        with show_progress() as progress:

            def update(stage: str, done: float, total: float | None) -> None:
                heed()
                progress(stage, done, total)

            run = run_experiment(settings, baseline_max_age_s=baseline_max_age, progress=update)
        heed()
        kept = keep(store, run)
    if as_json:
        print_json({**to_row(kept.key, kept.result), "path": unicode_text(kept.path)})
    else:
        print_lines([*headline(kept.result), Line("kept", kept.path)])
        print_warnings(kept.result.measurement_warnings)
    if export_csv is not None:
        write_file(export_csv, to_csv([(kept.key, kept.result)]))
    return 0


def keep(store: ResultStore, run: Experiment) -> StoredResult:
    """
    Put the result of *run* into *store*; a measurement that is done is not given up easily.

    Raises:
        StoreWriteError: It could not be put there; the text says where it was put instead.
    """
    try:
        return store.put(run.result, timeseries=run.timeseries)
    except StoreWriteError as error:
        shelter = ResultStore(tempfile.mkdtemp(prefix="llem-"))
        kept = shelter.put(run.result, timeseries=run.timeseries)
        raise StoreWriteError(f"{error}; the result was kept at {kept.path}") from None
