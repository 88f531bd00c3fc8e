"""The arguments of kernels, grouped: one NamedTuple an idea, with the dtype and shape of each array.

n is the number of variables, g of groups, w of listed couplings a variable, p of members a population, s of sweeps.
Arrays are C-contiguous. "Updated" arrays are changed by the kernels that receive them.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypeAlias

import numba as nb
import numpy.typing as npt

Matrix: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float32, 2, "C", readonly=True)]
Bytes: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.uint8, 1, "C")]
Bytes2: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.uint8, 2, "C")]
Bytes3: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.uint8, 3, "C")]
Floats: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float32, 1, "C")]
Floats2: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float32, 2, "C")]
Doubles: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float64, 1, "C")]
Doubles2: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float64, 2, "C")]
Doubles3: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.float64, 3, "C")]
Ints: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.int32, 1, "C")]
Longs: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.int64, 1, "C")]
Words2: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.uint32, 2, "C")]
Stream: TypeAlias = Annotated[npt.NDArray[Any], nb.types.Array(nb.uint64, 1, "C")]
"""State of a random stream, uint64 [1]; see :mod:`solvers.local.kernels.random`."""


class GroupLayout(NamedTuple):
    """Which variables may be swapped with each other; see :class:`solvers.local.arrays.Groups`."""

    of: Ints
    """Group of each variable, int32 [n]."""
    members: Ints
    """Variables ordered by group, int32 [n]."""
    starts: Ints
    """Where each group begins in `members`, int32 [g + 1]."""
    counts: Ints
    """Ones of each group, int32 [g]."""


class Problem(NamedTuple):
    """A problem in half units: e(x) = 1/2 x^T Q x + s.x."""

    Q: Matrix
    """Couplings, float32 [n, n], zero diagonal, read-only."""
    single: Doubles
    """s, float64 [n]."""
    groups: GroupLayout


class State(NamedTuple):
    """A state, all of it updated."""

    x: Bytes
    """Zeros and ones, uint8 [n]."""
    fields: Floats
    """g = s + Q x, float32 [n] (float64 in the final descent)."""
    order: Ints
    """Variables by group, ones first, int32 [n]; kept by the searches that need it only."""
    place: Ints
    """Position of each variable in `order`, int32 [n]."""


class Search(NamedTuple):
    """A tabu search, all of it but the tenures updated."""

    leave_at: Ints
    """Step from which a one may leave the state, NEVER for zeros, int32 [n]."""
    enter_at: Ints
    """Step from which a zero may enter the state, NEVER for ones, int32 [n]."""
    best_x: Bytes
    """Best state of the search, uint8 [n]."""
    tenures: Longs
    """[least, spread] of the steps that an entered variable stays, then that a left one stays out, int64 [4]."""
    clock: Longs
    """[steps taken, step of the best state], int64 [2]."""
    account: Doubles
    """Energies, float64 [4]; see PRESENT, BEST and GAIN of `kernels.tabu`, SETTLED of `kernels.population`."""


class PairScan(NamedTuple):
    """What a descent among all pairs knows of the rows of Q, all of it updated as rows are read."""

    reach: Floats2
    """Largest entry of each row, and largest that is not on its list, float32 [2, n]; LARGE until known."""
    near: Words2
    """Positions of the largest entries of each row, uint32 [n, w]; w = 0 keeps no lists."""
    strong: Floats2
    """Those entries, the largest first, float32 [n, w]."""
    looks: Ints
    """How often each row was read, int32 [n]."""
    scan: Longs
    """[variable to look at next, variables looked at since the last gain], int64 [2]; see SLOT and QUIET."""


class Annealing(NamedTuple):
    """An annealing of a state."""

    temperatures: Floats
    """Temperature of each sweep, float32 [s]."""
    awake: Floats
    """Temperature from which each variable proposes swaps, float32 [n]; see `annealing.wake_temperatures`."""
    progress: Longs
    """[sweep, variable] of the next proposal, and for factors where partners come from, int64 [2 or 3]; updated."""


class PopulationArrays(NamedTuple):
    """The members of the populations of all levels, all of it updated."""

    x: Bytes3
    """Their states, uint8 [LEVELS, p, n]."""
    fields: Doubles3
    """Their fields, float64 [LEVELS, p, n]."""
    energy: Doubles2
    """Their energies, float64 [LEVELS, p]."""
    best_x: Bytes
    """The best state that was ever a member, uint8 [n]."""
    best: Doubles
    """Its energy, float64 [1]."""
    progress: Longs
    """Phase and counters, int64 [COUNTS + LEVELS]; see `population`."""
    trials: Doubles2
    """[starts, sum of the energies that they reached] without and with annealing, float64 [2, 2]."""


class Starts(NamedTuple):
    """The states that first members begin from; further ones are random."""

    initial: Bytes2
    """States given by the caller, uint8 [b, n]."""
    greedy: Bytes
    """The state whose ones add least on average, uint8 [n]."""


class SearchPlan(NamedTuple):
    """How much to search."""

    iterations: int
    """Steps without a better state that end a tabu search."""
    offspring: int
    """Tabu searches in all."""
    patience: int
    """Offspring in a row that do not enter before a population is replaced; CROWD times as many with annealing."""
    least_swaps: int
    """Least number of swaps by which an offspring differs from its parent."""
    turn: int
    """Offspring after which a population is replaced in any case; CROWD times as many with annealing."""
    members: int
    """Members of a population; CROWD times as many with annealing."""
    greedy_at: int
    """How many starts that the caller did not give come before the greedy state."""


class FlipState(NamedTuple):
    """A state searched by single flips, all of it updated."""

    x: Bytes
    """Zeros and ones, uint8 [n]."""
    fields: Floats
    """g = s + Q x, float32 [n]."""
    signs: Floats
    """1 - 2 x, float32 [n]."""


class Kernels(NamedTuple):
    """Addresses of the kernels that the memetic search calls, see :mod:`solvers.local.kernels.separate`."""

    begin: int
    end: int
    measure: int
    anneal: int
    anneal_disputed: int
    cross: int
    descend: int
    tabu: int
    tabu_groups: int
    """0 for problems of one group, which never call it."""
