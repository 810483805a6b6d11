"""A document costs no more than a multiple of its size, and ends in no error but ours."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import llem

V1 = Path(__file__).parent / "kept" / "v1.json"


def test_energies_and_times_beyond_any_double() -> None:
    """Their sum is none that the document could mean, and no crash."""
    document = json.loads(V1.read_bytes())
    (process, *_) = document["process_results"]
    process["inference_metrics"]["inference_time_sec"] = 1.7e308
    document["process_results"] = [process | {"process_index": i} for i in range(3)]

    with contextlib.suppress(llem.LlemError):
        llem.convert(json.dumps(document))


def test_a_long_name_is_not_said_of_each_value_below_it() -> None:
    """Each path would carry it: a document of 1 MB took 1.5 GB."""
    document = json.loads(V1.read_bytes())
    document["K" * 300_000] = [{"a": i} for i in range(1500)]
    text = json.dumps(document)

    tracemalloc.start()
    found = llem.convert(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100 * len(text)
    paths = [field.path for field in found.unmapped if field.path.startswith("KKK")]
    assert len(paths) == 1500
    assert max(map(len, paths)) < 150
    assert "(300000 characters)" in paths[0]
