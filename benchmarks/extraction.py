"""Cost of selecting a block in every layer and measuring its per-sample gradients, compared with a training pass.

    python benchmarks/extraction.py [--threads 1] [--repeats 15]

Ours: one forward and backward pass, selection of n candidates in each layer, and their gradients for each of N samples:
n = 1024, N = 200 for the classifiers; n = 4096 and N = 16 sequences of 128 tokens for the language model. Plain:
a forward and backward pass with the gradients of all parameters. Medians and ratios of one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import models
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.losses import Loss, cross_entropy, next_token_loss
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.layers import find_layers
from hybrid_icbs.selection.candidates import HoldBack, choose_candidates
from hybrid_icbs.selection.scores import initial_masks

SEQUENCES, TOKENS = 16, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} thread(s); medians of {arguments.repeats}, in ms")
    print(f"{'model':>22} {'plain':>8} {'ours':>8} {'= pass':>8} {'+ choice':>8} {'+ entries':>9} {'ratio':>6}  bar")
    for name, model, (x, y), bar in (
        ("784-512-512-10", models.classifier(), models.mnist("test"), "15 ms"),
        ("ResNet-20", models.resnet20(), models.cifar10("test"), "ratio 2.5"),
    ):
        batch = Batch(x[:200], y[:200], 200)
        measure(name, model, batch, cross_entropy, plain_classifier, 1024, bar, arguments.repeats)
    model, tokenizer = models.llama()
    ids = tokenizer(models.text("shakespeare_train"), verbose=False, return_tensors="pt")["input_ids"]
    ids = ids[0, : SEQUENCES * TOKENS].view(SEQUENCES, TOKENS)
    batch = Batch({"input_ids": ids}, ids, SEQUENCES)
    measure("llama-shakespeare", model, batch, next_token_loss, plain_lm, 4096, "ratio 1.5", arguments.repeats)


def plain_classifier(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch.inputs), batch.targets)


def plain_lm(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**batch.inputs, labels=batch.targets, use_cache=False).loss


def measure(
    name: str,
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    plain_loss: Callable[[nn.Module, Batch], torch.Tensor],
    block: int,
    bar: str,
    repeats: int,
) -> None:
    layers = find_layers(model)
    weights = [layer.weight.detach() for layer in layers]
    masks = initial_masks([weight.abs() for weight in weights], layers, 0.5 if block > 1024 else 0.1, "layer")
    held = HoldBack(layers, 0.0)
    parameters = list(model.parameters())

    def plain() -> None:
        torch.autograd.grad(plain_loss(model, batch), parameters)

    parts: list[list[float]] = []

    def ours() -> None:
        marks = [time.perf_counter()]
        gradients = measure_gradients(model, layers, batch, loss)
        marks.append(time.perf_counter())
        scores = gradients.scores(layers, weights)
        chosen = [choose_candidates(scores, [layer], masks, held, block, 1)[0] for layer in layers]
        marks.append(time.perf_counter())
        gradients.prepare({layer.number: c.index for layer, c in zip(layers, chosen, strict=True)})
        for layer, c in zip(layers, chosen, strict=True):
            gradients.per_sample(layer, c.index)
            gradients.release(layer)
        marks.append(time.perf_counter())
        parts.append(list(np.diff(marks)))

    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for repeat in range(repeats + 2):  # in turn, so that a noisy moment hits both; two to warm up
        for key, work in (("plain", plain), ("ours", ours)):
            spent = timed(work)
            if repeat >= 2:
                seconds[key].append(spent)
    a, b = (statistics.median(seconds[key]) for key in ("plain", "ours"))
    ratio = statistics.median(o / p for p, o in zip(seconds["plain"], seconds["ours"], strict=True))
    split = [1000 * statistics.median(part) for part in zip(*parts[2:], strict=True)]
    cells = f"{1000 * a:8.1f} {1000 * b:8.1f} {split[0]:8.1f} {split[1]:8.1f} {split[2]:9.1f} {ratio:6.2f}"
    print(f"{name:>22} {cells}  {bar}", flush=True)


def timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
