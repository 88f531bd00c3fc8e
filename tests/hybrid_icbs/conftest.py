"""Small real models and data that the tests share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hybrid_icbs.digits import digits_classifier, load_digits


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return load_digits("train")


@pytest.fixture(scope="session")
def _trained() -> nn.Module:
    return digits_classifier(epochs=8)


@pytest.fixture
def classifier(_trained: nn.Module) -> nn.Module:
    """A perceptron trained on the digits."""
    return copy.deepcopy(_trained)
