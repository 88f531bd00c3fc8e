"""Whole models pruned layer by layer: small real ones, every method."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from hybrid_icbs.errors import PruningError
from hybrid_icbs.layerwise.allocation import allocate, uniform
from hybrid_icbs.layerwise.grams import layer_groups, matrix_of
from hybrid_icbs.layerwise.method import LayerwiseSettings
from hybrid_icbs.layerwise.passes import prune_layerwise
from hybrid_icbs.methods import get_layer_method
from hybrid_icbs.models.layers import find_layers
from hybrid_icbs.models.patterns import Pattern


def by(method: str = "icbs", density: float | None = None, pattern: str | None = None, **how: Any) -> LayerwiseSettings:
    """Settings with method and pattern by name."""
    shape = Pattern.read(pattern) if pattern else None
    return LayerwiseSettings(get_layer_method(method), density, pattern=shape, **how)


SETTINGS: list[dict[str, Any]] = [
    {"method": method, "update": update, "objective": objective, "scope": scope}
    for method in ("magnitude", "wanda", "sparsegpt", "icbs")
    for update in ("none", "backsolve")
    for objective, scope in (("layer", "layer"), ("joint", "global"), ("joint", "layer"))
]


def make(kind: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=2, **common)).eval()
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=32, **common,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {kind: make(kind) for kind in ("llama", "gpt2")}


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(2, 40, (4, 16), generator=generator)} for _ in range(4)]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {layer.name: layer.weight.detach() for layer in find_layers(model, in_blocks=True)}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_setting_keeps_the_density_to_the_weight(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]], kind: str, settings: dict[str, Any]
) -> None:
    model = copy.deepcopy(models[kind])
    result = prune_layerwise(model, batches, by(density=0.4, **settings))
    total = sum(w.numel() for w in weights(model).values())
    assert result.masks.kept() == round(0.4 * total)
    before = weights(models[kind])
    for name, weight in weights(model).items():
        kept = result.masks[name]
        assert not weight[~kept].any()
        if settings["update"] == "none" and settings["method"] != "sparsegpt":
            assert torch.equal(weight[kept], before[name][kept])
    if settings["scope"] == "layer":
        assert max(abs(record.density - 0.4) for record in result.records) < 0.01
    untouched = {n: p for n, p in model.named_parameters() if n not in before}
    assert all(torch.equal(p, dict(models[kind].named_parameters())[n]) for n, p in untouched.items())


@pytest.mark.parametrize("text", ["2:4", "4:8"])
@pytest.mark.parametrize("settings", SETTINGS[::3], ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_method_keeps_a_pattern_exactly(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]], kind: str, settings: dict[str, Any], text: str
) -> None:
    model = copy.deepcopy(models[kind])
    result = prune_layerwise(model, batches, by(settings["method"], pattern=text, update=settings["update"]))
    assert len(result.records) == len(find_layers(model, in_blocks=True))
    for layer in find_layers(model, in_blocks=True):
        assert Pattern.read(text).holds(matrix_of(layer, result.masks[layer.name]))


def test_a_2_4_result_goes_through_torchs_semi_structured_format_and_back(
    batches: list[dict[str, torch.Tensor]],
) -> None:
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass,
        sparse_semi_structured_to_dense_cutlass,
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False)).to(torch.bfloat16)
    wrapped = Wrapped(model)
    data = [{"x": torch.randn(200, 64, dtype=torch.bfloat16)}]
    prune_layerwise(wrapped, data, by(pattern="2:4", update="backsolve"))
    weight = model[0].weight.detach()
    values, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert values.numel() == weight.numel() // 2
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, meta), weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_2_4_result_runs_on_semi_structured_kernels() -> None:
    from torch.sparse import to_sparse_semi_structured

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128, bias=False)).to("cuda", torch.float16)
    x = torch.randn(256, 128, dtype=torch.float16, device="cuda")
    prune_layerwise(Wrapped(model), [{"x": x}], by(pattern="2:4", update="backsolve"))
    weight = model[0].weight.detach()
    dense = x @ weight.T
    model[0].weight = nn.Parameter(to_sparse_semi_structured(weight), requires_grad=False)
    assert torch.allclose(model(x), dense, rtol=1e-2, atol=1e-2)


class Wrapped(nn.Module):
    """A model of plain layers that takes its batch as a keyword."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("update", ["none", "backsolve"])
def test_the_search_beats_the_baselines_on_the_layer_error(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]], update: str
) -> None:
    first = [layer for layer in find_layers(models["llama"], in_blocks=True) if "layers.0" in layer.name]
    names = {layer.name for layer in first}

    def error(method: str) -> float:
        model = copy.deepcopy(models["llama"])
        layers = [layer for layer in find_layers(model, in_blocks=True) if layer.name in names]
        # Magnitude and SparseGPT choose rows' counts themselves, so only Wanda is bound to the same ones.
        result = prune_layerwise(model, batches, by(method, 0.5, update=update, ridge=0.0), layers=layers)
        return sum(record.error for record in result.records)

    assert error("icbs") < error("wanda")


def test_a_refit_lowers_the_error_of_the_same_mask(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]]
) -> None:
    results = []
    for update in ("none", "backsolve"):
        model = copy.deepcopy(models["gpt2"])
        layers = find_layers(model, in_blocks=True)[:1]
        results.append(prune_layerwise(model, batches, by("wanda", 0.5, update=update), layers=layers))
    none, refitted = results
    assert none.masks.checksum() == refitted.masks.checksum()
    assert refitted.records[0].error < none.records[0].error


@pytest.mark.parametrize("update", ["none", "backsolve"])
def test_one_seed_gives_one_model_to_the_bit(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]], update: str
) -> None:
    pruned = []
    for threads in (1, 2):
        model = copy.deepcopy(models["llama"])
        how = by(density=0.5, update=update, objective="joint", scope="global", seed=7, threads=threads)
        prune_layerwise(model, batches, how)
        pruned.append(weights(model))
    assert all(torch.equal(pruned[0][name], pruned[1][name]) for name in pruned[0])


def test_stored_dtypes_are_kept(models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]]) -> None:
    model = copy.deepcopy(models["llama"]).to(torch.bfloat16)
    result = prune_layerwise(model, batches, by(density=0.5, update="backsolve"))
    for name, weight in weights(model).items():
        assert weight.dtype == torch.bfloat16
        assert not weight[~result.masks[name]].any()


def test_later_blocks_are_measured_with_the_earlier_ones_pruned(batches: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    model = Wrapped(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    x = torch.randn(400, 8)
    dense = copy.deepcopy(model)
    result = prune_layerwise(model, [{"x": x}], by(density=0.5, update="backsolve"))
    hidden = model.inner[1](model.inner[0](x)).detach().double()
    change = (model.inner[2].weight - dense.inner[2].weight).detach().double()
    wanted = (hidden @ change.T).square().sum() / (hidden @ dense.inner[2].weight.detach().double().T).square().sum()
    assert result.records[1].error == pytest.approx(float(wanted), rel=1e-4)


def test_global_scope_takes_density_from_rows_that_do_not_matter(batches: list[dict[str, torch.Tensor]]) -> None:
    model = make("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:8] *= 1e-3
    layers = find_layers(model, in_blocks=True)
    groups = layer_groups(model, layers, batches[0])
    plan = allocate(model, groups, batches, by(density=0.5, update="backsolve", objective="joint", scope="global"))
    down = next(layer for layer in layers if layer.name == "model.layers.1.mlp.down_proj.weight")
    assert sum(plan[down.number][:8]) > 0.9 * 8 * 24 > sum(plan[down.number][8:])
    assert sum(map(sum, plan.values())) == round(0.5 * sum(layer.size for layer in layers))


def test_uniform_counts_are_exact_and_even() -> None:
    layers = find_layers(nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)))
    plan = uniform(layers, 0.37)
    assert sum(map(sum, plan.values())) == 50 - round(0.37 * 50)
    assert all(max(counts) - min(counts) <= 1 for counts in plan.values())


def test_layers_in_blocks_leave_embeddings_and_heads_alone(models: dict[str, nn.Module]) -> None:
    assert len(find_layers(models["llama"], in_blocks=True)) == 14
    assert len(find_layers(models["gpt2"], in_blocks=True)) == 8
    assert {layer.kind.name for layer in find_layers(models["gpt2"], in_blocks=True)} == {"conv1d"}
    assert len(find_layers(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), in_blocks=True)) == 2


def test_settings_that_do_not_go_together_are_refused(
    models: dict[str, nn.Module], batches: list[dict[str, torch.Tensor]]
) -> None:
    model = models["llama"]
    with pytest.raises(PruningError, match="density is None"):
        by()
    with pytest.raises(PruningError, match="pattern 2:4 fixes the density"):
        by(pattern="2:4", scope="global")
    with pytest.raises(PruningError, match=r"keeps 0\.5 of the weights, not 0\.4"):
        by(density=0.4, pattern="2:4")
    with pytest.raises(PruningError, match="calibration data is empty"):
        prune_layerwise(model, [], by(density=0.4))
    with pytest.raises(PruningError, match="pattern 2:5 does not divide"):
        prune_layerwise(model, batches, by(pattern="2:5"))
