"""The work and memory of a run: how often it does each step at which size, and which bytes it holds.

Counts follow the code: `hybrid_icbs.layerwise` for runs by layer, `hybrid_icbs.blockwise` and `hybrid_icbs.gradients`
for runs by blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from cost_shapes import Block, Matrix, Shapes

from hybrid_icbs.data.forward import POSITIONS, POSITIONS_LARGE
from hybrid_icbs.layerwise.refit import EXACT_UP_TO
from hybrid_icbs.layerwise.windows import COLUMNS
from hybrid_icbs.models.restore import IN_MEMORY

TOKENS_A_PASS = 2048  # of runs by layer


@dataclass(frozen=True)
class Settings:
    """Settings of a run that its cost depends on; half of the weights are pruned.

    Attributes:
        objective: "loss", "layer" or "joint".
        method: "icbs", "magnitude", "wanda" or "sparsegpt".
        update: "none" or "backsolve", by layer.
        scope: of "joint".
        sequences: of calibration; None for 64 by layer, 32 a round by the loss.
        length: tokens of a sequence.
        guard: sequences on which the model is scored.
        steps: blocks to solve, by the loss.
        round_size: blocks of a round.
        block_size: weights of a block.
        checkpointing: gradient checkpointing.
    """

    objective: Literal["loss", "layer", "joint"] = "layer"
    method: Literal["icbs", "magnitude", "wanda", "sparsegpt"] = "icbs"
    update: Literal["none", "backsolve"] = "none"
    scope: Literal["layer", "global"] = "global"
    sequences: int | None = None
    length: int = 512
    guard: int = 64
    steps: int = 60
    round_size: int = 1
    block_size: int = 4096
    checkpointing: bool = False

    @property
    def by_layer(self) -> bool:
        return self.objective != "loss" or self.method != "icbs"

    @property
    def calibration(self) -> int:
        """Sequences of calibration, or of a round."""
        return self.sequences or (64 if self.by_layer else 32)

    @property
    def tokens(self) -> int:
        return self.calibration * self.length

    def __str__(self) -> str:
        if not self.by_layer:
            passes = ", checkpointed" if self.checkpointing else ""
            return f"loss, {self.steps} blocks of {self.block_size}{passes}"
        parts = [self.method] + ([self.objective] if self.method == "icbs" else [])
        parts += ["global"] if self.objective == "joint" and self.scope == "global" else []
        return ", ".join(parts + (["refit"] if self.update == "backsolve" else []))


@dataclass(frozen=True)
class Work:
    """A step, its size, and how often it is done."""

    part: str
    step: str
    x: float
    count: float


@dataclass(frozen=True)
class Bytes:
    """Bytes held: throughout the run, temporarily (the largest counts), or on disk."""

    part: str
    bytes: float
    kind: Literal["run", "moment", "disk"]


def work_of(shapes: Shapes, settings: Settings) -> list[Work]:
    """All work of a run."""
    return list(_by_layer(shapes, settings) if settings.by_layer else _by_loss(shapes, settings))


def bytes_of(shapes: Shapes, settings: Settings) -> list[Bytes]:
    """All memory of a run except the interpreter and libraries, with `inplace=True`."""
    weights = shapes.parameters * shapes.dtype.itemsize
    own = [
        Bytes("weights", weights, "run"),
        Bytes("masks", shapes.scope / 8 * (1 if settings.by_layer else 2), "run"),
        Bytes("logits of a pass for scores", _per_pass(shapes, settings.length) * _logits(shapes), "moment"),
    ]
    return own + list(_held_by_layer(shapes, settings) if settings.by_layer else _held_by_loss(shapes, settings))


def peak(parts: list[Bytes]) -> float:
    """Peak memory in bytes."""
    moments = [each.bytes for each in parts if each.kind == "moment"]
    return sum(each.bytes for each in parts if each.kind == "run") + max(moments, default=0.0)


# By layer


def _by_layer(shapes: Shapes, settings: Settings) -> Iterator[Work]:
    kind = _kind(shapes)
    blocks, tokens = shapes.blocks, settings.tokens
    priced = settings.objective == "joint" and settings.method == "icbs"
    yield from _pass(shapes, "scores before and after", f"forward {kind}", 2 * settings.guard * settings.length)
    first = min(tokens, max(1, TOKENS_A_PASS // settings.length) * settings.length)
    yield from _pass(shapes, "order of the layers", f"forward {kind}", first)
    for sweep in ("prices", "pruning") if priced else ("pruning",):
        for place, block in enumerate(blocks):
            again = 1 if place == len(blocks) - 1 else 2  # a block that is done runs once more, to be remembered
            yield Work(f"{sweep}: forward passes", f"forward {kind}", block.forward, again * tokens)
            for before in blocks[: place + 2] if again == 2 else ():  # to see that what is remembered is right
                yield Work(f"{sweep}: one sample from the start", f"forward {kind}", before.forward, settings.length)
            for width in {matrix.source: matrix.inputs for matrix in block.matrices}.values():
                yield Work(f"{sweep}: Gram matrices", "gram", width, tokens)
            for matrix in block.matrices:
                yield from _prices(matrix, settings) if sweep == "prices" else _prune(matrix, settings, shapes.dtype)
    if priced:
        yield from _pass(shapes, "output gradients", f"backward to inputs {kind}", tokens)


def _prune(matrix: Matrix, settings: Settings, dtype: torch.dtype) -> Iterator[Work]:
    rows, d = matrix.rows, matrix.inputs
    refitted = settings.update == "backsolve"
    if settings.method == "sparsegpt":
        yield Work("pruning: factorisations", "factorise", d, 1)
        yield Work("pruning: SparseGPT", "sparsegpt", d, rows)
    elif settings.method != "icbs":
        yield Work("pruning: ranking", "rank", d, rows)
    elif not refitted:
        yield Work("pruning: ranking", "rank", d, rows)
        yield Work("pruning: row search", "search", d, rows)
    else:
        yield Work("pruning: factorisations", "factorise", d, 1)
        if d <= EXACT_UP_TO:
            yield Work("pruning: row search", "search refitted", d, rows)
        else:
            yield Work("pruning: row search by windows", "search a window", COLUMNS, rows * d / COLUMNS)
            yield Work("pruning: row search by windows", "multiply", d, rows / 2)
    if refitted:
        exact = d <= EXACT_UP_TO
        steps = "" if dtype.itemsize > 2 else ", half precision"  # which ends sooner
        yield Work("pruning: refit", "refit exactly" if exact else f"refit iteratively{steps}", d, rows)
    yield Work("pruning: errors told", "multiply", d, 2 * rows)


def _prices(matrix: Matrix, settings: Settings) -> Iterator[Work]:
    rows, d = matrix.rows, matrix.inputs
    if settings.update == "none":
        yield Work("prices: of every row", "price by growing", d, rows)
        return
    yield Work("prices: factorisations", "factorise", d, 1)
    if d <= EXACT_UP_TO:
        yield Work("prices: of every row", "price by eliminating", d, rows)
    else:
        yield Work("prices: of every row", "rank", d, rows)


def _held_by_layer(shapes: Shapes, settings: Settings) -> Iterator[Bytes]:
    tokens = min(settings.tokens, max(1, TOKENS_A_PASS // settings.length) * settings.length)
    carried = settings.tokens * max(block.outputs for block in shapes.blocks) * shapes.dtype.itemsize
    yield Bytes("outputs carried from block to block", carried, "disk" if carried > IN_MEMORY else "run")
    grams = max(map(_grams, shapes.blocks))
    yield Bytes("Gram matrices of a block", grams, "run")
    yield Bytes("activations of a pass", tokens * shapes.widest * (3 * shapes.dtype.itemsize + 4), "moment")
    yield Bytes("logits of a first batch", tokens * shapes.vocabulary * shapes.dtype.itemsize, "moment")
    if settings.objective == "joint" and settings.method == "icbs":
        kept = _activations(shapes, settings) * tokens / shapes.tokens
        yield Bytes("activations for output gradients", kept, "moment")
    most = max(shapes.matrices, key=lambda matrix: layer_bytes(matrix.rows, matrix.inputs, settings))
    worst = layer_bytes(most.rows, most.inputs, settings)
    yield Bytes(f"work on a layer, {most.rows} x {most.inputs}", worst, "moment")
    if settings.objective == "joint" and settings.method == "icbs":
        yield Bytes("prices", sum(4 * matrix.rows * min(128, matrix.inputs) for matrix in shapes.matrices), "run")


def layer_bytes(rows: int, d: int, settings: Settings) -> float:
    """Peak memory of the work on one layer, without its weight and Gram matrix.

    Counted in float64 arrays of the Gram matrix (a) and of the weight (b), at each stage; `predict_cost.py --measure`
    compares it with measured peaks.
    """
    g = 1.0 if d > EXACT_UP_TO else 0.0  # a copy in float64; narrower ones are gathered so
    mean = 0.5 if d > EXACT_UP_TO else 1.0
    stages = [(3 * mean, 0.0), (mean + g, 6.0)]  # the mean made symmetric; the error told
    exact = settings.update == "backsolve" and d <= EXACT_UP_TO
    if settings.method == "icbs" and settings.update == "none":
        stages += [(mean + g + 3, 1.0), (mean + g, 5.0), (mean + g + 1, 1.5)]
    if settings.method == "sparsegpt":
        stages += [(mean + g + 3, 1.0), (mean + g + 1, 4.0)]
    if settings.method == "icbs" and settings.update == "backsolve":
        stages += [(mean + g + 4, 1.0), (mean + g + 1, 5.0)]
    if settings.update == "backsolve" and not exact:
        stages += [(mean + g + 1, 4.0)]
    if settings.method in ("wanda", "magnitude"):
        stages += [(mean + g, 5.0)]
    if settings.objective == "joint" and settings.method == "icbs":
        stages += [(mean + g + 3, 5.0)]
    batch = 0  # sub-matrices that are factorised in one call, or the vectors of conjugate gradients
    if settings.update == "backsolve":
        batch = 4 * 2**22 if exact else 12 * min(8 * rows * d, max(2**22, 8 * 64 * d))
    return 8 * max(a * d * d + b * rows * d for a, b in stages) + batch


def _grams(block: Block) -> float:
    widths = {matrix.source: matrix.inputs for matrix in block.matrices}.values()
    return float(sum(d * d * (4 if d > EXACT_UP_TO else 8) for d in widths))


# By the loss


def _by_loss(shapes: Shapes, settings: Settings) -> Iterator[Work]:
    kind, rounds = _kind(shapes), -(-settings.steps // settings.round_size)
    yield Work("set-up: fingerprint, restore file, first masks", "set up", shapes.scope, 1)
    yield from _pass(shapes, "guard", f"forward {kind}", (rounds + 3) * settings.guard * settings.length)
    tokens = rounds * settings.tokens
    recomputed = 1 if settings.checkpointing else 0
    yield from _pass(shapes, "gradients of all weights", f"forward and backward {kind}", tokens)
    if on_disk(shapes):
        passes = rounds * -(-settings.calibration // max(1, _per_pass(shapes, settings.length) // settings.length))
        yield Work("sums of gradients", "add gradients", shapes.scope, passes)
        yield from _pass(shapes, "gradients of the chosen, a second pass", f"backward to inputs {kind}", tokens)
        recomputed *= 2
    if recomputed:
        yield from _pass(shapes, "recomputed for checkpointing", f"forward {kind}", recomputed * tokens)
    yield Work("choice of weights", "choose", shapes.scope, rounds)
    for matrix in shapes.matrices:
        yield Work("entries of the chosen", "take entries", matrix.rows + matrix.inputs, rounds * settings.calibration)
    yield Work("block problems solved (tabu)", "solve", settings.block_size, settings.steps)
    yield Work("masks and weights written", "merge", shapes.scope, rounds)


def _held_by_loss(shapes: Shapes, settings: Settings) -> Iterator[Bytes]:
    restore, sums = shapes.scope * shapes.dtype.itemsize, 4 * shapes.scope
    yield Bytes("restore values", restore, "disk" if restore > IN_MEMORY else "run")
    yield Bytes("sums of gradients", sums, "disk" if sums > IN_MEMORY else "run")
    largest = max(matrix.size for matrix in shapes.matrices)
    tokens = _per_pass(shapes, settings.length)
    activations = _activations(shapes, settings) * tokens / shapes.tokens
    gradient = largest * (shapes.dtype.itemsize + (4 if shapes.dtype.itemsize < 4 else 0))
    yield Bytes("activations and a gradient", activations + gradient, "moment")
    yield Bytes("scores of a layer", 14 * largest, "moment")  # the product in float32, copies, masks
    n, count = settings.block_size, settings.calibration
    factors = 8 * n * count * settings.round_size
    dense = 12 * n * n if n <= 4096 else 0  # tabu's matrix, and what making it takes; wider blocks stay low-rank
    yield Bytes(f"a block of {n}, dense for tabu" if dense else f"a block of {n}, low rank", dense + factors, "moment")


def on_disk(shapes: Shapes) -> bool:
    """Whether gradients are summed in a file, and those of the chosen weights take a second pass."""
    return 4 * shapes.scope > IN_MEMORY


def _activations(shapes: Shapes, settings: Settings) -> float:
    """Bytes that a forward pass keeps for its backward pass, and the gradients of its logits."""
    logits = _logits(shapes) * shapes.tokens
    if not settings.checkpointing:
        return shapes.kept + logits / 2
    depth = len(shapes.blocks)
    carried = sum(block.outputs for block in shapes.blocks) * shapes.tokens * shapes.dtype.itemsize
    return carried + max(0.0, shapes.kept - logits / 2) / depth + logits


# Common to both


def _logits(shapes: Shapes) -> float:
    """Bytes a token of logits: as they come, in float32, and their logarithms."""
    return shapes.vocabulary * (shapes.dtype.itemsize + (4 if shapes.dtype.itemsize < 4 else 0) + 4)


def _per_pass(shapes: Shapes, length: int) -> int:
    """Tokens of a micro-batch of gradients and of scores."""
    large = shapes.parameters * shapes.dtype.itemsize > IN_MEMORY
    return max(1, (POSITIONS_LARGE if large else POSITIONS) // length) * length


def _pass(shapes: Shapes, part: str, step: str, tokens: float) -> Iterator[Work]:
    for block in shapes.blocks:
        yield Work(part, step, block.forward, tokens)
    if shapes.head > 0:
        yield Work(part, step, shapes.head, tokens)


def _kind(shapes: Shapes) -> str:
    return str(shapes.dtype).removeprefix("torch.")
