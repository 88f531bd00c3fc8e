"""Samplers that know no cardinality answer feasibly, and the record says what they had found by themselves."""

from __future__ import annotations

from typing import ClassVar

import dimod
import numpy as np
import pytest
from dwave.samplers.sa.sampler import default_beta_range

from problems import BlockProblem
from problems.penalty import penalty
from solvers import OptionError, SolverError, available, get_solver, solve
from solvers.local.repair import polish
from solvers.ocean.penalised import KEPT
from solvers.ocean.samplers import DimodSampler, OceanSA, OceanTabu, beta_range
from solvers.testing import optimum


def random_problem(n, k, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, **options)


class Bad(dimod.Sampler):
    """Answers all ones, whatever is asked."""

    parameters: ClassVar[dict] = {"seed": [], "note": []}
    properties: ClassVar[dict] = {}
    noted: ClassVar[list] = []

    def sample(self, bqm, **given):
        Bad.noted.append(given)
        return dimod.SampleSet.from_samples_bqm(np.ones((3, len(bqm)), np.int8), bqm)


class Failing(Bad):
    """Breaks."""

    def sample(self, bqm, **given):
        raise RuntimeError("the service is down")


class Backwards(dimod.Sampler):
    """An exact answer in spins, its variables in reverse."""

    parameters: ClassVar[dict] = {}
    properties: ClassVar[dict] = {}

    def sample(self, bqm, **given):
        answer = dimod.ExactSolver().sample(bqm.spin)
        order = sorted(answer.variables, reverse=True)
        rows = answer.record.sample[:, [answer.variables.index(v) for v in order]]
        return dimod.SampleSet.from_samples((rows, order), "SPIN", energy=answer.record.energy)


class Picky(Bad):
    """Wants an argument."""

    def __init__(self, token):
        self.token = token


@pytest.fixture
def here(monkeypatch):
    """Samplers of this file under an import path."""
    import sys
    import types

    module = types.ModuleType("samplers_of_mine")
    for cls in (Bad, Failing, Backwards, Picky):
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "samplers_of_mine", module)
    Bad.noted.clear()
    return "dimod:samplers_of_mine."


def test_infeasible_rows_are_repaired_counted_and_polished(here):
    problem = random_problem(12, 5)
    answer = get_solver(here + "Bad").solve(problem, seed=0)
    assert problem.is_feasible(answer.record.sample).all()
    assert answer.info["raw"] == {"energy": None, "feasible": 0.0}
    assert answer.info["repaired"] == 2  # the three rows are one, and each of two penalties was tried
    assert answer.info["penalty"] == penalty(problem, "sufficient")
    x = answer.record.sample[:1]
    assert np.array_equal(polish(problem, x), x)


def test_a_search_is_begun_again_only_where_no_row_keeps_the_cardinality(here):
    problem = random_problem(8, 4)
    get_solver(here + "Bad").solve(problem, seed=0)
    assert len(Bad.noted) == 2
    get_solver(here + "Bad?penalty=sufficient").solve(problem, seed=0)
    assert len(Bad.noted) == 3
    assert get_solver(here + "Backwards").solve(problem).info["rows"] == 2**8


def test_options_and_a_seed_of_31_bits_reach_the_sampler(here):
    get_solver(here + "Bad?note=3").solve(random_problem(6, 3), seed=2**62)
    assert Bad.noted[0]["note"] == 3
    assert 0 <= Bad.noted[0]["seed"] < 2**31


def test_spins_and_any_order_of_variables_are_read(here):
    problem = random_problem(9, 4)
    answer = get_solver(here + "Backwards", polish=False).solve(problem)
    assert answer.first.energy == pytest.approx(optimum(problem))
    assert answer.info["raw"]["energy"] == pytest.approx(optimum(problem))
    assert len(answer) <= KEPT


def test_a_strangers_errors_name_the_backend(here):
    with pytest.raises(SolverError, match=r"samplers_of_mine\.Failing failed: RuntimeError: the service is down"):
        get_solver(here + "Failing").solve(random_problem(6, 3))
    with pytest.raises(OptionError, match=r"cannot be made without arguments: .*token"):
        get_solver(here + "Picky")


def test_dimods_own_exact_solver_is_one_flag_away():
    problem = random_problem(10, 5)
    answer = solve(problem, "dimod:dimod.ExactSolver")
    assert answer.first.energy == pytest.approx(optimum(problem))
    assert answer.info["backend"] == "dimod:dimod.ExactSolver"
    assert answer.info["repaired"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimod:neal_of_old.Sampler", "cannot be imported: No module named 'neal_of_old'.*pip install dwave-samplers"),
        ("dimod:dimod.NoSuchSolver", "NoSuchSolver"),
        ("dimod:dimod.SampleSet", "not a dimod sampler"),
        ("dimod:ExactSolver", "must be an import path such as dimod.ExactSolver"),
        ("dimod:dwave.samplers.TabuSampler?num_read=3", "did you mean 'num_reads'"),
        ("dimod:dwave.samplers.TabuSampler?seed=3", "seed is no option.*solve"),
        ("dimod:dimod.ExactSolver?path=x", "no option 'path'"),
        ("ocean-sa?penalty=large", "penalty 'large' must be a number, 'sufficient' or 'measured'"),
        ("ocean-sa?penalty=nan", "penalty nan must be a finite number"),
        ("ocean-sa?penalty=-1", "penalty -1.0 must be a finite number"),
        ("ocean-sa?polish=maybe", "polish='maybe' must be bool"),
        ("ocean-sa?num_reads=0", "num_reads 0 must be"),
        ("ocean-sa?beta_schedule_type=cubic", "beta_schedule_type 'cubic' must be 'geometric' or 'linear'"),
        ("ocean-tabu?timeout=0", "timeout 0 must be"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text, message):
    with pytest.raises(OptionError, match=message):
        get_solver(text)


def test_text_becomes_the_samplers_own_types():
    solver = get_solver("dimod:dwave.samplers.SteepestDescentSolver?num_reads=7&large_sparse_opt=true&penalty=2.5")
    assert dict(solver.parameters) == {"num_reads": 7, "large_sparse_opt": True}
    assert solver.penalty == 2.5
    assert DimodSampler.named("dimod.ExactSolver", {}).polish is True


def test_whether_a_dimod_sampler_is_there_is_a_question_not_an_error():
    assert available("dimod:dimod.ExactSolver")
    missing = available("dimod:not_installed.Sampler")
    assert not missing
    assert "pip" in missing.reason


@pytest.mark.parametrize("solver", [OceanSA(num_reads=3, num_sweeps=50), OceanTabu(num_restarts=2)])
@pytest.mark.parametrize("problem", [random_problem(30, 15), random_problem(24, [4] * 3, groups=np.arange(24) % 3)])
def test_what_the_toolkit_found_is_told_apart_from_what_we_made_of_it(solver, problem):
    polished = solver.solve(problem, seed=1)
    bare = type(solver)(**{**vars(solver), "polish": False}).solve(problem, seed=1)
    assert polished.info["raw"] == bare.info["raw"]
    assert polished.first.energy <= bare.first.energy + 1e-9
    assert polished.info["penalty"] in (penalty(problem, "measured"), penalty(problem, "sufficient"))


def test_a_penalty_that_is_a_number_is_used_as_it_is():
    assert solve(random_problem(10, 5), "ocean-sa?penalty=7.5&num_sweeps=10", seed=0).info["penalty"] == 7.5


def test_the_tabu_sampler_ends_at_the_target_by_itself():
    problem = random_problem(100, 50, offset=1000.0)
    best = OceanTabu().solve(problem, seed=0).first.energy
    answer = OceanTabu(num_restarts=1_000_000).solve(problem, seed=0, target=best + 1e-9 * abs(best))
    assert answer.info["ended_by"] == "target"


def test_reads_are_as_many_as_asked_for():
    problem = random_problem(20, 10)
    assert OceanSA(num_reads=4, num_sweeps=10).solve(problem, seed=0).info["rows"] == 4
    assert OceanTabu(num_reads=3, num_restarts=0).solve(problem, seed=0).info["rows"] == 3


def test_a_stop_is_heard_between_reads():
    asked = iter([False, False, True, True, True])
    answer = OceanSA(num_reads=100, num_sweeps=1).solve(random_problem(20, 10), seed=0, stop=lambda: next(asked, True))
    assert answer.info["ended_by"] == "stop"
    assert answer.info["rows"] < 100


def test_a_tabu_tenure_longer_than_the_problem_is_refused():
    with pytest.raises(OptionError, match="tenure 30 must be less than the problem's 20 variables"):
        OceanTabu(tenure=30).solve(random_problem(20, 10), seed=0)


def test_only_a_tabu_search_without_timeout_repeats_itself():
    assert OceanTabu().capabilities.deterministic
    assert not OceanTabu(timeout=20).capabilities.deterministic
    assert not get_solver("dimod:dwave.samplers.TabuSampler").capabilities.deterministic
    assert get_solver("dimod:dwave.samplers.SteepestDescentSolver").capabilities.deterministic


@pytest.mark.parametrize("problem", [random_problem(20, 7), BlockProblem(np.eye(5), cardinality=2)])
def test_the_range_of_temperatures_is_the_annealers_own(problem):
    model = problem.to_bqm("measured").spin
    assert beta_range(model) == pytest.approx(default_beta_range(model))
