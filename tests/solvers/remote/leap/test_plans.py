"""What a call takes is known before anything is sent."""

from __future__ import annotations

import numpy as np
import pytest

from problems import BlockProblem
from solvers import get_solver
from solvers.remote.leap import Leap, estimates, models


def dense(n=30, k=15, seed=0, **options):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, **options)


def factored(n=30, k=15, rank=4, **options):
    rng = np.random.default_rng(0)
    return BlockProblem.low_rank(rng.normal(size=(n, rank)), rng.normal(size=n), k, **options)


PROBLEMS = [
    dense(), factored(), factored(rank=40), dense(200, 50), factored(2000, 1000, 20),
    dense(k=[5, 0, 3], groups=np.arange(30) % 3), factored(k=[2] * 10, groups=np.arange(30) % 10),
    factored(k=[0, 2], groups=np.arange(30) % 2),
]  # fmt: skip


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """No credentials, and no network that would answer."""
    import os
    import socket

    for name in [name for name in os.environ if name.startswith("DWAVE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "empty.conf").touch()
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "empty.conf"))

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_nonlinear_models_size_is_foretold(problem):
    model = models.nl_model(problem)
    assert estimates.nl_nodes(problem) == model.num_nodes()
    assert estimates.nl_state_size(problem) == model.state_size()


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("kind", ["nl", "cqm", "bqm"])
def test_the_size_of_an_upload_is_foretold(problem, kind):
    make = {"nl": models.nl_file, "cqm": models.cqm_file, "bqm": lambda p: models.bqm_file(p, 1.0)}[kind]
    with make(problem) as file:
        assert estimates.upload_size(kind, problem) == pytest.approx(models.size(file), rel=0.1, abs=3000)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_least_times_are_those_of_dwave_system(problem):
    from dwave.system import LeapHybridBQMSampler, LeapHybridCQMSampler, LeapHybridNLSampler

    models_of = {
        "nl": (LeapHybridNLSampler, "estimated_min_time_limit", models.nl_model(problem)),
        "cqm": (LeapHybridCQMSampler, "min_time_limit", problem.to_cqm()),
        "bqm": (LeapHybridBQMSampler, "min_time_limit", problem.to_bqm(1.0)),
    }
    for kind, (cls, rule, model) in models_of.items():
        sampler = object.__new__(cls)
        small = {"min_time_limit": 0.0, "minimum_time_limit_s": 0.0}
        sampler._properties = estimates.DOCUMENTED[kind] | small
        expected = getattr(sampler, rule)(model)
        assert estimates.minimum_time(kind, problem, sampler._properties) == pytest.approx(expected, rel=1e-6)


def test_a_dense_block_of_4096_takes_40_billed_seconds_as_cqm_and_5_as_nl_in_low_rank(nobody):
    problem = factored(4096, 2048, 200)
    cqm, nl = Leap(solver="cqm").plan(problem), Leap().plan(problem)
    assert cqm.charge_seconds == pytest.approx(40, abs=1)
    assert nl.charge_seconds == 5.0
    assert nl.upload_bytes == pytest.approx(6.6e6, rel=0.02)
    assert nl.assumed
    assert "assumed" in nl.note


@pytest.mark.parametrize("kind", ["nl", "cqm", "bqm", "qpu"])
def test_estimates_need_neither_credentials_nor_a_network(nobody, kind):
    solver = Leap(solver=kind)
    assert not solver.available()
    estimate = solver.estimate(dense())
    assert estimate.fits
    assert estimate.calls == 1
    assert estimate.charge_seconds > 0.0
    assert "assumed" in estimate.note
    assert (estimate.upload_bytes > 0.0) == (kind != "qpu")


def test_what_does_not_fit_is_said_with_sizes(nobody):
    plan = Leap(solver="qpu").plan(dense(200, 100))
    assert not plan.fits
    assert plan.note == "the problem has 200 fully coupled variables, the qpu solver takes 160"
    huge = BlockProblem.low_rank(np.zeros((1_000_000, 200), np.float32), None, 500_000)
    assert "bytes of state" in Leap().plan(huge).note
    assert "biases, the cqm solver takes 750000000" in Leap(solver="cqm").plan(huge).note
    assert "variables" not in Leap().plan(huge).note
    assert not Leap(solver="bqm").plan(dense(), time_limit=1e6).fits


def test_properties_of_the_service_replace_the_documented_ones(sapi):
    solver = Leap(solver="cqm")
    assert solver.plan(dense()).assumed
    sapi.command("limits", solver="hybrid_cqm_test", minimum_time_limit_s=11.0)
    live = solver.plan(dense(), live=True)
    assert (live.minimum_time_limit, live.charge_seconds, live.assumed) == (11.0, 11.0, False)
    assert live.at == "hybrid_cqm_test"
    assert solver.estimate(dense()).charge_seconds == 11.0  # what a call has fetched is known from then on
    assert live.as_dict()["note"] == "by the properties of hybrid_cqm_test"


def test_the_qpus_access_time_follows_its_own_timing_data(sapi):
    solver = Leap(solver="qpu", num_reads=500)
    plan = solver.plan(dense(), live=True)
    from solvers.remote.leap.service import connection

    qpu = connection("qpu", None, None, None).solver
    expected = qpu.estimate_qpu_access_time(round(30 * (30 / 12 + 1)), num_reads=500, annealing_time=20.0)
    assert plan.charge_seconds == pytest.approx(expected * 1e-6, rel=0.01)
    assert plan.num_reads == 500
    assert plan.at == "Pegasus4_test/01test"


def test_a_decomposition_multiplies_calls_charges_and_uploads(nobody):
    solver = get_solver("decompose?solver=leap&size=20&rounds=7")
    whole, one = solver.estimate(dense(100, 50)), Leap().estimate(dense(20, 10))
    assert whole.calls == 7
    assert whole.charge_seconds == 7 * one.charge_seconds == 35.0
    assert whole.upload_bytes == pytest.approx(7 * one.upload_bytes, rel=0.05)
