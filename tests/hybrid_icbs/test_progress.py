"""Progress where standard error is a file: a line for each phase, others now and then, and none if it is not wanted."""

from __future__ import annotations

import itertools

import pytest
import torch

from hybrid_icbs import prune
from hybrid_icbs.progress import EVERY, phase, reporting


def test_a_phase_writes_lines_at_its_ends_and_one_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    with reporting(clock=lambda: now[0]), phase("measuring costs", 40, "layers") as advance:
        for done in range(1, 41):
            now[0] += EVERY / 4
            advance(done, f"layer {done}")
    assert capsys.readouterr().err.splitlines() == [
        "measuring costs: 40 layers",
        *(f"measuring costs: {4 * k} of 40 layers, {k * EVERY:.0f} s, layer {4 * k}" for k in range(1, 11)),
        f"measuring costs: done in {10 * EVERY:.1f} s",
    ]


def test_a_phase_without_a_known_size_and_one_that_fails_end_with_their_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ticks = itertools.count(0.0, 4.0)
    with reporting(clock=lambda: next(ticks)):
        with phase("loading"):
            pass
        with pytest.raises(KeyError):
            _fails_at_the_end()
    assert capsys.readouterr().err.splitlines() == [
        "loading", "loading: done in 4.0 s", "comparing", "comparing: 9 of 9 solves, 12 s, z",
        "comparing: stopped after 16.0 s",
    ]  # fmt: skip


def _fails_at_the_end() -> None:
    with phase("comparing", unit="solves") as advance:
        advance(7, "x", 9)
        advance(8, "y")
        advance(9, "z")
        raise KeyError


def test_the_outer_reporting_decides(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(False), reporting(), phase("pruning", 3) as advance:
        advance(1)
    with phase("pruning", 3) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "phases"),
    [
        ({"steps": 2, "backend": "sa?sweeps=2&restarts=1"},
         ["evaluating the dense model", "choosing the initial masks", "pruning", "evaluating"]),
        ({"objective": "joint"},
         ["evaluating the dense model", "measuring output gradients", "measuring costs", "planning the densities",
          "pruning", "evaluating"]),
    ],
)  # fmt: skip
def test_each_phase_of_a_run_is_named_in_order(
    settings: dict[str, object], phases: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = torch.nn.Linear(6, 3), (torch.randn(40, 6), torch.randint(0, 3, (40,)))
    prune(model, data, density=0.5, **settings)  # type: ignore[arg-type]
    begun = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if ": done" not in line]
    assert begun == phases
    prune(model, data, density=0.5, progress=False, **settings)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
