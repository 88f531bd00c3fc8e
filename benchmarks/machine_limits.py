"""Limits of one core of this machine, and the share of them that the kernels of `tabu` and `sa` reach."""

from __future__ import annotations

import time
from collections.abc import Callable

import numba as nb
import numpy as np

from problems import BlockProblem
from solvers.local.arrays import dense_arrays, stream_of
from solvers.local.kernels import structures
from solvers.local.kernels import tabu as kernel
from solvers.local.kernels.lanes import lesser
from solvers.local.kernels.states import matrix_fields
from solvers.local.walks import MatrixWalk

STREAM_BYTES = 1 << 30
_REPEATS = 5


def memory_bandwidth(size: int = STREAM_BYTES) -> float:
    """Bytes per second that one core reads in order from a float32 array; the best of several passes."""
    array = np.ones(size // 4, np.float32)
    return size / _best(lambda: _read(array))


def arithmetic_limit() -> float:
    """Float32 operations a second (a subtraction and a minimum for each element) on 16 KB that stay in cache."""
    array = np.ones(4096, np.float32)
    passes = 100_000
    return 2.0 * len(array) * passes / _best(lambda: _operate(array, passes))


def steps_a_second(n: int, seed: int = 0) -> float:
    """Steps that the tabu kernel takes on a dense random problem of n variables, half of them ones."""
    problem = _random(n, seed)
    arrays = dense_arrays(problem)
    x = problem.random_states(1, seed)[0].astype(np.uint8)
    wide, clock, account = np.empty(n), np.zeros(2, np.int64), np.zeros(4)
    energy = matrix_fields(arrays.matrix, arrays.single, x, wide)
    fields = wide.astype(np.float32)
    kernel.begin_search(fields, energy, clock, account)
    leave_at = np.where(x == 1, 0, kernel.NEVER).astype(np.int32)
    enter_at = np.where(x == 1, kernel.NEVER, 0).astype(np.int32)
    stream, no_order = stream_of(seed, 0), np.zeros(n, np.int32)
    state = structures.State(x, fields, no_order, no_order)
    search = structures.Search(leave_at, enter_at, x.copy(), arrays.groups.tenures.copy(), clock, account)
    steps = max(1000, 40_000_000 // n)

    def take() -> None:
        clock[:] = 0
        account[kernel.BEST] = account[kernel.PRESENT]
        done = kernel.tabu_matrix(arrays.matrix, state, search, 1 << 40, -np.inf, stream, steps)
        assert done == steps
        leave_at[x == 1], enter_at[x == 0] = 0, 0  # the clock begins anew, so must what is tabu

    return steps / _best(take)


def proposals_a_second(n: int, seed: int = 0) -> float:
    """Swaps that annealing proposes on such a problem, at temperatures from hot to cold."""
    from solvers.local.temperatures import temperature_range

    problem = _random(n, seed)
    walk = MatrixWalk(dense_arrays(problem), problem.random_states(1, seed)[0], stream_of(seed, 0))
    hot, cold = temperature_range(walk.sample_changes(4096))
    temperatures = np.geomspace(hot, cold, 20).astype(np.float32)
    return 20 * n / _best(lambda: walk.anneal(temperatures, np.zeros(3, np.int64), -np.inf, 20 * n))


def limits_table() -> list[list[str]]:
    """Rows [n, steps a second, GB a second, GFlop a second, proposals of sa a second, share of the limit]."""
    bandwidth, arithmetic = memory_bandwidth(), arithmetic_limit()
    rows = [["limit", "", f"{bandwidth / 1e9:.1f}", f"{arithmetic / 1e9:.1f}", "", ""]]
    for n in (256, 1024, 2048, 4096):
        steps = steps_a_second(n)
        # Of the matrix a step reads two rows that it has not just read; both passes together do nine operations on
        # each variable: two additions, a subtraction, a negation, two comparisons, two choices and two minima less one.
        moved, done = steps * 8.0 * n, steps * 9.0 * n
        share = f"{moved / bandwidth:.0%} of bandwidth" if n > 256 else f"{done / arithmetic:.0%} of arithmetic"
        proposals = f"{proposals_a_second(n):,.0f}"
        rows.append([f"{n:,}", f"{steps:,.0f}", f"{moved / 1e9:.2f}", f"{done / 1e9:.2f}", proposals, share])
    return rows


def _random(n: int, seed: int) -> BlockProblem:
    rng = np.random.default_rng(seed)
    Q = rng.standard_normal((n, n), np.float32)
    return BlockProblem(np.triu(Q, 1) + np.triu(Q, 1).T, rng.standard_normal(n), n // 2)


def _best(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of several runs, after one that compiles."""
    work()
    took = []
    for _ in range(_REPEATS):
        begun = time.thread_time()
        work()
        took.append(time.thread_time() - begun)
    return min(took)


@nb.njit(fastmath=True)
def _read(array):
    total = np.float32(0.0)
    for l in range(array.shape[0]):
        total += array[l]
    return total


@nb.njit(fastmath=True)
def _operate(array, passes):
    low = np.float32(1e30)
    for p in range(passes):
        less = np.float32(p & 7)  # so that no pass can be left out
        for l in range(array.shape[0]):
            low = lesser(low, array[l] - less)
    return low
