"""The tabu search of :mod:`solvers.tabu` for many populations of many problems at once, in plain torch operations.

A step of all searches is a dozen operations on tensors [problem, row, variable], one row for each member of each
population. It means the same as the compiled kernels: the best leaver, its best partner, tenures drawn at random; then
children that keep what two members share. All children of a generation are searched side by side, until none of them
has found a better state for so many steps; those that are done rest meanwhile. Every problem has random numbers of its
own: neither the other problems of its batch nor the pace at which the clock is read changes what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from problems.forms import StateArray
from solvers.arrays import DenseArrays
from solvers.goal import Goal
from solvers.islands import Plan, tenures
from solvers.run import Pace, Run

if TYPE_CHECKING:
    import torch

_DRAWN = 64  # steps for which tenures are drawn at once
_ROUNDING = 1e-6  # share of the largest field by which a state must be better: less may be the rounding of float32
_LONGEST = 100  # times the patience, and four steps a variable: a generation is over by then


@dataclass(frozen=True, eq=False)
class Task:
    """One problem of a batch.

    Attributes:
        arrays: the problem; all of a batch have the same number of variables and of groups.
        run: its seed, clock and target.
        goal: what it notes its states in.
        initial: states that the first members of every population start from [b, n], or None.
    """

    arrays: DenseArrays
    run: Run
    goal: Goal
    initial: StateArray | None = None


def search(tasks: Sequence[Task], plan: Plan, populations: int, device: str) -> list[tuple[StateArray, int]]:
    """Search every problem by so many populations, all at once.

    Args:
        tasks: the problems.
        plan: how much each population searches; whole generations are searched, `plan.children` or a little more.
        populations: populations of each problem that know nothing of one another.
        device: a torch device.

    Returns:
        For each problem the best state of each of its populations [populations, n] and how many children each had.
    """
    batch = _Batch(tasks, plan, populations, device)
    children = 0
    while not children or (children < plan.children and batch.going()):
        batch.begin_generation(first=children == 0)
        batch.search_generation()
        batch.end_generation()
        children += plan.population
    return [(states, children) for states in batch.best_states()]


class _Batch:
    """Tensors of all searches: P problems, M = populations x members rows of each, n variables."""

    def __init__(self, tasks: Sequence[Task], plan: Plan, populations: int, device: str) -> None:
        import torch

        self._torch, self._tasks, self._plan, self._device = torch, tasks, plan, torch.device(device)
        self._populations, self._members = populations, plan.population
        self._n = tasks[0].arrays.n
        self._rows = populations * plan.population
        self._rngs = [np.random.default_rng([task.run.seed, 0]) for task in tasks]
        self._generation = 0
        self._Q = torch.stack([self._sent(np.array(task.arrays.matrix)) for task in tasks])
        self._single = torch.stack([self._sent(task.arrays.single) for task in tasks])
        self._lay_out_groups()
        shape = len(tasks), self._rows, self._n
        self._members_x = torch.zeros(shape, dtype=torch.bool, device=self._device)
        self._members_energy = torch.full(shape[:2], torch.inf, dtype=torch.float64, device=self._device)
        # Generations in a row in which no member of a population gave way.
        self._stale = torch.zeros((len(tasks), populations), dtype=torch.int32, device=self._device)
        self._best_x, self._best = self._members_x.clone(), self._members_energy.clone()
        self._noted = [np.inf] * len(tasks)
        self._pace = Pace(steps=8)

    def _sent(self, array: np.typing.NDArray[np.generic]) -> torch.Tensor:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _lay_out_groups(self) -> None:
        groups = [task.arrays.groups for task in self._tasks]
        slots = np.arange(self._n)
        self._group = self._sent(np.array([g.of for g in groups], np.int64))[:, None, :]
        self._count_of_groups = len(groups[0].counts)
        # Slot s of the variables in order of group is a one where its rank within the group is below the demand.
        ones = []
        for g in groups:
            at = g.of[g.members]
            ones.append(slots - g.starts[at] < g.counts[at])
        self._slot_is_one = self._sent(np.array(ones))[:, None, :]
        self._spans = [tenures(g) for g in groups]

    def going(self) -> bool:
        """Whether any problem's run still goes on."""
        ended = [task.run.should_end() for task in self._tasks]
        return not all(ended)

    # A generation

    def begin_generation(self, *, first: bool) -> None:
        """Make a start for every row."""
        torch = self._torch
        keys = self._sent(np.array([rng.random((self._rows, self._n), np.float32) for rng in self._rngs]))
        if first:
            self._x = self._feasible(keys)
            self._place_initial()
        else:
            anew = self._stale * self._members >= self._plan.patience
            self._stale.masked_fill_(anew, 0)
            anew = anew.repeat_interleave(self._members, dim=1)
            self._members_energy.masked_fill_(anew, torch.inf)
            one, other = self._parents()
            # Common ones come before the variables in which the two differ, common zeros after them.
            taught = torch.where(one == other, torch.where(one, -1.0, 2.0), keys)
            self._x = self._feasible(torch.where(anew[..., None], keys, taught))
        self._fields, self._energy = self._evaluated(self._x)
        self._child_x, self._child = self._x.clone(), self._energy.clone()
        self._free_at = torch.zeros_like(self._x, dtype=torch.int32)
        self._least = _ROUNDING * self._fields.abs().amax(dim=-1).double()
        self._found_at = torch.zeros_like(self._members_energy, dtype=torch.int32)
        self._generation += 1
        self._tenure_rngs = [np.random.default_rng([task.run.seed, self._generation]) for task in self._tasks]

    def _feasible(self, keys: torch.Tensor) -> torch.Tensor:
        """States [P, M, n] whose ones are, in each group, the variables of least key (-1 .. 2)."""
        order = (keys.double() + 4.0 * self._group).argsort(dim=-1)
        return self._torch.zeros_like(self._members_x).scatter_(-1, order, self._slot_is_one.expand_as(order))

    def _place_initial(self) -> None:
        for p, task in enumerate(self._tasks):
            if task.initial is not None:
                given = self._sent(task.initial[: self._members].astype(bool))
                for start in range(0, self._rows, self._members):
                    self._x[p, start : start + len(given)] = given

    def _parents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two distinct members of its own population for each row, bool [P, M, n] each."""
        size, shape = self._members, (len(self._tasks), self._rows)
        first, second = np.empty(shape, np.int64), np.empty(shape, np.int64)
        base = np.repeat(np.arange(0, self._rows, size), size)
        for p, rng in enumerate(self._rngs):
            a, b = rng.integers(0, size, self._rows), rng.integers(0, size - 1, self._rows)
            first[p], second[p] = base + a, base + b + (b >= a)
        return self._rows_of(self._members_x, first), self._rows_of(self._members_x, second)

    def _rows_of(self, states: torch.Tensor, rows: np.typing.NDArray[np.int64]) -> torch.Tensor:
        return states.gather(1, self._sent(rows)[:, :, None].expand(-1, -1, self._n))

    def search_generation(self) -> None:
        """Search all children to their end, with a look at clock and targets every few milliseconds."""
        step, active = 0, True
        longest = _LONGEST * self._plan.iterations + 4 * self._n
        while active and step < longest:
            chunk = self._pace.begin(longest - step)
            for t in range(step, step + chunk):
                self._step(t)
            step += chunk
            # Reading these waits for the device, so the pace is the device's.
            active = bool((step - self._found_at < self._plan.iterations).any())
            lowest = self._child.amin(dim=1).tolist()
            self._pace.done(chunk)
            self._note(lowest)
            if not self.going():
                return

    def _step(self, t: int) -> None:
        torch = self._torch
        now = t + 1
        if t % _DRAWN == 0:
            self._draw_tenures()
        free = self._free_at <= now
        entering = torch.where(free & ~self._x, self._fields, torch.inf)
        leaving = torch.where(free & self._x, -self._fields, torch.inf)
        if self._count_of_groups > 1:
            # The leaver is chosen together with the cheapest zero of its own group.
            cheapest = torch.full((*leaving.shape[:2], self._count_of_groups), torch.inf, device=self._device)
            groups = self._group.expand_as(self._x)
            leaving = leaving + cheapest.scatter_reduce_(-1, groups, entering, "amin").gather(-1, groups)
        out = leaving.argmin(dim=-1, keepdim=True)  # argmin and gather: min(dim) starts threads on the smallest tensor
        lost = self._matrix_rows(out)
        entering = entering - lost
        if self._count_of_groups > 1:
            entering = torch.where(groups == groups.gather(-1, out), entering, torch.inf)
        into = entering.argmin(dim=-1, keepdim=True)
        cost = entering.gather(-1, into) - self._fields.gather(-1, out)
        active = (t - self._found_at < self._plan.iterations)[..., None]
        moves = active & torch.isfinite(leaving.gather(-1, out)) & torch.isfinite(cost)
        self._fields += torch.where(moves, self._matrix_rows(into) - lost, 0.0)
        # Where nothing moves, what is written is what was there.
        self._x.scatter_(-1, out, self._x.gather(-1, out) & ~moves)
        self._x.scatter_(-1, into, self._x.gather(-1, into) | moves)
        for kind, moved in enumerate((into, out)):
            rest = now + self._tenures[t % _DRAWN, :, :, kind, None]
            self._free_at.scatter_(-1, moved, torch.where(moves, rest, self._free_at.gather(-1, moved)))
        self._energy += torch.where(moves, cost, 0.0)[..., 0]
        better = self._energy < self._child - self._least
        self._found_at = torch.where(better, now, self._found_at)
        self._child = torch.where(better, self._energy, self._child)
        self._child_x = torch.where(better[..., None], self._x, self._child_x)

    def _draw_tenures(self) -> None:
        """Steps for which what enters and what leaves must rest, for the next steps: int32 [steps, P, M, 2]."""
        shape = _DRAWN, self._rows, 2
        drawn = [
            spans[::2] + rng.integers(0, spans[1::2], shape)
            for rng, spans in zip(self._tenure_rngs, self._spans, strict=True)
        ]
        self._tenures = self._sent(np.stack(drawn, axis=1).astype(np.int32))

    def _evaluated(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fields, float32 [P, M, n], and energies, float64 [P, M], of states."""
        ones = states.to(self._torch.float32)
        single = self._single[:, None, :]
        terms = single.to(self._torch.float32)
        if self._device.type == "cpu":
            # One product for each problem: there a batch of one is rounded otherwise than a batch of many.
            each = zip(terms, ones, self._Q, strict=True)
            fields = self._torch.stack([self._torch.addmm(term, one, Q) for term, one, Q in each])
        else:
            fields = self._torch.baddbmm(terms, ones, self._Q)
        return fields, 0.5 * ((fields + single) * ones).sum(-1)

    def _matrix_rows(self, variables: torch.Tensor) -> torch.Tensor:
        """Rows of each problem's Q, [P, M, n], for variables [P, M, 1]."""
        return self._Q.gather(1, variables.expand(-1, -1, self._n))

    def end_generation(self) -> None:
        """Keep the best of members and children, each state once, and the best of all."""
        torch = self._torch
        self._child = self._evaluated(self._child_x)[1]  # anew: what a search adds up drifts with rounding
        better = self._child < self._best
        self._best = torch.where(better, self._child, self._best)
        self._best_x = torch.where(better[..., None], self._child_x, self._best_x)
        P, S, m, n = len(self._tasks), self._populations, self._members, self._n
        energy = torch.cat([self._members_energy.view(P, S, m), self._child.view(P, S, m)], dim=2)
        states = torch.cat([self._members_x.view(P, S, m, n), self._child_x.view(P, S, m, n)], dim=2)
        energy, order = energy.sort(dim=2, stable=True)
        states = states.gather(2, order[..., None].expand(-1, -1, -1, n))
        # Equal states stand side by side once sorted by energy, unless two distinct ones share it: then both stay.
        repeated = (states[:, :, 1:] == states[:, :, :-1]).all(dim=-1) & torch.isfinite(energy[:, :, 1:])
        energy[:, :, 1:][repeated] = torch.inf
        energy, order = energy.sort(dim=2, stable=True)
        states = states.gather(2, order[..., None].expand(-1, -1, -1, n))
        kept = energy[:, :, :m].reshape(P, S * m)
        same = (kept == self._members_energy).view(P, S, m).all(dim=-1)
        self._stale = torch.where(same, self._stale + 1, 0)
        self._members_energy, self._members_x = kept, states[:, :, :m].reshape(P, S * m, n)
        # A population of fewer distinct states than members is filled up with its best.
        missing = torch.isinf(self._members_energy)
        if bool(missing.any()):
            first = self._members_x.view(P, S, m, n)[:, :, :1].expand(-1, -1, m, -1).reshape(P, S * m, n)
            self._members_x = torch.where(missing[..., None], first, self._members_x)

    # What was found

    def _note(self, lowest: list[float]) -> None:
        for p, (task, half) in enumerate(zip(self._tasks, lowest, strict=True)):
            if half < self._noted[p] and task.run.ended_by is None:
                self._noted[p] = half
                row = int(self._child[p].argmin())
                task.goal.note(half, self._child_x[p, row].cpu().numpy().astype(np.int8))

    def best_states(self) -> list[StateArray]:
        """The best state of each population of each problem."""
        P, S, m, n = len(self._tasks), self._populations, self._members, self._n
        row = self._best.view(P, S, m).argmin(dim=2)[..., None, None].expand(-1, -1, 1, n)
        states = self._best_x.view(P, S, m, n).gather(2, row)[:, :, 0]
        return list(states.cpu().numpy().astype(np.int8))
