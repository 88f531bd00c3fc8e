"""The exact simulations agree with Qiskit, and their gradients with finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.quantum_info import Statevector

from problems import BlockProblem
from solvers.exact.solver import feasible_states
from solvers.qaoa.ansatz import MIXERS, Ansatz, spread
from solvers.qaoa.circuits import parameter_values, qaoa_circuit
from solvers.qaoa.subspace import Simulation


def random_problem(n, cardinality, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), cardinality, offset=3.0, groups=groups)


PROBLEMS = {
    "n=2": random_problem(2, 1),
    "n=3": random_problem(3, 1),
    "n=6": random_problem(6, 2),
    "n=7": random_problem(7, 5),
    "n=8": random_problem(8, 4),
    "groups": random_problem(8, [2, 2, 1], np.array([0, 1, 0, 1, 0, 1, 2, 2])),
    "groups without choice": random_problem(8, [2, 0, 2], np.array([0, 1, 0, 1, 2, 2, 0, 0])),
    "2:4": random_problem(8, 2, np.arange(8) // 4),
}


def ansatz_of(problem, reps, mixer, warm=False):
    state = problem.random_states(1, 1)[0] if warm else None
    return Ansatz.of(problem, reps, mixer, 4.0 if mixer == "x" else 0.0, state)


@pytest.mark.parametrize("warm", [False, True], ids=["uniform", "warm"])
@pytest.mark.parametrize("reps", [1, 2, 3])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_amplitudes_are_those_of_qiskit(name, mixer, reps, warm):
    problem = PROBLEMS[name]
    ansatz = ansatz_of(problem, reps, mixer, warm)
    angles = np.random.default_rng(reps).normal(size=2 * reps)
    circuit = qaoa_circuit(ansatz, measure=False)
    qiskit = Statevector(circuit.assign_parameters(parameter_values(circuit, angles.tolist()))).data
    simulation = Simulation.of(problem, ansatz)
    ours = np.zeros(2**problem.n, complex)
    ours[simulation.masks] = simulation.amplitudes(angles)
    assert np.abs(ours - qiskit).max() < 1e-9
    if mixer != "x":
        assert len(simulation.masks) == feasible_states(problem)


@pytest.mark.parametrize("cvar", [1.0, 0.3])
@pytest.mark.parametrize("mixer", MIXERS)
def test_gradients_agree_with_finite_differences(mixer, cvar):
    problem = PROBLEMS["groups"]
    simulation = Simulation.of(problem, ansatz_of(problem, 2, mixer, warm=True))
    angles = np.random.default_rng(5).normal(size=4)
    _, gradient = simulation.value_and_gradient(angles, cvar)
    step = 1e-5
    for axis, derivative in zip(np.eye(4), gradient, strict=True):
        high, low = (simulation.value_and_gradient(angles + s * step * axis, cvar)[0] for s in (1, -1))
        assert derivative == pytest.approx((high - low) / (2 * step), abs=1e-6)


def test_cvar_is_the_mean_of_the_best_outcomes():
    problem = PROBLEMS["n=8"]
    simulation = Simulation.of(problem, ansatz_of(problem, 1, "xy-ring"))
    angles = [0.4, 0.3]
    value, _ = simulation.value_and_gradient(angles, 0.25)
    order = np.argsort(simulation.costs)
    share = simulation.probabilities(angles)[order]
    taken = np.clip(0.25 - (np.cumsum(share) - share), 0.0, share)
    assert value == pytest.approx(taken @ simulation.costs[order] / 0.25)


def test_the_expected_cost_is_in_the_units_of_the_problem():
    problem = PROBLEMS["2:4"]
    simulation = Simulation.of(problem, ansatz_of(problem, 1, "xy-complete"))
    assert simulation.mean_cost([0.0, 0.0]) == pytest.approx(problem.random_mean_energy())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 1000), st.floats(-30, 30))
def test_the_spread_is_the_standard_deviation_over_feasible_states(sizes, seed, power):
    rng = np.random.default_rng(seed)
    n, groups = sum(sizes), rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    counts = [int(rng.integers(0, size + 1)) for size in sizes]
    Q = rng.normal(size=(n, n)) * 10.0**power
    problem = BlockProblem(Q, rng.normal(size=n) * 10.0**power, counts, groups=groups)
    states = np.array(list(itertools.product((0, 1), repeat=n)), np.int8)
    energies = problem.energy(states[problem.is_feasible(states)])
    assert spread(problem) == pytest.approx(energies.std(), rel=1e-6, abs=1e-7 * 10.0**power)


def test_problems_whose_states_all_cost_the_same_are_simulated():
    problem = BlockProblem(np.zeros((4, 4)), np.ones(4), 2)
    ansatz = Ansatz.of(problem, 1, "xy-ring")
    assert ansatz.scale == 1.0
    value, gradient = Simulation.of(problem, ansatz).value_and_gradient([0.3, 0.2])
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
