"""A block problem as the arrays that compiled kernels take.

Kernels work in float32, in *half units*: with s the energies of the single variables (the diagonal of Q in them),

    e(x) = scale (E(x) - offset) / 2 = 1/2 x^T Q' x + s'.x        Q' = scale Q,  s' = scale s / 2

so that the field g = s' + Q' x is what a variable adds, the swap of i (one) for j (zero) changes e by
g_j - g_i - Q'_ij, and no factor of two stands in any loop. The scale is a power of two, which loses no digit, and
is 1 (no copy of a float32 matrix) unless the coefficients' size would leave the range of float32.

A constant in the single energies of a group changes no order of states, as its number of ones is fixed, but would drown
their differences in float32. So each group's median is taken out of them, and stands in the offset; or the median of
what its variables add on average, where couplings take most of these terms back.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from problems import BlockProblem, DenseForm, LowRankForm, ScaledForm
from problems.forms import Float64Array, FloatArray

if TYPE_CHECKING:
    from solvers.local.kernels.structures import GroupLayout

Float32Array: TypeAlias = npt.NDArray[np.float32]
Int32Array: TypeAlias = npt.NDArray[np.int32]
UintArray: TypeAlias = npt.NDArray[np.uint8]

SAFE_EXPONENT = 36
"""Coefficients whose largest magnitude lies within 2^-36 .. 2^36 are taken as they are: their products, summed
over a million variables, stay inside float32."""

_FAR = 16.0  # times what fields differ by: beyond, float32 has fewer digits left for them than it could

_LARGEST_EXPONENT = 1000
"""The scale is within 2^-1000 .. 2^1000, so that neither it nor its inverse leaves the range of float64; what is so
small that it would need a larger one becomes zero in float32."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Who may swap with whom: the variables of each group, one group where there is one cardinality.

    Attributes:
        of: group of each variable, int32 [n].
        members: variables ordered by group, int32 [n].
        starts: where each group begins in `members`, int32 [g + 1].
        counts: ones that each group demands, int32 [g].
    """

    of: Int32Array
    members: Int32Array
    starts: Int32Array
    counts: Int32Array

    @cached_property
    def layout(self) -> GroupLayout:
        """The same arrays as kernels take them."""
        from solvers.local.kernels.structures import GroupLayout

        return GroupLayout(self.of, self.members, self.starts, self.counts)

    @cached_property
    def movable(self) -> bool:
        """Whether any swap is possible: some group is neither all ones nor all zeros."""
        return bool(self._movable.any())

    @cached_property
    def shares(self) -> Float64Array:
        """The share of feasible states that have a one there: of each variable, that of its group [n]."""
        shares: Float64Array = (self.counts / np.maximum(1, np.diff(self.starts)))[self.of]
        return shares

    @cached_property
    def pairs(self) -> int:
        """How many swaps of distinct variables a state allows at once."""
        return int(np.minimum(self.counts, np.diff(self.starts) - self.counts).sum())

    @cached_property
    def tenures(self) -> npt.NDArray[np.int64]:
        """[least, spread] of the tabu steps that an entered variable stays, then of those that a left one keeps away.

        10 to 24 steps serve problems of 50 ones and of 2,000. A variable is kept for at most as many steps as there are
        of its kind, so that one of them may always move.
        """
        ones = int(self.counts[self._movable].sum())
        zeros = int(np.diff(self.starts)[self._movable].sum()) - ones
        least = [min(10, (count + 1) // 2) for count in (ones, zeros)]
        spread = [min(15, count - least[kind] + 1) for kind, count in enumerate((ones, zeros))]
        return _read_only(np.array([least[0], spread[0], least[1], spread[1]]))

    @property
    def _movable(self) -> npt.NDArray[np.bool_]:
        return (self.counts > 0) & (self.counts < np.diff(self.starts))


@dataclass(frozen=True, eq=False)
class Arrays:
    """What both kinds of arrays share: who may swap with whom, and how energies are counted.

    Attributes:
        groups: who may swap with whom.
        scale: power of two that took Q to Q'.
        offset: constant of the energies, with what was taken out of the single energies.
    """

    groups: Groups
    scale: float
    offset: float

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.groups.of)

    def energy(self, half: float) -> float:
        """The problem's energy of a state whose kernel energy is `half`."""
        return 2.0 * half / self.scale + self.offset

    def half(self, energy: float) -> float:
        """The kernel energy of a state of the problem's energy `energy`."""
        return (energy - self.offset) * self.scale / 2.0


@dataclass(frozen=True, eq=False)
class DenseArrays(Arrays):
    """A problem whose matrix kernels read row by row.

    Attributes:
        matrix: Q' [n, n], float32, zero diagonal, read-only.
        single: s' [n], float64.
        exact: the matrix as the problem holds it, for a last descent: `matrix` rounds a float64 one.
        exact_single: single energies in the units of `exact` [n], float64.
        exact_scale: the scale of those units.
        mean_fields: what each variable adds, on average over the feasible states, in the problem's units [n]; None for
            flips, which leave those, and for sub-blocks.
    """

    matrix: Float32Array
    single: Float64Array
    exact: FloatArray
    exact_single: Float64Array
    exact_scale: float
    mean_fields: Float64Array | None = None

    @cached_property
    def reach(self) -> Float32Array:
        """The largest coupling of each variable in `matrix`, at least 0 [n]."""
        return np.asarray(self.matrix.max(axis=1, initial=0.0))

    @cached_property
    def exact_reach(self) -> FloatArray:
        """The same in `exact` [n]."""
        return self.reach if self.exact is self.matrix else np.asarray(self.exact.max(axis=1, initial=0.0))

    @cached_property
    def greedy(self) -> UintArray:
        """The feasible state whose ones add least on average: of each group those of the smallest mean fields [n]."""
        assert self.mean_fields is not None
        of, starts, mean = self.groups.of, self.groups.starts, self.mean_fields
        order = np.argsort(mean, kind="stable") if len(self.groups.counts) == 1 else np.lexsort((mean, of))
        state = np.zeros(self.n, np.uint8)
        state[order[np.arange(self.n) - starts[of[order]] < self.groups.counts[of[order]]]] = 1
        return _read_only(state)


@dataclass(frozen=True, eq=False)
class FactorArrays(Arrays):
    """A low-rank problem as kernels take it: e(x) = 1/2 |A'^T x|^2 + c'.x with A' = sqrt(scale) A, c' = scale c / 2.

    Attributes:
        factor: A' [n, r], float32, C-contiguous, read-only; the caller's own array where it is float32.
        linear: c' [n], float32, the diagonal of A A^T *not* in it.
    """

    factor: Float32Array
    linear: Float32Array

    @property
    def rank(self) -> int:
        """Number of columns of the factor."""
        return int(self.factor.shape[1])


def dense_arrays(problem: BlockProblem, *, centred: bool = True) -> DenseArrays:
    """The arrays of a problem in dense form, or of a low-rank one made dense (4 n^2 bytes).

    Args:
        problem: the problem.
        centred: whether energies need only be right for feasible states; flips, which leave them, need all.
    """
    form = problem.form
    if isinstance(form, LowRankForm):
        groups = groups_of(problem)
        low_rank = factor_arrays(problem, centred=centred)
        dense = _multiplied_out(low_rank.factor, low_rank.linear.astype(np.float64), low_rank)
        if not centred:
            return dense
        mean = _mean_fields(dense.matrix, dense.single, groups, 1.0)
        single, constant = _centred(dense.single, groups, mean)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = problem.single_energies + (mean - dense.single) * (2.0 / dense.scale)
        return replace(
            dense, single=single, exact_single=single, offset=dense.energy(constant), mean_fields=mean
        )  # fmt: skip
    if isinstance(form, ScaledForm):
        return dense_arrays(problem.to_dense(), centred=centred)
    assert isinstance(form, DenseForm)
    made = _made.get(problem) if centred else None
    if made is None:
        made = _made_of(problem, form, groups_of(problem), centred)
        if centred and made.exact is made.matrix:  # nothing of the matrix's size is held by this
            _made[problem] = made
    return made


_made: weakref.WeakKeyDictionary[BlockProblem, DenseArrays] = weakref.WeakKeyDictionary()


def _made_of(problem: BlockProblem, form: DenseForm, groups: Groups, centred: bool) -> DenseArrays:
    singles, constant, mean = problem.single_energies, 0.0, None
    if centred:
        mean = _mean_fields(form.matrix, singles, groups, 2.0)
        singles, constant = _centred(singles, groups, mean)
    scale = math.ldexp(1.0, _safe_exponent(max(_largest(form.matrix), _largest(singles))))
    matrix = _as_float32(form.matrix, scale)
    return DenseArrays(
        groups, scale, problem.offset + constant,
        matrix=matrix, single=singles * (scale / 2.0),
        exact=matrix if scale == 1.0 and form.dtype == np.float32 else _read_only(np.ascontiguousarray(form.matrix)),
        exact_single=singles / 2.0, exact_scale=1.0, mean_fields=mean,
    )  # fmt: skip


def factor_arrays(problem: BlockProblem, *, centred: bool = True) -> FactorArrays:
    """The arrays of a problem in low-rank form; nothing as large as the factor is copied where that is float32.

    Arguments are those of :func:`dense_arrays`.
    """
    form, groups = problem.form, groups_of(problem)
    assert isinstance(form, LowRankForm)
    terms, constant = _centred(problem.linear, groups) if centred else (problem.linear, 0.0)
    # The factor comes in squared: its exponent counts twice, so the scale of Q is a power of four.
    largest = max(_largest(form.factor), math.sqrt(_largest(terms)))
    exponent = _safe_exponent(largest, SAFE_EXPONENT // 2, _LARGEST_EXPONENT // 2)
    factor = _as_float32(form.factor, math.ldexp(1.0, exponent))
    scale = math.ldexp(1.0, 2 * exponent)
    linear = np.multiply(terms, scale / 2.0).astype(np.float32)
    return FactorArrays(groups, scale, problem.offset + constant, factor=factor, linear=_read_only(linear))


def restricted(arrays: FactorArrays, indices: Int32Array, fields: Float32Array, x: UintArray) -> DenseArrays:
    """The dense problem of some variables while the others stay as they are.

    Args:
        arrays: the whole problem.
        indices: the variables that stay free, distinct, ascending [m].
        fields: what each variable of the whole adds to the state x [n].
        x: the state [n].

    Returns:
        Arrays of m variables whose energies are off by a constant.
    """
    part = x[indices].astype(np.float64)
    groups = _groups_of_part(arrays.groups, indices, part)
    rows = arrays.factor[indices]
    twin = FactorArrays(groups, arrays.scale, 0.0, factor=rows, linear=arrays.linear[indices])
    dense = _multiplied_out(rows, np.zeros(len(indices)), twin)
    single = fields[indices] - dense.matrix @ part  # a field less what the free ones add to it
    return replace(dense, single=single, exact_single=single)


def restricted_factor(
    arrays: FactorArrays, indices: Int32Array, residual: Float64Array, x: UintArray
) -> FactorArrays:  # fmt: skip
    """The low-rank problem of some variables while the others stay as they are; off by a constant, as `restricted`.

    Args:
        arrays: the whole problem.
        indices: the variables that stay free, distinct, ascending [m].
        residual: A'^T x of the state [r].
        x: the state [n].
    """
    part = x[indices].astype(np.float64)
    rows = arrays.factor[indices]
    fixed = residual - part @ rows.astype(np.float64)  # what the others alone leave of it
    linear = (arrays.linear[indices] + rows.astype(np.float64) @ fixed).astype(np.float32)
    groups = _groups_of_part(arrays.groups, indices, part)
    return FactorArrays(groups, arrays.scale, 0.0, factor=_read_only(rows), linear=_read_only(linear))


def _groups_of_part(groups: Groups, indices: Int32Array, part: Float64Array) -> Groups:
    used, group = np.unique(groups.of[indices], return_inverse=True)
    ones = np.bincount(group, weights=part, minlength=len(used)).astype(np.int32)
    return _laid_out(group.astype(np.int32), ones)


def _multiplied_out(factor: Float32Array, linear: Float64Array, like: FactorArrays) -> DenseArrays:
    from solvers.local.kernels.gram import gram

    matrix = np.empty((len(factor), len(factor)), np.float32)
    single = linear + 0.5 * gram(_read_only(factor), matrix)
    matrix = _read_only(matrix)
    return DenseArrays(
        like.groups, like.scale, like.offset,
        matrix=matrix, single=single, exact=matrix, exact_single=single, exact_scale=like.scale,
    )  # fmt: skip


def groups_of(problem: BlockProblem) -> Groups:
    """The groups of a problem in the layout of kernels."""
    constraint = problem.constraint
    return _laid_out(constraint.groups.astype(np.int32), constraint.counts.astype(np.int32))


def _laid_out(of: Int32Array, counts: Int32Array) -> Groups:
    if len(counts) == 1:
        return Groups(of, np.arange(len(of), dtype=np.int32), np.array([0, len(of)], np.int32), counts)
    starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(counts)))]).astype(np.int32)
    return Groups(of, np.argsort(of, kind="stable").astype(np.int32), starts, counts)


def stream_of(seed: int, number: int) -> npt.NDArray[np.uint64]:
    """The state of random stream `number` of a seed, uint64 [1], for :mod:`solvers.local.kernels.random`."""
    return np.random.SeedSequence([seed, number]).generate_state(1, np.uint64).astype(np.uint64, copy=False)


def _mean_fields(matrix: FloatArray, single: Float64Array, groups: Groups, times: float) -> Float64Array:
    """What each variable adds, on average over the feasible states: s + `times` Q p, p the shares of ones."""
    with np.errstate(over="ignore", invalid="ignore"):
        return single + times * (matrix @ groups.shares.astype(matrix.dtype)).astype(np.float64)


def _centred(terms: Float64Array, groups: Groups, fields: Float64Array | None = None) -> tuple[Float64Array, float]:
    """Linear terms [n] less a number for each group, and what that takes from the energy of every feasible state.

    The number is the median of the group's terms; or of its mean fields [n], where these would be far from 0 otherwise:
    a model that has a penalty P for its own cardinality k has linear terms of -2 P k, of which couplings take back all
    but P.
    """
    if not len(terms):
        return terms, 0.0
    medians = _medians(terms, groups)
    if fields is not None and np.isfinite(fields).all():
        others = _medians(fields, groups)
        with np.errstate(over="ignore"):
            left, most = (np.abs(fields - each[groups.of]).max() for each in (medians, others))
        if left / _FAR > most:
            whole = bool((2.0 * terms == np.rint(2.0 * terms)).all())  # such numbers stay so
            medians = np.rint(others) if whole else others
    with np.errstate(over="ignore", invalid="ignore"):
        centred = terms - medians[groups.of]
        constant = float(groups.counts @ medians)
    if not (np.isfinite(constant) and np.isfinite(centred).all()):
        return terms, 0.0  # terms as large as float64 can hold have nothing to gain: they differ by as much
    return centred, constant


def _medians(values: Float64Array, groups: Groups) -> Float64Array:
    """The median of each group: a value of its own, not the mean of two."""
    if len(groups.counts) == 1:
        return np.partition(values, len(values) // 2)[[len(values) // 2]]
    order = np.lexsort((values, groups.of))
    middles: Float64Array = values[order[np.minimum((groups.starts[:-1] + groups.starts[1:]) // 2, len(values) - 1)]]
    return middles


def _largest(array: FloatArray) -> float:
    """Largest magnitude, in one pass and without a temporary array."""
    from solvers.local.kernels.states import largest

    return float(largest(_read_only(np.ascontiguousarray(array).reshape(-1)))) if array.size else 0.0


def _safe_exponent(largest: float, safe: int = SAFE_EXPONENT, most: int = _LARGEST_EXPONENT) -> int:
    """The power of two to scale by: 0 where the largest coefficient is of a safe size."""
    if largest == 0.0:
        return 0
    exponent = math.frexp(largest)[1]
    return 0 if -safe <= exponent <= safe else max(-most, min(most, -exponent))


def _as_float32(array: FloatArray, factor: float) -> Float32Array:
    if array.dtype == np.float32 and factor == 1.0:
        return _read_only(np.ascontiguousarray(array))
    scaled = np.empty(array.shape, np.float32)
    # Scaled before it is narrowed, in pieces: neither a coefficient nor the factor may leave the range of float32.
    step = max(1, (1 << 20) // max(1, array.shape[1]))
    for row in range(0, len(array), step):
        piece = array[row : row + step]
        scaled[row : row + step] = piece * np.float64(factor) if factor != 1.0 else piece
    return _read_only(scaled)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that cannot be written: kernels are compiled once, for read-only coefficients."""
    view = array.view()
    view.flags.writeable = False
    return view
