"""The public names, and how little importing them loads."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sample import sample_result

import llem
from llem.store import ResultStore

PUBLIC = [
    "SCHEMA_VERSION",
    "AggregatedResult",
    "AggregationError",
    "AggregationMetadata",
    "Audit",
    "BackendError",
    "BackendInfo",
    "BaselineConfig",
    "BaselineMethod",
    "BatchEfficiencyMetrics",
    "BatchOutput",
    "CPUEnvironment",
    "CUDAEnvironment",
    "Check",
    "Clock",
    "ClockComparison",
    "ClockOffset",
    "CommitUnknownError",
    "ComputeMetrics",
    "ConfigError",
    "ContainerEnvironment",
    "DecoderConfig",
    "Device",
    "DeviceEnergy",
    "Edge",
    "EnergyBreakdown",
    "EnergyConfig",
    "EnergyMeter",
    "EnergyMetrics",
    "EnvironmentSnapshot",
    "Experiment",
    "ExperimentConfig",
    "ExperimentResult",
    "ExtendedEfficiencyMetrics",
    "GPUEnvironment",
    "GPUUtilisationMetrics",
    "HardwareEnvironment",
    "Imported",
    "IncompleteRunError",
    "InferenceBackend",
    "InferenceMetrics",
    "InvalidNameError",
    "JsonObject",
    "KVCacheEfficiencyMetrics",
    "Key",
    "LatencyMeasurements",
    "LatencyStatistics",
    "LlemError",
    "LlemWarning",
    "MalformedResultError",
    "MeasurementMode",
    "MemoryEfficiencyMetrics",
    "MemoryStore",
    "MeterError",
    "Moved",
    "MultiGPUMetrics",
    "NaiveTimeWarning",
    "Peers",
    "Phase",
    "PhaseEnergy",
    "Progress",
    "Ranks",
    "RawProcessResult",
    "Repair",
    "RequestLatencyMetrics",
    "ResultAccessError",
    "ResultIntegrityError",
    "ResultNotFoundError",
    "ResultStore",
    "ResultValidationError",
    "Samples",
    "SchemaVersionError",
    "Sensor",
    "SidecarIntegrityError",
    "SidecarMissingWarning",
    "SidecarPathError",
    "SidecarSchemaError",
    "SidecarUnverifiedWarning",
    "Store",
    "StoreFault",
    "StoreWriteError",
    "StoredResult",
    "SyntheticDataset",
    "ThermalEnvironment",
    "ThermalThrottleInfo",
    "Timestamps",
    "Unmapped",
    "Verification",
    "WarmupConfig",
    "WarmupResult",
    "__version__",
    "aggregate_results",
    "audit",
    "canonical_json",
    "config_from_mapping",
    "convert",
    "from_json",
    "json_schema",
    "load",
    "measurement_config_hash",
    "run_experiment",
    "to_json",
]

HEAVY = "pyarrow numpy pydantic torch transformers pynvml typer cyclopts rich pandas hypothesis"


def loaded(code: str, names: str = HEAVY) -> list[str]:
    """Which of *names* are loaded in a fresh interpreter that has run *code*."""
    script = (
        f"{code}\nimport sys\nprint('loaded', *[n for n in {names.split()!r} if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_public_names_are_pinned() -> None:
    """A public name comes or goes on purpose only."""
    assert llem.__all__ == PUBLIC


def test_public_names_are_sorted() -> None:
    """Constants, then classes, then functions, each by name."""

    def rank(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert sorted(PUBLIC, key=rank) == PUBLIC
    assert len(set(PUBLIC)) == len(PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "AggregatedResult"])
def test_public_name_resolves(name: str) -> None:
    """Each name is there, and is what its module calls so."""
    value = getattr(llem, name)

    assert value is not None
    if isinstance(value, type):
        assert value.__name__ == name


def test_every_listed_home_is_public() -> None:
    """What is found is listed, and what is listed is found."""
    assert {*llem._HOME_OF, "__version__", "AggregatedResult"} == set(PUBLIC)


def test_dir_lists_the_public_names() -> None:
    """Completion shows what may be used."""
    assert dir(llem) == sorted(PUBLIC)


def test_star_import_gives_the_public_names() -> None:
    """``from llem import *`` works, the deprecated alias included."""
    names: dict[str, object] = {}

    with pytest.warns(DeprecationWarning, match="AggregatedResult"):
        exec("from llem import *", names)

    assert set(PUBLIC) <= names.keys()


@pytest.mark.parametrize("name", ["nothing", "_HOME", "Result", "torch", "put"])
def test_unknown_name_is_an_attribute_error(name: str) -> None:
    """A name that is not there is named."""
    with pytest.raises(AttributeError, match=f"module 'llem' has no attribute '{name}'"):
        getattr(llem, name)


def test_aggregated_result_is_a_deprecated_alias() -> None:
    """The old name is the same class, and says what it is called now, at the caller's line."""
    with pytest.warns(DeprecationWarning, match="is called ExperimentResult") as caught:
        alias = llem.AggregatedResult

    assert alias is llem.ExperimentResult
    assert [warning.filename for warning in caught] == [__file__]


def test_other_names_do_not_warn() -> None:
    """The new name is quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert llem.ExperimentResult.__name__ == "ExperimentResult"


def test_version_is_that_of_the_package() -> None:
    """It is read from the installed package."""
    from importlib.metadata import version

    assert llem.__version__ == version("llem")


def test_importing_llem_loads_nothing_heavy() -> None:
    """Not even attrs, cattrs and orjson, before a name is used."""
    assert loaded("import llem", f"{HEAVY} attrs cattrs orjson llem.domain llem.errors") == []


@pytest.mark.parametrize(
    "code",
    [
        "from llem import ExperimentConfig, ExperimentResult, ResultStore, from_json, to_json",
        "from llem import MemoryStore\nassert list(MemoryStore()) == []",
        "from llem import Store, EnergyMeter, InferenceBackend, aggregate_results, json_schema",
        "import llem\nllem.measurement_config_hash(llem.ExperimentConfig())",
        "from llem import Experiment, run_experiment",
        "import llem\nassert llem.__version__",
    ],
)
def test_using_a_name_loads_nothing_heavy(code: str) -> None:
    """A machine that only reads results needs attrs, cattrs and orjson."""
    assert loaded(code) == []


def test_reading_results_loads_nothing_heavy(tmp_path: Path) -> None:
    """From a store, from a lone folder and from text, without touching the sidecar."""
    kept = ResultStore(tmp_path).put(sample_result(1, 3))
    code = (
        f"import llem\nstore = llem.ResultStore({str(tmp_path)!r})\n"
        f"result = store.get(*store)\nassert llem.load({kept.path!r}) == result\n"
        "assert llem.from_json(llem.to_json(result)) == result\n"
        "llem.MemoryStore().put(result)"
    )

    assert loaded(code) == []


@pytest.mark.parametrize("library", ["hypothesis", "pytest"])
def test_llem_testing_says_what_to_install(library: str) -> None:
    """Its libraries are none of llem's own."""
    code = (
        f"import sys\nsys.modules[{library!r}] = None\n"
        "try:\n    import llem.testing\n"
        "except ImportError as error:\n    print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == (
        "llem.testing needs hypothesis and pytest: pip install hypothesis pytest\n"
    )


def test_heavy_modules_would_be_seen() -> None:
    """The tests above can fail."""
    assert loaded("import pyarrow, cyclopts", "pyarrow cyclopts no_such_module") == [
        "pyarrow",
        "cyclopts",
    ]


def test_list_loads_no_library_of_hardware_or_tables(tmp_path: Path) -> None:
    """``llem list`` on results without time series."""
    kept = ResultStore(tmp_path).put(sample_result(1, 3))
    code = (
        "from llem.cli import status_of\n"
        f"assert status_of(['list', '--root', {str(tmp_path)!r}]) == 0"
    )
    names = "torch transformers numpy pandas pynvml pyarrow llem.measure llem.experiment"

    assert loaded(code, f"{names} llem.cli.list") == ["llem.cli.list"]
    assert kept.key
