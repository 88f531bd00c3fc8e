"""Layer kinds: one that a third party registers is found, measured and pruned like the built-in ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hybrid_icbs import PruningError, UnsupportedLayerError, prune
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import cross_entropy
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.kinds import (
    IndexArray,
    LayerKind,
    MatrixKind,
    Products,
    kind_of,
    register_kind,
    unregister_kind,
)  # fmt: skip
from hybrid_icbs.models.layers import find_layers


class ScaledLinear(nn.Module):
    """y = scale * x W^T."""

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x @ self.weight.T


class Scaled(MatrixKind):
    name, title = "scaled", "ScaledLinear"

    def matches(self, module: nn.Module) -> bool:
        return type(module) is ScaledLinear

    def rows(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        assert isinstance(module, ScaledLinear)
        return module.scale * inputs

    def products(
        self, module: nn.Module, inputs: torch.Tensor, output_grad: torch.Tensor, index: IndexArray
    ) -> Products:
        assert isinstance(module, ScaledLinear)
        found = super().products(module, inputs, output_grad, index)
        return replace(found, D=module.scale * found.D)


@pytest.fixture
def scaled() -> Iterator[LayerKind]:
    kind = Scaled()
    register_kind(kind)
    yield kind
    unregister_kind(kind.name)


def net(scale: float = 3.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ScaledLinear(8, 12, scale), nn.ReLU(), nn.Linear(12, 3))


def data(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 8, generator=generator), torch.arange(count) % 3


def test_without_its_kind_a_layer_is_refused_and_the_kinds_are_listed() -> None:
    with pytest.raises(
        UnsupportedLayerError, match=r"ScaledLinear .*only Linear, Conv2d and Hugging Face's Conv1D can"
    ):
        find_layers(net())


def test_gradients_of_a_registered_kind_are_those_of_autograd(scaled: LayerKind) -> None:
    model = net()
    layer = find_layers(model)[0]
    assert layer.kind is scaled
    x, y = data(6)
    found = measure_gradients(model, [layer], Batch(x, y, 6), cross_entropy).per_sample(layer, np.arange(layer.size))
    for sample in range(6):
        model.zero_grad()
        cross_entropy(model(x[sample : sample + 1]), y[sample : sample + 1]).sum().backward()
        assert layer.weight.grad is not None
        np.testing.assert_allclose(found[:, sample], layer.weight.grad.reshape(-1).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["loss", "layer"])
def test_a_registered_kind_is_pruned(scaled: LayerKind, objective: str) -> None:
    settings = {"steps": 2, "block_size": 16, "backend": "sa"} if objective == "loss" else {}
    result = prune(net(), data(), density=0.5, objective=objective, progress=False, **settings)
    assert list(result.masks) == ["0.weight", "2.weight"]
    assert result.density == 0.5
    assert not result.model[0].weight[~result.masks["0.weight"]].any()  # type: ignore[index]


def test_by_layer_the_rows_of_a_registered_kind_weigh_its_inputs(scaled: LayerKind) -> None:
    """A scale changes no choice within a layer: the Gram matrix grows by a factor, the best masks stay."""
    masks = [
        prune(net(scale), data(), density=0.5, objective="layer", include=["0"], progress=False).masks["0.weight"]
        for scale in (1.0, 2.0)
    ]
    assert torch.equal(*masks)


def test_two_kinds_of_one_name_are_refused(scaled: LayerKind) -> None:
    with pytest.raises(PruningError, match="'scaled' is registered already"):
        register_kind(Scaled())
    with pytest.raises(PruningError, match=r"is not a hybrid_icbs\.models\.kinds\.LayerKind"):
        register_kind(Scaled)  # type: ignore[arg-type]


def test_a_subclass_of_linear_is_of_no_kind() -> None:
    class Quantised(nn.Linear):
        pass

    assert kind_of(nn.Linear(2, 2)) is not None
    assert kind_of(Quantised(2, 2)) is None
