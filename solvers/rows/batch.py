"""Solvers of all rows of a layer at once: small problems that share one matrix, as arrays.

Pruning a layer for its output is one problem per row of its weight: pruning the weights x_i = 1 of a row w causes the
error  E(x) = r^T B r,  r = w * x,  on calibration inputs with Gram matrix B, the problem `BlockProblem.scaled(B, w)`.
These functions search all rows in parallel threads and return arrays.

There are two errors to minimise. :func:`solve_rows` minimises E, for surviving weights that keep their values.
:func:`solve_refitted_rows` minimises the error after each row's surviving weights are refitted exactly, which is not a
quadratic function of x. A mask found for one is clearly worse for the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from problems.forms import Float64Array
from solvers.errors import OptionError, SolverError

UintArray = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

_PIECES = 8  # pieces of rows per thread, as some rows take longer than others


class Rows(NamedTuple):
    """Rows that share one matrix, as the kernels take them.

    Attributes:
        matrix: B, or inv(H) for refitted errors, symmetric, C-contiguous [d, d].
        scales: the scales or weights of each row [R, d].
        states: the state of each row, which kernels replace [R, d].
        width: variables of a group, a divisor of d; 0 if the whole row is one group.
        most: most ones of a group, for kernels that add ones where width > 0.
    """

    matrix: Float64Array
    scales: Float64Array
    states: UintArray
    width: int
    most: int

    def part(self, rows: slice) -> Rows:
        """Some of the rows; their arrays are views."""
        return self._replace(scales=self.scales[rows], states=self.states[rows])


def solve_rows(
    matrix: npt.ArrayLike,
    scales: npt.ArrayLike,
    states: npt.ArrayLike,
    *,
    group: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> tuple[UintArray, Float64Array]:
    """Tabu search by swaps for each row of r^T B r, r = s * x.

    Args:
        matrix: B, symmetric [d, d], shared by all rows.
        scales: s of each row [R, d].
        states: feasible states to start from; the number of ones (of each group) is kept [R, d].
        group: for N:M patterns, number of consecutive variables with a cardinality of their own; None for whole rows.
        patience: steps without a better state after which a row ends; None for d, between 50 and 500.
        seed: row a uses random stream a of this seed.
        threads: threads to use; None for all processors. The answer does not depend on it.

    Returns:
        The best state of each row, uint8 [R, d], never worse than its start, and its energy [R].

    Raises:
        OptionError: shapes that do not match, or a group that does not divide d.
    """
    from solvers.rows.search import tabu_rows

    rows = _checked(matrix, scales, states, group)
    count, d = rows.scales.shape
    steps = max(50, min(500, d)) if patience is None else patience
    tenure = max(2, min(20, d // 20))
    streams = np.random.SeedSequence([seed]).generate_state(count, np.uint64).astype(np.uint64, copy=False)
    energies = np.empty(count)
    _spread(lambda i: tabu_rows(rows.part(i), steps, tenure, streams[i], energies[i]), count, threads)
    return rows.states, energies


def grow_rows(
    matrix: npt.ArrayLike,
    scales: npt.ArrayLike,
    states: npt.ArrayLike,
    counts: npt.ArrayLike,
    *,
    group: int | None = None,
    most: int = 0,
    record: bool = False,
    threads: int | None = None,
) -> tuple[UintArray, Int64Array, Float64Array]:
    """Add ones to each row's state greedily, always the one that raises r^T B r least.

    Args:
        matrix: B, symmetric [d, d], shared by all rows.
        scales: s of each row [R, d].
        states: initial states [R, d].
        counts: final number of ones of each row [R].
        group: variables of a group, as for :func:`solve_rows`.
        most: most ones of each group, with `group`.
        record: whether to return the order of the added variables and their costs.
        threads: threads to use; None for all processors.

    Returns:
        The states [R, d]; with `record` also the variables in the order in which they were added [R, c] and the energy
        that each added [R, c], for c the largest count (otherwise arrays [R, 0]).

    Raises:
        OptionError: shapes that do not match, or counts that no state can have.
    """
    from solvers.rows.search import grow_rows as kernel

    rows = _checked(matrix, scales, states, group, most)
    wanted = _counts(counts, rows)
    recorded = int(wanted.max(initial=0)) if record else 0
    order, costs = np.zeros((len(wanted), recorded), np.int64), np.zeros((len(wanted), recorded))
    _spread(lambda i: kernel(rows.part(i), wanted[i], order[i], costs[i]), len(wanted), threads)
    return rows.states, order, costs


def solve_refitted_rows(
    inverse: npt.ArrayLike,
    weights: npt.ArrayLike,
    states: npt.ArrayLike,
    counts: npt.ArrayLike,
    *,
    group: int | None = None,
    most: int = 0,
    swaps: int | None = None,
    threads: int | None = None,
) -> tuple[UintArray, Float64Array, Float64Array]:
    """Minimise the error of each row after its surviving weights are refitted exactly.

    A row is pruned greedily from its start to its count, then improved by the best swap until none helps. This takes
    about d^2 / 2 multiplications for each variable pruned and d^2 for each swap, and 8 (d + 1)^2 bytes per thread.

    Args:
        inverse: inv(H) of the curvature that all rows share [d, d], symmetric positive definite.
        weights: the dense weights w [R, d].
        states: initial states, 1 = pruned [R, d]; zeros for a greedy start.
        counts: final number of pruned variables of each row [R].
        group: for N:M patterns, variables of a group; None for whole rows.
        most: most pruned variables of each group, with `group`.
        swaps: most swaps of a row; None for d. 0 returns the greedy answer.
        threads: threads to use; None for all processors. The answer does not depend on it.

    Returns:
        States uint8 [R, d], refitted weights [R, d] (zero where pruned), and refitted errors
        min (v - w)^T H (v - w) [R].

    Raises:
        OptionError: shapes that do not match, counts that no state can have, or a matrix that is not the inverse of a
            positive definite one.
        SolverError: the curvature is too ill-conditioned for float64.
    """
    from solvers.rows.refit import search_refitted

    rows = _checked(inverse, weights, states, group, most)
    _check_inverse(rows.matrix)
    wanted = _counts(counts, rows)
    limit = len(rows.matrix) if swaps is None else swaps
    out, errors = np.empty(rows.scales.shape), np.empty(len(wanted))
    _spread(lambda i: search_refitted(rows.part(i), wanted[i], limit, out[i], errors[i]), len(wanted), threads)
    _check_finite(out)
    return rows.states, out, errors


def elimination_costs(
    inverse: npt.ArrayLike, weights: npt.ArrayLike, counts: npt.ArrayLike, *, threads: int | None = None
) -> tuple[Int64Array, Float64Array]:
    """Prune each row greedily, with its surviving weights refitted at every step, and return the cost of each step.

    Args:
        inverse: inv(H) of the curvature that all rows share [d, d], symmetric positive definite.
        weights: the dense weights w [R, d].
        counts: variables to prune of each row [R].
        threads: threads to use; None for all processors.

    Returns:
        Variables in the order in which they are pruned [R, c] and by how much each raises the refitted error [R, c],
        for c the largest count; zeros beyond a row's own count.

    Raises:
        OptionError, SolverError: as for :func:`solve_refitted_rows`.
    """
    from solvers.rows.refit import eliminate_rows

    rows = _checked(inverse, weights, np.zeros(np.shape(weights), np.uint8), None)
    C, W = rows.matrix, rows.scales
    _check_inverse(C)
    wanted = _counts(counts, rows)
    steps = int(wanted.max(initial=0))
    order, costs = np.zeros((len(W), steps), np.int64), np.zeros((len(W), steps))
    _spread(lambda i: eliminate_rows(C, W[i], wanted[i], order[i], costs[i]), len(W), threads)
    _check_finite(costs)
    return order, costs


def _checked(
    matrix: npt.ArrayLike, rows: npt.ArrayLike, states: npt.ArrayLike, group: int | None, most: int = 0
) -> Rows:
    B, S = np.ascontiguousarray(matrix, np.float64), np.ascontiguousarray(rows, np.float64)
    X = np.array(states, np.uint8, order="C")  # a copy: the kernels write to it
    if B.ndim != 2 or B.shape[0] != B.shape[1]:
        raise OptionError(f"the shared matrix has shape {list(B.shape)}; it must be square [d, d]")
    if S.ndim != 2 or S.shape[1] != len(B) or X.shape != S.shape:
        raise OptionError(
            f"rows {list(S.shape)} and states {list(X.shape)} do not match a matrix [{len(B)}, {len(B)}]; both must be "
            f"[R, {len(B)}]"
        )
    if not (np.isfinite(B).all() and np.isfinite(S).all()):
        raise OptionError("the shared matrix and the rows must be made of finite numbers")
    if group is not None and (group < 1 or len(B) % group):
        raise OptionError(f"groups of {group} do not divide rows of {len(B)} variables")
    return Rows(B, S, X, group or 0, most)


def _counts(counts: npt.ArrayLike, rows: Rows) -> Int64Array:
    X, width = rows.states, rows.width
    wanted = np.ascontiguousarray(np.broadcast_to(np.asarray(counts, np.int64), (len(X),)))
    room = X.shape[1] // width * rows.most if width else X.shape[1]
    wrong = (wanted > room) | (wanted < X.sum(axis=1, dtype=np.int64))
    if wrong.any():
        row = int(wrong.argmax())
        raise OptionError(
            f"row {row} must have {wanted[row]} ones; it starts with {int(X[row].sum())} and has room for {room}"
        )
    return wanted


def _check_inverse(C: Float64Array) -> None:
    if not (np.diagonal(C) > 0).all():
        raise OptionError("the inverse of a positive definite matrix has a positive diagonal; raise the damping")


def _check_finite(values: Float64Array) -> None:
    if not np.isfinite(values).all():
        raise SolverError("the curvature is too ill-conditioned for float64; raise the damping")


def _spread(work: Callable[[slice], Any], rows: int, threads: int | None) -> None:
    """Run `work` on pieces of the rows in threads; the kernels release the interpreter's lock."""
    workers = max(1, min(threads or _processors(), rows))
    step = max(1, -(-rows // (workers * _PIECES)))
    pieces = [slice(begin, min(rows, begin + step)) for begin in range(0, rows, step)]
    if workers == 1 or len(pieces) < 2:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
