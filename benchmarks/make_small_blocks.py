"""Build the small pruning blocks that ship in problems/instances/small, with proven optima.

    python benchmarks/make_small_blocks.py [--digits digits.npz] [--out problems/instances/small]

With --digits, an npz of images x [N, 64] or [N, 8, 8] (grey values 0..16) and labels y [N], a perceptron 64-32-16-10
is trained on them. Without, the MLPNet checkpoint of the WoodFisher and CHITA papers (784-40-20-10, no biases) and
MNIST are taken from the folder that HYBRID_ICBS_DATA names.

The blocks follow Rosenberg et al. 2024 (arXiv 2411.17796) with relative damping: the model is pruned to density 0.1 by
magnitude in each layer, g and H = G^T G / N are the mean gradient and the empirical Fisher matrix of N = 200 samples
there, and a block takes the pruned weights with the largest |g w0| and the kept ones with the smallest. Weights
whose gradient is zero for every sample are left out, since they would fill so small a block.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from problems import BlockProblem, Labels, save_set

DENSITY, SAMPLES, GAMMA, RHO = 0.1, 200, 0.75, 0.1
BLOCKS = [  # layer, variables, ones
    (2, 12, 6), (1, 16, 8), (1, 20, 2), (1, 20, 18), (0, 20, 10), (0, 24, 12), (0, 28, 14),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=Path, help="npz of images x and labels y to train a perceptron on")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "problems" / "instances" / "small")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers, inputs, labels, source = digits(options.digits) if options.digits else mnist()
    masks = [w.abs() >= w.abs().flatten().kthvalue(w.numel() - round(DENSITY * w.numel()) + 1).values for w in layers]
    pruned = [w * mask for w, mask in zip(layers, masks, strict=True)]
    gradients = sample_gradients(pruned, inputs, labels)
    problems = {}
    for layer, n, k in BLOCKS:
        problem = block(layer, n, k, layers[layer], masks[layer], gradients[layer], source)
        x = optimum(problem)
        provenance = {**problem.provenance, "optimum": np.flatnonzero(x).tolist()}
        problem = BlockProblem(
            problem.form.dense(), problem.linear, k, offset=problem.offset, labels=problem.labels, provenance=provenance
        )
        name = f"fc{layer + 1}_n{n}_k{k}"
        problems[name] = problem.with_best_known(problem.energy(x), proven=True, found_by="enumeration")
        print(f"{name}: optimum {problem.energy(x):.6g}, random mean {problem.random_mean_energy():.6g}")
    save_set(problems, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(problems)} blocks, {size / 1000:.0f} kB in {options.out}")


# Models: lists of weight matrices [out, in] without biases, ReLU between them


def mnist() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
    data = Path(os.environ.get("HYBRID_ICBS_DATA", "../shared/data"))
    weights = load_file(data / "checkpoints" / "mlpnet_mnist.safetensors")
    with np.load(data / "mnist" / "train.npz") as train:
        x = torch.from_numpy(train["x"][:SAMPLES].reshape(SAMPLES, -1)).float()
        y = torch.from_numpy(train["y"][:SAMPLES].astype(np.int64))
    layers = [weights[f"fc{i}.weight"].float() for i in (1, 2, 3)]
    return layers, (x / 255 - 0.1307) / 0.3081, y, {"model": "MLPNet 784-40-20-10", "data": "MNIST"}


def digits(path: Path) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
    with np.load(path) as loaded:
        x = torch.from_numpy(loaded["x"].reshape(len(loaded["x"]), -1)).float() / 16 - 0.3
        y = torch.from_numpy(loaded["y"].astype(np.int64))
    shapes = [(32, x.shape[1]), (16, 32), (10, 16)]
    layers = [torch.nn.Parameter(torch.randn(shape) * (2 / shape[1]) ** 0.5) for shape in shapes]
    optimizer = torch.optim.Adam(layers, lr=3e-3)
    for _ in range(1500):
        rows = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        cross_entropy(outputs(layers, x[rows]), y[rows]).backward()
        optimizer.step()
    trained = [layer.detach() for layer in layers]
    source = {"model": "perceptron 64-32-16-10", "data": "UCI handwritten digits"}
    return trained, x[:SAMPLES], y[:SAMPLES], source


def outputs(layers: list[Any], x: torch.Tensor) -> torch.Tensor:
    for layer in layers[:-1]:
        x = torch.relu(x @ layer.T)
    return x @ layers[-1].T


def sample_gradients(layers: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> list[np.ndarray]:
    """Gradient of each sample's loss by every weight of each layer [N, weights], float64."""

    def loss(weights: tuple[torch.Tensor, ...], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs(list(weights), image[None]), label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    gradients = each(tuple(layer.double() for layer in layers), x.double(), y)
    return [gradient.reshape(len(x), -1).numpy() for gradient in gradients]


# Blocks


def block(
    layer: int, n: int, k: int, weights: torch.Tensor, mask: torch.Tensor, gradients: np.ndarray, source: dict[str, Any]
) -> BlockProblem:
    """The problem of the k pruned and n - k kept weights of a layer with the most uncertain decisions."""
    w0, kept = weights.double().numpy().ravel(), mask.numpy().ravel()
    value = np.abs(gradients.mean(axis=0) * w0)
    alive = np.any(gradients != 0, axis=0)
    pruned, remaining = np.flatnonzero(alive & ~kept), np.flatnonzero(alive & kept)
    out = pruned[np.argsort(-value[pruned], kind="stable")[:k]]
    into = remaining[np.argsort(value[remaining], kind="stable")[: n - k]]
    index = np.sort(np.concatenate([out, into]))
    w0, dw = w0[index], np.where(kept[index], 0.0, -w0[index])
    G = gradients[:, index]
    g, H = G.mean(axis=0), G.T @ G / len(G)
    rho = RHO * float(np.diagonal(H).mean())
    linear = w0 * (H @ dw) - GAMMA * w0 * g + rho * w0 * (2 * dw + w0)
    offset = 0.5 * dw @ H @ dw - GAMMA * g @ dw + rho * dw @ dw
    fingerprint = hashlib.sha256(weights.contiguous().numpy().tobytes()).hexdigest()[:16]
    return BlockProblem(
        0.5 * np.outer(w0, w0) * H, linear, k, offset=float(offset),
        labels=Labels(np.full(n, layer, np.int32), index.astype(np.int64)),
        provenance={
            **source, "layer": f"fc{layer + 1}", "fingerprint": fingerprint, "method": "icbs", "init": "magnitude",
            "density": DENSITY, "samples": SAMPLES, "gamma": GAMMA, "rho": RHO, "rho_is": "relative to mean(diag(H))",
            "made_by": "benchmarks/make_small_blocks.py",
        },
    )  # fmt: skip


def optimum(problem: BlockProblem) -> np.ndarray:
    """The best of all feasible states, by enumeration of the two halves' states and their sums."""
    n, k = problem.n, problem.constraint.total
    half = n // 2
    Q, c = problem.form.dense(), problem.single_energies
    left, right = (np.array(list(itertools.product((0, 1), repeat=m)), np.float64) for m in (half, n - half))
    E_left = np.einsum("bi,ij,bj->b", left, Q[:half, :half], left, optimize=True) + left @ c[:half]
    E_right = np.einsum("bi,ij,bj->b", right, Q[half:, half:], right, optimize=True) + right @ c[half:]
    ones_left, ones_right = left.sum(axis=1), right.sum(axis=1)
    best, answer = np.inf, np.zeros(n)
    for ones in range(max(0, k - (n - half)), min(half, k) + 1):
        a, b = np.flatnonzero(ones_left == ones), np.flatnonzero(ones_right == k - ones)
        energies = E_left[a][:, None] + E_right[b] + 2.0 * left[a] @ Q[:half, half:] @ right[b].T
        i, j = np.unravel_index(int(energies.argmin()), energies.shape)
        if energies[i, j] < best:
            best, answer = energies[i, j], np.concatenate([left[a[i]], right[b[j]]])
    return answer.astype(np.int8)


if __name__ == "__main__":
    main()
