from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, ProblemError, instances
from problems.penalty import penalty

some = settings(max_examples=80, deadline=None, derandomize=True)
problems = st.from_type(BlockProblem)


def every_state(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=n)), np.int8)


def least_needed(problem: BlockProblem) -> float:
    """The least penalty for which every infeasible state is worse than the best feasible one, by enumeration."""
    X = every_state(problem.n)
    energies, feasible = problem.energy(X), problem.is_feasible(X)
    violation = ((problem.constraint.counted(X) - problem.constraint.counts) ** 2).sum(axis=1)
    needed = (energies[feasible].min() - energies[~feasible]) / violation[~feasible]
    return float(needed.max(initial=-np.inf))


def rounding(problem: BlockProblem) -> float:
    return 1e-13 * float(np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum())


def assert_sufficient(problem: BlockProblem) -> None:
    strength = penalty(problem, "sufficient")
    assert strength > 0
    assert strength > least_needed(problem) - rounding(problem)
    X = every_state(problem.n)
    energies, feasible = problem.to_bqm(strength).energies(X), problem.is_feasible(X)
    assert energies[~feasible].min(initial=np.inf) > energies[feasible].min()


@some
@given(problems)
def test_every_infeasible_state_is_worse_than_the_best_feasible_one(problem: BlockProblem) -> None:
    assert_sufficient(problem)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(10, 14), st.floats(0, 1), st.sampled_from([None, 2]), st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.2, 3.0]),
)  # fmt: skip
def test_the_penalty_suffices_on_larger_problems(
    n: int, share: float, rank: int | None, seed: int, weight: float
) -> None:
    problem = instances.random(n, round(share * n), seed, rank=rank)
    problem = problem.replaced(linear=weight * problem.linear)
    assert_sufficient(problem)
    assert_sufficient(problem.to_dense())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(10, 13), st.integers(2, 4), st.integers(0, 2**32 - 1), st.booleans())
def test_the_penalty_suffices_on_larger_grouped_problems(n: int, count: int, seed: int, low_rank: bool) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(n) % count)
    cardinality = [int(rng.integers(0, size + 1)) for size in np.bincount(groups)]
    assert_sufficient(instances.random(n, cardinality, seed, rank=3 if low_rank else None, groups=groups))


@some
@given(problems)
def test_the_measured_penalty_is_positive_and_never_above_the_sufficient_one(problem: BlockProblem) -> None:
    measured = penalty(problem, "measured")
    assert 0 < measured <= penalty(problem, "sufficient")


def test_the_measured_penalty_is_smaller_and_keeps_the_optimum_on_real_blocks() -> None:
    for problem in instances.pruning()[:5]:
        measured = penalty(problem, "measured")
        assert measured < penalty(problem, "sufficient")
        if problem.n <= 16:
            assert measured > least_needed(problem)


def test_the_sufficient_penalty_is_tight_without_couplings() -> None:
    # The best state with one more variable adds the next cheapest one, so P must exceed the decrease by it.
    problem = BlockProblem(np.zeros((6, 6)), [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0], 2)
    assert least_needed(problem) == 3.0
    assert 3.0 < penalty(problem, "sufficient") <= 4.5


@pytest.mark.parametrize("rank", [None, 3])
def test_the_sufficient_penalty_is_far_below_the_sum_of_coefficients(rank: int | None) -> None:
    problem = instances.random(200, 100, 0, rank=rank)
    everything = float(np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum())
    assert penalty(problem, "sufficient") < everything / 50


def test_the_sufficient_penalty_grows_with_the_square_root_of_n_if_couplings_have_both_signs() -> None:
    small, large = (penalty(instances.random(n, n // 2, 0), "sufficient") for n in (100, 900))
    assert large / small < 4  # it would be 9 with the bounds by rows alone


def test_the_measured_penalty_does_not_depend_on_the_form() -> None:
    low = instances.random(40, 13, 1, rank=5)
    assert penalty(low, "measured") == pytest.approx(penalty(low.to_dense(), "measured"), rel=1e-9)


def test_the_low_rank_form_gives_a_smaller_penalty() -> None:
    low = instances.random(40, 13, 1, rank=5)
    assert penalty(low, "sufficient") < penalty(low.to_dense(), "sufficient")


@pytest.mark.parametrize("kind", ["sufficient", "measured"])
def test_the_penalty_is_reproducible_to_the_bit(kind: str) -> None:
    problem = instances.random(60, 20, 2)
    assert penalty(problem, kind, seed=5) == penalty(problem, kind, seed=5)


@pytest.mark.parametrize("kind", ["sufficient", "measured"])
def test_the_penalty_does_not_depend_on_the_chunk_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, grouped = instances.random(30, 11, 3), instances.random(30, 4, 3, groups=np.arange(30) % 3)
    whole = [penalty(plain, kind), penalty(grouped, kind)]
    monkeypatch.setattr("problems.penalty._CHUNK", 64)
    assert [penalty(plain, kind), penalty(grouped, kind)] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", ["sufficient", "measured"])
@pytest.mark.parametrize("cardinality", [0, 3])
def test_the_penalty_is_one_if_all_coefficients_are_zero(kind: str, cardinality: int) -> None:
    assert penalty(BlockProblem(np.zeros((3, 3)), None, cardinality), kind) == 1.0


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"'enough'.*sufficient"):
        penalty(instances.random(5, 2, 0), "enough")


def test_coefficients_whose_sum_overflows_are_refused() -> None:
    with pytest.raises(ProblemError, match="scale"):
        penalty(BlockProblem(np.full((9, 9), 1e307), None, 2))


@pytest.mark.parametrize("kind", ["sufficient", "measured"])
@pytest.mark.parametrize("factor", [1e-250, 1e200])
def test_the_penalty_scales_with_the_problem(kind: str, factor: float) -> None:
    problem = instances.random(30, 9, 4)
    scaled = BlockProblem(factor * problem.form.matrix, factor * problem.linear, 9)
    assert penalty(scaled, kind) == pytest.approx(factor * penalty(problem, kind), rel=1e-9)
