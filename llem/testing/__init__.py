"""
What tests of and around llem are made of: hypothesis strategies, and the contract of a store.

The contract is a set of test functions over one fixture, so that any store can be held to it. A
test module imports them and gives the fixture, of module scope::

    import pytest
    from llem.testing import *  # noqa: F403

    @pytest.fixture(scope="module")
    def open_store():
        return MyStore  # called without arguments: an empty store

Needs hypothesis and pytest; the contract also needs pyarrow.
"""

try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "llem.testing needs hypothesis and pytest: pip install hypothesis pytest", name=error.name
    ) from error

from llem.testing.contract import (
    OpenStore,
    test_store_counts_and_contains_what_was_put,
    test_store_finds_nothing_under_an_unknown_key,
    test_store_gives_back_a_result_with_its_sidecar,
    test_store_gives_back_the_result,
    test_store_gives_what_put_said,
    test_store_is_a_store,
    test_store_keeps_the_four_columns,
    test_store_lists_the_oldest_start_first,
    test_store_never_overwrites,
    test_store_refuses_a_named_sidecar_that_is_not_given,
    test_store_refuses_other_columns,
    test_store_refuses_what_is_no_result,
    test_store_sets_timeseries_with_a_sidecar,
    test_store_sets_timeseries_with_a_sidecar_only,
    test_store_takes_the_path_of_a_parquet_file,
)
from llem.testing.examples import filled, small_result, small_table
from llem.testing.strategies import (
    conditions,
    configs,
    json_objects,
    process_results,
    records,
    results,
    texts,
    times,
    timeseries_tables,
    values_of,
)

__all__ = [
    "OpenStore",
    "conditions",
    "configs",
    "filled",
    "json_objects",
    "process_results",
    "records",
    "results",
    "small_result",
    "small_table",
    "test_store_counts_and_contains_what_was_put",
    "test_store_finds_nothing_under_an_unknown_key",
    "test_store_gives_back_a_result_with_its_sidecar",
    "test_store_gives_back_the_result",
    "test_store_gives_what_put_said",
    "test_store_is_a_store",
    "test_store_keeps_the_four_columns",
    "test_store_lists_the_oldest_start_first",
    "test_store_never_overwrites",
    "test_store_refuses_a_named_sidecar_that_is_not_given",
    "test_store_refuses_other_columns",
    "test_store_refuses_what_is_no_result",
    "test_store_sets_timeseries_with_a_sidecar",
    "test_store_sets_timeseries_with_a_sidecar_only",
    "test_store_takes_the_path_of_a_parquet_file",
    "texts",
    "times",
    "timeseries_tables",
    "values_of",
]
