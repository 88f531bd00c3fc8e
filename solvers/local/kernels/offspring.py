"""States that a search begins from: random ones, and children of two good ones, made by swaps with their fields."""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled
from solvers.local.kernels.random import below

_DRAWS = 128  # to find three variables of a kind: enough where one in fifty is of it
_HEAVIEST_OF, _BEST_OF = 32, 16  # variables of a kind, of which the most strongly coupled, or the best, is moved


@compiled(nogil=True, error_model="numpy")
def random_state(x, members, starts, counts, stream):  # type: ignore[no-untyped-def]
    """A uniformly random feasible state, by selection: a variable is one with chance (ones due) / (variables left)."""
    for g in range(counts.shape[0]):
        due = counts[g]
        for t in range(starts[g], starts[g + 1]):
            chosen = below(stream, starts[g + 1] - t) < due
            x[members[t]] = chosen
            due -= chosen


@compiled(nogil=True, fastmath=True, error_model="numpy")
def cross(Q, other, x, fields, energy, members, starts, stream):  # type: ignore[no-untyped-def]
    """Turn a parent into a child: about half of the variables in which it differs from the other are swapped.

    Each swap takes the best of three random variables on either side, so a child is neither the greedy one, which all
    parents would share, nor a blind one.
    """
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
            a = _contest(own, d - s, fields, np.float32(-1.0), stream)
            b = _contest(theirs, d - s, fields, np.float32(1.0), stream)
            out, into = own[a], theirs[b]
            own[a], theirs[b] = own[d - s - 1], theirs[d - s - 1]
            energy += _swapped(Q, x, fields, out, into)
    return made, energy


@compiled(nogil=True, fastmath=True, error_model="numpy")
def stray(Q, x, fields, group, members, starts, stream):  # type: ignore[no-untyped-def]
    """Swap a one for a zero of its group, each the best of three random ones, and return the change of energy.

    Variables are drawn until three of the wanted kind are found, or there seem to be none: then nothing is swapped.
    """
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
def prod(Q, weights, x, fields, stream):  # type: ignore[no-untyped-def]
    """Swap a one or a zero that weighs on others for the best of some of the other kind; return the change of energy.

    In a block of heavy tails a few variables are coupled so strongly that they are ones together or not at all. No
    single swap of theirs pays, and a tabu search, which moves what pays best, comes to none of them: the fields of the
    many others are nearer to each other. Once one has been moved, the fields of the rest call for the same.

    Arrays:
        Q, x, fields, stream: as the kernels of :mod:`solvers.local.kernels.tabu` take them; for a single group.
        weights: how strongly each variable is coupled, float32 [n].
    """
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


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _swapped(Q, x, fields, out, into):  # type: ignore[no-untyped-def]
    """Swap a one for a zero and return the change of energy."""
    change = np.float64(fields[into]) - np.float64(fields[out]) - np.float64(Q[out, into])
    x[out], x[into] = 0, 1
    gained, lost = Q[into], Q[out]
    for l in range(x.shape[0]):
        fields[l] += gained[l] - lost[l]
    return change


@compiled(nogil=True, error_model="numpy")
def _contest(variables, count, fields, sign, stream):  # type: ignore[no-untyped-def]
    best = below(stream, count)
    for _ in range(2):
        t = below(stream, count)
        if sign * fields[variables[t]] < sign * fields[variables[best]]:
            best = t
    return best
