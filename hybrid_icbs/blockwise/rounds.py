"""One round: its blocks while answers arrive, the merge, and its rows of history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hybrid_icbs.blockwise.blocks import Block, States, checksum
from hybrid_icbs.blockwise.merge import apply
from hybrid_icbs.blockwise.refit import Refit
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.runs.journal import RoundRecord
from hybrid_icbs.selection.candidates import Chosen
from problems import BlockProblem


@dataclass(frozen=True, eq=False)
class Merged:
    """Outcome of a round.

    Attributes:
        accepted: whether its answers were kept.
        before: loss on the guard's samples that the answers must not exceed: the loss before the round, or where the
            round lowers the density, the loss after pruning the same number of weights by magnitude.
        after: loss with the answers.
        applied: new state of each block [n]; None for an unchanged block.
    """

    accepted: bool
    before: float | None
    after: float | None
    applied: list[States | None]

    @property
    def loss(self) -> float | None:
        """Loss after the round."""
        return self.after if self.accepted else self.before


@dataclass(eq=False)
class OpenRound:
    """A round whose blocks were asked for and that is not merged yet.

    Attributes:
        record: its entry in the journal.
        blocks: its blocks, in the order of asking.
        seconds: by phase.
    """

    record: RoundRecord
    blocks: list[Block]
    seconds: dict[str, float] = field(default_factory=dict)

    def pending(self) -> list[BlockProblem]:
        """Block problems without an answer."""
        return [block.problem for block in self.blocks if block.answer is None]

    def find(self, problem: BlockProblem) -> Block | None:
        """The block of a problem, or of a copy of it; None if it is not of this round.

        Raises:
            PruningError: the block was answered already.
        """
        origin = problem.provenance
        for block in self.blocks:
            own = block.problem.provenance
            if problem is block.problem or all(
                origin.get(key) == own[key] for key in ("round", "block", "masks", "weights")
            ):
                if block.answer is not None:
                    raise PruningError(f"block {own['block']} of round {own['round']} was answered already")
                return block
        return None

    def merge(
        self,
        layers: Sequence[Layer],
        masks: Masks,
        restore: Sequence[torch.Tensor],
        guard: Guard | None,
        loss: float | None,
        *,
        refuses: bool,
    ) -> Merged:
        """Apply the answers of all blocks to masks and weights, in the order of asking, and measure the loss.

        Args:
            layers: the layers.
            masks: changed in place.
            restore: restore values of each layer.
            guard: measures the loss; None for no measurement.
            loss: loss on the guard's samples now.
            refuses: whether answers that raise the loss are undone.
        """
        begun = time.perf_counter()
        fallback = [move for block in self.blocks for move in block.moves(fallback=True)]
        before = loss
        if guard and any(block.cut for block in self.blocks):
            # Lowering the density raises the loss: the answers are compared with magnitude pruning of as many weights.
            back = apply(fallback, layers, masks, restore)
            before = guard.score().loss
            apply(back, layers, masks, restore)
        back = apply([move for block in self.blocks for move in block.moves()], layers, masks, restore)
        merged = time.perf_counter()
        after = guard.score().loss if guard else None
        refused = refuses and before is not None and after is not None and not after <= before
        if refused:
            apply(back, layers, masks, restore)
            apply(fallback, layers, masks, restore)
        self.seconds |= {"merge": merged - begun, "guard": time.perf_counter() - merged}
        applied = [(block.fallback if block.cut else None) if refused else block.answer for block in self.blocks]
        return Merged(not refused, before, after, applied)

    def rows(self, merged: Merged, refit: Refit | None, *, steps: int, density: float) -> list[dict[str, Any]]:
        """A row of history for each block.

        Args:
            merged: outcome of the round.
            refit: refit of the survivors after the round, if any.
            steps: blocks of the run before this round.
            density: density after the round.
        """
        refitted = {"refit_step": refit.length, "loss_refitted": refit.loss} if refit else {}
        return [
            {
                "step": steps + b + 1,
                "round": self.record.number,
                "block": b,
                "layers": ",".join(block.problem.provenance["layers"]),
                "n": block.problem.n,
                "cardinality": block.problem.constraint.total,
                "swaps": block.swaps,
                "cut": block.cut,
                "energy": block.energy,
                "predicted": block.predicted,
                "loss_before": merged.before,
                "loss_after": merged.after,
                "accepted": merged.accepted,
                "density": density,
                **refitted,
                "backend": block.info.get("backend", ""),
                **{f"seconds_{key}": round(value, 6) for key, value in self.seconds.items()},
            }
            for b, block in enumerate(self.blocks)
        ]


def open_round(number: int, asked: int, masks: str, chosen: Sequence[Chosen], blocks: list[Block]) -> OpenRound:
    """A round of new blocks.

    Args:
        number: number of the round.
        asked: number of blocks that were asked for.
        masks: checksum of the masks before the round.
        chosen: the weights of each block.
        blocks: the blocks.
    """
    record = RoundRecord(
        number, asked, masks,
        parameter=[c.parameter for c in chosen], index=[c.index for c in chosen], pruned=[c.pruned for c in chosen],
        checksums=[checksum(block.problem) for block in blocks], fixed={},
    )  # fmt: skip
    return OpenRound(record, blocks)
