"""
Late aggregation: the raw data of all processes into one result, statistics computed once.

The only place that builds an `ExperimentResult` from measurements, for one process as for many.
"""

from llem.aggregate.devices import distinct_devices
from llem.aggregate.latency import latency_statistics
from llem.aggregate.results import aggregate_results
from llem.aggregate.statistics import percentile
from llem.aggregate.windows import wall_clock_sec

__all__ = [
    "aggregate_results",
    "distinct_devices",
    "latency_statistics",
    "percentile",
    "wall_clock_sec",
]
