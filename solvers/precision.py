"""How exact energies are: their rounding, and the size of the terms that add up to one."""

from __future__ import annotations

import sys
import weakref

import numpy as np

from problems import BlockProblem

EXACT_ROUNDING = 1e-13
"""The problem's own energies are right to about this share of their terms: the same state summed in another order must
not miss its own energy as a target."""

_ROWS = 32  # of a dense matrix give a good estimate of its size

_sizes: weakref.WeakKeyDictionary[BlockProblem, float] = weakref.WeakKeyDictionary()


def size_of_terms(problem: BlockProblem) -> float:
    """How large the terms are that add up to an energy without its offset: those of a random state, by magnitude."""
    known = _sizes.get(problem)
    if known is None:
        with np.errstate(over="ignore"):
            known = _sizes[problem] = min(_measured_size(problem), sys.float_info.max)
    return known


def _measured_size(problem: BlockProblem) -> float:
    x = problem.random_states(1, 0)
    own = (np.abs(problem.linear) + np.abs(problem.single_energies)) @ x[0]
    ones = np.flatnonzero(x)
    if problem.is_low_rank:  # all products of a state cost what two rows do
        return float(own + np.abs(problem.form.products(x)[0, ones]).sum())
    some = ones[:: max(1, len(ones) // _ROWS)]
    products = sum(abs(float(problem.form.row(int(i)) @ x[0])) for i in some)
    return float(own + products * len(ones) / max(1, len(some)))
