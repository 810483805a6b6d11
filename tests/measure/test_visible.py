"""Which GPUs CUDA_VISIBLE_DEVICES shows."""

import pytest

from llem.measure.visible import visible_gpus

A, B, C = "GPU-aa11", "GPU-aa22", "GPU-bb33"
PARENTS = {"MIG-1": A, "MIG-2": A, "MIG-3": C}


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
        ("0,GPU-bb", [A, C]),
    ],
)
def test_shown(setting: str | None, shown: list[str]) -> None:
    """Integers and prefixes of UUIDs choose GPUs and their order; without a setting all show."""
    assert visible_gpus(setting, [A, B, C], PARENTS.get) == dict.fromkeys(shown, False)


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("", []),
        ("-1", []),
        ("-1,0", []),
        ("1,-1,0", [B]),
        ("0,3,1", [A]),
        ("0,x,1", [A]),
        ("0,,1", [A]),
        ("GPU-aa", []),
        ("GPU-cc", []),
        ("1,GPU-cc,0", [B]),
        ("MIG-9", []),
        ("all", []),
    ],
)
def test_list_ends(setting: str, shown: list[str]) -> None:
    """The first entry that names nothing, or more than one GPU, ends the list."""
    assert list(visible_gpus(setting, [A, B, C], PARENTS.get)) == shown


@pytest.mark.parametrize("setting", ["0,0", "1,2,1", "GPU-bb,2", "MIG-1,MIG-1"])
def test_repeated(setting: str) -> None:
    """An entry that comes twice empties the list."""
    assert visible_gpus(setting, [A, B, C], PARENTS.get) == {}


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("MIG-1", {A: True}),
        ("MIG-1,MIG-2,MIG-3", {A: True, C: True}),
        ("MIG-GPU-bb33/1/0", {C: True}),
    ],
)
def test_mig_instances_stand_for_their_gpu(setting: str, shown: dict[str, bool]) -> None:
    """Instances show the GPU that they are a part of, once, and say so."""
    assert visible_gpus(setting, [A, B, C], PARENTS.get) == shown
