"""Offspring of two states, and their perturbations: feasible, with the right fields and energies."""

from __future__ import annotations

import numpy as np
import pytest
from searches import Search

from solvers.local.arrays import stream_of
from solvers.local.kernels.offspring import cross, perturb, perturb_strong


def strongly_perturbed(search: Search, stream: np.ndarray) -> float:
    weights = np.abs(search.arrays.matrix).sum(axis=1)
    return perturb_strong(search.arrays.matrix, weights, search.state, stream)


def perturbed(search: Search, stream: np.ndarray) -> float:
    return perturb(search.kernel_problem, search.state, stream)


def crossed(search: Search, stream: np.ndarray) -> float:
    other = search.problem.random_states(1, int(stream[0] % 1000))[0].astype(np.uint8)
    before = search.x.copy()
    _, change = cross(search.kernel_problem, other, search.state, 0.0, stream)
    assert np.array_equal(search.x[before == other], before[before == other])
    return change


@pytest.mark.parametrize("way", [strongly_perturbed, perturbed, crossed])
def test_a_state_stays_feasible_and_its_fields_and_change_of_energy_are_right(way):
    search, stream = Search(), stream_of(7, 0)
    single, Q = search.arrays.single, search.arrays.matrix.astype(np.float64)
    for _ in range(20):
        before = search.problem.energy(search.x)
        change = way(search, stream)
        assert search.problem.is_feasible(search.x.astype(np.int8))
        after = search.problem.energy(search.x)
        assert 2.0 * change / search.arrays.scale == pytest.approx(after - before, rel=1e-4, abs=1e-3)
        assert search.fields == pytest.approx(single + Q @ search.x, rel=1e-4, abs=1e-3)


def test_a_strong_perturbation_moves_strongly_coupled_variables_both_ways():
    search, stream = Search(), stream_of(1, 0)
    weights = np.ones(search.problem.n, np.float32)
    heavy = np.array([3, 7, 8, 20])
    weights[heavy] = 5.0
    moved = np.zeros(search.problem.n, int)
    for _ in range(200):
        before = search.x.copy()
        perturb_strong(search.arrays.matrix, weights, search.state, stream)
        moved += before != search.x
    assert moved[heavy].min() > 20
    assert moved[heavy].sum() > 150
