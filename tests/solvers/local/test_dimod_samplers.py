"""`sa` and `tabu` are dimod samplers: any vartype, any labels, single flips or swaps."""

from __future__ import annotations

import unittest

import dimod
import dimod.testing
import numpy as np
import pytest

from problems import ProblemError
from solvers import OptionError
from solvers.local.sa import SimulatedAnnealing
from solvers.local.sampler import MOST_VARIABLES
from solvers.local.tabu import TabuSearch


@dimod.testing.load_sampler_bqm_tests(SimulatedAnnealing)
@dimod.testing.load_sampler_bqm_tests(TabuSearch)
class TestConformance(unittest.TestCase):
    """dimod's own kit."""

    def test_api(self):
        for sampler in (SimulatedAnnealing(), TabuSearch()):
            dimod.testing.assert_sampler_api(sampler)


SAMPLERS = pytest.mark.parametrize(
    "sampler", [SimulatedAnnealing(threads=1), TabuSearch(offspring=20, threads=1)], ids=["sa", "tabu"]
)


def model(seed: int, vartype: str) -> dimod.BinaryQuadraticModel:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    bqm = dimod.BinaryQuadraticModel(vartype)
    labels = [("w", i) if i % 2 else f"v{i}" for i in rng.permutation(n)]
    for i, label in enumerate(labels):
        bqm.add_variable(label, rng.normal())
        for other in labels[:i]:
            bqm.add_interaction(label, other, rng.normal())
    bqm.offset = rng.normal()
    return bqm


@SAMPLERS
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_single_flips_find_the_ground_state(sampler, vartype):
    for seed in range(6):
        bqm = model(seed, vartype)
        found = sampler.sample(bqm, num_reads=15, seed=seed)
        assert found.first.energy == pytest.approx(dimod.ExactSolver().sample(bqm).first.energy)
        assert found.vartype is bqm.vartype
        assert set(found.variables) == set(bqm.variables)
        dimod.testing.assert_sampleset_energies(found, bqm)


@SAMPLERS
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_a_cardinality_is_kept_and_its_best_state_found(sampler, vartype):
    for seed in range(6):
        bqm = model(seed, vartype)
        k = bqm.num_variables // 2
        every = dimod.ExactSolver().sample(bqm).record
        best = every.energy[(every.sample > 0).sum(axis=1) == k].min()
        found = sampler.sample(bqm, cardinality=k, num_reads=25, seed=seed)
        assert np.all((found.record.sample > 0).sum(axis=1) == k)
        assert found.first.energy == pytest.approx(best)


@SAMPLERS
@pytest.mark.parametrize("cardinality", [None, 2])
def test_a_row_comes_back_for_each_read_and_a_seed_repeats_them(sampler, cardinality):
    bqm = dimod.generators.gnm_random_bqm(9, 20, "BINARY", random_state=1)
    first = sampler.sample(bqm, cardinality=cardinality, num_reads=4, seed=3)
    again = sampler.sample(bqm, cardinality=cardinality, num_reads=4, seed=3)
    assert len(first) == 4
    assert np.array_equal(first.record.sample, again.record.sample)
    assert first.info["seed"] == 3


@SAMPLERS
@pytest.mark.parametrize("cardinality", [0, 3])
def test_a_model_with_one_feasible_state_gets_it_for_every_read(sampler, cardinality):
    bqm = dimod.BinaryQuadraticModel({"a": 1.0, "b": 2.0, "c": -3.0}, {"ab": 1.0}, 0.0, "BINARY")
    found = sampler.sample(bqm, cardinality=cardinality, num_reads=3)
    assert found.record.sample.tolist() == [[cardinality // 3] * 3] * 3


@SAMPLERS
def test_flips_work_at_any_scale_and_without_couplings(sampler):
    for scale in (1e-30, 1e30):
        found = sampler.sample_ising({"a": scale, "b": -2 * scale}, {("a", "b"): 0.5 * scale}, seed=0)
        assert found.first.sample == {"a": -1, "b": 1}
    found = sampler.sample_qubo({(i, i): (-1.0) ** i for i in range(30)}, seed=0)
    assert found.first.energy == -15.0


@SAMPLERS
def test_an_empty_model_has_an_empty_state_a_read(sampler):
    found = sampler.sample(dimod.BinaryQuadraticModel({}, {}, 1.5, "SPIN"), num_reads=2)
    assert (len(found), list(found.variables), found.record.energy.tolist()) == (2, [], [1.5, 1.5])


@SAMPLERS
def test_unknown_keywords_warn_as_dimods_samplers_do(sampler):
    bqm = dimod.BinaryQuadraticModel({"a": 1.0}, {}, 0.0, "BINARY")
    with pytest.warns(dimod.exceptions.SamplerUnknownArgWarning, match="chain_strength"):
        sampler.sample(bqm, chain_strength=2.0)


@SAMPLERS
def test_what_cannot_be_sampled_is_refused(sampler):
    bqm = dimod.BinaryQuadraticModel({"a": 1.0}, {}, 0.0, "BINARY")
    with pytest.raises(OptionError, match="num_reads 0 must be a whole number"):
        sampler.sample(bqm, num_reads=0)
    with pytest.raises(OptionError, match="seed -1"):
        sampler.sample(bqm, seed=-1)
    with pytest.raises(ProblemError, match="cardinality 2 is larger"):
        sampler.sample(bqm, cardinality=2)
    bqm.set_linear("a", float("nan"))
    with pytest.raises(ProblemError, match="finite"):
        sampler.sample(bqm)
    large = dimod.BinaryQuadraticModel(dict.fromkeys(range(MOST_VARIABLES + 1), 0.0), {}, 0.0, "BINARY")
    with pytest.raises(OptionError, match=f"at most {MOST_VARIABLES} are taken"):
        sampler.sample(large)


def test_a_sampler_is_still_a_plain_setting():
    assert SimulatedAnnealing(sweeps=3) == SimulatedAnnealing(sweeps=3) != SimulatedAnnealing(sweeps=4)
    assert hash(TabuSearch(offspring=3)) == hash(TabuSearch(offspring=3))
    assert repr(SimulatedAnnealing()) == "SimulatedAnnealing(restarts=8, sweeps=50, threads=None)"
    with SimulatedAnnealing() as sampler:  # dimod samplers are context managers
        assert sampler.sample_ising({"a": 1.0}, {}).first.sample == {"a": -1}
