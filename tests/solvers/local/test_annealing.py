"""The rule by which annealing accepts what is uphill, on matrices, factors and single flips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from problems import BlockProblem
from solvers.local.arrays import dense_arrays, factor_arrays, stream_of
from solvers.local.flips import fields_of
from solvers.local.kernels.flips import anneal_flips
from solvers.local.kernels.random import exponential
from solvers.local.walks import FactorWalk, MatrixWalk

N = 6
TEMPERATURE = 1.5


def test_what_may_be_accepted_is_distributed_exponentially():
    numbers = np.unique(np.concatenate([np.geomspace(1, 2**24, 5000).astype(np.uint64), np.arange(1, 200)]))
    drawn = np.array([exponential(np.uint64(number - 1)) for number in numbers])
    np.testing.assert_allclose(drawn, -np.log(numbers / 2.0**24), atol=3e-5)
    upper_bits = np.uint64(0xABCDEF1234 << 24)
    assert exponential(upper_bits | np.uint64(12345)) == exponential(np.uint64(12345))


def swaps_of(form, problem, stream):
    if form == "factor":
        return FactorWalk(factor_arrays(problem), problem.random_states(1, 0)[0], stream)
    return MatrixWalk(dense_arrays(problem), problem.random_states(1, 0)[0], stream)


@pytest.mark.parametrize("form", ["matrix", "factor", "flips"])
def test_annealing_at_one_temperature_visits_states_as_boltzmann_says(form):
    problem = BlockProblem.low_rank(np.random.default_rng(3).normal(size=(N, 3)), cardinality=N // 2)
    sweeps, stream = 30_000, stream_of(1, 0)
    temperatures = np.full(sweeps, TEMPERATURE, np.float32)
    visits: dict[tuple[int, ...], int] = {}
    progress = np.zeros(3, np.int64)
    if form == "flips":
        arrays = dense_arrays(problem, centred=False)
        x = np.zeros(N, np.uint8)
        fields, energy = fields_of(arrays, x)
        account = np.array([energy])
    else:
        walk = swaps_of(form, problem, stream)
        x = walk.x
    for _ in range(sweeps):
        if form == "flips":
            anneal_flips(arrays.matrix, fields, x, temperatures, progress, account, stream, N)
        else:
            walk.anneal(temperatures, progress, -np.inf, N)
        visits[tuple(x)] = visits.get(tuple(x), 0) + 1
    states = np.array([x for x in itertools.product([0, 1], repeat=N) if form == "flips" or sum(x) == N // 2])
    weights = np.exp(-problem.energy(states) / 2.0 / TEMPERATURE)  # temperatures are in half units
    expected = weights / weights.sum()
    seen = np.array([visits.pop(tuple(x), 0) / sweeps for x in states])
    assert not visits  # no state that is not feasible
    # Sweeps follow one another closely: errors are some times those of independent draws.
    assert np.all(np.abs(seen - expected) < 8.0 * np.sqrt(expected / sweeps))
