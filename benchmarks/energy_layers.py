"""Masks of whole layers of different quality, with the energies of three objectives, for energy_vs_loss.py.

A layer of a dense network loses the same number of weights in each row. With D its pruned weights (zero
elsewhere), x its inputs and g the gradient of a sample's loss by its outputs, all in the dense network:

    layer    mean over tokens of |D x|^2
    joint    the same, each row weighted by its mean squared output gradient
    loss     -gamma <mean gradient, D> + 1/2 mean over samples of <gradient, D>^2 + rho |D|^2

States are random masks, masks by magnitude and by Wanda's score, Wanda's improved by a search of each row on the
"layer" error, that of least "loss" energy that simulated annealing finds, and mixtures of these, row by row. The
"present mask" is magnitude's.
"""

from __future__ import annotations

from dataclasses import dataclass

import models
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import solvers
from problems import BlockProblem
from solvers.rows import solve_rows

GAMMA, RHO = 0.75, 0.1
LAYERS = (
    ("mlpnet", "fc1", 0.05), ("mlpnet", "fc2", 0.2), ("llama", "model.layers.0.self_attn.v_proj", 0.3),
    ("llama", "model.layers.1.mlp.down_proj", 0.3), ("llama", "model.layers.3.self_attn.o_proj", 0.3),
)  # fmt: skip
SEQUENCE, HELD_SEQUENCES = 128, 24
MIXTURES, SWAPPED = 48, (1, 2, 4, 8)


@dataclass(frozen=True)
class Measured:
    """States of a layer: how each was found, its loss, and by objective the energies and that of random states."""

    n: int
    kinds: np.ndarray
    losses: np.ndarray
    energies: dict[str, tuple[np.ndarray, float]]


def layer_cases(network: str, layer: str, density: float, samples: int, seed: int) -> Measured:
    """Prune a layer in many ways and measure each.

    Args:
        network: "mlpnet" or "llama".
        layer: its module's name.
        density: share of each row that is kept.
        samples: images or sequences on which the energies are measured.
        seed: of the choice of samples and of the states.
    """
    model, batch, held_out = _network(network, samples, seed)
    module = model.get_submodule(layer)
    X, outs, G = _measured(model, module, batch)
    W = module.weight.detach().double().numpy()
    states, kinds = _states(W, X, G, density, np.random.default_rng(seed))
    gram = X.T @ X / len(X)
    weights = np.square(outs).mean(axis=0)
    rho = RHO * float(np.square(G).mean())
    mean = G.mean(axis=0)
    energies: dict[str, list[float]] = {"layer": [], "joint": [], "loss": []}
    losses = []
    for state in states:
        D = W * state
        rows = np.einsum("ri,ri->r", D @ gram, D)
        along = G.reshape(len(G), -1) @ D.ravel().astype(np.float32)
        energies["layer"].append(float(rows.sum()))
        energies["joint"].append(float(weights @ rows))
        first = float(np.sum(mean * D, dtype=np.float64))
        second = 0.5 * float(np.square(along, dtype=np.float64).mean())
        energies["loss"].append(-GAMMA * first + second + rho * float((D * D).sum()))
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(W - D))
        losses.append(held_out())
    random = kinds == "random"
    told = {name: (np.array(values), float(np.mean(np.array(values)[random]))) for name, values in energies.items()}
    return Measured(W.size, kinds, np.array(losses), told)


def _network(
    network: str, samples: int, seed: int
) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]], object]:
    rng = np.random.default_rng(seed)
    if network == "mlpnet":
        mlp = models.mlpnet()
        x, y = models.mnist("train")
        chosen = rng.choice(len(y) - 10_000, samples, replace=False)
        held_x, held_y = x[-10_000:], y[-10_000:]

        @torch.no_grad()
        def loss() -> float:
            return float(F.cross_entropy(mlp(held_x), held_y))

        return mlp, [(x[i : i + 1], y[i : i + 1]) for i in chosen], loss
    model, tokenizer = models.llama()
    train, valid = (
        torch.tensor(tokenizer(models.text(f"shakespeare_{part}"))["input_ids"]) for part in ("train", "valid")
    )
    starts = rng.integers(0, len(train) - SEQUENCE, samples)
    held = valid[: HELD_SEQUENCES * SEQUENCE].reshape(HELD_SEQUENCES, SEQUENCE)

    @torch.no_grad()
    def perplexity() -> float:
        logits = model(held).logits[:, :-1]
        return float(F.cross_entropy(logits.flatten(0, 1), held[:, 1:].flatten()))

    return model, [(train[s : s + SEQUENCE][None], train[s + 1 : s + SEQUENCE]) for s in starts], perplexity


def _measured(
    model: nn.Module, module: nn.Module, batch: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer's inputs [tokens, in], output gradients [tokens, out] and gradients of samples [samples, out, in]."""
    inputs: list[np.ndarray] = []
    outputs: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        inputs.append(args[0].detach().reshape(-1, args[0].shape[-1]).double().numpy())
        outputs.append(output)

    hook = module.register_forward_hook(keep)
    gradients, backward = [], []
    for x, y in batch:
        logits = model(x)
        loss = F.cross_entropy(logits if isinstance(logits, torch.Tensor) else logits.logits[0, :-1], y)
        by_output, by_weight = torch.autograd.grad(loss, [outputs.pop(), module.weight])
        backward.append(by_output.reshape(-1, by_output.shape[-1]).double().numpy())
        gradients.append(by_weight.numpy())
    hook.remove()
    return np.concatenate(inputs), np.concatenate(backward), np.array(gradients)


def _states(
    W: np.ndarray, X: np.ndarray, G: np.ndarray, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """States [s, rows, columns], ones for weights that are cut, and the way each was found."""
    rows, columns = W.shape
    count = round((1.0 - density) * columns)
    gram = X.T @ X / len(X)
    magnitude = _lowest(np.abs(W), count)
    wanda = _lowest(np.abs(W) * np.sqrt(np.diagonal(gram)), count)
    searched, _ = solve_rows(gram, W, wanda, threads=1)
    by_loss = _annealed(W, G, count, magnitude)
    good = np.array([magnitude, wanda, searched, by_loss], np.int8)
    random = np.array([_lowest(rng.random(W.shape), count) for _ in range(15)], np.int8)
    mixed, near = [], []
    for i in range(MIXTURES):
        share = rng.dirichlet(np.full(4, 0.5))
        pick = good[rng.choice(4, rows, p=share), np.arange(rows)]
        if i % 2:  # half of the mixtures have rows at random, more and more of them
            spoilt = rng.random(rows) < (i / MIXTURES) ** 2
            pick = np.where(spoilt[:, None], random[i % 15], pick)
        mixed.append(pick)
    for base in (searched, by_loss):
        for swaps in SWAPPED:
            near += [_swapped(base, swaps, rng) for _ in range(3)]
    groups = {
        "random": random,
        "mixed": mixed,
        "near": near,
        "searched": [wanda, searched, by_loss],
        "mask": [magnitude],
    }
    states = np.array([state for group in groups.values() for state in group], np.int8)
    return states, np.array([kind for kind, group in groups.items() for _ in group])


def _annealed(W: np.ndarray, G: np.ndarray, count: int, start: np.ndarray) -> np.ndarray:
    """The state of least "loss" energy that `sa` finds, each row a group with a cardinality of its own."""
    rows, columns = W.shape
    flat = W.ravel()
    A = (G.reshape(len(G), -1).T * (flat / np.sqrt(2.0 * len(G)))[:, None]).astype(np.float32)
    rho = RHO * float(np.square(G).mean())
    linear = -GAMMA * flat * G.mean(axis=0).ravel() + rho * flat * flat
    problem = BlockProblem.low_rank(A, linear, np.full(rows, count), groups=np.repeat(np.arange(rows), columns))
    answer = solvers.solve(problem, "sa?restarts=1", seed=0, initial_states=start.reshape(1, -1))
    return np.asarray(answer.record.sample[0], np.int8).reshape(rows, columns)


def _lowest(score: np.ndarray, count: int) -> np.ndarray:
    """Ones for the `count` entries of least score in each row."""
    order = np.argsort(score, axis=1, kind="stable")
    state = np.zeros(score.shape, np.int8)
    np.put_along_axis(state, order[:, :count], 1, axis=1)
    return state


def _swapped(state: np.ndarray, swaps: int, rng: np.random.Generator) -> np.ndarray:
    """A state with random swaps in each row."""
    moved = state.copy()
    for row in moved:
        ones, zeros = np.flatnonzero(row), np.flatnonzero(row == 0)
        some = min(swaps, len(ones), len(zeros))
        row[rng.choice(ones, some, replace=False)] = 0
        row[rng.choice(zeros, some, replace=False)] = 1
    return moved
