"""Every error of the service: what a run survives, where it stops, and what it says."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from problems import BlockProblem
from solvers import SolverError, UnavailableError
from solvers.errors import RemoteError, ServiceError
from solvers.remote.leap import Leap, service
from solvers.remote.solver import Account, MemoryLedger, accounting
from solvers.testing import optimum


def block(n=10, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k)


@pytest.fixture
def account(sapi):
    with accounting(Account(MemoryLedger(), "run")) as account:
        yield account


def solved(solver=None, problem=None):
    problem = problem or block()
    answer = (solver or Leap(solver="cqm")).solve(problem, seed=1)
    assert answer.first.energy == pytest.approx(optimum(problem))
    assert answer.info["sent"] is True


# Credentials


def test_without_credentials_it_says_what_to_do_and_asks_nobody(sapi, monkeypatch):
    monkeypatch.delenv("DWAVE_API_TOKEN")
    ready = Leap.available()
    assert not ready
    assert "dwave setup" in ready.reason
    assert "DWAVE_API_TOKEN" in ready.reason
    with pytest.raises(UnavailableError, match="no D-Wave credentials were found"):
        Leap().solve(block(), seed=0)
    with pytest.raises(UnavailableError, match="no D-Wave credentials were found"):
        Leap().solve_many([block()], seed=0)
    assert not sapi.counts


def test_an_unknown_profile_is_named(sapi):
    with pytest.raises(UnavailableError, match="unheard-of"):
        Leap(profile="unheard-of").solve(block(), seed=0)


def test_a_configuration_file_serves_as_well(sapi, monkeypatch, tmp_path):
    path = tmp_path / "dwave.conf"
    path.write_text(f"[defaults]\n\n[mine]\nendpoint = {sapi.url}\ntoken = {sapi.state.token}\n")
    monkeypatch.delenv("DWAVE_API_TOKEN")
    monkeypatch.delenv("DWAVE_API_ENDPOINT")
    solved(Leap(solver="cqm", profile="mine", config_file=str(path)))


def test_a_wrong_token_stops_the_run_and_is_not_told(account, sapi, monkeypatch):
    monkeypatch.setenv("DWAVE_API_TOKEN", "WRONG-ffffffffffffffffffffffffffffffffffffffff")
    with pytest.raises(UnavailableError, match=r"refuses the token \(401\)") as caught:
        Leap().solve(block(), seed=0)
    assert "ffff" not in str(caught.value)
    assert account.calls == 0


def test_a_token_that_is_taken_back_under_way_stops_the_run_and_loses_nothing(account, sapi):
    sapi.fault("submit", "status", code=401)
    with pytest.raises(UnavailableError, match="401"):
        Leap(solver="cqm").solve(block(), seed=1)
    assert account.calls == 0
    solved()
    assert sapi.counts["accepted"] == 1


# Solvers


def test_a_solver_that_does_not_exist_is_named(sapi):
    with pytest.raises(ServiceError, match=r"unheard_of.*dwave solvers"):
        Leap(solver_name="unheard_of").solve(block(), seed=0)


def test_a_solver_of_another_kind_is_refused(sapi):
    with pytest.raises(ServiceError, match="hybrid_cqm_test takes problems of type cqm, not nl"):
        Leap(solver_name="hybrid_cqm_test").solve(block(), seed=0)


def test_a_solver_that_is_offline_is_an_error_for_now(sapi):
    sapi.command("offline", solvers=["hybrid_cqm_test"])
    for options in ({}, {"solver_name": "hybrid_cqm_test"}):
        with pytest.raises(RemoteError, match=r"offline.*hybrid_cqm_test"):
            Leap(solver="cqm", **options).solve(block(), seed=0)
    sapi.command("offline", solvers=["hybrid_cqm_test"], status="ONLINE")
    service.disconnect()
    solved()


def test_a_solver_that_goes_offline_under_way_is_one_too(account, sapi):
    Leap(solver="cqm").plan(block(), live=True)
    sapi.command("offline", solvers=["hybrid_cqm_test"])
    with pytest.raises(RemoteError, match="offline"):
        Leap(solver="cqm").solve(block(), seed=1)
    sapi.command("offline", solvers=["hybrid_cqm_test"], status="ONLINE")
    solved()
    assert sapi.counts["accepted"] == 2  # the first one has failed for good


# What passes


PASSING = [
    ("solvers", {"do": "status", "code": 503}),
    ("solvers", {"do": "status", "code": 429, "retry_after": 0.05}),
    ("solvers", {"do": "drop"}),
    ("upload", {"do": "status", "code": 500, "times": 3}),
    ("part", {"do": "cut", "times": 3}),
    ("combine", {"do": "status", "code": 502, "times": 3}),
    ("submit", {"do": "status", "code": 429, "retry_after": 0.05, "times": 3}),
    ("submit", {"do": "status", "code": 503, "times": 3}),
    ("submit", {"do": "drop"}),
    ("submit", {"do": "garbage"}),
    ("submit", {"do": "drop-after"}),
    ("poll", {"do": "status", "code": 503, "times": 3}),
    ("poll", {"do": "status", "code": 429, "times": 3}),
    ("poll", {"do": "drop", "times": 2}),
    ("answer", {"do": "status", "code": 500, "times": 2}),
    ("answer", {"do": "drop-after", "times": 2}),
    ("answer", {"do": "garbage"}),
]


@pytest.mark.parametrize(("route", "fault"), PASSING, ids=lambda value: str(value))
def test_a_run_survives_what_passes_and_sends_one_job(account, sapi, monkeypatch, route, fault):
    # The client waits seconds between its own attempts at an upload.
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.05)))
    sapi.fault(route, **fault)
    solved()
    assert sapi.counts["accepted"] == 1
    (ticket,) = account.ledger.tickets()
    assert ticket["stage"] == "answered"


@pytest.mark.parametrize("fault", [{"do": "status", "code": 500}, {"do": "drop"}, {"do": "garbage"}], ids=str)
def test_an_answer_of_the_nonlinear_solver_that_is_cut_off_is_fetched_again(account, sapi, fault):
    sapi.fault("data", **fault)
    solved(Leap())
    assert sapi.counts["accepted"] == 1


@pytest.mark.parametrize("kind", ["nl", "bqm", "qpu"])
def test_a_connection_dropped_right_after_acceptance_leaves_one_job(account, sapi, kind):
    sapi.fault("submit", "drop-after")
    solved(Leap(solver=kind))
    assert sapi.counts["accepted"] == 1
    assert sapi.counts["look-up"] >= 1


@pytest.mark.parametrize("fault", ["hang", "hang-after"])
def test_a_submission_that_times_out_leaves_one_job(account, sapi, monkeypatch, fault):
    monkeypatch.setitem(service.OPTIONS, "request_timeout", 0.3)
    sapi.fault("submit", fault, seconds=0.6)
    solved()
    assert sapi.counts["accepted"] == 1


def test_the_wait_that_the_service_asks_for_is_kept(account, sapi):
    solver = Leap(solver="cqm")
    solver.plan(block(), live=True)
    sapi.fault("submit", "status", code=429, retry_after=0.4)
    begun = time.monotonic()
    solved(solver)
    assert time.monotonic() - begun >= 0.4


def test_uploaded_data_is_submitted_again_without_another_upload(account, sapi):
    sapi.fault("submit", "status", code=503, times=99)
    with pytest.raises(RemoteError, match=r"busy or ill \(503"):
        Leap(solver="cqm").solve(block(), seed=1)
    (ticket,) = account.ledger.tickets()
    assert ticket["stage"] == "uploaded"
    assert account.calls == 1  # it may have been sent, as far as anyone knows
    sapi.command("reset")
    sapi.state.uploads[ticket["data_id"]] = b""  # the data of before
    with pytest.raises(ServiceError, match="could not solve"):
        Leap(solver="cqm").solve(block(), seed=1)
    assert sapi.counts["upload"] == 0
    assert sapi.counts["look-up"] == service.LOOKUPS


def test_data_that_the_service_has_forgotten_is_uploaded_again(account, sapi):
    sapi.fault("submit", "status", code=503, times=99)
    with pytest.raises(RemoteError):
        Leap(solver="cqm").solve(block(), seed=1)
    sapi.command("reset")
    solved()
    assert sapi.counts["upload"] == sapi.counts["accepted"] == 1


def test_a_poll_that_is_refused_leaves_a_job_that_is_found_by_its_id(account, sapi):
    sapi.fault("answer", "status", code=400)
    with pytest.raises(ServiceError, match="400"):
        Leap(solver="cqm").solve(block(), seed=1)
    assert account.ledger.tickets()[0]["stage"] == "accepted"
    solved()
    assert sapi.counts["accepted"] == 1


def test_a_job_that_the_service_has_forgotten_is_over(account, sapi):
    sapi.fault("solve", "hold")
    solver = Leap(solver="cqm")
    solver.solve(block(), seed=1, stop=lambda: sapi.counts["accepted"] > 0)
    sapi.state.jobs.clear()
    with pytest.raises(ServiceError, match=r"404: Problem .* does not exist"):
        solver.solve(block(), seed=1)
    solved()
    assert sapi.counts["accepted"] == 2


def test_a_call_is_not_sent_again_to_another_endpoint(account, sapi, monkeypatch):
    sapi.fault("solve", "hold")
    Leap(solver="cqm").solve(block(), seed=1, stop=lambda: sapi.counts["accepted"] > 0)
    monkeypatch.setenv("DWAVE_API_ENDPOINT", sapi.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(ServiceError, match=r"went to http://127.*now names http://localhost"):
        Leap(solver="cqm").solve(block(), seed=1)
    assert sapi.counts["accepted"] == 1


def test_a_service_that_is_gone_for_long_leaves_a_job_that_is_found_by_its_id(account, sapi):
    sapi.fault("solve", "hold")
    sapi.fault("poll", "drop", times=500)
    sapi.fault("answer", "drop", times=500)
    with pytest.raises(RemoteError, match="connection failed"):
        Leap(solver="cqm").solve(block(), seed=1)
    (ticket,) = account.ledger.tickets()
    assert ticket["stage"] == "accepted"
    sapi.state.faults.clear()
    sapi.command("release")
    solved()
    assert sapi.counts["accepted"] == 1
    assert sapi.counts["look-up"] == 0


# What does not pass


def test_a_job_that_the_service_cannot_solve_is_told_and_counted(account, sapi):
    sapi.fault("solve", "fail", message="ran out of memory")
    with pytest.raises(ServiceError, match="could not solve the problem: ran out of memory"):
        Leap(solver="cqm").solve(block(), seed=1)
    (ticket,) = account.ledger.tickets()
    assert ticket["stage"] == "failed"
    assert account.calls == 1
    solved()  # under another label: that job is spent
    assert sapi.state.labels == ["hybrid-icbs/run/cqm/n10/s1", "hybrid-icbs/run/cqm/n10/s1-2"]


def test_a_job_that_somebody_cancelled_is_told(account, sapi):
    sapi.fault("solve", "cancel")
    with pytest.raises(ServiceError, match="was cancelled"):
        Leap(solver="cqm").solve(block(), seed=1)
    assert account.ledger.tickets()[0]["stage"] == "cancelled"


def test_a_problem_too_large_for_the_solver_is_refused_before_anything_is_sent(account, sapi):
    sapi.command("limits", solver="hybrid_cqm_test", maximum_number_of_biases=50)
    with pytest.raises(ServiceError, match="the problem has 65 biases, the cqm solver takes 50; choose smaller blocks"):
        Leap(solver="cqm").solve(block(), seed=0)
    with pytest.raises(ServiceError, match=r"40 fully coupled variables.*takes 36"):
        Leap(solver="qpu").solve(block(40, 20), seed=0)
    assert sapi.counts["upload"] == account.calls == 0


def test_a_problem_that_only_the_service_finds_too_large_is_refused_once(account, sapi):
    sapi.command("limits", solver="hybrid_cqm_test", refuses_bytes_above=100)
    with pytest.raises(ServiceError, match="too large: more than 100 bytes"):
        Leap(solver="cqm").solve(block(), seed=0)
    assert sapi.counts["submit"] == 1
    assert account.calls == 0


def test_a_time_limit_that_the_service_finds_too_short_is_refused_once(account, sapi):
    sapi.command("limits", solver="hybrid_nl_test", refuses_below=30.0)
    with pytest.raises(ServiceError, match=r"time limit 5\.0 is less than 30"):
        Leap().solve(block(), seed=0)
    assert account.calls == 0


def test_a_time_limit_beyond_the_services_is_refused(account, sapi):
    with pytest.raises(ServiceError, match="4000 s is more than the 3600 s"):
        Leap().solve(block(), seed=0, time_limit=4000)


def test_one_failure_does_not_lose_the_others_in_flight(account, sapi):
    problems = [block(seed=s) for s in range(4)]
    sapi.fault("solve", "fail", message="bad luck")
    with pytest.raises(ServiceError, match="bad luck"):
        Leap(solver="cqm", in_flight=4).solve_many(problems, seed=0)
    stages = sorted(ticket["stage"] for ticket in account.ledger.tickets())
    assert stages == ["answered", "answered", "answered", "failed"]


# Stopping


def test_a_stop_leaves_the_job_for_the_next_time(account, sapi):
    sapi.fault("solve", "hold")
    answer = Leap(solver="cqm").solve(block(), seed=1, stop=lambda: sapi.counts["accepted"] > 0)
    assert answer.info["ended_by"] == "stop"
    assert answer.info["sent"] is False
    assert answer.info["raw"]["energy"] is None
    sapi.command("release")
    solved()
    assert sapi.counts["accepted"] == 1


def test_a_stop_ends_several_solves_at_once(account, sapi):
    for _ in range(4):
        sapi.fault("solve", "hold")
    answers = Leap(solver="cqm", in_flight=2).solve_many(
        [block(seed=s) for s in range(4)], seed=0, stop=lambda: sapi.counts["accepted"] >= 2
    )
    assert [answer.info["ended_by"] for answer in answers] == ["stop"] * 4
    assert sapi.counts["accepted"] == 2


def test_a_submitted_job_can_be_cancelled_waited_for_and_fetched(sapi):
    stages = []
    sapi.fault("solve", "hold")
    job = Leap(solver="cqm").submit(block(), seed=1, label="mine/1", on_stage=lambda t: stages.append(t["stage"]))
    assert stages == ["labelled", "uploaded", "accepted"]
    with pytest.raises(RemoteError, match=r"no answer within 0\.05 s.*lives on"):
        job.result(timeout=0.05)
    again = Leap(solver="cqm").fetch(job.ticket, block())
    threading.Timer(0.1, sapi.command, ["release"]).start()
    assert again.result(30).first.energy == pytest.approx(optimum(block()))
    stored = Leap(solver="cqm").fetch(again.ticket, block())
    sapi.state.faults.append({"on": "any", "do": "drop", "times": 99})  # a stored answer needs no network
    assert stored.result().first.energy == pytest.approx(optimum(block()))


def test_a_cancelled_job_says_so(sapi):
    sapi.fault("solve", "hold")
    job = Leap(solver="cqm").submit(block(), seed=1)
    job.cancel()
    assert job.ticket["stage"] == "cancelled"
    assert [job.status for job in sapi.state.jobs.values()] == ["CANCELLED"]
    with pytest.raises(ServiceError, match="cancelled by this side"):
        job.result(1.0)
    with pytest.raises(ServiceError, match="cancelled"):
        Leap(solver="cqm").fetch(job.ticket, block())


def test_fetch_finds_by_label_and_never_sends(sapi):
    tickets = []
    job = Leap(solver="cqm").submit(block(), seed=1, on_stage=tickets.append)
    assert Leap(solver="cqm").fetch(tickets[0], block()).result(30).first.energy == pytest.approx(optimum(block()))
    tickets[0]["label"] = "another"
    with pytest.raises(ServiceError, match="never submitted"):
        Leap(solver="cqm").fetch(tickets[0], block())
    with pytest.raises(SolverError, match="another problem"):
        Leap(solver="cqm").fetch(job.ticket, block(seed=5))
    with pytest.raises(SolverError, match="of kind 'cqm', not 'nl'"):
        Leap().fetch(job.ticket, block())
    assert sapi.counts["accepted"] == 1
