"""Populations of states whose offspring keep what two parents share, each improved by a short tabu search.

Memetic search for the maximum diversity problem (Wu and Hao, "A hybrid metaheuristic method for the maximum diversity
problem", European Journal of Operational Research 231, 2013). What differs from the paper:

1. An offspring starts from the fields of one parent and updates them for the variables in which it differs, so making
   it costs as much as that many tabu steps.
2. The fields of each new member are computed in float64, so rounding errors of float32 last for one search only.
3. An offspring of parents that are nearly the same is perturbed by a few more swaps, as its search would otherwise find
   the parents again: half of them by any swaps, half by swaps of strongly coupled variables, see
   :func:`solvers.local.kernels.offspring.perturb_strong`.
4. The best state of a search descends to one that no swap of any pair improves, and is searched from again if that
   lowered the energy.
5. Populations are small, which is fast on easy problems, but form levels, which hard problems need: the best member of
   a population without success moves one level up, and when a level is full, its members breed: good parents that are
   far apart.
6. Once a population was replaced, half of the random starts that are not annealed descend by any improving swap before
   their tabu search. Tabu steps, which take the best swap first, may end in the same local optima from everywhere.
7. One of the first members starts from the greedy state, whose ones add least on average. Under strong couplings that
   state is worse than a random one, but the first tabu steps undo the worst of it, and on most real blocks the search
   then ends lower than those from random states.
8. Under strong couplings annealing finds better states than tabu steps. Random starts are searched in turn without and
   with annealing; if that pays, nearly all later ones are annealed, and an offspring is made by annealing the variables
   in which a few members differ, see :func:`solvers.local.kernels.annealing.anneal_disputed`. If such an offspring
   has failed to enter, some variables on which the members agree are annealed too.
9. Annealing populations are larger, but breed from `_FIRST` members on and grow by their offspring. The first one
   breeds before it is known whether annealing pays: half of its offspring are annealed, or all if it seems to pay.
   Where the first two starts end in nearly the same state, couplings seem weak: then these two breed, and nothing is
   annealed before their population is replaced.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from problems.compiling import compiled, helper
from solvers.local.kernels.annealing import anneal_disputed, anneal_matrix, sorted_copy, wake_temperatures
from solvers.local.kernels.offspring import cross, perturb, perturb_strong, random_state
from solvers.local.kernels.pairs import QUARTERS, QUIET, ROW, SLOT, descend_pairs, take_back
from solvers.local.kernels.random import below, unit
from solvers.local.kernels.separate import separate
from solvers.local.kernels.states import arrange, copy, matrix_fields
from solvers.local.kernels.structures import (
    Doubles,
    Floats,
    Ints,
    Kernels,
    Matrix,
    PopulationArrays,
    Problem,
    Search,
    SearchPlan,
    Starts,
    State,
    Stream,
)
from solvers.local.kernels.tabu import (
    BEST,
    GAIN,
    NEVER,
    PRESENT,
    begin_search,
    search_is_over,
    tabu_groups,
    tabu_matrix,
)

# Places in `progress`, int64 [COUNTS + LEVELS]: phase of the present offspring, level whose population breeds,
# offspring searched in all, offspring in a row that did not enter, offspring of this population, initial states used,
# kind of the present offspring, whether couplings seem weak, and from COUNTS on the number of members of each level.
STATE, LEVEL, OFFSPRING, STALE, BRED, STARTED, KIND, WEAK, COUNTS = range(9)
BETWEEN, SEARCHING, DESCENDING, ANNEALING = range(4)
GIVEN, RANDOM, COOLED, DESCENDED, CROSSED, ANNEALED = range(6)  # kinds: four of starts, two of members' offspring
LEVELS = 8  # of which the eighth holds the best of thousands of populations
SETTLED = 3  # place in `account`, after those of a search: energy below which an offspring's best is worth a descent

SWEEPS, START_SWEEPS = 96, 80  # of the annealing of an offspring, and of a random state
CROWD = 2  # times the members, where annealing is better
_OTHERS = 4  # members, drawn at random, from which an offspring's parent may differ in what is annealed
_LEAST_ANNEALED = 200  # variables, once an offspring has failed; chosen on real blocks of 1,024 and 2,048
_PROPOSALS = 16  # cost as much as a step, about
_SAMPLED = 1024  # swaps of the first member from which temperatures are measured
_HOT, _START_HOT, _COLD = 2.0, 1.0, 0.016  # first (offspring, start) and last temperature, in medians of their sizes
_PAYS = 1.5  # medians of their sizes: what annealing must gain to pay
_TRIALS = 2  # random starts of either way before one way is taken to be better
_FIRST = 3  # members from which a population of the lowest level begins to breed
_WEAK_PATIENCE = 2  # times that of other populations: an offspring is cheap there compared with the start that follows
_FEW = 16  # two states are near if they differ by less than one in so many of the swaps that they could differ by
_STRONG_SWAPS = 4  # swaps of strongly coupled variables in an offspring of parents that are nearly the same
_OTHER_WAY = 0.1  # share of offspring that are made the other way


@compiled(nogil=True, error_model="numpy")
def evolve_matrix(  # type: ignore[no-untyped-def]
    kernels, problem, starts, population, state, search, pairs, annealing, temperatures, wide, plan, target, stream,
    steps,
):  # fmt: skip
    """Continue a memetic search for about so many tabu steps.

    A state machine: `progress[STATE]` is the phase of the present start or offspring, so that a call may end and the
    next one continue after any number of steps, with the same result. The phases of one offspring are

        BETWEEN -> [ANNEALING ->] [DESCENDING ->] SEARCHING -> DESCENDING -> SEARCHING -> ... -> BETWEEN

    BETWEEN makes the next start or offspring. ANNEALING (of a COOLED random start) is always followed by a descent.
    SEARCHING is the tabu search; while its best state is better than the last one that a descent reached (SETTLED),
    that state is restored, descends among all pairs, and is searched from again. Then it enters the population or not.

    Arrays:
        kernels: addresses of the kernels that this one calls.
        problem, starts, plan: not changed.
        population, state, search, pairs: kept between calls.
        annealing: of random starts; temperatures and `awake` are filled in when first measured, zeros before.
        temperatures: of the annealing of an offspring, float32 [SWEEPS]; filled in with those.
        wide: room for the fields of a state, float64 [n].
        target: energy (in half units) at which to return.
        stream: random stream.
        steps: tabu steps to take at most; making an offspring counts as the steps it costs.

    Returns:
        Steps taken; 0 when all offspring are searched. An offspring that reaches the target stays unfinished: its
        energy is rounded as float32 rounds, and the caller decides whether the target is really reached.
    """
    Q, groups, x = problem.Q, problem.groups, state.x
    n, counts = x.shape[0], problem.groups.counts
    progress, clock, account, scan = population.progress, search.clock, search.account, pairs.scan
    done = 0
    while done < steps and population.best[0] > target:
        if progress[STATE] == BETWEEN:
            if progress[OFFSPRING] >= plan.offspring:
                break
            cost, energy = _begin_at(
                kernels.begin, kernels, problem, starts, population, state, temperatures, annealing.awake, wide, plan,
                stream,
            )  # fmt: skip
            done += cost
            begin_search(state.fields, energy, clock, account)
            _allow_all(x, search.leave_at, search.enter_at)
            if counts.shape[0] > 1:
                arrange(x, groups, state.order, state.place)
            copy(x, search.best_x)
            account[SETTLED] = np.inf
            progress[STATE] = SEARCHING
            if progress[KIND] == DESCENDED or progress[KIND] == ANNEALED:
                scan[SLOT], scan[QUIET] = below(stream, n), 0
                progress[STATE] = DESCENDING
            elif progress[KIND] == COOLED:
                arrange(x, groups, state.order, state.place)
                annealing.progress[0] = annealing.progress[1] = 0
                progress[STATE] = ANNEALING
        most = max(steps - done, 1)
        if progress[STATE] == ANNEALING:
            done += 1 + _anneal_at(
                kernels.anneal, Q, pairs.reach[ROW], groups, state, annealing, target, account, stream,
                _PROPOSALS * most,
            ) // _PROPOSALS  # fmt: skip
            if annealing.progress[0] < START_SWEEPS and account[PRESENT] > target:
                continue
            if account[PRESENT] < account[BEST]:
                account[BEST] = account[PRESENT]
                copy(x, search.best_x)
            if annealing.progress[0] == START_SWEEPS:
                _allow_all(x, search.leave_at, search.enter_at)
                scan[SLOT], scan[QUIET] = below(stream, n), 0
                progress[STATE] = DESCENDING
        elif progress[STATE] == DESCENDING:
            done += 1 + _descend_at(
                kernels.descend, Q, pairs, state, search, np.int32(clock[0]), target, QUARTERS * most
            ) // QUARTERS  # fmt: skip
            if scan[QUIET] < n and account[PRESENT] > target:
                continue
            if account[PRESENT] < account[BEST]:
                account[BEST] = account[PRESENT]
                copy(x, search.best_x)
                clock[1] = clock[0]
            if scan[QUIET] >= n:
                progress[STATE] = SEARCHING
                account[SETTLED] = account[PRESENT]
        elif counts.shape[0] == 1:
            done += _tabu_at(kernels.tabu, Q, state, search, plan.iterations, target, stream, most)
        else:
            done += _tabu_groups_at(
                kernels.tabu_groups, Q, groups, state, search, plan.iterations, target, stream, most
            )  # fmt: skip
        if not search_is_over(plan.iterations, n, target, clock, account):
            continue
        if account[BEST] <= target:
            break  # the caller counts the energy exactly; if the target is not reached, this search continues
        if counts.shape[0] == 1 and account[BEST] < account[SETTLED]:
            # The tabu search of small groups looks at all pairs; those of many large groups are left out.
            done += take_back(Q, state, search, np.int32(clock[0]))
            account[PRESENT] = account[BEST]
            scan[SLOT], scan[QUIET] = below(stream, n), 0
            progress[STATE] = DESCENDING
        else:
            if progress[KIND] == RANDOM or progress[KIND] == COOLED:
                population.trials[progress[KIND] - RANDOM, 0] += 1.0
                population.trials[progress[KIND] - RANDOM, 1] += account[BEST]
            size = plan.members * (CROWD if _annealing_pays(population.trials, temperatures) else 1)
            measured = _end_at(kernels.end, problem, population, search, wide, size)
            if measured and temperatures[0] == 0.0 and counts.shape[0] == 1 and 0 < counts[0] < n:
                arrange(search.best_x, groups, state.order, state.place)
                _measure_at(
                    kernels.measure, Q, wide, state.order, np.int64(counts[0]), temperatures, annealing.temperatures,
                    annealing.awake, stream,
                )  # fmt: skip
            progress[STATE] = BETWEEN
    return done


@helper(nogil=True, error_model="numpy")
def _allow_all(x, leave_at, enter_at):  # type: ignore[no-untyped-def]
    """Let every one leave and every zero enter at once."""
    for i in range(x.shape[0]):
        leave_at[i] = 0 if x[i] else NEVER
        enter_at[i] = NEVER if x[i] else 0


@separate(
    nb.types.Tuple((nb.int64, nb.float64)), Kernels, Problem, Starts, PopulationArrays, State, Floats, Floats, Doubles,
    SearchPlan, Stream, nogil=True, error_model="numpy", no_cpython_wrapper=True,
)  # fmt: skip
def begin(  # type: ignore[no-untyped-def]
    kernels, problem, starts, population, state, temperatures, awake, wide, plan, stream
):  # fmt: skip
    """Fill in x and its fields with a new start or an offspring; return its cost in steps and its energy.

    Also decides, before that, whether the present population is replaced, and records the kind of the offspring.
    """
    Q, groups, x, fields = problem.Q, problem.groups, state.x, state.fields
    progress, trials = population.progress, population.trials
    crowd = CROWD if _annealing_pays(trials, temperatures) else 1
    level, size = progress[LEVEL], crowd * plan.members
    if level == 0 and progress[COUNTS] == 2 and progress[BRED] == 0:
        near = are_near(population.x[0, 0], population.x[0, 1], groups.starts, groups.counts, plan.least_swaps)
        progress[WEAK] = trials[1, 0] == 0.0 and near
    enough = _enough(level, size, plan, progress)
    patience = crowd * plan.patience * (_WEAK_PATIENCE if progress[WEAK] else 1)
    if progress[COUNTS + level] >= enough and (progress[STALE] >= patience or progress[BRED] >= crowd * plan.turn):
        level = _rise(population, size)
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
        energy = population.energy[level, first]
        cost = 1
        if annealed:
            copy(population.x[level, first], x)
            copy(population.fields[level, first], fields)
            chosen = np.empty(_OTHERS, np.int64)
            chosen[0] = second
            for c in range(1, _OTHERS):
                chosen[c] = below(stream, count)
            swaps, change, proposals = _anneal_disputed_at(
                kernels.anneal_disputed, kernels, Q, awake, state, population.x[level], chosen,
                _LEAST_ANNEALED if progress[STALE] > 0 else 0, temperatures, stream,
            )  # fmt: skip
            cost += swaps + proposals // _PROPOSALS
            if swaps > 0 and not _is_member(population.x[level], count, x):
                progress[KIND] = ANNEALED
                return cost, energy + change
        # Not annealed, or annealing has found a member again: cross the two parents.
        copy(population.x[level, first], x)
        copy(population.fields[level, first], fields)
        swaps, energy = _cross_at(kernels.cross, problem, population.x[level, second], state, energy, stream)
        if swaps < plan.least_swaps and temperatures[0] > 0.0 and below(stream, 2) == 0:
            for _ in range(_STRONG_SWAPS):
                energy += perturb_strong(Q, awake, state, stream)
            return cost + swaps + _STRONG_SWAPS, energy
        while swaps < plan.least_swaps:
            energy += perturb(problem, state, stream)
            swaps += 1
        return cost + swaps, energy
    progress[KIND] = COOLED if annealed else RANDOM
    if not annealed and groups.counts.shape[0] == 1 and progress[COUNTS + 1] > 0 and below(stream, 2) == 0:
        progress[KIND] = DESCENDED
    if progress[STARTED] < starts.initial.shape[0]:
        progress[KIND] = GIVEN
        copy(starts.initial[progress[STARTED]], x)
        progress[STARTED] += 1
    elif progress[OFFSPRING] == progress[STARTED] + plan.greedy_at:
        progress[KIND] = GIVEN
        copy(starts.greedy, x)
    else:
        random_state(x, groups, stream)
    energy = matrix_fields(Q, problem.single, x, wide)
    for l in range(x.shape[0]):
        fields[l] = wide[l]
    ones = 0
    for g in range(groups.counts.shape[0]):
        ones += groups.counts[g]
    return 1 + ones // 4, energy  # a row of the matrix costs about a quarter of a step


@helper(nogil=True, error_model="numpy")
def _enough(level, size, plan, progress):  # type: ignore[no-untyped-def]
    """Number of members from which a population breeds: two are enough where couplings seem weak."""
    if level:
        return size
    return np.int64(2) if progress[WEAK] else min(plan.members, _FIRST)


@compiled(nogil=True, error_model="numpy")
def are_near(first, second, starts, counts, swaps):  # type: ignore[no-untyped-def]
    """Whether two states differ by fewer than `swaps` swaps, and by few of those that they could differ by."""
    differing = possible = 0
    for l in range(first.shape[0]):
        differing += first[l] != second[l]
    for g in range(counts.shape[0]):
        possible += min(counts[g], starts[g + 1] - starts[g] - counts[g])
    return differing < 2 * swaps and _FEW * differing < 2 * possible


@helper(nogil=True, error_model="numpy")
def _to_be_annealed(trials, temperatures, stream):  # type: ignore[no-untyped-def]
    """Whether the next start or offspring is annealed: first in turn, then mostly as was better for random starts."""
    if _is_undecided(trials):
        return trials[1, 0] < trials[0, 0]
    return _annealing_pays(trials, temperatures) != (unit(stream) <= _OTHER_WAY)


@helper(nogil=True, error_model="numpy")
def _is_undecided(trials):  # type: ignore[no-untyped-def]
    """Whether too few random starts were searched either way to decide which one is better."""
    return min(trials[0, 0], trials[1, 0]) < _TRIALS


@helper(nogil=True, error_model="numpy")
def _annealing_pays(trials, temperatures):  # type: ignore[no-untyped-def]
    """Whether it is known that random starts end lower if they are annealed before they are searched."""
    return not _is_undecided(trials) and _annealing_gains(trials, temperatures)


@helper(nogil=True, error_model="numpy")
def _annealing_gains(trials, temperatures):  # type: ignore[no-untyped-def]
    """Whether random starts have ended lower, on average, where they were annealed, by more than one swap changes.

    Where couplings are alike, as in the maximum diversity problem, annealing gains less than that, and the offspring
    that it makes are good but all the same.
    """
    (plain, sum_plain), (annealed, sum_annealed) = trials[0], trials[1]
    gain = _PAYS * temperatures[0] / _HOT
    return min(plain, annealed) > 0.0 and sum_annealed / annealed < sum_plain / plain - gain


@separate(
    nb.none, Matrix, Doubles, Ints, int, Floats, Floats, Floats, Stream,
    nogil=True, error_model="numpy", no_cpython_wrapper=True,
)  # fmt: skip
def measure(Q, fields, order, ones, temperatures, start_temperatures, awake, stream):  # type: ignore[no-untyped-def]
    """Fill in temperatures that fall geometrically, from the changes of energy by random swaps of a good state.

    `awake` is filled in too. Where no swap changes anything, all stay zero and nothing is annealed.
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
        return
    middle = sorted_copy(sizes[:found])[found // 2]
    wake_temperatures(Q, np.float32(middle * _START_HOT), stream, awake)
    for t in range(SWEEPS):
        temperatures[t] = middle * _HOT * (_COLD / _HOT) ** (t / (SWEEPS - 1))
    for t in range(START_SWEEPS):
        start_temperatures[t] = middle * _START_HOT * (_COLD / _START_HOT) ** (t / (START_SWEEPS - 1))


@helper(nogil=True, error_model="numpy")
def _rise(population, size):  # type: ignore[no-untyped-def]
    """Empty the present population, its best member moved one level up; return the level that breeds from now on.

    A full population of that level breeds next; otherwise a new one begins on the lowest level. A state that is a
    member there already is not added again. The best of the highest level becomes the first of a new one there.
    """
    progress, energy = population.progress, population.energy
    level = progress[LEVEL]
    best = 0
    for p in range(1, progress[COUNTS + level]):
        if energy[level, p] < energy[level, best]:
            best = p
    progress[COUNTS + level] = 0
    progress[STALE] = progress[BRED] = progress[WEAK] = 0
    above = min(level + 1, LEVELS - 1)
    place = progress[COUNTS + above]
    if not _is_member(population.x[above], place, population.x[level, best]):
        copy(population.x[level, best], population.x[above, place])
        copy(population.fields[level, best], population.fields[above, place])
        energy[above, place] = energy[level, best]
        progress[COUNTS + above] += 1
    progress[LEVEL] = above if progress[COUNTS + above] >= size else 0
    return progress[LEVEL]


@separate(
    nb.boolean, Problem, PopulationArrays, Search, Doubles, int,
    nogil=True, error_model="numpy", no_cpython_wrapper=True,
)  # fmt: skip
def end(problem, population, search, wide, size):  # type: ignore[no-untyped-def]
    """Take the offspring in: as a new member while there is room, or for the worst one if it is better and new.

    An offspring of members that finds room counts as a success only if it is better than the worst one. Most offspring
    of a grown population are rejected by the energy that their search counted, before anything is computed anew.

    Returns:
        Whether fields were computed: then `wide` holds the fields of the offspring.
    """
    progress, account, state = population.progress, search.account, search.best_x
    level = progress[LEVEL]
    count = progress[COUNTS + level]
    members, energies = population.x[level], population.energy[level]
    progress[OFFSPRING] += 1
    worst = 0
    for p in range(1, count):
        if energies[p] > energies[worst]:
            worst = p
    place = count if count < size else worst
    if count < size and progress[KIND] >= CROSSED:
        known = _is_member(members, count, state)
        better = not known and account[BEST] < energies[worst]
        progress[STALE] = 0 if better else progress[STALE] + 1
        if known:
            return False
    elif count >= size:
        too_bad = account[BEST] > energies[worst] + account[GAIN]
        if too_bad or _is_member(members, count, state):
            progress[STALE] += 1
            return False
    energy = measured_energy(problem.Q, problem.single, members, population.fields[level], energies, count, state, wide)
    if energy < population.best[0]:
        population.best[0] = energy
        copy(state, population.best_x)
    if count < size:
        progress[COUNTS + level] += 1
    elif energy < energies[place]:
        progress[STALE] = 0
    else:
        progress[STALE] += 1
        return True
    copy(state, members[place])
    energies[place] = energy
    copy(wide, population.fields[level, place])
    return True


@compiled(nogil=True, fastmath=True, error_model="numpy")
def measured_energy(  # type: ignore[no-untyped-def]
    Q, single, members_x, members_fields, members_energy, count, state, wide
):
    """Fill in the fields of a state in float64 and return its energy, from the most similar member if that is cheaper.

    From a member each differing variable costs one row of Q, anew each one of the state does.
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


@helper(nogil=True, error_model="numpy")
def _is_member(members_x, count, state):  # type: ignore[no-untyped-def]
    """Whether a state is among the first `count` members, uint8 [p, n]."""
    for p in range(count):
        l = 0
        while l < state.shape[0] and members_x[p, l] == state[l]:
            l += 1
        if l == state.shape[0]:
            return True
    return False


_begin_at, _end_at, _measure_at = begin.at, end.at, measure.at
_anneal_at, _anneal_disputed_at, _cross_at, _descend_at = (
    anneal_matrix.at,
    anneal_disputed.at,
    cross.at,
    descend_pairs.at,
)
_tabu_at, _tabu_groups_at = tabu_matrix.at, tabu_groups.at


def kernels_for(groups: int) -> Kernels:
    """The addresses of what :func:`evolve_matrix` calls for this number of groups; compiles what is missing."""
    return Kernels(
        begin=begin.address, end=end.address, measure=measure.address, anneal=anneal_matrix.address,
        anneal_disputed=anneal_disputed.address, cross=cross.address, descend=descend_pairs.address,
        tabu=tabu_matrix.address, tabu_groups=tabu_groups.address if groups > 1 else 0,
    )  # fmt: skip
