"""The scaled form: many problems that share one matrix by reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, DenseForm, ProblemError, ScaledForm, SharedMatrix, load

some = settings(max_examples=60, deadline=None, derandomize=True)


def rows(seed: int, n: int, count: int = 3, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """A Gram matrix [n, n] and the rows of a weight [count, n]."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n + 2, n)).astype(dtype)
    gram = X.T @ X
    return (gram + gram.T) / 2, rng.standard_normal((count, n))


@some
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([np.float32, np.float64]))
def test_dense_low_rank_and_scaled_forms_have_the_same_energies(seed: int, n: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    A = np.round(4 * rng.standard_normal((n, 3))).astype(dtype)  # integers, so that the Gram matrix is exact
    s, linear, k = rng.standard_normal(n), rng.standard_normal(n), int(rng.integers(0, n + 1))
    scaled = BlockProblem.scaled(A @ A.T, s, linear, k, offset=1.5)
    dense = BlockProblem(np.outer(s, s) * (A.astype(np.float64) @ A.T.astype(np.float64)), linear, k, offset=1.5)
    low = BlockProblem.low_rank(s[:, None] * A.astype(np.float64), linear, k, offset=1.5)
    X = rng.integers(0, 2, (12, n))
    for one in (dense, low, scaled.to_dense()):
        assert np.allclose(scaled.energy(X), one.energy(X), rtol=1e-12, atol=1e-11)
        assert np.allclose(scaled.local_fields(X), one.local_fields(X), rtol=1e-12, atol=1e-11)
        assert scaled.random_mean_energy() == pytest.approx(one.random_mean_energy(), rel=1e-11, abs=1e-10)


def test_the_energy_is_the_error_of_the_pruned_row() -> None:
    gram, weights = rows(0, 7)
    x = np.array([1, 0, 1, 1, 0, 0, 1])
    problem = BlockProblem.scaled(gram, weights[0], cardinality=4)
    change = -x * weights[0]
    assert problem.energy(x) == pytest.approx(change @ gram @ change, rel=1e-13)


def test_problems_of_one_matrix_hold_it_by_reference() -> None:
    gram, weights = rows(1, 6, dtype=np.float32)
    shared = SharedMatrix.of(gram)
    problems = [BlockProblem.scaled(shared, w, cardinality=3) for w in weights]
    for problem in problems:
        assert isinstance(problem.form, ScaledForm)
        assert np.shares_memory(problem.form.shared.matrix, gram)
        assert problem.form.shared is shared
    assert gram.flags.writeable  # the caller's array is not changed
    with pytest.raises(ValueError, match="read-only"):
        problems[0].form.shared.matrix[0, 0] = 1.0


def test_a_restricted_problem_stays_scaled() -> None:
    gram, weights = rows(2, 8)
    problem = BlockProblem.scaled(gram, weights[0], cardinality=4)
    part = problem.restrict([1, 5, 6], [1, 0, 0, 1, 1, 1, 0, 0])
    assert isinstance(part.form, ScaledForm)
    assert part.energy([0, 0, 1]) == pytest.approx(problem.energy([1, 0, 0, 1, 1, 0, 1, 0]), rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_scaled_problem_is_saved_in_dense_form(tmp_path: Path, dtype: type) -> None:
    gram, weights = rows(3, 8, dtype=dtype)
    problem = BlockProblem.scaled(gram, weights[0], cardinality=4)
    path = problem.save(tmp_path / "row")
    again = load(path)
    assert path.suffix == ".bqm"
    assert isinstance(again.form, DenseForm)
    X = problem.random_states(20, 0)
    assert np.allclose(again.energy(X), problem.energy(X), rtol=1e-13)


def test_patterns_have_a_cardinality_for_each_group() -> None:
    gram, weights = rows(4, 8)
    problem = BlockProblem.scaled(gram, weights[0], cardinality=2, groups=np.arange(8) // 4)
    assert problem.is_feasible([1, 1, 0, 0, 0, 1, 0, 1])
    assert not problem.is_feasible([1, 1, 1, 0, 0, 1, 0, 0])
    assert repr(problem) == "<BlockProblem n=8 cardinality=4 in 2 groups scaled float64>"


@pytest.mark.parametrize(
    ("B", "s", "message"),
    [
        (np.ones((2, 3)), np.ones(2), "square"),
        (np.ones((2, 2)), np.ones(3), r"shape \(3,\); B has 2"),
        ([[1.0, 2.0], [0.0, 1.0]], np.ones(2), "not symmetric"),
        ([[1.0, np.nan], [np.nan, 1.0]], np.ones(2), "finite"),
        (np.eye(2), [np.inf, 0.0], "finite"),
        (np.full((2, 2), 1e200), [1e100, 1.0], "may be infinite"),
    ],
)
def test_invalid_matrices_and_scales_are_refused(B: np.ndarray, s: np.ndarray, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        BlockProblem.scaled(B, s, cardinality=1)
