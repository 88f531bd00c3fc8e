from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_icbs.blockwise.merge import Move, moves_of
from hybrid_icbs.blockwise.objective import block_problem
from problems import BlockProblem, Labels


def block(seed: int, n: int, samples: int, **settings: float) -> tuple[BlockProblem, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, samples)).astype(np.float32)
    w0, pruned = rng.standard_normal(n), rng.random(n) < 0.5
    given = {"gamma": 0.75, "rho": 0.1, "relative_rho": True} | settings
    problem = block_problem(
        G, w0, pruned, labels=Labels(np.zeros(n, np.int32), np.arange(n)), provenance={"round": 0}, **given
    )  # type: ignore[arg-type]
    return problem, {"G": G.astype(np.float64), "w0": w0, "pruned": pruned}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 9), st.floats(0, 2), st.floats(0, 2), st.booleans())
def test_the_energy_is_the_modelled_change_of_the_loss(
    seed: int, n: int, samples: int, gamma: float, rho: float, relative: bool
) -> None:
    """E(x) = gamma g.d + d^T H d / 2 + rho |d|^2 for d = -(dw + x w0), straight from the definition."""
    problem, p = block(seed, n, samples, gamma=gamma, rho=rho, relative_rho=relative)
    H, g = p["G"] @ p["G"].T / samples, p["G"].mean(1)
    damping = rho * np.diag(H).mean() if relative else rho
    dw = np.where(p["pruned"], -p["w0"], 0.0)
    X = np.random.default_rng(seed).integers(0, 2, (8, n))
    d = -(dw + X * p["w0"])
    expected = gamma * d @ g + 0.5 * np.einsum("bi,ij,bj->b", d, H, d) + damping * (d**2).sum(1)
    scale = 1 + np.abs(expected).max() + (p["w0"] ** 2).sum() * np.abs(H).sum()
    np.testing.assert_allclose(problem.energy(X), expected, atol=1e-6 * scale)
    assert problem.energy(p["pruned"].astype(int)) == pytest.approx(0.0, abs=1e-6 * scale)


def test_the_cardinality_keeps_the_density() -> None:
    problem, p = block(3, 10, 4)
    assert problem.cardinality == p["pruned"].sum()
    assert problem.is_low_rank
    assert problem.form.dtype == np.float32


def test_moves_name_what_changes_layer_by_layer() -> None:
    parameter, index = np.array([0, 1, 0, 1], np.int32), np.array([7, 3, 2, 9])
    moves = moves_of(parameter, index, np.array([True, False, True, False]), np.array([False, False, True, True]))
    assert [(m.layer, m.index.tolist(), m.kept.tolist()) for m in moves] == [(0, [7], [False]), (1, [9], [True])]
    assert isinstance(moves[0], Move)
