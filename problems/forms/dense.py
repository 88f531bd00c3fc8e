"""The dense form of a quadratic part: the whole matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError
from problems.forms.base import (
    FEW_STATES,
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
class DenseForm:
    """Q as a symmetric matrix with a zero diagonal, which is part of the linear term, as x_i^2 = x_i."""

    matrix: FloatArray

    @classmethod
    def split(cls, Q: npt.ArrayLike) -> tuple[DenseForm, Float64Array]:
        """Split a symmetric or triangular array into a form and its diagonal.

        Args:
            Q: coefficients [n, n]; Q_ij and Q_ji are averaged, which leaves x^T Q x as it is.

        Returns:
            The form (float32 stays float32, everything else becomes float64) and the diagonal [n].

        Raises:
            ProblemError: Q is not a square matrix of finite numbers.
        """
        given = np.asarray(Q)
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise ProblemError(f"Q has shape {given.shape}; a block problem needs a square matrix [n, n]")
        matrix = finite_floats(given, "Q")
        # A symmetric array is kept as it is; averaging a triangular one halves its entries, which is exact too.
        matrix = matrix.copy() if np.array_equal(matrix, matrix.T) else _symmetrised(matrix)
        diagonal = np.diagonal(matrix).astype(np.float64)
        np.fill_diagonal(matrix, 0)
        return cls(frozen(matrix)), diagonal

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
        if len(states) <= ONE_BY_ONE:
            return energies_by_pairs(self.matrix, np.ones(self.n), states)
        X = states.astype(np.float64)
        energies = np.zeros(len(X))
        for rows in chunks(self.n, self.n):
            block = self.matrix[rows].astype(np.float64, copy=False)
            energies += np.einsum("bi,bi->b", X[:, rows], X @ block.T)
        return energies

    def prepare_energies(self) -> None:
        compile_energies(self.matrix.dtype)

    def products(self, states: StateArray) -> Float64Array:
        fields = np.zeros((len(states), self.n))
        if len(states) <= FEW_STATES:
            for x, sums in zip(states, fields, strict=True):
                ones = np.flatnonzero(x)
                for some in chunks(len(ones), self.n):
                    sums += self.matrix[ones[some]].sum(axis=0, dtype=np.float64)
            return fields
        X = states.astype(np.float64)
        for rows in chunks(self.n, self.n):
            fields[:, rows] = X @ self.matrix[rows].astype(np.float64, copy=False).T
        return fields

    def row(self, i: int) -> Float64Array:
        return np.asarray(self.matrix[i], np.float64).copy()

    def couplings(self, rows: IntArray, columns: IntArray) -> Float64Array:
        return np.asarray(self.matrix[rows, columns], np.float64)

    def dense(self) -> Float64Array:
        return self.matrix.astype(np.float64)

    def restricted(self, indices: IntArray) -> DenseForm:
        return DenseForm(frozen(np.ascontiguousarray(self.matrix[np.ix_(indices, indices)])))

    def total(self, weights: Float64Array) -> float:
        return float(
            sum(weights[rows] @ (self.matrix[rows].astype(np.float64, copy=False) @ weights)
                for rows in chunks(self.n, self.n))
        )  # fmt: skip


def _symmetrised(matrix: FloatArray) -> FloatArray:
    upper, lower = matrix / 2, matrix.T / 2  # halves first, so that the sum of two large ones does not overflow
    return np.asarray(upper + lower)


def spin_to_binary(Q: Float64Array, h: Float64Array, offset: float) -> tuple[Float64Array, Float64Array, float]:
    """Convert s^T Q s + h.s + offset of spins s to the same function of x = (s + 1) / 2, for Q with a zero diagonal."""
    rows = Q.sum(axis=1)
    return 4.0 * Q, 2.0 * h - 4.0 * rows, float(offset + rows.sum() - h.sum())
