"""The tabu search of :mod:`solvers.local.tabu` for many populations of many problems at once, on tensors.

Tensors are [problem, row, variable], one row for each member of each population. All offspring of a generation are
searched side by side until each has gone the given number of steps without a better state; finished ones stay as they
are. The first members start from the given states, the greedy one, and random ones. Offspring keep what two members
share, and are perturbed where the members differ too little.

Two engines take the same steps, those of :mod:`solvers.local.kernels.tabu`: "torch", two dozen tensor operations a step
on any device, and "triton", one launch of :mod:`solvers.local.batched.tabu_triton` for thousands of steps. Every row
has its own random numbers, so neither the other problems of a batch nor the intervals at which the clock is read change
its result; but on a GPU the matrix product that gives the fields may round differently in a batch of another size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from problems.forms import StateArray
from solvers.local.arrays import DenseArrays
from solvers.local.batched.torch_random import below, numbers, units
from solvers.local.populations import Plan
from solvers.local.target import TargetWatch
from solvers.run import Pace, Run

if TYPE_CHECKING:
    import torch

_DRAWN = 64  # steps for which random numbers are drawn at once
_MOST_STEPS = 1 << 30  # a step's number and all that is added to it fit into 32 bits
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
    goal: TargetWatch
    initial: StateArray | None = None


def fused_takes(n: int, groups: int) -> bool:
    """Whether the fused kernel can search such problems: of one group, with as many variables as fit into registers."""
    from solvers.local.batched import tabu_triton

    return groups == 1 and n <= tabu_triton.LARGEST


def search(
    tasks: Sequence[Task], plan: Plan, populations: int, device: str, *, fused: bool = False
) -> list[tuple[StateArray, int]]:
    """Search every problem by so many populations, all at once.

    Args:
        tasks: the problems.
        plan: how much each population searches; whole generations are searched, `plan.offspring` or a little more.
        populations: populations of each problem that know nothing of one another.
        device: a torch device.
        fused: whether the steps are those of the fused kernel, which must take all of the problems.

    Returns:
        For each problem the best state of each of its populations [populations, n] and how many offspring each had.
    """
    batch = Batch(tasks, plan, populations, device, fused=fused)
    offspring = 0
    while not offspring or (offspring < plan.offspring and batch.going()):
        batch.begin_generation(first=offspring == 0)
        batch.search_generation()
        batch.end_generation()
        offspring += plan.population
    return [(states, offspring) for states in batch.best_states()]


class Batch:
    """Tensors of all searches: P problems, M = populations x members rows of each, n variables in W columns.

    Arguments are those of :func:`search`.
    """

    _Q: torch.Tensor
    _rests: torch.Tensor

    def __init__(
        self, tasks: Sequence[Task], plan: Plan, populations: int, device: str, *, fused: bool = False
    ) -> None:
        import torch

        self._torch, self._tasks, self._plan, self._device = torch, tasks, plan, torch.device(device)
        self._populations, self._members = populations, plan.population
        self._n = tasks[0].arrays.n
        self._rows = populations * plan.population
        self.take_steps = self._fused_steps if fused else self._plain_steps
        self._lay_out_matrices(fused)
        self._lay_out_groups()
        starts = [np.random.SeedSequence(task.run.seed).generate_state(1, np.uint64) for task in tasks]
        self._seeds = self._sent(np.array(starts).view(np.int64))
        self._generation = 0
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

    def _lay_out_matrices(self, fused: bool) -> None:
        torch, n = self._torch, self._n
        if fused:
            from solvers.local.batched import tabu_triton

            self._width, self._block = tabu_triton.width(n), tabu_triton.block(n)
        else:
            self._width, self._block = n, 1 << (n - 1).bit_length()
        shape = len(self._tasks), n, self._width
        self._Q = torch.zeros(shape, dtype=torch.float32, device=self._device)
        for Q, task in zip(self._Q, self._tasks, strict=True):
            Q[:, :n] = self._sent(np.array(task.arrays.matrix))
        self._single = torch.stack([self._sent(task.arrays.single) for task in self._tasks])
        self._at = torch.arange(n, dtype=torch.int32, device=self._device)

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
        self._tenures = self._sent(np.array([g.tenures for g in groups], np.int32))

    def going(self) -> bool:
        """Whether any problem's run still goes on."""
        ended = [task.run.should_end() for task in self._tasks]
        return not all(ended)

    # A generation

    def begin_generation(self, *, first: bool) -> None:
        """Make a start for every row."""
        torch = self._torch
        self._generation += 1
        # Each row of each generation has two streams: one for its start, one for its steps.
        rows = torch.arange(2 * self._rows, device=self._device) + 1
        streams = numbers(numbers(self._seeds, self._generation), rows)
        starts, self._streams = streams[:, : self._rows], streams[:, self._rows :].clone()  # not a view: aligned
        bits = numbers(starts[..., None], self._at.long() + 1)
        if first:
            x = self._feasible(units(bits))
            self._place_initial(x)
        else:
            anew = self._stale * self._members >= self._plan.patience
            self._stale.masked_fill_(anew, 0)
            anew = anew.repeat_interleave(self._members, dim=1)
            self._members_energy.masked_fill_(anew, torch.inf)
            x = self._feasible(torch.where(anew[..., None], units(bits), self._taught(bits, starts)))
        fields, self._energy = self._evaluated(x)
        self._least = _ROUNDING * fields.abs().amax(dim=-1).double()
        self._offspring, self._found_at = self._energy.clone(), torch.zeros_like(self._energy, dtype=torch.int32)
        # A one that rests through step t is a t here, a zero -1 - t.
        self._rests = self._widened(torch.where(x, 0, -1).int(), 2**31 - 1)
        self._fields, self._child_x = self._widened(fields, 0.0), self._widened(x, False)

    def _widened(self, tensor: torch.Tensor, value: float) -> torch.Tensor:
        return self._torch.nn.functional.pad(tensor, (0, self._width - self._n), value=value).contiguous()

    def _feasible(self, keys: torch.Tensor) -> torch.Tensor:
        """States [P, M, n] whose ones are, in each group, the variables of least key (-1 .. 2)."""
        if self._count_of_groups > 1:
            keys = keys.double() + 4.0 * self._group
        order = keys.argsort(dim=-1, stable=True)
        return self._torch.zeros_like(self._members_x).scatter_(-1, order, self._slot_is_one.expand_as(order))

    def _place_initial(self, x: torch.Tensor) -> None:
        """Begin every population with the states that were given, and the greedy one after them."""
        by_population = x.view(len(self._tasks), self._populations, self._members, self._n)
        for states, task in zip(by_population, self._tasks, strict=True):
            given = [] if task.initial is None else list(task.initial)
            first = np.array([*given, task.arrays.greedy], bool)[: self._members]
            states[:, : len(first)] = self._sent(first)

    def _taught(self, bits: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Keys of offspring: common ones first, common zeros last, what is left to chance between them.

        To chance are left the variables in which the parents differ, half of which change on average; and, where those
        give fewer swaps than `plan.least_swaps`, others by lot, twice as many of either kind as swaps are missing.
        """
        where = self._torch.where
        one, other = self._parents(starts)
        differ = one ^ other
        ones = one.sum(dim=-1, keepdim=True)
        missing = (self._plan.least_swaps - 0.25 * differ.sum(dim=-1, keepdim=True)).clamp(min=0.0)
        chance = 2.0 * missing / where(one, ones, self._n - ones)
        lot = units(bits << 24)  # other bits than those of the keys
        keys: torch.Tensor = where(differ | (lot < chance), units(bits), where(one, -1.0, 2.0))
        return keys

    def _parents(self, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two distinct members of its own population for each row, bool [P, M, n] each."""
        size = self._members
        base = self._torch.arange(0, self._rows, size, device=self._device).repeat_interleave(size)
        first, second = (below(numbers(starts, self._n + 1 + t), size - t) for t in range(2))
        return self._rows_of(base + first), self._rows_of(base + second + (second >= first))

    def _rows_of(self, rows: torch.Tensor) -> torch.Tensor:
        return self._members_x.gather(1, rows[:, :, None].expand(-1, -1, self._n))

    def search_generation(self) -> None:
        """Search all offspring to their end, with a look at clock and targets every few milliseconds."""
        step, active = 0, True
        longest = min(_LONGEST * self._plan.iterations + 4 * self._n, _MOST_STEPS)
        while active and step < longest:
            chunk = self._pace.begin(longest - step)
            self.take_steps(step, step + chunk)
            step += chunk
            # Reading these waits for the device, so the pace is the device's.
            active = bool((step - self._found_at < self._plan.iterations).any())
            lowest = self._offspring.amin(dim=1).tolist()
            self._pace.done(chunk)
            self._note(lowest)
            if not self.going():
                return

    def _fused_steps(self, begin: int, end: int) -> None:
        from solvers.local.batched import tabu_triton

        tabu_triton.take_steps(
            self._Q, self._fields, self._rests, self._child_x.view(self._torch.uint8), self._energy, self._offspring,
            self._found_at, self._least, self._streams, self._tenures, begin, end,
            min(self._plan.iterations, _MOST_STEPS),
        )  # fmt: skip

    def _plain_steps(self, begin: int, end: int) -> None:
        for t in range(begin, end):
            if t == begin or t % _DRAWN == 0:
                self._draw(t - t % _DRAWN)
            self._step(t)

    def _step(self, t: int) -> None:
        torch, inf = self._torch, self._torch.inf
        now, drawn = t + 1, t % _DRAWN
        entering = torch.where((self._rests < 0) & (self._rests >= -now), self._fields, inf)
        leaving = torch.where((self._rests >= 0) & (self._rests < now), self._fields, -inf)
        if self._count_of_groups > 1:
            # The leaver is chosen together with the cheapest zero of its own group.
            cheapest = torch.full((*leaving.shape[:2], self._count_of_groups), inf, device=self._device)
            groups = self._group.expand_as(self._rests)
            leaving = leaving - cheapest.scatter_reduce_(-1, groups, entering, "amin").gather(-1, groups)
        # Of equal ones that whose index is least once its bits are flipped at random: none is always the first.
        keys = self._at ^ self._flips[drawn]
        most = leaving.amax(dim=-1, keepdim=True)
        out = torch.where(leaving == most, keys, self._block).amin(dim=-1, keepdim=True) ^ self._flips[drawn]
        out = out.long()
        lost = self._matrix_rows(out)
        entering = entering - lost
        if self._count_of_groups > 1:
            entering = torch.where(groups == groups.gather(-1, out), entering, inf)
        low = entering.amin(dim=-1, keepdim=True)
        into = torch.where(entering == low, keys, self._block).amin(dim=-1, keepdim=True) ^ self._flips[drawn]
        into = into.long()
        active = (t - self._found_at < self._plan.iterations)[..., None]
        moves = active & torch.isfinite(most) & torch.isfinite(low)
        cost = low.double() - self._fields.gather(-1, out).double()
        self._fields += torch.where(moves, self._matrix_rows(into) - lost, 0.0)
        # Where nothing moves, what is written is what was there.
        for moved, rests in ((out, -self._kept_away[drawn] - now), (into, self._kept[drawn] + now - 1)):
            self._rests.scatter_(-1, moved, torch.where(moves, rests, self._rests.gather(-1, moved)))
        self._energy += torch.where(moves, cost, 0.0)[..., 0]
        better = self._energy < self._offspring - self._least
        self._found_at = torch.where(better, now, self._found_at)
        self._offspring = torch.where(better, self._energy, self._offspring)
        self._child_x = torch.where(better[..., None], self._rests >= 0, self._child_x)

    def _draw(self, first: int) -> None:
        """Flips of indices and tenures for the next steps, int32 [steps, P, M, 1], from the bits that kernels use."""
        which = self._torch.arange(first + 1, first + 1 + _DRAWN, device=self._device)
        bits = numbers(self._streams, which[:, None, None])[..., None]
        stay, stay_spread, away, away_spread = self._tenures.long().T[:, :, None, None]
        self._flips = (bits & (0xFFFF & (self._block - 1))).int()
        self._kept_away = (away + (((bits >> 16) & 0xFFFF) * away_spread >> 16)).int()
        self._kept = (stay + (((bits >> 32) & 0xFFFF) * stay_spread >> 16)).int()

    def _evaluated(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fields, float32 [P, M, n], and energies, float64 [P, M], of states."""
        ones = states.to(self._torch.float32)
        single = self._single[:, None, :]
        terms = single.to(self._torch.float32)
        Q = self._Q[..., : self._n]
        if self._device.type == "cpu":
            # One product for each problem: there a batch of one is rounded otherwise than a batch of many.
            each = zip(terms, ones, Q, strict=True)
            fields = self._torch.stack([self._torch.addmm(term, one, matrix) for term, one, matrix in each])
        else:
            with _whole_float32():
                fields = self._torch.baddbmm(terms, ones, Q)
        return fields, 0.5 * ((fields + single) * ones).sum(-1)

    def _matrix_rows(self, variables: torch.Tensor) -> torch.Tensor:
        """Rows of each problem's Q, [P, M, n], for variables [P, M, 1]."""
        return self._Q.gather(1, variables.expand(-1, -1, self._n))

    def end_generation(self) -> None:
        """Keep the best of members and offspring, each state once, and the best of all."""
        torch = self._torch
        found = self._child_x[..., : self._n]
        self._offspring = self._evaluated(found)[1]  # anew: what a search adds up drifts with rounding
        better = self._offspring < self._best
        self._best = torch.where(better, self._offspring, self._best)
        self._best_x = torch.where(better[..., None], found, self._best_x)
        P, S, m, n = len(self._tasks), self._populations, self._members, self._n
        energy = torch.cat([self._members_energy.view(P, S, m), self._offspring.view(P, S, m)], dim=2)
        states = torch.cat([self._members_x.view(P, S, m, n), found.reshape(P, S, m, n)], dim=2)
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

    @property
    def states(self) -> torch.Tensor:
        """The present states of all searches, bool [P, M, n]."""
        return self._rests[..., : self._n] >= 0

    def _note(self, lowest: list[float]) -> None:
        for p, (task, half) in enumerate(zip(self._tasks, lowest, strict=True)):
            if half < self._noted[p] and task.run.ended_by is None:
                self._noted[p] = half
                row = int(self._offspring[p].argmin())
                task.goal.note(half, self._child_x[p, row, : self._n].cpu().numpy().astype(np.int8))

    def best_states(self) -> list[StateArray]:
        """The best state of each population of each problem."""
        P, S, m, n = len(self._tasks), self._populations, self._members, self._n
        row = self._best.view(P, S, m).argmin(dim=2)[..., None, None].expand(-1, -1, 1, n)
        states = self._best_x.view(P, S, m, n).gather(2, row)[:, :, 0]
        return list(states.cpu().numpy().astype(np.int8))


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Products of float32 matrices on a GPU as such: a setting for training may round their factors to 10 bits."""
    import torch

    products = torch.backends.cuda.matmul
    if not hasattr(products, "fp32_precision"):  # torch before 2.9
        before = products.allow_tf32
        products.allow_tf32 = False
        try:
            yield
        finally:
            products.allow_tf32 = before
        return
    given = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = given
