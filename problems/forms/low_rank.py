"""The low-rank form of a quadratic part: a factor A with Q = A A^T."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.errors import ProblemError
from problems.forms.base import (
    FEW_STATES,
    Float64Array,
    FloatArray,
    IntArray,
    StateArray,
    chunks,
    finite_floats,
    frozen,
)


@dataclass(frozen=True, eq=False)
class LowRankForm:
    """Q = A A^T with a factor A [n, r], which is not copied if it is a C-contiguous array of float32 or float64."""

    factor: FloatArray

    @classmethod
    def of(cls, A: npt.ArrayLike) -> LowRankForm:
        """Check a factor A [n, r] and wrap it.

        Raises:
            ProblemError: A is not a matrix of finite numbers, or A A^T is not finite.
        """
        given = np.asarray(A)
        if given.ndim != 2:
            raise ProblemError(f"A has shape {given.shape}; a low-rank factor is a matrix [n, r]")
        form = cls(frozen(np.ascontiguousarray(finite_floats(given, "A"))))
        if form.dtype == np.float64:  # the squares of float32 numbers are finite in float64
            _refuse_infinite_squares(form)
        return form

    @property
    def n(self) -> int:
        return int(self.factor.shape[0])

    @property
    def rank(self) -> int:
        """Number of columns of A, an upper bound on the rank of Q."""
        return int(self.factor.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.factor.dtype

    @property
    def diagonal(self) -> Float64Array:
        diagonal = np.empty(self.n)
        for rows in chunks(self.n, self.rank):
            block = self.factor[rows].astype(np.float64, copy=False)
            diagonal[rows] = np.einsum("ir,ir->i", block, block)
        return diagonal

    def residuals(self, states: StateArray | Float64Array) -> Float64Array:
        """A^T x of each state [b, r], for states (or real weights) [b, n]."""
        residuals = np.zeros((len(states), self.rank))
        if states.dtype == np.int8 and len(states) <= FEW_STATES:
            for x, sums in zip(states, residuals, strict=True):
                ones = np.flatnonzero(x)
                for some in chunks(len(ones), self.rank):
                    sums += self.factor[ones[some]].sum(axis=0, dtype=np.float64)
            return residuals
        for rows in chunks(self.n, self.rank):
            part = states[:, rows].astype(np.float64, copy=False)
            residuals += part @ self.factor[rows].astype(np.float64, copy=False)
        return residuals

    def energies(self, states: StateArray) -> Float64Array:
        residuals = self.residuals(states)
        return np.asarray(np.einsum("br,br->b", residuals, residuals))

    def prepare_energies(self) -> None:
        pass  # nothing is compiled

    def products(self, states: StateArray) -> Float64Array:
        residuals = self.residuals(states)
        fields = np.empty((len(states), self.n))
        for rows in chunks(self.n, self.rank):
            block = self.factor[rows].astype(np.float64, copy=False)
            own = np.einsum("ir,ir->i", block, block)
            fields[:, rows] = residuals @ block.T - own * states[:, rows]
        return fields

    def row(self, i: int) -> Float64Array:
        row = np.empty(self.n)
        own = self.factor[i].astype(np.float64)
        for rows in chunks(self.n, self.rank):
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
        return LowRankForm(frozen(np.ascontiguousarray(self.factor[indices])))

    def total(self, weights: Float64Array) -> float:
        residual = self.residuals(weights[None])[0]
        return float(residual @ residual - (self.diagonal * weights) @ weights)


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
