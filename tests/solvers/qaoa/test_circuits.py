"""The circuits prepare the intended states, with the gates and depths that their authors give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from problems import BlockProblem
from solvers.qaoa.ansatz import EPSILON, Ansatz, Group, mixer_pairs
from solvers.qaoa.circuits import dicke_circuit, parameter_values, qaoa_circuit, warm_circuit
from solvers.qaoa.sizes import circuit_facts


def states(m):
    """All states of m qubits, in the order of their amplitudes."""
    return np.array(list(itertools.product((0, 1), repeat=m)))[:, ::-1]


@pytest.mark.parametrize(("m", "k"), [(m, k) for m in range(1, 8) for k in range(m + 1)])
def test_a_dicke_state_is_uniform_over_its_states(m, k):
    amplitudes = Statevector(dicke_circuit(m, k)).data
    wanted = (states(m).sum(axis=1) == k).astype(float)
    np.testing.assert_allclose(amplitudes, wanted / np.linalg.norm(wanted), atol=1e-12)


def test_dicke_states_take_linear_depth_and_few_gates():
    def facts(m, k):
        ansatz = Ansatz.of(BlockProblem(np.zeros((m, m)), cardinality=k), 1, "xy-ring")
        return circuit_facts(ansatz)

    depths = [facts(m, m // 2).depth for m in (8, 16, 24)]
    # The depth grows linearly; loading amplitudes would take exponential depth.
    assert depths[2] - depths[1] <= 1.1 * (depths[1] - depths[0])
    assert facts(24, 2).two_qubit_gates < 12 * 2 * 24


@pytest.mark.parametrize("solution", [(1, 0), (0, 1, 1), (1, 0, 0, 1, 0), (1, 1, 1, 0, 1, 0), (0, 0, 1, 0, 0, 0)])
def test_a_warm_start_weights_states_by_their_swaps_from_the_solution(solution):
    m = len(solution)
    amplitudes = Statevector(warm_circuit(Group(tuple(range(m)), sum(solution)), solution)).data
    each = states(m)
    # The product state in which every qubit is wrong with probability epsilon, projected.
    product = np.prod(np.where(each == solution, np.sqrt(1 - EPSILON), np.sqrt(EPSILON)), axis=1)
    wanted = np.where(each.sum(axis=1) == sum(solution), product, 0.0)
    np.testing.assert_allclose(amplitudes, wanted / np.linalg.norm(wanted), atol=1e-12)


@pytest.mark.parametrize("m", range(2, 10))
def test_mixers_act_once_on_each_pair(m):
    group = (Group(tuple(range(m)), 1),)
    ring, weights = mixer_pairs(group, "xy-ring")
    assert {frozenset(pair) for pair in ring} == {frozenset((t, (t + 1) % m)) for t in range(m)}
    assert len(ring) == (m if m > 2 else 1)
    assert set(weights) == {1.0}
    complete, weights = mixer_pairs(group, "xy-complete")
    assert sorted(complete) == list(itertools.combinations(range(m), 2))
    assert sum(w for (i, j), w in zip(complete, weights, strict=True) if 0 in (i, j)) == pytest.approx(
        2.0 if m > 2 else 1.0
    )


def test_pairs_are_within_groups_of_more_than_one_state():
    groups = (Group((0, 3, 5), 1), Group((1, 2), 2), Group((4, 6), 1))
    pairs, _ = mixer_pairs(groups, "xy-complete")
    assert {frozenset(pair) for pair in pairs} == {frozenset(p) for p in ((0, 3), (0, 5), (3, 5), (4, 6))}


def test_a_complete_mixer_is_at_most_as_deep_as_it_has_qubits():
    problem = BlockProblem(np.zeros((12, 12)), cardinality=1)
    ansatz = Ansatz.of(problem, 1, "xy-complete")
    assert qaoa_circuit(ansatz, measure=False).depth() - dicke_circuit(12, 1).depth() <= 12


def test_a_gamma_without_gates_gets_no_value():
    circuit = qaoa_circuit(Ansatz.of(BlockProblem(np.zeros((3, 3)), cardinality=1), 2, "xy-ring"))
    assert parameter_values(circuit, [1.0, 2.0, 3.0, 4.0]) == [3.0, 4.0]
