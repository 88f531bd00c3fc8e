"""A classifier of digits is pruned by quantum backends as it is by the local annealer, to the weight."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid_icbs import prune
from hybrid_icbs.digits import digits_classifier, load_digits
from solvers import Decompose
from solvers.remote.leap import Leap

SETTINGS: dict[str, Any] = {"density": 0.05, "steps": 3, "block_size": 36, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def annealed() -> Any:
    return prune(digits_classifier(epochs=8), load_digits(), backend="sa", **SETTINGS)


@pytest.mark.parametrize(
    ("backend", "solved_by"),
    [
        pytest.param("qaoa?reps=1&starts=1&iterations=20&shots=128", "decompose(qaoa)", marks=pytest.mark.slow),
        ("leap", "leap(nl)"),
        ("leap?solver=cqm", "leap(cqm)"),
        (Decompose(Leap(solver="qpu", num_reads=50), size=16, rounds=3), "decompose(leap(qpu))"),
        ("portfolio?solvers=leap+tabu", "portfolio(leap(nl)+tabu)"),
    ],
    ids=str,
)
def test_the_classifier_comes_out_at_the_same_density(annealed, sapi, backend, solved_by) -> None:
    model = digits_classifier(epochs=8)
    result = prune(model, load_digits(), backend=backend, **SETTINGS)
    assert result.density == annealed.density
    assert {row["backend"] for row in result.history} == {solved_by}
    assert all(row["predicted"] < 0.0 for row in result.history)  # each answer is better than the mask it was asked for
    assert any(row["accepted"] for row in result.history)
    assert result.scores["result"]["loss"] < result.scores["start"]["loss"]
