"""Children of two states, and the swaps by which they go astray: feasible, with fields and energies that are right."""

from __future__ import annotations

import numpy as np
import pytest
from searches import Search

from solvers.local.arrays import stream_of
from solvers.local.kernels.offspring import cross, prod, stray


def prodded(search: Search, stream: np.ndarray) -> float:
    weights = np.abs(search.arrays.matrix).sum(axis=1)
    return prod(search.arrays.matrix, weights, search.x, search.fields, stream)


def strayed(search: Search, stream: np.ndarray) -> float:
    groups = search.arrays.groups
    return stray(search.arrays.matrix, search.x, search.fields, groups.of, groups.members, groups.starts, stream)


def crossed(search: Search, stream: np.ndarray) -> float:
    groups = search.arrays.groups
    other = search.problem.random_states(1, int(stream[0] % 1000))[0].astype(np.uint8)
    before = search.x.copy()
    _, change = cross(search.arrays.matrix, other, search.x, search.fields, 0.0, groups.members, groups.starts, stream)
    assert np.array_equal(search.x[before == other], before[before == other])
    return change


@pytest.mark.parametrize("way", [prodded, strayed, crossed])
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


def test_a_prod_moves_what_weighs_on_others_in_and_out():
    search, stream = Search(), stream_of(1, 0)
    weights = np.ones(search.problem.n, np.float32)
    heavy = np.array([3, 7, 8, 20])
    weights[heavy] = 5.0
    moved = np.zeros(search.problem.n, int)
    for _ in range(200):
        before = search.x.copy()
        prod(search.arrays.matrix, weights, search.x, search.fields, stream)
        moved += before != search.x
    assert moved[heavy].min() > 20
    assert moved[heavy].sum() > 150
