"""Each prompt of a run is one rank's."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.errors import ConfigError
from llem.running import _share


def rank(index: int, count: int):
    return SimpleNamespace(index=index, count=count)


@given(st.integers(1, 60), st.integers(1, 20))
def test_prompts_are_divided(prompts: int, ranks: int) -> None:
    """Each is run once, and no rank has more than one more than another."""
    shares = [_share(range(prompts), rank(i, ranks)) for i in range(ranks) if prompts >= ranks]

    assert sorted(prompt for share in shares for prompt in share) == [
        *range(prompts if prompts >= ranks else 0)
    ]
    assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_rank_without_a_prompt_is_refused() -> None:
    """All of them are, and told how many there have to be."""
    for index in range(3):
        with pytest.raises(ConfigError, match="--num-prompts 3 or more"):
            _share(range(2), rank(index, 3))


def test_one_process_has_all() -> None:
    assert _share(range(3), None) == range(3)
