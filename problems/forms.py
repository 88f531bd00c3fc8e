"""The quadratic part of a block problem, in the form that suits it.

Each form answers the same few questions about the off-diagonal matrix Q and the diagonal it may carry, so
that :class:`problems.BlockProblem` and the solvers need not ask which form they hold:

- :class:`DenseForm` stores Q itself, n x n. Right for blocks of up to a few thousand weights.
- :class:`LowRankForm` stores a factor A with Q = A A^T. The empirical Fisher matrix of N samples has rank N at
  most, so a block of 10^6 weights fits where its dense matrix could not even be allocated.
- :class:`ScaledForm` stores scales s with Q = diag(s) B diag(s), where B is shared by reference between many
  problems: the rows of a layer's weight have the Gram matrix of its inputs in common.

All sums are accumulated in float64, whatever the dtype of the coefficients.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float64Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
StateArray: TypeAlias = npt.NDArray[np.int8]

_CHUNK_BYTES = 1 << 23  # rows are widened to float64 in pieces of this size: small beside any cache-missing matrix
_STATES_ONE_BY_ONE = 32  # up to so many, the compiled kernel is faster than products of all rows
_FEW_STATES = 8  # of so few states the rows of the ones are added up: faster than widening all rows for a product


class QuadraticForm(Protocol):
    """What a block problem asks of its quadratic part Q [n, n]."""

    @property
    def n(self) -> int:
        """Number of variables."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored coefficients."""

    @property
    def diagonal(self) -> Float64Array:
        """The diagonal of Q that is *not* part of the problem's linear term [n]."""

    def energies(self, states: StateArray) -> Float64Array:
        """x^T Q x of each state [b], for states [b, n]."""

    def products(self, states: StateArray) -> Float64Array:
        """Q x of each state, diagonal left out: the quadratic part of the local fields [b, n]."""

    def row(self, i: int) -> Float64Array:
        """Row i of Q, with a zero at i [n]."""

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        """Q[rows[t], columns[t]] for each t, zero where the two are the same variable [t]."""

    def dense(self) -> Float64Array:
        """Q as an array with a zero diagonal [n, n]."""

    def restricted(self, indices: IntArray) -> QuadraticForm:
        """The form of the sub-matrix Q[indices, indices]."""

    def total(self, weights: Float64Array) -> float:
        """The sum of weights[i] Q_ij weights[j] over i != j, for weights [n]."""


@dataclass(frozen=True, eq=False)
class DenseForm:
    """Q stored whole: symmetric, with a zero diagonal (x_i^2 = x_i moves the diagonal into the linear term)."""

    matrix: FloatArray

    @classmethod
    def split(cls, Q: npt.ArrayLike) -> tuple[DenseForm, Float64Array]:
        """Take a symmetric or triangular array apart into a form and its diagonal.

        Args:
            Q: coefficients [n, n]; only x^T Q x matters, so what stands at (i, j) and (j, i) is averaged.

        Returns:
            The form (float32 stays float32, everything else becomes float64) and the diagonal [n].

        Raises:
            ProblemError: Q is not a square matrix of finite numbers.
        """
        given = np.asarray(Q)
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise ProblemError(f"Q has shape {given.shape}; a block problem needs a square matrix [n, n]")
        matrix = finite_floats(given, "Q")
        # A symmetric array is kept to the bit; the mean of a triangular one is a halving, which is exact too.
        matrix = matrix.copy() if np.array_equal(matrix, matrix.T) else _symmetrised(matrix)
        diagonal = np.diagonal(matrix).astype(np.float64)
        np.fill_diagonal(matrix, 0)
        return cls(_frozen(matrix)), diagonal

    @property
    def n(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.matrix.dtype

    @property
    def diagonal(self) -> Float64Array:
        return np.zeros(self.n)

    def energies(self, states: StateArray) -> Float64Array:
        if len(states) <= _STATES_ONE_BY_ONE:
            return _energies_one_by_one(self.matrix, np.ones(self.n), states)
        X = states.astype(np.float64)
        energies = np.zeros(len(X))
        for rows in _chunks(self.n, self.n):
            block = self.matrix[rows].astype(np.float64, copy=False)
            energies += np.einsum("bi,bi->b", X[:, rows], X @ block.T)
        return energies

    def products(self, states: StateArray) -> Float64Array:
        fields = np.zeros((len(states), self.n))
        if len(states) <= _FEW_STATES:
            for x, sums in zip(states, fields, strict=True):
                ones = np.flatnonzero(x)
                for some in _chunks(len(ones), self.n):
                    sums += self.matrix[ones[some]].sum(axis=0, dtype=np.float64)
            return fields
        X = states.astype(np.float64)
        for rows in _chunks(self.n, self.n):
            fields[:, rows] = X @ self.matrix[rows].astype(np.float64, copy=False).T
        return fields

    def row(self, i: int) -> Float64Array:
        return np.asarray(self.matrix[i], np.float64).copy()

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        return np.asarray(self.matrix[rows, columns], np.float64)

    def dense(self) -> Float64Array:
        return self.matrix.astype(np.float64)

    def restricted(self, indices: IntArray) -> DenseForm:
        return DenseForm(_frozen(np.ascontiguousarray(self.matrix[np.ix_(indices, indices)])))

    def total(self, weights: Float64Array) -> float:
        return float(
            sum(weights[rows] @ (self.matrix[rows].astype(np.float64, copy=False) @ weights)
                for rows in _chunks(self.n, self.n))
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LowRankForm:
    """Q = A A^T, with the factor A [n, r] as the caller gave it (not copied where it is C-contiguous floats)."""

    factor: FloatArray

    @classmethod
    def of(cls, A: npt.ArrayLike) -> LowRankForm:
        """Check a factor A [n, r] and wrap it.

        Raises:
            ProblemError: A is not a matrix of finite numbers, or A A^T is none.
        """
        given = np.asarray(A)
        if given.ndim != 2:
            raise ProblemError(f"A has shape {given.shape}; a low-rank factor is a matrix [n, r]")
        form = cls(_frozen(np.ascontiguousarray(finite_floats(given, "A"))))
        if form.dtype == np.float64:  # squares of float32 always fit
            _refuse_infinite_squares(form)
        return form

    @property
    def n(self) -> int:
        return int(self.factor.shape[0])

    @property
    def rank(self) -> int:
        """Number of columns of A: an upper bound on the rank of Q."""
        return int(self.factor.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.factor.dtype

    @property
    def diagonal(self) -> Float64Array:
        diagonal = np.empty(self.n)
        for rows in _chunks(self.n, self.rank):
            block = self.factor[rows].astype(np.float64, copy=False)
            diagonal[rows] = np.einsum("ir,ir->i", block, block)
        return diagonal

    def residuals(self, states: StateArray | Float64Array) -> Float64Array:
        """A^T x of each state [b, r], for states (or real weights) [b, n]."""
        residuals = np.zeros((len(states), self.rank))
        if states.dtype == np.int8 and len(states) <= _FEW_STATES:
            for x, sums in zip(states, residuals, strict=True):
                ones = np.flatnonzero(x)
                for some in _chunks(len(ones), self.rank):
                    sums += self.factor[ones[some]].sum(axis=0, dtype=np.float64)
            return residuals
        for rows in _chunks(self.n, self.rank):
            part = states[:, rows].astype(np.float64, copy=False)
            residuals += part @ self.factor[rows].astype(np.float64, copy=False)
        return residuals

    def energies(self, states: StateArray) -> Float64Array:
        residuals = self.residuals(states)
        return np.asarray(np.einsum("br,br->b", residuals, residuals))

    def products(self, states: StateArray) -> Float64Array:
        residuals = self.residuals(states)
        fields = np.empty((len(states), self.n))
        for rows in _chunks(self.n, self.rank):
            block = self.factor[rows].astype(np.float64, copy=False)
            own = np.einsum("ir,ir->i", block, block)
            fields[:, rows] = residuals @ block.T - own * states[:, rows]
        return fields

    def row(self, i: int) -> Float64Array:
        row = np.empty(self.n)
        own = self.factor[i].astype(np.float64)
        for rows in _chunks(self.n, self.rank):
            row[rows] = self.factor[rows].astype(np.float64, copy=False) @ own
        row[i] = 0.0
        return row

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        left, right = self.factor[rows].astype(np.float64), self.factor[columns].astype(np.float64)
        return np.where(rows == columns, 0.0, np.einsum("tr,tr->t", left, right))

    def dense(self) -> Float64Array:
        A = self.factor.astype(np.float64, copy=False)
        Q = A @ A.T
        Q = (Q + Q.T) / 2  # a BLAS product is symmetric only up to rounding
        np.fill_diagonal(Q, 0.0)
        return Q

    def restricted(self, indices: IntArray) -> LowRankForm:
        return LowRankForm(_frozen(np.ascontiguousarray(self.factor[indices])))

    def total(self, weights: Float64Array) -> float:
        residual = self.residuals(weights[None])[0]
        return float(residual @ residual - (self.diagonal * weights) @ weights)


@dataclass(frozen=True, eq=False)
class SharedMatrix:
    """A matrix that many problems hold by reference, checked once.

    Attributes:
        matrix: B, symmetric to the bit, read-only [n, n]; the caller's own array where that is float32 or float64.
        own: its diagonal in float64 [n].
        largest: its largest magnitude.
    """

    matrix: FloatArray
    own: Float64Array
    largest: float

    @classmethod
    def of(cls, B: npt.ArrayLike) -> SharedMatrix:
        """Check a matrix B [n, n] and wrap it.

        Raises:
            ProblemError: B is not a symmetric matrix of finite numbers.
        """
        given = np.asarray(B)
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise ProblemError(f"B has shape {given.shape}; problems share a square matrix [n, n]")
        matrix = np.ascontiguousarray(finite_floats(given, "B"))
        if not np.array_equal(matrix, matrix.T):
            raise ProblemError("B is not symmetric; pass (B + B.T) / 2, which has the same energies")
        largest = float(max(matrix.max(), -matrix.min())) if matrix.size else 0.0
        return cls(_frozen(matrix), np.diagonal(matrix).astype(np.float64), largest)


@dataclass(frozen=True, eq=False)
class ScaledForm:
    """Q = diag(s) B diag(s), less its diagonal, which is part of the problem's linear term as in the dense form."""

    shared: SharedMatrix
    scales: Float64Array

    @classmethod
    def split(cls, B: npt.ArrayLike | SharedMatrix, s: npt.ArrayLike) -> tuple[ScaledForm, Float64Array]:
        """Check scales s [n] for a matrix B [n, n], and take the diagonal of Q apart.

        Returns:
            The form and the diagonal [n].

        Raises:
            ProblemError: B is not a symmetric matrix of finite numbers, s does not fit it, or products
                s_i B_ij s_j leave the range of float64.
        """
        shared = B if isinstance(B, SharedMatrix) else SharedMatrix.of(B)
        given, n = np.asarray(s), len(shared.own)
        if given.shape != (n,):
            raise ProblemError(f"the scales have shape {given.shape}; B has {n} variables, so [{n}] is needed")
        scales = finite_floats(given, "scales").astype(np.float64)
        scales.flags.writeable = False
        with np.errstate(over="ignore"):
            bound = np.square(np.abs(scales).max(initial=0.0)) * shared.largest
        if not np.isfinite(bound):
            raise ProblemError(
                f"scales of up to {np.abs(scales).max():.3g} and a B of up to {shared.largest:.3g} make products that "
                "may be infinite; scale one of them down"
            )
        return cls(shared, scales), scales * scales * shared.own

    @property
    def n(self) -> int:
        return len(self.scales)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)  # of s_i B_ij s_j, whatever B is stored in

    @property
    def diagonal(self) -> Float64Array:
        return np.zeros(self.n)

    def energies(self, states: StateArray) -> Float64Array:
        if len(states) <= _STATES_ONE_BY_ONE:
            return _energies_one_by_one(self.shared.matrix, self.scales, states)
        return np.asarray(np.einsum("bi,bi->b", states, self.products(states)))

    def products(self, states: StateArray) -> Float64Array:
        scaled = states * self.scales
        sums = np.zeros((len(states), self.n))
        for rows in _chunks(self.n, self.n):
            sums[:, rows] = scaled @ self.shared.matrix[rows].astype(np.float64, copy=False).T
        return self.scales * (sums - self.shared.own * scaled)

    def row(self, i: int) -> Float64Array:
        row = np.asarray(self.scales[i] * self.shared.matrix[i].astype(np.float64) * self.scales)
        row[i] = 0.0
        return row

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        values = self.scales[rows] * self.shared.matrix[rows, columns].astype(np.float64) * self.scales[columns]
        return np.asarray(np.where(rows == columns, 0.0, values))

    def dense(self) -> Float64Array:
        Q = np.outer(self.scales, self.scales) * self.shared.matrix
        np.fill_diagonal(Q, 0.0)
        return Q

    def restricted(self, indices: IntArray) -> ScaledForm:
        matrix = np.ascontiguousarray(self.shared.matrix[np.ix_(indices, indices)])
        shared = SharedMatrix(_frozen(matrix), self.shared.own[indices], self.shared.largest)
        return ScaledForm(shared, self.scales[indices])

    def total(self, weights: Float64Array) -> float:
        scaled = weights * self.scales
        products = np.zeros(self.n)
        for rows in _chunks(self.n, self.n):
            products[rows] = self.shared.matrix[rows].astype(np.float64, copy=False) @ scaled
        return float(scaled @ products - (self.shared.own * scaled) @ scaled)


def spin_to_binary(Q: Float64Array, h: Float64Array, offset: float) -> tuple[Float64Array, Float64Array, float]:
    """The function s^T Q s + h.s + offset of spins as one of x = (s + 1) / 2, for Q with a zero diagonal."""
    rows = Q.sum(axis=1)
    return 4.0 * Q, 2.0 * h - 4.0 * rows, float(offset + rows.sum() - h.sum())


def compile_energies(form: QuadraticForm) -> None:
    """Compile, or load from numba's cache, what `form.energies` runs, so that later calls do not take that time."""
    if isinstance(form, DenseForm):
        _compile_for(form.matrix.dtype)
    elif isinstance(form, ScaledForm):
        _compile_for(form.shared.matrix.dtype)


@functools.cache
def _compile_for(dtype: np.dtype[Any]) -> None:
    _energies_one_by_one(np.zeros((1, 1), dtype), np.ones(1), np.zeros((1, 1), np.int8))


def _refuse_infinite_squares(form: LowRankForm) -> None:
    A = form.factor
    largest = float(max(A.max(), -A.min())) if A.size else 0.0
    if largest <= np.sqrt(np.finfo(float).max / max(1, form.rank)):
        return
    with np.errstate(over="ignore"):
        infinite = ~np.isfinite(form.diagonal)
    if infinite.any():
        row = int(infinite.argmax())
        raise ProblemError(
            f"A[{row}] has entries of up to {np.abs(A[row]).max():.3g}, and the sum of their squares is infinite; "
            "Q = A A^T must be finite, so scale A down"
        )


def _energies_one_by_one(matrix: FloatArray, scales: Float64Array, states: StateArray) -> Float64Array:
    from problems.energies import matrix_energies

    energies = np.empty(len(states))
    # Read-only views: compiled once, whoever holds the arrays.
    matrix_energies(*(_frozen(np.ascontiguousarray(array)) for array in (matrix, scales, states)), energies)
    return energies


def finite_floats(array: npt.NDArray[Any], name: str) -> FloatArray:
    """The array as float32 or float64, refused where it is not made of finite real numbers."""
    if array.dtype.kind not in "fiub":
        raise ProblemError(f"{name} has dtype {array.dtype}; real numbers are needed")
    floats: FloatArray = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    # One pass without a temporary: a finite sum means finite terms. A sum may also overflow, so look closer.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(floats.sum())
    if suspicious and not np.isfinite(floats).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(floats))[0])
        raise ProblemError(f"{name}{list(where)} is {floats[where]}; every coefficient must be finite")
    return floats


def _symmetrised(matrix: FloatArray) -> FloatArray:
    upper, lower = matrix / 2, matrix.T / 2  # halves first, so that the sum of two large ones does not overflow
    return np.asarray(upper + lower)


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // (8 * max(1, width)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
