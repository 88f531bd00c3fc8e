"""N:M patterns in runs of blocks: masks of the start, blocks of whole groups, results that hold the pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import solvers
from hybrid_icbs import Config, Pruner, PruningError, prune
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.pruning import complete
from hybrid_icbs.selection.candidates import HoldBack
from hybrid_icbs.selection.groups import choose_groups, holds, pattern_masks

Tensors = tuple[torch.Tensor, torch.Tensor]
TWO_FOUR: dict[str, Any] = {
    "pattern": "2:4", "steps": 6, "round_size": 2, "block_size": 64, "batch_size": 64, "backend": "tabu?offspring=3",
}  # fmt: skip


def layers_of_three_kinds() -> list[Layer]:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    return find_layers(nn.Sequential(nn.Conv2d(8, 3, 3), nn.Linear(12, 5), Conv1D(6, 16)))


def groups_by_hand(layer: Layer, of: int) -> list[list[int]]:
    """Flat indices of each group: walk over the outputs, and positions of a kernel, along the inputs."""
    index = torch.arange(layer.size).reshape(layer.weight.shape)
    if layer.kind.name == "conv1d":
        lines = [index[:, out] for out in range(index.shape[1])]
    elif layer.kind.name == "linear":
        lines = list(index)
    else:
        lines = [index[o, :, y, x] for o in range(3) for y in range(3) for x in range(3)]
    return [line[i : i + of].tolist() for line in lines for i in range(0, len(line), of)]


@pytest.mark.parametrize("text", ["2:4", "1:4", "1:2"])
def test_the_masks_of_the_start_keep_the_best_of_every_group(text: str) -> None:
    layers, pattern = layers_of_three_kinds(), Pattern.read(text)
    scores = [torch.rand(layer.weight.shape) for layer in layers]
    masks = pattern_masks(scores, layers, pattern)
    assert holds(masks, layers, pattern)
    for layer, score in zip(layers, scores, strict=True):
        flat = score.flatten()
        for group in groups_by_hand(layer, pattern.of):
            best = sorted(group, key=lambda i: -flat[i])[: pattern.kept]
            assert {i for i in group if masks.flat(layer.name)[i]} == set(best)


def test_a_layer_whose_inputs_are_no_whole_groups_is_named() -> None:
    layers = find_layers(nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(PruningError, match=r"'0.weight' has 3 inputs.*exclude"):
        pattern_masks([layers[0].weight], layers, Pattern.read("2:4"))


def test_blocks_are_the_most_contested_whole_groups_and_are_disjoint() -> None:
    layers, pattern = layers_of_three_kinds(), Pattern.read("2:4")
    scores = {layer.number: torch.rand(layer.weight.shape) for layer in layers}
    masks = pattern_masks([torch.rand(layer.weight.shape) for layer in layers], layers, pattern)
    chosen = choose_groups(scores, layers, masks, HoldBack(layers, 0.0), pattern, 22, 3)
    gains = {}
    for layer in layers:
        score, kept = scores[layer.number].flatten(), masks.flat(layer.name)
        for group in groups_by_hand(layer, 4):
            pruned = max(score[i] for i in group if not kept[i])
            gains[layer.number, tuple(group)] = float(pruned - min(score[i] for i in group if kept[i]))
    best = sorted(gains, key=lambda key: -gains[key])[:15]
    found = set()
    for c in chosen:
        assert len(c.index) == 20
        kept = [masks.flat(layers[p].name)[i] for p, i in zip(c.parameter, c.index, strict=True)]
        assert kept == sorted(kept)
        assert c.pruned == 10
        for g in range(5):
            (number,) = set(c.parameter[c.groups == g].tolist())
            found.add((number, tuple(sorted(c.index[c.groups == g].tolist()))))
    assert found == {(number, tuple(sorted(group))) for number, group in best}


def test_groups_that_were_used_wait() -> None:
    layers, pattern = layers_of_three_kinds()[1:2], Pattern.read("2:4")
    layers = find_layers(nn.Sequential(nn.Linear(40, 4)))
    scores = {0: torch.rand(layers[0].weight.shape)}
    masks, held = pattern_masks([layers[0].weight.abs()], layers, pattern), HoldBack(layers, 0.5)
    seen = []
    for _ in range(2):
        (chosen,) = choose_groups(scores, layers, masks, held, pattern, 40, 1)
        held.add(chosen.parameter, chosen.index)
        seen.append(set(chosen.index.tolist()))
    assert len(seen[0]) == len(seen[1]) == 40
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"scope": "layer", "hold_back": 0.4}, {"pattern": "4:8", "init": "gradient"}, {"update": "backsolve"},
        {"pattern": "1:4", "init": "wanda", "guard": "off"}, {"backend": "sa?restarts=2&sweeps=20"},
        {"backend": "exact", "block_size": 16}, {"backend": "decompose?solver=exact&size=16&rounds=2"},
    ],
)  # fmt: skip
def test_a_result_holds_its_pattern_exactly(classifier: nn.Module, digits: Tensors, settings: dict[str, Any]) -> None:
    given = TWO_FOUR | settings
    start = prune(classifier, digits, **given | {"steps": 0}, progress=False)
    found = prune(classifier, digits, **given, progress=False)
    pattern = Pattern.read(given["pattern"])
    for result in (start, found):
        assert holds(result.masks, find_layers(result.model), pattern)
        assert result.density == pattern.density
    weights = dict(found.model.named_parameters())
    assert all(bool((weights[name][~mask] == 0).all()) for name, mask in found.masks.items())
    assert sum(row["swaps"] for row in found.history if row["accepted"]) > 0
    assert not all(torch.equal(start.masks[name], found.masks[name]) for name in found.masks)
    if found.scores:
        assert found.scores["result"]["loss"] < start.scores["result"]["loss"]  # type: ignore[operator]


def test_a_block_takes_only_answers_that_hold_the_pattern(classifier: nn.Module, digits: Tensors) -> None:
    p = Pruner(classifier, digits, Config.of(**TWO_FOUR))
    problem, _ = p.ask()
    assert problem.constraint.counts.tolist() == [2] * 16
    with pytest.raises(PruningError, match="in each group as many"):
        p.tell(problem, (problem.constraint.groups < 8).astype(int))
    p.tell(problem, solvers.solve(problem, "tabu", seed=0))


def test_a_stopped_run_goes_on_to_the_same_masks(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    whole = prune(classifier, digits, **TWO_FOUR, progress=False)
    part = Pruner(classifier, digits, Config.of(**TWO_FOUR), out=tmp_path)
    part.run(after_round=lambda p: setattr(p, "interrupted", True))
    part.ask()
    part.close()
    resumed = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    assert all(torch.equal(resumed.masks[name], whole.masks[name]) for name in whole.masks)


def test_a_2_4_result_goes_through_torchs_semi_structured_format_and_back(
    classifier: nn.Module, digits: Tensors
) -> None:
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass,
        sparse_semi_structured_to_dense_cutlass,
    )

    result = prune(classifier, digits, **TWO_FOUR, update="backsolve", progress=False)
    weight = result.model[2].weight.detach().half()  # type: ignore[index]
    values, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert values.shape == (256, 128)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, meta), weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "4:2"}, "pattern '4:2' must be N:M"),
        ({"density": 0.3}, "keeps 0.5 of the weights, and density is 0.3"),
        ({"cut_steps": 3}, "cut_steps = 3 cannot go with pattern 2:4"),
        ({"preset": "icbs-paper"}, "set both to 0"),
        ({"block_size": 3}, "block_size = 3 is smaller than a group of pattern 2:4"),
    ],
)
def test_what_a_pattern_cannot_go_with_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        Config.of(**TWO_FOUR | settings)
