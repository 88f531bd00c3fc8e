"""Tokens stay out of logs, ledgers, records and messages."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest

from problems import BlockProblem
from solvers.remote.leap import Leap, redact, service
from solvers.remote.solver import Account, FileLedger, accounting


def block():
    rng = np.random.default_rng(0)
    return BlockProblem(rng.normal(size=(8, 8)), rng.normal(size=8), 4)


@pytest.fixture
def log():
    """All that the toolkits log at their lowest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(1)
    roots = [logging.getLogger(name) for name in redact.TOOLKITS]
    levels = [root.level for root in roots]
    for root in roots:
        root.addHandler(handler)
        root.setLevel(1)
    yield stream
    for root, level in zip(roots, levels, strict=True):
        root.removeHandler(handler)
        root.setLevel(level)


@pytest.mark.parametrize("kind", ["nl", "qpu"])
def test_a_solve_logged_at_the_lowest_level_shows_no_token(sapi, log, kind, tmp_path):
    with FileLedger(tmp_path / "calls.jsonl") as ledger, accounting(Account(ledger, "r")):
        answer = Leap(solver=kind).solve(block(), seed=0)
    text = log.getvalue()
    assert "load_config" in text  # the lowest level is on
    assert "X-Auth-Token" in text
    for place in (text, (tmp_path / "calls.jsonl").read_text(), json.dumps(answer.info), repr(Leap())):
        assert sapi.state.token not in place
    assert redact.HIDDEN in text


def test_a_token_from_a_file_is_hidden_from_its_first_reading_on(sapi, log, monkeypatch, tmp_path):
    token = "some plain words"
    path = tmp_path / "dwave.conf"
    path.write_text(f"[one]\nendpoint = {sapi.url}\ntoken = {token}\n")
    monkeypatch.delenv("DWAVE_API_TOKEN")
    monkeypatch.setattr(redact, "_secrets", set())
    with pytest.raises(Exception, match="refuses the token") as caught:
        Leap(config_file=str(path)).solve(block(), seed=0)
    assert token not in str(caught.value)
    assert token not in log.getvalue()


@pytest.mark.parametrize(("route", "code"), [("submit", 400), ("solvers", 403), ("upload", 500), ("answer", 404)])
def test_an_error_that_repeats_the_token_is_told_without_it(sapi, log, monkeypatch, route, code, tmp_path):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))
    sapi.fault(route, "status", code=code, times=99, message=f"token {sapi.state.token} may not do that")
    with (
        FileLedger(tmp_path / "calls.jsonl") as ledger,
        accounting(Account(ledger, "r")),
        pytest.raises(Exception, match="may not do that") as caught,
    ):
        Leap(solver="cqm").solve(block(), seed=0)
    assert sapi.state.token not in str(caught.value)
    assert sapi.state.token not in log.getvalue()
    assert sapi.state.token not in (tmp_path / "calls.jsonl").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "config={'token': 'abc def', 'x': 1}",
        "headers={'X-Auth-Token': 'abcdef'}",
        'token = "abcdef"',
        "token: abcdef",
        "Authorization: Bearer abcdef",
        "('token', 'abcdef')",
        "DEV-0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_is_marked_or_shaped_as_a_token_is_hidden_without_being_known(text):
    hidden = redact.redact(text)
    assert redact.HIDDEN in hidden
    assert "abcdef" not in hidden


def test_words_beside_a_token_stay():
    assert redact.redact("{'token': None, 'endpoint': 'http://x'}") == "{'token': None, 'endpoint': 'http://x'}"
    assert redact.redact("the service refuses the token (401)") == "the service refuses the token (401)"


def test_tracebacks_and_arguments_are_redacted(log):
    redact.keep_secret("hush-hush")
    redact.install()
    logger = logging.getLogger("dwave.cloud.client.base")
    try:
        raise ValueError("hush-hush")
    except ValueError:
        logger.exception("failed with %s", "hush-hush")
    logger.error("%d %s", "hush-hush")  # arguments that do not fit
    text = log.getvalue()
    assert "Traceback" in text
    assert "hush-hush" not in text


def test_the_filter_hangs_on_every_logger_of_the_toolkits(sapi):
    service.credentials()
    for name in ("dwave.cloud", "dwave.cloud.client.base", "dwave.cloud.config.loaders"):
        assert any(isinstance(f, redact.Redaction) for f in logging.getLogger(name).filters)
