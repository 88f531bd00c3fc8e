"""Penalties: how large P must be for P sum_g (ones_g - k_g)^2 to replace the cardinality in an unconstrained model.

The penalty must make every infeasible state worse than the best feasible one, but a large P drowns the objective in an
annealer's noise and in the few bits of a QPU's precision. "sufficient" is the smallest P that the following proof
gives; "measured" is smaller and not proven.

One group. Let S be the ones of a state x with m = k + d of them, d > 0, and E* the energy of the best feasible state.

Removing i from S changes E by -(c_i + 2 sum_{j in S} Q_ij), and the best of the m removals changes it by at most their
average. Let R_m be any bound on that average over all states of m ones. After d removals the state is feasible, hence
E* <= E(x) + sum_{t=1..d} R_{k+t}. Likewise, if U is the energy of some feasible state and L_m a lower bound on the
energies of states of m ones, E* <= E(x) + U - L_m. So P > min(sum_{t=1..d} R_{k+t}, U - L_{k+d}) / d^2 makes
E(x) + P d^2 > E*. With too few ones, m = k - d, the same holds with A_m, a bound on the average change by an addition,
summed over A_{k-d} .. A_{k-1}. P is the largest bound over all d on both sides. There are two sets of bounds, and for
each m the smaller one is used:

(1) By rows. With q_i(m) the sum of the m smallest entries of row i, and p_j(m) that of the m largest of row j,
        R_m = -(1/m) (sum of the m smallest of c_i + 2 q_i(m-1)),
        A_m = (1/(n-m)) (sum of the n-m largest of c_j + 2 p_j(m)),
        L_m = sum of the m smallest of c_i + q_i(m-1).
(2) By the spectrum. With D diagonal and Q + D positive semidefinite, x^T Q x >= -sum_{i in S} D_i, so
        R_m = -(1/m) (sum of the m smallest of c_i - 2 D_i),
        L_m = sum of the m smallest of c_i - D_i;
    and with the row sums s = Q 1, the sum of (Qx)_j over j outside S is s.x - x^T Q x, so
        A_m = (1/(n-m)) (sum_j c_j + sum of the m largest of 2 s_i + 2 D_i - c_i).
    In low-rank form D is the diagonal of A A^T. In dense form it is t |row i|, where t is estimated by Lanczos' method
    and proven by a Cholesky factorisation. (1) grows with n, (2) with its square root if couplings have both signs.

Groups. They are repaired one after the other, whatever the state of the others: the entries of row i outside its group
add at least the sum of the negative ones to c_i, and at most that of the positive ones. Let B_g(d) be the bound for
group g. Then E* <= E(x) + sum_g B_g(d_g), so P > max_{g,d} B_g(d) / d^2 suffices. Since some d_g^2 is at least 1,
P > U - L suffices too, with L a lower bound over all states; the smaller of the two is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from problems.errors import ProblemError
from problems.forms import DenseForm, Float64Array, FloatArray, IntArray, StateArray

if TYPE_CHECKING:
    from problems.block import BlockProblem

KINDS = ("sufficient", "measured")

_CHUNK = 1 << 22  # numbers processed at once: 32 MB
_STARTS = 5  # random starts for "measured"; more starts hardly change the largest decrease found
_MEASURED_MARGIN = 1.1  # times the largest decrease found, for local optima that were not visited


def penalty(problem: BlockProblem, kind: str = "sufficient", seed: int = 0) -> float:
    """Strength P for the penalty P sum_g (ones_g - k_g)^2 over the groups g.

    Args:
        problem: the block problem. The time grows as n^3 / 3 multiplications, the memory is four dense copies.
        kind: "sufficient" for a P with which every infeasible state is worse than the best feasible one, as proven
            above; or "measured" for 1.1 times the largest decrease by a single flip at local optima of swap descents
            from five random states, never above "sufficient". A smaller P suits annealers and QPUs better, but it is
            not proven, so that answers may need repair.
        seed: seed of the random states of "measured".

    Returns:
        A positive number; 1.0 if all coefficients are zero, for which any P suffices.

    Raises:
        ProblemError: an unknown kind, or coefficients too large for their sum to be finite.
    """
    if kind not in KINDS:
        raise ProblemError(f'penalty {kind!r} must be "sufficient", "measured" or a number')
    dense = problem.to_dense()
    scale = _largest_energy(dense)
    if scale == 0.0:
        return 1.0
    if problem.is_low_rank:
        D = problem.form.diagonal
    else:  # "measured" needs an upper limit only: the row bounds, without a factorisation
        D = _definite_shift(dense, scale) if kind == "sufficient" else np.full(problem.n, np.inf)
    bound = _sufficient(dense, D)
    if kind == "measured":
        bound = min(bound, _MEASURED_MARGIN * _measured(dense, seed))
    # Above the bound by more than the rounding error of energies of this size.
    return max(bound, 0.0) * (1 + 1e-9) + 1e-11 * scale


def _largest_energy(problem: BlockProblem) -> float:
    """A bound on |E(x) - offset| over all states x."""
    with np.errstate(over="ignore"):
        scale = float(np.abs(problem.linear).sum()) + sum(
            float(np.abs(block).sum()) for _, block in _blocks(problem, np.arange(problem.n))
        )
    if not np.isfinite(scale * problem.n):
        raise ProblemError("the sum of the coefficients is not finite; scale the problem")
    return scale


# The bounds of the proof


def _sufficient(problem: BlockProblem, D: Float64Array) -> float:
    U = float(problem.energy(_greedy_optimum(problem))) - problem.offset
    if problem.groups is None:
        return _one_group(problem, D, U)
    negative, positive = _row_parts(problem, np.arange(problem.n))
    worst = -np.inf
    for g, members in enumerate(problem.constraint.members()):
        inside = _row_parts(problem, members)
        down, up = _repairs(
            _sorted_prefixes(problem, members), D[members], inside[0] + inside[1],
            problem.linear[members] + 2.0 * (negative[members] - inside[0]),
            problem.linear[members] + 2.0 * (positive[members] - inside[1]),
            int(problem.constraint.counts[g]),
        )  # fmt: skip
        worst = max([worst, *_per_square(down), *_per_square(up)])
    lowest = max(np.minimum(problem.linear + part, 0.0).sum() for part in (negative, -D))
    return min(worst, U - float(lowest))


def _one_group(problem: BlockProblem, D: Float64Array, U: float) -> float:
    k, c = problem.constraint.total, problem.linear
    negative, positive = _row_parts(problem, np.arange(problem.n))
    prefix = _sorted_prefixes(problem, np.arange(problem.n))
    down, up = _repairs(prefix, D, negative + positive, c, c, k)
    lower = np.maximum(_lower_bounds(prefix, c), _sums_of_smallest(c - D))
    too_many = _per_square(np.minimum(down, U - lower[k + 1 :]))
    too_few = _per_square(np.minimum(up, U - lower[:k][::-1]))
    return float(max(too_many.max(initial=-np.inf), too_few.max(initial=-np.inf)))


def _repairs(
    prefix: Float64Array, D: Float64Array, sums: Float64Array, low: Float64Array, high: Float64Array, k: int
) -> tuple[Float64Array, Float64Array]:
    """Bounds on the cost of removing d surplus ones, d = 1, ..., n - k, and of adding d missing ones, d = 1, ..., k.

    Args:
        prefix: sums of the m smallest entries of each row [n, n], m = 0, 1, ..., n - 1.
        D: a diagonal that makes the matrix positive semidefinite [n].
        sums: sums of whole rows [n].
        low: linear coefficients plus the least that variables of other groups add [n].
        high: linear coefficients plus the most that they add [n].
        k: demanded number of ones.
    """
    n = len(low)
    ones = np.arange(n + 1)
    down = -_sums_of_smallest(low - 2.0 * D)[k + 1 :] / ones[k + 1 :]
    up = (high.sum() - _sums_of_smallest(high - 2.0 * (sums + D))[:k]) / (n - ones[:k])
    for m, columns in _columns(prefix, k, n):  # of m + 1 ones, m are in the sum of a row
        rows = np.cumsum(np.sort(low + 2.0 * columns, axis=1), axis=1)[np.arange(len(m)), m]
        down[m - k] = np.minimum(down[m - k], -rows / (m + 1))
    for m, columns in _columns(prefix, n - k, n):  # the n - 1 - m largest: the row without the m smallest
        outside = m + 1
        rows = np.cumsum(np.sort(2.0 * (columns - sums) - high, axis=1), axis=1)[np.arange(len(m)), outside - 1]
        up[n - outside] = np.minimum(up[n - outside], -rows / outside)
    return np.cumsum(down), np.cumsum(up[::-1])


def _lower_bounds(prefix: Float64Array, linear: Float64Array) -> Float64Array:
    """Lower bounds on the energies of states of m ones, m = 0, 1, ..., n [n + 1]."""
    lower = np.zeros(len(linear) + 1)
    for m, columns in _columns(prefix, 0, len(linear)):
        sums = np.cumsum(np.sort(linear + columns, axis=1), axis=1)
        lower[m + 1] = sums[np.arange(len(m)), m]
    return lower


def _sums_of_smallest(values: Float64Array) -> Float64Array:
    """Sums of the m smallest values, m = 0, 1, ..., n [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(np.sort(values))])


def _per_square(bounds: Float64Array) -> Float64Array:
    return np.asarray(bounds / np.arange(1.0, len(bounds) + 1) ** 2)


def _sorted_prefixes(problem: BlockProblem, members: IntArray) -> Float64Array:
    """Sums of the m smallest off-diagonal entries of each row of Q[members, members] [n, n], m = 0, ..., n - 1."""
    n = len(members)
    prefix = np.zeros((n, n))
    for rows, block in _blocks(problem, members):
        block = block.astype(np.float64)
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = np.inf  # the diagonal sorts last
        block.sort(axis=1)
        np.cumsum(block[:, :-1], axis=1, out=prefix[rows, 1:])
    return prefix


def _row_parts(problem: BlockProblem, members: IntArray) -> tuple[Float64Array, Float64Array]:
    """Sums of the negative and of the positive entries of each row of Q[members, members] [n], [n]."""
    negative, positive = np.empty(len(members)), np.empty(len(members))
    for rows, block in _blocks(problem, members):
        negative[rows] = np.minimum(block, 0).sum(axis=1, dtype=np.float64)
        positive[rows] = np.maximum(block, 0).sum(axis=1, dtype=np.float64)
    return negative, positive


def _definite_shift(problem: BlockProblem, scale: float) -> Float64Array:
    """A diagonal D [n] with Q + D positive semidefinite: t times the rows' norms, for a small t that can be proven."""
    norms = np.zeros(problem.n)
    for rows, block in _blocks(problem, np.arange(problem.n)):
        squares = np.square(block / scale, dtype=np.float64)  # scaled, so that they do not overflow
        norms[rows] = scale * np.sqrt(squares.sum(axis=1))
    norms = np.asarray(np.maximum(norms, 1e-6 * norms.max(initial=0.0)))
    if not norms.any():
        return norms
    roots = np.sqrt(norms)
    scaled = np.divide(_matrix(problem), roots, dtype=np.float64)
    scaled /= roots[:, None]
    t = max(-1.01 * _least_ritz_value(scaled), 1e-3 * float(np.abs(scaled).max()))
    while True:
        scaled.flat[:: problem.n + 1] = t
        try:
            np.linalg.cholesky(scaled)
        except np.linalg.LinAlgError:
            t *= 1.05
        else:
            # A factorisation that succeeds has an error of at most n^2 roundings, for which the factor stands.
            return np.asarray(t * (1 + 1e-6) * norms)


def _least_ritz_value(matrix: Float64Array, steps: int = 40) -> float:
    """An estimate from above of the least eigenvalue, by Lanczos' method from a fixed random vector."""
    n = len(matrix)
    basis = np.zeros((min(steps, n), n))
    v = np.random.default_rng(0).standard_normal(n)
    for row in basis:
        for _ in range(2):  # a second time, against the rounding errors of the first
            v -= basis.T @ (basis @ v)
        size = np.linalg.norm(v)
        if size < 1e-12:
            break
        row[:] = v / size
        v = matrix @ row
    return float(np.linalg.eigvalsh(basis @ (matrix @ basis.T))[0])


def _blocks(problem: BlockProblem, members: IntArray) -> Iterator[tuple[slice, FloatArray]]:
    """Slices of rows of Q[members, members] and their entries, a part of the rows at a time."""
    matrix = _matrix(problem)
    whole = len(members) == problem.n
    for rows in _pieces(0, len(members), len(members)):
        yield rows, matrix[rows] if whole else matrix[np.ix_(members[rows], members)]


def _columns(prefix: Float64Array, first: int, last: int) -> Iterator[tuple[IntArray, Float64Array]]:
    """Columns first, ..., last - 1 as contiguous rows, a part of them at a time."""
    for piece in _pieces(first, last, len(prefix)):
        yield np.arange(piece.start, piece.stop), np.ascontiguousarray(prefix[:, piece].T)


def _pieces(first: int, last: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, width))
    for start in range(first, last, step):
        yield slice(start, min(last, start + step))


def _matrix(problem: BlockProblem) -> FloatArray:
    assert isinstance(problem.form, DenseForm)  # penalty() converts to it
    return problem.form.matrix


# Good feasible states


def _measured(problem: BlockProblem, seed: int) -> float:
    """Largest decrease by a single flip at a few local optima of swap descents."""
    starts = [_greedy_optimum(problem), *(_descend(problem, x) for x in problem.random_states(_STARTS, seed))]
    return max(float(-problem.flip_changes(x).min(initial=0.0)) for x in starts)


def _greedy_optimum(problem: BlockProblem) -> StateArray:
    """The feasible state of a greedy construction, improved by swaps to a local optimum."""
    Q, fields = _matrix(problem), problem.single_energies.copy()
    x = np.zeros(problem.n, np.int8)
    missing = problem.constraint.counts.copy()
    group = problem.constraint.groups
    open_to = missing[group] > 0
    for _ in range(problem.constraint.total):
        best = int(np.argmin(np.where(open_to, fields, np.inf)))
        x[best] = 1
        fields += 2.0 * Q[best]
        open_to[best] = False
        missing[group[best]] -= 1
        if missing[group[best]] == 0:
            open_to[group == group[best]] = False
    return _descend(problem, x)


def _descend(problem: BlockProblem, x: StateArray, width: int = 16) -> StateArray:
    """Swap while the energy decreases: the best swap of the `width` most promising ones, or if none helps, of all."""
    Q, group = _matrix(problem), problem.constraint.groups
    grouped = problem.groups is not None
    x, fields = x.copy(), problem.local_fields(x)
    least = 1e-12 * float(
        np.abs(fields).max(initial=0.0)
    )  # smaller decreases are rounding errors, and might repeat for ever
    while True:
        zeros = np.flatnonzero(x == 0)
        ones = np.flatnonzero(x)
        ones = ones[np.argsort(-fields[ones], kind="stable")]
        for out in itertools.chain([ones[:width]], (ones[p] for p in _pieces(width, len(ones), len(zeros)))):
            changes = fields[zeros] - fields[out][:, None] - 2.0 * Q[np.ix_(out, zeros)]
            if grouped:
                changes[group[out][:, None] != group[zeros]] = np.inf
            if changes.size and changes.min() < -least:
                break
        else:
            return x
        o, z = np.unravel_index(int(changes.argmin()), changes.shape)
        i, j = int(out[o]), int(zeros[z])
        x[i], x[j] = 0, 1
        fields += 2.0 * (Q[j].astype(np.float64) - Q[i])
