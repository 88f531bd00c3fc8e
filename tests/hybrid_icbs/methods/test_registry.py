"""Pruning methods: those of third parties are used like the built-in ones, by layer and of the whole model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from hybrid_icbs import Config, Masks, PruningError, load_masks, prune
from hybrid_icbs.cli.app import app
from hybrid_icbs.methods import (
    Choice,
    LayerMethod,
    LayerProblem,
    ModelMethod,
    ModelProblem,
    get_layer_method,
    get_method,
    names,
    register,
    unregister,
)  # fmt: skip

MODULE = '''
"""Random pruning, by layer."""

import torch

from hybrid_icbs.methods import Choice, LayerMethod


class Random(LayerMethod):
    name = "random-entry"

    def prune(self, problem):
        generator = torch.Generator().manual_seed(problem.seed)
        order = torch.rand(problem.W.shape, generator=generator).flatten().argsort()
        pruned = torch.zeros(problem.W.numel(), dtype=torch.bool)
        pruned[order[: sum(problem.counts)]] = True
        return Choice(pruned.view(problem.W.shape))


METHOD = Random()
'''


class RandomByLayer(LayerMethod):
    name = "toy"

    def prune(self, problem: LayerProblem) -> Choice:
        generator = torch.Generator().manual_seed(problem.seed)
        scores = torch.rand(problem.W.shape, generator=generator)
        rank = scores.argsort(1).argsort(1)
        return Choice(rank < torch.tensor(problem.counts)[:, None])


class RandomOfAll(ModelMethod):
    name = "toy"

    def __init__(self, extra: int = 0) -> None:
        self.extra = extra

    def prune(self, problem: ModelProblem) -> Masks:
        masks = Masks.like(problem.layers)
        total = sum(layer.size for layer in problem.layers)
        kept = np.zeros(total, np.bool_)
        chosen = np.random.default_rng(problem.config.seed).permutation(total)[: problem.kept + self.extra]
        kept[chosen] = True
        for layer, own in zip(
            problem.layers, np.split(kept, np.cumsum([layer.size for layer in problem.layers])[:-1]), strict=True
        ):
            masks.set_flat(layer.name, own)
        return masks


@pytest.fixture(params=[RandomByLayer, RandomOfAll], ids=["by layer", "whole model"])
def toy(request: pytest.FixtureRequest) -> Iterator[str]:
    register(request.param())
    yield "toy"
    unregister("toy")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3


def test_a_registered_method_prunes_and_is_saved(toy: str, tmp_path: Path) -> None:
    result = prune(net(), data(), density=0.25, method=toy, seed=3, out=tmp_path / "run", progress=False)
    assert result.density == 33 / 132
    assert not result.model[0].weight[~result.masks["0.weight"]].any()  # type: ignore[index]
    assert result.backend == toy
    assert {row["layers"] for row in result.history} == {"0.weight", "2.weight"}
    saved = load_masks(tmp_path / "run" / "masks.safetensors")
    assert all(torch.equal(saved[name], mask) for name, mask in result.masks.items())
    assert (tmp_path / "run" / "report.html").is_file()
    again = prune(net(), data(), density=0.25, method=toy, seed=3, progress=False)
    assert all(torch.equal(again.masks[name], mask) for name, mask in result.masks.items())


def test_the_command_line_takes_a_registered_method(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_model.py").write_text(
        "import torch\ndef net(): return torch.nn.Sequential(torch.nn.Linear(8, 3))\n"
        "def data(): return torch.randn(60, 8), torch.arange(60) % 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = [
        "prune", "--model", "toy_model:net", "--data", "toy_model:data",
        "--density", "0.5", "--method", toy, "--out", str(tmp_path / "run"), "-q", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output + done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"] == toy


def test_a_method_of_an_installed_distribution_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_methods.py").write_text(MODULE)
    metadata = tmp_path / "toymethods-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toymethods\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[hybrid_icbs.methods]\nrandom = toy_methods:METHOD\nbroken = no_such_module:METHOD\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        result = prune(net(), data(), density=0.5, method="random-entry", progress=False)
        assert result.density == 0.5
        assert "random-entry" in names()
    finally:
        unregister("random-entry")


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PruningError, match=r"no method 'wnda'; did you mean 'wanda'\? Known: icbs, magnitude, wanda"):
        prune(net(), data(), density=0.5, method="wnda")
    with pytest.raises(PruningError, match=r"no method 'x'\. Known: icbs"):
        get_method("x")
    command = ["prune", "--model", "no.such:model", "--data", "no.such:data", "--density", "0.5", "--method", "wnda"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "did you mean 'wanda'" in " ".join(done.stderr.split())


def test_masks_of_another_density_are_refused() -> None:
    register(RandomOfAll(extra=1))
    try:
        with pytest.raises(PruningError, match=r"'toy' returned masks that keep 67 weights of 2 layers; 66 weights"):
            prune(net(), data(), density=0.5, method="toy", progress=False)
        with pytest.raises(PruningError, match="'toy' prunes the whole model at once"):
            get_layer_method("toy")
        with pytest.raises(PruningError, match="'toy' is registered already"):
            register(RandomByLayer())
    finally:
        unregister("toy")
    with pytest.raises(PruningError, match="neither a hybrid_icbs"):
        register(RandomByLayer)  # type: ignore[arg-type]


def test_a_method_is_a_setting_like_any_other() -> None:
    assert Config(density=0.5, method="toy").by_layer
    assert not Config(density=0.5).by_layer
