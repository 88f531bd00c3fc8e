"""The layer-wise objectives and the baselines by the same call and command as all else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformer_models import ALL, byte_tokenizer, make, samples
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from hybrid_icbs import Config, Pruner, PruningError, RunFolderError, load_masks, prune, resume
from hybrid_icbs.cli.app import app
from hybrid_icbs.models.patterns import Pattern

WAYS: list[dict[str, Any]] = [
    {"method": "magnitude"},
    {"method": "wanda", "update": "backsolve"},
    {"method": "sparsegpt"},
    {"objective": "layer"},
    {"objective": "layer", "update": "backsolve"},
    {"objective": "joint", "scope": "global", "update": "backsolve"},
]
TEXT = "In the beginning was the word, and a dog ran over the hill. " * 40


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
def test_every_way_keeps_the_wanted_share_and_the_dense_model(way: dict[str, Any]) -> None:
    model = make("llama")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = prune(model, samples("llama", 24), density=0.5, **way, progress=False)
    assert result.density == pytest.approx(0.5, abs=0.02)
    assert len(result.history) == 14
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    state = result.model.state_dict()
    for name, mask in result.masks.items():
        assert not state[name][~mask].any()
        if way.get("update", "none") == "none" and way.get("method") != "sparsegpt":
            assert torch.equal(state[name][mask], before[name][mask])


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_is_pruned(name: str) -> None:
    result = prune(make(name), samples(name, 12), density=0.5, objective="layer", progress=False)
    assert result.density == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("method", ["icbs", "magnitude", "wanda", "sparsegpt"])
def test_patterns_hold_in_every_group(method: str) -> None:
    result = prune(make("llama"), samples("llama", 12), objective="layer", method=method, pattern="2:4", progress=False)
    assert result.config.density == 0.5
    assert all(Pattern.read("2:4").holds(mask) for mask in result.masks.values())


def test_two_runs_with_one_seed_agree_to_the_bit() -> None:
    settings: dict[str, Any] = {"density": 0.4, "objective": "joint", "update": "backsolve", "seed": 3}
    first, second = (prune(make("llama"), samples("llama", 24), **settings, progress=False) for _ in range(2))
    assert all(torch.equal(first.model.state_dict()[k], v) for k, v in second.model.state_dict().items())


def test_the_command_writes_a_folder_that_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("llama").save_pretrained("llama")
    byte_tokenizer().save_pretrained("llama")
    Path("train.txt").write_text(TEXT)
    command = ["prune", "--model", "llama", "--data", "train.txt", "--eval", "train.txt", "--seq-len", "16",
               "--objective", "layer", "--update", "backsolve", "--pattern", "2:4", "--out", "run"]  # fmt: skip
    done = CliRunner().invoke(app, [*command, "--json", "-q"])
    assert done.exit_code == 0, done.output + done.stderr
    told = json.loads(done.stdout)
    assert (told["density"], told["unit"], told["finished"]) == (0.5, "layers", True)
    assert told["test_scores"]["result"]["perplexity"]["train.txt"]["context"] == 16
    model = AutoModelForCausalLM.from_pretrained("run/model")
    for name, mask in load_masks("run/masks.safetensors").items():
        assert not model.state_dict()[name][~mask].any()
    card, page = Path("run/README.md").read_text(), Path("run/report.html").read_text()
    assert "## Density by layer" in card
    assert "pruned 14 layers one after the other" in card
    assert "pruned layer by layer" in page
    assert "rounds accepted" not in page
    shown = CliRunner().invoke(app, [*command[:-2], "--out", "other"])
    assert "14 layers in" in shown.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "layer", "pattern": "4:2"}, "pattern '4:2' must be N:M"),
        ({"objective": "layer", "density": 0.3, "pattern": "2:4"}, "keeps 0.5 of the weights, and density is 0.3"),
        ({"objective": "layer", "scope": "global"}, 'scope = "global" needs objective = "joint"'),
        ({"objective": "layer", "guard_size": 12}, "leave none of 12"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    given = {"density": 0.5} | settings
    with pytest.raises(PruningError, match=message):
        prune(make("llama"), samples("llama", 12), **given, progress=False)


@pytest.mark.parametrize("name", ["bert-masked", "bert-sequence", "vit", "gpt2"])
def test_the_joint_objective_takes_every_task_at_its_own_loss(name: str) -> None:
    result = prune(make(name), samples(name, 24), density=0.5, objective="joint", progress=False)
    assert result.density == pytest.approx(0.5, abs=1e-3)
    assert len({round(density, 3) for density in result.densities.values()}) > 1


@pytest.mark.parametrize("way", WAYS[2:], ids=lambda way: "-".join(way.values()))
def test_a_plain_torch_model_and_tensors_go_by_layer_too(
    way: dict[str, Any], classifier: nn.Module, digits: Any
) -> None:
    result = prune(classifier, digits, density=0.3, **way, progress=False)
    start = prune(classifier, digits, density=0.3, steps=0, init_comparison="layer", scope="layer", progress=False)
    assert result.density == pytest.approx(0.3, abs=1e-3)
    assert result.scores["result"]["accuracy"] >= start.scores["result"]["accuracy"]  # type: ignore[operator]


def test_a_convolution_in_scope_is_refused_by_name(digits: Any) -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(PruningError, match=r"layer '1\.weight' is a Conv2d.*exclude=\['1'\]"):
        prune(model, digits, density=0.5, objective="layer", progress=False)
    kept = prune(model, digits, density=0.5, objective="layer", exclude=["1"], progress=False)
    assert list(kept.masks) == ["3.weight"]


def test_the_loop_of_blocks_says_that_these_are_none_of_its_runs() -> None:
    with pytest.raises(PruningError, match="row_problems makes block problems"):
        Pruner(make("llama"), samples("llama", 12), Config.of(density=0.5, objective="layer"))


def test_settings_of_blocks_are_refused_by_name(digits: Any) -> None:
    model = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(PruningError, match=r"block_size = 32, time_limit = 2.0: no effect with objective = \"layer\""):
        prune(model, digits, density=0.5, objective="layer", block_size=32, time_limit=2.0, progress=False)
    paper = prune(model, digits, density=0.5, method="magnitude", preset="icbs-paper", progress=False)
    assert paper.density == 0.5


def test_resume_knows_no_limits_of_services(digits: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 10))
    prune(model, digits, density=0.5, objective="layer", out=tmp_path, progress=False)
    with pytest.raises(PruningError, match="runs by layer call none"):
        resume(tmp_path, model, digits, max_charge=5.0)


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    prune(make("llama"), samples("llama", 12), density=0.5, steps=1, block_size=32, out=tmp_path, progress=False)
    with pytest.raises(RunFolderError, match="holds a run already"):
        prune(make("llama"), samples("llama", 12), density=0.5, objective="layer", out=tmp_path, progress=False)


def test_by_layer_scope_is_by_layer_unless_costs_compare() -> None:
    assert Config.of(density=0.5, objective="layer").scope == "layer"
    assert Config.of(density=0.5, method="wanda").scope == "layer"
    assert Config.of(density=0.5, objective="joint").scope == "global"
    assert Config.of(pattern="2:4", objective="layer").density == 0.5
