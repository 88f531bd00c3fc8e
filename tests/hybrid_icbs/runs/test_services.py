"""Pruning at a service: what a run may spend, that it pays for nothing twice, and that it stops and goes on cleanly."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import problems
from hybrid_icbs import Config, Pruner, prune, resume
from hybrid_icbs.cli.app import app
from hybrid_icbs.pruning import complete
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.journal import Journal
from problems import instances
from solvers import ServiceError

if TYPE_CHECKING:
    from sapi_server import SapiServer

Tensors = tuple[torch.Tensor, torch.Tensor]
SMALL: dict[str, Any] = {
    "density": 0.05, "steps": 3, "block_size": 32, "batch_size": 32, "guard_size": 100, "backend": "leap",
}  # fmt: skip
SCRIPT = Path(__file__).with_name("run_service_to_kill.py")
DIGITS = ["--model", "hybrid_icbs.digits:digits_classifier", "--data", "hybrid_icbs.digits:load_digits"]
FEW = ["--density", 0.05, "--steps", 3, "--block-size", 32, "--batch-size", 32, "--guard-size", 100]


def call(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def answer(*arguments: Any) -> Any:
    return json.loads(call(*arguments, "--json", "--quiet").stdout)


@pytest.mark.parametrize("kind", ["nl", "cqm", "bqm"])
def test_a_run_makes_a_call_a_block_each_under_a_label_of_its_own(
    classifier: nn.Module, digits: Tensors, sapi: SapiServer, tmp_path: Path, kind: str
) -> None:
    result = prune(
        classifier, digits, **SMALL | {"backend": f"leap?solver={kind}"}, out=tmp_path / "run", progress=False
    )
    assert result.density == pytest.approx(0.05, abs=1e-5)
    assert sapi.counts["accepted"] == 3
    assert len(set(sapi.state.labels)) == 3
    journal = Journal.open(tmp_path / "run")
    assert [ticket["stage"] for ticket in journal.tickets()] == ["answered"] * 3
    assert all(journal.value("run") in label for label in sapi.state.labels)
    journal.close()


def test_no_file_of_a_run_holds_the_token(
    classifier: nn.Module, digits: Tensors, sapi: SapiServer, tmp_path: Path
) -> None:
    prune(classifier, digits, **SMALL, out=tmp_path, progress=False)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 5
    assert not any(sapi.state.token.encode() in file.read_bytes() for file in files)


@pytest.fixture(scope="module")
def killed_and_resumed() -> Iterator[Callable[..., list[str]]]:
    """How a run and its resume end, told by the script, which begins when it is first asked and then stays."""
    begun: list[subprocess.Popen[str]] = []

    def ends(*asked: object) -> list[str]:
        if not begun:
            begun.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
        question, answer = begun[0].stdin, begun[0].stdout
        assert question is not None
        assert answer is not None
        print(*asked, file=question, flush=True)
        return answer.readline().split()

    yield ends
    for process in begun:
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("when", "stage", "number"),
    [("before", "uploaded", 2), ("before", "accepted", 1), ("after", "answered", 3),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in (
         ("before", "labelled", 1), ("after", "labelled", 1), ("after", "uploaded", 1), ("after", "accepted", 2),
         ("before", "answered", 1)))],
)  # fmt: skip
def test_a_run_that_is_killed_at_a_stage_sends_no_job_twice(
    sapi: SapiServer,
    killed_and_resumed: Callable[..., list[str]],
    tmp_path: Path,
    when: str,
    stage: str,
    number: int,
) -> None:
    assert killed_and_resumed(tmp_path / "run", when, stage, number) == ["-9", "0"]
    assert sapi.counts["accepted"] == 4
    assert len(set(sapi.state.labels)) == 4


def test_a_limit_on_calls_ends_a_run_cleanly_and_counts_across_resumes(
    classifier: nn.Module, digits: Tensors, sapi: SapiServer, tmp_path: Path
) -> None:
    result = prune(classifier, digits, **SMALL, max_calls=2, out=tmp_path, progress=False)
    assert result.budget_reached is not None
    assert "limit of 2 calls" in result.budget_reached
    assert len(result.history) == 2
    assert result.density == pytest.approx(0.05, abs=1e-5)
    again = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    assert (again.budget_reached is not None, sapi.counts["accepted"]) == (True, 2)
    more = resume(tmp_path, classifier, digits, max_calls=3, progress=False)
    assert (more.budget_reached, len(more.history), sapi.counts["accepted"]) == (None, 3, 3)
    assert json.loads((tmp_path / "config.json").read_text())["max_calls"] == 3


def test_a_limit_on_billed_seconds_is_kept(classifier: nn.Module, digits: Tensors, sapi: SapiServer) -> None:
    pruner = Pruner(classifier, digits, Config.of(**SMALL, max_charge=11.0))
    result = complete(pruner, progress=False)  # each call takes at least five seconds of Leap's time
    assert result.budget_reached is not None
    assert 0 < sapi.counts["accepted"] < 3
    assert pruner.account.charged <= 11.0


def test_a_run_survives_what_passes(classifier: nn.Module, digits: Tensors, sapi: SapiServer) -> None:
    sapi.fault("submit", "status", code=429, retry_after=0.01, times=2)
    sapi.fault("submit", "drop-after")
    sapi.fault("poll", "status", code=503, times=2)
    result = prune(classifier, digits, **SMALL, progress=False)
    assert len(result.history) == 3
    assert sapi.counts["accepted"] == 3


def test_a_run_stops_at_what_does_not_pass_and_a_resume_goes_on(
    classifier: nn.Module, digits: Tensors, sapi: SapiServer, tmp_path: Path
) -> None:
    sapi.fault("solve", "fail", message="internal trouble")
    with pytest.raises(ServiceError, match="internal trouble"):
        prune(classifier, digits, **SMALL, out=tmp_path, progress=False)
    result = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    assert len(result.history) == 3
    assert sapi.counts["accepted"] == 4  # the one that failed, and three


def test_the_command_line_says_how_to_go_on_after_a_failure(sapi: SapiServer, tmp_path: Path) -> None:
    sapi.fault("solve", "fail", message="internal trouble")
    failed = call("prune", *DIGITS, *FEW, "--backend", "leap", "--out", tmp_path / "run", "-q", code=1)
    assert "hybrid-icbs resume" in failed.stderr
    assert "Traceback" not in failed.output
    assert answer("resume", tmp_path / "run")["steps"] == 3


def test_the_command_line_keeps_and_raises_limits(sapi: SapiServer, tmp_path: Path) -> None:
    stopped = answer("prune", *DIGITS, *FEW, "--backend", "leap", "--out", tmp_path / "run", "--max-calls", 1)
    assert (stopped["calls"], stopped["steps"], stopped["finished"]) == (1, 1, False)
    assert "--max-calls" in stopped["budget_reached"]
    shown = call("resume", tmp_path / "run", "--max-calls", 2)
    assert f"hybrid-icbs resume {tmp_path / 'run'}" in shown.stdout
    assert answer("resume", tmp_path / "run", "--max-calls", 9, "--max-charge", 100)["finished"] is True
    assert sapi.counts["accepted"] == 3


def test_a_dry_run_tells_what_a_run_takes_and_asks_nobody(sapi: SapiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DWAVE_API_TOKEN")
    told = answer("prune", *DIGITS, *FEW, "--backend", "leap", "--dry-run", "--max-charge", 11)
    own = told[0]
    assert [each["backend"] for each in told] == ["leap(nl)", "leap(cqm)", "leap(bqm)", "leap(qpu)"]
    assert [each["chosen"] for each in told] == [True, False, False, False]
    assert (own["chosen"], own["blocks"], own["n"], own["calls"], own["fits"]) == (True, 3, 32, 3, True)
    assert own["charge_seconds"] >= 15.0
    assert own["affordable"] == 2
    assert "DWAVE_API_TOKEN" in own["missing"]
    assert sum(sapi.counts.values()) == 0
    assert call("prune", *DIGITS, *FEW, "--backend", "leap", "--dry-run").stdout.count("leap(nl)") == 1
    longer = answer("prune", *DIGITS, *FEW, "--backend", "leap", "--dry-run", "--time-limit", 20)[0]
    assert longer["charge_seconds"] == pytest.approx(60.0)


def test_without_credentials_a_run_says_so_before_any_work(sapi: SapiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DWAVE_API_TOKEN")
    refused = call("prune", "--model", "nowhere:at_all", "--data", "nowhere:at_all", "--density", 0.1,
                   "--backend", "leap", code=1)  # fmt: skip
    assert "DWAVE_API_TOKEN" in refused.stderr


def test_solve_finds_the_answer_of_the_same_command_again(sapi: SapiServer, tmp_path: Path) -> None:
    problems.save(instances.random(20, cardinality=8, seed=3), tmp_path / "block.bqm")
    first = answer("solve", tmp_path / "block.bqm", "--backend", "leap")
    again = answer("solve", tmp_path / "block.bqm", "--backend", "leap")
    assert (first["energy"], sapi.counts["accepted"]) == (again["energy"], 1)
    assert (tmp_path / "block.bqm.calls.jsonl").exists()
    answer("solve", tmp_path / "block.bqm", "--backend", "leap", "--calls", tmp_path / "block.bqm.calls.jsonl")
    assert sapi.counts["accepted"] == 1
    answer("solve", tmp_path / "block.bqm", "--backend", "leap", "--seed", 1)
    assert sapi.counts["accepted"] == 2
    refused = call("solve", tmp_path / "block.bqm", "--backend", "leap", "--seed", 2, "--max-calls", 2, "-q", code=1)
    assert "limit of 2 calls" in refused.stderr
    assert sapi.counts["accepted"] == 2


def test_a_journal_from_before_there_were_calls_is_opened(
    classifier: nn.Module, digits: Tensors, tmp_path: Path
) -> None:
    prune(classifier, digits, **SMALL | {"backend": "tabu?offspring=3"}, out=tmp_path, progress=False)
    with sqlite3.connect(tmp_path / FILE) as old:
        old.execute("DROP TABLE calls")
        old.execute("ALTER TABLE blocks DROP COLUMN applied")
        old.execute("ALTER TABLE rounds DROP COLUMN weights")
        old.execute("ALTER TABLE rounds DROP COLUMN weights_checksum")
        old.execute("DELETE FROM run WHERE key = 'run'")
        old.execute("UPDATE run SET value = '1' WHERE key = 'schema'")
    old.close()
    journal = Journal.open(tmp_path)
    assert journal.tickets() == []
    assert len(journal.value("run")) == 16
    assert journal.config.cut_steps == 0
    for record in journal.rounds():
        assert record.merged is not None
        assert [state is not None for state in record.applied] == [record.merged[0]]
    journal.close()
