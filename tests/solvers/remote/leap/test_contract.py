"""The Leap solvers keep the contract of all solvers, over real HTTP."""

from __future__ import annotations

import json

import numpy as np
import pytest

from problems import BlockProblem
from solvers import OptionError, get_solver
from solvers.remote.leap import Leap, models
from solvers.testing import conformance_checks, optimum

KINDS = ["nl", "cqm", "bqm", "qpu"]


def dense(n=12, k=5, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, offset=3.0, **options)


def factored(n=12, k=5, rank=3, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem.low_rank(rng.normal(size=(n, rank)), rng.normal(size=n), k, offset=-2.0, **options)


GROUPS = {"groups": np.arange(12) % 3}


@pytest.mark.parametrize("check", conformance_checks(), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_leap_solver_keeps_the_contract(sapi, kind, check):
    def make():
        solver = Leap(solver=kind)
        solver.plan(dense(), live=True)  # a QPU's largest clique is known once it was asked
        return solver

    reason = check(make)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "problem",
    [
        dense(),
        factored(),
        dense(k=[2, 4, 1], **GROUPS),
        factored(k=[2, 0, 3], **GROUPS),
        factored(k=[4, 4, 1], **GROUPS),
    ],
    ids=["dense", "low rank", "groups", "low-rank groups", "full groups"],
)
def test_every_kind_of_problem_is_solved(sapi, kind, problem):
    answer = get_solver(f"leap?solver={kind}").solve(problem, seed=1)
    assert answer.first.energy == pytest.approx(optimum(problem))
    assert sapi.counts["accepted"] == 1
    assert answer.info["backend"] == f"leap({kind})"
    assert answer.info["sent"] is True


def test_nl_sends_the_factor_of_a_low_rank_block_and_the_matrix_of_a_dense_one(sapi):
    low, full = factored(n=200, k=100, rank=4), factored(n=200, k=100, rank=4).to_dense()
    sizes = []
    for problem in (low, full):
        with models.nl_file(problem) as file:
            sizes.append(models.size(file))
    assert sizes[0] < 200 * 5 * 8 + 6000
    assert sizes[1] > 200 * 200 * 8
    answer = Leap().solve(low, seed=0)
    (data,) = sapi.state.uploads.values()
    assert len(data) == sizes[0]
    assert answer.info["label"].endswith("/nl/n200/s0")


@pytest.mark.parametrize(
    "problem", [dense(), factored(), dense(k=[2, 4, 1], **GROUPS), factored(k=[2, 0, 3], **GROUPS)]
)
def test_the_nonlinear_models_objective_is_the_energy(problem):
    model, states = models.nl_model(problem), problem.random_states(5, 0)
    model.states.resize(len(states))
    members = [m for m, count in zip(problem.constraint.members(), problem.constraint.counts, strict=True) if count]
    for row, state in enumerate(states):
        for decision, variables in zip(model.iter_decisions(), members, strict=True):
            decision.set_state(row, np.flatnonzero(state[variables]))
    energies = [float(model.objective.state(row)) for row in range(len(states))]
    assert energies == pytest.approx(problem.energy(states))
    with model.states.to_file() as file:
        assert np.array_equal(models.nl_states(problem, file), states)


def test_times_are_in_seconds_and_the_charge_is_told(sapi):
    answer = Leap(solver="cqm").solve(dense(), seed=0, time_limit=7.5)
    assert answer.info["time_limit"] == {"asked": 7.5, "minimum": 5.0}
    timing = answer.info["timing"]
    assert timing["charge"] == 7.5
    assert timing["run"] == pytest.approx(7.5, abs=1e-3)
    assert {"setup", "solve", "total", "queue", "upload", "access"} <= set(timing)
    json.dumps(answer.info)


def test_a_time_limit_below_the_services_least_becomes_the_least(sapi):
    answer = Leap(solver="bqm").solve(dense(), seed=0, time_limit=0.1)
    assert answer.info["time_limit"] == {"asked": 3.0, "minimum": 3.0}


def test_the_qpu_tells_each_step_from_raw_reads_to_polished_states(sapi):
    problem = dense(n=20, k=10, seed=3)
    answer = Leap(solver="qpu", num_reads=200).solve(problem, seed=0)
    told, energies = answer.info["qpu"], answer.info["energies"]
    assert told["graph_id"] == "01test"
    assert answer.info["solver"] == "Pegasus4_test/01test"
    assert 0.0 <= told["chain_break_fraction"] <= 1.0
    assert told["longest_chain"] >= 2
    assert told["num_reads"] == told["reads_kept"] == 200
    assert energies["repaired"] >= energies["polished"] == answer.first.energy
    assert answer.info["raw"]["energy"] == energies["raw"]
    assert answer.info["timing"]["charge"] == pytest.approx(0.015072 + 200 * 250e-6)


@pytest.mark.parametrize("options", ["spin_reversal=false", "chain_break=discard", "chain_strength=3", "penalty=2.5"])
def test_the_qpus_options_reach_the_hardware(sapi, options):
    problem = dense(n=8, k=4)
    answer = get_solver(f"leap?solver=qpu&num_reads=50&annealing_time=100&{options}").solve(problem, seed=0)
    (job,) = sapi.state.jobs.values()
    assert job.params == {"num_reads": 50, "annealing_time": 100.0, "answer_mode": "raw", "auto_scale": False}
    assert answer.first.energy == pytest.approx(optimum(problem))


def test_a_time_limit_cuts_the_reads_of_the_qpu(sapi):
    answer = Leap(solver="qpu").solve(dense(), seed=0, time_limit=0.1)
    assert 200 < answer.info["qpu"]["num_reads"] < 400


def test_one_embedding_serves_every_block_of_a_size(sapi, monkeypatch):
    from minorminer import busclique

    from solvers.remote.leap import embeddings

    searched = []
    real = busclique.busgraph_cache.find_clique_embedding
    monkeypatch.setattr(
        busclique.busgraph_cache, "find_clique_embedding", lambda self, n: searched.append(n) or real(self, n)
    )
    monkeypatch.setattr(embeddings, "_found", {})
    monkeypatch.setattr(embeddings, "_graphs", {})
    Leap(solver="qpu", num_reads=10).solve_many([dense(seed=s) for s in range(3)] + [dense(n=9)], seed=0)
    assert sorted(searched) == [9, 12]


def test_several_calls_are_in_flight_and_answers_come_in_order(sapi):
    problems = [dense(n=8, k=k, seed=k) for k in (2, 3, 4, 5, 6)]
    for _ in problems:
        sapi.fault("solve", "hold")
    answers = []

    import threading

    work = threading.Thread(target=lambda: answers.extend(Leap(solver="cqm", in_flight=4).solve_many(problems, seed=9)))
    work.start()
    for _ in range(400):
        if sapi.counts["accepted"] == 4:
            break
        threading.Event().wait(0.02)
    assert sapi.counts["accepted"] == 4  # four under way, the fifth waits for one of them
    sapi.command("release")
    work.join(60)
    assert [answer.first.energy for answer in answers] == pytest.approx([optimum(problem) for problem in problems])
    assert [answer.info["seed"] for answer in answers] == [9, 10, 11, 12, 13]
    assert sapi.counts["accepted"] == 5


def test_long_polling_works_as_well(sapi, monkeypatch):
    from solvers.remote.leap import service

    monkeypatch.setattr(service, "OPTIONS", {"poll_strategy": "long-polling", "poll_wait_time": 5})
    sapi.fault("solve", "hold")

    import threading

    threading.Timer(0.3, sapi.command, ["release"]).start()
    assert Leap(solver="cqm").solve(dense(), seed=0).first.energy == pytest.approx(optimum(dense()))
    assert sapi.counts["poll"] <= 3


def test_nothing_is_sent_for_a_problem_with_one_state_or_a_target_that_is_reached(sapi):
    Leap().solve(dense(k=12), seed=0)
    state = dense().random_states(1, 0)
    answer = Leap().solve(dense(), seed=0, initial_states=state, target=float(dense().energy(state)[0]))
    assert answer.info["sent"] is False
    assert sapi.counts["accepted"] == 0


def test_blocks_larger_than_the_qpu_are_decomposed(sapi):
    problem = dense(n=40, k=20)
    answer = get_solver("decompose?solver=leap&rounds=2&size=10").solve(problem, seed=0)
    assert problem.is_feasible(answer.record.sample).all()
    assert sapi.counts["accepted"] == 2
    assert len(set(sapi.state.labels)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dqm"}, "solver 'dqm' must be one of nl, cqm, bqm, qpu"),
        ({"num_reads": 0}, "num_reads 0"),
        ({"penalty": "large"}, "penalty 'large'"),
        ({"penalty": -1.0}, "penalty -1.0"),
        ({"annealing_time": 0.0}, "annealing_time 0.0"),
        ({"chain_strength": float("nan")}, "chain_strength nan"),
        ({"chain_break": "coin"}, "chain_break 'coin'"),
        ({"polish": 1}, "polish 1"),
        ({"in_flight": 0}, "in_flight 0"),
        ({"max_charge": -1}, "max_charge -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Leap(**options)
