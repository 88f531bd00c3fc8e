"""Comparisons with a service: its run time counts without queue, and no call is paid twice."""

from __future__ import annotations

import json

import pytest

import solvers
from problems import instances
from solvers.comparison.page import render

PROBLEMS = {"a": instances.random(10, 4, 1, rank=3), "b": instances.random(10, 4, 2, rank=3)}


def race(tmp_path, backends, **settings):
    given = settings.pop("given", PROBLEMS)
    return solvers.compare(given, backends, **{"time_limits": None, "seeds": 1, "out": tmp_path / "r", **settings})


def labels(tmp_path):
    lines = (tmp_path / "r/calls.jsonl").read_text().splitlines()
    return {json.loads(line)["label"] for line in lines}


def test_the_run_time_of_a_service_counts_without_its_queue(sapi, tmp_path):
    done = race(tmp_path, ["leap?solver=qpu&num_reads=20", "leap?solver=nl", "exact"])
    assert len(done.rows) == 6
    for row in done.rows:
        assert row.status == "ok"
        if row.backend == "exact":
            assert row.queue is None
            continue
        assert row.queue >= 0.0
        assert row.incumbents == ((row.seconds, row.energy),)  # not the local times, which include the queue
    qpu = [row for row in done.rows if "qpu" in row.backend]
    for row in qpu:
        assert row.seconds == row.access > 0.0
        assert row.samples == 20
        assert row.raw_feasible is not None
        assert row.control_polished is not None
    hybrid = [row for row in done.rows if "=nl" in row.backend]
    assert all(row.upload > 0.0 for row in hybrid)
    assert sapi.counts["accepted"] == 4
    assert '<button type="button">queue</button>' in render(done)


def test_calls_are_recorded_per_backend_and_limit_and_not_repeated(sapi, tmp_path):
    backends = ["leap?solver=qpu&num_reads=20", "leap?solver=qpu&num_reads=30"]
    race(tmp_path, backends, time_limits=[1.0, 2.0])
    assert sapi.counts["accepted"] == 8
    assert len(labels(tmp_path)) == 8
    rows = tmp_path / "r/results.csv"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:3]))  # as after a kill before the rows were written
    again = race(tmp_path, backends, time_limits=[1.0, 2.0])
    assert len(again.rows) == 8
    assert sapi.counts["accepted"] == 8  # the answers were on record


def test_a_used_up_budget_stops_one_backend_and_a_larger_one_continues(sapi, tmp_path):
    done = race(tmp_path, ["leap?solver=nl", "exact"], max_calls=1)
    assert [row.backend for row in done.rows] == ["leap?solver=nl", "exact", "exact"]
    assert done.left == 1
    assert done.put_off["leap?solver=nl"].startswith("BudgetReached")
    assert "leap?solver=nl could not continue" in render(done)
    more = race(tmp_path, ["leap?solver=nl", "exact"], max_calls=2)
    assert (len(more.rows), more.left, more.put_off) == (4, 0, {})
    assert sapi.counts["accepted"] == 2


def test_refused_credentials_write_no_row_and_a_later_call_continues(sapi, tmp_path):
    sapi.fault("any", "status", times=50, code=401)
    done = race(tmp_path, ["leap?solver=nl", "exact"])
    assert {row.backend for row in done.rows} == {"exact"}
    assert set(done.put_off) == {"leap?solver=nl"}
    sapi.state.faults.clear()
    assert len(race(tmp_path, ["leap?solver=nl", "exact"]).rows) == 4


def test_calls_are_sequential_for_any_dispatch(sapi, tmp_path):
    done = race(tmp_path, ["leap?solver=nl", "exact"], dispatch="threads?workers=2")
    assert [row.status for row in done.rows] == ["ok"] * 4
    assert sapi.counts["accepted"] == 2


def test_a_comparison_with_a_service_needs_a_folder(sapi):
    with pytest.raises(solvers.OptionError, match="give out="):
        solvers.compare(PROBLEMS, "leap")
    assert sapi.counts["accepted"] == 0
