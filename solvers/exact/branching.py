"""Branch and bound, depth first over the variables in a fixed order, with a bound from precomputed tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from problems.compiling import compiled

_NOT_EXPANDED = -1
"""Stands in `untried` of the root before it is expanded."""


class Tree(NamedTuple):
    """The state of a search: all that the kernel reads and writes, so that it can stop and continue.

    Variables are in branching order: all of one group, then all of the next. Attributes marked * change. A node at
    depth d has variables 0..d-1 fixed; its two children fix variable d to 0 or 1.

    Attributes:
        doubled: 2 Q, float64 [n, n].
        ends: one past the last variable of each group [g].
        counts: demanded ones of each group [g].
        group: group of each variable [n].
        cheapest: [d, i, m]: the least that couplings to variables d, d+1, ... can add to the cost of i when the
            group of d still needs m ones; half of each coupling is charged to either end [n, n, m].
        fields: * [K + 1, n]: local fields, by the number of ones fixed so far.
        energy: * [n + 1]: energy of the ones fixed above depth d.
        needed: * [n + 1]: ones that the group of d still needs.
        ones: * [n + 1]: ones fixed above depth d.
        bounds: * [n, 2]: lower bound of each child of the node at depth d; infinite where the child is infeasible.
        untried: * [n]: children of the node at depth d not visited yet, 0 to 2.
        x: * [n]: values of the fixed variables.
        best: * [1]: energy of the best leaf or of the state given; only leaves below it are kept.
        best_x: * [n]: the best leaf.
        scratch: * [n].
        place: * [depth, nodes expanded, leaves kept]; depth is -1 when the search is complete.
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


def new_tree(
    matrix: npt.NDArray[np.float64],
    linear: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    best: float,
) -> Tree:
    """Create a tree whose root is expanded.

    Args:
        matrix: Q, symmetric with a zero diagonal, in branching order [n, n].
        linear: energy of each variable alone [n].
        counts: demanded ones of each group, in order; feasible [g].
        sizes: variables of each group; every group has some [g].
        best: energy of the best state known; only lower ones are searched for.
    """
    n = len(linear)
    counts, ends = counts.astype(np.int64), np.cumsum(sizes)
    tree = Tree(
        doubled=np.ascontiguousarray(2.0 * matrix),
        ends=ends,
        counts=counts,
        group=np.repeat(np.arange(len(counts)), sizes),
        cheapest=_cheapest_couplings(matrix, ends, counts),
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
    tree.untried[0] = _NOT_EXPANDED
    branch(tree, 0.0, 0)
    return tree


def lower_bound(tree: Tree) -> float:
    """The lowest energy that any state could have: the best known, or the lowest bound of the nodes still open."""
    bound = float(tree.best[0])
    for d in range(tree.place[0] + 1):
        if tree.untried[d] == 2:
            bound = min(bound, *tree.bounds[d])
        elif tree.untried[d] == 1:
            bound = min(bound, tree.bounds[d, 1 - tree.x[d]])
    return float(bound)


@compiled(nogil=True)
def branch(tree, tolerance, most):  # type: ignore[no-untyped-def]
    """Expand the next nodes, depth first, the child with the lower bound first.

    Args:
        tree: the search; updated.
        tolerance: a node is pruned unless its bound is below the best energy by more than this.
        most: expand this many nodes at most; the root does not count.

    Returns:
        How many nodes were expanded; tree.place[0] is -1 when none is left.
    """
    # Each pass of the loop either backs up one level, prunes a child, reaches a leaf, or expands a child.
    n = len(tree.x)
    d = tree.place[0]
    if d == 0 and tree.untried[0] == _NOT_EXPANDED:
        _expand(tree, d)  # not _expand(tree, 0): numba would compile it once more for the literal
    nodes = 0
    while d >= 0 and nodes < most:
        if tree.untried[d] == 0:
            d -= 1
            continue
        v = 0 if tree.bounds[d, 0] <= tree.bounds[d, 1] else 1
        if tree.untried[d] == 1:
            v = 1 - tree.x[d]  # x[d] still holds the first child's value
        tree.untried[d] -= 1
        tree.x[d] = v
        if not tree.bounds[d, v] < tree.best[0] - tolerance:
            continue
        _fix(tree, d, v)
        if d + 1 == n:
            if tree.energy[n] < tree.best[0] - tolerance:
                tree.best[0] = tree.energy[n]
                for i in range(n):  # slices compile numba's texts of errors too, which takes two seconds
                    tree.best_x[i] = tree.x[i]
                tree.place[2] += 1
            continue
        d += 1
        _expand(tree, d)
        nodes += 1
    tree.place[0] = d
    tree.place[1] += nodes
    return nodes


@compiled(nogil=True)
def _fix(tree, d, v):  # type: ignore[no-untyped-def]
    """Fix variable d to v: ones, energy, fields and demanded ones of depth d + 1."""
    level = tree.ones[d]
    tree.ones[d + 1] = level + v
    tree.energy[d + 1] = tree.energy[d]
    if v == 1:
        tree.energy[d + 1] += tree.fields[level, d]
        for i in range(d + 1, len(tree.x)):
            tree.fields[level + 1, i] = tree.fields[level, i] + tree.doubled[d, i]
    # Fields are stored by the number of ones: a variable fixed to 0 changes none, so nothing is copied.
    g = tree.group[d]
    tree.needed[d + 1] = tree.needed[d] - v
    if d + 1 == tree.ends[g] and d + 1 < len(tree.x):
        tree.needed[d + 1] = tree.counts[g + 1]


@compiled(nogil=True)
def _expand(tree, d):  # type: ignore[no-untyped-def]
    """Compute the bounds of both children of the node at depth d, which are infinite where a child is infeasible."""
    needed, left = tree.needed[d], tree.ends[tree.group[d]] - d
    above = -np.inf
    if d > 0:
        above = tree.bounds[d - 1, tree.x[d - 1]]
    tree.untried[d] = 2
    for v in range(2):  # a loop, so that the bound is compiled into this once
        bound = np.inf
        if needed - v >= 0 and needed - v < left:
            bound = _bound(tree, d, v)
            if bound < above:  # a child's bound is at least its parent's
                bound = above
        tree.bounds[d, v] = bound


@compiled(nogil=True)
def _bound(tree, d, v):  # type: ignore[no-untyped-def]
    """A lower bound on the energy of every state below this node whose variable d is v.

    Setting a free variable i to 1 costs at least r_i: its field from the fixed ones, plus the smallest couplings to
    as many other free variables as are still demanded. The sum of each group's smallest r is the bound.
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
    """The sum of the smallest `count` of values[begin:end], which are reordered (Hoare's quickselect)."""
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


def _cheapest_couplings(
    matrix: npt.NDArray[np.float64], ends: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Tree.cheapest [n, n, most ones of a group + 2], for d <= i; the rest is not read."""
    n = len(matrix)
    table = np.zeros((n, n, int(counts.max()) + 2))
    later = np.zeros(n)  # least that couplings to the groups after the present one add [n]
    for end, begin, count in zip(ends[::-1], [*ends[-2::-1], 0], counts[::-1], strict=True):
        order = begin + np.argsort(matrix[:, begin:end], axis=1, kind="stable")
        others = order != np.arange(n)[:, None]
        for d in range(begin, end):
            # Variables i of the group itself count among its ones; those of later groups do not.
            for rows, own in ((np.arange(d, end), 1), (np.arange(end, n), 0)):
                taken = max(0, min(count - own, end - d - own))
                chosen = order[rows][(order[rows] >= d) & others[rows]].reshape(len(rows), end - d - own)[:, :taken]
                table[d, rows, own] = later[rows]
                sums = np.cumsum(matrix[rows[:, None], chosen], axis=1)
                table[d, rows, own + 1 : own + 1 + taken] = later[rows, None] + sums
        for i in range(n):
            wanted = count - (begin <= i < end)
            chosen = order[i][others[i]][: max(0, wanted)]
            later[i] = np.cumsum([later[i], *matrix[i, chosen]])[-1]  # in this order, as floats do not associate
    return table
