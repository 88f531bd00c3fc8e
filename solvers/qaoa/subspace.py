"""Exact simulation of a QAOA circuit, with gradients by the adjoint method.

XY mixers never leave the feasible subspace, so C(n, k) amplitudes suffice (a product over groups): 184,756 for n = 20,
k = 10. Mixer x needs all 2^n. The gates are those of the circuit, in its order.

In the subspace, states are sorted by the upper half of their qubits, then by the lower half. All upper halves with the
same number of ones in each group share one list of lower halves, so an XY gate rotates ranges of amplitudes into each
other along lists of positions that fit the first-level cache, whatever D is (Lin 1990, Phys. Rev. B 42, 6561, indexes
spin chains so).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import Float64Array, StateArray
from solvers.qaoa.ansatz import EPSILON, Ansatz

MOST_AMPLITUDES = 1 << 22
"""Most amplitudes of a simulation: 270 MB in all, half a second or more for one gradient."""

MOST_QUBITS = 40
"""Most qubits of a simulation in the subspace, whose halves of states are enumerated."""

_CHUNK = 1 << 15  # states whose energies are computed at once


class Simulation(abc.ABC):
    """Exact simulation of the state that a circuit prepares, for any angles.

    Angles are [gamma_1 .. gamma_p, beta_1 .. beta_p].

    Attributes:
        ansatz: the circuit.
        masks: the states, bit i = x_i, int64 [D].
        costs: cost of each state in units of the ansatz's scale, less its offset [D].
    """

    ansatz: Ansatz
    masks: npt.NDArray[np.int64]
    costs: Float64Array

    @staticmethod
    def of(problem: BlockProblem, ansatz: Ansatz) -> Simulation:
        """Create the simulation for a circuit's mixer; the caller has checked the size."""
        return FullSpace(problem, ansatz) if ansatz.mixer == "x" else Subspace(problem, ansatz)

    def __init__(
        self, problem: BlockProblem, ansatz: Ansatz, masks: npt.NDArray[np.int64], start: Float64Array
    ) -> None:
        self.ansatz, self.masks = ansatz, masks
        self.costs = np.empty(len(masks))
        for at in range(0, len(masks), _CHUNK):
            states = self.states(slice(at, at + _CHUNK))
            energies = np.asarray(problem.energy(states))
            if ansatz.penalty:
                missed = problem.constraint.counted(states) - problem.constraint.counts
                energies = energies + ansatz.penalty * np.square(missed).sum(axis=1)
            self.costs[at : at + _CHUNK] = (energies - ansatz.offset) / ansatz.scale
        self._start = np.stack([start, np.zeros(len(start))])
        self._psi, self._lam = np.empty_like(self._start), np.empty_like(self._start)
        self._order: npt.NDArray[np.intp] | None = None

    @abc.abstractmethod
    def _mix(self, psi: Float64Array, beta: float) -> None:
        """Apply a mixer layer in place."""

    @abc.abstractmethod
    def _unmix(self, psi: Float64Array, lam: Float64Array, beta: float) -> float:
        """Undo a mixer layer on both states; the derivative by beta."""

    def states(self, which: slice | npt.NDArray[np.intp] = slice(None)) -> StateArray:
        """Some of the states [s, n]."""
        return np.asarray((self.masks[which, None] >> np.arange(self.ansatz.n)) & 1, np.int8)

    def amplitudes(self, angles: npt.ArrayLike) -> npt.NDArray[np.complex128]:
        """Amplitudes of the states at the circuit's end [D]."""
        self._evolve(np.asarray(angles, np.float64))
        return np.asarray(self._psi[0] + 1j * self._psi[1])

    def probabilities(self, angles: npt.ArrayLike) -> Float64Array:
        """Probability of each state [D]."""
        self._evolve(np.asarray(angles, np.float64))
        return np.asarray(np.square(self._psi[0]) + np.square(self._psi[1]))

    def mean_cost(self, angles: npt.ArrayLike) -> float:
        """Expected cost, in the problem's own units, penalty and offset included."""
        mean = float(self.probabilities(angles) @ self.costs)
        return self.ansatz.offset + self.ansatz.scale * mean

    def value_and_gradient(self, angles: npt.ArrayLike, cvar: float = 1.0) -> tuple[float, Float64Array]:
        """Expected cost and its gradient [2p], in units of the ansatz's scale.

        Args:
            angles: [2p].
            cvar: alpha, the share of the best outcomes over which the mean is taken (conditional value at risk;
                Barkoutsos et al. 2020, Quantum 4, 256, arXiv 1907.04769); 1.0 for the mean over all.

        The adjoint method (Jones and Gacon 2020, arXiv 2009.02823): the state and the image of the observable are
        propagated back through the gates together, at the cost of about five evaluations for any number of angles. CVaR
        is max over q of q - <max(q - e, 0)> / alpha (Rockafellar and Uryasev 2000), so at the best q its gradient is
        that of a fixed observable.
        """
        from solvers.qaoa import kernels

        given = np.asarray(angles, np.float64)
        gammas, betas = np.split(given, 2)
        self._evolve(given)
        value, observable = self._objective(cvar)
        np.multiply(self._psi, observable, out=self._lam)
        gradient = np.empty(len(given))
        p = len(gammas)
        for layer in range(p - 1, -1, -1):
            gradient[p + layer] = self._unmix(self._psi, self._lam, betas[layer])
            gradient[layer] = kernels.unphase(self._psi, self._lam, self.costs, gammas[layer])
        return value, gradient

    def _evolve(self, angles: Float64Array) -> None:
        from solvers.qaoa import kernels

        self._psi[:] = self._start
        for gamma, beta in zip(*np.split(angles, 2), strict=True):
            kernels.phase(self._psi, self.costs, gamma)
            self._mix(self._psi, beta)

    def _objective(self, cvar: float) -> tuple[float, Float64Array]:
        probabilities = np.square(self._psi[0]) + np.square(self._psi[1])
        if cvar >= 1.0:
            return float(probabilities @ self.costs), self.costs
        if self._order is None:
            self._order = np.argsort(self.costs, kind="stable")
        reached = np.cumsum(probabilities[self._order])
        q = self.costs[self._order[min(int(np.searchsorted(reached, cvar)), len(reached) - 1)]]
        below = np.minimum(self.costs - q, 0.0) / cvar
        return float(q + probabilities @ below), below


class Subspace(Simulation):
    """A circuit with XY mixers, in the subspace of feasible states."""

    def __init__(self, problem: BlockProblem, ansatz: Ansatz) -> None:
        tables = _Halves(ansatz)
        super().__init__(problem, ansatz, tables.masks, _start(ansatz, tables.masks))
        self._gates = tables.gates(ansatz.pairs)
        self._weights = np.array(ansatz.weights, np.float64)

    def _mix(self, psi: Float64Array, beta: float) -> None:
        from solvers.qaoa import kernels

        ends, runs, first, second = self._gates
        kernels.mix_pairs(psi, ends, runs, self._weights, first, second, beta)

    def _unmix(self, psi: Float64Array, lam: Float64Array, beta: float) -> float:
        from solvers.qaoa import kernels

        ends, runs, first, second = self._gates
        derivative: float = kernels.unmix_pairs(psi, lam, ends, runs, self._weights, first, second, beta)
        return derivative


class FullSpace(Simulation):
    """A circuit with mixer x, over all 2^n states."""

    def __init__(self, problem: BlockProblem, ansatz: Ansatz) -> None:
        start = np.ones(1)
        for theta in ansatz.tilts:
            start = np.concatenate([math.cos(theta / 2) * start, math.sin(theta / 2) * start])
        super().__init__(problem, ansatz, np.arange(1 << ansatz.n, dtype=np.int64), start)
        self._tilts = ansatz.tilts

    def _mix(self, psi: Float64Array, beta: float) -> None:
        from solvers.qaoa import kernels

        kernels.mix_qubits(psi, self._tilts, beta)

    def _unmix(self, psi: Float64Array, lam: Float64Array, beta: float) -> float:
        from solvers.qaoa import kernels

        derivative: float = kernels.unmix_qubits(psi, lam, self._tilts, beta)
        return derivative


def _start(ansatz: Ansatz, masks: npt.NDArray[np.int64]) -> Float64Array:
    """The first state: uniform, or the warm start of :mod:`solvers.qaoa.circuits`."""
    if ansatz.warm is None:
        return np.full(len(masks), 1.0 / math.sqrt(len(masks)))
    warm = sum(1 << i for i, one in enumerate(ansatz.warm.tolist()) if one)
    swaps = np.bitwise_count(masks ^ warm) / 2
    amplitudes = (EPSILON / (1.0 - EPSILON)) ** swaps
    return np.asarray(amplitudes / np.linalg.norm(amplitudes))


class _Halves:
    """Feasible states as pairs of half states."""

    def __init__(self, ansatz: Ansatz) -> None:
        n = ansatz.n
        self._low = n // 2
        needed = tuple(group.ones for group in ansatz.groups)
        members = [sum(1 << i for i in group.members) for group in ansatz.groups]
        lower = _by_counts(0, self._low, members, needed)
        upper = [
            (mask, rest)
            for counts, halves in _by_counts(self._low, n, members, needed).items()
            if (rest := tuple(k - c for k, c in zip(needed, counts, strict=True))) in lower
            for mask in halves.tolist()
        ]
        upper.sort()
        self._lower = lower
        self._kind = dict(upper)  # upper half -> ones that the lower half has in each group
        self._begin: dict[int, int] = {}
        at = 0
        for mask, rest in upper:
            self._begin[mask] = at
            at += len(lower[rest])
        self.masks = np.concatenate([mask | lower[rest] for mask, rest in upper])

    def gates(
        self, pairs: tuple[tuple[int, int], ...]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The tables that the kernels read: where each gate's runs end, the runs, and lists of positions."""
        ends: list[int] = []
        runs = [np.zeros((0, 4), np.int64)]
        lists = _Lists()
        for i, j in pairs:
            low, high = sorted((i, j))
            if low >= self._low:
                found = self._within_upper(1 << low, 1 << high)
            elif high < self._low:
                found = self._within_lower(1 << low, 1 << high, lists)
            else:
                found = self._across(1 << low, 1 << high, lists)
            runs.append(np.array(found, np.int64).reshape(-1, 4))
            ends.append(len(found) + (ends[-1] if ends else 0))
        return np.array(ends, np.int64), np.concatenate(runs), *lists.arrays()

    def _within_upper(self, low: int, high: int) -> list[tuple[int, int, int, int]]:
        return [
            (begin, self._begin[mask ^ low ^ high], -1, len(self._lower[self._kind[mask]]))
            for mask, begin in self._begin.items()
            if mask & low and not mask & high
        ]

    def _within_lower(self, low: int, high: int, lists: _Lists) -> list[tuple[int, int, int, int]]:
        def positions(kind: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
            halves = self._lower[kind]
            turned = np.flatnonzero((halves & low != 0) & (halves & high == 0))
            return turned, np.searchsorted(halves, halves[turned] ^ low ^ high)

        found = ((begin, lists.get((low, high, self._kind[mask]), positions)) for mask, begin in self._begin.items())
        return [(begin, begin, at, length) for begin, (at, length) in found if length]

    def _across(self, low: int, high: int, lists: _Lists) -> list[tuple[int, int, int, int]]:
        found = []
        for mask, begin in self._begin.items():
            partner = mask ^ high
            if mask & high or partner not in self._begin:
                continue
            other = self._lower[self._kind[partner]]

            def positions(
                kind: tuple[int, ...], other: npt.NDArray[np.int64] = other
            ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
                halves = self._lower[kind]
                turned = np.flatnonzero(halves & low != 0)
                return turned, np.searchsorted(other, halves[turned] ^ low)

            # The kind and the pair determine the partner's list.
            at, length = lists.get((low, high, self._kind[mask]), positions)
            if length:
                found.append((begin, self._begin[partner], at, length))
        return found


class _Lists:
    """Lists of positions, each computed once."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int, tuple[int, ...]], tuple[int, int]] = {}
        self._parts: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = []
        self._length = 0

    def get(
        self,
        key: tuple[int, int, tuple[int, ...]],
        make: Callable[[tuple[int, ...]], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]],
    ) -> tuple[int, int]:
        """Start of the list of a key, and its length."""
        if key not in self._places:
            part = make(key[2])
            self._places[key] = self._length, len(part[0])
            self._length += len(part[0])
            self._parts.append(part)
        return self._places[key]

    def arrays(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Both sides of all lists, concatenated."""
        sides = ([part[side] for part in self._parts] for side in (0, 1))
        first, second = (np.concatenate([np.zeros(0, np.int32), *side]).astype(np.int32) for side in sides)
        return first, second


def _by_counts(
    begin: int, end: int, members: list[int], most: tuple[int, ...]
) -> dict[tuple[int, ...], npt.NDArray[np.int64]]:
    """States of the qubits begin .. end - 1, ascending, by their number of ones in each group, at most `most`."""
    halves = {(0,) * len(most): np.zeros(1, np.int64)}
    for qubit in range(begin, end):
        group = next(g for g, mask in enumerate(members) if mask >> qubit & 1)
        grown = dict(halves)
        for counts, parts in halves.items():
            if counts[group] < most[group]:
                more = (*counts[:group], counts[group] + 1, *counts[group + 1 :])
                # Numbers with the new bit are larger than all without it, so the order is kept.
                grown[more] = np.concatenate([halves.get(more, parts[:0]), parts | 1 << qubit])
        halves = grown
    return halves
