"""Block problems as dimod types and back: BQM, CQM, Ising.

A dimod quadratic bias b_ij counts each pair once and x^T Q x counts it twice, so b_ij = 2 Q_ij. Doubling and halving a
float are exact, so a dense problem is the same to the bit after conversion to dimod and back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import dimod
import numpy as np
import numpy.typing as npt

from problems.data import ProblemData
from problems.errors import ProblemError
from problems.forms import Float64Array, spin_to_binary
from problems.penalty import penalty as penalty_of

if TYPE_CHECKING:
    from problems.block import BlockProblem


def to_bqm(problem: BlockProblem, penalty: float | str | None = None) -> dimod.BinaryQuadraticModel:
    """The problem as a BINARY model over the variables 0..n-1.

    Couplings of zero are omitted, so that sparse problems stay sparse; a low-rank problem becomes dense.

    Args:
        problem: the block problem.
        penalty: None for the objective alone, without the cardinality; otherwise P sum_g (ones_g - k_g)^2 over the
            groups g is added, where P is this number, or found by :func:`problems.penalty.penalty` for "sufficient" or
            "measured".

    Raises:
        ProblemError: another penalty, a number that is negative or not finite, or coefficients that overflow when
            doubled.
    """
    Q, linear, offset = _penalised(problem, penalty)
    bqm = dimod.BinaryQuadraticModel("BINARY")
    bqm.add_linear_from_array(linear)
    bqm.add_quadratic_from_dense(Q)  # takes Q_ij + Q_ji = 2 Q_ij
    bqm.offset = offset
    return bqm


def to_cqm(problem: BlockProblem) -> dimod.ConstrainedQuadraticModel:
    """The problem as a model with the objective and one equality constraint, or one for each group with variables.

    The constraints are labelled "cardinality", or "cardinality_0", "cardinality_1" and so on by group.
    """
    cqm = dimod.ConstrainedQuadraticModel()
    cqm.set_objective(to_bqm(problem))
    grouped = problem.groups is not None
    for g, variables in enumerate(problem.constraint.members()):
        if len(variables):
            cqm.add_constraint_from_iterable(
                [(int(v), 1) for v in variables], "==", rhs=int(problem.constraint.counts[g]),
                label=f"cardinality_{g}" if grouped else "cardinality",
            )  # fmt: skip
    return cqm


def to_ising(
    problem: BlockProblem, penalty: float | str | None = None
) -> tuple[dict[int, float], dict[tuple[int, int], float], float]:
    """Fields h, couplings J and offset of sum_i h_i s_i + sum_{i<j} J_ij s_i s_j + offset over spins s = 2x - 1.

    Arguments and errors are those of :func:`to_bqm`; couplings of zero are omitted.
    """
    # With x = (s + 1) / 2 a pair's 2 Q_ij x_i x_j is Q_ij / 2 (s_i s_j + s_i + s_j + 1).
    Q, linear, offset = _penalised(problem, penalty)
    rows = Q.sum(axis=1)
    h = (linear + rows) / 2
    i, j = np.nonzero(np.triu(Q))
    J = dict(zip(zip(i.tolist(), j.tolist(), strict=True), (Q[i, j] / 2).tolist(), strict=True))
    return dict(enumerate(h.tolist())), J, float(offset + linear.sum() / 2 + rows.sum() / 4)


def from_bqm(
    bqm: dimod.BinaryQuadraticModel,
    cardinality: int | npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
) -> ProblemData:
    """A dense problem from a dimod model.

    Args:
        bqm: BINARY, or SPIN with +1 read as one. Its variables become 0..n-1 in the order of the model.
        cardinality: demanded number of ones, or one number for each group [g].
        groups: group of each variable in this order [n], or None.

    Raises:
        ProblemError: biases that are not finite, or an impossible cardinality.
    """
    vectors = bqm.to_numpy_vectors(sort_labels=False)
    linear = np.asarray(vectors.linear_biases, np.float64)
    n = len(linear)
    i, j = vectors.quadratic.row_indices, vectors.quadratic.col_indices
    Q = np.zeros((n, n))
    Q[i, j] = np.asarray(vectors.quadratic.biases, np.float64) / 2
    Q[j, i] = Q[i, j]
    offset = float(vectors.offset)
    if bqm.vartype is dimod.SPIN:
        Q, linear, offset = spin_to_binary(Q, linear, offset)
    return ProblemData.dense(Q, linear, cardinality, offset=offset, groups=groups)


def from_cqm(cqm: dimod.ConstrainedQuadraticModel) -> ProblemData:
    """A dense problem from a model whose constraints are cardinalities.

    Every constraint must be an equality with coefficients 1 and an integer right-hand side over BINARY variables, and
    each variable must be in exactly one constraint. One constraint gives one cardinality, several give groups.

    Raises:
        ProblemError: another model; the message names the constraint or the variable.
    """
    place: dict[Hashable, int] = {v: i for i, v in enumerate(cqm.variables)}
    for v in cqm.variables:
        if cqm.vartype(v) is not dimod.BINARY:
            raise ProblemError(f"variable {v!r} is {cqm.vartype(v).name}; a block problem has BINARY variables only")
    group = np.full(len(place), -1, np.int64)
    counts = []
    for g, (label, constraint) in enumerate(cqm.constraints.items()):
        variables, count = _cardinality(label, constraint)
        members = [place[v] for v in variables]
        for v, i in zip(variables, members, strict=True):
            if group[i] >= 0:
                raise ProblemError(f"constraint {label!r}: variable {v!r} is in another constraint too")
        group[members] = g
        counts.append(count)
    if not counts:
        raise ProblemError("the model has no constraint; convert a BQM by from_bqm(bqm, cardinality=k)")
    if np.any(group < 0):
        v = cqm.variables[int(np.argmax(group < 0))]
        raise ProblemError(f"variable {v!r} is in no constraint; each variable must be in one")
    objective = cqm.objective
    n = len(place)
    linear, Q = np.zeros(n), np.zeros((n, n))
    for v, bias in objective.iter_linear():
        linear[place[v]] = bias
    for u, v, bias in objective.iter_quadratic():
        Q[place[u], place[v]] = Q[place[v], place[u]] = bias / 2
    cardinality, groups = (counts, group) if len(counts) > 1 else (counts[0], None)
    return ProblemData.dense(Q, linear, cardinality, offset=float(objective.offset), groups=groups)


def _penalised(problem: BlockProblem, penalty: float | str | None) -> tuple[Float64Array, Float64Array, float]:
    """New arrays of Q with a zero diagonal and of the linear term, and the offset, with the penalty added."""
    Q = problem.form.dense()
    if Q.size and max(Q.max(), -Q.min()) > np.finfo(np.float64).max / 2:
        raise ProblemError("Q has coefficients whose double, a dimod bias, is not finite; scale the problem")
    linear, offset = problem.single_energies.copy(), problem.offset
    if penalty is None:
        return Q, linear, offset
    strength = penalty_of(problem, penalty) if isinstance(penalty, str) else _checked(penalty)
    # P (sum_i x_i - k)^2 = P (1 - 2k) sum_i x_i + P sum_{i != j} x_i x_j + P k^2, as x_i^2 = x_i.
    counts, group = problem.constraint.counts, problem.constraint.groups
    linear += strength * (1.0 - 2.0 * counts[group])
    if problem.groups is None:
        Q += strength
    else:
        for variables in problem.constraint.members():
            Q[np.ix_(variables, variables)] += strength
    np.fill_diagonal(Q, 0.0)
    return Q, linear, float(offset + strength * (counts.astype(np.float64) ** 2).sum())


def _checked(penalty: Any) -> float:
    try:
        strength = float(penalty)
    except (TypeError, ValueError):
        strength = np.nan
    if not (np.isfinite(strength) and strength >= 0):
        raise ProblemError(f'penalty {penalty!r} must be None, "sufficient", "measured" or a finite number >= 0')
    return strength


def _cardinality(label: Hashable, constraint: Any) -> tuple[list[Hashable], int]:
    """The variables of a constraint and the number of them that must be one."""
    lhs = constraint.lhs
    if constraint.sense is not dimod.sym.Sense.Eq:
        raise ProblemError(f"constraint {label!r} is an inequality ({constraint.sense.value}); a cardinality is '=='")
    if not lhs.is_linear():
        raise ProblemError(f"constraint {label!r} is quadratic; a cardinality is a sum of variables")
    if lhs.is_soft():
        raise ProblemError(f"constraint {label!r} is soft (it has a weight); a cardinality must be hard")
    biases: Iterable[tuple[Hashable, float]] = lhs.iter_linear()
    variables = []
    for v, bias in biases:
        if bias != 1.0:
            raise ProblemError(f"constraint {label!r}: the coefficient of {v!r} is {bias}; in a cardinality it is 1")
        variables.append(v)
    count = constraint.rhs - lhs.offset
    if not (np.isfinite(count) and count == int(count) and 0 <= count <= len(variables)):
        raise ProblemError(
            f"constraint {label!r} demands {count} ones of {len(variables)} variables; "
            f"an integer from 0 to {len(variables)} is needed"
        )
    return variables, int(count)
