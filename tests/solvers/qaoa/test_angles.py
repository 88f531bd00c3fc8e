"""Search for angles: by gradients, on a sampler, and by transfer from smaller blocks."""

from __future__ import annotations

import numpy as np
import pytest

from problems import BlockProblem
from solvers.qaoa.angles import by_gradients, interpolated, on_sampler, parsed, ramp, transferred
from solvers.qaoa.ansatz import Ansatz
from solvers.qaoa.subspace import Simulation


def simulation(n=10, k=5, reps=1, mixer="xy-complete", seed=0):
    rng = np.random.default_rng(seed)
    problem = BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k)
    return problem, Simulation.of(problem, Ansatz.of(problem, reps, mixer))


def never():
    return False


def search(simulated, reps, starts=3, should_end=never):
    rng = np.random.default_rng(0)
    return by_gradients(lambda p: simulated.value_and_gradient, reps, starts, 100, rng, should_end)


def test_one_layer_is_as_good_as_a_fine_grid():
    _, simulated = simulation()
    grid = [
        simulated.value_and_gradient([gamma, beta])[0]
        for gamma in np.linspace(0, 3, 40)
        for beta in np.linspace(0, 1.5, 40)
    ]
    assert search(simulated, 1).value <= min(grid) + 1e-6


def test_more_layers_are_better():
    _, simulated = simulation()
    values = [search(simulated, reps).value for reps in (1, 2, 3)]
    assert values[0] > values[1] > values[2]


def test_gammas_of_a_ramp_rise_and_betas_fall_and_interpolation_keeps_its_shape():
    rising, falling = np.split(ramp(4), 2)
    assert (np.diff(rising) > 0).all()
    assert (np.diff(falling) < 0).all()
    longer = interpolated(np.array([1.0, 3.0, 0.8, 0.2]))
    np.testing.assert_allclose(longer, [1.0, 2.0, 3.0, 0.8, 0.5, 0.2])


def test_a_search_ends_between_evaluations_with_the_best_so_far():
    _, simulated = simulation()
    asked = iter(range(100))
    found = search(simulated, 2, should_end=lambda: next(asked) >= 3)
    assert found.evaluations == 3
    assert found.value < simulated.value_and_gradient(ramp(2))[0]
    at_once = search(simulated, 2, should_end=lambda: True)
    np.testing.assert_array_equal(at_once.angles, ramp(2))


def test_spsa_descends_through_noise():
    _, simulated = simulation()
    noise = np.random.default_rng(1)

    def measured(angles):
        return simulated.value_and_gradient(angles)[0] + 0.03 * noise.normal()

    start = np.array([0.2, 0.1])
    found = on_sampler(measured, start, 100, np.random.default_rng(2), never)
    best = search(simulated, 1).value
    begun, ended = (simulated.value_and_gradient(angles)[0] for angles in (start, found.angles))
    assert ended < best + 0.1 * (begun - best)


@pytest.mark.parametrize("mixer", ["xy-complete", "xy-ring", "x"])
def test_angles_of_small_sub_blocks_suit_the_whole_problem(mixer):
    problem, simulated = simulation(n=14, k=6, reps=2, mixer=mixer)
    found = transferred(problem, 2, mixer, 0.0, None, 1.0, 2, 60, np.random.default_rng(0), never)
    own = search(simulated, 2)
    start = simulated.value_and_gradient([0.0] * 4)[0]
    value = simulated.value_and_gradient(found.angles)[0]
    assert value - start < 0.7 * (own.value - start)


def test_angles_transfer_between_blocks_with_groups():
    rng = np.random.default_rng(3)
    problem = BlockProblem(rng.normal(size=(24, 24)), None, 2, groups=np.arange(24) // 4)
    found = transferred(problem, 1, "xy-ring", 0.0, problem.random_states(1, 0)[0], 0.5, 2, 30, rng, never)
    assert found.evaluations > 0
    assert np.isfinite(found.angles).all()


@pytest.mark.parametrize("text", ["0.1,0.2", "0.1; 0.2", (0.1, 0.2), [0.1, 0.2]])
def test_angles_are_read_from_text_and_numbers(text):
    assert parsed(text) == (0.1, 0.2)


@pytest.mark.parametrize("text", ["0.1", "", "a,b", "nan,1", ()])
def test_invalid_angles_are_refused(text):
    with pytest.raises(ValueError):
        parsed(text)
