"""The handwritten digits that ship with the package, and a small classifier for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.adam import adam

from hybrid_icbs.errors import PruningError

FILE = Path(__file__).parent / "assets" / "digits.npz"

TRAINING_SAMPLES = 1347
"""Three quarters of the 1,797 digits; they come in random order of writers, the rest is the test part."""


def load_digits(part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """UCI's handwritten digits (Alpaydin and Kaynak 1998, CC BY 4.0): 8 x 8 pixels scaled to -1..1, and labels.

    Args:
        part: "train" (1,347 digits) or "test" (450 others).

    Returns:
        Inputs, float32 [S, 64], and labels, int64 [S].

    Raises:
        PruningError: another part.
    """
    if part not in ("train", "test"):
        raise PruningError(f'part {part!r} of the digits must be "train" or "test"')
    with np.load(FILE, allow_pickle=False) as file:
        order = np.random.default_rng(0).permutation(len(file["y"]))
        chosen = order[:TRAINING_SAMPLES] if part == "train" else order[TRAINING_SAMPLES:]
        x, y = file["x"][chosen], file["y"][chosen]
    return torch.from_numpy(x.reshape(len(x), 64)).float() / 8 - 1, torch.from_numpy(y.astype(np.int64))


def digits_classifier(epochs: int = 40, seed: int = 0, *, after_epoch: Callable[[], object] | None = None) -> nn.Module:
    """A perceptron 64-256-256-10, trained on the digits in a few seconds.

    Args:
        epochs: passes over the training part; 0 leaves the model untrained.
        seed: of the initial weights and the order of samples.
        after_epoch: called after each pass.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        x, y = load_digits("train")
        weights: list[torch.Tensor] = list(model.parameters())
        means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        steps = [torch.tensor(0.0) for _ in weights]
        for _ in range(epochs):
            for index in torch.randperm(len(y)).split(64):
                gradients = torch.autograd.grad(F.cross_entropy(model(x[index]), y[index]), weights)
                with torch.no_grad():
                    # The class of that name imports torch's compiler, which takes as long as the training.
                    adam(
                        weights, list(gradients), means, squares, [], steps, amsgrad=False, beta1=0.9, beta2=0.999,
                        lr=1e-3, weight_decay=0.0, eps=1e-8, maximize=False,
                    )  # fmt: skip
            if after_epoch:
                after_epoch()
    return model.eval()
