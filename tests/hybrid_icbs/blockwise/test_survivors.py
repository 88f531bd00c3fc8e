"""Survivors refitted for the loss: the step, the rounds that take it, and runs that are stopped in between."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformer_models import make, samples

from hybrid_icbs import Config, Pruner, PruningError, RunFolderError, prune
from hybrid_icbs.blockwise.refit import Refit, products, refit, refit_step
from hybrid_icbs.blockwise.snapshots import FOLDER, kept_values
from hybrid_icbs.data.calibration import Batch, CalibrationData
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.data.losses import cross_entropy
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.layers import find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.pruning import complete
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.selection.groups import holds
from problems import BlockProblem
from solvers import solve

Tensors = tuple[torch.Tensor, torch.Tensor]
REFIT: dict[str, Any] = {
    "density": 0.05, "update": "backsolve", "steps": 6, "round_size": 2, "block_size": 64, "batch_size": 64,
    "backend": "tabu?offspring=3",
}  # fmt: skip


class Small(nn.Module):
    """A convolution, and a linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.out = nn.Conv2d(1, 4, 3, 2), nn.Linear(36, 36), nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).flatten(1).tanh()
        return self.out(self.mix(self.mix(x).tanh()))


def small(seed: int = 0) -> tuple[nn.Module, Batch, Masks]:
    torch.manual_seed(seed)
    model = Small()
    masks = Masks.like(find_layers(model))
    for name in masks:
        masks.set_flat(name, (torch.rand(masks.size(name)) < 0.4).numpy())
    return model, Batch(torch.randn(12, 1, 8, 8), torch.arange(12) % 3, 12), masks


def gradients_of_kept(model: nn.Module, batch: Batch, masks: Masks) -> np.ndarray:
    layers = find_layers(model)
    found = measure_gradients(model, layers, batch, cross_entropy)
    rows = [found.per_sample(layer, np.flatnonzero(masks.flat(layer.name))) for layer in layers]
    return np.concatenate(rows).astype(np.float64)


def test_the_step_is_the_minimum_of_the_quadratic_model_over_the_kept_weights() -> None:
    model, batch, masks = small()
    layers = find_layers(model)
    G = gradients_of_kept(model, batch, masks)
    H = G @ G.T / batch.size
    ridge = 0.05 * np.trace(H) / batch.size
    expected = -np.linalg.solve(H + ridge * np.eye(len(H)), G.mean(1))
    step = refit_step(model, layers, masks, batch, cross_entropy, ridge=0.05)
    assert step is not None
    found = np.concatenate([step[layer.number].flatten().numpy()[masks.flat(layer.name)] for layer in layers])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("chunk", "kept"), [(2**23, 2**30), (60, 1)])
def test_products_are_those_of_all_kept_gradients_however_little_memory_there_is(
    monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int
) -> None:
    model, batch, masks = small()
    G = gradients_of_kept(model, batch, masks)
    monkeypatch.setattr("hybrid_icbs.blockwise.refit.CHUNK", chunk)
    monkeypatch.setattr("hybrid_icbs.blockwise.refit.KEPT", kept)  # one layer a pass
    monkeypatch.setattr("hybrid_icbs.blockwise.refit.samples_per_pass", lambda model, batch, most: 5)
    found = products(model, find_layers(model), masks, batch, cross_entropy)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), G.T @ G, atol=1e-6 * np.square(G).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_taken_as_far_as_the_guard_bears_it_out(dtype: torch.dtype) -> None:
    model, batch, masks = small()
    layers = find_layers(model.to(dtype))
    batch = Batch(batch.inputs.to(dtype), batch.targets, batch.size)
    for layer in layers:
        layer.weight.data *= masks[layer.name]
    before = [layer.weight.detach().clone() for layer in layers]
    guard = Guard(model, CalibrationData((batch.inputs, batch.targets)), np.arange(12), cross_entropy)
    refused = refit(model, layers, masks, batch, cross_entropy, guard, before=-1.0)
    assert (refused.length, refused.loss) == (0.0, -1.0)
    assert all(torch.equal(a, layer.weight) for a, layer in zip(before, layers, strict=True))
    taken = refit(model, layers, masks, batch, cross_entropy, guard, before=guard.score().loss)
    assert taken.length > 0
    assert guard.score().loss == taken.loss  # of the rounded weights
    for layer, old, values in zip(layers, before, taken.values, strict=True):
        weight = layer.weight.detach()
        assert weight.dtype == dtype
        assert bool((weight[~masks[layer.name]] == 0).all())
        assert torch.equal(weight[masks[layer.name]], values)
        assert not torch.equal(weight, old)


def test_without_gradients_there_is_no_step() -> None:
    model, batch, masks = small()
    nn.init.zeros_(model.out.weight)  # type: ignore[union-attr, arg-type]
    layers = [layer for layer in find_layers(model) if layer.name == "conv.weight"]
    assert refit_step(model, layers, masks, batch, cross_entropy) is None


def pruner(model: nn.Module, data: Tensors, **settings: Any) -> Pruner:
    out = settings.pop("out", None)
    return Pruner(model, data, Config.of(**{**REFIT, **settings}), out=out)


def without_refit(p: Pruner) -> None:
    p._refit = lambda loss: Refit(0.0, loss, kept_values(p.layers, p.masks))  # type: ignore[method-assign, arg-type]


def worst(problem: BlockProblem) -> Any:
    """The answer that the model of the loss likes least."""
    return solve(BlockProblem(-problem.form.dense(), -problem.single_energies, problem.cardinality), "tabu", seed=0)


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("settings", [{}, {"scope": "layer"}, {"guard": "watch"}, {"density": 0.02, "cut_steps": 3}])
def test_a_refitted_result_has_exact_masks_and_a_lower_loss(
    classifier: nn.Module, digits: Tensors, settings: dict[str, Any]
) -> None:
    given = REFIT | settings
    plain = prune(classifier, digits, **given | {"update": "none"}, progress=False)
    found = prune(classifier, digits, **given, progress=False)
    total = sum(mask.numel() for mask in found.masks.values())
    assert sum(int(mask.sum()) for mask in found.masks.values()) == round(given["density"] * total)
    weights = dict(found.model.named_parameters())
    for name, mask in found.masks.items():
        assert bool((weights[name][~mask] == 0).all())
        assert not bool(torch.signbit(weights[name][~mask]).any())
    assert found.scores["result"]["loss"] < plain.scores["result"]["loss"]  # type: ignore[operator]
    last = [row for row in found.history if row["refit_step"] > 0][-1]
    assert last["loss_refitted"] < max(last["loss_before"], last["loss_after"])


def test_restored_weights_get_dense_values_and_refused_rounds_give_refitted_ones_back(
    classifier: nn.Module, digits: Tensors
) -> None:
    p = pruner(classifier, digits, density=0.3, block_size=512, round_size=1)
    p.run(after_round=lambda p: setattr(p, "interrupted", p.rounds == 2))
    before, masks = weights_of(p.model), p.masks.copy()
    assert any(not torch.equal(layer.weight[p.masks[layer.name]], dense[p.masks[layer.name]])
               for layer, dense in zip(p.layers, p.restore, strict=True))  # fmt: skip
    without_refit(p)
    (problem,) = p.ask()
    p.tell(problem, worst(problem))
    assert p.history[-1]["accepted"] is False
    assert p.masks.checksum() == masks.checksum()
    assert same(weights_of(p.model), before)


def test_ask_and_tell_by_hand_equals_run(classifier: nn.Module, digits: Tensors) -> None:
    by_run, by_hand = pruner(classifier, digits), pruner(classifier, digits)
    by_run.run()
    while asked := by_hand.ask():
        seed = int(np.random.SeedSequence([0, by_hand.rounds]).generate_state(1)[0])
        starts = [block.before for block in by_hand._round.blocks]  # type: ignore[union-attr]
        for b in reversed(range(len(asked))):
            answer = solve(asked[b], "tabu", offspring=3, seed=seed + b, initial_states=starts[b])
            by_hand.tell(asked[b], answer)
    assert same(weights_of(by_run.model), weights_of(by_hand.model))


@pytest.mark.parametrize("settings", [{}, {"guard": "watch", "density": 0.3}, {"density": 0.02, "cut_steps": 4}])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_that_was_stopped_ends_in_the_same_weights(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, settings: dict[str, Any], rounds: int
) -> None:
    whole = prune(classifier, digits, **REFIT | settings, progress=False)
    part = pruner(classifier, digits, out=tmp_path, **settings)
    part.run(after_round=lambda p: setattr(p, "interrupted", p.rounds == rounds))
    part.close()
    assert 1 <= len(list((tmp_path / FOLDER).iterdir())) <= 2  # of the present state and of the best
    (tmp_path / FOLDER / "000099.safetensors").write_bytes(b"of a round that was never on record")
    again = Pruner.resume(tmp_path, classifier, digits)
    assert same(weights_of(part.model), weights_of(again.model))
    resumed = complete(again, progress=False)
    assert same(weights_of(whole.model), weights_of(resumed.model))
    assert len(list((tmp_path / FOLDER).iterdir())) <= 2
    at_the_end = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    assert same(weights_of(whole.model), weights_of(at_the_end.model))
    record = RunRecord.read(tmp_path)
    assert [layer.kept for layer in record.layers] == [int(mask.sum()) for mask in whole.masks.values()]


def test_watching_returns_the_weights_of_the_best_state(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, density=0.3, guard="watch", block_size=512, round_size=1)
    p.run(after_round=lambda p: setattr(p, "interrupted", p.rounds == 2))
    best, loss = weights_of(p.model), p.guard_loss
    assert p._state.best_loss == loss
    without_refit(p)
    (problem,) = p.ask()
    p.tell(problem, worst(problem))
    assert not same(weights_of(p.model), best)
    p.finish()
    assert same(weights_of(p.model), best)
    assert p.guard_loss == loss


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damaged_weights_of_a_run_are_named(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, damage: str
) -> None:
    part = pruner(classifier, digits, out=tmp_path)
    part.run(after_round=lambda p: setattr(p, "interrupted", p.rounds == 1))
    part.close()
    (file,) = (tmp_path / FOLDER).iterdir()
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-8] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunFolderError, match=file.name):
        Pruner.resume(tmp_path, classifier, digits)


def test_a_journal_from_before_there_were_refits_is_opened(
    classifier: nn.Module, digits: Tensors, tmp_path: Path
) -> None:
    p = pruner(classifier, digits, out=tmp_path, update="none")
    p.run(after_round=lambda p: setattr(p, "interrupted", True))
    p.close()
    with sqlite3.connect(tmp_path / FILE) as old:
        for statement in (
            "ALTER TABLE rounds DROP COLUMN weights", "ALTER TABLE rounds DROP COLUMN weights_checksum",
            "DROP TABLE plan", "DROP TABLE layers", "UPDATE run SET value = '2' WHERE key = 'schema'",
        ):  # fmt: skip
            old.execute(statement)
    old.close()
    resumed = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    whole = prune(classifier, digits, **REFIT | {"update": "none"}, progress=False)
    assert same(weights_of(whole.model), weights_of(resumed.model))


def test_refits_need_a_guard() -> None:
    with pytest.raises(PruningError, match=r"needs a guard.*guard = \"refuse\""):
        Config.of(density=0.1, update="backsolve", guard="off")
    assert Config.of(density=0.1, update="backsolve").update == "backsolve"


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", torch.bfloat16), ("gpt2", torch.float32), ("vit", torch.float32)]
)
def test_transformers_models_are_refitted_to_a_pattern_and_saved(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make(name).to(dtype)
    given: dict[str, Any] = {"pattern": "2:4", "update": "backsolve", "steps": 3, "block_size": 128, "guard_size": 8}
    given |= {"backend": "tabu?offspring=3", "progress": False}
    # Few samples, many times: the models are random, and other samples would have nothing in common.
    data = {key: torch.cat([value[:4]] * 6) for key, value in samples(name, 4).items()}
    result = prune(model, data, **given, out=tmp_path / "run")
    assert result.scores["result"]["loss"] < result.scores["start"]["loss"]  # type: ignore[operator]
    assert any(row["refit_step"] > 0 for row in result.history)
    assert holds(result.masks, find_layers(result.model), Pattern.read("2:4"))
    again = type(model).from_pretrained(tmp_path / "run" / "model")
    found = dict(again.named_parameters())
    for key, value in result.model.named_parameters():
        assert found[key].dtype == dtype
        assert torch.equal(found[key], value)
    assert all(bool((found[key][~mask] == 0).all()) for key, mask in result.masks.items())


def test_batch_norm_statistics_belong_to_the_refitted_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    data = (torch.randn(200, 8) + 1, torch.arange(200) % 3)
    given: dict[str, Any] = {"density": 0.3, "steps": 2, "block_size": 16, "update": "backsolve", "progress": False}
    result = prune(model, data, **given, recalibrate_bn=True)
    pool = np.random.default_rng([0, 0]).permutation(200)[66:]
    expected = result.model[0](data[0][pool]).mean(0).detach()  # type: ignore[index]
    torch.testing.assert_close(result.model[1].running_mean, expected)  # type: ignore[index]
