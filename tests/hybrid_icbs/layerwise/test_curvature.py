"""Gram matrices and output gradients against what autograd and plain matrix products say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybrid_icbs.errors import PruningError, UnsupportedLayerError
from hybrid_icbs.layerwise.grams import gather_grams, layer_groups, matrix_of, next_token_loss, output_importances
from hybrid_icbs.layerwise.refit import damped, inverted
from hybrid_icbs.models.layers import find_layers


def tiny_llama(seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(seed: int = 0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1,
        initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


class Perceptron(nn.Module):
    """A model without blocks whose layers stand in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(12, 3)
        self.first = nn.Linear(8, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def tokens(seed: int, count: int, length: int = 12) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(2, 40, (2, length), generator=generator)} for _ in range(count)]


def inputs_of(model: nn.Module, module: nn.Module, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    return torch.cat(seen).double()


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_gram_matrices_are_means_over_all_tokens(make: Any) -> None:
    model, batches = make(), tokens(0, 3)
    for group in layer_groups(model, find_layers(model, in_blocks=True), batches[0]):
        grams = gather_grams(model, group, batches)
        for layer in group.layers:
            X = inputs_of(model, layer.modules[0], batches)
            gram = grams[layer.number].mean()
            assert torch.allclose(gram, X.T @ X / len(X), rtol=1e-4, atol=1e-6)
            assert torch.equal(gram, gram.T)
            assert matrix_of(layer).shape[1] == len(gram)


def test_layers_that_are_given_one_tensor_share_one_matrix() -> None:
    model, batches = tiny_llama(), tokens(0, 2)
    group = layer_groups(model, find_layers(model, in_blocks=True), batches[0])[1]
    grams = gather_grams(model, group, batches)
    by_name = {layer.name.split(".")[-2]: grams[layer.number] for layer in group.layers}
    assert by_name["q_proj"] is by_name["k_proj"] is by_name["v_proj"]
    assert by_name["gate_proj"] is by_name["up_proj"]
    assert len({id(gram) for gram in by_name.values()}) == 4
    assert by_name["q_proj"].tokens == 2 * 2 * 12


def test_padding_does_not_count() -> None:
    model = tiny_llama()
    batch = tokens(1, 1)[0]["input_ids"]
    mask = torch.ones_like(batch)
    mask[1, 7:] = 0
    apart = [{"input_ids": batch[:1]}, {"input_ids": batch[1:, :7]}]
    padded = [{"input_ids": batch, "attention_mask": mask}]
    layers = find_layers(model, in_blocks=True)
    group = layer_groups(model, layers, padded[0])[1]
    one, other = gather_grams(model, group, padded), gather_grams(model, group, apart)
    for layer in group.layers:
        assert one[layer.number].tokens == 12 + 7
        assert torch.allclose(one[layer.number].mean(), other[layer.number].mean(), rtol=1e-4, atol=1e-6)
    assert next_token_loss(model(**padded[0]), padded[0]).item() == pytest.approx(
        sum(next_token_loss(model(**part), part).item() for part in apart), rel=1e-5
    )


def test_micro_batches_of_any_size_give_the_same() -> None:
    model, batches = tiny_llama(), tokens(2, 4)
    whole = [{"input_ids": torch.cat([batch["input_ids"] for batch in batches])}]
    layers = find_layers(model, in_blocks=True)
    group = layer_groups(model, layers, batches[0])[0]
    one, other = gather_grams(model, group, batches), gather_grams(model, group, whole)
    importance, again = (output_importances(model, layers, given) for given in (batches, whole))
    for layer in group.layers:
        assert torch.allclose(one[layer.number].mean(), other[layer.number].mean(), rtol=1e-4, atol=1e-6)
    for layer in layers:
        assert torch.allclose(importance[layer.number], again[layer.number], rtol=1e-3)


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_importances_are_mean_squared_output_gradients(make: Any, checkpointing: str | None) -> None:
    model, batches = make(), tokens(3, 2)
    layers = find_layers(model, in_blocks=True)
    expected: dict[int, torch.Tensor] = {}
    for batch in batches:
        outputs: dict[int, torch.Tensor] = {}

        def keep(number: int, output: torch.Tensor, outputs: dict[int, torch.Tensor] = outputs) -> None:
            output.retain_grad()
            outputs[number] = output

        handles = [
            layer.modules[0].register_forward_hook(lambda m, a, o, n=layer.number, keep=keep: keep(n, o))
            for layer in layers
        ]
        next_token_loss(model(**batch), batch).backward()
        for handle in handles:
            handle.remove()
        for number, output in outputs.items():
            assert output.grad is not None
            square = output.grad.double().square().flatten(0, -2).sum(0) / (2 * 24)
            expected[number] = expected.get(number, torch.zeros_like(square)) + square
    model.zero_grad(set_to_none=True)
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": checkpointing == "reentrant"})
    found = output_importances(model, layers, batches)
    for layer in layers:
        assert torch.allclose(found[layer.number], expected[layer.number], rtol=1e-4, atol=1e-12), layer.name


def test_no_gradient_of_a_weight_is_formed_and_the_model_is_left_as_it_was() -> None:
    model, batches = tiny_llama(), tokens(4, 1)
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    model.train()
    layers = find_layers(model, in_blocks=True)
    output_importances(model, layers, batches)
    group = layer_groups(model, layers, batches[0])[0]
    gather_grams(model, group, batches)
    assert all(p.grad is None for p in model.parameters())
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_without_blocks_goes_layer_after_layer_in_the_order_it_runs() -> None:
    model, batch = Perceptron(), {"x": torch.randn(30, 8)}
    groups = layer_groups(model, find_layers(model), batch)
    assert [group.name for group in groups] == ["first", "last"]
    gram = gather_grams(model, groups[1], [batch])[0].mean()
    hidden = model.first(batch["x"]).relu().double()
    assert torch.allclose(gram, hidden.T @ hidden / 30, rtol=1e-4)


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    model = Perceptron()
    model.spare = nn.Linear(3, 3)
    with pytest.raises(PruningError, match="does not run spare"):
        layer_groups(model, find_layers(model), {"x": torch.randn(4, 8)})
    model = Perceptron()
    groups = layer_groups(model, find_layers(model), {"x": torch.randn(4, 8)})
    with pytest.raises(PruningError, match=r"inputs of layer 'first\.weight' .* not finite"):
        gather_grams(model, groups[0], [{"x": torch.full((4, 8), torch.inf)}])
    convolution = find_layers(nn.Sequential(nn.Conv2d(1, 2, 3)))[0]
    with pytest.raises(UnsupportedLayerError, match=r"'0\.weight' is a Conv2d"):
        matrix_of(convolution)


def test_damping_is_in_units_of_the_mean_diagonal() -> None:
    gram = torch.diag(torch.tensor([1.0, 3.0, 8.0]))
    assert torch.allclose(damped(gram, 0.5).diagonal(), torch.tensor([3.0, 5.0, 10.0], dtype=torch.float64))
    assert torch.allclose(inverted(damped(gram, 0.0)) @ gram.double(), torch.eye(3, dtype=torch.float64))
    with pytest.raises(PruningError, match="raise the damping"):
        inverted(torch.ones(3, 3, dtype=torch.float64) - 1.0)
