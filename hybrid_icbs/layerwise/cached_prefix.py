"""Outputs of pruned decoder blocks are cached, so that the model is not run from its start for each further block.

Otherwise the cost of pruning block by block would be quadratic in the number of blocks. One output per batch is kept,
tokens times hidden size in the model's dtype, on its device, or in a temporary file if they are large together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.forward import evaluation_mode, run_model
from hybrid_icbs.models.restore import IN_MEMORY, mapped_tensors

logger = logging.getLogger(__name__)

Inputs: TypeAlias = Mapping[str, torch.Tensor] | Batch
"""One batch as keywords of a model (input_ids [B, T], attention_mask [B, T], ...), or with its targets."""

TOLERANCE = 1e-3
"""Relative difference from a run from the start above which no outputs are cached; rounding is far below."""


class Reached(Exception):
    """Raised by hooks to end a forward pass."""


class CachedPrefix:
    """Runs a model on batches without the finished decoder blocks before the current one, whose outputs are cached.

    A block can be left out if it affects later blocks by its output alone. This is tested on the first sample after
    each block; a model that fails the test is run from its start.

    Args:
        model: the model.
        batches: the batches on which it will run.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs]) -> None:
        self._model, self._batches = model, [*batches, first_sample(batches[0])]
        self._lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
        self._done: list[nn.Module] = []
        self._outputs: list[_Kept] = []  # of the last finished block, one per batch
        self._usable = True

    def run(self, number: int) -> None:
        """Run the model on a batch, until a hook raises :class:`Reached` or to the end.

        Args:
            number: of the batch.
        """
        with _replaced(self._done, lambda: self._outputs[number].copy()):
            run_until_reached(self._model, self._batches[number])

    @torch.no_grad()
    def finish(self, block: nn.Module, following: nn.Module) -> None:
        """Cache the outputs of a finished block.

        Args:
            block: an element of a `ModuleList`, which will not change any more, like those before it; outputs of other
                modules are not cached.
            following: the module up to whose end the model will run next.
        """
        home = next((blocks for blocks in self._lists if any(block is each for each in blocks)), None)
        if home is None or not self._usable:
            return
        with evaluation_mode(self._model):
            for number in range(len(self._batches)):
                self._store(number, self._output(block, number))
            probe = len(self._batches) - 1
            expected = CachedPrefix(self._model, [self._batches[probe]])._output(following, 0)
            modules = list(home)
            self._done = modules[: next(i for i, each in enumerate(modules) if each is block) + 1]
            if not _alike(expected, self._output(following, probe)):
                logger.info(
                    "blocks of this model affect later ones by more than their outputs: it is run from its start"
                )
                self._usable, self._done, self._outputs = False, [], []

    def _store(self, number: int, output: Any) -> None:
        """Store a block's output on a batch, in place of that of the block before it."""
        if number == len(self._outputs):
            in_memory = sum(tensor.nbytes for tensor in _tensors(output)) * len(self._batches) <= IN_MEMORY
            self._outputs.append(_Kept(output, [_room(tensor, in_memory) for tensor in _tensors(output)]))
        self._outputs[number] = self._outputs[number].renewed(output)

    def _output(self, module: nn.Module, number: int) -> Any:
        """The output of a module on a batch."""
        found: list[Any] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            found.append(output)
            raise Reached

        with removed([module.register_forward_hook(note)]):
            self.run(number)
        return found[0]


def run(model: nn.Module, batch: Inputs) -> Any:
    """The model's outputs on a batch."""
    if isinstance(batch, Batch):
        return run_model(model, batch.inputs)
    device = next(model.parameters()).device
    return model(**{key: value.to(device) for key, value in batch.items()})


def first_sample(batch: Inputs) -> Inputs:
    """The first sample of a batch, as a batch."""
    if isinstance(batch, Batch):
        return next(batch.split(1))
    return {key: value[:1] for key, value in batch.items()}


def keywords_of(batch: Inputs) -> Any:
    """The inputs of a batch; a mapping if the model takes keywords."""
    return batch.inputs if isinstance(batch, Batch) else batch


def padding_of(batch: Inputs) -> torch.Tensor | None:
    """Which tokens of a batch are not padding, bool [B, T]; None without an attention mask."""
    inputs = keywords_of(batch)
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask.bool() if mask is not None and mask.dim() == 2 else None


def run_until_reached(model: nn.Module, batch: Inputs) -> None:
    """Run a model on a batch until a hook raises :class:`Reached`, or to the end."""
    try:
        run(model, batch)
    except Reached:
        return


@contextmanager
def removed(handles: Sequence[Any]) -> Iterator[None]:
    """Remove hooks afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(blocks: Sequence[nn.Module], cached: Callable[[], Any]) -> Iterator[None]:
    """Replace the forward passes of some blocks by the cached output of the last; other outputs are not used."""
    own = [block.__dict__.get("forward") for block in blocks]  # accelerate stores its wrapper there
    for block in blocks:
        block.forward = lambda *args, **kwargs: cached()
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


@dataclass(frozen=True, eq=False)
class _Kept:
    """An output whose tensors are stored elsewhere.

    Attributes:
        shape: the output with empty tensors, for its structure and devices.
        tensors: the values.
    """

    shape: Any
    tensors: list[torch.Tensor]

    def renewed(self, output: Any) -> _Kept:
        """Another block's output, in the same storage if it has the same form."""
        found = _tensors(output)
        alike = len(found) == len(self.tensors) and all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(found, self.tensors, strict=True)
        )
        tensors = self.tensors if alike else [torch.empty_like(tensor) for tensor in found]
        for place, tensor in zip(tensors, found, strict=True):
            place.copy_(tensor)
        return _Kept(_mapped(output, lambda tensor: tensor.new_empty(0)), tensors)

    def copy(self) -> Any:
        """A copy, which the model may change."""
        tensors = iter(self.tensors)
        return _mapped(self.shape, lambda empty: next(tensors).to(empty.device, copy=True))


def _room(tensor: torch.Tensor, in_memory: bool) -> torch.Tensor:
    return torch.empty_like(tensor) if in_memory else mapped_tensors([tensor.shape], [tensor.dtype])[0]


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for part in output for t in _tensors(part)] if isinstance(output, tuple | list) else []


def _mapped(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(output, torch.Tensor):
        return change(output)
    return type(output)(_mapped(part, change) for part in output) if isinstance(output, tuple | list) else output


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool((a.float() - b.float()).norm() <= TOLERANCE * a.float().norm())
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b)
