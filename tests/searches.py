"""A tabu search from a random state, for tests of the kernels that it is made of."""

from __future__ import annotations

import numpy as np

from problems import BlockProblem
from solvers.local.arrays import dense_arrays
from solvers.local.kernels import pairs, states, structures, tabu


class Search:
    """The arrays of a tabu search from a random state of a problem with strong couplings."""

    def __init__(self, n=90, seed=0, listed=0):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(n, 5)) * rng.normal(size=(n, 1)) ** 3
        self.problem = BlockProblem((A @ A.T).astype(np.float32), rng.normal(size=n), n // 3)
        self.arrays = dense_arrays(self.problem)
        self.layout = self.arrays.groups.layout
        self.kernel_problem = structures.Problem(self.arrays.matrix, self.arrays.single, self.layout)
        self.reach, self.looks = np.full((2, n), tabu.LARGE, np.float32), np.zeros(n, np.int32)
        self.near, self.strong = np.empty((n, listed), np.uint32), np.empty((n, listed), np.float32)
        self.begin(self.problem.random_states(1, seed)[0].astype(np.uint8))

    def begin(self, start):
        self.x, wide = start.copy(), np.empty(len(start))
        energy = states.matrix_fields(self.arrays.matrix, self.arrays.single, self.x, wide)
        self.fields = wide.astype(np.float32)
        self.leave_at = np.where(self.x == 1, 0, tabu.NEVER).astype(np.int32)
        self.enter_at = np.where(self.x == 1, tabu.NEVER, 0).astype(np.int32)
        self.account, self.scan = np.zeros(4), np.array([7, 0])
        tabu.begin_search(self.fields, energy, np.zeros(2, np.int64), self.account)
        self.state = state_of(self.x, self.fields)
        self.search = structures.Search(
            self.leave_at, self.enter_at, self.x.copy(), np.zeros(4, np.int64), np.zeros(2, np.int64), self.account
        )

    def descend(self, quarters, target=-np.inf):
        scan = structures.PairScan(self.reach, self.near, self.strong, self.looks, self.scan)
        return pairs.descend_pairs(
            self.arrays.matrix, scan, self.state, self.search, np.int32(0), float(target), quarters
        )


def state_of(x, fields, order=None, place=None):
    """The state as kernels take it, its order left out where they do not use it."""
    empty = np.zeros(len(x), np.int32)
    return structures.State(x, fields, empty if order is None else order, empty.copy() if place is None else place)
