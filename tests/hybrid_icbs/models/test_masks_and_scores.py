from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import cross_entropy
from hybrid_icbs.models.layers import find_layers
from hybrid_icbs.models.masks import Masks, shares
from hybrid_icbs.selection.scores import initial_masks, score_weights


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), min_size=1, max_size=8), st.data())
def test_shares_add_up_and_respect_the_room(parts: list[tuple[float, int]], data: st.DataObject) -> None:
    weights, caps = [w for w, _ in parts], [c for _, c in parts]
    total = data.draw(st.integers(0, sum(caps)))
    found = shares(total, weights, caps)
    assert sum(found) == total
    assert all(0 <= f <= c for f, c in zip(found, caps, strict=True))


def test_shares_give_remainders_to_the_largest_fractions() -> None:
    assert shares(10, [1.0, 1.0, 1.0], [9, 9, 9]) == [4, 3, 3]
    assert shares(7, [6.0, 3.0, 1.0], [9, 9, 9]) == [4, 2, 1]
    with pytest.raises(ValueError, match="cannot be split"):
        shares(10, [1.0], [9])


def test_masks_unpack_on_access() -> None:
    masks = Masks({"a": (3, 5), "b": (4,)})
    masks.assign("a", np.array([0, 14]), np.array([False, False]))
    assert masks["a"].shape == (3, 5)
    assert masks["a"].dtype == torch.bool
    assert not masks["a"][0, 0]
    assert not masks["a"][2, 4]
    assert (masks.kept("a"), masks.kept()) == (13, 17)
    assert masks.density() == 17 / 19
    masks["a"][:] = False  # a new tensor: the masks do not change
    assert masks.kept("a") == 13


def test_masks_compare_by_checksum() -> None:
    masks = Masks({"a": (3, 5)})
    twin = masks.copy()
    assert masks.checksum() == twin.checksum()
    twin.assign("a", np.array([3]), np.array([False]))
    assert masks.checksum() != twin.checksum()
    twin.assign("a", np.array([3]), np.array([True]))
    assert masks.checksum() == twin.checksum()


def test_a_copy_is_independent_and_counts_its_own_weights() -> None:
    masks = Masks({"a": (3, 5), "b": (4,)})
    masks.assign("a", np.array([1, 2]), np.array([False, False]))
    twin = masks.copy()
    assert (twin.kept("a"), twin.kept()) == (13, 17)
    twin.assign("a", np.array([0]), np.array([False]))
    assert (masks.kept("a"), twin.kept("a")) == (13, 12)
    assert bool(masks["a"][0, 0]) > bool(twin["a"][0, 0])


def test_checksums_differ_by_name_and_shape() -> None:
    shapes: list[dict[str, tuple[int, ...]]] = [{"a": (3, 5)}, {"b": (3, 5)}, {"a": (5, 3)}, {"a": (15,)}]
    assert len({Masks(shape).checksum() for shape in shapes}) == 4


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.fc = nn.Conv2d(2, 6, 3, groups=2), Conv1D(7, 6), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.mid(self.conv(x).mean((2, 3)))))


@pytest.mark.parametrize("comparison", ["global", "layer", "output", "input"])
@pytest.mark.parametrize("density", [0.5, 0.137, 0.01])
def test_every_comparison_keeps_exactly_the_demanded_number(comparison: str, density: float) -> None:
    torch.manual_seed(0)
    layers = find_layers(Mixed())
    scores = [layer.weight.detach().abs() for layer in layers]
    masks = initial_masks(scores, layers, density, comparison)  # type: ignore[arg-type]
    total = sum(layer.size for layer in layers)
    assert masks.kept() == round(density * total)
    for layer, score in zip(layers, scores, strict=True):
        turned = layer.kind.name == "conv1d"
        mask, score = ((t.T if turned else t).reshape(t.shape[turned], -1) for t in (masks[layer.name], score))
        if comparison == "layer":
            assert abs(int(mask.sum()) - density * layer.size) < 1
            rows, scored = [mask.flatten()], [score.flatten()]
        elif comparison == "output":
            rows, scored = list(mask), list(score)
            assert mask.sum(1).max() - mask.sum(1).min() <= 1
        elif comparison == "input":
            rows, scored = list(mask.T), list(score.T)
            assert mask.sum(0).max() - mask.sum(0).min() <= 1
        else:
            continue
        for row, values in zip(rows, scored, strict=True):
            if row.any() and not row.all():
                assert values[row].min() >= values[~row].max()


def test_scores_are_what_their_names_say() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    layers = find_layers(model)
    x, y = torch.randn(5, 2, 6, 6), torch.arange(5) % 3
    batch = Batch(x, y, 5)

    def scores(kind: str, seed: int = 0) -> list[torch.Tensor]:
        return score_weights(model, layers, kind, batch, cross_entropy, seed)  # type: ignore[arg-type]

    for layer, found in zip(layers, scores("magnitude"), strict=True):
        assert torch.equal(found, layer.weight.detach().abs())
    torch.nn.functional.cross_entropy(model(x), y).backward()
    for layer, found in zip(layers, scores("gradient"), strict=True):
        assert layer.weight.grad is not None
        torch.testing.assert_close(found, (layer.weight.grad * layer.weight).detach().abs())
    conv, mid, _ = scores("wanda")
    norm = x.square().sum((0, 2, 3)).sqrt()
    expected = torch.cat([model.conv.weight[:3].abs() * norm[0], model.conv.weight[3:].abs() * norm[1]]).detach()
    torch.testing.assert_close(conv, expected)
    features = model.conv(x).mean((2, 3))
    torch.testing.assert_close(mid, (model.mid.weight.abs() * features.square().sum(0).sqrt()[:, None]).detach())
    assert all(torch.equal(a, b) for a, b in zip(scores("random"), scores("random"), strict=True))
    assert not torch.equal(scores("random", 1)[0], scores("random", 2)[0])
