"""The quadratic part of a block problem, in one of three forms.

All have the interface :class:`QuadraticForm`, so that :class:`problems.BlockProblem` and the solvers work with any:

- `dense`: :class:`DenseForm` stores Q, n x n, for blocks of up to a few thousand weights.
- `low_rank`: :class:`LowRankForm` stores a factor A with Q = A A^T. The empirical Fisher matrix of N samples has rank N
  at most, so a block of 10^6 weights fits into memory, which its dense matrix would not.
- `scaled`: :class:`ScaledForm` stores s with Q = diag(s) B diag(s), where many problems share B by reference: the
  rows of a layer's weight have the Gram matrix of its inputs in common.
- `base`: the interface, array types, checks.

All sums are accumulated in float64, whatever the dtype of the coefficients.
"""

from problems.forms.base import (
    Float64Array,
    FloatArray,
    IntArray,
    QuadraticForm,
    StateArray,
    finite_floats,
)
from problems.forms.dense import DenseForm, spin_to_binary
from problems.forms.low_rank import LowRankForm
from problems.forms.scaled import ScaledForm, SharedMatrix

__all__ = [
    "DenseForm",
    "Float64Array",
    "FloatArray",
    "IntArray",
    "LowRankForm",
    "QuadraticForm",
    "ScaledForm",
    "SharedMatrix",
    "StateArray",
    "finite_floats",
    "spin_to_binary",
]
