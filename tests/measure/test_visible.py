"""Which GPUs CUDA_VISIBLE_DEVICES shows, and which a UUID names."""

import pytest

from llem.measure.visible import is_numbered, named_gpus, visible_gpus

A, B, C = "GPU-aa11", "GPU-aa22", "GPU-bb33"
PARENTS = {"MIG-1": A, "MIG-2": A, "MIG-3": C, "MIG-4": "GPU-hidden"}


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        (None, [A, B, C]),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1 , 2 ", [B, C]),
        ("+1", [B]),
        ("1gpu,2", [B, C]),
        ("GPU-bb", [C]),
        ("GPU-aa22,GPU-bb33", [B, C]),
        (" GPU-bb33 , GPU-aa11", [C, A]),
        ("0,GPU-bb", [A, C]),
    ],
)
def test_shown(setting: str | None, shown: list[str]) -> None:
    """Integers and prefixes of UUIDs choose GPUs and their order; without a setting all show."""
    found = visible_gpus(setting, [A, B, C], PARENTS.get)
    assert list(found.items()) == [(uuid, False) for uuid in shown]


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("", []),
        (" ", []),
        ("-1", []),
        ("-1,0", []),
        ("1,-1,0", [B]),
        ("3", []),
        ("0,3,1", [A]),
        ("0,x,1", [A]),
        ("0,,1", [A]),
        ("\u0661", []),
        ("GPU-aa", []),
        ("GPU-cc", []),
        ("gpu-bb", []),
        ("1,GPU-cc,0", [B]),
        ("MIG-9", []),
        ("MIG-4", []),
        ("MIG-GPU-cc/1/0", []),
        ("1,MIG-9,0", [B]),
        ("all", []),
    ],
)
def test_list_ends(setting: str, shown: list[str]) -> None:
    """The first entry that names nothing, or more than one GPU, ends the list."""
    assert list(visible_gpus(setting, [A, B, C], PARENTS.get)) == shown


@pytest.mark.parametrize(
    "setting", ["0,0", "1,2,1", "0, 0", "GPU-bb,2", "GPU-bb,GPU-bb33", "MIG-1,MIG-1"]
)
def test_repeated(setting: str) -> None:
    """An entry that comes twice empties the list."""
    assert visible_gpus(setting, [A, B, C], PARENTS.get) == {}


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("MIG-1", {A: True}),
        (" MIG-3, MIG-1", {C: True, A: True}),
        ("MIG-1,MIG-2,MIG-3", {A: True, C: True}),
        ("MIG-GPU-bb33/1/0", {C: True}),
        ("MIG-GPU-bb33/1/0,MIG-GPU-bb33/2/0", {C: True}),
        ("MIG-1,1", {A: True, B: False}),
        ("MIG-1,0", {A: True}),
    ],
)
def test_mig_instances_stand_for_their_gpu(setting: str, shown: dict[str, bool]) -> None:
    """Instances show the GPU that they are a part of, once, and say so."""
    found = visible_gpus(setting, [A, B, C], PARENTS.get)
    assert list(found.items()) == list(shown.items())


@pytest.mark.parametrize(
    ("setting", "numbered"),
    [
        (None, True),
        ("0", True),
        (" 1 ", True),
        ("GPU-aa11,2", True),
        ("MIG-1,+0", True),
        ("", False),
        ("-1", False),
        ("x", False),
        ("GPU-aa11,GPU-bb", False),
        ("MIG-1", False),
    ],
)
def test_numbered(setting: str | None, *, numbered: bool) -> None:
    """Only integers, and a list of all, depend on how CUDA numbers the GPUs."""
    assert is_numbered(setting) is numbered


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ([], {}),
        (["GPU-bb33", "GPU-aa11"], {C: False, A: False}),
        (["bb33", "aa11", "bb33"], {C: False, A: False}),
        (["MIG-3"], {C: True}),
        (["3"], {C: True}),
        (["MIG-GPU-aa22/1/0"], {B: True}),
        (["1", "aa11"], {A: True}),
        (["aa11", "1"], {A: True}),
    ],
)
def test_named(named: list[str], shown: dict[str, bool]) -> None:
    """UUIDs name GPUs and instances, with their prefix or, as CUDA and torch give them, without."""
    found = named_gpus(named, [A, B, C], PARENTS.get)
    assert list(found.items()) == list(shown.items())


@pytest.mark.parametrize("named", ["cc", "aa", "GPU-1", "MIG-9", "MIG-4", "MIG-aa11"])
def test_named_by_nothing(named: str) -> None:
    """One that names no GPU is told."""
    with pytest.raises(LookupError, match=f"^{named}$"):
        named_gpus([A, named], [A, B, C], PARENTS.get)
