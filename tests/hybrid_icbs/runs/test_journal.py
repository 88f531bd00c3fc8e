from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import solvers
from hybrid_icbs import Config, Pruner, PruningError, RunFolderError, prune
from hybrid_icbs.pruning import complete
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.journal import Journal
from problems import BlockProblem
from solvers.local.sa import SimulatedAnnealing

Tensors = tuple[torch.Tensor, torch.Tensor]
SMALL: dict[str, Any] = {"density": 0.05, "steps": 6, "round_size": 2, "block_size": 64, "batch_size": 64,
                         "backend": "tabu?offspring=3"}  # fmt: skip
SCRIPT = Path(__file__).with_name("run_to_kill.py")


def begin(model: nn.Module, data: Tensors, folder: Path, **settings: Any) -> Pruner:
    return Pruner(model, data, Config.of(**{**SMALL, **settings}), out=folder)


@pytest.mark.parametrize(
    ("way", "seed"),
    [("global", 2), *(pytest.param(*case, marks=pytest.mark.slow)
                      for case in (("layer", 0), ("cut", 3), ("by layer", 4), ("refit", 5)))],
)  # fmt: skip
def test_a_run_killed_at_random_moments_ends_in_the_masks_of_one_never_killed(
    tmp_path: Path, way: str, seed: int
) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "5", str(seed), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    whole, killed, kills = done.stdout.split()
    assert killed == whole
    assert int(kills) >= 3


def test_ctrl_c_in_the_middle_of_a_solve_leaves_its_block_for_the_resume(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"backend": "sa?restarts=3&sweeps=30&threads=1", "guard": "off"}
    whole = begin(classifier, digits, tmp_path / "whole", **settings)
    whole.run()
    part = begin(classifier, digits, tmp_path / "part", **settings)
    plain, solves = SimulatedAnnealing._search, [0]

    def interrupted(self: SimulatedAnnealing, problem: BlockProblem, run: solvers.Run) -> solvers.Outcome:
        solves[0] += 1
        if solves[0] == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, problem, run)

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedAnnealing, "_search", interrupted)
        part.run(dispatch="serial")  # one block after the other: the fourth is in the midst of the second round
    assert part.interrupted
    assert part.rounds == 1
    assert len(part.pending()) == 1  # the third block was solved before, the fourth was cut short
    part.close()
    again = Pruner.resume(tmp_path / "part", classifier, digits)
    again.run()
    assert again.masks.checksum() == whole.masks.checksum()


def test_a_resumed_run_keeps_the_solver_with_which_it_began(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = solvers.get_solver("tabu", offspring=3)
    p = begin(classifier, digits, tmp_path / "object")
    p.run(mine, after_round=lambda p: setattr(p, "interrupted", True))
    p.close()
    again = Pruner.resume(tmp_path / "object", classifier, digits)
    with pytest.raises(PruningError, match=r"the run began with TabuSearch\(.*offspring=3"):
        again.run("tabu")
    assert again.backend == repr(mine)
    again.run(mine)
    auto = begin(classifier, digits, tmp_path / "auto", backend="auto")
    auto.run(after_round=lambda p: setattr(p, "interrupted", True))
    auto.close()
    monkeypatch.setattr(solvers, "fastest_local", lambda problem: pytest.fail("picked again"))
    Pruner.resume(tmp_path / "auto", classifier, digits).run()


def test_a_run_stopped_between_rounds_goes_on_to_the_same_end(
    classifier: nn.Module, digits: Tensors, tmp_path: Path
) -> None:
    whole = begin(classifier, digits, tmp_path / "whole", preset="icbs-paper", scope="layer")
    whole.run()
    part = begin(classifier, digits, tmp_path / "part", preset="icbs-paper", scope="layer")
    part.run(after_round=lambda p: setattr(p, "interrupted", p.rounds == 1))
    part.close()
    again = Pruner.resume(tmp_path / "part", classifier, digits)
    assert (again.rounds, again.steps) == (1, 2)
    again.run()
    assert again.masks.checksum() == whole.masks.checksum()
    energies = [[row["energy"] for row in p.history] for p in (again, whole)]
    assert energies[0] == energies[1]


def test_answers_told_before_a_stop_are_remembered(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    p = begin(classifier, digits, tmp_path)
    first, second = p.ask()
    paid = solvers.solve(first, "tabu", seed=77)
    p.tell(first, paid)
    p.close()
    again = Pruner.resume(tmp_path, classifier, digits)
    (waiting,) = again.pending()
    assert np.array_equal(waiting.labels.index, second.labels.index)  # type: ignore[union-attr]
    again.tell(second, solvers.solve(second, "tabu", seed=78))  # a block from before the stop is as good
    assert again.history[0]["energy"] == pytest.approx(paid.first.energy)
    again.close()
    assert Pruner.resume(tmp_path, classifier, digits).rounds == 1


def test_a_finished_run_resumes_to_its_end(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    result = prune(classifier, digits, **SMALL, out=tmp_path, progress=False)
    again = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    assert all(torch.equal(result.masks[name], again.masks[name]) for name in result.masks)
    assert len(again.history) == 6


@pytest.mark.parametrize("what", ["model", "bias", "data", "samples", "layers"])
def test_another_model_or_other_data_are_refused(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, what: str
) -> None:
    begin(classifier, digits, tmp_path).close()
    model, data = classifier, digits
    if what == "model":
        with torch.no_grad():
            model[0].weight[0, 0] += 1  # type: ignore[index]
    elif what == "bias":
        with torch.no_grad():
            model[0].bias[0] += 1  # type: ignore[index]
    elif what == "data":
        data = (digits[0] * 2, digits[1])
    elif what == "samples":
        data = (digits[0][:-1], digits[1][:-1])
    else:
        model = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(
        RunFolderError, match={"model": "weights", "bias": "weights", "layers": "layers"}.get(what, "samples")
    ):
        Pruner.resume(tmp_path, model, data)


def test_a_folder_that_a_run_would_write_over_is_left_alone(classifier, digits, tmp_path):
    (tmp_path / "race.json").touch()
    with pytest.raises(RunFolderError, match=r"holds race\.json, which is not of a run in this folder"):
        prune(classifier, digits, **SMALL, out=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["race.json"]


def test_a_folder_is_begun_once_and_resumed_only_where_a_run_is(
    classifier: nn.Module, digits: Tensors, tmp_path: Path
) -> None:
    begin(classifier, digits, tmp_path / "x").close()
    with pytest.raises(RunFolderError, match="holds a run already"):
        begin(classifier, digits, tmp_path / "x")
    with pytest.raises(RunFolderError, match="holds no run"):
        Pruner.resume(tmp_path, classifier, digits)


def in_a_child(work: Callable[[], None]) -> str:
    """Run something in another process (forked) and give back what it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(write, b"no error")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(child, 0)
    return text


def test_a_second_process_on_the_same_folder_is_refused(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    p = begin(classifier, digits, tmp_path)
    assert "another process has the run" in in_a_child(lambda: Journal.open(tmp_path).close())
    p.close()
    assert in_a_child(lambda: Journal.open(tmp_path).close()) == "no error"


def test_a_full_disk_loses_nothing(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = begin(classifier, digits, tmp_path / "whole")
    whole.run()

    def until_the_disk_is_full() -> None:
        torch.set_num_threads(1)
        p = begin(classifier, digits, tmp_path / "full")
        size = (tmp_path / "full" / FILE).stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
        p.run()

    message = in_a_child(until_the_disk_is_full)
    assert message.startswith("RunFolderError")
    assert "free some space, then `hybrid-icbs resume" in message
    again = Pruner.resume(tmp_path / "full", classifier, digits)
    assert again.rounds < 3
    again.run()
    assert again.masks.checksum() == whole.masks.checksum()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="permissions"):
        begin(classifier, digits, tmp_path)


@pytest.mark.parametrize("folder", ["/proc/run", "file/run"])
def test_a_folder_that_cannot_be_made_is_named(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        begin(classifier, digits, tmp_path / folder)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 99, b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_journal_is_a_clear_error(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RunFolderError, match=r"damaged|before it had begun"):
        Pruner.resume(tmp_path, classifier, digits)


def test_a_journal_of_a_later_version_is_refused(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    begin(classifier, digits, tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE run SET value = '99' WHERE key = 'schema'")
    connection.close()
    with pytest.raises(RunFolderError, match=r"schema 99; this version reads 1"):
        Pruner.resume(tmp_path, classifier, digits)


def test_a_round_that_cannot_be_built_again_is_refused(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    p = begin(classifier, digits, tmp_path)
    p.ask()
    p.close()
    connection = sqlite3.connect(tmp_path / FILE)
    with connection:
        connection.execute("UPDATE rounds SET masks = 'other'")
    connection.close()
    with pytest.raises(PruningError, match="cannot be rebuilt"):
        Pruner.resume(tmp_path, classifier, digits)
