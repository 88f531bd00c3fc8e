from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.patterns import Pattern


@pytest.mark.parametrize("text", ["2:2", "0:4", "4:2", "2-4", "2:4:8", "", "-1:4", "2:4 "])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PruningError, match="0 < N < M"):
        Pattern.read(text)


def test_a_pattern_says_its_density_and_text() -> None:
    pattern = Pattern.read("2:4")
    assert (pattern.kept, pattern.of, pattern.pruned, pattern.density, str(pattern)) == (2, 4, 2, 0.5, "2:4")


def test_a_layer_of_broken_groups_is_refused_by_name() -> None:
    Pattern.read("2:4").check("fc.weight", 8)
    with pytest.raises(PruningError, match=r"'fc.weight' has 10 inputs.*exclude=\['fc'\]"):
        Pattern.read("2:4").check("fc.weight", 10)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(["1:2", "2:4", "4:8", "1:4", "3:4"]), st.integers(0, 2**31), st.booleans())
def test_exactly_the_lowest_of_each_group_are_pruned(text: str, seed: int, ties: bool) -> None:
    pattern = Pattern.read(text)
    scores = torch.rand(5, 4 * pattern.of, generator=torch.Generator().manual_seed(seed))
    scores = scores.round(decimals=1) if ties else scores
    pruned = pattern.lowest(scores)
    assert pattern.holds(~pruned)
    for row, cut in zip(scores.view(-1, pattern.of), pruned.view(-1, pattern.of), strict=True):
        assert row[cut].max() <= row[~cut].min()


def test_a_mask_that_breaks_the_pattern_does_not_hold() -> None:
    pattern = Pattern.read("2:4")
    assert pattern.holds(torch.tensor([[True, False, True, False]]))
    assert not pattern.holds(torch.tensor([[True, True, True, False, True, False, False, False]]))
