"""The published contract fails a store that breaks a promise."""

import attrs
import pytest

from llem import testing
from llem.errors import LlemError
from llem.protocols import StoredResult
from llem.store import MemoryStore
from llem.testing import small_result, small_table


class Overwrites(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        self._files.clear()
        return super().put(result, timeseries=timeseries)


class ListsInOrderOfPutting(MemoryStore):
    def __iter__(self):
        return iter(self._files)


class SortsKeysAsText(MemoryStore):
    def __iter__(self):
        return iter(sorted(self._files))


class CountsOneMore(MemoryStore):
    def __len__(self):
        return super().__len__() + 1


class ContainsEverything(MemoryStore):
    def __contains__(self, key, /):
        return True


class ContainsNoStoredResult(MemoryStore):
    def __contains__(self, key, /):
        return isinstance(key, str) and super().__contains__(key)


class ForgetsSamples(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        return super().put(attrs.evolve(result, timeseries=None))


class InventsSamples(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        return super().put(result, timeseries=small_table() if timeseries is None else timeseries)


class ReturnsWhatItWasGiven(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        kept = super().put(result, timeseries=timeseries)
        return StoredResult(key=kept.key, path=kept.path, result=result)


class LosesNulls(MemoryStore):
    def timeseries(self, key, /):
        table = super().timeseries(key)
        if table is None:
            return None
        power = table.column("gpu_power_w").fill_null(0.0)
        return table.set_column(1, "gpu_power_w", power)


class WidensColumns(MemoryStore):
    def timeseries(self, key, /):
        table = super().timeseries(key)
        if table is None:
            return None
        return table.set_column(3, "gpu_index", table.column("gpu_index").cast("int64"))


class GivesNoneForUnknownKeys(MemoryStore):
    def get(self, key, /):
        return super().get(key) if key in self else None


class KeepsWhatItRefuses(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        try:
            return super().put(result, timeseries=timeseries)
        except LlemError:
            super().put(small_result())
            raise


class TakesAnything(MemoryStore):
    def put(self, result, /, *, timeseries=None):
        try:
            return super().put(result, timeseries=timeseries)
        except LlemError:
            return super().put(small_result())


BREACHES = [
    (Overwrites, "never_overwrites"),
    (SortsKeysAsText, "never_overwrites"),
    (ListsInOrderOfPutting, "lists_the_oldest_start_first"),
    (SortsKeysAsText, "lists_the_oldest_start_first"),
    (CountsOneMore, "counts_and_contains_what_was_put"),
    (CountsOneMore, "is_a_store"),
    (ContainsEverything, "counts_and_contains_what_was_put"),
    (ContainsNoStoredResult, "counts_and_contains_what_was_put"),
    (ForgetsSamples, "sets_timeseries_with_a_sidecar"),
    (ForgetsSamples, "keeps_the_four_columns"),
    (ForgetsSamples, "takes_the_path_of_a_parquet_file"),
    (InventsSamples, "sets_timeseries_with_a_sidecar_only"),
    (ReturnsWhatItWasGiven, "sets_timeseries_with_a_sidecar"),
    (LosesNulls, "keeps_the_four_columns"),
    (WidensColumns, "keeps_the_four_columns"),
    (GivesNoneForUnknownKeys, "finds_nothing_under_an_unknown_key"),
    (KeepsWhatItRefuses, "refuses_other_columns"),
    (KeepsWhatItRefuses, "refuses_a_named_sidecar_that_is_not_given"),
    (KeepsWhatItRefuses, "refuses_what_is_no_result"),
    (TakesAnything, "refuses_other_columns"),
    (TakesAnything, "refuses_a_named_sidecar_that_is_not_given"),
    (TakesAnything, "refuses_what_is_no_result"),
    (object, "is_a_store"),
]


@pytest.mark.parametrize(
    ("store", "promise"), BREACHES, ids=[f"{store.__name__}-{name}" for store, name in BREACHES]
)
def test_a_breach_is_found(store, promise, tmp_path_factory):
    contract = getattr(testing, f"test_store_{promise}")
    more = [tmp_path_factory] if promise == "takes_the_path_of_a_parquet_file" else []

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        contract(store, *more)


def test_the_whole_contract_is_published():
    """Whatever is a part of it is imported with the rest."""
    contract = {name for name in vars(testing) if name.startswith("test_")}

    assert contract <= set(testing.__all__)
    assert len(contract) == 15
    assert testing.__all__ == sorted(testing.__all__, key=lambda name: (name[0].islower(), name))
