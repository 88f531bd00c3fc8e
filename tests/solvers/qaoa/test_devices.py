"""Devices of qiskit-ibm-runtime: what is missing is reported, jobs are awaited, snapshots are simulated."""

from __future__ import annotations

import importlib.util
import types

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler

from problems import BlockProblem
from solvers import OptionError, RemoteError, ServiceError, SolverError, UnavailableError
from solvers.qaoa import Qaoa, samplers
from solvers.qaoa.ansatz import Ansatz
from solvers.qaoa.circuits import qaoa_circuit
from solvers.qaoa.samplers import Device, read_options
from solvers.testing import optimum

RUNTIME = importlib.util.find_spec("qiskit_ibm_runtime") is not None


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return BlockProblem(rng.normal(size=(4, 4)), rng.normal(size=4), 2)


class Queue:
    """A V2 sampler whose jobs stay queued for a number of checks, like those of a service."""

    def __init__(self, checks, failure=None):
        self.checks, self.failure, self.cancelled = checks, failure, False
        self._sampler = StatevectorSampler(seed=0)

    def run(self, pubs, *, shots):
        job = self._sampler.run(pubs, shots=shots)
        if self.failure:
            raise self.failure

        def in_final_state():
            self.checks -= 1
            return self.checks < 0

        def cancel():
            self.cancelled = True

        return types.SimpleNamespace(
            job_id=lambda: "job-1", in_final_state=in_final_state, cancel=cancel, result=job.result,
            status=lambda: "QUEUED" if self.checks > 1 else "RUNNING",
        )  # fmt: skip


def sample(problem, queue, should_end=lambda: False):
    device = Device("ibm:test", queue, transpiles=False, remote=True)
    circuit = qaoa_circuit(Ansatz.of(problem, 1, "xy-ring"))
    return device, device.sample(circuit, np.array([0.5, 0.3]), 20, 0, should_end)


def test_a_remote_job_is_awaited_and_its_id_is_kept(problem, monkeypatch, caplog):
    monkeypatch.setattr(samplers, "_POLL", 0.0)
    caplog.set_level("INFO", logger="solvers.qaoa.samplers")
    device, states = sample(problem, Queue(3))
    assert device.jobs == ["job-1"]
    assert device.queue > 0.0
    assert "job-1" in caplog.text
    assert states.shape == (20, 4)
    assert problem.is_feasible(states).all()


def test_a_job_that_still_waits_is_cancelled_when_the_run_ends(problem, monkeypatch):
    monkeypatch.setattr(samplers, "_POLL", 0.0)
    queue = Queue(1000)
    with pytest.raises(SolverError, match="job-1"):
        sample(problem, queue, should_end=lambda: queue.checks < 990)
    assert queue.cancelled


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ConnectionError("no route"), RemoteError),
        (type("ApiError", (Exception,), {"status_code": 503})("busy"), RemoteError),
        (type("ApiError", (Exception,), {"status_code": 429})("too many"), RemoteError),
        (type("ApiError", (Exception,), {"status_code": 401})("unauthorized"), ServiceError),
    ],
)
def test_temporary_and_permanent_failures_are_distinguished(problem, failure, kind):
    with pytest.raises(kind, match="ibm:test failed"):
        sample(problem, Queue(0, failure))


def test_options_of_the_runtime_are_read_from_text():
    text = "dynamical_decoupling.enable:true;twirling.num_randomizations:8;twirling.shots_per_randomization:auto"
    assert read_options(text) == {
        "dynamical_decoupling": {"enable": True},
        "twirling": {"num_randomizations": 8, "shots_per_randomization": "auto"},
    }
    assert read_options({"a": 1}) == {"a": 1}


@pytest.mark.skipif(RUNTIME, reason="qiskit-ibm-runtime is installed")
@pytest.mark.parametrize("sampler", ["fake:manila", "ibm:least_busy"])
def test_without_the_runtime_the_error_names_the_extra(problem, sampler):
    with pytest.raises(UnavailableError, match=r"hybrid-icbs\[ibm\]"):
        Qaoa(sampler=sampler).solve(problem)
    assert Qaoa(sampler=sampler).estimate(problem).fits


def test_without_an_account_the_error_says_how_to_set_one(problem, monkeypatch, tmp_path):
    pytest.importorskip("qiskit_ibm_runtime")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    monkeypatch.setattr("qiskit_ibm_runtime.QiskitRuntimeService.saved_accounts", dict)
    solver = Qaoa(sampler="ibm:least_busy")
    with pytest.raises(UnavailableError, match="QISKIT_IBM_TOKEN"):
        solver.solve(problem)
    assert solver.capabilities.remote
    estimate = solver.estimate(problem)
    assert estimate.charge_seconds > 0.0
    assert estimate.calls == 1
    assert "assumed" in estimate.note


@pytest.mark.parametrize("mode", ["job", "batch", "session"])
def test_a_snapshot_of_a_device_is_simulated_with_its_noise(problem, mode):
    pytest.importorskip("qiskit_ibm_runtime")
    solver = Qaoa(sampler="fake:manila", reps=1, shots=200, mode=mode)
    first, second = (solver.solve(problem, seed=1) for _ in range(2))
    assert first.first.energy == pytest.approx(optimum(problem))
    assert first.info["sampler"] == "fake:fake_manila"
    assert 0.0 < first.info["raw"]["feasible"] < 1.0
    assert first.info["raw"] == second.info["raw"]
    assert "fake_manila" in solver.estimate(problem).note


def test_a_device_that_is_too_small_or_does_not_exist_is_refused(problem):
    pytest.importorskip("qiskit_ibm_runtime")
    larger = BlockProblem(np.ones((8, 8)), cardinality=2)
    assert "fake_manila has 5" in Qaoa(sampler="fake:manila").estimate(larger).note
    with pytest.raises(SolverError, match="needs 8 qubits, fake:fake_manila has 5"):
        Qaoa(sampler="fake:manila").solve(larger)
    with pytest.raises(OptionError, match="no such fake device"):
        Qaoa(sampler="fake:nowhere").solve(problem)
    with pytest.raises(OptionError, match="runtime_options"):
        Qaoa(sampler="fake:manila", runtime_options="twirling.enable_gate:true").solve(problem)
