"""The parts of the memetic search: annealing of what is disputed, levels of populations, energies in compiled code."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from searches import Search, state_of

import solvers.local.sub_blocks
from problems import BlockProblem, instances
from solvers.local.arrays import dense_arrays, factor_arrays, restricted_factor, stream_of
from solvers.local.kernels import annealing, pairs, population, states, structures
from solvers.local.populations import Plan, Population
from solvers.local.sa import SimulatedAnnealing
from solvers.local.sub_blocks import SubBlockSearch
from solvers.local.tabu import TabuSearch
from solvers.local.walks import FactorWalk, settled, wake_temperatures


def anneal_disputed(matrix, awake, state, others, chosen, least, temperatures, stream):
    kernels = population.kernels_for(1)
    return annealing.anneal_disputed(kernels, matrix, awake, state, others, chosen, least, temperatures, stream)


def annealed(search, awake, temperatures, stream):
    n = len(search.x)
    state = state_of(search.x, search.fields, np.empty(n, np.int32), np.empty(n, np.int32))
    states.arrange(search.x, search.layout, state.order, state.place)
    return annealing.anneal_matrix(
        search.arrays.matrix, search.arrays.reach, search.layout, state,
        structures.Annealing(temperatures, awake, np.zeros(2, np.int64)), -np.inf, np.zeros(1), stream, 1 << 40,
    )  # fmt: skip


def test_what_states_dispute_is_annealed_and_what_they_share_stays():
    search, temperatures = Search(), np.geomspace(10.0, 0.01, 40).astype(np.float32)
    awake = np.full(len(search.x), np.inf, np.float32)
    for seed in range(1, 6):
        other = search.problem.random_states(1, seed)[0].astype(np.uint8)
        before, energy = search.x.copy(), search.problem.energy(search.x)
        third = search.problem.random_states(1, 50 + seed)[0].astype(np.uint8)
        swaps, change, proposals = anneal_disputed(
            search.arrays.matrix, awake, search.state, np.array([third, other]), np.array([1, 0]), 0, temperatures,
            stream_of(seed, 0),
        )  # fmt: skip
        shared = (before == other) & (before == third)
        assert np.array_equal(search.x[shared], before[shared])
        assert search.problem.is_feasible(search.x.astype(np.int8))
        assert swaps == (search.x != before).sum() // 2 > 0
        assert proposals == 40 * (~shared).sum()
        after = search.problem.energy(search.x)
        assert 2.0 * change / search.arrays.scale == pytest.approx(after - energy, rel=1e-4, abs=1e-3)
        exact = np.empty(len(before))
        states.matrix_fields(search.arrays.matrix, search.arrays.single, search.x, exact)
        np.testing.assert_allclose(search.fields, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [200, 800])  # of a matrix that fits the second-level cache, and of one that does not
def test_where_all_is_disputed_the_whole_is_annealed(n):
    search, temperatures = Search(n), np.geomspace(10.0, 0.1, 10).astype(np.float32)
    awake, start, fields = np.full(n, 5.0, np.float32), search.x.copy(), search.fields.copy()
    swaps, _, _ = anneal_disputed(
        search.arrays.matrix, awake, state_of(start, fields), 1 - start[None], np.array([0]), 0, temperatures,
        stream_of(1, 0),
    )  # fmt: skip
    before = search.x.copy()
    annealed(search, awake, temperatures, stream_of(1, 0))
    search.begin(search.x)
    search.scan[pairs.SLOT] = 0
    search.descend(1 << 40)
    assert np.array_equal(search.x, start)
    assert swaps == (start != before).sum() // 2 > 0


def test_annealing_finds_the_best_of_all_mixtures_of_two_states():
    search = Search()
    search.descend(1 << 40)
    ones, zeros = np.flatnonzero(search.x)[:3], np.flatnonzero(search.x == 0)[:3]
    best, start = search.x.copy(), search.x.copy()
    start[ones[:2]], start[zeros[:2]] = 0, 1
    other = best.copy()
    other[ones[2]], other[zeros[2]] = 0, 1
    wide = np.empty(len(start))
    states.matrix_fields(search.arrays.matrix, search.arrays.single, start, wide)
    fields, temperatures = wide.astype(np.float32), np.geomspace(10.0, 1e-4, 200).astype(np.float32)
    swaps, _, _ = anneal_disputed(
        search.arrays.matrix, np.full(len(start), np.inf, np.float32), state_of(start, fields), other[None],
        np.array([0]), 0, temperatures, stream_of(0, 0),
    )  # fmt: skip
    assert swaps == 2
    assert np.array_equal(start, best)


def test_large_rows_are_awake_from_the_beginning_and_small_ones_sleep():
    rng = np.random.default_rng(0)
    sizes = np.repeat([1e-3, 1.0, 20.0], [100, 97, 3])
    A = sizes[:, None] * rng.normal(size=(200, 150))
    arrays = dense_arrays(BlockProblem((A @ A.T).astype(np.float32), np.zeros(200), 100))
    awake = wake_temperatures(arrays, 5.0, stream_of(1, 0))
    assert np.all(awake[:100] < 0.05)
    assert np.all((awake[100:197] > 1.0) & (awake[100:197] < 15.0))  # three outliers do not send them to sleep
    assert np.all(awake[197:] > 5.0)


def test_no_variable_with_few_couplings_sleeps():
    n = 800
    Q = np.zeros((n, n), np.float32)
    Q[np.arange(n), (np.arange(n) + 1) % n] = Q[np.arange(n), (np.arange(n) + 40) % n] = 1.0
    Q[:, 7] = Q[7] = 0.0
    awake = wake_temperatures(dense_arrays(BlockProblem(Q + Q.T, None, n // 2)), 1.0, stream_of(0, 0))
    assert awake[7] == 0.0
    assert np.delete(awake, 7).min() > 0.5


def test_sleeping_variables_propose_no_swap_but_count_as_proposals():
    search = Search()
    before, n = search.x.copy(), len(search.x)
    awake = np.where(np.arange(n) % 2, np.inf, 0.0).astype(np.float32)
    annealed(search, np.zeros(n, np.float32), np.ones(3, np.float32), stream_of(0, 0))
    assert np.array_equal(search.x, before)  # all asleep
    done = annealed(search, awake, np.full(3, 100.0, np.float32), stream_of(0, 0))
    assert done == 3 * n  # sleepers count
    assert not np.array_equal(search.x, before)


@pytest.mark.parametrize(("disputed", "n"), [(0, 90), (1, 90), (30, 90), (0, 12), (1, 12)])
def test_where_little_is_disputed_others_join_what_is_annealed(disputed, n):
    search = Search(n)
    other = search.x.copy()
    other[np.flatnonzero(search.x)[: disputed // 2 + disputed % 2]] = 0
    other[np.flatnonzero(search.x == 0)[: disputed // 2 + disputed % 2]] = 1
    before, energy = search.x.copy(), search.problem.energy(search.x)
    swaps, change, proposals = anneal_disputed(
        search.arrays.matrix, np.full(n, np.inf, np.float32), search.state, other[None], np.array([0]), 200,
        np.full(5, 1e-3, np.float32), stream_of(0, 0),
    )  # fmt: skip
    annealed = max(n // 4, np.count_nonzero(before != other))
    assert proposals == (5 * annealed if annealed >= 4 else 0)
    assert np.count_nonzero(search.x != before) == 2 * swaps <= annealed
    assert search.problem.is_feasible(search.x)
    assert search.problem.energy(search.x) == pytest.approx(
        energy + 2.0 * change / search.arrays.scale, rel=1e-4, abs=1e-3
    )


@pytest.mark.parametrize("first", [True, False])
def test_one_of_the_first_members_comes_from_the_greedy_state(first):
    search = Search()
    assert search.arrays.mean_fields is not None
    greedy = search.arrays.greedy
    plan = Plan(population=4, offspring=2, iterations=1, patience=12)
    found = []
    for given in (greedy, None):
        searched = Population(search.arrays, plan, seed=1, greedy=given, greedy_first=first)
        while searched.advance(-np.inf, 1 << 40):
            pass
        found.append(searched.arrays.x[0, :2].copy())
    begun = Population(search.arrays, plan, seed=1, initial=greedy[None])
    while begun.advance(-np.inf, 1 << 40):
        pass
    place = 0 if first else 1
    differing = np.count_nonzero(found[0] != found[1], axis=1)
    assert differing[place] > 0
    if first:
        assert np.array_equal(found[0][0], begun.arrays.x[0, 0])
    else:
        assert differing[0] == 0


def test_a_population_searched_in_many_calls_equals_one_searched_in_a_single_call():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(300, 100)) * np.exp(rng.normal(size=(300, 1)))
    arrays = dense_arrays(BlockProblem((A @ A.T).astype(np.float32), rng.normal(size=300), 150))
    plan = Plan(population=4, offspring=100, iterations=50, patience=12, turn=160)
    populations = [Population(arrays, plan, seed=3) for _ in range(2)]
    for searched, steps in zip(populations, (7, 1 << 40), strict=True):
        while searched.advance(-np.inf, steps):
            pass
    assert populations[0].energy == populations[1].energy
    assert np.array_equal(populations[0].state, populations[1].state)
    counts = [searched.progress[population.COUNTS] for searched in populations]
    assert counts[0] == counts[1] > 4  # states were annealed


@pytest.mark.parametrize("seed", range(3))
def test_halts_change_no_bit_where_many_swaps_are_equal_but_for_rounding(seed):
    rng = np.random.default_rng(seed)
    arrays = dense_arrays(BlockProblem(np.triu(rng.choice([0.1, 0.7], (90, 90)), 1), None, 30))
    plan = Plan(population=4, offspring=40, iterations=50, patience=12, turn=160)
    whole, pieces = (Population(arrays, plan, seed=seed) for _ in range(2))
    for searched, steps in ((whole, 1 << 40), (pieces, 37)):
        while searched.advance(-np.inf, steps):
            pass
    assert np.array_equal(whole.state, pieces.state)
    assert whole.stream == pieces.stream  # the random streams: both took the same way there


def test_fields_of_a_new_member_from_the_most_similar_one_are_exact():
    search = Search()
    rng, n = np.random.default_rng(0), len(search.x)
    members = np.array([search.problem.random_states(1, seed)[0] for seed in range(3)], np.uint8)
    fields, energies = np.empty((3, n)), np.empty(3)
    for p in range(3):
        energies[p] = states.matrix_fields(search.arrays.matrix, search.arrays.single, members[p], fields[p])
    for count, swaps in ((3, 0), (3, 2), (3, 9), (0, 2)):  # with none to begin from it is measured anew
        offspring = members[1].copy()
        offspring[rng.choice(np.flatnonzero(members[1]), swaps, replace=False)] = 0
        offspring[rng.choice(np.flatnonzero(members[1] == 0), swaps, replace=False)] = 1
        found, anew = np.empty(n), np.empty(n)
        energy = population.measured_energy(
            search.arrays.matrix, search.arrays.single, members, fields, energies, count, offspring, found
        )
        assert energy == pytest.approx(
            states.matrix_fields(search.arrays.matrix, search.arrays.single, offspring, anew), rel=1e-12
        )
        np.testing.assert_allclose(found, anew, rtol=1e-10, atol=1e-10)


def test_an_offspring_that_only_seems_to_reach_the_target_is_searched_further():
    search, plan = Search(), Plan(population=2, offspring=1, iterations=50, patience=6)
    whole, halted = (Population(search.arrays, plan, seed=3) for _ in range(2))
    while whole.advance(-np.inf, 1 << 40):
        pass
    nearly = whole.energy + 0.01 * abs(whole.energy)
    assert halted.advance(nearly, 1 << 40) > 0
    assert halted.offspring == 0
    assert whole.energy - 1e-5 * abs(whole.energy) <= halted.unfinished <= nearly  # as float32 has it
    counted = search.arrays.half(search.problem.energy(halted.state))
    assert halted.unfinished == pytest.approx(counted, rel=1e-5)
    halted.correct(counted)
    assert halted.unfinished == counted
    while halted.advance(-np.inf, 1 << 40):
        pass
    assert halted.offspring == 1
    assert halted.energy == whole.energy
    assert np.array_equal(halted.state, whole.state)


def test_too_many_disputed_variables_are_not_copied():
    n = annealing.MOST_DISPUTED + 2
    Q = np.zeros((n, n), np.float32)  # takes no memory until it is read
    Q.flags.writeable = False
    x = np.zeros(n, np.uint8)
    x[: n // 2] = 1
    done = anneal_disputed(
        Q, np.zeros(n, np.float32), state_of(x, np.zeros(n, np.float32)), 1 - x[None], np.array([0]), 0,
        np.ones(1, np.float32), stream_of(0, 0),
    )  # fmt: skip
    assert done == (0, 0.0, 0)


@pytest.mark.parametrize("coupled", [True, False])
def test_populations_grow_where_annealing_improves_random_starts(coupled):
    rng = np.random.default_rng(0)
    if coupled:  # weights of different sizes
        A = rng.normal(size=(300, 100)) * np.exp(rng.normal(size=(300, 1)))
        problem = BlockProblem((A @ A.T).astype(np.float32), rng.normal(size=300), 150)
    else:
        problem = instances.random(1000, 333, seed=1).to_dense(np.float32)
    arrays = dense_arrays(problem)
    plan = Plan(population=4, offspring=100, iterations=50, patience=12, turn=160)
    largest = []
    for seed in range(5):
        searched, most = Population(arrays, plan, seed=seed), 0
        while searched.advance(-np.inf, 200):
            most = max(most, int(searched.progress[population.COUNTS]))
        largest.append(most)
    grown = sum(most == 4 * population.CROWD for most in largest)
    assert grown >= 4 if coupled else grown <= 1


@pytest.mark.parametrize("weak", [True, False])
def test_two_starts_that_end_in_nearly_the_same_state_breed_before_another_is_annealed(weak):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(600, 100)) * np.exp(rng.normal(size=(600, 1))) * (0.003 if weak else 1.0)
    Q, linear = A @ A.T, rng.normal(size=600)
    first, second = np.arange(0, 24, 2), np.arange(1, 24, 2)
    Q[first, second] -= 3.0  # ones together or not at all: there is something left to find
    Q[second, first] -= 3.0
    linear[:24] = 1.5
    arrays = dense_arrays(BlockProblem(Q.astype(np.float32), linear, 300))
    plan = Plan(population=4, offspring=200, iterations=50, patience=12, turn=160)
    for seed in range(4):
        searched, kinds = Population(arrays, plan, seed=seed, greedy=arrays.greedy), []
        while searched.advance(-np.inf, 1):
            if searched.offspring > len(kinds):
                kinds.append(int(searched.progress[population.KIND]))
        annealed = kinds.index(population.COOLED)
        assert kinds[:2] == [population.RANDOM, population.GIVEN]
        if weak:
            assert 24 <= annealed <= 162
            assert set(kinds[2:annealed]) == {population.CROSSED}
        else:
            assert annealed == 2


def test_states_of_few_swaps_are_never_nearly_the_same():
    first, second = np.zeros((2, 64), np.uint8)
    first[:6], second[1:7] = 1, 1
    starts, counts = np.array([0, 64]), np.array([6])
    assert not population.are_near(first, second, starts, counts, 15)
    assert population.are_near(first, first, starts, counts, 15)


def test_the_best_of_populations_without_success_moves_up_a_level():
    problem = instances.random(60, 30, seed=3)
    plan = Plan(population=2, offspring=400, iterations=5, patience=3, turn=6)
    searched = Population(dense_arrays(problem), plan, seed=1)
    highest = 0
    while searched.advance(-np.inf, 50):
        highest = max(highest, int(searched.progress[population.LEVEL]))
        counts = searched.progress[population.COUNTS :]
        assert np.all((counts >= 0) & (counts <= 2 * population.CROWD))
    assert searched.offspring == 400
    assert highest >= 1
    state, energy = settled(dense_arrays(problem), searched.state, lambda: False)
    assert problem.is_feasible(state)
    assert energy == pytest.approx(problem.energy(state))


@pytest.mark.parametrize("seed", range(3))
def test_a_local_optimum_common_to_all_tabu_searches_is_escaped(seed):
    problem = instances.load("resnet20-picked-n64-k6")  # few variables are coupled; the best has most of them
    assert problem.best_known is not None
    best = problem.best_known.energy
    answer = TabuSearch(threads=1, offspring=50_000).solve(problem, seed=seed, target=best)
    assert answer.info["ended_by"] == "target"
    assert answer.first.energy == pytest.approx(best)


def test_the_highest_level_keeps_its_best_and_begins_again():
    problem = instances.random(14, 7, seed=3)
    plan = Plan(population=2, offspring=3000, iterations=1, patience=1, turn=1)
    searched = Population(dense_arrays(problem), plan, seed=1)
    while searched.advance(-np.inf, 1000):
        pass
    assert searched.offspring == 3000
    assert problem.is_feasible(searched.state)


def test_arrays_that_cost_no_copy_are_made_once_for_a_problem_and_go_with_it():
    problem = BlockProblem(np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32), None, 4)
    arrays = dense_arrays(problem)
    assert dense_arrays(problem) is arrays
    assert dense_arrays(problem, centred=False) is not arrays
    gone = weakref.ref(arrays)
    del problem, arrays
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("groups", [None, "three"])
def test_a_restricted_factor_counts_energies_as_the_whole_does(groups):
    rng = np.random.default_rng(5)
    of = None if groups is None else np.arange(60) % 3
    problem = BlockProblem.low_rank(rng.normal(size=(60, 6)), rng.normal(size=60), 8 if groups else 20, groups=of)
    arrays = factor_arrays(problem)
    x, y = problem.random_states(2, 0)
    chosen = np.flatnonzero((x != y) | (rng.random(60) < 0.3)).astype(np.int32)
    residual = arrays.factor.T.astype(float) @ x
    part = restricted_factor(arrays, chosen, residual, x.astype(np.uint8))
    assert np.array_equal(part.groups.counts, np.bincount(part.groups.of, weights=x[chosen]))

    def half(state):
        own = state[chosen].astype(float)
        return 0.5 * np.square(part.factor.T @ own).sum() + part.linear @ own

    change = part.energy(half(y)) - part.energy(half(x))
    assert change == pytest.approx(problem.energy(y) - problem.energy(x), rel=1e-4)


def test_a_pool_of_variables_lowers_the_energy_of_a_large_problem(monkeypatch):
    monkeypatch.setattr(solvers.local.sub_blocks, "_POOL", 1024)
    rng = np.random.default_rng(4)
    A = (rng.normal(size=(3000, 20)) * rng.normal(size=(3000, 1)) ** 3).astype(np.float32)
    problem = BlockProblem.low_rank(A, rng.normal(size=3000), 1500)
    arrays = factor_arrays(problem)
    bulk, both = (SubBlockSearch(arrays, problem.random_states(1, 0)[0], lambda: False) for _ in range(2))
    bulk.descend_in_bulk()
    both.descend(lambda block, x: settled(block, x, lambda: False)[0], rng, 16)
    assert problem.is_feasible(both.x)
    assert both.energy < bulk.energy
    assert arrays.energy(both.energy) == pytest.approx(problem.energy(both.x), rel=1e-6)


@pytest.mark.parametrize("cardinality", [1500, 40, 2990])
def test_annealing_by_stretches_keeps_count_and_cardinality(cardinality):
    # Stretches of at least 64 rows, 655 at this rank: 3,000 variables are more than four of them.
    rng = np.random.default_rng(6)
    problem = BlockProblem.low_rank(rng.normal(size=(3000, 200)).astype(np.float32), rng.normal(size=3000), cardinality)
    arrays = factor_arrays(problem)
    temperatures = np.geomspace(50.0, 0.1, 4).astype(np.float32)
    ends = []
    for proposals in (1 << 40, 611):
        walk = FactorWalk(arrays, problem.random_states(1, 0)[0], stream_of(0, 0))
        progress = np.zeros(3, np.int64)
        while walk.anneal(temperatures, progress, -np.inf, proposals):
            pass
        assert walk.x.sum() == cardinality
        assert arrays.energy(walk.energy) == pytest.approx(problem.energy(walk.x), rel=1e-5)
        ends.append(walk.x)
    assert np.array_equal(*ends)


def test_annealing_a_large_factor_is_the_same_twice():
    rng = np.random.default_rng(7)
    problem = BlockProblem.low_rank(rng.normal(size=(20_000, 32)).astype(np.float32), rng.normal(size=20_000), 9000)
    solver = SimulatedAnnealing(restarts=1, sweeps=2, threads=1)
    first, second = (solver.solve(problem, seed=3) for _ in range(2))
    assert first.first.energy == second.first.energy
    assert np.array_equal(first.record.sample, second.record.sample)
