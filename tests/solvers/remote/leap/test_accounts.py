"""Ledgers keep what they are given, and budgets end a run before it spends too much."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, FileFormatError
from solvers import OptionError, SolverError
from solvers.errors import BudgetReached
from solvers.remote.leap import Leap
from solvers.remote.leap.models import packed, unpacked
from solvers.remote.solver import Account, FileLedger, MemoryLedger, accounting, current_account, fingerprint


def block(seed=0, n=8, k=4):
    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k)


def ticket(label, stage="labelled", **more):
    return {"label": label, "stage": stage, "run": "r", "estimated_charge": 5.0, "charge": None, **more}


# Ledgers


@pytest.mark.parametrize("make", [lambda path: MemoryLedger(), FileLedger], ids=["memory", "file"])
def test_the_last_ticket_of_a_label_wins(tmp_path, make):
    ledger = make(tmp_path / "calls.jsonl")
    ledger.put(ticket("a"))
    ledger.put(ticket("b"))
    ledger.put(ticket("a", "accepted", problem_id="7"))
    assert ledger.get("a")["problem_id"] == "7"
    assert ledger.get("none") is None
    assert [t["label"] for t in ledger.tickets()] == ["a", "b"]
    ledger.get("a")["stage"] = "failed"
    assert ledger.get("a")["stage"] == "accepted"
    if isinstance(ledger, FileLedger):
        ledger.close()


def test_a_file_ledger_remembers_and_belongs_to_one_process(tmp_path):
    path = tmp_path / "calls.jsonl"
    with FileLedger(path) as ledger:
        ledger.put(ticket("a", "uploaded", data_id="x"))
        with pytest.raises(SolverError, match="another process holds this ledger"):
            FileLedger(path)
    with FileLedger(path) as ledger:
        assert ledger.get("a")["data_id"] == "x"


@given(cut=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("ledger") / "calls.jsonl"
    with FileLedger(path) as ledger:
        ledger.put(ticket("a", "accepted", problem_id="1"))
        whole = path.stat().st_size
        ledger.put(ticket("b", "accepted", problem_id="2"))
    os.truncate(path, max(whole, path.stat().st_size - cut))
    with FileLedger(path) as ledger:
        assert ledger.get("a")["problem_id"] == "1"
        kept = ledger.get("b")
        assert kept is None or (cut == 1 and kept["problem_id"] == "2")  # a lost line end loses no ticket
        ledger.put(ticket("c"))
    with FileLedger(path) as ledger:
        assert ledger.get("c") is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense\n", "line 1: not valid JSON"),
        ("[1]\n", "line 1: a JSON object is needed"),
        ('{"stage": "labelled"}\n', "line 1: ticket: label: is missing"),
        ('{"label": "a", "stage": "paid"}\n', "stage: 'paid' must be one of"),
        ('{"label": "a", "stage": "accepted"}\n', "problem_id: is missing at stage 'accepted'"),
        ('{"label": "a", "stage": "labelled", "charge": "much"}\n', "charge: 'much' is not of the kind"),
        ('{"label": "a", "stage": "labelled", "charge": NaN}\n', "not a finite number"),
        ('{"label": "a", "label": "b", "stage": "labelled"}\n', "occurs twice"),
        ('{"label": "a", "stage": "labelled"}\n{}\n', "line 2"),
        ("[" * 100_000 + "\n", "line 1: not valid JSON"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path, text, message):
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        FileLedger(path)
    assert path.read_text() == text


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="not a regular file"):
        FileLedger(tmp_path / "pipe")


def test_a_ticket_that_json_cannot_hold_changes_nothing(tmp_path):
    with FileLedger(tmp_path / "calls.jsonl") as ledger:
        with pytest.raises((TypeError, ValueError)):
            ledger.put(ticket("a", charge=float("nan")))
        assert ledger.tickets() == []


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_states_survive_packing(rows, columns, seed):
    states = np.random.default_rng(seed).integers(0, 2, (rows, columns)).astype(np.int8)
    kept = json.loads(json.dumps(packed(states, np.arange(rows))))
    again, occurrences = unpacked(kept)
    assert np.array_equal(states, again)
    assert np.array_equal(occurrences, np.arange(rows))


@pytest.mark.parametrize("change", [{"rows": 9}, {"states": "?"}, {"occurrences": [1]}, {"columns": 0}])
def test_a_damaged_answer_is_an_error_that_says_so(change):
    with pytest.raises(SolverError, match="the stored answer is damaged"):
        unpacked(packed(np.ones((3, 20))) | change)


def test_a_fingerprint_tells_problems_apart_to_the_bit():
    problem = block()
    assert fingerprint(problem) == fingerprint(block())
    other = BlockProblem(problem.form.dense(), np.nextafter(problem.linear, 1e9), 4)
    fewer = BlockProblem(problem.form.dense(), problem.linear, 3)
    assert len({fingerprint(p) for p in (problem, other, fewer)}) == 3


# Labels


def test_labels_repeat_in_a_run_that_is_repeated(tmp_path):
    ledger = MemoryLedger()
    wanted = [("nl", block(), 1), ("nl", block(), 1), ("cqm", block(), 1), ("nl", block(), 2), ("nl", block(), 1)]
    first, second = ([Account(ledger, "r").label(*wanted[0])], [])
    for labels in (first, second):
        account = Account(ledger, "r")
        labels[:] = [account.label(*call) for call in wanted]
    assert first == second
    assert first[:2] == ["hybrid-icbs/r/nl/n8/s1", "hybrid-icbs/r/nl/n8/s1-2"]
    assert len(set(first)) == 5


def test_a_label_given_back_is_given_out_again_and_one_of_another_problem_is_not():
    account = Account(MemoryLedger(), "r")
    label = account.label("nl", block(), 1)
    account.give_back(label)
    assert account.label("nl", block(), 1) == label
    account.give_back(label)
    account.put(ticket(label, problem=fingerprint(block(seed=1))))
    assert account.label("nl", block(), 1) == f"{label}-2"
    assert account.label("nl", block(seed=1), 1) == label


# Budgets


def test_a_budget_counts_estimates_until_charges_are_known():
    account = Account(MemoryLedger(), "r", max_calls=3, max_charge=14.0)
    account.reserve("a", 5.0)
    account.reserve("a", 5.0)  # the same call
    account.reserve("b", 5.0)
    assert (account.calls, account.charged, account.committed) == (2, 0.0, 10.0)
    with pytest.raises(
        BudgetReached, match=r"made 2 calls and spent 10 s .*takes 5 s, beyond its limit of 14 s.*--max-ch"
    ):
        account.reserve("c", 5.0)
    account.put(ticket("a", "answered", answer={"rows": 0}, charge=3.0))
    account.reserve("c", 5.0)
    assert account.charged == 3.0
    with pytest.raises(BudgetReached, match=r"one more would exceed its limit of 3 calls.*--max-calls"):
        account.reserve("d", 0.0)


def test_a_budget_counts_what_an_earlier_process_has_spent():
    ledger = MemoryLedger()
    ledger.put(ticket("a", "answered", answer={"rows": 0}, charge=3.0))
    ledger.put(ticket("b"))
    ledger.put(ticket("c", "failed", charge=0.0))  # never taken by the service
    ledger.put(ticket("d", "failed", problem_id="7"))
    ledger.put(ticket("e") | {"run": "another"})
    account = Account(ledger, "r", max_calls=3)
    assert (account.calls, account.charged, account.committed) == (3, 3.0, 13.0)
    account.reserve("b", 5.0)  # possibly sent: it counts already
    with pytest.raises(BudgetReached):
        account.reserve("f", 1.0)


@pytest.mark.parametrize(
    "options",
    [{"max_calls": -1}, {"max_calls": 1.5}, {"max_charge": -1.0}, {"max_charge": float("nan")}, {"run": "a b"}],
)
def test_budgets_that_make_no_sense_are_refused(options):
    with pytest.raises(OptionError):
        Account(MemoryLedger(), **{"run": "r"} | options)


def test_an_account_is_that_of_its_thread_and_of_nobody_else():
    seen = []
    with accounting(Account(MemoryLedger(), "r")) as account:
        thread = threading.Thread(target=lambda: seen.append(current_account()))
        thread.start()
        thread.join()
        assert current_account() is account
    assert current_account() is None
    assert seen == [None]


def test_a_run_ends_at_its_budget_and_keeps_what_was_in_flight(sapi):
    problems = [block(seed=s) for s in range(5)]
    ledger = MemoryLedger()
    with (
        accounting(Account(ledger, "r", max_charge=16.0)) as account,
        pytest.raises(BudgetReached, match="made 3 calls"),
    ):
        Leap(solver="cqm", in_flight=2).solve_many(problems, seed=0)
    assert sapi.counts["accepted"] == 3
    assert [t["stage"] for t in ledger.tickets()] == ["answered"] * 3
    assert account.charged == 15.0
    with accounting(Account(ledger, "r", max_charge=25.0)):  # a resume: what was paid is not paid again
        answers = Leap(solver="cqm").solve_many(problems, seed=0)
    assert len(answers) == 5
    assert sapi.counts["accepted"] == 5


def test_calls_are_limited_across_resumes(sapi):
    ledger = MemoryLedger()
    for _ in range(3):
        with accounting(Account(ledger, "r", max_calls=2)), pytest.raises(BudgetReached, match="2 calls"):
            Leap(solver="cqm", in_flight=1).solve_many([block(seed=s) for s in range(4)], seed=0)
    assert sapi.counts["accepted"] == 2


def test_a_single_call_has_a_limit_of_its_own(sapi):
    with pytest.raises(BudgetReached, match=r"billed 9 s, more than the 6 s that a call may take; raise max_charge"):
        Leap(solver="cqm", max_charge=6.0).solve(block(), seed=0, time_limit=9.0)
    assert sapi.counts["upload"] == 0
    Leap(solver="cqm", max_charge=6.0).solve(block(), seed=0, time_limit=5.0)


def test_budgets_hold_inside_a_decomposition(sapi):
    from solvers import get_solver

    solver = get_solver("decompose?solver=leap&size=10&rounds=5")
    with accounting(Account(MemoryLedger(), "r", max_calls=2)), pytest.raises(BudgetReached, match="2 calls"):
        solver.solve(block(n=30, k=15), seed=0)
    assert sapi.counts["accepted"] == 2
