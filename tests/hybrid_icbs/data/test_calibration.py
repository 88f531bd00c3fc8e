from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SubsetRandomSampler, TensorDataset

from hybrid_icbs import PruningError, evaluate
from hybrid_icbs.data.batch_norm import recalibrate_batch_norm
from hybrid_icbs.data.calibration import Batch, CalibrationData
from hybrid_icbs.data.losses import cross_entropy, sample_losses
from hybrid_icbs.data.mismatches import described


def tensors(count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count * 2.0).reshape(count, 2), torch.arange(count) % 3


class Noisy(Dataset[Any]):
    """A data set that augments at random."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2) + i, i % 3


@pytest.mark.parametrize("kind", ["pair", "list", "loader", "dataset", "batches", "generator"])
def test_every_kind_of_data_gives_the_same_samples(kind: str) -> None:
    x, y = tensors()
    data: Any = {
        "pair": (x, y),
        "list": [x, y],
        "loader": DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True),
        "dataset": TensorDataset(x, y),
        "batches": [(x[:4], y[:4]), (x[4:], y[4:])],
        "generator": ((x[i : i + 1], y[i : i + 1]) for i in range(10)),
    }[kind]
    samples = CalibrationData(data)
    batch = samples.take(np.array([7, 2]))
    assert len(samples) == 10
    assert torch.equal(batch.inputs, x[[7, 2]])
    assert torch.equal(batch.targets, y[[7, 2]])


def test_a_data_set_that_augments_gives_the_same_batch_twice_and_leaves_the_random_state_alone() -> None:
    samples = CalibrationData(DataLoader(Noisy()))
    before = torch.random.get_rng_state()
    first, second = samples.take(np.array([3, 1])), samples.take(np.array([3, 1]))
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4)), "3 inputs and 4 targets"),
        ((torch.zeros(0, 2), torch.zeros(0)), "is empty"),
        ([], "is empty"),
        (7, "data is a int"),
        ([torch.zeros(2), torch.zeros(2), torch.zeros(2)], "must be a pair"),
        ([({"a": torch.zeros(2)}, torch.zeros(2))], "must hold tensors"),
        ((torch.tensor(1.0), torch.tensor(1)), "data holds a tensor without dimensions"),
        ([tensors(), (torch.zeros(3, 2), torch.zeros(2))], "batch 1 has 3 inputs and 2 targets"),
        (
            [tensors(), (torch.zeros(3, 4), torch.zeros(3))],
            r"inputs of batch 1 have shape \[3, 4\], .* \[10, 2\]",
        ),
        (DataLoader(TensorDataset(*tensors()), batch_size=None), "batch 0 holds a tensor without dimensions"),
    ],
)
def test_data_that_cannot_be_used_is_named(data: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        CalibrationData(data)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), r"Linear does not run on inputs \[4, 3\] float32: .*multiplied"),
        (torch.zeros(4, 2).double(), torch.zeros(4).long(), r"weights are float32: .*inputs\.to\(torch\.float32\)"),
        ({"x": torch.zeros(4, 2)}, torch.zeros(4).long(), r"inputs \{x: \[4, 2\] float32\}: TypeError"),
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, 5]), r"int64 from 0 to 5: .*classes, whole numbers from 0 to 2"),
        (torch.zeros(4, 2), torch.zeros(4), r"targets \[4\] float32: .*a loss of your own"),
        (torch.zeros(4, 2), torch.zeros(4, 1).long(), r"targets \[4, 1\] int64 from 0 to 0: .*one for each"),
        (torch.zeros(4, 2), ["cat", "dog", "cat", "dog"], r"targets \(str, str, str, str\): AttributeError"),
    ],
)
def test_data_that_does_not_fit_the_model_is_named(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        sample_losses(nn.Linear(2, 3), Batch(inputs, targets, 4), cross_entropy)


def test_a_loss_of_ones_own_that_fails_is_named() -> None:
    def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean(1)

    with pytest.raises(
        PruningError, match=r"the loss fails on outputs \[4, 3\] float32 and targets \[4, 2\] float32: Runtime"
    ):
        sample_losses(nn.Linear(2, 3), Batch(torch.zeros(4, 2), torch.zeros(4, 2), 4), mine)


@pytest.mark.parametrize("returned", [0.5, None, [1.0] * 4])
def test_a_loss_that_returns_no_tensor_is_named(returned: Any) -> None:
    with pytest.raises(PruningError, match=rf"loss returned a {type(returned).__name__}; .* of each sample \[4\]"):
        sample_losses(nn.Linear(2, 3), Batch(torch.zeros(4, 2), torch.zeros(4), 4), lambda outputs, targets: returned)


def test_targets_whose_range_torch_cannot_tell_are_described_all_the_same() -> None:
    assert described(torch.zeros(3, dtype=torch.int64).to_sparse()) == "[3] int64"
    assert described(torch.tensor([3, 9]).to(torch.uint16)) == "[2] uint16 from 3 to 9"


def test_running_out_of_memory_is_not_blamed_on_the_data() -> None:
    class Large(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise error

    batch = Batch(torch.zeros(4, 2), torch.zeros(4).long(), 4)
    for error in (torch.OutOfMemoryError("2 TB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(type(error), match=str(error)):
            sample_losses(Large(2, 3), batch, cross_entropy)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.uint16, torch.bool])
def test_classes_may_be_of_any_whole_dtype(dtype: torch.dtype) -> None:
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(cross_entropy(logits, y.to(dtype)), cross_entropy(logits, y))
    assert evaluate(nn.Identity(), (logits, y.to(dtype))) == evaluate(nn.Identity(), (logits, y))


def test_models_take_dicts_tuples_and_tensors_and_may_return_logits() -> None:
    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Model(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> Output:
            return Output(a + b)

    a, b, y = torch.randn(4, 3), torch.randn(4, 3), torch.arange(4) % 3
    expected = nn.functional.cross_entropy(a + b, y, reduction="none")
    for inputs in ({"a": a, "b": b}, (a, b)):
        _, losses = sample_losses(Model(), Batch(inputs, y, 4), cross_entropy)
        torch.testing.assert_close(losses, expected)


def test_cross_entropy_is_the_mean_over_a_samples_own_positions() -> None:
    logits, y = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    y[0, 2:] = -100  # masked positions do not count
    found = cross_entropy(logits, y)
    for i in range(4):
        torch.testing.assert_close(found[i], nn.functional.cross_entropy(logits[i].T, y[i]))


def test_evaluation_counts_every_sample_once_whatever_the_batch() -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9)), tensors()
    model.train()
    a, b = evaluate(model, (x, y), batch_size=3), evaluate(model, (x, y))
    assert a.loss == pytest.approx(b.loss)
    assert a.accuracy == b.accuracy
    assert model.training
    with torch.no_grad():
        assert b.accuracy == (model[0](x).argmax(1) == y).float().mean()


@pytest.mark.parametrize("count", [50, 1001, 2010])
def test_recalibration_gives_the_statistics_of_the_data(count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    model[0].momentum = 0.3
    x, y = torch.randn(count, 2) + 1, torch.arange(count) % 3
    recalibrate_batch_norm(model, CalibrationData((x, y)), np.arange(count))
    torch.testing.assert_close(model[0].running_mean, x.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model[0].running_var, x.var(0), rtol=1e-2, atol=1e-3)
    assert model[0].momentum == 0.3
    assert model[0].training


def test_a_loaders_own_sampler_says_which_samples_count() -> None:
    x, y = tensors()
    loader = DataLoader(TensorDataset(x, y), sampler=SubsetRandomSampler([7, 1, 4]))
    samples = CalibrationData(loader)
    assert len(samples) == 3
    assert torch.equal(samples.take(np.arange(3)).inputs, x[[1, 4, 7]])


def test_positions_that_do_not_count_do_not_lower_the_accuracy() -> None:
    logits = torch.randn(4, 3, 5)
    y = logits.argmax(1)
    y[0, 2:] = -100
    assert evaluate(nn.Identity(), (logits, y)).accuracy == 1.0


def test_a_loaders_batch_sampler_and_number_of_samples_say_which_samples_count() -> None:
    data = TensorDataset(*tensors(100))
    some = BatchSampler(SubsetRandomSampler([1, 2, 3, 4, 5]), 2, drop_last=False)
    assert len(CalibrationData(DataLoader(data, batch_sampler=_Every(some)))) == 5
    assert len(CalibrationData(DataLoader(data, sampler=RandomSampler(data, num_samples=7)))) == 7
    assert len(CalibrationData(DataLoader(data, shuffle=True, batch_size=8))) == 100


class _Every(BatchSampler):
    """A batch sampler of someone's own."""

    def __init__(self, other: BatchSampler) -> None:
        self._other = other

    def __iter__(self) -> Any:
        return iter(self._other)

    def __len__(self) -> int:
        return len(self._other)
