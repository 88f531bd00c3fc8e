"""Runs whose blocks are solved elsewhere end in the masks of those that solve them here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from hybrid_icbs import Config, Pruner, PruneResult, PruningError, prune
from hybrid_icbs.cli.app import app
from hybrid_icbs.pruning import resume
from solvers import OptionError, UnavailableError
from solvers.dispatch import Processes, RayCluster, get_dispatch

Tensors = tuple[torch.Tensor, torch.Tensor]
SMALL: dict[str, Any] = {"density": 0.05, "steps": 9, "round_size": 3, "block_size": 64, "batch_size": 64,
                         "progress": False, "seed": 4}  # fmt: skip
BACKENDS = ["tabu?offspring=3", "sa?restarts=2&sweeps=10", "exact", "portfolio?solvers=sa?sweeps=5+tabu?offspring=2"]


def assert_same(one: PruneResult, other: PruneResult) -> None:
    assert all(torch.equal(one.masks[name], other.masks[name]) for name in one.masks)
    assert [row["energy"] for row in one.history] == [row["energy"] for row in other.history]


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_the_same_wherever_blocks_are_solved(classifier: nn.Module, digits: Tensors, backend: str) -> None:
    # Blocks larger than `exact` takes are decomposed, in the workers too.
    given = SMALL | {"backend": backend} | ({"steps": 3} if backend == "exact" else {})
    here = prune(classifier, digits, **given, dispatch="serial")
    assert len(here.history) == given["steps"]
    for way in (None, "threads?workers=3", "processes?workers=2"):
        assert_same(here, prune(classifier, digits, **given, dispatch=way))


@pytest.mark.slow
def test_masks_are_the_same_on_a_ray_cluster(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    """By the command line's own words, in a process of its own, whose standard output holds nothing but the result."""
    if not RayCluster.available():
        pytest.skip(RayCluster.available().reason)
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from hybrid_icbs import prune; "
        "from hybrid_icbs.digits import digits_classifier, load_digits; "
        "run = prune(digits_classifier(epochs=1), load_digits('train'), **json.loads(sys.argv[2])); "
        "print(json.dumps([row['energy'] for row in run.history]))"
    )

    def energies(dispatch: str) -> Any:
        settings = json.dumps(SMALL | {"backend": "sa?restarts=2&sweeps=10", "dispatch": dispatch})
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), settings], capture_output=True, text=True, timeout=250,
            check=False, env=os.environ | {"HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert energies("ray?workers=2") == energies("serial")


def test_a_dispatch_that_is_given_ready_is_left_open(classifier: nn.Module, digits: Tensors) -> None:
    here = prune(classifier, digits, **SMALL, backend="tabu?offspring=3")
    with Processes(workers=2) as dispatch:
        for _ in range(2):
            assert_same(here, prune(classifier, digits, **SMALL, backend="tabu?offspring=3", dispatch=dispatch))
        assert len(dispatch._pool) == 2
    assert not dispatch._pool


def test_a_worker_that_is_killed_does_not_change_the_masks(classifier: nn.Module, digits: Tensors) -> None:
    given = SMALL | {"backend": "sa?restarts=4&sweeps=300"}
    here = prune(classifier, digits, **given)
    killed = []
    with Processes(workers=2) as dispatch:

        def kill_one(pruner: Pruner) -> None:
            pid = dispatch._pool[0].process.pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        settings = {key: value for key, value in given.items() if key != "progress"}
        pruner = Pruner(classifier, digits, Config.of(**settings))
        pruner.run(dispatch=dispatch, after_round=kill_one)
        pruner.finish()
        assert_same(here, pruner.result())
    assert len(killed) == 3
    assert not any(psutil.pid_exists(pid) for pid in killed)


class InterruptedOnce(Processes):
    """Hears Ctrl-C while it solves its second round."""

    rounds = 0

    def _map(self, *given: Any) -> Any:
        self.rounds += 1
        if self.rounds == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super()._map(*given)


def test_ctrl_c_leaves_the_round_open_and_a_resume_elsewhere_ends_alike(
    classifier: nn.Module, digits: Tensors, tmp_path: Path
) -> None:
    given = SMALL | {"backend": "sa?restarts=3&sweeps=300"}
    whole = prune(classifier, digits, **given, dispatch="serial")
    with InterruptedOnce(workers=2) as dispatch:
        part = prune(classifier, digits, **given, dispatch=dispatch, out=tmp_path)
    assert part.interrupted
    assert len(part.history) == 3
    rest = resume(tmp_path, classifier, digits, dispatch="threads?workers=2", progress=False)
    assert_same(whole, rest)


# What is refused


@pytest.mark.parametrize(
    ("dispatch", "message"),
    [("processes?worker=2", "did you mean 'workers'"), ("cluster", "no dispatch 'cluster'"), (7, "dispatch")],
)
def test_a_wrong_dispatch_is_named(classifier: nn.Module, digits: Tensors, dispatch: Any, message: str) -> None:
    with pytest.raises((PruningError, OptionError), match=message):
        prune(classifier, digits, **SMALL, dispatch=dispatch)


def test_runs_by_layer_have_nothing_to_dispatch(classifier: nn.Module, digits: Tensors) -> None:
    for dispatch in ("threads", get_dispatch("threads")):
        with pytest.raises(PruningError, match="dispatch is for blocks"):
            prune(classifier, digits, density=0.5, method="magnitude", dispatch=dispatch, progress=False)


def test_a_way_that_is_not_installed_is_told_before_anything_is_done(
    classifier: nn.Module, digits: Tensors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install \"hybrid-icbs\[ray\]\""):
        prune(classifier, digits, **SMALL, dispatch="ray", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_it_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "little.py").write_text(
        "from hybrid_icbs.digits import digits_classifier, load_digits\n"
        "def model(): return digits_classifier(epochs=1)\n"
        "def data(): return load_digits('train')\n"
    )
    monkeypatch.chdir(tmp_path)
    common = ["prune", "--model", "little:model", "--data", "little:data", "--density", "0.2", "--steps", "2"]
    common += ["--block-size", "32", "--round-size", "2", "--backend", "tabu?offspring=2", "--json"]
    sys.modules.pop("little", None)
    here = CliRunner().invoke(app, [*common, "--dispatch", "serial", "--out", "run-0"])
    assert here.exit_code == 0, here.output
    script = Path(sys.executable).with_name("hybrid-icbs")
    done = subprocess.run(
        [script, *common, "--dispatch", "processes?workers=2", "--out", "run-1"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["densities"] == json.loads(here.stdout)["densities"]
    masks = [(tmp_path / run / "masks.safetensors").read_bytes() for run in ("run-0", "run-1")]
    assert masks[0] == masks[1]
    wrong = CliRunner().invoke(app, [*common, "--dispatch", "process"])
    assert wrong.exit_code == 2
    assert "did you mean 'processes'" in wrong.stderr
    assert CliRunner().invoke(app, ["resume", "run-0", "--dispatch", "process"]).exit_code == 2
