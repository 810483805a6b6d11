"""What folders are called: safe on every file system, whatever a model is called."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llem.errors import InvalidNameError
from llem.store import ResultStore
from llem.store.layout import MAX_SLUG, age_order, slug
from llem.testing import small_result

CASES = Path(__file__).parents[3] / "shared" / "data" / "malformed.json"

SLUGS = {
    "../../etc/passwd": "etc-passwd",
    "/etc/passwd": "etc-passwd",
    "%2e%2e%2fetc": "2e-2e-2fetc",
    "": "unnamed",
    " ": "unnamed",
    ".": "unnamed",
    "..": "unnamed",
    "///": "unnamed",
    "a" * 300: "a" * MAX_SLUG,
    "é" * 300: "unnamed",
    "a\0b": "a-b",
    "a\nb": "a-b",
    "a\r\nb": "a-b",
    "a\tb": "a-b",
    "a\x1b[31mb": "a-31mb",
    "llama 🦙 v2": "llama-v2",
    "gpt\u202egnp.exe": "gpt-gnp.exe",
    "gp\u200bt2": "gp-t2",
    "caf\u00e9": "caf",
    "cafe\u0301": "caf",
    "\u0130stanbul": "i-stanbul",
    "CON": "x-con",
    "NUL": "x-nul",
    "AUX": "x-aux",
    "prn": "x-prn",
    "COM1": "x-com1",
    "LPT9": "x-lpt9",
    "NUL.txt": "x-nul.txt",
    "COM\u00b9": "x-com1",
    "con_": "x-con",
    "console": "console",
    "com10": "com10",
    "model.": "model",
    "model ": "model",
    ".hidden": "hidden",
    ".llem-tmp-x": "llem-tmp-x",
    "-rf": "rf",
    "a:b@sha256:abc": "a-b-sha256-abc",
    'a*?<>|"b': "a-b",
    "a\\b": "a-b",
    "$(rm -rf ~)`x`": "rm-rf-x",
    "LLAMA": "llama",
    "llama": "llama",
    "\uff27\uff30\uff34": "gpt",
    "run_1": "run_1",
    "\ud800x": "x",
    "meta-llama/Llama-3.1-8B": "meta-llama-llama-3.1-8b",
}


def name_cases():
    """The names of the corpus, where it lies beside the repository."""
    for case in json.loads(CASES.read_text())[1:] if CASES.is_file() else ():
        step = case["steps"][0]
        if "expect_slug" in case and not case["id"].startswith("name-300"):
            name = step.get("name", step.get("name_escape"))
            plain = name if "name" in step else json.loads(f'"{name}"')
            yield pytest.param(plain, case["expect_slug"], id=case["id"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(n, s, id=n[:30].encode("ascii", "backslashreplace").decode())
        for n, s in SLUGS.items()
    ]
    + list(name_cases()),
)
def test_slugs(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize("name", [b"x", None, 7, ["x"], Path("x")], ids=repr)
def test_what_is_no_str_is_no_name(name):
    with pytest.raises(InvalidNameError, match=f"str, got {type(name).__name__}"):
        slug(name)


NEAR_RESERVED = st.text(st.sampled_from("conaulprt019¹.-_ /"), max_size=12)
LONG = st.builds(lambda name, more: name + more * 200, NEAR_RESERVED, NEAR_RESERVED)
NAMES = st.text(st.characters()) | st.text() | NEAR_RESERVED | LONG


@given(NAMES)
@example("con." + "a" * 300)
@example("con" + "_" * 300 + "a")
@example("a" * (MAX_SLUG - 1) + "." + "b")
def test_every_slug_is_safe(name):
    """Lower-case letters, digits, dots, dashes and underscores, at most 160 of them."""
    made = slug(name)

    assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", made)
    assert len(made) <= MAX_SLUG
    assert not re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", made.split(".")[0])


@given(NAMES)
@example("con." + "a" * 300)
@example("con" + "_" * 300 + "a")
def test_the_slug_of_a_slug_is_itself(name):
    assert slug(slug(name)) == slug(name)


@given(NAMES)
def test_names_that_differ_by_case_have_one_slug(name):
    """Some file systems would merge them, so the store tells them apart by suffix."""
    if name.isascii():
        assert slug(name.upper()) == slug(name.lower())


def test_a_folder_has_model_backend_and_start(tmp_path):
    store = ResultStore(tmp_path)
    result = small_result(
        effective_config={"model": "meta-llama/Llama-3.1-8B"},
        backend="vLLM",
        start_time=datetime(2026, 3, 13, 14, 21, 59, 999999, UTC),
    )

    assert store.put(result).key == "meta-llama-llama-3.1-8b_vllm_2026-03-13T14-21"


def test_the_time_in_a_name_is_utc(tmp_path):
    start = datetime(2026, 3, 13, 1, 5, tzinfo=timezone(timedelta(hours=2)))

    kept = ResultStore(tmp_path).put(small_result(start_time=start))

    assert kept.key == "gpt2_pytorch_2026-03-12T23-05"


@pytest.mark.parametrize(
    "config", [{}, {"model": None}, {"model": 7}, {"model": ""}, {"model": "../.."}], ids=repr
)
def test_a_model_without_a_name_has_a_folder(tmp_path, config):
    store = ResultStore(tmp_path / "root")

    kept = store.put(small_result(effective_config=config))

    assert list(store) == [kept.key]
    assert re.fullmatch(r"[a-z0-9]+_pytorch_2026-03-13T14-21", kept.key)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    "name", [*SLUGS, "x" * 10_000], ids=lambda n: n[:20].encode("ascii", "replace").decode()
)
def test_a_result_of_any_model_and_backend_is_kept_in_the_root(tmp_path, name):
    """Never outside of it, in one folder, and found again."""
    store = ResultStore(tmp_path / "root")
    plain = name.encode("utf-8", "replace").decode()
    result = small_result(effective_config={"model": plain}, backend=plain or "x")

    kept = store.put(result)

    assert list(store) == [kept.key]
    assert store.get(kept.key) == result
    assert len(kept.key) < 255 - len("_1000000")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_models_that_differ_by_case_share_a_name(tmp_path):
    store = ResultStore(tmp_path)

    keys = [store.put(small_result(effective_config={"model": m})).key for m in ("GPT2", "gpt2")]

    assert keys[1] == f"{keys[0]}_1"


def test_a_model_that_looks_suffixed_is_told_apart(tmp_path):
    """The name of a result has its suffix after the time, whatever is before it."""
    store = ResultStore(tmp_path)

    keys = [store.put(small_result(effective_config={"model": m})).key for m in ("run_1", "run")]

    assert keys == ["run_1_pytorch_2026-03-13T14-21", "run_pytorch_2026-03-13T14-21"]


def test_keys_are_in_the_order_of_time_and_then_of_suffix():
    """The suffix is a number: 2 comes before 10. Names of another form come last."""
    early, late = "z_pytorch_2026-03-13T14-21", "a_pytorch_2026-03-13T14-22"
    ordered = [early, f"{early}_1", f"{early}_2", f"{early}_10", f"{early}_11", late, "a", "b_2"]
    newest_first = ordered[::-1]

    assert sorted(newest_first, key=age_order) == ordered


def test_a_store_lists_its_names_in_that_order(tmp_path):
    store = ResultStore(tmp_path)
    start = datetime(2026, 3, 13, 14, 21, tzinfo=UTC)
    later = store.put(small_result(start_time=start + timedelta(minutes=1))).key
    same = [store.put(small_result(start_time=start)).key for _ in range(12)]
    other = tmp_path / "copy of a result"
    (tmp_path / later).rename(other)
    again = store.put(small_result(start_time=start + timedelta(minutes=1))).key

    assert list(store) == [*same, again, other.name]
