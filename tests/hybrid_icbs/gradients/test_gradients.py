from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from transformers.pytorch_utils import Conv1D

from hybrid_icbs import PruningError
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import cross_entropy
from hybrid_icbs.gradients.entries import add_products, products_by_torch
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.kinds import Products
from hybrid_icbs.models.layers import Layer, find_layers


def per_sample_by_torch(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """Gradients of each sample's loss by torch.func, the reference: {name: [weights, N]}."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, torch.Tensor], xi: torch.Tensor, yi: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(model, p, (xi[None],)), yi[None])[0]

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    return {name: g.flatten(1).numpy().T for name, g in found.items()}


def check(model: nn.Module, x: torch.Tensor, classes: int = 3) -> None:
    model.eval()
    y = torch.arange(len(x)) % classes
    layers = find_layers(model)
    measured = measure_gradients(model, layers, Batch(x, y, len(x)), cross_entropy)
    reference = per_sample_by_torch(model, x, y)
    rng = np.random.default_rng(0)
    for layer in layers:
        index = rng.permutation(layer.size)[: max(1, 2 * layer.size // 3)]
        scale = np.abs(reference[layer.name]).max()
        assert scale > 0
        found = measured.per_sample(layer, index)
        assert found.shape == (len(index), len(x))
        np.testing.assert_allclose(found, reference[layer.name][index], atol=2e-5 * scale)
        mean = reference[layer.name].mean(1)
        np.testing.assert_allclose(measured.mean[layer.number].flatten().numpy(), mean, atol=2e-5 * scale)


class Pooled(nn.Module):
    """A convolution, then the mean over pixels."""

    def __init__(self, conv: nn.Conv2d, after: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.after, self.head = conv, after or nn.Identity(), nn.Linear(conv.out_channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.after(self.conv(x))).mean((2, 3)))


def test_linear_gradients_equal_those_of_torch_func() -> None:
    torch.manual_seed(0)
    check(nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3, bias=False)), torch.randn(7, 6))


def test_linear_gradients_sum_over_the_tokens_of_a_sample() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x))).mean((1, 2))

    torch.manual_seed(0)
    check(Tokens(), torch.randn(4, 2, 9, 6))


def test_hugging_face_conv1d_gradients_equal_those_of_torch_func() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Conv1D(5, 6), Conv1D(3, 5)  # (outputs, inputs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.tanh(self.a(x))).mean(1)

    torch.manual_seed(0)
    check(Model(), torch.randn(4, 7, 6))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.one_of(st.sampled_from(["valid"]), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    mode=st.sampled_from(["zeros", "circular", "reflect"]),
    size=st.tuples(st.integers(7, 9), st.integers(8, 10)),
)
def test_convolution_gradients_equal_those_of_torch_func(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: object,
    dilation: tuple[int, int],
    groups: int,
    mode: str,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, padding_mode=mode)  # type: ignore[arg-type]
    check(Pooled(conv), torch.randn(3, 4, *size))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_of_even_kernels_is_followed() -> None:
    torch.manual_seed(0)
    check(Pooled(nn.Conv2d(2, 4, (2, 4), padding="same", dilation=(1, 2))), torch.randn(3, 2, 7, 8))


def test_batch_norm_is_used_with_its_running_statistics() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    model = Pooled(nn.Conv2d(2, 4, 3, padding=1), norm)
    model.train()
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    layers = find_layers(model)
    measure_gradients(model, layers, Batch(torch.randn(5, 2, 6, 6), torch.arange(5) % 3, 5), cross_entropy)
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    assert model.training
    assert norm.training
    check(model, torch.randn(5, 2, 6, 6))


def test_a_weight_that_is_used_twice_gets_the_sum_of_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.b(torch.tanh(self.a(self.a(x))))))

    torch.manual_seed(0)
    model = Twice()
    assert [layer.name for layer in find_layers(model)] == ["a.weight", "head.weight"]
    check(model, torch.randn(4, 5))


def test_the_torch_form_for_other_devices_agrees_with_the_compiled_one() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    row, column, shift = rng.integers(0, 4, 30), rng.integers(0, 5, 30), rng.integers(0, 3, 30)
    D, X = torch.randn(6, 4, 8), torch.randn(6, 5, 12)
    compiled = np.zeros((30, 6), np.float32)
    products = Products(D, X, row, column, shift)
    add_products(products, compiled)
    np.testing.assert_allclose(products_by_torch(products).numpy(), compiled, atol=1e-5)
    compiled[:] = 0
    products = Products(D[:, :, 0], X[:, :, 0], row, column)
    add_products(products, compiled)
    np.testing.assert_allclose(products_by_torch(products).numpy(), compiled, atol=1e-6)


def test_samples_shared_out_to_threads_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = find_layers(Pooled(nn.Conv2d(4, 8, 3, padding=1)))[0]
    model = Pooled(layer.modules[0])  # type: ignore[arg-type]
    batch = Batch(torch.randn(9, 4, 8, 8), torch.arange(9) % 3, 9)
    index = np.arange(layer.size)
    alone = measure_gradients(model, [layer], batch, cross_entropy).per_sample(layer, index)
    monkeypatch.setattr("hybrid_icbs.gradients.entries.PARALLEL_PRODUCTS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = measure_gradients(model, [layer], batch, cross_entropy).per_sample(layer, index)
    np.testing.assert_array_equal(alone, shared)


def test_flags_grads_and_modes_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    model.train()
    measure_gradients(model, find_layers(model), Batch(torch.randn(5, 4), torch.arange(5) % 3, 5), cross_entropy)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_the_whole_per_sample_gradient_never_exists() -> None:
    """N = 64 samples of a 1000 x 1000 layer would be 256 MB; the chosen entries are 0.3 MB."""
    model = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 3))
    layers = find_layers(model)
    batch = Batch(torch.randn(64, 1000), torch.arange(64) % 3, 64)
    measured = measure_gradients(model, layers, batch, cross_entropy)
    measured.per_sample(layers[0], np.arange(10))  # compiled
    index = np.random.default_rng(0).choice(layers[0].size, 1000, replace=False)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tracemalloc.start()
        measured.per_sample(layers[0], index)
        _, by_numpy = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    by_torch = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert by_numpy + by_torch < 4e6


def test_an_input_that_does_not_hold_one_row_a_sample_is_refused() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.reshape(-1, 4)).reshape(len(x), -1, 3).mean(1)

    model = Merged()
    with pytest.raises(PruningError, match=r"'fc.weight' got an input of shape \[10, 4\] for a batch of 5"):
        measure_gradients(model, find_layers(model), Batch(torch.randn(5, 8), torch.arange(5) % 3, 5), cross_entropy)


def test_a_loss_that_is_not_finite_is_refused(classifier: nn.Module) -> None:
    layers: list[Layer] = find_layers(classifier)
    x = torch.zeros(3, 64)
    x[1, 0] = float("nan")
    with pytest.raises(PruningError, match="loss of sample 1 of a calibration batch is nan"):
        measure_gradients(classifier, layers, Batch(x, torch.tensor([0, 1, 2]), 3), cross_entropy)


def test_a_weight_that_is_used_outside_its_module_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.tanh(nn.functional.linear(self.a(x), self.a.weight)))

    model = Hidden()
    layers = find_layers(model)
    measured = measure_gradients(model, layers, Batch(torch.randn(6, 5), torch.arange(6) % 3, 6), cross_entropy)
    measured.per_sample(layers[1], np.arange(15))
    with pytest.raises(PruningError, match=r"'a\.weight' by sample do not add up"):
        measured.per_sample(layers[0], np.arange(25))


PEAK = """
import resource, numpy as np, torch
from torch import nn
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import cross_entropy
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.layers import find_layers

torch.manual_seed(0)
torch.set_num_threads(1)
body = [nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()]
model = nn.Sequential(*body, nn.Linear(64 * 64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 3))
batch = Batch(torch.randn(64, 8, 8, 8), torch.arange(64) % 3, 64)
layers = find_layers(model)
small = Batch(batch.inputs[:2], batch.targets[:2], 2)
for layer in layers:  # compiled before anything is measured
    measure_gradients(model, layers, small, cross_entropy).per_sample(layer, np.arange(5))
for _ in range(3):
    torch.autograd.grad(cross_entropy(model(batch.inputs), batch.targets).mean(), list(model.parameters()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measured = measure_gradients(model, layers, batch, cross_entropy)
for layer in layers:
    measured.per_sample(layer, np.random.default_rng(0).choice(layer.size, min(2048, layer.size), replace=False))
    measured.release(layer)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_whole_pass_peaks_little_above_a_plain_one() -> None:
    """Full per-sample gradients would be 1 GB for the largest layer; what is kept of all layers is 5 MB."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=200, check=True)
    assert float(done.stdout) < 40, f"{done.stdout} MB above a plain forward and backward pass"
