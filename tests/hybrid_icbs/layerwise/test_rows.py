"""One layer pruned row by row, and its rows as block problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import solvers
from hybrid_icbs.layerwise import allocation
from hybrid_icbs.layerwise.method import LayerProblem, LayerwiseSettings, PrunedMatrix
from hybrid_icbs.layerwise.method import prune_matrix as prune_by
from hybrid_icbs.layerwise.refit import damped, refit
from hybrid_icbs.layerwise.rows import row_problems
from hybrid_icbs.layerwise.windows import search_windows
from hybrid_icbs.methods import get_layer_method
from hybrid_icbs.models.layers import find_layers
from hybrid_icbs.models.patterns import Pattern
from problems import ScaledForm, load_set, save_set


def layer(seed: int = 0, count: int = 5, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(4 * d, d, generator=generator) @ torch.randn(d, d, generator=generator)
    gram = X.T @ X / len(X)
    return torch.randn(count, d, generator=generator), (gram + gram.T) / 2


def by(method: str = "icbs", pattern: Pattern | None = None, **how: Any) -> LayerwiseSettings:
    return LayerwiseSettings(get_layer_method(method), None if pattern else 0.5, pattern=pattern, **how)


def prune_matrix(
    W: torch.Tensor, gram: torch.Tensor, counts: list[int], method: str = "icbs", **how: Any
) -> PrunedMatrix:
    return prune_by(W, gram, counts, by(method, **how))


def error(W: torch.Tensor, new: torch.Tensor, gram: torch.Tensor) -> float:
    change = new - W.double()
    return float(((change @ gram.double()) * change).sum())


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_rows_are_block_problems_of_the_weights_they_name(kind: str) -> None:
    from transformers.pytorch_utils import Conv1D

    model: Any = nn.Linear(12, 5) if kind == "linear" else Conv1D(5, 12)
    found = find_layers(nn.Sequential(nn.ReLU(), model))[0]
    W = rows_of(found)
    _, gram = layer()
    problems = list(row_problems(found, W, gram, [6] * 5, ridge=0.0, provenance={"seed": 3}))
    assert len(problems) == 5
    flat = found.weight.detach().flatten().numpy()
    for number, problem in enumerate(problems):
        assert problem.labels is not None
        assert np.array_equal(flat[problem.labels.index], W[number].numpy())
        assert problem.provenance["row"] == number
        x = problem.random_states(1, number)[0]
        pruned = torch.where(torch.from_numpy(x).bool(), 0.0, W[number].double())
        assert problem.energy(x) == pytest.approx(error(W[number : number + 1], pruned[None], gram), rel=1e-9)


def rows_of(found: Any) -> torch.Tensor:
    weight: torch.Tensor = found.weight.detach()
    return weight.T if found.kind.name == "conv1d" else weight


def test_all_rows_share_one_matrix_in_memory() -> None:
    W, gram = layer()
    found = find_layers(nn.Sequential(nn.Linear(12, 5)))[0]
    forms = [problem.form for problem in row_problems(found, W, gram, [6] * 5)]
    assert all(isinstance(form, ScaledForm) for form in forms)
    assert len({id(form.shared) for form in forms if isinstance(form, ScaledForm)}) == 1


@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)])
def test_any_solver_answers_exported_rows_and_the_search_is_as_good(tmp_path: Path, pattern: Pattern | None) -> None:
    W, gram = layer(1)
    found = find_layers(nn.Sequential(nn.Linear(12, 5)))[0]
    problems = list(row_problems(found, W, gram, [6] * 5, pattern))
    searched = prune_matrix(W, gram, [6] * 5, pattern=pattern)
    read = load_set(save_set(problems, tmp_path / "rows"))
    for row, problem in enumerate(read):
        best = solvers.solve(problem, backend="exact", seed=0).first.energy
        mine = problem.energy((~searched.kept[row]).numpy().astype(np.int8))
        assert best <= mine * (1 + 1e-9)
        assert mine <= 1.1 * best


@pytest.mark.parametrize("text", [None, "2:4"])
def test_searching_the_refitted_error_beats_refitting_a_search(text: str | None) -> None:
    W, gram = layer(2, count=30, d=32)
    pattern = Pattern.read(text) if text else None
    H = damped(gram, 0.01)
    searched = prune_matrix(W, gram, [16] * 30, update="backsolve", pattern=pattern)
    plain = prune_matrix(W, gram, [16] * 30, pattern=pattern)
    refitted = refit(W, H, plain.kept)
    assert error(W, searched.weights, H) < 0.95 * error(W, refitted, H)


@pytest.mark.parametrize("text", [None, "2:4"])
def test_wide_rows_are_searched_in_windows_and_beat_sparsegpt(
    monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    W, gram = layer(3, count=40, d=64)
    H, pattern = damped(gram, 0.01), Pattern.read(text) if text else None
    exact = prune_matrix(W, gram, [32] * 40, update="backsolve", pattern=pattern)
    monkeypatch.setattr("hybrid_icbs.methods.icbs.EXACT_UP_TO", 16)
    monkeypatch.setattr("hybrid_icbs.layerwise.refit.EXACT_UP_TO", 16)
    monkeypatch.setattr("hybrid_icbs.layerwise.windows.COLUMNS", 16)
    wide = prune_matrix(W, gram, [32] * 40, update="backsolve", pattern=pattern)
    theirs = prune_matrix(W, gram, [32] * 40, method="sparsegpt", update="backsolve", pattern=pattern)
    assert wide.kept.sum(1).tolist() == [32] * 40
    assert error(W, exact.weights, H) < error(W, wide.weights, H) < error(W, theirs.weights, H)


def test_one_window_is_the_exact_search() -> None:
    W, gram = layer(5, count=10, d=24)
    H = damped(gram, 0.01)
    pruned, new = search_windows(W.double(), H, [12] * 10, columns=24)
    exact = prune_matrix(W, gram, [12] * 10, update="backsolve")
    assert torch.equal(~pruned, exact.kept)
    assert torch.allclose(new, exact.weights, atol=1e-6)


def test_columns_to_the_right_of_a_window_make_up_for_its_cuts() -> None:
    W, gram = layer(6, count=10, d=24)
    H = damped(gram, 0.01)
    counts = [5] * 10
    # Dear weights on the right, so that all cuts fall into the window on the left.
    W[:, 12:] *= 1e6
    pruned, new = search_windows(W.double(), H, counts, columns=12)
    assert not pruned[:, 12:].any()
    refitted = refit(W.double(), H, ~pruned)
    assert torch.allclose(new, refitted, rtol=1e-7, atol=1e-5)


def test_wide_layers_have_prices_without_elimination(monkeypatch: pytest.MonkeyPatch) -> None:
    W, gram = layer(4, count=6, d=32)
    settings = by(update="backsolve", threads=1)
    problem = LayerProblem(W.double(), gram.double(), [16] * len(W), settings)
    exact = settings.method.costs(problem)
    monkeypatch.setattr(allocation, "EXACT_UP_TO", 16)
    rough = settings.method.costs(problem)
    assert np.allclose(rough[:, 0], exact[:, 0])  # the first to go costs the same
    assert np.all(np.diff(rough, axis=1) >= 0)


@pytest.mark.parametrize("d", [5, 128, 300])
def test_thresholds_meet_totals_and_spend_where_prices_are_low(d: int) -> None:
    rng = np.random.default_rng(0)
    costs = np.sort(rng.random((4, d)) * np.array([[1.0], [10.0], [100.0], [1e-3]]), axis=1)
    prices = {0: allocation.sampled(costs[:2]), 7: allocation.sampled(costs[2:])}
    plan = allocation.by_threshold(prices, {0: d, 7: d}, 2 * d)
    lost = [*plan[0], *plan[7]]
    assert sum(lost) == 2 * d
    assert lost[3] == d
    exact = (costs <= np.sort(costs.ravel())[2 * d - 1]).sum(1)
    assert np.abs(np.array(lost) - exact).max() <= max(1, d // 64)


def test_weights_that_cost_nothing_go_first() -> None:
    prices = {0: allocation.sampled(np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))}
    assert allocation.by_threshold(prices, {0: 4}, 4) == {0: [4, 0]}
    assert sum(allocation.by_threshold({0: prices[0][:1]}, {0: 4}, 3)[0]) == 3
