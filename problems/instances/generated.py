"""Random problems, problems with a planted optimum, and problems of MDPLIB files."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from problems.block import BlockProblem
from problems.cardinality import Cardinality
from problems.errors import ProblemError
from problems.forms import StateArray


def random(
    n: int,
    cardinality: int | npt.ArrayLike,
    seed: int,
    *,
    rank: int | None = None,
    groups: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> BlockProblem:
    """A problem with normally distributed coefficients and linear and quadratic terms of comparable size.

    Args:
        n: number of variables.
        cardinality: demanded number of ones, or one number for each group [g].
        seed: seed of the random numbers.
        rank: None for a dense problem with Q_ij ~ N(0, 1) and c_i ~ N(0, n); otherwise the number of columns of a
            low-rank one with A_ir ~ N(0, 1 / rank) and c_i ~ N(0, 1).
        groups: group of each variable [n], or None.
        dtype: of the quadratic part, float64 or float32.
    """
    rng = np.random.default_rng(seed)
    drawn = np.float32 if np.dtype(dtype) == np.float32 else np.float64
    provenance = {"method": "problems.instances.random", "seed": seed}
    if rank is None:
        Q = np.triu(rng.standard_normal((n, n), dtype=drawn), 1)
        linear = rng.standard_normal(n) * np.sqrt(n)
        return BlockProblem(Q + Q.T, linear, cardinality, groups=groups, provenance=provenance)
    A = rng.standard_normal((n, rank), dtype=drawn)
    A /= np.sqrt(drawn(max(1, rank)))
    return BlockProblem.low_rank(A, rng.standard_normal(n), cardinality, groups=groups, provenance=provenance)


def planted(
    n: int,
    cardinality: int | npt.ArrayLike,
    seed: int,
    *,
    rank: int = 32,
    groups: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> BlockProblem:
    """A low-rank problem whose optimum is known: E(x) = |A^T (x - x*)|^2, which is 0 at x* and never negative.

    A holds integers from -9 to 9, so that every energy is exact. If rank is far below n, many states have the optimal
    energy. :func:`known_optimum` gives x*.

    Args:
        n: number of variables.
        cardinality: demanded number of ones, or one number for each group [g].
        seed: seed of the random numbers.
        rank: number of columns of A.
        groups: group of each variable [n], or None.
        dtype: of the factor, float64 or float32.
    """
    rng = np.random.default_rng(seed)
    A = rng.integers(-9, 10, (n, rank)).astype(np.float32 if np.dtype(dtype) == np.float32 else np.float64)
    x = Cardinality.of(cardinality, groups, n).random_states(1, rng)[0]
    residual = A[x == 1].sum(axis=0, dtype=np.float64)
    provenance = {
        "method": "problems.instances.planted", "seed": seed, "optimum": np.flatnonzero(x).tolist(),
    }  # fmt: skip
    problem = BlockProblem.low_rank(
        A, -2.0 * (A @ residual), cardinality, offset=float(residual @ residual), groups=groups, provenance=provenance
    )
    return problem.with_best_known(0.0, proven=True, found_by="planted")


def known_optimum(problem: BlockProblem) -> StateArray:
    """The optimal state [n] of a problem of :func:`planted` or :func:`pruning`, or of a proven instance.

    Raises:
        ProblemError: the problem's provenance has no "optimum".
    """
    ones = problem.provenance.get("optimum")
    if ones is None:
        raise ProblemError('no optimal state is known: the problem\'s provenance has no "optimum"')
    x = np.zeros(problem.n, np.int8)
    x[ones] = 1
    return x


def read_mdplib(path: str | os.PathLike[str]) -> BlockProblem:
    """Read a maximum-diversity instance of MDPLIB; see :func:`problems.formats.mdplib.read`."""
    return BlockProblem.load(path, format="mdplib")
