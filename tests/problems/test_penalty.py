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


def greedy_optimum(problem: BlockProblem) -> np.ndarray:
    """The state of a greedy construction, improved by the best swap of all until none helps."""
    x = np.zeros(problem.n, np.int8)
    for _ in range(problem.constraint.total):
        x[np.where(x == 0, problem.local_fields(x), np.inf).argmin()] = 1
    while True:
        ones, zeros = np.flatnonzero(x), np.flatnonzero(x == 0)
        remove, add = (pairs.ravel() for pairs in np.meshgrid(ones, zeros, indexing="ij"))
        changes = problem.swap_change(x, remove, add)
        if not (changes < -1e-9).any():
            return x
        x[remove[changes.argmin()]], x[add[changes.argmin()]] = 0, 1


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


# The penalty is the bound of the proof, and no larger


def bound(problem: BlockProblem, D: np.ndarray) -> float:
    """The bound of the proof in problems/penalty.py, written down term by term, for Q + D positive semidefinite."""
    Q, c = problem.form.dense(), problem.single_energies
    X = every_state(problem.n)
    needed = []
    for members, k in zip(problem.constraint.members(), problem.constraint.counts.tolist(), strict=True):
        others = np.delete(Q, members, axis=1)[members]
        low = c[members] + 2 * np.minimum(others, 0).sum(axis=1)
        high = c[members] + 2 * np.maximum(others, 0).sum(axis=1)
        inside, d, n = Q[np.ix_(members, members)], D[members], len(members)
        surplus = np.cumsum([removal(inside, d, low, m) for m in range(k + 1, n + 1)])
        missing = np.cumsum([addition(inside, d, high, m) for m in range(k - 1, -1, -1)])
        if problem.groups is None:
            U = problem.energy(greedy_optimum(problem)) - problem.offset
            surplus = [min(cost, U - lowest(Q, D, c, k + e)) for e, cost in enumerate(surplus, 1)]
            missing = [min(cost, U - lowest(Q, D, c, k - e)) for e, cost in enumerate(missing, 1)]
        needed += [cost / e**2 for costs in (surplus, missing) for e, cost in enumerate(costs, 1)]
    if problem.groups is None:
        return float(max(needed))
    U = problem.energy(X[problem.is_feasible(X)]).min() - problem.offset  # the greedy state is optimal in these tests
    negative = np.minimum(Q, 0).sum(axis=1)
    return float(min(max(needed), U - max(np.minimum(c + negative, 0).sum(), np.minimum(c - D, 0).sum())))


def sorted_rows(Q: np.ndarray) -> list[np.ndarray]:
    return [np.sort(np.delete(row, i)) for i, row in enumerate(Q)]


def removal(Q: np.ndarray, D: np.ndarray, c: np.ndarray, m: int) -> float:
    """R_m, the smaller of its two bounds."""
    by_rows = np.sort([c[i] + 2 * row[: m - 1].sum() for i, row in enumerate(sorted_rows(Q))])
    return -max(by_rows[:m].sum(), np.sort(c - 2 * D)[:m].sum()) / m


def addition(Q: np.ndarray, D: np.ndarray, c: np.ndarray, m: int) -> float:
    """A_m, the smaller of its two bounds."""
    n = len(Q)
    by_rows = np.sort([c[j] + 2 * row[n - 1 - m :].sum() for j, row in enumerate(sorted_rows(Q))])
    by_spectrum = c.sum() + np.sort(2 * Q.sum(axis=1) + 2 * D - c)[n - m :].sum()
    return min(by_rows[m:].sum(), by_spectrum) / (n - m)


def lowest(Q: np.ndarray, D: np.ndarray, c: np.ndarray, m: int) -> float:
    """L_m, the larger of its two bounds."""
    by_rows = np.sort([c[i] + row[: max(0, m - 1)].sum() for i, row in enumerate(sorted_rows(Q))])
    return max(by_rows[:m].sum(), np.sort(c - D)[:m].sum())


def coupled(n: int, cardinality: object, seed: int, rank: int, *, weight: float, sign: float = 0.0) -> BlockProblem:
    """A low-rank problem whose linear terms have a given weight, and whose couplings a sign where it is not zero."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, rank))
    groups = None if isinstance(cardinality, int) else rng.permutation(np.arange(n) % len(cardinality))  # type: ignore[arg-type]
    A = np.abs(A) if sign else A
    return BlockProblem.low_rank(A, weight * rng.standard_normal(n), cardinality, offset=3.0, groups=groups)


bounds = pytest.mark.parametrize("weight", [0.0, 1.0, 6.0])
shapes = pytest.mark.parametrize(
    ("n", "cardinality", "rank", "sign"),
    [
        (8, 3, 2, 0.0), (8, 6, 8, 0.0), (9, 1, 3, 1.0), (9, 8, 3, 1.0), (10, 5, 1, 0.0), (7, 0, 2, 0.0), (7, 7, 2, 0.0),
        (9, [1, 2, 1], 2, 0.0), (10, [3, 4], 3, 1.0), (8, [4, 0], 8, 0.0), (8, [1, 0, 1], 2, 1.0),
    ],
)  # fmt: skip


@bounds
@shapes
def test_the_sufficient_penalty_is_the_bound_of_the_proof(
    n: int, cardinality: object, rank: int, sign: float, weight: float
) -> None:
    problem = coupled(n, cardinality, 0, rank, weight=weight, sign=sign)
    expected = max(0.0, bound(problem, problem.form.diagonal))
    scale = np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum()
    assert penalty(problem) == pytest.approx(expected, rel=1e-8, abs=2e-11 * scale)
    assert penalty(problem) > expected


@bounds
@shapes
def test_the_penalty_of_the_dense_form_is_the_bound_by_its_spectrum(
    n: int, cardinality: object, rank: int, sign: float, weight: float
) -> None:
    low_rank = coupled(n, cardinality, 1, rank, weight=weight, sign=sign)
    problem = BlockProblem(
        low_rank.form.dense() * (1 - 2 * (n % 2)), low_rank.linear, low_rank.cardinality, groups=low_rank.groups
    )
    norms = np.sqrt((problem.form.matrix**2).sum(axis=1))
    norms = np.maximum(norms, 1e-6 * norms.max())
    t = -np.linalg.eigvalsh(problem.form.matrix / np.sqrt(np.outer(norms, norms)))[0]
    # t is known up to 1 % from Lanczos' method, and a failed proof adds 5 %.
    least, most = (max(0.0, bound(problem, factor * t * norms)) for factor in (1.0, 1.07))
    assert least < penalty(problem) <= most * (1 + 1e-8) + 1e-9


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


def test_the_measured_penalty_is_a_tenth_above_the_largest_decrease_by_a_flip() -> None:
    problem = instances.random(24, 8, 0)  # all descents end at the optimum
    decrease = float(-problem.flip_changes(greedy_optimum(problem)).min())
    assert penalty(problem, "measured") == pytest.approx(1.1 * decrease, rel=1e-8)


def test_the_measured_penalty_is_the_largest_over_local_optima_of_random_states() -> None:
    problem = instances.random(30, 9, 4)
    found = [penalty(problem, "measured", seed=seed) for seed in range(4)]
    assert len(set(found)) > 1
    greedy = 1.1 * float(-problem.flip_changes(greedy_optimum(problem)).min())
    assert min(found) >= greedy * (1 - 1e-8)


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


@pytest.mark.parametrize(
    ("n", "cardinality", "rank", "seed", "groups", "kind", "expected"),
    [
        (40, 20, 3, 7, None, "sufficient", 7.085330536911154),
        (40, 20, 3, 2, None, "sufficient", 1.4574994668962478),
        (40, 6, 3, 0, np.arange(40) % 3, "sufficient", 4.764362326763568),
        (40, 6, 3, 0, np.arange(40) % 3, "measured", 0.7386921689444891),
        (40, 6, None, 7, np.arange(40) % 3, "measured", 10.899229337833898),
        (60, 20, 4, 7, None, "measured", 0.24058463306286698),
    ],
)  # fmt: skip
def test_the_penalty_is_that_of_earlier_versions(
    n: int, cardinality: int, rank: int | None, seed: int, groups: object, kind: str, expected: float
) -> None:
    """The greedy construction and the descents affect how small a penalty is found."""
    problem = instances.random(n, cardinality, seed, rank=rank, groups=groups)
    assert penalty(problem, kind) == pytest.approx(expected, rel=1e-7)


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


@pytest.mark.parametrize("size", [1e306, 1e307])  # the sum, or n times the sum, is not finite
def test_coefficients_whose_sum_overflows_are_refused(size: float) -> None:
    with pytest.raises(ProblemError, match="scale"):
        penalty(BlockProblem(np.full((9, 9), size), None, 2))


@pytest.mark.parametrize("kind", ["sufficient", "measured"])
@pytest.mark.parametrize("factor", [1e-250, 1e200])
def test_the_penalty_scales_with_the_problem(kind: str, factor: float) -> None:
    problem = instances.random(30, 9, 4)
    scaled = BlockProblem(factor * problem.form.matrix, factor * problem.linear, 9)
    assert penalty(scaled, kind) == pytest.approx(factor * penalty(problem, kind), rel=1e-9)
