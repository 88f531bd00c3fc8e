"""Blocks of three networks for the benchmark set, in float64, so that rounding to int8 is equal on all machines.

MLPNet and ResNet-20 are published checkpoints, the language model is the project's own. A classifier trained here would
not be reproducible: different processors do not give equal weights.

Two objectives, as `hybrid_icbs` has them. "loss": the second-order model of the loss around the pruned network, with
the empirical Fisher matrix of so many samples as curvature (hybrid_icbs/blockwise/objective.py has the formula; gamma
0.75, rho 0.1 relative). "layer": the mean squared change of one output of a layer over so many tokens, for one of its
rows, where weights outside the block are pruned by Wanda's score or kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import models
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from problems.instances.compact import Compact

GAMMA, RHO = 0.75, 0.1
PREFIXES = (8, 16, 32, 64, 100, 200)
"""Numbers of samples that a block may stand on: the first ones of its batch."""

SEQUENCE, SEQUENCES = 128, 64  # tokens; how many give a layer's inputs
BATCH_NORM_IMAGES = 2000

ABOUT = {
    "mlpnet": {"model": "MLPNet 784-40-20-10", "data": "MNIST, training part"},
    "resnet20": {"model": "ResNet-20", "data": "CIFAR-10, training part"},
    "llama": {"model": "llama-shakespeare", "data": "tiny Shakespeare, training part"},
}


@dataclass(frozen=True)
class Recipe:
    """How a block is built.

    Attributes:
        network: "mlpnet", "resnet20" or "llama".
        objective: "loss" or "layer".
        n: variables.
        cardinality: of which so many are pruned now.
        samples: images, sequences or (objective "layer") tokens.
        batch: seed of their choice.
        density: of the network, pruned by magnitude over all layers; of the row, where the objective is "layer".
        rule: which weights. "contested", as a run chooses them: the pruned of largest and the kept of smallest |g w0|.
            "strongest": those of largest |g w0| on either side. "threshold": next to Wanda's threshold of the row.
        layer: the layer of a row.
        row: which output of it.
    """

    network: str
    objective: str
    n: int
    cardinality: int
    samples: int
    batch: int
    density: float
    rule: str
    layer: str = ""
    row: int = 0

    def provenance(self) -> dict[str, Any]:
        """The record's provenance."""
        told = {**ABOUT[self.network], **asdict(self), "made_by": "benchmarks/make_instances.py"}
        return {**told, **({"gamma": GAMMA, "rho": f"{RHO} of the mean curvature"} if self.objective == "loss" else {})}


@dataclass(frozen=True, eq=False)
class Made:
    """A block: its coefficients, the constant of its energies, and the network's layers with their sizes."""

    recipe: Recipe
    compact: Compact
    offset: float
    layers: dict[str, int]


def make(recipes: Iterable[Recipe]) -> Iterator[Made]:
    """Build blocks, those of one pruned network and batch together; those with too few weights are skipped."""
    groups: dict[tuple[Any, ...], list[Recipe]] = {}
    for recipe in recipes:
        density = recipe.density if recipe.objective == "loss" else None
        groups.setdefault((recipe.network, recipe.objective, recipe.batch, density), []).append(recipe)
    for (name, objective, batch, density), members in groups.items():
        network = Network(name)
        if objective == "layer":
            inputs = network.inputs(sorted({recipe.layer for recipe in members}), batch)
            yield from (made for made in (_row(network, recipe, inputs[recipe.layer]) for recipe in members) if made)
        else:
            network.prune(density)
            yield from _fisher_blocks(network, batch, members)


class Network:
    """A network in float64, with the samples that blocks are measured on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model, self._text = _loaded(name)
        skipped = ("embed", "lm_head", "downsample")
        named = [(key, p) for key, p in self._model.named_parameters() if p.ndim in (2, 4)]
        self._weights = {key.removesuffix(".weight"): p for key, p in named if not any(s in key for s in skipped)}
        self.layers = {key: p.numel() for key, p in self._weights.items()}
        self.dense = torch.cat([p.detach().flatten() for p in self._weights.values()]).numpy()
        self.kept = np.ones(len(self.dense), np.bool_)

    def prune(self, density: float) -> None:
        """Cut the weights of least magnitude, over all layers."""
        order = np.argsort(-np.abs(self.dense), kind="stable")
        self.kept[:] = False
        self.kept[order[: round(density * len(order))]] = True
        with torch.no_grad():
            parts = np.split(self.kept, np.cumsum(list(self.layers.values()))[:-1])
            for p, part in zip(self._weights.values(), parts, strict=True):
                p.mul_(torch.from_numpy(part.reshape(p.shape)))

    def gradients(self, batch: int, samples: int) -> Iterator[np.ndarray]:
        """The gradient of each sample's loss by all weights [weights], one after the other."""
        for loss in self._losses(batch, samples):
            grads = torch.autograd.grad(loss, list(self._weights.values()))
            yield torch.cat([grad.flatten() for grad in grads]).numpy()

    def inputs(self, layers: Iterable[str], batch: int) -> dict[str, np.ndarray]:
        """What comes into each layer [tokens, inputs]."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in layers}

        def keep(name: str, args: tuple[torch.Tensor, ...]) -> None:
            found[name].append(args[0].reshape(-1, args[0].shape[-1]).numpy())

        hooks = [
            self._model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: keep(name, args))
            for name in found
        ]
        with torch.no_grad():
            for sequence in self._sequences(batch, SEQUENCES):
                self._model(sequence[None])
        for hook in hooks:
            hook.remove()
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def row(self, layer: str, row: int) -> tuple[np.ndarray, int]:
        """The weights of one output of a layer, and the number of the first of them."""
        weight = self._weights[layer].detach()
        names = list(self.layers)
        start = sum(self.layers[name] for name in names[: names.index(layer)])
        return weight[row].numpy(), start + row * weight.shape[1]

    def _losses(self, batch: int, samples: int) -> Iterator[torch.Tensor]:
        if self.name == "llama":
            for sequence in self._sequences(batch, samples):
                yield F.cross_entropy(self._model(sequence[None]).logits[0, :-1], sequence[1:])
            return
        x, y = (models.mnist if self.name == "mlpnet" else models.cifar10)("train")
        # As many are drawn whatever is wanted: of another number the first ones would be others.
        for i in np.random.default_rng(batch).choice(len(y), PREFIXES[-1], replace=False)[:samples]:
            yield F.cross_entropy(self._model(x[i : i + 1].double()), y[i : i + 1])

    def _sequences(self, batch: int, count: int) -> list[torch.Tensor]:
        starts = np.random.default_rng(batch).integers(0, len(self._text) - SEQUENCE, count)
        return [self._text[start : start + SEQUENCE] for start in starts]


@functools.cache
def _text() -> torch.Tensor:
    _, tokenizer = models.llama()
    return torch.tensor(tokenizer(models.text("shakespeare_train"))["input_ids"])


def _loaded(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name == "mlpnet":
        return models.mlpnet().double(), torch.empty(0)
    if name == "llama":
        return models.llama()[0].double(), _text()
    model = models.resnet20().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the parts
    model.train()
    with torch.no_grad():
        for images in models.cifar10("train")[0][:BATCH_NORM_IMAGES].split(500):
            model(images.double())
    return model.eval(), torch.empty(0)


# Objective "loss"


def _fisher_blocks(network: Network, batch: int, recipes: list[Recipe]) -> Iterator[Made]:
    """Two passes: the mean gradients, by which weights are chosen, and then each sample's gradients of those."""
    most = max(recipe.samples for recipe in recipes)
    total, means = np.zeros(len(network.dense)), {}
    for count, gradient in enumerate(network.gradients(batch, most), 1):
        total += gradient
        if count in PREFIXES:
            means[count] = total / count
    chosen = [_chosen(network, means[recipe.samples], recipe) for recipe in recipes]
    wanted = np.unique(np.concatenate([index for index in chosen if index is not None] or [np.empty(0, np.int64)]))
    G = np.array([gradient[wanted] for gradient in network.gradients(batch, most)])
    for recipe, index in zip(recipes, chosen, strict=True):
        if index is not None:
            own = G[: recipe.samples, np.searchsorted(wanted, index)].T
            yield _fisher_block(network, recipe, index, own)


def _chosen(network: Network, mean: np.ndarray, recipe: Recipe) -> np.ndarray | None:
    value = np.abs(mean * network.dense)
    pruned, kept = np.flatnonzero(~network.kept), np.flatnonzero(network.kept)
    if len(pruned) < recipe.cardinality or len(kept) < recipe.n - recipe.cardinality:
        return None
    sign = -1.0 if recipe.rule == "strongest" else 1.0
    out = pruned[np.argsort(-value[pruned], kind="stable")[: recipe.cardinality]]
    into = kept[np.argsort(sign * value[kept], kind="stable")[: recipe.n - recipe.cardinality]]
    return np.sort(np.concatenate([out, into]))


def _fisher_block(network: Network, recipe: Recipe, index: np.ndarray, G: np.ndarray) -> Made:
    w0, kept = network.dense[index], network.kept[index]
    dw = np.where(kept, 0.0, -w0)
    g, products = G.mean(axis=1), G.T @ dw
    h_dw = G @ products / recipe.samples
    rho = RHO * float(np.square(G).mean())
    linear = w0 * h_dw - GAMMA * w0 * g + rho * w0 * (2.0 * dw + w0)
    offset = 0.5 * float(products @ products) / recipe.samples - GAMMA * float(g @ dw) + rho * float(dw @ dw)
    A = w0[:, None] * G / np.sqrt(2.0 * recipe.samples)
    return Made(recipe, Compact.of(A, linear, index, ~kept), _rounded(offset), network.layers)


# Objective "layer"


def _row(network: Network, recipe: Recipe, inputs: np.ndarray) -> Made | None:
    weights, start = network.row(recipe.layer, recipe.row)
    tokens = np.random.default_rng(recipe.batch).choice(len(inputs), recipe.samples, replace=False)
    A = weights[:, None] * inputs[tokens].T / np.sqrt(recipe.samples)
    order = np.argsort(np.square(A).sum(axis=1), kind="stable")  # Wanda's score, squared
    pruned = round((1.0 - recipe.density) * len(order))
    first = pruned - recipe.cardinality
    if first < 0 or first + recipe.n > len(order):
        return None
    block, outside = np.sort(order[first : first + recipe.n]), A[order[:first]].sum(axis=0)
    mask = np.isin(block, order[:pruned])
    compact = Compact.of(A[block], 2.0 * A[block] @ outside, start + block, mask)
    return Made(recipe, compact, _rounded(float(outside @ outside)), network.layers)


def _rounded(value: float) -> float:
    """To float32, like the coefficients, so that the last bits of a sum do not matter."""
    return float(np.float32(value))
