from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_icbs.layerwise import refit as update
from hybrid_icbs.layerwise.refit import refit, refit_exactly, refit_iteratively

some = settings(max_examples=30, deadline=None, derandomize=True)


def layer(seed: int, rows: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(2 * d + 2, d, generator=generator, dtype=torch.float64)
    H = X.T @ X / len(X) + 0.01 * torch.eye(d, dtype=torch.float64)
    W = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    kept = torch.rand(rows, d, generator=generator) < torch.rand(rows, 1, generator=generator)
    return W, H, kept


@some
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12))
def test_a_refit_solves_the_normal_equations_of_each_row(seed: int, rows: int, d: int) -> None:
    W, H, kept = layer(seed, rows, d)
    V = refit(W, H, kept)
    assert not V[~kept].any()
    residual = (V - W) @ H
    assert residual[kept].abs().max() < 1e-9 if kept.any() else True


def test_rows_are_batched_without_changing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H, kept = layer(0, 40, 24)
    kept[3], kept[4] = False, True
    whole = refit_exactly(W, H, kept)
    monkeypatch.setattr(update, "_BATCH_BYTES", 8 * 24 * 24 * 2)
    assert torch.allclose(refit_exactly(W, H, kept), whole, rtol=1e-12, atol=1e-13)
    assert torch.allclose(whole[4], W[4], atol=1e-10)  # nothing pruned, nothing changed
    assert not whole[3].any()


@some
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_conjugate_gradients_come_to_the_same_weights(seed: int, d: int) -> None:
    W, H, kept = layer(seed, 5, d)
    exact = refit_exactly(W, H, kept)
    V = refit_iteratively(W, H, kept, W)
    assert not V[~kept].any()
    assert torch.allclose(V, exact, atol=1e-5)


def test_rows_of_conjugate_gradients_are_batched_without_changing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H, kept = layer(2, 23, 24)
    whole = refit_iteratively(W, H, kept, W)
    monkeypatch.setattr(update, "_BATCH_BYTES", 1)
    monkeypatch.setattr(update, "_LEAST_ROWS", 5)
    assert torch.allclose(refit_iteratively(W, H, kept, W), whole, rtol=1e-12, atol=1e-13)


def test_wide_rows_are_refitted_iteratively(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H, kept = layer(1, 4, 30)
    exact = refit(W, H, kept)
    monkeypatch.setattr(update, "EXACT_UP_TO", 16)
    monkeypatch.setattr(update, "refit_exactly", None)
    assert torch.allclose(refit(W, H, kept, start=exact * 0.5), exact, atol=1e-5)


def test_no_other_weights_on_the_mask_have_a_lower_error() -> None:
    W, H, kept = layer(2, 5, 10)
    V = refit(W, H, kept)
    error = (((V - W) @ H) * (V - W)).sum(1)
    for seed in range(20):
        step = 0.1 * torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * kept
        moved = V + step - W
        assert ((moved @ H * moved).sum(1) >= error - 1e-12).all()
