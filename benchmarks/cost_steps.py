"""The steps of a pruning run, measured at several sizes and extrapolated to others.

Seconds per unit (token, row, round) are a function of one size x (inputs of a layer, operations per token, weights).
Between measured sizes they are interpolated in logarithms. Beyond the largest they grow with the algorithm's power of
x, since small sizes can show a smaller one; if the number of iterations grows with x too, with the measured power.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
import torch
from cost_shapes import shapes_of

from hybrid_icbs.blockwise.merge import apply, moves_of, write_masks
from hybrid_icbs.data.losses import next_token_loss
from hybrid_icbs.gradients.entries import add_products
from hybrid_icbs.layerwise.refit import (
    EXACT_UP_TO,
    TOLERANCE,
    TOLERANCE_HALF,
    damped,
    inverted,
    refit_exactly,
    refit_iteratively,
)
from hybrid_icbs.layerwise.windows import COLUMNS
from hybrid_icbs.methods.sparsegpt import sparsegpt
from hybrid_icbs.methods.wanda import wanda
from hybrid_icbs.models.kinds import Linear
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.restore import mapped_tensors
from hybrid_icbs.runs.fingerprint import fingerprint
from hybrid_icbs.selection.candidates import HoldBack, choose_candidates
from hybrid_icbs.selection.scores import initial_masks
from problems import BlockProblem
from solvers.local.tabu import TabuSearch
from solvers.rows import elimination_costs, grow_rows, solve_refitted_rows, solve_rows

LADDER = (256, 512, 1024, 2048, 3072)
"""Widths at which steps are measured; the last also tells how well it is predicted from those before."""

TOKENS = 2048  # of a forward pass, as runs by layer take them
ROWS = 128  # of products, which are slow a row where rows are few
ENTRIES = 128  # chosen in a layer

Measured = tuple[float, float]
"""Size x, and seconds a unit."""


@dataclass(frozen=True)
class Setting:
    """How steps are measured: threads of torch and of the search, tokens of a sequence, types of the weights."""

    threads: int = 1
    length: int = 512
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: its name.
        unit: what the seconds are per.
        size: what x is.
        power: how its work grows with x.
        iterated: whether its iterations grow with x too, by a power that is measured.
        measure: maps a width to x and seconds per unit.
        most: the largest width at which the program uses it.
    """

    name: str
    unit: str
    size: str
    power: float
    measure: Callable[[int], Measured]
    most: float = math.inf
    iterated: bool = False


@dataclass(frozen=True)
class Rate:
    """Seconds of a step, measured.

    Attributes:
        name, unit, size, power, iterated: see :class:`Step`.
        points: sizes and seconds, by size.
    """

    name: str
    unit: str
    size: str
    power: float
    points: tuple[Measured, ...]
    iterated: bool = False

    def seconds(self, x: float) -> float:
        """Seconds a unit at size x."""
        logs = np.log([[px, s] for px, s in self.points])
        at = math.log(x)
        if at > logs[-1, 0]:
            power = max(self.power, self.slope) if self.iterated else self.power
            return float(np.exp(logs[-1, 1] + power * (at - logs[-1, 0])))
        if at < logs[0, 0]:
            return float(np.exp(logs[0, 1] + self.power * (at - logs[0, 0])))
        return float(np.exp(np.interp(at, logs[:, 0], logs[:, 1])))

    @property
    def slope(self) -> float:
        """The measured power of x, by least squares of the logarithms over the larger half of the sizes."""
        upper = self.points[-max(2, (len(self.points) + 1) // 2) :]
        if len(self.points) < 2:
            return self.power
        return float(np.polyfit(*np.log(np.array(upper)).T, 1)[0])

    @property
    def held_out(self) -> float | None:
        """The largest size as predicted from the others, divided by its measurement."""
        if len(self.points) < 3:
            return None
        x, seconds = self.points[-1]
        return replace(self, points=self.points[:-1]).seconds(x) / seconds


def measure(ladder: Sequence[int], setting: Setting) -> Iterator[Rate]:
    """Measure every step at some widths, ascending."""
    torch.set_num_threads(setting.threads)
    for step in steps(setting):
        sizes = [width for width in ladder if width <= step.most] or ladder[:1]
        step.measure(min(sizes))  # compiled, and its memory touched
        points = sorted(dict(map(step.measure, sizes)).items())
        yield Rate(step.name, step.unit, step.size, step.power, tuple(points), step.iterated)


def steps(setting: Setting) -> list[Step]:
    """All steps, by name."""
    of_layers = _Layers(setting.threads)
    passes = [
        Step(f"{kind} {str(dtype).removeprefix('torch.')}", "token", "operations a token", 1, work)
        for dtype in setting.dtypes
        for kind, work in _Passes(dtype, setting.length).steps()
    ]
    return [
        *passes,
        Step("gram", "token", "inputs", 2, of_layers.gram),
        Step("factorise", "layer", "inputs", 3, of_layers.factorise),
        Step("multiply", "row", "inputs", 2, of_layers.multiply),
        Step("rank", "row", "inputs", 1, of_layers.rank),
        Step("search", "row", "inputs", 2, of_layers.search),
        Step("search refitted", "row", "inputs", 3, of_layers.search_refitted, EXACT_UP_TO),
        Step("search a window", "row and window", "columns", 3, of_layers.search_window, COLUMNS),
        Step("refit exactly", "row", "inputs", 3, of_layers.refit_exactly, EXACT_UP_TO),
        Step("refit iteratively", "row", "inputs", 2, of_layers.refit_iteratively, iterated=True),
        Step("refit iteratively, half precision", "row", "inputs", 2, of_layers.refit_roughly, iterated=True),
        Step("sparsegpt", "row", "inputs", 2, of_layers.sparsegpt),
        Step("price by growing", "row", "inputs", 2, of_layers.grow),
        Step("price by eliminating", "row", "inputs", 3, of_layers.eliminate, EXACT_UP_TO),
        Step("set up", "run", "weights", 1, _set_up),
        Step("add gradients", "pass", "weights", 1, _add_gradients),
        Step("choose", "round", "weights", 1, _choose),
        Step("take entries", "sample", "inputs + outputs", 1, lambda d: _entries(d, setting.length)),
        Step("solve", "block", "weights", 2, lambda d: _solve(d, setting.threads)),
        Step("merge", "round", "weights", 1, _merge),
    ]


def clock() -> float:
    """Processor seconds with one thread, since other work on the machine hardly changes them; else wall-clock
    seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work; the median of three if it is fast."""

    def once() -> float:
        begun = clock()
        work()
        return clock() - begun

    first = once()
    return first if first > 1.0 else statistics.median([first, once(), once()])


def inputs_like_a_models(d: int) -> torch.Tensor:
    """A Gram matrix [d, d] whose spectrum falls as 1/i in directions without preference, mean diagonal 1.

    The layers of a trained model have spectra between i^-0.7 and i^-1.5; the iterations of conjugate gradients depend
    on it.
    """
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, d + 1)
    G = np.diag(spectrum * d / spectrum.sum())
    for _ in range(2):
        signs = rng.choice([-1.0, 1.0], d)
        for axis in (0, 1):
            G = scipy.fft.dct(G * np.expand_dims(signs, 1 - axis), axis=axis, norm="ortho")
    return torch.from_numpy((G + G.T) / 2)


class _Passes:
    """Forward and backward passes through one decoder block of Llama's kind."""

    def __init__(self, dtype: torch.dtype, length: int) -> None:
        self.dtype, self.length = dtype, length
        self._made: tuple[int, float, Any] | None = None

    def steps(self) -> list[tuple[str, Callable[[int], Measured]]]:
        return [("forward", self.forward), ("forward and backward", self.train), ("backward to inputs", self.trace)]

    def forward(self, d: int) -> Measured:
        operations, model = self._model(d)
        ids = torch.zeros(max(1, TOKENS // self.length), self.length, dtype=torch.long)
        with torch.no_grad():
            return operations, timed(lambda: model(input_ids=ids)) / ids.numel()

    def train(self, d: int) -> Measured:
        return self._backward(d, True)

    def trace(self, d: int) -> Measured:
        return self._backward(d, False)

    def _backward(self, d: int, weights: bool) -> Measured:
        """One sequence: the micro-batch of large models."""
        operations, model = self._model(d)
        ids = torch.zeros(1, self.length, dtype=torch.long)
        for name, p in model.named_parameters():
            p.requires_grad_(weights and "proj" in name)
        handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: out.detach().requires_grad_())

        def work() -> None:
            next_token_loss(model(input_ids=ids), ids).sum().backward()
            model.zero_grad(set_to_none=True)

        seconds = timed(work) / ids.numel()
        handle.remove()
        return operations, seconds

    def _model(self, d: int) -> tuple[float, Any]:
        from transformers import LlamaConfig, LlamaForCausalLM

        if self._made is None or self._made[0] != d:
            config = LlamaConfig(
                vocab_size=64, hidden_size=d, intermediate_size=-(-d * 43 // 256) * 16, num_hidden_layers=1,
                num_attention_heads=max(1, d // 64), max_position_embeddings=self.length, use_cache=False,
                architectures=["LlamaForCausalLM"],
            )  # fmt: skip
            shapes = shapes_of("block", config.to_dict(), length=self.length, dtype=self.dtype)
            torch.manual_seed(0)
            self._made = (d, shapes.forward, LlamaForCausalLM(config).to(self.dtype).eval())
        return self._made[1], self._made[2]


class _Layers:
    """The work on one layer; half of its weights are pruned."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._made: tuple[int, torch.Tensor] | None = None

    def gram(self, d: int) -> Measured:
        x, total = torch.randn(TOKENS, d), torch.zeros(d, d, dtype=torch.float32 if d > EXACT_UP_TO else torch.float64)
        return d, timed(lambda: total.add_(x.T @ x)) / TOKENS

    def factorise(self, d: int) -> Measured:
        G = self._gram(d)
        return d, timed(lambda: torch.linalg.cholesky(inverted(damped(G, 0.01)), upper=True))

    def multiply(self, d: int) -> Measured:
        G, W = self._gram(d), _weights(ROWS, d)
        return d, timed(lambda: W @ G) / ROWS

    def rank(self, d: int) -> Measured:
        W = _weights(ROWS, d)
        return d, timed(lambda: torch.argsort(torch.argsort(W, dim=1, stable=True), dim=1)) / ROWS

    def search(self, d: int) -> Measured:
        rows = self._rows(d, 2)
        W, G = _weights(rows, d), self._gram(d)
        start, matrix = _half(W, G), damped(G, 0.3).numpy()
        return d, timed(lambda: solve_rows(matrix, W.numpy(), start.numpy(), threads=self.threads)) / rows

    def search_refitted(self, d: int) -> Measured:
        rows = self._rows(d, 3)
        W, inverse = _weights(rows, d), inverted(damped(self._gram(d), 0.01)).numpy()
        zeros = np.zeros((rows, d), np.uint8)
        counts = [d // 2] * rows
        return d, timed(lambda: solve_refitted_rows(inverse, W.numpy(), zeros, counts, threads=self.threads)) / rows

    def search_window(self, d: int) -> Measured:
        return self.search_refitted(d)

    def refit_exactly(self, d: int) -> Measured:
        rows = self._rows(d, 3)
        W, G = _weights(rows, d), self._gram(d)
        H, kept = damped(G, 0.01), ~_half(W, G)
        return d, timed(lambda: refit_exactly(W, H, kept)) / rows

    def refit_iteratively(self, d: int, tolerance: float = TOLERANCE) -> Measured:
        W, G = _weights(ROWS, d), self._gram(d)
        H, kept = damped(G, 0.01), ~_half(W, G)
        return d, timed(lambda: refit_iteratively(W, H, kept, W, tolerance)) / ROWS

    def refit_roughly(self, d: int) -> Measured:
        return self.refit_iteratively(d, TOLERANCE_HALF)

    def sparsegpt(self, d: int) -> Measured:
        """Without the factorisation, which is a step of its own."""
        W, G = _weights(ROWS, d), self._gram(d)
        whole = timed(lambda: sparsegpt(W, G, W.numel() // 2))
        return d, max(whole - self.factorise(d)[1], 0.05 * whole) / ROWS

    def grow(self, d: int) -> Measured:
        rows = self._rows(d, 2)
        W, matrix, zeros = _weights(rows, d), damped(self._gram(d), 0.3).numpy(), np.zeros((rows, d), np.uint8)
        counts = [d] * rows
        work = partial(grow_rows, matrix, W.numpy(), zeros, counts, record=True, threads=self.threads)
        return d, timed(work) / rows

    def eliminate(self, d: int) -> Measured:
        rows = self._rows(d, 3)
        W, inverse = _weights(rows, d), inverted(damped(self._gram(d), 0.01)).numpy()
        return d, timed(lambda: elimination_costs(inverse, W.numpy(), [d] * rows, threads=self.threads)) / rows

    def _gram(self, d: int) -> torch.Tensor:
        if self._made is None or self._made[0] != d:
            self._made = (d, inputs_like_a_models(d))
        return self._made[1]

    def _rows(self, d: int, power: int) -> int:
        """Enough rows for some tenths of a second and for every thread."""
        return max(8 * self.threads, min(256, round(64 * (512 / d) ** power)))


def _weights(rows: int, d: int) -> torch.Tensor:
    return torch.randn(rows, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _half(W: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    return wanda(W, G, [W.shape[1] // 2] * len(W))


def _layer(d: int) -> tuple[torch.nn.Module, Layer]:
    """One layer of 4 d^2 weights."""
    module = torch.nn.Linear(2 * d, 2 * d, bias=False)
    return module, find_layers(module)[0]


def _set_up(d: int) -> Measured:
    """Fingerprint, restore values in a file, the first masks of magnitude, and these written."""
    _, layer = _layer(d)
    weight = layer.weight.detach()

    def work() -> None:
        fingerprint({"weight": weight})
        restore = mapped_tensors([weight.shape], [weight.dtype])
        restore[0].copy_(weight)
        write_masks([layer], initial_masks([weight.abs()], [layer], 0.5, "global"), restore)

    return layer.size, timed(work)


def _add_gradients(d: int) -> Measured:
    """The gradient of a micro-batch added to the sum in its file."""
    gradient = torch.randn(2 * d, 2 * d)
    total = mapped_tensors([gradient.shape], [torch.float32])[0]

    def work() -> None:
        bool(gradient.sum().isfinite())
        total.add_(gradient)

    return gradient.numel(), timed(work)


def _choose(d: int) -> Measured:
    _, layer = _layer(d)
    weight, gradient = layer.weight.detach(), torch.randn(2 * d, 2 * d)
    masks, held, n = initial_masks([weight.abs()], [layer], 0.5, "global"), HoldBack([layer], 0.0), 2 * ENTRIES
    return layer.size, timed(lambda: choose_candidates({0: (gradient * weight).abs_()}, [layer], masks, held, n, 1))


def _entries(d: int, length: int) -> Measured:
    module = torch.nn.Linear(d, d, bias=False)
    index = np.random.default_rng(0).choice(d * d, ENTRIES, replace=False)
    x, back, out = torch.randn(1, length, d), torch.randn(1, length, d), np.zeros((ENTRIES, 1), np.float32)
    return 2 * d, timed(lambda: add_products(Linear().products(module, x, back, index), out))


def _solve(n: int, threads: int) -> Measured:
    rng = np.random.default_rng(0)
    factor = (rng.standard_normal((n, 32)) * rng.standard_normal((n, 1))).astype(np.float32)
    problem = BlockProblem.low_rank(factor, rng.standard_normal(n), cardinality=n // 2)
    return n, timed(lambda: TabuSearch(threads=threads).solve(problem, seed=0))


def _merge(d: int) -> Measured:
    """Masks summed up for the record, and a few bits of them changed, as for each round."""
    _, layer = _layer(d)
    masks, restore = Masks.like([layer]), [layer.weight.detach().clone()]
    index = np.arange(ENTRIES, dtype=np.int64)
    before, after = np.ones(ENTRIES, np.bool_), np.zeros(ENTRIES, np.bool_)
    moves = moves_of(np.zeros(ENTRIES, np.int32), index, before, after)

    def work() -> None:
        masks.checksum()
        apply(moves, [layer], masks, restore)

    return layer.size, timed(work)
