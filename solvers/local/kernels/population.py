"""Populations of states whose children keep what two parents share, each improved by a short tabu search.

Memetic search for the maximum diversity problem (Wu and Hao, "A hybrid metaheuristic method for the maximum diversity
problem", European Journal of Operational Research 231, 2013). What differs here: a child starts from the fields of one
parent and changes them by the variables in which the two differ, so it costs as much as that many tabu steps; each
member's fields are counted in float64 when it enters, so float32 rounding never grows older than one search; a child
of parents that are nearly the same goes astray by a few more swaps, or its search would only find them again (half of
them by any, half by variables of large couplings, see :func:`solvers.local.kernels.offspring.prod`); the best state of a
search comes down to one that no swap of any pair improves, and is searched from again if that helped;
and populations are small, which is quick on easy problems, but stand on levels: a population that has no more to give
sends its best member up, and as many of those as a population holds become one, with parents that are good and far
apart, which is what hard problems need. Tabu steps, the best ones first, may lead from everywhere to the same traps:
once a population has had its turn, half of the starts that are not annealed come down by any improving swap before
they are searched.

One of the first members comes down from the greedy state, whose ones add least on average. Where couplings are strong
that is worse than a random state, often many times as bad, as all that it counts on comes at once; but the first tabu
steps undo the worst of it, and on most real blocks they then end lower than those from random states do.

Where couplings are strong, annealing makes better states than tabu steps do. Random states come down by turns with and
without one; if it pays, all others are annealed, and a child is what annealing makes of the variables in which a few
members differ. Good states of such a problem share nine tenths of their variables: the annealing of the rest costs a
fraction of what a new state does, may begin hot, and does not lose what the parents agree on. Where they dispute
little, and a child has failed to enter, some of what they agree on is annealed with it, or they would never leave it.
So populations are larger then, but begin to breed when they are small, and grow by their children. The first one does
so before it is known whether annealing pays, with the greedy state and a random one of either kind: then half of the
children are annealed, or all of them where it seems to pay. Where the first two states come down to nearly the same,
couplings seem weak, and to anneal a third one would take longer than all else: then these two breed, and nothing is
annealed before their population has had its turn.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled
from solvers.local.kernels.annealing import anneal_disputed, anneal_matrix, wake_temperatures
from solvers.local.kernels.offspring import cross, prod, random_state, stray
from solvers.local.kernels.pairs import QUARTERS, QUIET, ROW, SLOT, descend_pairs, take_back
from solvers.local.kernels.random import below, unit
from solvers.local.kernels.states import arrange, copy, matrix_fields
from solvers.local.kernels.tabu import (
    CHILD,
    GAIN,
    NEVER,
    PRESENT,
    begin_search,
    search_is_over,
    tabu_groups,
    tabu_matrix,
)

# Places in `progress`, int64 [COUNTS + LEVELS]: what is done to a child, the level whose population breeds, children
# searched in all, children in a row that did not enter, children of this population, initial states used, the kind of
# the present child, whether couplings seem weak, and from COUNTS on the members there are on each level.
STATE, LEVEL, CHILDREN, STALE, BRED, STARTED, KIND, WEAK, COUNTS = range(9)
BETWEEN, SEARCHING, DESCENDING, ANNEALING = range(4)
GIVEN, RANDOM, COOLED, DESCENDED, CROSSED, ANNEALED = range(6)  # kinds of children: four of starts, two of members
LEVELS = 8  # of which the eighth holds the best of thousands of populations
SETTLED = 3  # place in `account`, after those of a search: energy below which a child's best is worth a descent

SWEEPS, START_SWEEPS = 96, 80  # of the annealing of a child, and of a random state
CROWD = 2  # times the members, where annealing is better
_OTHERS = 4  # members, drawn at random, of whom a child's parent may differ in what is annealed
_LEAST_ANNEALED = 200  # variables, once a child has failed; chosen on real blocks of 1,024 and 2,048
_PROPOSALS = 16  # cost as much as a step, about
_SAMPLED = 1024  # swaps of the first member, by which temperatures are measured
_HOT, _START_HOT, _COLD = 2.0, 1.0, 0.016  # times the median of their sizes: where a child and a start begin and end
_PAYS = 1.5  # times the median of their sizes: what annealing gains where it pays
_TRIALS = 2  # random states that come down either way, before one way is taken to be the better one
_FIRST = 3  # states from which a population of the lowest level begins to breed
_WEAK_PATIENCE = 2  # times that of other populations: a child is cheap there beside the start that follows
_FEW = 16  # one in so many of the swaps by which two states could differ
_PRODS = 4  # variables of large couplings that are moved in a child of parents that are nearly the same
_STILL = 0.1  # share of children that are made the other way


@compiled(nogil=True, error_model="numpy")
def evolve_matrix(  # type: ignore[no-untyped-def]
    Q, single, group, members, starts, counts, initial, greedy, members_x, members_fields, members_energy, x, fields,
    wide, order, place, leave_at, enter_at, child_x, best_x, best, reach, near, strong, looks, temperatures, awake,
    trials, tenures, plan, target, progress, scan, clock, account, stream, steps,
):  # fmt: skip
    """Go on with the search for about so many tabu steps.

    Arrays:
        Q, single: couplings float32 [n, n] and s float64 [n].
        group, members, starts, counts: groups as in :class:`solvers.local.arrays.Groups`.
        initial: states that the first members come from, uint8 [b, n]; further members start at random.
        greedy: a state that one of these starts from instead, uint8 [n].
        members_x, members_fields, members_energy: the populations: uint8 [LEVELS, p, n], float64 [LEVELS, p, n] and
            float64 [LEVELS, p], with room for p = CROWD times the members.
        x, fields, order, place, leave_at, enter_at, child_x, tenures, clock, stream: as the kernels of
            :mod:`solvers.local.kernels.tabu` take them; `account` too, with one more place, see SETTLED, float64 [4].
        wide: room for fields in float64 [n].
        best_x, best: the best state of all, uint8 [n], and its energy, float64 [1].
        reach, near, strong, looks, scan: as :func:`solvers.local.kernels.pairs.descend_pairs` takes them; `scan` with two
            more places, for :func:`solvers.local.kernels.annealing.anneal_matrix`, int64 [4].
        temperatures: of the annealing of a child and then of a random state, float32 [SWEEPS + START_SWEEPS]; zeros
            until measured.
        awake: as :func:`solvers.local.kernels.annealing.anneal_matrix` takes it, float32 [n]; filled in with them.
        trials: how many random states were searched at once and how many annealed before, and the sum of the energies
            that each came to, float64 [2, 2].
        plan: [steps without a better state that end a child, children in all, children in a row that do not enter and
            so end a population, swaps by which a child differs from its parent at least, children that end a
            population, members], int64 [6]. Where annealing is better, the third and the last two count CROWD times.
        target: energy (in half units) at which to return.
        progress: see above; kept up.
        steps: tabu steps to take at most; making a child counts as the steps it costs.

    Returns:
        How many were taken; 0 when all children are searched. Where a child comes down to the target its search is left
        unfinished, as `best` is counted in float64 and the child's energy is not.
    """
    done = 0
    while done < steps and best[0] > target:
        if progress[STATE] == BETWEEN:
            if progress[CHILDREN] >= plan[1]:
                break
            cost, energy = _begin(
                Q, single, group, members, starts, counts, initial, greedy, members_x, members_fields, members_energy,
                x, fields, wide, temperatures, awake, trials, plan, progress, stream,
            )  # fmt: skip
            done += cost
            begin_search(fields, energy, clock, account)
            for i in range(x.shape[0]):
                leave_at[i] = 0 if x[i] else NEVER
                enter_at[i] = NEVER if x[i] else 0
            if counts.shape[0] > 1:
                arrange(x, members, starts, counts, order, place)
            copy(x, child_x)
            account[SETTLED] = np.inf
            progress[STATE] = SEARCHING
            if progress[KIND] == DESCENDED or progress[KIND] == ANNEALED:
                scan[SLOT], scan[QUIET] = below(stream, x.shape[0]), 0
                progress[STATE] = DESCENDING
            elif progress[KIND] == COOLED:
                arrange(x, members, starts, counts, order, place)
                scan[2] = scan[3] = 0
                progress[STATE] = ANNEALING
        most = max(steps - done, 1)
        if progress[STATE] == ANNEALING:
            done += 1 + anneal_matrix(
                Q, reach[ROW], awake, fields, x, order, place, group, starts, counts, temperatures[SWEEPS:], target,
                scan[2:], account, stream, _PROPOSALS * most,
            ) // _PROPOSALS  # fmt: skip
            if scan[2] < START_SWEEPS and account[PRESENT] > target:
                continue
            if account[PRESENT] < account[CHILD]:
                account[CHILD] = account[PRESENT]
                copy(x, child_x)
            if scan[2] == START_SWEEPS:
                for i in range(x.shape[0]):
                    leave_at[i] = 0 if x[i] else NEVER
                    enter_at[i] = NEVER if x[i] else 0
                scan[SLOT], scan[QUIET] = below(stream, x.shape[0]), 0
                progress[STATE] = DESCENDING
        elif progress[STATE] == DESCENDING:
            done += 1 + descend_pairs(
                Q, reach, near, strong, looks, fields, x, leave_at, enter_at, scan, np.int32(clock[0]), target, account,
                QUARTERS * most,
            ) // QUARTERS  # fmt: skip
            if scan[QUIET] < x.shape[0] and account[PRESENT] > target:
                continue
            if account[PRESENT] < account[CHILD]:
                account[CHILD] = account[PRESENT]
                copy(x, child_x)
                clock[1] = clock[0]
            if scan[QUIET] >= x.shape[0]:
                progress[STATE] = SEARCHING
                account[SETTLED] = account[PRESENT]
        elif counts.shape[0] == 1:
            taken = tabu_matrix(
                Q, fields, x, leave_at, enter_at, child_x, tenures, plan[0], target, clock, account, stream, most
            )  # fmt: skip
            done += taken
        else:
            taken = tabu_groups(
                Q, fields, x, order, place, group, starts, counts, leave_at, enter_at, child_x, tenures, plan[0],
                target, clock, account, stream, most,
            )  # fmt: skip
            done += taken
        if not search_is_over(plan[0], x.shape[0], target, clock, account):
            continue
        if account[CHILD] <= target:
            break  # whoever looks more closely may find that it is not there yet: then this child's search goes on
        if counts.shape[0] == 1 and account[CHILD] < account[SETTLED]:
            # A small group's pairs have all been looked at by its tabu search; those of many large ones are left out.
            done += take_back(Q, x, fields, leave_at, enter_at, child_x, np.int32(clock[0]))
            account[PRESENT] = account[CHILD]
            scan[SLOT], scan[QUIET] = below(stream, x.shape[0]), 0
            progress[STATE] = DESCENDING
        else:
            if progress[KIND] == RANDOM or progress[KIND] == COOLED:
                trials[progress[KIND] - RANDOM, 0] += 1.0
                trials[progress[KIND] - RANDOM, 1] += account[CHILD]
            size = plan[5] * (CROWD if _annealing_pays(trials, temperatures) else 1)
            measured = _end(
                Q, single, members_x, members_fields, members_energy, child_x, wide, best_x, best, size, progress,
                account,
            )  # fmt: skip
            if measured and temperatures[0] == 0.0 and counts.shape[0] == 1 and 0 < counts[0] < x.shape[0]:
                arrange(child_x, members, starts, counts, order, place)
                _measure(Q, wide, order, counts[0], temperatures, awake, stream)
            progress[STATE] = BETWEEN
    return done


@compiled(nogil=True, error_model="numpy")
def _begin(  # type: ignore[no-untyped-def]
    Q, single, group, members, starts, counts, initial, greedy, members_x, members_fields, members_energy, x, fields,
    wide, temperatures, awake, trials, plan, progress, stream,
):  # fmt: skip
    """Fill x and its fields with a new start or a child of two members; return its cost in steps and its energy."""
    crowd = CROWD if _annealing_pays(trials, temperatures) else 1
    level, size = progress[LEVEL], crowd * plan[5]
    if level == 0 and progress[COUNTS] == 2 and progress[BRED] == 0:
        progress[WEAK] = trials[1, 0] == 0.0 and _are_near(members_x[0, 0], members_x[0, 1], starts, counts, plan[3])
    enough = _enough(level, size, plan, progress)
    patience = crowd * plan[2] * (_WEAK_PATIENCE if progress[WEAK] else 1)
    if progress[COUNTS + level] >= enough and (progress[STALE] >= patience or progress[BRED] >= crowd * plan[4]):
        level = _rise(members_x, members_fields, members_energy, size, progress)
        enough = _enough(level, size, plan, progress)
    count = progress[COUNTS + level]
    annealed = temperatures[0] > 0.0 and _to_be_annealed(trials, temperatures, stream)
    if count >= enough:
        if _is_undecided(trials) and temperatures[0] > 0.0:
            annealed = not progress[WEAK] and (_annealing_gains(trials, temperatures) or below(stream, 2) == 0)
        progress[BRED] += 1
        progress[KIND] = CROSSED
        first = below(stream, count)
        second = below(stream, count - 1)
        if second >= first:
            second += 1
        energy = members_energy[level, first]
        cost = 1
        if annealed:
            copy(members_x[level, first], x)
            copy(members_fields[level, first], fields)
            chosen = np.empty(_OTHERS, np.int64)
            chosen[0] = second
            for c in range(1, _OTHERS):
                chosen[c] = below(stream, count)
            swaps, change, proposals = anneal_disputed(
                Q, awake, x, members_x[level], chosen, _LEAST_ANNEALED if progress[STALE] > 0 else 0, fields,
                temperatures[:SWEEPS], stream,
            )  # fmt: skip
            cost += swaps + proposals // _PROPOSALS
            if swaps > 0 and not _is_member(members_x[level], count, x):
                progress[KIND] = ANNEALED
                return cost, energy + change
        copy(members_x[level, first], x)
        copy(members_fields[level, first], fields)
        swaps, energy = cross(Q, members_x[level, second], x, fields, energy, members, starts, stream)
        if swaps < plan[3] and temperatures[0] > 0.0 and below(stream, 2) == 0:
            for _ in range(_PRODS):
                energy += prod(Q, awake, x, fields, stream)
            return cost + swaps + _PRODS, energy
        while swaps < plan[3]:
            energy += stray(Q, x, fields, group, members, starts, stream)
            swaps += 1
        return cost + swaps, energy
    progress[KIND] = COOLED if annealed else RANDOM
    if not annealed and counts.shape[0] == 1 and progress[COUNTS + 1] > 0 and below(stream, 2) == 0:
        progress[KIND] = DESCENDED
    if progress[STARTED] < initial.shape[0]:
        progress[KIND] = GIVEN
        copy(initial[progress[STARTED]], x)
        progress[STARTED] += 1
    elif progress[CHILDREN] == progress[STARTED] + plan[6]:
        progress[KIND] = GIVEN
        copy(greedy, x)
    else:
        random_state(x, members, starts, counts, stream)
    energy = matrix_fields(Q, single, x, wide)
    for l in range(x.shape[0]):
        fields[l] = wide[l]
    return 1 + np.sum(counts) // 4, energy  # a row of the matrix costs about a quarter of a step


@compiled(nogil=True, error_model="numpy")
def _enough(level, size, plan, progress):  # type: ignore[no-untyped-def]
    """How many members a population breeds from: two are enough where couplings seem weak."""
    if level:
        return size
    return np.int64(2) if progress[WEAK] else min(plan[5], _FIRST)


@compiled(nogil=True, error_model="numpy")
def _are_near(first, second, starts, counts, swaps):  # type: ignore[no-untyped-def]
    """Whether two states differ by fewer swaps than that, and by few of those that they could differ by."""
    differing = possible = 0
    for l in range(first.shape[0]):
        differing += first[l] != second[l]
    for g in range(counts.shape[0]):
        possible += min(counts[g], starts[g + 1] - starts[g] - counts[g])
    return differing < 2 * swaps and _FEW * differing < 2 * possible


@compiled(nogil=True, error_model="numpy")
def _to_be_annealed(trials, temperatures, stream):  # type: ignore[no-untyped-def]
    """Whether the next child is annealed before it is searched: first by turns, then mostly as random states fared."""
    if _is_undecided(trials):
        return trials[1, 0] < trials[0, 0]
    return _annealing_pays(trials, temperatures) != (unit(stream) <= _STILL)


@compiled(nogil=True, error_model="numpy")
def _is_undecided(trials):  # type: ignore[no-untyped-def]
    """Whether too few random states came down either way to tell which one is better."""
    return min(trials[0, 0], trials[1, 0]) < _TRIALS


@compiled(nogil=True, error_model="numpy")
def _annealing_pays(trials, temperatures):  # type: ignore[no-untyped-def]
    """Whether it is known that random states come down further if they are annealed before they are searched."""
    return not _is_undecided(trials) and _annealing_gains(trials, temperatures)


@compiled(nogil=True, error_model="numpy")
def _annealing_gains(trials, temperatures):  # type: ignore[no-untyped-def]
    """Whether random states have come down further, on average, where they were annealed.

    By more than a single swap changes: where couplings are alike, as in the maximum diversity problem, annealing gains
    less than that, and children made by it are good and all the same.
    """
    (plain, sum_plain), (annealed, sum_annealed) = trials[0], trials[1]
    gain = _PAYS * temperatures[0] / _HOT
    return min(plain, annealed) > 0.0 and sum_annealed / annealed < sum_plain / plain - gain


@compiled(nogil=True, error_model="numpy")
def _measure(Q, fields, order, ones, temperatures, awake, stream):  # type: ignore[no-untyped-def]
    """Fill in temperatures that fall geometrically, by the changes of energy of random swaps of a good state.

    Those from which variables are awake are filled in too.
    """
    n = order.shape[0]
    sizes = np.empty(_SAMPLED, np.float32)
    found = 0
    for _ in range(_SAMPLED):
        out, into = order[below(stream, ones)], order[ones + below(stream, n - ones)]
        change = np.float32(fields[into] - fields[out] - np.float64(Q[out, into]))
        if change != 0.0:
            sizes[found] = abs(change)
            found += 1
    if found == 0:
        return  # no swap changes anything, and nothing is annealed
    middle = np.sort(sizes[:found])[found // 2]
    wake_temperatures(Q, np.float32(middle * _START_HOT), stream, awake)
    for t in range(SWEEPS):
        temperatures[t] = middle * _HOT * (_COLD / _HOT) ** (t / (SWEEPS - 1))
    for t in range(START_SWEEPS):
        temperatures[SWEEPS + t] = middle * _START_HOT * (_COLD / _START_HOT) ** (t / (START_SWEEPS - 1))


@compiled(nogil=True, error_model="numpy")
def _rise(members_x, members_fields, members_energy, size, progress):  # type: ignore[no-untyped-def]
    """Send the best of the population up unless it is there already; return the level that breeds from now on.

    A full population there breeds next; else a new one begins on the lowest level. The best of the highest level stays
    there, as its first member.
    """
    level = progress[LEVEL]
    best = np.argmin(members_energy[level, : progress[COUNTS + level]])
    progress[COUNTS + level] = 0
    progress[STALE] = progress[BRED] = progress[WEAK] = 0
    above = min(level + 1, LEVELS - 1)
    place = progress[COUNTS + above]
    if not _is_member(members_x[above], place, members_x[level, best]):
        copy(members_x[level, best], members_x[above, place])
        copy(members_fields[level, best], members_fields[above, place])
        members_energy[above, place] = members_energy[level, best]
        progress[COUNTS + above] += 1
    progress[LEVEL] = above if progress[COUNTS + above] >= size else 0
    return progress[LEVEL]


@compiled(nogil=True, error_model="numpy")
def _end(  # type: ignore[no-untyped-def]
    Q, single, members_x, members_fields, members_energy, child_x, wide, best_x, best, size, progress, account
):
    """Take the child in: as a new member while there is room, for the worst one where it is better and new.

    A child of members that finds room has succeeded only if it is better than the worst one. Most children of a grown
    population are neither; they are turned away by the energy that their search counted, before anything is computed
    anew. Returns whether it was: then `wide` has the child's fields.
    """
    level = progress[LEVEL]
    count = progress[COUNTS + level]
    progress[CHILDREN] += 1
    worst = np.argmax(members_energy[level, :count]) if count else 0
    place = count if count < size else worst
    if count < size and progress[KIND] >= CROSSED:
        known = _is_member(members_x[level], count, child_x)
        better = not known and account[CHILD] < members_energy[level, worst]
        progress[STALE] = 0 if better else progress[STALE] + 1
        if known:
            return False
    elif count >= size:
        too_bad = account[CHILD] > members_energy[level, worst] + account[GAIN]
        if too_bad or _is_member(members_x[level], count, child_x):
            progress[STALE] += 1
            return False
    energy = _measured(Q, single, members_x[level], members_fields[level], members_energy[level], count, child_x, wide)
    if energy < best[0]:
        best[0] = energy
        copy(child_x, best_x)
    if count < size:
        progress[COUNTS + level] += 1
    elif energy < members_energy[level, place]:
        progress[STALE] = 0
    else:
        progress[STALE] += 1
        return True
    copy(child_x, members_x[level, place])
    members_energy[level, place] = energy
    copy(wide, members_fields[level, place])
    return True


@compiled(nogil=True, fastmath=True, error_model="numpy")
def _measured(Q, single, members_x, members_fields, members_energy, count, state, wide):  # type: ignore[no-untyped-def]
    """Fill in the fields of a state in float64, and return its energy: from the member that is most like it, or anew.

    Each differing variable costs a row, as each one does where they are computed anew.
    """
    n = state.shape[0]
    fewest = ones = 0
    for l in range(n):
        ones += state[l]
    fewest, nearest = ones, -1
    for p in range(count):
        differing = 0
        for l in range(n):
            differing += members_x[p, l] != state[l]
        if differing < fewest:
            fewest, nearest = differing, p
    if nearest < 0:
        return matrix_fields(Q, single, state, wide)
    energy = members_energy[nearest]
    copy(members_fields[nearest], wide)
    for i in range(n):
        if members_x[nearest, i] == state[i]:
            continue
        row = Q[i]
        if state[i]:
            energy += wide[i]
            for l in range(n):
                wide[l] += row[l]
        else:
            energy -= wide[i]
            for l in range(n):
                wide[l] -= row[l]
    return energy


@compiled(nogil=True, error_model="numpy")
def _is_member(members_x, count, state):  # type: ignore[no-untyped-def]
    for p in range(count):
        l = 0
        while l < state.shape[0] and members_x[p, l] == state[l]:
            l += 1
        if l == state.shape[0]:
            return True
    return False
