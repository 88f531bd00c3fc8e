"""Enumeration of every feasible state in revolving-door order: each state is one swap from the one before."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from problems.compiling import compiled

RENEW = 1 << 16
"""States after which fields and energy are recomputed, so that rounding errors cannot accumulate."""

MOST_VARIABLES = 62
"""States are stored as bits of an int64, without its sign bit."""


class Enumeration(NamedTuple):
    """The state of an enumeration: all that the kernel reads and writes. Attributes marked * change.

    Attributes:
        doubled: 2 Q, zero diagonal, float64 [n, n].
        linear: energy of each variable alone [n].
        place: * [visited, finished, c_1 .. c_k, n]: states visited, 1 when there are no more, and the indices of the
            ones, ascending, followed by n as Knuth's algorithm requires [k + 3].
        fields: * local fields h_i = linear_i + 2 sum_j Q_ij x_j of the present state [n].
        current: * energy of the present state, without offset [1].
        masks: * the best states seen, bit i = x_i, int64 [b].
        energies: * their energies, ascending [b]; infinite where fewer were seen.
    """

    doubled: Any
    linear: Any
    place: Any
    fields: Any
    current: Any
    masks: Any
    energies: Any


def new_enumeration(matrix: npt.NDArray[np.float64], linear: npt.NDArray[np.float64], k: int, kept: int) -> Enumeration:
    """Create an enumeration that has visited no state yet.

    Args:
        matrix: Q, symmetric with a zero diagonal [n, n].
        linear: energy of each variable alone [n].
        k: number of ones, 0..n.
        kept: how many of the best states to keep.
    """
    n = len(linear)
    return Enumeration(
        doubled=2.0 * matrix,
        linear=linear,
        place=np.array([0, 0, *range(k), n], np.int64),
        fields=np.empty(n),
        current=np.empty(1),
        masks=np.zeros(kept, np.int64),
        energies=np.full(kept, np.inf),
    )


@compiled(nogil=True)
def enumerate_states(e, most):  # type: ignore[no-untyped-def]
    """Visit the next states and keep the best.

    Algorithm R of Knuth, The Art of Computer Programming 7.2.1.3 (Nijenhuis and Wilf's revolving-door order).

    Args:
        e: the enumeration; updated.
        most: visit this many states at most.

    Returns:
        How many states were visited; e.place[1] is 1 when there are no more.
    """
    place, energies, fields, current = e.place, e.energies, e.fields, e.current
    n = len(fields)
    k = len(place) - 3
    c = place[2:]
    worst = len(energies) - 1
    mask = np.int64(0)
    for t in range(k):
        mask |= np.int64(1) << c[t]
    visited = place[0]
    last = visited + most
    while visited < last:
        if visited % RENEW == 0:
            _renew(e, k)
        energy = current[0]
        if energy < energies[worst]:
            _keep(e, mask, energy)
        visited += 1
        out, into = _next_swap(c, k)
        if out < 0:
            place[1] = 1
            break
        # Exact for a swap: both flips, less the coupling of the pair that the two fields count.
        current[0] = energy + fields[into] - fields[out] - e.doubled[out, into]
        gained, lost = e.doubled[into], e.doubled[out]
        for i in range(n):
            fields[i] += gained[i] - lost[i]
        mask ^= (np.int64(1) << out) | (np.int64(1) << into)
    done = visited - place[0]
    place[0] = visited
    return done


@compiled(nogil=True, inline="always")
def _next_swap(c, k):  # type: ignore[no-untyped-def]
    """Move to the next combination: the element that leaves and the one that enters; (-1, -1) after the last.

    Knuth's step R3 handles c_1; his R4 (lower c_j) and R5 (raise c_j) take turns from j = 2 on until one applies.
    """
    if k == 0:
        return -1, -1
    if k % 2 == 1:
        if c[0] + 1 < c[1]:
            c[0] += 1
            return c[0] - 1, c[0]
        raising = False
    else:
        if c[0] > 0:
            c[0] -= 1
            return c[0] + 1, c[0]
        raising = True
    j = 2  # counted from 1, as in Knuth; c_j is c[j - 1]
    while j <= k:
        if raising:
            if c[j - 1] + 1 < c[j]:
                c[j - 2] = c[j - 1]
                c[j - 1] += 1
                return j - 2, c[j - 1]
        elif c[j - 1] >= j:
            left = c[j - 1]
            c[j - 1] = c[j - 2]
            c[j - 2] = j - 2
            return left, j - 2
        raising = not raising
        j += 1
    return -1, -1


@compiled(nogil=True)
def _renew(e, k):  # type: ignore[no-untyped-def]
    """Recompute the fields and the energy of the present state."""
    n = len(e.fields)
    for i in range(n):
        e.fields[i] = e.linear[i]
    energy = 0.0
    for t in range(k):
        # fields holds the variables before t only: each pair is counted once.
        one = e.place[2 + t]
        energy += e.fields[one]
        for i in range(n):
            e.fields[i] += e.doubled[one, i]
    e.current[0] = energy


@compiled(nogil=True)
def _keep(e, mask, energy):  # type: ignore[no-untyped-def]
    """Insert a state into the sorted list of the best, in place of the worst."""
    at = len(e.energies) - 1
    while at > 0 and e.energies[at - 1] > energy:
        e.energies[at] = e.energies[at - 1]
        e.masks[at] = e.masks[at - 1]
        at -= 1
    e.energies[at] = energy
    e.masks[at] = mask
