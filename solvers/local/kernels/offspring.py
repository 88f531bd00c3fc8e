"""States that a search begins from: random ones, and offspring of two good ones, made by swaps with their fields."""

from __future__ import annotations

import numba as nb
import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.random import below
from solvers.local.kernels.separate import separate
from solvers.local.kernels.structures import Bytes, Problem, State, Stream

_DRAWS = 128  # to find three variables of a kind: enough where one in fifty is of it
_HEAVIEST_OF, _BEST_OF = 32, 16  # variables of a kind, of which the most strongly coupled, or the best, is moved


@helper(nogil=True, error_model="numpy")
def random_state(x, groups, stream):  # type: ignore[no-untyped-def]
    """Fill in a uniformly random feasible state, by selection sampling.

    A variable becomes a one with probability (ones missing in its group) / (variables of its group not yet decided).
    """
    members, starts, counts = groups.members, groups.starts, groups.counts
    for g in range(counts.shape[0]):
        missing = counts[g]
        for t in range(starts[g], starts[g + 1]):
            chosen = below(stream, starts[g + 1] - t) < missing
            x[members[t]] = chosen
            missing -= chosen


@separate(
    nb.types.Tuple((nb.int64, nb.float64)), Problem, Bytes, State, float, Stream,
    nogil=True, fastmath=True, error_model="numpy",
)  # fmt: skip
def cross(problem, other, state, energy, stream):  # type: ignore[no-untyped-def]
    """Turn a parent into an offspring by swapping about half of the variables in which it differs from the other.

    Each swap takes the best of three random variables on either side: the best of all would give every pair of parents
    the same offspring, a random one a poor offspring.

    Returns:
        Number of swaps, and the energy of the offspring where `energy` was that of the parent.
    """
    Q, x, fields = problem.Q, state.x, state.fields
    members, starts = problem.groups.members, problem.groups.starts
    n = x.shape[0]
    own = np.empty(n, np.int32)
    theirs = np.empty(n, np.int32)
    made = 0
    for g in range(starts.shape[0] - 1):
        d, e = 0, 0
        for t in range(starts[g], starts[g + 1]):
            i = members[t]
            if x[i] != other[i]:
                if x[i]:
                    own[d] = i
                    d += 1
                else:
                    theirs[e] = i
                    e += 1
        swaps = (d + below(stream, 2)) // 2
        made += swaps
        for s in range(swaps):
            a = _best_of_three(own, d - s, fields, np.float32(-1.0), stream)
            b = _best_of_three(theirs, d - s, fields, np.float32(1.0), stream)
            out, into = own[a], theirs[b]
            own[a], theirs[b] = own[d - s - 1], theirs[d - s - 1]
            energy += _swapped(Q, x, fields, out, into)
    return made, energy


@compiled(nogil=True, fastmath=True, error_model="numpy")
def perturb(problem, state, stream):  # type: ignore[no-untyped-def]
    """Swap a one for a zero of its group, each the best of three random ones, and return the change of energy.

    Variables are drawn until three of the wanted kind are found, or `_DRAWS` were drawn: then nothing is swapped.
    """
    Q, x, fields = problem.Q, state.x, state.fields
    group, members, starts = problem.groups.of, problem.groups.members, problem.groups.starts
    n = x.shape[0]
    out = into = -1
    found = 0
    for _ in range(_DRAWS):
        i = below(stream, n)
        if x[i]:
            found += 1
            if out < 0 or fields[i] > fields[out]:
                out = i
            if found == 3:
                break
    if out < 0:
        return 0.0
    start, size = starts[group[out]], starts[group[out] + 1] - starts[group[out]]
    found = 0
    for _ in range(_DRAWS):
        j = members[start + below(stream, size)]
        if not x[j]:
            found += 1
            if into < 0 or fields[j] < fields[into]:
                into = j
            if found == 3:
                break
    if into < 0:
        return 0.0
    return _swapped(Q, x, fields, out, into)


@compiled(nogil=True, fastmath=True, error_model="numpy")
def perturb_strong(Q, weights, state, stream):  # type: ignore[no-untyped-def]
    """Swap a strongly coupled variable for the best of some of the other kind; return the change of energy.

    In a block with heavy-tailed couplings a few variables are coupled so strongly that they are ones together or zeros
    together. No single swap of theirs lowers the energy, and a tabu search, which makes the best swap, moves none of
    them: the fields of the many others differ less. Once one of them is moved, the fields of the rest favour it too.

    Arrays:
        Q: couplings, float32 [n, n], of a single group.
        weights: how strongly each variable is coupled, float32 [n].
        state: updated, but for `order` and `place`.
        stream: random stream.
    """
    x, fields = state.x, state.fields
    n = x.shape[0]
    side = np.uint8(below(stream, 2))
    heavy = other = -1
    found = 0
    for _ in range(_DRAWS):
        i = below(stream, n)
        if x[i] == side:
            found += 1
            if heavy < 0 or weights[i] > weights[heavy]:
                heavy = i
            if found == _HEAVIEST_OF:
                break
    found = 0
    for _ in range(_DRAWS):
        i = below(stream, n)
        if x[i] != side:
            found += 1
            if other < 0 or (fields[i] < fields[other]) == (side == 1):
                other = i
            if found == _BEST_OF:
                break
    if heavy < 0 or other < 0:
        return 0.0
    return _swapped(Q, x, fields, heavy, other) if side else _swapped(Q, x, fields, other, heavy)


@helper(nogil=True, fastmath=True, error_model="numpy")
def _swapped(Q, x, fields, out, into):  # type: ignore[no-untyped-def]
    """Swap a one for a zero and return the change of energy."""
    change = np.float64(fields[into]) - np.float64(fields[out]) - np.float64(Q[out, into])
    x[out], x[into] = 0, 1
    gained, lost = Q[into], Q[out]
    for l in range(x.shape[0]):
        fields[l] += gained[l] - lost[l]
    return change


@helper(nogil=True, error_model="numpy")
def _best_of_three(variables, count, fields, sign, stream):  # type: ignore[no-untyped-def]
    best = below(stream, count)
    for _ in range(2):
        t = below(stream, count)
        if sign * fields[variables[t]] < sign * fields[variables[best]]:
            best = t
    return best
