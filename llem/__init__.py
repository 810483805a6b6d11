"""
The record of an LLM inference energy measurement.

>>> kept = ResultStore("results").put(result)  # doctest: +SKIP
>>> ResultStore("results").get(kept) == kept.result  # doctest: +SKIP
True

Importing llem loads next to nothing: each name below loads its module when it is first used.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llem.aggregate import aggregate_results
    from llem.auditing import Audit, Check, audit
    from llem.codec import (
        canonical_json,
        config_from_mapping,
        from_json,
        json_schema,
        measurement_config_hash,
        to_json,
    )
    from llem.distributed import Ranks
    from llem.domain.config import (
        BaselineConfig,
        DecoderConfig,
        EnergyConfig,
        ExperimentConfig,
        SyntheticDataset,
        WarmupConfig,
    )
    from llem.domain.efficiency import (
        BatchEfficiencyMetrics,
        ExtendedEfficiencyMetrics,
        GPUUtilisationMetrics,
        KVCacheEfficiencyMetrics,
        MemoryEfficiencyMetrics,
        RequestLatencyMetrics,
    )
    from llem.domain.energy import (
        BaselineMethod,
        DeviceEnergy,
        EnergyBreakdown,
        MultiGPUMetrics,
        Phase,
        PhaseEnergy,
        Sensor,
        ThermalThrottleInfo,
    )
    from llem.domain.environment import (
        ContainerEnvironment,
        CPUEnvironment,
        CUDAEnvironment,
        EnvironmentSnapshot,
        GPUEnvironment,
        HardwareEnvironment,
        ThermalEnvironment,
    )
    from llem.domain.freeform import JsonObject
    from llem.domain.latency import (
        LatencyMeasurements,
        LatencyStatistics,
        MeasurementMode,
        WarmupResult,
    )
    from llem.domain.process import (
        SCHEMA_VERSION,
        ComputeMetrics,
        EnergyMetrics,
        InferenceMetrics,
        RawProcessResult,
        Timestamps,
    )
    from llem.domain.result import AggregationMetadata, ClockOffset, ExperimentResult
    from llem.domain.result import ExperimentResult as AggregatedResult
    from llem.errors import (
        AggregationError,
        BackendError,
        CommitUnknownError,
        ConfigError,
        IncompleteRunError,
        InvalidNameError,
        LlemError,
        LlemWarning,
        MalformedResultError,
        MeterError,
        NaiveTimeWarning,
        ResultAccessError,
        ResultIntegrityError,
        ResultNotFoundError,
        ResultValidationError,
        SchemaVersionError,
        SidecarIntegrityError,
        SidecarMissingWarning,
        SidecarPathError,
        SidecarSchemaError,
        SidecarUnverifiedWarning,
        StoreWriteError,
    )
    from llem.experiment import Experiment, Progress
    from llem.importing import Imported, Unmapped, convert
    from llem.protocols import (
        BackendInfo,
        BatchOutput,
        Clock,
        ClockComparison,
        Device,
        Edge,
        EnergyMeter,
        InferenceBackend,
        Key,
        Peers,
        Samples,
        Store,
        StoredResult,
    )
    from llem.running import run_experiment
    from llem.store import (
        MemoryStore,
        Moved,
        Repair,
        ResultStore,
        StoreFault,
        Verification,
        load,
    )

    __version__: str

_HOMES = {
    "llem.aggregate": ["aggregate_results"],
    "llem.auditing": ["Audit", "Check", "audit"],
    "llem.codec": [
        "canonical_json",
        "config_from_mapping",
        "from_json",
        "json_schema",
        "measurement_config_hash",
        "to_json",
    ],
    "llem.distributed": ["Ranks"],
    "llem.domain.config": [
        "BaselineConfig",
        "DecoderConfig",
        "EnergyConfig",
        "ExperimentConfig",
        "SyntheticDataset",
        "WarmupConfig",
    ],
    "llem.domain.efficiency": [
        "BatchEfficiencyMetrics",
        "ExtendedEfficiencyMetrics",
        "GPUUtilisationMetrics",
        "KVCacheEfficiencyMetrics",
        "MemoryEfficiencyMetrics",
        "RequestLatencyMetrics",
    ],
    "llem.domain.energy": [
        "BaselineMethod",
        "DeviceEnergy",
        "EnergyBreakdown",
        "MultiGPUMetrics",
        "Phase",
        "PhaseEnergy",
        "Sensor",
        "ThermalThrottleInfo",
    ],
    "llem.domain.environment": [
        "CPUEnvironment",
        "CUDAEnvironment",
        "ContainerEnvironment",
        "EnvironmentSnapshot",
        "GPUEnvironment",
        "HardwareEnvironment",
        "ThermalEnvironment",
    ],
    "llem.domain.freeform": ["JsonObject"],
    "llem.domain.latency": [
        "LatencyMeasurements",
        "LatencyStatistics",
        "MeasurementMode",
        "WarmupResult",
    ],
    "llem.domain.process": [
        "SCHEMA_VERSION",
        "ComputeMetrics",
        "EnergyMetrics",
        "InferenceMetrics",
        "RawProcessResult",
        "Timestamps",
    ],
    "llem.domain.result": ["AggregationMetadata", "ClockOffset", "ExperimentResult"],
    "llem.errors": [
        "AggregationError",
        "BackendError",
        "CommitUnknownError",
        "ConfigError",
        "IncompleteRunError",
        "InvalidNameError",
        "LlemError",
        "LlemWarning",
        "MalformedResultError",
        "MeterError",
        "NaiveTimeWarning",
        "ResultAccessError",
        "ResultIntegrityError",
        "ResultNotFoundError",
        "ResultValidationError",
        "SchemaVersionError",
        "SidecarIntegrityError",
        "SidecarMissingWarning",
        "SidecarPathError",
        "SidecarSchemaError",
        "SidecarUnverifiedWarning",
        "StoreWriteError",
    ],
    "llem.experiment": ["Experiment", "Progress"],
    "llem.importing": ["Imported", "Unmapped", "convert"],
    "llem.protocols": [
        "BackendInfo",
        "BatchOutput",
        "Clock",
        "ClockComparison",
        "Device",
        "Edge",
        "EnergyMeter",
        "InferenceBackend",
        "Key",
        "Peers",
        "Samples",
        "Store",
        "StoredResult",
    ],
    "llem.running": ["run_experiment"],
    "llem.store": [
        "MemoryStore",
        "Moved",
        "Repair",
        "ResultStore",
        "StoreFault",
        "Verification",
        "load",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


__all__ = [
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


if not TYPE_CHECKING:  # or every wrong name would be a right one to a type checker

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("llem")
        if name == "AggregatedResult":
            message = "AggregatedResult is called ExperimentResult; the old name will go"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return __getattr__("ExperimentResult")
        if name not in _HOME_OF:
            raise AttributeError(f"module 'llem' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
