"""Depth-first branch and bound over the variables in a fixed order, with a bound read from tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from problems.compiling import compiled


class Tree(NamedTuple):
    """A search in progress: everything that the kernel reads and writes, so that it can stop and go on.

    Variables are in branching order: all of a group, then all of the next. Attributes marked * change.

    Attributes:
        doubled: 2 Q, float64 [n, n].
        ends: one past the last variable of each group [g].
        counts: demanded ones of each group [g].
        group: group of each variable [n].
        cheapest: [d, i, m]: the least that couplings to variables from d on can add to i (each coupling is
            shared by its two ends), when the group of d still needs m ones.
        fields: * [K + 1, n]: local fields, by the number of ones fixed so far.
        energy: * [n + 1]: energy of the ones fixed above depth d.
        needed: * [n + 1]: ones that the group of d still needs.
        ones: * [n + 1]: ones fixed above depth d.
        bounds: * [n, 2]: bound of either child of the node at depth d; infinite where it cannot be.
        untried: * [n]: children of the node at depth d that are still to be tried.
        x: * [n]: the decisions.
        best: * [1]: energy below which a leaf is wanted.
        best_x: * [n]: the best leaf.
        scratch: * [n].
        place: * [depth, nodes, leaves taken]; a depth of -1 says that the tree is done.
    """

    doubled: Any
    ends: Any
    counts: Any
    group: Any
    cheapest: Any
    fields: Any
    energy: Any
    needed: Any
    ones: Any
    bounds: Any
    untried: Any
    x: Any
    best: Any
    best_x: Any
    scratch: Any
    place: Any


def plant(
    matrix: npt.NDArray[np.float64],
    linear: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    best: float,
) -> Tree:
    """A tree with its root expanded.

    Args:
        matrix: Q, symmetric with a zero diagonal, in branching order [n, n].
        linear: energy of each variable alone [n].
        counts: demanded ones of each group, in order; feasible [g].
        sizes: variables of each group; every group has some [g].
        best: energy of the best state known; only lower ones are looked for.
    """
    n = len(linear)
    group = np.repeat(np.arange(len(counts)), sizes)
    tree = Tree(
        doubled=np.ascontiguousarray(2.0 * matrix),
        ends=np.cumsum(sizes),
        counts=counts.astype(np.int64),
        group=group,
        cheapest=_tables(matrix, np.cumsum(sizes), counts.astype(np.int64), group),
        fields=np.empty((int(counts.sum()) + 1, n)),
        energy=np.zeros(n + 1),
        needed=np.zeros(n + 1, np.int64),
        ones=np.zeros(n + 1, np.int64),
        bounds=np.full((n, 2), np.inf),
        untried=np.zeros(n, np.int64),
        x=np.zeros(n, np.int8),
        best=np.array([best]),
        best_x=np.zeros(n, np.int8),
        scratch=np.empty(n),
        place=np.zeros(3, np.int64),
    )
    tree.fields[0] = linear
    tree.needed[0] = counts[0]
    _expand(tree, 0)
    return tree


@compiled(nogil=True)
def lower_bound(tree):  # type: ignore[no-untyped-def]
    """The least energy that any leaf could have: the best known, or the least bound among the open nodes."""
    bound = tree.best[0]
    for d in range(tree.place[0] + 1):
        if tree.untried[d] == 2:
            bound = min(bound, tree.bounds[d, 0], tree.bounds[d, 1])
        elif tree.untried[d] == 1:
            bound = min(bound, tree.bounds[d, 1 - tree.x[d]])
    return bound


@compiled(nogil=True)
def branch(tree, tolerance, most):  # type: ignore[no-untyped-def]
    """Expand the next nodes, depth first, the child of the lower bound first.

    Args:
        tree: the search; moved on.
        tolerance: a node is left out unless its bound is lower than the best energy by more than this.
        most: expand this many nodes at most.

    Returns:
        How many nodes were expanded; tree.place[0] is -1 when none is left.
    """
    n = len(tree.x)
    d = tree.place[0]
    nodes = 0
    while d >= 0 and nodes < most:
        if tree.untried[d] == 0:
            d -= 1
            continue
        v = 0 if tree.bounds[d, 0] <= tree.bounds[d, 1] else 1
        if tree.untried[d] == 1:
            v = 1 - tree.x[d]
        tree.untried[d] -= 1
        tree.x[d] = v
        if not tree.bounds[d, v] < tree.best[0] - tolerance:
            continue
        _descend(tree, d, v)
        if d + 1 == n:
            if tree.energy[n] < tree.best[0] - tolerance:
                tree.best[0] = tree.energy[n]
                tree.best_x[:] = tree.x
                tree.place[2] += 1
            continue
        d += 1
        _expand(tree, d)
        nodes += 1
    tree.place[0] = d
    tree.place[1] += nodes
    return nodes


@compiled(nogil=True)
def _descend(tree, d, v):  # type: ignore[no-untyped-def]
    """Write what holds below depth d when its variable is v."""
    level = tree.ones[d]
    tree.ones[d + 1] = level + v
    tree.energy[d + 1] = tree.energy[d]
    if v == 1:
        tree.energy[d + 1] += tree.fields[level, d]
        for i in range(d + 1, len(tree.x)):
            tree.fields[level + 1, i] = tree.fields[level, i] + tree.doubled[d, i]
    g = tree.group[d]
    tree.needed[d + 1] = tree.needed[d] - v
    if d + 1 == tree.ends[g] and d + 1 < len(tree.x):
        tree.needed[d + 1] = tree.counts[g + 1]


@compiled(nogil=True)
def _expand(tree, d):  # type: ignore[no-untyped-def]
    """Bound both children of the node at depth d."""
    needed, left = tree.needed[d], tree.ends[tree.group[d]] - d
    above = -np.inf
    if d > 0:
        above = tree.bounds[d - 1, tree.x[d - 1]]
    tree.untried[d] = 2
    tree.bounds[d, 0] = np.inf if needed == left else max(above, _bound(tree, d, 0))
    tree.bounds[d, 1] = np.inf if needed == 0 else max(above, _bound(tree, d, 1))


@compiled(nogil=True)
def _bound(tree, d, v):  # type: ignore[no-untyped-def]
    """A lower bound on the energy of every state below depth d whose variable d is v.

    Each free variable i costs at least r_i = its field by the ones fixed, plus the couplings to those free
    variables that add least; the cheapest choice of r in each group bounds the whole.
    """
    n = len(tree.x)
    level, g = tree.ones[d], tree.group[d]
    fields, costs = tree.fields[level], tree.scratch
    total = tree.energy[d]
    if v == 1:
        total += fields[d]
    begin = d + 1
    if begin == n:
        return total
    needed = tree.needed[d] - v
    if begin == tree.ends[g]:
        g += 1
        needed = tree.counts[g]
    cheapest = tree.cheapest[begin]
    for i in range(begin, n):
        costs[i] = fields[i] + cheapest[i, needed]
    if v == 1:
        couplings = tree.doubled[d]
        for i in range(begin, n):
            costs[i] += couplings[i]
    for h in range(g, len(tree.ends)):
        end = tree.ends[h]
        total += _sum_of_smallest(costs, begin, end, needed)
        begin = end
        if h + 1 < len(tree.ends):
            needed = tree.counts[h + 1]
    return total


@compiled(nogil=True)
def _sum_of_smallest(values, begin, end, count):  # type: ignore[no-untyped-def]
    """The sum of the smallest `count` of values[begin:end], which are reordered (Hoare's selection)."""
    if count == 0:
        return 0.0
    low, high, kth = begin, end - 1, begin + count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if kth <= j:
            high = j
        elif kth >= i:
            low = i
        else:
            break
    total = 0.0
    for i in range(begin, begin + count):
        total += values[i]
    return total


@compiled(nogil=True)
def _tables(matrix, ends, counts, group):  # type: ignore[no-untyped-def]
    """Tree.cheapest [n, n, most ones of a group + 1], for d <= i."""
    n = len(group)
    table = np.zeros((n, n, counts.max() + 2))
    for i in range(n):
        later = 0.0  # what the couplings to the groups behind the present one add at least
        for g in range(len(ends) - 1, -1, -1):
            begin = ends[g - 1] if g > 0 else 0
            own = 1 if group[i] == g else 0
            order = begin + np.argsort(matrix[i, begin : ends[g]])
            for d in range(begin, min(i + 1, ends[g])):
                total, taken = 0.0, 0
                table[d, i, own] = later
                for j in order:
                    if taken + own >= counts[g]:
                        break
                    if j < d or j == i:
                        continue
                    total += matrix[i, j]
                    taken += 1
                    table[d, i, taken + own] = later + total
            wanted = counts[g] - own
            for j in order:
                if j != i and wanted > 0:
                    later += matrix[i, j]
                    wanted -= 1
    return table
