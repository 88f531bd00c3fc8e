"""The scaled form of a quadratic part: Q = diag(s) B diag(s), where many problems share the matrix B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError
from problems.forms.base import (
    ONE_BY_ONE,
    Float64Array,
    FloatArray,
    IntArray,
    StateArray,
    chunks,
    compile_energies,
    energies_by_pairs,
    finite_floats,
    frozen,
)


@dataclass(frozen=True, eq=False)
class SharedMatrix:
    """A matrix that many problems hold by reference and that is checked once.

    Attributes:
        matrix: B, exactly symmetric, read-only [n, n]; the caller's array if that is float32 or float64.
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
        return cls(frozen(matrix), np.diagonal(matrix).astype(np.float64), largest)


@dataclass(frozen=True, eq=False)
class ScaledForm:
    """Q = diag(s) B diag(s) without its diagonal, which is part of the linear term as in the dense form."""

    shared: SharedMatrix
    scales: Float64Array

    @classmethod
    def split(cls, B: npt.ArrayLike | SharedMatrix, s: npt.ArrayLike) -> tuple[ScaledForm, Float64Array]:
        """Check scales s [n] for a matrix B [n, n], and split off the diagonal of Q.

        Returns:
            The form and the diagonal [n].

        Raises:
            ProblemError: B is not a symmetric matrix of finite numbers, s does not fit it, or products
                s_i B_ij s_j may overflow.
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
        return np.dtype(np.float64)  # of s_i B_ij s_j, also if B is float32

    @property
    def diagonal(self) -> Float64Array:
        return np.zeros(self.n)

    def energies(self, states: StateArray) -> Float64Array:
        if len(states) <= ONE_BY_ONE:
            return energies_by_pairs(self.shared.matrix, self.scales, states)
        return np.asarray(np.einsum("bi,bi->b", states, self.products(states)))

    def prepare_energies(self) -> None:
        compile_energies(self.shared.matrix.dtype)

    def products(self, states: StateArray) -> Float64Array:
        scaled = states * self.scales
        sums = np.zeros((len(states), self.n))
        for rows in chunks(self.n, self.n):
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
        shared = SharedMatrix(frozen(matrix), self.shared.own[indices], self.shared.largest)
        return ScaledForm(shared, self.scales[indices])

    def total(self, weights: Float64Array) -> float:
        scaled = weights * self.scales
        products = np.zeros(self.n)
        for rows in chunks(self.n, self.n):
            products[rows] = self.shared.matrix[rows].astype(np.float64, copy=False) @ scaled
        return float(scaled @ products - (self.shared.own * scaled) @ scaled)
