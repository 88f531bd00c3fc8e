from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, DenseForm, Labels, LowRankForm, ProblemError, ScaledForm

some = settings(max_examples=60, deadline=None, derandomize=True)
problems = st.from_type(BlockProblem)


def every_state(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=n)), np.int8)


def by_definition(problem: BlockProblem, X: np.ndarray) -> np.ndarray:
    """x^T Q x + c.x + offset, term by term."""
    X = X.astype(np.float64)
    if isinstance(problem.form, LowRankForm):
        Q = problem.form.factor.astype(np.float64) @ problem.form.factor.astype(np.float64).T
    elif isinstance(problem.form, ScaledForm):  # the diagonal of Q is in c
        B, s = problem.form.shared.matrix.astype(np.float64), problem.form.scales
        Q = np.diag(s) @ (B - np.diag(np.diagonal(B))) @ np.diag(s)
    else:
        Q = problem.form.matrix.astype(np.float64)
    return np.einsum("bi,ij,bj->b", X, Q, X) + X @ problem.linear + problem.offset


def scale(problem: BlockProblem) -> float:
    """The largest possible energy, to which rounding errors are relative."""
    return float(np.abs(problem.to_dense().form.dense()).sum() + np.abs(problem.single_energies).sum()) + abs(
        problem.offset
    )


# Energies


@some
@given(problems)
def test_all_forms_give_the_energy_of_the_definition(problem: BlockProblem) -> None:
    X = every_state(problem.n)
    expected = by_definition(problem, X)
    tolerance = 1e-13 * scale(problem)
    assert np.allclose(problem.energy(X), expected, rtol=0, atol=tolerance)
    assert np.allclose(problem.to_dense().energy(X), expected, rtol=0, atol=tolerance)


@some
@given(problems)
def test_a_batch_and_single_states_have_the_same_energies(problem: BlockProblem) -> None:
    X = every_state(problem.n)[-5:]
    singles = [problem.energy(x) for x in X]
    assert all(isinstance(energy, float) for energy in singles)
    assert np.allclose(problem.energy(X), singles, rtol=1e-13, atol=1e-13 * scale(problem))
    assert problem.energy(X).dtype == np.float64


@some
@given(problems, st.integers(0, 2**32 - 1))
def test_the_change_of_a_flip_is_the_difference_of_energies(problem: BlockProblem, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    flipped = x ^ np.eye(problem.n, dtype=np.int64)
    expected = problem.energy(flipped) - problem.energy(x)
    assert np.allclose(problem.flip_changes(x), expected, rtol=0, atol=1e-12 * scale(problem))
    assert np.allclose(problem.flip_changes(np.array([x, x]))[1], problem.flip_changes(x), rtol=1e-12, atol=1e-12)


@some
@given(problems, st.integers(0, 2**32 - 1))
def test_the_change_of_a_swap_is_the_difference_of_energies(problem: BlockProblem, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    pairs = [(i, j) for i in np.flatnonzero(x) for j in np.flatnonzero(x == 0)]
    if not pairs:
        return
    remove, add = np.array(pairs).T
    swapped = np.repeat(x[None], len(pairs), axis=0)
    swapped[np.arange(len(pairs)), remove] = 0
    swapped[np.arange(len(pairs)), add] = 1
    expected = problem.energy(swapped) - problem.energy(x)
    changes = problem.swap_change(x, remove, add)
    assert np.allclose(changes, expected, rtol=0, atol=1e-12 * scale(problem))
    assert isinstance(problem.swap_change(x, int(remove[0]), int(add[0])), float)


@some
@given(problems)
def test_the_random_mean_energy_is_the_mean_over_all_feasible_states(problem: BlockProblem) -> None:
    X = every_state(problem.n)
    mean = problem.energy(X[problem.is_feasible(X)]).mean()
    assert problem.random_mean_energy() == pytest.approx(mean, rel=0, abs=1e-12 * scale(problem) + 1e-300)


@some
@given(problems, st.integers(0, 2**32 - 1))
def test_a_restricted_problem_has_the_energies_of_the_whole_one(problem: BlockProblem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = problem.random_states(1, rng)[0]
    free = rng.permutation(problem.n)[: rng.integers(1, problem.n + 1)]
    part = problem.restrict(free, x)
    for y in every_state(len(free)):
        whole = x.copy()
        whole[free] = y
        assert part.energy(y) == pytest.approx(problem.energy(whole), rel=0, abs=1e-12 * scale(problem) + 1e-300)
        assert part.is_feasible(y) == problem.is_feasible(whole)


@some
@given(problems)
def test_row_couplings_and_dense_view_agree(problem: BlockProblem) -> None:
    Q = problem.form.dense()
    rows = np.array([problem.form.row(i) for i in range(problem.n)])
    i, j = np.meshgrid(np.arange(problem.n), np.arange(problem.n), indexing="ij")
    couplings = problem.form.couplings(i.ravel(), j.ravel()).reshape(Q.shape)
    assert np.array_equal(Q, Q.T)
    assert np.all(np.diagonal(Q) == 0)
    assert np.allclose(rows, Q, rtol=1e-12, atol=1e-12 * scale(problem))
    assert np.allclose(couplings, Q, rtol=1e-12, atol=1e-12 * scale(problem))


def test_sums_over_chunks_of_rows_agree_with_sums_over_all(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, states = rng.standard_normal((60, 60)), rng.integers(0, 2, (3, 60))
    dense, low = BlockProblem(whole, None, 5), BlockProblem.low_rank(whole[:, :7], None, 5)
    before = [(p.energy(states), p.local_fields(states), p.random_mean_energy(), p.form.row(59)) for p in (dense, low)]
    monkeypatch.setattr("problems.forms.base._CHUNK_BYTES", 512)
    after = [(p.energy(states), p.local_fields(states), p.random_mean_energy(), p.form.row(59)) for p in (dense, low)]
    for one, other in zip(before, after, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.allclose(a, b, rtol=1e-12)


# Construction


def test_symmetric_and_triangular_arrays_are_the_same_problem(rng: np.random.Generator) -> None:
    Q = rng.standard_normal((6, 6))
    X = every_state(6)
    triangular = np.triu(Q) + np.tril(Q, -1).T
    expected = np.einsum("bi,ij,bj->b", X.astype(float), Q, X.astype(float))
    for given_as in (Q, triangular, triangular.T, (Q + Q.T) / 2):
        assert np.allclose(BlockProblem(given_as, None, 3).energy(X), expected)


def test_the_diagonal_moves_into_the_linear_term() -> None:
    problem = BlockProblem([[3.0, 1.0], [1.0, -4.0]], [0.5, 0.5], 1)
    assert problem.linear.tolist() == [3.5, -3.5]
    assert problem.single_energies.tolist() == [3.5, -3.5]
    low = BlockProblem.low_rank([[1.0], [2.0]], [0.5, 0.5], 1)
    assert low.linear.tolist() == [0.5, 0.5]
    assert low.single_energies.tolist() == [1.5, 4.5]


def test_coefficients_are_read_only_copies() -> None:
    Q, linear = np.ones((3, 3)), np.zeros(3)
    problem = BlockProblem(Q, linear, 1)
    Q[:] = linear[:] = 7.0
    assert problem.energy([1, 1, 0]) == 4.0
    for array in (problem.linear, problem.form.matrix, problem.constraint.counts):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_low_rank_factor_is_not_copied() -> None:
    A = np.ones((5, 2), np.float32)
    problem = BlockProblem.low_rank(A, None, 2)
    assert np.shares_memory(problem.form.factor, A)
    assert A.flags.writeable
    assert problem.form.dtype == np.float32


def test_float32_energies_accumulate_in_float64(rng: np.random.Generator) -> None:
    A = rng.standard_normal((3000, 3)).astype(np.float32)
    x = np.ones(3000, np.int8)
    exact = float((A.astype(np.float64).sum(axis=0) ** 2).sum())
    assert BlockProblem.low_rank(A, None, 1).energy(x) == pytest.approx(exact, rel=1e-12)
    Q = (rng.standard_normal((500, 500))).astype(np.float32)
    Q = np.triu(Q, 1) + np.triu(Q, 1).T
    assert BlockProblem(Q, None, 1).energy(np.ones(500)) == pytest.approx(Q.sum(dtype=np.float64), rel=1e-12)
    assert BlockProblem(Q, None, 1).form.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 4, 37])
def test_states_of_any_number_of_ones_have_the_energy_of_the_definition(
    dtype: type, n: int, rng: np.random.Generator
) -> None:
    problem = BlockProblem(rng.normal(size=(n, n)).astype(dtype), rng.normal(size=n), 1, offset=0.5)
    for ones in range(n + 1):
        x = rng.permutation(np.arange(n) < ones)
        assert problem.energy(x) == pytest.approx(by_definition(problem, x[None])[0], rel=0, abs=1e-13 * scale(problem))


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda Q: np.repeat(Q, 2, axis=1)[:, ::2]])
def test_energies_do_not_depend_on_the_memory_layout(layout: Any, rng: np.random.Generator) -> None:
    upper = np.triu(rng.normal(size=(9, 9)), 1)
    Q, x = upper + upper.T, rng.integers(0, 2, (9, 6)).astype(np.int8)
    assert DenseForm(layout(Q)).energies(x.T).tolist() == DenseForm(Q).energies(x.T.copy()).tolist()


def test_large_couplings_of_variables_that_are_zero_do_not_change_the_energy() -> None:
    Q = np.zeros((12, 12))
    Q[:4, 7] = Q[7, :4] = 1e308
    problem = BlockProblem(Q, None, 4)
    ones = np.arange(12) < 4
    assert problem.energy(ones) == 0.0
    assert problem.energy(ones | (np.arange(12) == 7)) == np.inf


@pytest.mark.parametrize("dtype", [">f8", np.float16, np.longdouble, int])
def test_dense_problems_are_made_of_float32_or_float64(dtype: Any) -> None:
    low = BlockProblem.low_rank(np.ones((4, 2)), None, 2)
    with pytest.raises(ProblemError, match="stored as float32 or float64, not"):
        low.to_dense(dtype)


def test_functions_are_compiled_without_a_cache_if_none_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import CompileResultCacheImpl

    from problems.compiling import compiled

    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    assert compiled(nogil=True)(lambda x: x + 1)(2) == 3


def test_a_first_compilation_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from problems import compiling

    monkeypatch.setattr(compiling._first_time, "logged", False)
    plus_one = compiling.nb.njit(lambda x: x + 1)
    with caplog.at_level("INFO", "problems.compiling"):
        plus_one(1)
        plus_one(1.0)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["compiling for this processor"]


def test_labels_follow_the_variables_of_a_restricted_problem() -> None:
    labels = Labels(np.array([0, 0, 1], np.int32), np.array([5, 7, 2**40]))
    problem = BlockProblem(np.zeros((3, 3)), None, 2, labels=labels)
    part = problem.restrict([2, 0], [1, 0, 1])
    assert part.labels is not None
    assert part.labels.parameter.tolist() == [1, 0]
    assert part.labels.index.tolist() == [2**40, 5]


def test_the_repr_shows_size_cardinality_and_form() -> None:
    assert repr(BlockProblem(np.zeros((4, 4)), None, 2)) == "<BlockProblem n=4 cardinality=2 dense float64>"
    low = BlockProblem.low_rank(np.zeros((4, 3), np.float32), None, 1, groups=[0, 0, 1, 1])
    assert repr(low) == "<BlockProblem n=4 cardinality=2 in 2 groups rank 3 float32>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"Q": np.zeros((2, 3)), "cardinality": 1}, r"\(2, 3\).*square"),
        ({"Q": np.zeros(4), "cardinality": 1}, r"\(4,\).*square"),
        ({"Q": [[0, np.nan], [0, 0]], "cardinality": 1}, r"Q\[0, 1\] is nan"),
        ({"Q": [[0, 0], [-np.inf, 0]], "cardinality": 1}, r"Q\[1, 0\] is -inf"),
        ({"Q": [[0, 1j], [0, 0]], "cardinality": 1}, "complex128"),
        ({"Q": [["a", "b"], ["c", "d"]], "cardinality": 1}, "real numbers"),
        ({"Q": np.eye(2), "linear": [1.0], "cardinality": 1}, r"\(1,\).*\[2\]"),
        ({"Q": np.eye(2), "linear": [1.0, np.inf], "cardinality": 1}, r"linear\[1\] is inf"),
        ({"Q": np.eye(2) * 1.7e308, "linear": [1.7e308, 0], "cardinality": 1}, "not finite"),
        ({"Q": np.eye(2), "offset": np.nan, "cardinality": 1}, "offset is nan"),
        ({"Q": np.eye(2)}, "needs cardinality="),
        ({"Q": np.eye(64), "cardinality": 70}, "cardinality 70 is larger than the block's 64 variables"),
        ({"Q": np.eye(2), "cardinality": -1}, "cardinality -1 is negative"),
        ({"Q": np.eye(2), "cardinality": 1.5}, "1.5 must be made of integers"),
        ({"Q": np.eye(2), "cardinality": True}, "True must be made of integers"),
        ({"Q": np.eye(2), "cardinality": "two"}, "'two' must be made of integers"),
        ({"Q": np.eye(2), "cardinality": [1, 1]}, "2 numbers but no groups"),
        ({"Q": np.eye(2), "cardinality": [1, 1], "groups": [0, 2]}, r"0\.\.2.*0\.\.1"),
        ({"Q": np.eye(2), "cardinality": 1, "groups": [0, 10**15]}, "1000000000000000"),
        ({"Q": np.eye(2), "cardinality": 1, "groups": [-1, 0]}, r"-1\.\.0"),
        ({"Q": np.eye(2), "cardinality": [1], "groups": [0]}, r"\(1,\).*\[2\]"),
        ({"Q": np.eye(3), "cardinality": [2, 1], "groups": [0, 1, 1]}, "2 is larger than .* group 0"),
        ({"Q": np.eye(2), "cardinality": 1, "labels": Labels(np.zeros(3), np.zeros(2))}, r"labels.parameter.*\(3,\)"),
        ({"Q": np.eye(2), "cardinality": 1, "labels": Labels(np.array([0, 2**31]), np.zeros(2, int))}, "fit int32"),
        ({"Q": np.eye(2), "cardinality": 1, "labels": Labels(np.zeros(2, int), np.array([0.5, 1]))}, "index must hold"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        BlockProblem(**arguments)


@pytest.mark.parametrize("A", [np.zeros(3), np.zeros((2, 2, 2)), [[np.nan]], [["x"]]])
def test_an_invalid_factor_is_refused(A: object) -> None:
    with pytest.raises(ProblemError, match="A"):
        BlockProblem.low_rank(A, None, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.energy([0, 1]), r"\(2,\).*\[3\]"),
        (lambda p: p.energy([0, 1, 2]), "zeros and ones"),
        (lambda p: p.energy([-1, 1, 1]), "spins"),
        (lambda p: p.energy([0, 1, np.nan]), "zeros and ones"),
        (lambda p: p.energy(np.zeros((1, 1, 3))), r"\(1, 1, 3\)"),
        (lambda p: p.swap_change([[1, 0, 0]], 0, 1), "one state"),
        (lambda p: p.swap_change([1, 0, 0], 1, 2), "removes a variable that is one"),
        (lambda p: p.swap_change([1, 1, 0], 0, 1), "adds a variable that is zero"),
        (lambda p: p.swap_change([1, 0, 0], 0, 3), r"\[3\].*0\.\.2"),
        (lambda p: p.swap_change([1, 0, 0], -3, 1), r"\[-3\].*0\.\.2"),
        (lambda p: p.restrict([0, 0], [1, 0, 0]), "twice"),
        (lambda p: p.restrict([3], [1, 0, 0]), r"0\.\.2"),
        (lambda p: p.restrict([0], [0, 1, 1]), "-1 is negative"),
        (lambda p: p.restrict([0], [0, 0, 0]), None),
    ],
)
def test_invalid_states_and_moves_are_refused(call: object, message: str | None) -> None:
    problem = BlockProblem(np.zeros((3, 3)), None, 1)
    if message is None:
        assert call(problem).cardinality == 1
        return
    with pytest.raises(ProblemError, match=message):
        call(problem)


# Cardinalities


def test_one_number_is_the_cardinality_of_every_group() -> None:
    problem = BlockProblem(np.zeros((8, 8)), None, 2, groups=[0, 0, 0, 0, 1, 1, 1, 1])
    assert problem.cardinality.tolist() == [2, 2]
    assert problem.is_feasible([1, 1, 0, 0, 0, 0, 1, 1])
    assert not problem.is_feasible([1, 1, 1, 0, 0, 0, 0, 1])


def test_a_single_group_is_the_same_as_no_groups() -> None:
    problem = BlockProblem(np.zeros((3, 3)), None, [2], groups=[0, 0, 0])
    assert problem.groups is None
    assert problem.cardinality == 2


@some
@given(problems)
def test_random_states_are_feasible_and_reproducible(problem: BlockProblem) -> None:
    states = problem.random_states(6, seed=3)
    assert states.dtype == np.int8
    assert states.shape == (6, problem.n)
    assert problem.is_feasible(states).all()
    assert np.array_equal(states, problem.random_states(6, seed=3))


def test_random_states_are_uniform() -> None:
    problem = BlockProblem(np.zeros((5, 5)), None, [1, 2], groups=[0, 1, 0, 1, 1])
    states = problem.random_states(6000, seed=0)
    _, counts = np.unique(states, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 1000) < 150)  # five standard deviations


def test_a_group_without_free_variables_must_be_feasible() -> None:
    problem = BlockProblem(np.zeros((4, 4)), None, [1, 1], groups=[0, 0, 1, 1])
    with pytest.raises(ProblemError, match="group without free variables"):
        problem.restrict([0, 1], [0, 1, 1, 1])
    assert problem.restrict([0, 1], [0, 1, 1, 0]).cardinality == 1


def test_the_form_is_that_of_the_constructor() -> None:
    dense = BlockProblem(np.zeros((3, 3)), None, 1)
    low = BlockProblem.low_rank(np.zeros((3, 2)), None, 1)
    assert isinstance(dense.form, DenseForm)
    assert not dense.is_low_rank
    assert low.is_low_rank
    assert dense.to_dense() is dense
    assert isinstance(low.to_dense().form, DenseForm)


def test_with_best_known_changes_nothing_else() -> None:
    problem = BlockProblem(np.eye(3), None, 1, provenance={"step": 4})
    known = problem.with_best_known(1.0, proven=True, found_by="eye")
    assert problem.best_known is None
    assert known.best_known is not None
    assert (known.best_known.energy, known.best_known.proven, known.best_known.found_by) == (1.0, True, "eye")
    assert known.form is problem.form
    assert known.provenance == {"step": 4}
