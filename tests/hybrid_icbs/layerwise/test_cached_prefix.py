"""Blocks that are done answer from memory: the matrices are those of a run from the start, in fewer passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformer_models import ALL, make, samples

from hybrid_icbs.layerwise.cached_prefix import CachedPrefix
from hybrid_icbs.layerwise.grams import Group, gather_grams, layer_groups
from hybrid_icbs.models.layers import find_layers


def batches_of(name: str) -> list[dict[str, torch.Tensor]]:
    whole = samples(name, 12)
    return [{key: value[at : at + 4] for key, value in whole.items()} for at in (0, 4, 8)]


def check(model: nn.Module, groups: list[Group], batches: list[dict[str, torch.Tensor]]) -> CachedPrefix:
    """Go through the groups, change each, and compare its matrices with those of a run from the start."""
    prefix = CachedPrefix(model, batches)
    for number, group in enumerate(groups):
        if number:
            prefix.finish(groups[number - 1].module, group.module)
        quick, full = gather_grams(model, group, batches, prefix), gather_grams(model, group, batches)
        for layer in group.layers:
            assert torch.equal(quick[layer.number].mean(), full[layer.number].mean())
            with torch.no_grad():
                layer.weight[0] = 0.0
    return prefix


@pytest.mark.parametrize("limit", [2**30, 0])
@pytest.mark.parametrize("name", ALL)
def test_matrices_are_those_of_a_run_from_the_start(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_icbs.layerwise.cached_prefix.IN_MEMORY", limit)
    model, batches = make(name), batches_of(name)
    check(model, layer_groups(model, find_layers(model, in_blocks=True), batches[0]), batches)


def test_a_block_that_is_done_does_not_run() -> None:
    model, batches = make("llama"), batches_of("llama")
    first, second = model.model.layers
    prefix = CachedPrefix(model, batches)
    prefix.finish(first, second)
    ran: list[Any] = []
    first.mlp.register_forward_hook(lambda *args: ran.append(first))
    second.mlp.register_forward_hook(lambda *args: ran.append(second))
    prefix.run(1)
    assert ran == [second]
    model(**batches[1])
    assert ran == [second, first, second]


class Talking(nn.Module):
    """Three blocks, of which the last may hear from the first by another way than the second's output."""

    def __init__(self, aside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6)) for _ in range(3))
        self.aside = aside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.blocks[0](x)
        second = self.blocks[1](torch.relu(first))
        return self.blocks[2](torch.relu(second) + (first if self.aside else 0.0))


@pytest.mark.parametrize(("aside", "left_out"), [(False, 2), (True, 0)])
def test_memory_is_used_only_where_outputs_say_all(aside: bool, left_out: int) -> None:
    model = Talking(aside)
    batches = [{"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(b))} for b in range(3)]
    groups = layer_groups(model, find_layers(model), batches[0])
    prefix = check(model, groups, batches)
    ran: list[nn.Module] = []
    for block in model.blocks:
        block[0].register_forward_hook(lambda module, args, output: ran.append(module))
    prefix.run(0)
    assert len(ran) == 3 - left_out


def test_a_model_may_write_to_what_it_is_given() -> None:
    class Writing(Talking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
                x *= 2
            return x

    model = Writing(False)
    batches = [{"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(b))} for b in range(2)]
    with torch.no_grad():
        check(model, layer_groups(model, find_layers(model), batches[0]), batches)
        check(model, layer_groups(model, find_layers(model), batches[0]), batches)
