"""The torch form of `tabu` means the same as the compiled one, for one problem and for batches."""

from __future__ import annotations

import numpy as np
import pytest

import solvers.local.tabu
import solvers.run
from problems import BlockProblem, instances
from solvers import UnavailableError, get_solver
from solvers.local import tabu_torch
from solvers.local.arrays import dense_arrays, stream_of
from solvers.local.batched import torch_random
from solvers.local.kernels.random import next64
from solvers.local.populations import Plan
from solvers.local.tabu import TabuSearch
from solvers.local.target import TargetWatch
from solvers.run import Run
from solvers.testing import conformance_checks, optimum

torch = pytest.importorskip("torch")

SMALL = {"population": 4, "offspring": 24, "iterations": 30}


def blocks(count: int, n: int, groups: bool = False) -> list[BlockProblem]:
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        of = np.arange(n) // 4 if groups else None
        k = 2 if groups else int(rng.integers(1, n))
        if seed % 2:
            made.append(BlockProblem.low_rank(rng.normal(size=(n, 3)), rng.normal(size=n), k, groups=of))
        else:
            made.append(BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, groups=of))
    return made


@pytest.mark.parametrize("groups", [False, True])
def test_both_engines_reach_the_same_optima(groups):
    listed = blocks(8, 12, groups)
    best = [optimum(problem) for problem in listed]
    for engine in ("numba", "torch"):
        answers = TabuSearch(**SMALL, engine=engine, threads=1).solve_many(listed, seed=0)
        assert [a.first.energy for a in answers] == pytest.approx(best, rel=1e-9)
        assert {a.info["engine"] for a in answers} == {engine}
        assert {a.info["device"] for a in answers} == {"cpu"}


def test_problems_of_several_sizes_come_back_in_order():
    listed = [problem for pair in zip(blocks(3, 8), blocks(3, 11), strict=True) for problem in pair]
    answers = TabuSearch(**SMALL, engine="torch").solve_many(listed, seed=0)
    states, energies = [a.record.sample[0] for a in answers], [a.first.energy for a in answers]
    assert [len(x) for x in states] == [p.n for p in listed]
    assert energies == pytest.approx([optimum(p) for p in listed], rel=1e-9)
    assert energies == pytest.approx([p.energy(x) for p, x in zip(listed, states, strict=True)])


def rows(answer):
    return answer.record.sample.tolist()


def test_neither_the_batch_nor_its_size_nor_the_pace_changes_an_answer(monkeypatch):
    listed = blocks(4, 40)
    solver = TabuSearch(population=3, offspring=9, iterations=15, restarts=2, engine="torch")
    together = [rows(a) for a in solver.solve_many(listed, seed=7)]
    assert [rows(solver.solve(p, seed=7 + t)) for t, p in enumerate(listed)] == together
    monkeypatch.setattr(solvers.local.tabu, "BATCH_BYTES", 1)
    monkeypatch.setattr(solvers.run, "CHUNK_SECONDS", 1e-9)
    assert [rows(a) for a in solver.solve_many(listed, seed=7)] == together


def test_a_batch_is_ready_before_its_clock_starts_though_one_problem_would_stay_on_the_cpu(monkeypatch):
    events, start = [], Run.start
    monkeypatch.setattr(TabuSearch, "_where", lambda self, rows: ("torch" if rows > 8 else "numba", "cpu"))
    monkeypatch.setattr(solvers.local.tabu, "_start_torch", lambda device: events.append("ready"))
    monkeypatch.setattr(Run, "start", lambda self: (events.append("start"), start(self)))
    answers = TabuSearch(offspring=4).solve_many(blocks(3, 12), seed=0)
    assert {answer.info["engine"] for answer in answers} == {"torch"}
    assert events == ["ready", "start", "start", "start"]


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_population_that_gives_way_to_a_new_one_does_not_wait_for_its_neighbours(restarts):
    listed = [instances.planted(60, 30, seed=seed) for seed in range(6)]
    solver = TabuSearch(population=3, offspring=60, iterations=5, restarts=restarts, engine="torch")
    together = [rows(a) for a in solver.solve_many(listed, seed=0)]
    assert [rows(solver.solve(p, seed=t)) for t, p in enumerate(listed)] == together


@pytest.mark.parametrize("check", conformance_checks(), ids=str)
def test_the_torch_form_keeps_the_contract(check):
    reason = check(lambda: get_solver("tabu?engine=torch&population=3&offspring=9&iterations=10"))
    if reason is not None:
        pytest.skip(reason)


def test_streams_are_those_of_the_compiled_kernels():
    stream = stream_of(5, 0)
    start = torch.from_numpy(stream.view(np.int64).copy())
    compiled = [int(next64(stream)) for _ in range(40)]
    drawn = torch_random.numbers(start, torch.arange(1, 41))
    assert drawn.numpy().view(np.uint64).tolist() == compiled
    assert torch_random.numbers(start, 40).numpy().view(np.uint64).tolist() == compiled[-1:]
    assert torch_random.units(drawn).tolist() == pytest.approx([bits / 2**64 for bits in compiled], abs=2**-24)
    assert torch_random.below(drawn, 10).tolist() == [bits * 10 >> 64 for bits in compiled]


def test_offspring_of_parents_that_are_nearly_the_same_are_perturbed():
    problem = instances.random(200, 60, seed=0)
    arrays, run = dense_arrays(problem), Run(seed=0)
    batch = tabu_torch.Batch(
        [tabu_torch.Task(arrays, run, TargetWatch(problem, run, arrays))], Plan(2, 2, 1, 6), 300, "cpu"
    )
    batch.begin_generation(first=True)
    parent = batch.states[0, 0]
    batch._members_x[:] = parent
    batch.begin_generation(first=False)
    swaps = (batch.states[0] & ~parent).sum(dim=1).double()
    assert (batch.states.sum(dim=2) == 60).all()
    assert swaps.mean().item() == pytest.approx(15, abs=1)
    assert swaps.min() >= 5


def test_a_larger_planted_optimum_is_found():
    problem = instances.planted(40, 12, seed=0)
    answer = TabuSearch(offspring=60, engine="torch").solve(problem, seed=0)
    assert answer.first.energy == problem.best_known.energy


def test_problems_without_a_swap_are_answered_in_a_batch_too():
    listed = [BlockProblem(np.eye(5), None, k) for k in (0, 2, 5)]
    answers = TabuSearch(**SMALL, engine="torch").solve_many(listed, seed=0)
    assert [a.first.energy for a in answers] == [0.0, 2.0, 5.0]


def test_initial_states_are_where_the_search_begins():
    problem = instances.planted(80, 40, seed=3)
    best = instances.known_optimum(problem)
    solver = TabuSearch(population=2, offspring=2, iterations=1, engine="torch")
    assert solver.solve(problem, seed=0, initial_states=best).first.energy == problem.energy(best)


@pytest.mark.parametrize("given", [0, 2, 4])
def test_every_population_begins_with_what_is_given_and_the_greedy_state(given):
    problem = instances.random(60, 20, seed=1)
    arrays, run = dense_arrays(problem), Run(seed=0)
    initial = problem.random_states(given, 5) if given else None
    task = tabu_torch.Task(arrays, run, TargetWatch(problem, run, arrays), initial)
    batch = tabu_torch.Batch([task], Plan(3, 3, 1, 6), 2, "cpu")
    batch.begin_generation(first=True)
    first = ([] if initial is None else initial.tolist()) + [arrays.greedy.tolist()]
    for population in batch.states[0].int().view(2, 3, 60).tolist():
        assert population[: given + 1] == first[:3]
    assert (batch.states.sum(dim=2) == 20).all()


def test_limits_targets_and_wishes_end_a_batch():
    listed = [instances.random(200, 100, seed=seed) for seed in range(3)]
    solver = TabuSearch(engine="torch")
    limited = solver.solve_many(listed, seed=0, time_limit=0.2)
    assert {a.info["ended_by"] for a in limited} == {"time_limit"}
    assert max(a.info["timing"]["solve"] for a in limited) < 0.2 + 0.4  # the rest is for a busy machine
    for timing in (a.info["timing"] for a in limited):
        assert timing["overrun"] == pytest.approx(timing["solve"] - 0.2)
    easy = [problem.random_mean_energy() for problem in listed]
    reached = solver.solve_many(listed, seed=0, targets=easy, time_limit=20)
    assert {a.info["ended_by"] for a in reached} == {"target"}
    assert all(a.first.energy <= target for a, target in zip(reached, easy, strict=True))
    stopped = solver.solve_many(listed, seed=0, time_limit=20, stop=lambda: True)
    assert {a.info["ended_by"] for a in stopped} == {"stop"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_asking_for_a_gpu_that_is_not_there_says_so():
    problem = blocks(1, 8)[0]
    with pytest.raises(UnavailableError, match="device='cuda' needs a CUDA device"):
        TabuSearch(device="cuda").solve(problem, seed=0)


def test_auto_stays_with_the_compiled_kernels_for_few_searches():
    assert TabuSearch().solve(blocks(1, 8)[0], seed=0).info["engine"] == "numba"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("groups", [False, True])
def test_a_gpu_reaches_the_same_optima(groups):
    listed = blocks(6, 12, groups)
    answers = TabuSearch(**SMALL, device="cuda", engine="torch").solve_many(listed, seed=0)
    assert [a.first.energy for a in answers] == pytest.approx([optimum(p) for p in listed], rel=1e-9)
    assert {(a.info["device"], a.info["engine"]) for a in answers} == {("cuda", "torch")}
