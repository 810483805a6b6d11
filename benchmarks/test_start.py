"""Whole processes: importing llem, listing 100 results, importing what it is built on."""

import subprocess
import sys

from sample import sample_result

from llem.store import ResultStore

BARE = "import attrs, cattrs, orjson"


def process(code: str):
    """A fresh interpreter that runs *code*."""
    return lambda: subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL
    )


def test_import(compare):
    """``import llem``, and the whole record, store and codec."""
    compare(
        {
            "llem": process("import llem"),
            "llem.ResultStore": process("from llem import ResultStore, from_json"),
            "attrs, cattrs, orjson": process(BARE),
            "python": process("pass"),
        },
        reference="attrs, cattrs, orjson",
        rounds=15,
    )


def test_list(compare, tmp_path):
    """``llem list`` on 100 results, each verified."""
    store = ResultStore(tmp_path)
    for seed in range(100):
        store.put(sample_result(1, 30, seed))
    assert len(store) == 100
    listing = f"from llem.cli import main; main(['list', '--root', {str(tmp_path)!r}])"

    compare(
        {"llem": process(listing), "attrs, cattrs, orjson": process(BARE)},
        reference="attrs, cattrs, orjson",
        rounds=15,
    )
