"""Allocation of density: what it costs to prune each row, and where a threshold on the cost divides them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hybrid_icbs.layerwise import allocation
from hybrid_icbs.layerwise.allocation import allocate, by_threshold, sampled, uniform
from hybrid_icbs.layerwise.grams import layer_groups
from hybrid_icbs.layerwise.method import LayerwiseSettings
from hybrid_icbs.layerwise.passes import plan_counts
from hybrid_icbs.methods import get_layer_method
from hybrid_icbs.models.layers import find_layers


class TwoLayers(nn.Module):
    """Layers of 6 and 3 rows; the inputs of the second are those of the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 6, bias=False), nn.Linear(8, 3, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(x)


BATCHES = [{"x": torch.randn(50, 8, generator=torch.Generator().manual_seed(1))}]


def plan(model: nn.Module, method: str = "wanda", loss: Any = None, **settings: Any) -> dict[int, list[int]]:
    groups = layer_groups(model, find_layers(model), BATCHES[0])
    how = LayerwiseSettings(get_layer_method(method), 0.5, **settings)
    return allocate(model, groups, BATCHES, how, loss)


def summed(outputs: Any, batch: Any) -> torch.Tensor:
    """A loss to which the second layer's outputs matter a thousand times as much as the first's."""
    return outputs[0].square().sum() + 1e6 * outputs[1].square().sum()


def test_the_same_density_everywhere() -> None:
    layers = find_layers(TwoLayers())
    counts = uniform(layers, 0.25)
    assert counts == {0: [6] * 6, 1: [6] * 3}


def test_global_scope_moves_density_to_the_layer_that_matters() -> None:
    found = plan(TwoLayers(), loss=summed, objective="joint", scope="global")
    assert sum(map(sum, found.values())) == 36
    assert sum(found[0]) > 24 + 6 > 24 > sum(found[1])


def test_scope_layer_keeps_the_density_of_each_layer() -> None:
    found = plan(TwoLayers(), loss=summed, objective="joint", scope="layer")
    assert {number: sum(counts) for number, counts in found.items()} == {0: 24, 1: 12}
    assert len(set(found[0])) > 1


def test_without_the_joint_objective_no_gradients_are_measured() -> None:
    def refuse(outputs: Any, batch: Any) -> torch.Tensor:
        raise AssertionError("the loss was measured")

    assert sum(map(sum, plan(TwoLayers(), loss=refuse).values())) == 36


def test_a_cheap_weight_after_a_dear_one_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are pruned in order: the second of a row cannot be pruned before the first."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    method = get_layer_method("wanda")
    costs = np.array([[9.0, 1.0], [4.0, 5.0]])
    monkeypatch.setattr(type(method), "costs", lambda self, problem: costs.copy())
    groups = layer_groups(model, find_layers(model), {"input": torch.randn(4, 2)})
    settings = LayerwiseSettings(method, 0.5, objective="joint", scope="global")
    found = allocate(model, groups, [{"input": torch.randn(4, 2)}], settings, lambda outputs, batch: outputs.sum())
    assert found == {0: [0, 2]}


@pytest.mark.parametrize(("objective", "scope"), [("layer", "layer"), ("joint", "layer")])
def test_only_the_joint_objective_differs_from_the_uniform_plan(objective: Any, scope: Any) -> None:
    model = TwoLayers()
    groups = layer_groups(model, find_layers(model), BATCHES[0])
    settings = LayerwiseSettings(get_layer_method("wanda"), 0.5, objective=objective, scope=scope)
    found = plan_counts(model, groups, BATCHES, settings, summed)
    assert (found == uniform(find_layers(model), 0.5)) == (objective == "layer")


def test_costs_are_kept_at_evenly_spread_counts_with_the_last_weight() -> None:
    costs = np.arange(1.0, 301.0)[None]
    kept = sampled(costs)
    assert kept.shape == (1, allocation.POINTS)
    assert kept[0, -1] == 300
    assert kept[0, 63] == 150
    assert sampled(costs[:, :5]).tolist() == [[1, 2, 3, 4, 5]]


def test_between_counts_of_known_cost_a_row_loses_a_share() -> None:
    """Costs of 256 weights are kept at each second count; rows of one cost lose nearly as many."""
    costs = np.arange(1.0, 257.0)
    prices = {0: sampled(np.stack([costs, 1.001 * costs, 1e6 * costs]))}
    assert by_threshold(prices, {0: 256}, 201) == {0: [101, 100, 0]}


def test_a_threshold_lets_as_many_go_as_are_affordable() -> None:
    prices = {0: np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], np.float32)}
    assert by_threshold(prices, {0: 3}, 3) == {0: [3, 0]}
    assert by_threshold(prices, {0: 3}, 4) == {0: [3, 1]}
    assert by_threshold(prices, {0: 3}, 6) == {0: [3, 3]}
    assert by_threshold(prices, {0: 3}, 0) == {0: [0, 0]}


@pytest.mark.parametrize("d", [16, 17])
def test_eliminations_are_exact_up_to_a_width(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W = torch.randn(60, d, generator=generator).double(), torch.randn(4, d, generator=generator).double()
    settings = LayerwiseSettings(get_layer_method("sparsegpt"), 0.5)
    problem = allocation.LayerProblem(W, x.T @ x / 60, [8] * 4, settings)
    exact = allocation.elimination_costs(problem)
    monkeypatch.setattr(allocation, "EXACT_UP_TO", 16)
    assert np.array_equal(allocation.elimination_costs(problem), exact) == (d == 16)
