"""Runs by layer that are stopped: at which block they go on, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformer_models import byte_tokenizer, make, samples
from typer.testing import CliRunner

from hybrid_icbs import Pruner, RunFolderError, prune, resume
from hybrid_icbs.cli.app import app
from hybrid_icbs.layerwise import passes as layerwise
from hybrid_icbs.layerwise.journal import FOLDER
from hybrid_icbs.report.record import RunRecord

WAY: dict[str, Any] = {"density": 0.4, "objective": "joint", "update": "backsolve", "seed": 3, "progress": False}
TEXT = "In the beginning was the word, and a dog ran over the hill. " * 40


class Stop(Exception):
    """What ends a run in these tests."""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of two decoder blocks that ended in the second."""
    plain, seen = layerwise.prune_group, []

    def once(model: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(group)
        if len(seen) == 2:
            raise Stop
        return plain(model, group, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(layerwise, "prune_group", once)
        with pytest.raises(Stop):
            prune(make("llama"), samples("llama", 24), **WAY, out=tmp_path / "run")
    return tmp_path / "run"


def test_a_stopped_run_ends_as_one_that_never_was(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prune(make("llama"), samples("llama", 24), **WAY)
    plain, groups, planned = layerwise.prune_group, [], []

    def counted(model: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        groups.append(group.name)
        return plain(model, group, *args, **kwargs)

    monkeypatch.setattr(layerwise, "prune_group", counted)
    monkeypatch.setattr(layerwise, "plan_counts", lambda *args, **kwargs: planned.append(args))
    result = resume(stopped, make("llama"), samples("llama", 24), progress=False)
    assert groups == ["model.layers.1"]
    assert planned == []
    assert all(torch.equal(result.model.state_dict()[k], v) for k, v in whole.model.state_dict().items())
    assert all(torch.equal(result.masks[name], mask) for name, mask in whole.masks.items())
    assert [row["layers"] for row in result.history] == [row["layers"] for row in whole.history]
    assert result.scores == whole.scores
    assert not (stopped / FOLDER).exists()
    assert (stopped / "report.html").is_file()
    saved = load_file(stopped / "model" / "model.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in whole.model.state_dict().items() if k in saved)


def test_an_unfinished_run_is_told_as_far_as_it_came(stopped: Path) -> None:
    record = RunRecord.read(stopped)
    assert (record.steps, record.finished) == (7, False)
    pruned = [layer for layer in record.layers if layer.density < 1]
    assert [layer.name for layer in pruned] == [row["layers"] for row in record.history]
    assert record.scores.keys() == {"dense"}
    done = CliRunner().invoke(app, ["report", str(stopped)])
    assert done.exit_code == 0, done.output + done.stderr


def test_another_model_or_other_data_are_refused(stopped: Path) -> None:
    other = make("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(RunFolderError, match="the model's weights are not those"):
        resume(stopped, other, samples("llama", 24), progress=False)
    with pytest.raises(RunFolderError, match="number of calibration samples is not"):
        resume(stopped, make("llama"), samples("llama", 25), progress=False)


@pytest.mark.parametrize("harm", ["cut", "change", "remove"])
def test_a_block_whose_file_is_damaged_is_named(stopped: Path, harm: str) -> None:
    file = stopped / FOLDER / "0000.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content[:-9] if harm == "cut" else content)
    with pytest.raises(RunFolderError, match=r"0000\.safetensors .* start the run again"):
        resume(stopped, make("llama"), samples("llama", 24), progress=False)


def test_a_finished_run_says_where_its_model_is(tmp_path: Path) -> None:
    prune(make("llama"), samples("llama", 24), **WAY, out=tmp_path)
    with pytest.raises(RunFolderError, match=r"is finished; its pruned model is in .*model"):
        resume(tmp_path, make("llama"), samples("llama", 24), progress=False)


def test_resume_goes_on_with_runs_of_blocks_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"density": 0.5, "steps": 4, "block_size": 32, "backend": "tabu?offspring=3"}
    whole = prune(make("llama"), samples("llama", 12), **settings, progress=False)
    from hybrid_icbs import Config

    pruner = Pruner(make("llama"), samples("llama", 12), Config.of(**settings), out=tmp_path)
    pruner.run(after_round=lambda pruner: setattr(pruner, "interrupted", pruner.steps == 2))
    assert pruner.steps == 2
    pruner.close()
    result = resume(tmp_path, make("llama"), samples("llama", 12), progress=False)
    assert all(torch.equal(result.masks[name], mask) for name, mask in whole.masks.items())


def test_after_ctrl_c_the_command_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("llama").save_pretrained("llama")
    byte_tokenizer().save_pretrained("llama")
    Path("train.txt").write_text(TEXT)
    plain = layerwise.prune_group

    def struck(model: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        if group.name == "model.layers.1":
            os.kill(os.getpid(), signal.SIGINT)
        return plain(model, group, *args, **kwargs)

    command = ["prune", "--model", "llama", "--data", "train.txt", "--eval", "train.txt", "--seq-len", "16",
               "--density", "0.5", "--objective", "layer", "-q"]  # fmt: skip
    whole = CliRunner().invoke(app, [*command, "--json", "--out", "whole"])
    assert whole.exit_code == 0, whole.stderr
    with monkeypatch.context() as patched:
        patched.setattr(layerwise, "prune_group", struck)
        stopped = CliRunner().invoke(app, [*command, "--out", "run"])
    assert stopped.exit_code == 130
    assert "`hybrid-icbs resume run` continues with the remaining layers" in stopped.stderr
    refused = CliRunner().invoke(app, [*command, "--out", "run"])
    assert refused.exit_code != 0
    assert "holds a run already" in refused.stderr
    done = CliRunner().invoke(app, ["resume", "run", "--json", "-q"])
    assert done.exit_code == 0, done.stderr
    first, second = json.loads(whole.stdout), json.loads(done.stdout)
    assert second["finished"]
    assert second["test_scores"] == first["test_scores"]
    assert second["densities"] == first["densities"]
    again = CliRunner().invoke(app, ["resume", "run"])
    assert "is finished; there is nothing to resume" in again.stdout
    blocks = CliRunner().invoke(app, ["blocks", "--from", "run", "--out", "blocks"])
    assert "prunes layer by layer" in blocks.stderr
