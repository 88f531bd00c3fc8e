"""Random problems and problems with a planted optimum."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from problems import BlockProblem, ProblemError, instances

GROUPS = np.arange(12) % 3


def every_feasible_state(problem: BlockProblem) -> np.ndarray:
    states = np.zeros((0, problem.n), np.int8)
    for ones in itertools.combinations(range(problem.n), problem.constraint.total):
        x = np.zeros((1, problem.n), np.int8)
        x[0, list(ones)] = 1
        if problem.is_feasible(x[0]):
            states = np.vstack([states, x])
    return states


# Random and planted


@pytest.mark.parametrize("make", [instances.random, instances.planted])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_instances_are_reproducible_and_differ_between_seeds(make: object, dtype: type) -> None:
    one, again, other = (make(12, 5, seed, rank=4, dtype=dtype) for seed in (3, 3, 4))
    assert one.form.dtype == dtype
    assert np.array_equal(one.form.factor, again.form.factor)
    assert np.array_equal(one.linear, again.linear)
    assert not np.array_equal(one.form.factor, other.form.factor)


def test_random_problems_have_the_given_form_and_cardinality() -> None:
    assert not instances.random(9, 4, 0).is_low_rank
    assert instances.random(9, 4, 0, rank=3).form.rank == 3
    assert instances.random(12, 2, 0, groups=GROUPS).cardinality.tolist() == [2, 2, 2]
    with pytest.raises(ProblemError, match="cardinality 10 is larger"):
        instances.random(9, 10, 0)


def test_linear_and_quadratic_terms_of_random_problems_are_of_comparable_size() -> None:
    for problem in (instances.random(200, 100, 0), instances.random(200, 100, 0, rank=20)):
        X = problem.random_states(500, 0)
        linear = X @ problem.single_energies
        quadratic = problem.energy(X) - linear
        assert 0.1 < linear.std() / quadratic.std() < 10


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_state_is_optimal_to_the_last_bit(groups: np.ndarray | None, dtype: type, seed: int) -> None:
    problem = instances.planted(12, 6 if groups is None else 2, seed, rank=4, groups=groups, dtype=dtype)
    x = instances.known_optimum(problem)
    assert problem.is_feasible(x)
    for form in (problem, problem.to_dense()):
        assert form.energy(x) == 0.0
        assert form.energy(every_feasible_state(problem)).min() == 0.0
        assert form.best_known.energy == 0.0
        assert form.best_known.proven


def test_a_large_planted_state_stays_exact() -> None:
    problem = instances.planted(50_000, 20_000, 0, rank=8, dtype=np.float32)
    assert problem.energy(instances.known_optimum(problem)) == 0.0
    assert problem.energy(problem.random_states(3, 0)).min() > 0.0


def test_a_planted_state_is_saved_with_the_problem(tmp_path: Path) -> None:
    problem = instances.planted(20, 8, 0)
    back = BlockProblem.load(problem.save(tmp_path / "block"))
    assert np.array_equal(instances.known_optimum(back), instances.known_optimum(problem))


def test_known_optimum_refuses_a_problem_without_one() -> None:
    with pytest.raises(ProblemError, match="no optimal state"):
        instances.known_optimum(instances.random(5, 2, 0))
