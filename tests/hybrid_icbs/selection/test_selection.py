from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.selection.candidates import HoldBack, choose_candidates, extreme_of
from hybrid_icbs.selection.schedule import LayerSchedule


def two_layers(seed: int = 0, density: float = 0.3) -> tuple[list[Layer], dict[int, torch.Tensor], Masks]:
    torch.manual_seed(seed)
    layers = find_layers(nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 5)))
    masks = Masks.like(layers)
    scores = {}
    for layer in layers:
        masks.set_flat(layer.name, (torch.rand(layer.size) < density).numpy())
        scores[layer.number] = torch.rand(layer.weight.shape)
    return layers, scores, masks


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(2, 40), st.integers(1, 4), st.floats(0, 0.9), st.integers(0, 3))
def test_blocks_are_disjoint_ordered_and_never_empty(seed: int, n: int, blocks: int, share: float, used: int) -> None:
    layers, scores, masks = two_layers(seed)
    held = HoldBack(layers, share)
    for _ in range(used + 1):
        chosen = choose_candidates(scores, layers, masks, held, n, blocks)
        assert len(chosen) >= 1
        seen = set()
        for c in chosen:
            kept = np.array([masks.flat(layers[p].name)[i] for p, i in zip(c.parameter, c.index, strict=True)])
            assert 1 <= c.pruned < len(c.index) <= max(n, 2)
            np.testing.assert_array_equal(kept, np.arange(len(kept)) >= c.pruned)
            labels = set(zip(c.parameter.tolist(), c.index.tolist(), strict=True))
            assert len(labels) == len(c.index)
            assert not labels & seen
            seen |= labels
            held.add(c.parameter, c.index)


def test_the_most_contested_weights_are_chosen_across_layers() -> None:
    layers, scores, masks = two_layers()
    (chosen,) = choose_candidates(scores, layers, masks, HoldBack(layers, 0.0), 20, 1)
    value = torch.cat([scores[layer.number].flatten() for layer in layers])
    kept = torch.cat([masks[layer.name].flatten() for layer in layers])
    flat = torch.from_numpy(chosen.index) + torch.where(torch.from_numpy(chosen.parameter) == 1, layers[0].size, 0)
    pruned_now, kept_now = flat[: chosen.pruned], flat[chosen.pruned :]
    assert value[pruned_now].min() >= value[~kept].topk(10).values.min()
    assert value[kept_now].max() <= value[kept].topk(10, largest=False).values.max()


def test_used_weights_wait_and_the_oldest_are_let_go_first() -> None:
    layers, _, masks = two_layers()
    held = HoldBack(layers, 0.5)
    kept = masks.flat(layers[0].name)
    pruned = np.flatnonzero(~kept)
    old, new = pruned[:30], pruned[30:60]
    for part in (old, new):
        held.add(np.zeros(len(part), np.int32), part)
    waiting = np.flatnonzero(~kept & ~held.eligible(0, kept, side=False))
    assert len(waiting) == len(pruned) // 2
    assert set(new) <= set(waiting)
    assert held.eligible(0, kept, side=True).sum() == kept.sum()  # kept weights are counted apart


def test_fixed_weights_never_enter_a_block() -> None:
    layers, scores, masks = two_layers()
    held = HoldBack(layers, 0.0)
    kept = masks.flat(layers[0].name)
    held.fix(0, scores[0], kept, pruned_share=0.42, kept_share=0.35)
    flat = scores[0].flatten().numpy()
    for side, share, lowest in ((False, 0.42, True), (True, 0.35, False)):
        own = np.flatnonzero(kept == side)
        fixed = np.setdiff1d(own, np.flatnonzero(held.eligible(0, kept, side)))
        assert len(fixed) == int(share * len(own))
        rest = np.setdiff1d(own, fixed)
        assert (flat[fixed].max() <= flat[rest].min()) if lowest else (flat[fixed].min() >= flat[rest].max())


def test_layers_come_in_proportion_to_the_logarithm_of_their_size() -> None:
    schedule = LayerSchedule([10_000, 100, 100])
    given = [schedule.next(1)[0] for _ in range(400)]
    assert [given.count(n) for n in range(3)] == [200, 100, 100]


def test_a_round_takes_each_layer_once_before_any_comes_twice() -> None:
    schedule = LayerSchedule([10_000, 100, 10])
    assert sorted(schedule.next(3)) == [0, 1, 2]
    assert sorted(schedule.next(5)[:3]) == [0, 1, 2]


def test_no_block_comes_of_a_model_that_keeps_everything() -> None:
    layers, scores, masks = two_layers(density=2.0)
    assert choose_candidates(scores, layers, masks, HoldBack(layers, 0.0), 10, 2) == []


@pytest.mark.parametrize("density", [0.02, 0.98])
def test_blocks_get_smaller_where_one_kind_runs_short(density: float) -> None:
    layers, scores, masks = two_layers(density=density)
    (chosen,) = choose_candidates(scores, layers, masks, HoldBack(layers, 0.4), 100, 1)
    assert 2 <= len(chosen.index) < 100


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 3000), st.floats(0, 1), st.booleans())
def test_partial_selection_finds_the_very_extremes(seed: int, size: int, share: float, barred: bool) -> None:
    rng = np.random.default_rng(seed)
    score = (rng.random(size) ** 8).astype(np.float32)
    eligible = rng.random(size) < (0.1 if barred else 1.0)
    count = int(share**4 * size)
    for largest in (True, False):
        found = extreme_of(score, eligible, count, largest=largest)
        own = np.sort(score[eligible])
        expected = own[max(0, len(own) - count) :] if largest else own[:count]
        assert eligible[found].all()
        assert len(np.unique(found)) == min(count, len(own))
        np.testing.assert_array_equal(np.sort(score[found]), expected)
