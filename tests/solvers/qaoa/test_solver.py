"""The `qaoa` backend: samples are reported as measured; answers are feasible and polished."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from qiskit.primitives import BackendSamplerV2, StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2

from problems import BlockProblem
from solvers import Decompose, OptionError, SolverError, get_solver, solve
from solvers.qaoa import Qaoa
from solvers.qaoa.ansatz import Ansatz
from solvers.qaoa.subspace import Simulation
from solvers.testing import optimum

LOCAL = ["statevector", "aer", "aer-mps", "noisy"]


def random_problem(n=6, k=3, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, **options)


@pytest.mark.parametrize("sampler", LOCAL)
def test_every_local_sampler_solves_and_is_deterministic(sampler):
    problem = random_problem()
    solver = Qaoa(sampler=sampler, reps=1, shots=200)
    first, second = (solver.solve(problem, seed=3) for _ in range(2))
    assert first.first.energy == pytest.approx(optimum(problem))
    assert np.array_equal(first.record.sample, second.record.sample)
    for key in ("raw", "angles", "expected", "repaired"):
        assert first.info[key] == second.info[key]
    assert first.info["sampler"] == sampler
    assert first.info["shots"] == 200


@pytest.mark.parametrize("sampler", ["statevector", "aer", "aer-mps"])
@pytest.mark.parametrize("mixer", ["xy-ring", "xy-complete"])
def test_noiseless_samples_keep_the_cardinality_and_have_the_expected_energy(sampler, mixer):
    problem = random_problem(seed=1)
    info = Qaoa(sampler=sampler, mixer=mixer, shots=4000).solve(problem, seed=0).info
    assert info["raw"]["feasible"] == 1.0
    assert info["repaired"] == 0
    ansatz = Ansatz.of(problem, 2, mixer)
    simulation = Simulation.of(problem, ansatz)
    probabilities = simulation.probabilities(info["angles"])
    energies = ansatz.offset + ansatz.scale * simulation.costs
    assert info["expected"] == pytest.approx(probabilities @ energies)
    deviation = np.sqrt(probabilities @ np.square(energies - info["expected"]) / 4000)
    assert abs(info["raw"]["mean"] - info["expected"]) < 5 * deviation


def test_noise_breaks_the_cardinality_and_repair_restores_it():
    problem = random_problem()
    answer = Qaoa(sampler="noisy:1", reps=1, shots=300, polish=False).solve(problem, seed=0)
    assert 0.0 < answer.info["raw"]["feasible"] < 1.0
    assert answer.info["repaired"] > 0
    assert problem.is_feasible(answer.record.sample).all()
    other = Qaoa(sampler="noisy:2", reps=1, shots=300, polish=False).solve(problem, seed=0)
    assert other.info["raw"] != answer.info["raw"]  # another device


def test_mixer_x_needs_a_penalty_and_reports_it():
    problem = random_problem()
    answer = Qaoa(mixer="x", penalty=2.5, shots=500).solve(problem, seed=0)
    assert answer.info["penalty"] == 2.5
    assert answer.info["raw"]["feasible"] < 1.0
    assert problem.is_feasible(answer.record.sample).all()
    assert Qaoa(mixer="x").solve(problem, seed=0).info["penalty"] > 0.0
    assert Qaoa().solve(problem, seed=0).info["penalty"] is None


def test_raw_samples_are_reported_apart_from_polished_ones():
    problem = random_problem(n=12, k=6, seed=4)
    settings = {"shots": 3, "reps": 1, "starts": 1}
    raw = Qaoa(polish=False, **settings).solve(problem, seed=0)
    polished = Qaoa(**settings).solve(problem, seed=0)
    assert raw.info["raw"]["energy"] == raw.first.energy
    assert not raw.info["raw"]["lowered"]
    assert polished.info["raw"]["energy"] == raw.first.energy
    assert polished.info["raw"]["lowered"]
    assert polished.first.energy < raw.first.energy


def test_every_sample_has_the_ones_of_each_group():
    problem = random_problem(n=8, k=2, groups=np.arange(8) // 4)
    answer = Qaoa(shots=300, polish=False).solve(problem, seed=0)
    assert answer.info["raw"]["feasible"] == 1.0
    assert answer.first.energy == pytest.approx(optimum(problem))


def test_a_warm_start_samples_nearer_to_its_solution():
    problem = random_problem(n=10, k=5, seed=2)
    best = solve(problem, "exact").first
    state = np.array([best.sample[v] for v in range(10)])
    cold = Qaoa(reps=1).solve(problem, seed=0)
    for mixer in ("xy-complete", "x"):
        warm = Qaoa(reps=1, warm_start=True, mixer=mixer).solve(problem, seed=0, initial_states=state)
        assert warm.info["warm_start"] == pytest.approx(best.energy)
        assert warm.info["raw"]["mean"] < cold.info["raw"]["mean"]
    assert Qaoa(reps=1, warm_start=True).solve(problem, seed=0).info["warm_start"] is not None
    assert cold.info["warm_start"] is None


def test_cvar_trades_the_mean_for_the_best_outcomes():
    problem = random_problem(n=10, k=5, seed=3)
    simulation = Simulation.of(problem, Ansatz.of(problem, 1, "xy-complete"))
    mean, tail = (Qaoa(reps=1, cvar=cvar).solve(problem, seed=0).info for cvar in (1.0, 0.1))
    assert tail["expected"] > mean["expected"]
    best = [simulation.value_and_gradient(info["angles"], 0.1)[0] for info in (mean, tail)]
    assert best[1] < best[0]


def test_angles_can_be_optimised_on_the_sampler():
    problem = random_problem(n=6, k=3, seed=5)
    exact = Qaoa(reps=1).solve(problem, seed=0)
    answer = Qaoa(reps=1, angles="sampler", iterations=40, sampler="statevector").solve(problem, seed=0)
    assert answer.info["evaluations"] == 2 * 40 + 12
    mean = problem.random_mean_energy()
    assert answer.info["expected"] - mean < 0.6 * (exact.info["expected"] - mean)


def test_angles_transfer_from_an_earlier_block():
    first, second = random_problem(n=8, k=4, seed=6), random_problem(n=10, k=5, seed=7)
    angles = Qaoa().solve(first, seed=0).info["angles"]
    own = Qaoa().solve(second, seed=0).info
    given = Qaoa(transfer_from=angles).solve(second, seed=0).info
    assert given["angles"] == angles
    assert given["evaluations"] == 0
    mean = second.random_mean_energy()
    assert given["expected"] - mean < 0.7 * (own["expected"] - mean)
    text = ",".join(map(repr, angles))
    assert get_solver(f"qaoa?transfer_from={text}") == Qaoa(transfer_from=angles)


@pytest.mark.parametrize(
    "sampler",
    [
        StatevectorSampler(seed=1),
        BackendSamplerV2(backend=GenericBackendV2(6, coupling_map=[[i, i + 1] for i in range(5)], seed=1)),
    ],
    ids=["statevector", "a device with a coupling map"],
)
def test_the_callers_own_sampler_runs_the_circuit(sampler):
    problem = random_problem()
    answer = Qaoa(sampler=sampler, reps=1, shots=300).solve(problem, seed=0)
    assert answer.first.energy == pytest.approx(optimum(problem))
    assert answer.info["sampler"] == type(sampler).__name__
    assert not Qaoa(sampler=sampler).capabilities.deterministic


def test_larger_blocks_are_refused_before_anything_is_allocated_and_decomposed_instead():
    problem = BlockProblem.low_rank(np.random.default_rng(0).normal(size=(5000, 3)), cardinality=2500)
    estimate = Qaoa().estimate(problem)
    assert not estimate.fits
    assert "5000" in estimate.note
    with pytest.raises(SolverError, match=r"at most 24 variables.*5000.*Decompose"):
        Qaoa().solve(problem)
    smaller = random_problem(n=40, k=20)
    answer = Decompose(Qaoa(reps=1, shots=200, starts=1), rounds=4).solve(smaller, seed=0)
    assert smaller.is_feasible(answer.record.sample).all()
    assert Decompose(Qaoa()).size == 12


def test_too_many_amplitudes_are_refused_with_their_number():
    class Device(StatevectorSampler):
        """A sampler without a known number of qubits."""

    problem = random_problem(n=36, k=18)
    solver = Qaoa(sampler=Device())
    assert "9.08e+09 amplitudes" in solver.estimate(problem).note
    with pytest.raises(SolverError, match=r"9.08e\+09 amplitudes.*at most 4194304.*Decompose"):
        solver.solve(problem)
    few = random_problem(n=36, k=2)
    assert solver.estimate(few).fits


def test_an_estimate_names_gates_depth_memory_and_shots():
    problem = random_problem(n=10, k=5)
    estimate = Qaoa().estimate(problem)
    for part in ("10 qubits", "two-qubit gates", "depth", "1024 shots", "MB"):
        assert part in estimate.note
    facts = Qaoa().solve(problem, seed=0).info["circuit"]
    assert f"{facts['two_qubit_gates']} two-qubit gates, depth {facts['depth']}" in estimate.note
    assert Qaoa(angles="sampler").estimate(problem).seconds > estimate.seconds


def test_a_target_and_a_stop_end_the_search():
    problem = random_problem(n=8, k=4)
    state = problem.random_states(1, 0)
    answer = Qaoa().solve(problem, initial_states=state, target=float(problem.energy(state)[0]))
    assert answer.info["ended_by"] == "target"
    assert answer.info["shots"] == 0
    stopped = Qaoa(starts=50).solve(problem, seed=0, stop=lambda: True)
    assert stopped.info["ended_by"] == "stop"
    assert stopped.info["evaluations"] == 0
    assert problem.is_feasible(stopped.record.sample).all()


def test_a_time_limit_ends_the_search_for_angles(monkeypatch):
    seconds = itertools.count(0.0, 0.01)  # each reading of the clock is 0.01 s after the one before
    monkeypatch.setattr("solvers.run.clock", lambda: next(seconds))
    answer = Qaoa(reps=4, starts=10_000).solve(random_problem(n=14, k=7), seed=0, time_limit=2.0)
    assert answer.info["ended_by"] == "time_limit"
    assert 0 < answer.info["evaluations"] <= 200
    assert answer.info["timing"]["solve"] < 2.5


def test_the_record_is_json_and_describes_the_circuit():
    info = Qaoa().solve(random_problem(), seed=0).info
    assert json.loads(json.dumps(info)) == info
    assert info["circuit"]["qubits"] == 6
    assert info["mixer"] == "xy-complete"
    assert len(info["angles"]) == 4
    assert {"qiskit", "qiskit-aer"} <= set(info["versions"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reps": 0}, "reps 0"),
        ({"shots": 1.5}, "shots 1.5"),
        ({"mixer": "xy"}, "mixer 'xy' must be one of xy-ring, xy-complete, x"),
        ({"sampler": "cirq"}, "sampler 'cirq' must be one of statevector, aer"),
        ({"sampler": "noisy:x"}, "noisy:SEED"),
        ({"sampler": "ibm"}, "ibm:NAME"),
        ({"sampler": 3}, "a V2 sampler"),
        ({"angles": "guess"}, "angles 'guess'"),
        ({"cvar": 0.0}, "cvar 0.0"),
        ({"cvar": "half"}, "cvar 'half'"),
        ({"warm_start": 1}, "warm_start 1"),
        ({"polish": "yes"}, "polish 'yes'"),
        ({"penalty": "large"}, "penalty 'large'"),
        ({"penalty": -1.0}, "penalty -1.0"),
        ({"mode": "queue"}, "mode 'queue'"),
        ({"transfer_from": (1.0, 2.0)}, "4 numbers for reps=2"),
        ({"transfer_from": "a"}, "4 numbers"),
        ({"runtime_options": "twirling"}, "must be KEY:VALUE"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Qaoa(**options)


def test_options_are_read_from_text():
    solver = get_solver("qaoa?reps=3&mixer=xy-ring&shots=64&cvar=0.2&warm_start=true&penalty=2.5&sampler=noisy:4")
    assert solver == Qaoa(reps=3, mixer="xy-ring", shots=64, cvar=0.2, warm_start=True, penalty=2.5, sampler="noisy:4")
