"""Every feasible state of a small block in revolving-door order: each next state is one swap from the last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from problems.compiling import compiled

RENEW = 1 << 16
"""States after which fields and energy are computed afresh, so that rounding cannot add up."""

MOST_VARIABLES = 62
"""States are kept as bits of an int64 whose sign bit stays clear."""


def start(k: int, n: int) -> npt.NDArray[np.int64]:
    """The place before the first state: [visited, finished, c_1 .. c_k, n], c ascending (TAOCP's c_1 .. c_t)."""
    return np.array([0, 0, *range(k), n], np.int64)


@compiled(nogil=True)
def enumerate_states(  # type: ignore[no-untyped-def]
    doubled, linear, k, place, fields, current, masks, energies, most
):
    """Visit the next states and keep the best.

    Algorithm R of Knuth, The Art of Computer Programming 7.2.1.3 (Nijenhuis and Wilf's revolving-door order).

    Args:
        doubled: 2 Q, zero diagonal, float64 [n, n].
        linear: energy of each variable alone [n].
        k: number of ones, 0..n.
        place: where the enumeration stands, from :func:`start`; moved on.
        fields: local fields h_i = linear_i + 2 sum_j Q_ij x_j of the state [n]; kept between calls.
        current: energy of the state [1], offset left out; kept between calls.
        masks: the best states seen, bit i = x_i, int64 [b].
        energies: their energies, ascending [b]; infinite where there are fewer.
        most: visit this many states at most.

    Returns:
        How many states were visited; place[1] is 1 when there are no more.
    """
    n = len(linear)
    c = place[2:]
    worst = len(energies) - 1
    mask = np.int64(0)
    for t in range(k):
        mask |= np.int64(1) << c[t]
    visited = place[0]
    last = visited + most
    while visited < last:
        if visited % RENEW == 0:
            _renew(doubled, linear, k, c, fields, current)
        energy = current[0]
        if energy < energies[worst]:
            _keep(mask, energy, masks, energies)
        visited += 1
        out, into = _next_swap(c, k)
        if out < 0:
            place[1] = 1
            break
        current[0] = energy + fields[into] - fields[out] - doubled[out, into]
        gained, lost = doubled[into], doubled[out]
        for i in range(n):
            fields[i] += gained[i] - lost[i]
        mask ^= (np.int64(1) << out) | (np.int64(1) << into)
    done = visited - place[0]
    place[0] = visited
    return done


@compiled(nogil=True, inline="always")
def _next_swap(c, k):  # type: ignore[no-untyped-def]
    """Move to the next combination: the element that leaves and the one that comes; (-1, -1) after the last."""
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
    j = 2  # counted from 1, as in the source; c_j is c[j - 1]
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
def _renew(doubled, linear, k, c, fields, current):  # type: ignore[no-untyped-def]
    n = len(linear)
    for i in range(n):
        fields[i] = linear[i]
    energy = 0.0
    for t in range(k):
        # fields holds the variables before t only: each pair is counted once.
        energy += fields[c[t]]
        for i in range(n):
            fields[i] += doubled[c[t], i]
    current[0] = energy


@compiled(nogil=True)
def _keep(mask, energy, masks, energies):  # type: ignore[no-untyped-def]
    at = len(energies) - 1
    while at > 0 and energies[at - 1] > energy:
        energies[at] = energies[at - 1]
        masks[at] = masks[at - 1]
        at -= 1
    energies[at] = energy
    masks[at] = mask
