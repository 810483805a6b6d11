"""Results in memory, for tests and notebooks."""

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llem.codec import read_document
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import TIMESERIES_NAME
from llem.errors import ResultNotFoundError
from llem.protocols import Key, Store, StoredResult
from llem.store import sidecar
from llem.store.commit import new_commit_id
from llem.store.files import path_text, prepared
from llem.store.layout import RESULT_NAME, age_order, candidates, folder_name

if TYPE_CHECKING:
    import pyarrow as pa


class MemoryStore(Store):
    """
    Results in memory, as the bytes that a `ResultStore` would write.

    Safe for many threads; gone with the process. A `StoredResult` of it has no path.
    """

    def __init__(self) -> None:
        self._files: dict[str, dict[str, bytes]] = {}
        self._lock = threading.Lock()

    def put(
        self,
        result: ExperimentResult,
        /,
        *,
        timeseries: "pa.Table | str | os.PathLike[str] | None" = None,
    ) -> StoredResult:
        """As `ResultStore.put`, without a disk that could be full."""
        with prepared(result, timeseries, sidecar.MAX_ROWS) as one:
            files = {name: b"".join(parts) for name, parts in one.files(new_commit_id())}
        with self._lock:
            wanted = folder_name(one.result)
            key = next(name for name in candidates(wanted) if name not in self._files)
            self._files[key] = files
        return StoredResult(key=key, path="", result=one.result)

    def get(self, key: Key, /) -> ExperimentResult:
        """
        The result named *key*.

        Raises:
            ResultNotFoundError: There is none.
        """
        name = self._name(key)
        return read_document(self._files[name][RESULT_NAME], source=name).result

    def timeseries(self, key: Key, /) -> "pa.Table | None":
        """
        The time series of the result named *key*. None: it has none.

        Raises:
            ResultNotFoundError: There is no such result.
        """
        name = self._name(key)
        content = self._files[name].get(TIMESERIES_NAME)
        if content is None:
            return None
        return sidecar.decode(content, source=name, max_rows=sidecar.MAX_ROWS)

    def __iter__(self) -> Iterator[str]:
        """The keys, oldest start first."""
        return iter(sorted(self._files, key=age_order))

    def __len__(self) -> int:
        """How many results are kept."""
        return len(self._files)

    def __contains__(self, key: object, /) -> bool:
        """Whether *key* names a result that is kept here."""
        if isinstance(key, StoredResult):
            return not key.path and key.key in self._files
        return isinstance(key, str) and key in self._files

    def _name(self, key: Key) -> str:
        name = (key.path or key.key) if isinstance(key, StoredResult) else path_text(key)
        if name not in self._files:
            raise ResultNotFoundError(f"{name!r}: there is no result of that name")
        return name
