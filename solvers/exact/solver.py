"""The exact solver: branch and bound and enumeration, with a proof of optimality or the remaining gap."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Capabilities, Estimate, Outcome, Solver
from solvers.checks import at_least
from solvers.errors import OptionError, SolverError
from solvers.local.repair import polish, repair, single_state
from solvers.run import Pace, Run

LARGEST = 256
"""Most variables: the bound's tables hold n * n * k numbers, 67 MB for n = 256, k = n / 2."""

MOST_STATES = math.comb(30, 15)
"""Blocks with at most this many feasible states are enumerated, whatever n is: about 2 seconds."""

KEPT = 10
"""How many of the best states are returned."""

_STATES_PER_NODE = 500  # a node costs as much as 100 states: the tree gets a fifth of an enumeration's time
_RELAXATION_STEPS = 300  # 10 ms at n = 256; more steps gain little compared with the gap of the relaxation
_RANDOM_STARTS = 20  # descents for a first incumbent: enough to start at the optimum on most blocks of n = 60


@dataclass(frozen=True)
class Exact(Solver):
    """Exact search: the best state with a proof of optimality, or with the gap to a lower bound.

    Branch and bound, depth first over the variables in a fixed order (strongest couplings first, group by group),
    with the bound of Gilmore and Lawler's linearisation: each free variable is charged its smallest couplings to the
    other free ones. Blocks with one cardinality and at most `MOST_STATES` feasible states (every n up to 30) are
    enumerated in revolving-door order if the tree does not finish early, so their proof takes seconds whatever their
    coefficients. Proofs hold up to rounding, about 1e-13 of the sum of all |Q_ij|.

    `.info` has `proven`, `lower_bound`, `gap` (best energy minus bound, 0 when proven), `visited` ({"nodes",
    "states"}) and `method` ("branch", "enumerate", or "single" where only one state is feasible).

    Args:
        max_nodes: most nodes of the tree, about a microsecond each. With a time limit, the limit counts instead.
        method: "branch" or "enumerate" to use only this one; "auto" chooses as described above.
    """

    name: ClassVar[str] = "exact"
    toolkits: ClassVar[tuple[str, ...]] = ("numpy", "numba")

    max_nodes: int = 20_000_000
    method: Literal["auto", "branch", "enumerate"] = "auto"

    def __post_init__(self) -> None:
        at_least(1, max_nodes=self.max_nodes)
        if self.method not in ("auto", "branch", "enumerate"):
            raise OptionError(f"method {self.method!r} must be 'auto', 'branch' or 'enumerate'")

    @property
    def capabilities(self) -> Capabilities:
        """Up to `LARGEST` variables, every form (low-rank problems are made dense), groups."""
        return Capabilities(max_variables=LARGEST, low_rank=False, best_variables=24, side_by_side=True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        """Time of an enumeration, or of `max_nodes` nodes; most trees finish much earlier."""
        if problem.n > LARGEST:
            return Estimate(math.inf, fits=False, note=f"n = {problem.n} is more than {LARGEST} variables")
        nodes = 3e-8 * (problem.n + 10) * self.max_nodes
        states = feasible_states(problem)
        if self.method == "branch" or not _can_enumerate(problem, states):
            return Estimate(nodes, note=f"at most: {self.max_nodes} nodes of the tree")
        return Estimate(1e-3 + 1.2e-8 * states, note=f"at most: all {states} feasible states")

    def _warm_up(self, problem: BlockProblem) -> None:
        _compile(self.method != "branch" and _can_enumerate(problem, feasible_states(problem)))

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        dense, count = problem.to_dense(), feasible_states(problem)
        only = single_state(problem)
        if only is not None:
            energy = float(problem.energy(only)[0])
            return Outcome(only, _verdict(energy, energy, "single", 0, 1))
        enumerable = _can_enumerate(problem, count)
        if self.method == "enumerate" and not enumerable:
            what = "groups" if problem.groups is not None else f"{count:.3g} feasible states"
            raise SolverError(
                f"method='enumerate' takes one cardinality and at most {MOST_STATES} states, the problem has {what}; "
                "use method='auto'"
            )
        states = _first_states(dense, run)
        best = float(problem.energy(states).min())
        run.record(best)
        relaxed = None if enumerable else _convex_bound(dense)  # before the tree, which may use all the time
        tree = _Tree(dense, best)
        method = "branch"
        if self.method != "enumerate":
            nodes = count // _STATES_PER_NODE if enumerable and self.method == "auto" else self.max_nodes
            unbounded = run.time_limit is not None and not (enumerable and self.method == "auto")
            states = np.concatenate([states, tree.grow(problem, run, None if unbounded else nodes)])
        bound, visited = tree.lower_bound(), 0
        if not tree.done and enumerable and self.method != "branch" and not run.should_end():
            method = "enumerate"
            enumeration = _Enumeration(dense)
            states = np.concatenate([states, enumeration.walk(problem, run)])
            bound = math.inf if enumeration.done else bound
            visited = enumeration.visited
        if bound < math.inf:
            bound = max(bound, _convex_bound(dense) if relaxed is None else relaxed)
        states = np.unique(states, axis=0)
        energies = problem.energy(states)
        best = float(energies.min())
        states = states[np.argsort(energies, kind="stable")[:KEPT]]
        return Outcome(states, _verdict(best, bound, method, tree.nodes, visited))


@functools.cache
def _compile(enumeration: bool) -> None:
    """Compile the kernels that a search may call."""
    small = BlockProblem(np.ones((3, 3)), cardinality=1)
    polish(small, repair(small, np.zeros(3))[0])
    _Tree(small, math.inf).step(8)
    if enumeration:
        _Enumeration(small).step(8)


def feasible_states(problem: BlockProblem) -> int:
    """Number of feasible states of a problem."""
    constraint = problem.constraint
    return math.prod(math.comb(int(m), int(k)) for m, k in zip(constraint.sizes, constraint.counts, strict=True))


def _can_enumerate(problem: BlockProblem, states: int) -> bool:
    from solvers.exact.enumeration import MOST_VARIABLES

    return problem.groups is None and problem.n <= MOST_VARIABLES and states <= MOST_STATES


def _verdict(best: float, bound: float, method: str, nodes: int, states: int) -> dict[str, Any]:
    return {
        "proven": bound >= best,
        "lower_bound": min(bound, best),
        "gap": max(0.0, best - bound),
        "visited": {"nodes": nodes, "states": states},
        "method": method,
    }


def _first_states(problem: BlockProblem, run: Run) -> StateArray:
    """Local optima to start from: the caller's states, the greedy states from all zeros and all ones, random ones."""
    ends = np.stack([np.zeros(problem.n, np.int8), np.ones(problem.n, np.int8)])
    starts = [repair(problem, ends)[0], problem.random_states(_RANDOM_STARTS, run.generator())]
    if run.initial_states is not None:
        starts.insert(0, run.initial_states)
    return polish(problem, np.concatenate(starts), run.should_end)


def _convex_bound(problem: BlockProblem) -> float:
    """A lower bound from a convex continuous relaxation, for trees that were not finished.

    As x_i = x_i^2, E(x) = x^T (Q + D) x + (c - D 1).x + offset for any diagonal D, convex where Q + D is positive
    semidefinite (Hammer and Rubin 1970). D is a multiple of the rows' squared norms, so that it does not depend on
    the scale of single variables. Frank-Wolfe steps approach the minimum over 0 <= x <= 1 with the demanded sums;
    each step gives a lower bound.
    """
    Q, single, constraint = problem.form.dense(), problem.single_energies, problem.constraint
    # Scaled by a power of two, which is exact: the squares of very large or small numbers leave the range of float64.
    unit = math.ldexp(1.0, math.frexp(max(np.abs(Q).max(initial=0.0), np.abs(single).max(initial=0.0)))[1] - 1)
    Q, single = Q / unit, single / unit
    weights = np.square(Q).sum(axis=1)
    weights = np.maximum(weights, 1e-6 * weights.max()) + np.finfo(float).tiny
    normal = np.linalg.eigvalsh(Q / np.sqrt(weights) / np.sqrt(weights)[:, None])
    diagonal = (1e-9 * float(np.abs(normal).max()) - float(normal[0])) * weights
    M, b = Q + np.diag(diagonal), single - diagonal
    x = (constraint.counts / np.maximum(constraint.sizes, 1))[constraint.groups]
    starts = np.cumsum(constraint.sizes) - constraint.sizes
    product = M @ x
    bound = -math.inf
    for _ in range(_RELAXATION_STEPS):
        gradient = 2.0 * product + b
        order = np.lexsort((gradient, constraint.groups))
        group = constraint.groups[order]
        step = -x
        step[order] += np.arange(problem.n) - starts[group] < constraint.counts[group]
        slope, change = float(gradient @ step), M @ step
        bound = max(bound, float(x @ product + b @ x) + slope)
        curvature = float(step @ change)
        if slope >= 0.0 or curvature <= 0.0:
            break
        length = min(1.0, -slope / (2.0 * curvature))
        x, product = x + length * step, product + length * change
    return unit * bound + problem.offset


class _Tree:
    """Branch and bound on a dense problem, a number of nodes at a time."""

    def __init__(self, problem: BlockProblem, best: float) -> None:
        from solvers.exact import branching

        self._kernels = branching
        self._offset = problem.offset
        Q = problem.form.dense()
        strength = np.abs(Q).sum(axis=1) + np.abs(problem.single_energies)
        # Strong variables first: fixing them raises the bound most. Groups in the order of their strongest variable.
        members = [group[np.argsort(-strength[group])] for group in problem.constraint.members()]
        filled = sorted((g for g, group in enumerate(members) if len(group)), key=lambda g: -strength[members[g][0]])
        self._order = np.concatenate([members[g] for g in filled])
        self._tolerance = 1e-13 * float(strength.sum())
        self._tree = branching.new_tree(
            np.ascontiguousarray(Q[np.ix_(self._order, self._order)]),
            problem.single_energies[self._order],
            problem.constraint.counts[filled],
            problem.constraint.sizes[filled],
            best - problem.offset,
        )

    @property
    def done(self) -> bool:
        """Whether no node is open."""
        return bool(self._tree.place[0] < 0)

    @property
    def nodes(self) -> int:
        """Nodes expanded so far."""
        return int(self._tree.place[1])

    def lower_bound(self) -> float:
        """Lower bound on the energy of every feasible state; infinite when done, as the best known state is optimal."""
        return math.inf if self.done else self._kernels.lower_bound(self._tree) + self._offset

    def step(self, most: int) -> int:
        """Expand at most `most` nodes; return how many were expanded."""
        before = self.nodes
        self._kernels.branch(self._tree, self._tolerance, most)
        return self.nodes - before

    def grow(self, problem: BlockProblem, run: Run, nodes: int | None) -> StateArray:
        """Expand at most `nodes` nodes (None: no limit) or until the run ends; the better states found [s, n]."""
        found: list[StateArray] = []
        pace, leaves = Pace(), 0
        while not self.done and not run.should_end() and (nodes is None or self.nodes < nodes):
            pace.done(max(1, self.step(pace.begin(1 << 40 if nodes is None else nodes - self.nodes))))
            if self._tree.place[2] > leaves:
                leaves = int(self._tree.place[2])
                x = np.empty(problem.n, np.int8)
                x[self._order] = self._tree.best_x
                found.append(x)
                run.record(float(problem.energy(x)))
        return np.array(found[-KEPT:], np.int8).reshape(-1, problem.n)


class _Enumeration:
    """Enumeration of a dense problem with one cardinality, a number of states at a time."""

    def __init__(self, problem: BlockProblem) -> None:
        from solvers.exact import enumeration

        self._kernels = enumeration
        self._enumeration = enumeration.new_enumeration(
            problem.form.dense(), problem.single_energies, problem.constraint.total, KEPT
        )

    @property
    def done(self) -> bool:
        """Whether every state was visited."""
        return bool(self._enumeration.place[1])

    @property
    def visited(self) -> int:
        """States visited so far."""
        return int(self._enumeration.place[0])

    def step(self, most: int) -> int:
        """Visit at most `most` states; return how many were visited."""
        visited: int = self._kernels.enumerate_states(self._enumeration, most)
        return visited

    def walk(self, problem: BlockProblem, run: Run) -> StateArray:
        """Visit states until done or until the run ends; the best of them [s, n]."""
        pace = Pace(100_000)
        best = math.inf
        while not self.done and not run.should_end():
            pace.done(self.step(pace.begin(1 << 40)))
            if self._enumeration.energies[0] < best:
                best = self._enumeration.energies[0]
                run.record(float(problem.energy(self._states(problem.n)[0])))
        return self._states(problem.n)

    def _states(self, n: int) -> StateArray:
        masks = self._enumeration.masks[np.isfinite(self._enumeration.energies)]
        return np.asarray((masks[:, None] >> np.arange(n)) & 1, np.int8)
