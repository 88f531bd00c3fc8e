"""The baselines against slow readings of their papers."""

from __future__ import annotations

import pytest
import torch

from hybrid_icbs.layerwise.refit import damped
from hybrid_icbs.methods.magnitude import magnitude
from hybrid_icbs.methods.sparsegpt import sparsegpt
from hybrid_icbs.methods.wanda import wanda
from hybrid_icbs.models.patterns import Pattern


def layer(seed: int = 0, rows: int = 6, d: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(4 * d, d, generator=generator, dtype=torch.float64)
    X = X @ torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(rows, d, generator=generator, dtype=torch.float64), X.T @ X / len(X)


def by_the_formula(
    W: torch.Tensor, H: torch.Tensor, columns: int, share: float, pattern: Pattern | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1 of the SparseGPT paper with a fresh inverse of the remaining Hessian for every column."""
    W, pruned = W.clone(), torch.zeros_like(W, dtype=torch.bool)
    rows, d = W.shape
    for j in range(d):
        if (pattern is None and j % columns == 0) or (pattern and j % pattern.of == 0):
            wide = pattern.of if pattern else columns
            piece = range(j, min(d, j + wide))
            scores = torch.stack([W[:, p].square() / torch.linalg.inv(H[p:, p:])[0, 0] for p in piece], dim=1)
            if pattern:
                pruned[:, j : j + wide] = pattern.lowest(scores)
            else:
                count = round(share * scores.numel())
                flat = torch.zeros(scores.numel(), dtype=torch.bool)
                flat[scores.flatten().argsort()[:count]] = True
                pruned[:, j : j + wide] = flat.reshape(scores.shape)
        inverse = torch.linalg.inv(H[j:, j:])
        for row in range(rows):
            if pruned[row, j]:
                W[row, j:] -= W[row, j] / inverse[0, 0] * inverse[0]  # optimal brain surgeon, columns before frozen
                W[row, j] = 0.0
    return pruned, W


@pytest.mark.parametrize("columns", [4, 8, 16])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_sparsegpt_is_the_papers_algorithm(columns: int, share: float) -> None:
    W, H = layer(d=16)
    pruned, new = sparsegpt(W, H, int(share * W.numel()), columns=columns)
    expected, weights = by_the_formula(W, damped(H, 0.01), columns, share, None)
    assert torch.equal(pruned, expected)
    assert torch.allclose(new, weights, atol=1e-9)
    assert not new[pruned].any()


@pytest.mark.parametrize("text", ["2:4", "4:8"])
def test_sparsegpt_with_a_pattern_is_the_papers_algorithm(text: str) -> None:
    W, H = layer(seed=1)
    pattern = Pattern.read(text)
    pruned, new = sparsegpt(W, H, 0, pattern, columns=8)
    expected, weights = by_the_formula(W, damped(H, 0.01), 8, 0.5, pattern)
    assert pattern.holds(~pruned)
    assert torch.equal(pruned, expected)
    assert torch.allclose(new, weights, atol=1e-9)


def test_sparsegpt_prunes_as_many_as_asked_in_uneven_pieces() -> None:
    W, H = layer(rows=5, d=11)
    pruned, new = sparsegpt(W, H, 23, columns=4)
    assert int(pruned.sum()) == 23
    assert int((new == 0).sum()) == 23


def test_wanda_compares_within_rows() -> None:
    W, H = layer()
    counts = [0, 3, 8, 8, 15, 16]
    pruned = wanda(W, H, counts)
    scores = W.abs() * H.diagonal().sqrt()
    assert pruned.sum(1).tolist() == counts
    for row in range(1, 5):
        assert scores[row][pruned[row]].max() < scores[row][~pruned[row]].min()


def test_magnitude_compares_over_the_layer() -> None:
    W, _ = layer()
    pruned = magnitude(W, 31)
    assert int(pruned.sum()) == 31
    assert W[pruned].abs().max() < W[~pruned].abs().min()


def test_inputs_that_never_occur_are_no_obstacle() -> None:
    W, H = layer()
    H[3], H[:, 3] = 0.0, 0.0
    pruned, new = sparsegpt(W, H, W.numel() // 2)
    assert torch.isfinite(new).all()
    pruned, new = sparsegpt(W, torch.zeros_like(H), W.numel() // 2)
    assert torch.equal(new, W.masked_fill(pruned, 0.0))
