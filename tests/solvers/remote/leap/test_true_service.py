"""The few tests that need D-Wave's true service; they cost about twenty seconds of hybrid time and one of the QPU's."""

from __future__ import annotations

import numpy as np
import pytest

from problems import BlockProblem
from solvers.remote.leap import Leap
from solvers.remote.solver import Account, FileLedger, accounting
from solvers.testing import optimum

pytestmark = [
    pytest.mark.leap,
    pytest.mark.skipif(not Leap.available(), reason="no D-Wave credentials"),
    pytest.mark.timeout(1800),
]


def block():
    rng = np.random.default_rng(0)
    return BlockProblem.low_rank(rng.normal(size=(12, 3)), rng.normal(size=12), 5)


@pytest.mark.parametrize("kind", ["nl", "cqm", "bqm", "qpu"])
def test_the_true_service_solves_a_small_block_once(kind, tmp_path):
    path = tmp_path / "calls.jsonl"
    for _ in range(2):
        with FileLedger(path) as ledger, accounting(Account(ledger, "true-service", max_charge=10.0)) as account:
            answer = Leap(solver=kind).solve(block(), seed=0)
            assert account.calls == 1
    assert answer.first.energy == pytest.approx(optimum(block()))
    assert answer.info["timing"]["charge"] > 0.0
