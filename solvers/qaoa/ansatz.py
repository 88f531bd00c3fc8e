"""The ansatz of a QAOA circuit: cost, mixer and first state. Circuit and simulation both read it, so they agree.

One layer is exp(-i gamma e(Z)) followed by exp(+i beta B). e is the cost in units of its own spread, see
:func:`spread`, so that one set of angles suits all blocks (Shaydulin et al. 2023, arXiv 2201.11785, and Sureshbabu et
al. 2024, arXiv 2305.15201, scale weighted problems likewise). B is X on each qubit (Farhi et al. 2014, arXiv
1411.4028), or (XX + YY) / 2 on pairs within each group, which keeps the number of ones of each group
(Hadfield et al. 2019, arXiv 1709.03489; Wang et al. 2020, arXiv 1904.09314). Pairs do not commute: their order is part
of the ansatz. The sign of beta is such that gamma and beta are both positive where QAOA imitates annealing downhill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import Float64Array, StateArray

MIXERS = ("xy-ring", "xy-complete", "x")

EPSILON = 0.25
"""Probability that a warm start measures a variable different from the classical solution, as recommended by Egger et
al. 2021 (Quantum 5, 479, arXiv 2009.10095)."""


@dataclass(frozen=True)
class Group:
    """Qubits that share a cardinality.

    Attributes:
        members: the variables, ascending.
        ones: number of ones among them.
    """

    members: tuple[int, ...]
    ones: int

    @property
    def free(self) -> bool:
        """Whether more than one state of the group is feasible."""
        return 0 < self.ones < len(self.members)


@dataclass(frozen=True, eq=False)
class Ansatz:
    """A QAOA circuit for one problem, without its angles.

    The cost of a state x, with s = 2x - 1, is offset + scale * e,
    e = sum_i fields_i s_i + sum_{i<j} couplings_ij s_i s_j.

    Attributes:
        n: number of qubits; qubit i is variable i.
        reps: layers.
        mixer: one of `MIXERS`.
        fields: [n].
        couplings: strictly upper triangular [n, n].
        scale: standard deviation of the cost over the states that the mixer reaches; 1 where all cost the same.
        offset: constant term of the cost.
        penalty: strength P of P (ones - cardinality)^2 in the cost, for mixer x; 0 otherwise.
        groups: the groups of variables.
        pairs: pairs of qubits that the XY mixer acts on, in order; none for mixer x.
        weights: factor of beta for each pair.
        warm: the classical solution to start from [n], or None for the uniform superposition.
    """

    n: int
    reps: int
    mixer: str
    fields: Float64Array
    couplings: Float64Array
    scale: float
    offset: float
    penalty: float
    groups: tuple[Group, ...]
    pairs: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    warm: StateArray | None = None

    @classmethod
    def of(
        cls, problem: BlockProblem, reps: int, mixer: str, penalty: float = 0.0, warm: StateArray | None = None
    ) -> Ansatz:
        """The ansatz of a problem.

        Args:
            problem: the block problem.
            reps: layers.
            mixer: one of `MIXERS`.
            penalty: strength of the penalty, for mixer x only.
            warm: a feasible state [n] to start from, or None.
        """
        h, J, offset = problem.to_ising(penalty or None)
        fields, couplings = np.zeros(problem.n), np.zeros((problem.n, problem.n))
        for i, value in h.items():
            fields[i] = value
        for (i, j), value in J.items():
            couplings[min(i, j), max(i, j)] = value
        scale = (
            spread(problem) if mixer != "x" else float(np.sqrt(np.square(fields).sum() + np.square(couplings).sum()))
        )
        if not np.isfinite(1.0 / scale) if scale else True:
            scale = 1.0
        constraint = problem.constraint
        groups = tuple(
            Group(tuple(members.tolist()), int(k))
            for members, k in zip(constraint.members(), constraint.counts, strict=True)
        )
        pairs, weights = mixer_pairs(groups, mixer)
        return cls(
            problem.n, reps, mixer, fields / scale, couplings / scale, scale, offset, penalty, groups, pairs, weights,
            warm,
        )  # fmt: skip

    @property
    def tilts(self) -> Float64Array:
        """Angle theta of RY that prepares each qubit's first state, for mixer x [n]."""
        if self.warm is None:
            return np.full(self.n, np.pi / 2)
        return np.asarray(2.0 * np.arcsin(np.sqrt(np.where(self.warm == 1, 1.0 - EPSILON, EPSILON))))

    @property
    def shape(self) -> tuple[object, ...]:
        """All that the number and places of gates depend on; the key of cached estimates."""
        warm = None if self.warm is None else self.warm.tobytes()
        return (
            self.n, self.reps, self.mixer, self.groups, warm,
            np.packbits(self.fields != 0).tobytes(), np.packbits(self.couplings != 0).tobytes(),
        )  # fmt: skip


def mixer_pairs(groups: tuple[Group, ...], mixer: str) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
    """Pairs of qubits of an XY mixer in order, and the factor of beta for each.

    A ring takes every other pair of neighbours, then the rest: two or three gates deep. The complete mixer takes the
    rounds of a round-robin tournament, so that its depth is the number of qubits; its angles are divided so that those
    at one qubit add up to the same as in a ring, whatever the size of the group.
    """
    if mixer == "x":
        return (), ()
    pairs: list[tuple[int, int]] = []
    weights: list[float] = []
    for group in groups:
        if not group.free:
            continue
        m = len(group.members)
        order = _ring(m) if mixer == "xy-ring" else tournament(m)
        weight = 1.0 if mixer == "xy-ring" or m < 3 else 2.0 / (m - 1)
        pairs += [(group.members[a], group.members[b]) for a, b in order]
        weights += [weight] * len(order)
    return tuple(pairs), tuple(weights)


def _ring(m: int) -> list[tuple[int, int]]:
    if m == 2:
        return [(0, 1)]
    neighbours = [(t, t + 1) for t in range(m - 1)]
    return [*neighbours[::2], *neighbours[1::2], (m - 1, 0)]


def tournament(m: int) -> list[tuple[int, int]]:
    """All pairs of m, in rounds of disjoint pairs (the circle method of round-robin tournaments)."""
    players = list(range(m + m % 2))
    rounds = []
    for _ in range(len(players) - 1):
        rounds += [(players[t], players[-1 - t]) for t in range(len(players) // 2)]
        players = [players[0], players[-1], *players[1:-1]]
    return [(min(a, b), max(a, b)) for a, b in rounds if max(a, b) < m]


def spread(problem: BlockProblem) -> float:
    """Standard deviation of the energy over all feasible states, by formula.

    Given the ones of each group, the energy is a constant, a linear part whose coefficients add up to zero in each
    group, and a quadratic part whose rows add up to zero over each group: three parts that are uncorrelated over
    feasible states (the classes of the Johnson scheme; Hoeffding's decomposition). Their variances add up.
    """
    Q, constraint = problem.to_dense().form.dense(), problem.constraint
    size, ones, group = constraint.sizes.astype(float), constraint.counts.astype(float), constraint.groups
    member = np.zeros((problem.n, len(size)))
    member[np.arange(problem.n), group] = 1.0
    largest = max(float(np.abs(Q).max(initial=0.0)), float(np.abs(problem.single_energies).max(initial=0.0)))
    if largest == 0.0:
        return 0.0
    Q = Q / largest  # so that squares stay in the range of float64
    sums = Q @ member  # of row i over group h
    m, k = size[group], ones[group]
    own = sums[np.arange(problem.n), group]
    total = member.T @ sums
    # Within a group Q_ij = mu + r_i + r_j + rest; between groups by means of rows and columns.
    mu = np.divide(np.diagonal(total), size * (size - 1), out=np.zeros(len(size)), where=size > 1)[group]
    r = np.divide(own - (m - 1) * mu, m - 2, out=np.zeros(problem.n), where=m > 2)
    means = sums / np.maximum(size, 1)
    linear = problem.single_energies / largest + 2.0 * (k - 1) * r + 2.0 * (means @ ones - k * own / np.maximum(m, 1))
    linear -= member @ (member.T @ linear / np.maximum(size, 1))
    between = means[:, group]
    rest = Q - between - between.T + (total / np.maximum(np.outer(size, size), 1))[np.ix_(group, group)]
    same = group[:, None] == group
    rest[same] = (Q - mu[:, None] - r[:, None] - r)[same]
    np.fill_diagonal(rest, 0.0)
    rest[same & (m <= 3)] = 0.0  # with three or fewer variables the quadratic part is only rounding
    v = np.divide(ones * (size - ones), size * (size - 1), out=np.zeros(len(size)), where=size > 1)
    both = _chance(size, ones, 2) - 2.0 * _chance(size, ones, 3) + _chance(size, ones, 4)
    factor = np.where(same, 2.0 * both[group], 2.0 * np.outer(v[group], v[group]))
    variance = float((np.square(linear) * v[group]).sum() + (factor * np.square(rest)).sum())
    return largest * float(np.sqrt(max(variance, 0.0)))


def _chance(size: Float64Array, ones: Float64Array, count: int) -> Float64Array:
    """Probability that `count` given variables of a group are all one."""
    chance: npt.NDArray[np.float64] = np.ones(len(size))
    for t in range(count):
        chance = chance * np.maximum(ones - t, 0.0) / np.maximum(size - t, 1.0)
    return chance
