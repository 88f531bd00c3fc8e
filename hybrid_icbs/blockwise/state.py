"""How far a run has come: masks now, the best so far, and all that its next round depends on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hybrid_icbs.blockwise.merge import apply, moves_of
from hybrid_icbs.blockwise.snapshots import Saved, State, Values, load_values, write_values
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.runs.journal import Journal, RoundRecord
from hybrid_icbs.selection.candidates import HoldBack
from hybrid_icbs.selection.schedule import CutSchedule, LayerSchedule

logger = logging.getLogger(__name__)


class Progress:
    """The state of a run between two rounds.

    Args:
        config: the run's settings.
        layers: the layers.
        masks: those of the start method at the final density.
        loss: on the guard's samples with these masks; None without a guard.

    Attributes:
        masks: which weights are kept now.
        guard_loss: loss on the guard's samples now; None without a guard.
        saved: where refitted weights of the present state lie in the run folder; None where they do not.
        best, best_loss: the best state of the final density so far.
        kept: weights kept in the end.
        history: a line for each block.
        rounds, steps: rounds merged, and blocks.
        damping: factor on the config's rho.
        held, schedule, cuts: which weights wait, which layers come next, how many weights are kept along the run.
    """

    def __init__(self, config: Config, layers: Sequence[Layer], masks: Masks, loss: float | None) -> None:
        self.masks, self.guard_loss = masks, loss
        self.saved: Saved | None = None
        self.best, self.best_loss = State(masks.copy()), loss
        self.kept = masks.kept()
        self.history: list[dict[str, Any]] = []
        self.rounds = self.steps = 0
        self.damping = 1.0
        self.held = HoldBack(layers, config.hold_back)
        self.schedule = LayerSchedule([layer.size for layer in layers])
        self.cuts = CutSchedule(config, sum(layer.size for layer in layers), self.kept)
        self._adapts = config.adapt_rho and config.guard == "refuse"
        self._by_layer = config.scope == "layer"

    def close_round(
        self,
        rows: list[dict[str, Any]],
        accepted: bool,
        loss: float | None,
        values: Values | None = None,
        saved: Saved | None = None,
    ) -> None:
        """Count a round that was merged, or refused, and remember its state if it is the best.

        Args:
            rows: its lines of history, one a block.
            accepted: whether its answers were kept.
            loss: on the guard's samples after it.
            values: of the kept weights, where survivors are refitted.
            saved: where these lie in the run folder.
        """
        self.history += rows
        self.steps += len(rows)
        self.rounds += 1
        if self._adapts:
            # The model of the loss holds near the present weights only: trust it less after a refusal, as
            # Levenberg and Marquardt do. The bounds keep a long series of either from overshooting for good.
            self.damping = min(max(self.damping * (0.5 if accepted else 2.0), 2.0**-10), 2.0**10)
        self.guard_loss, self.saved = loss, saved
        lowest = loss is not None and (self.best_loss is None or loss <= self.best_loss)
        if lowest and self.masks.kept() == self.kept:  # not while the density is still being lowered
            self.best_loss, self.best = loss, State(self.masks.copy(), values, saved)

    def replay(self, journal: Journal, layers: Sequence[Layer], restore: Sequence[torch.Tensor]) -> RoundRecord | None:
        """Go through the merged rounds of a journal again.

        Args:
            journal: of the run.
            layers: the layers; their weights follow.
            restore: restore values of each layer.

        Returns:
            The round that was asked and not merged; None where there is none.
        """
        unmerged = None
        for record in journal.rounds():
            if record.merged is None:
                unmerged = record
                break
            if self._by_layer:
                self.schedule.next(record.asked)
            self.held.fixed.update(record.fixed)
            accepted, loss, rows = record.merged
            for parameter, index, pruned, applied in zip(
                record.parameter, record.index, record.pruned, record.applied, strict=True
            ):
                self.held.add(parameter, index)
                if applied is not None:
                    before = np.arange(len(index)) >= pruned
                    apply(moves_of(parameter, index, before, applied == 0), layers, self.masks, restore)
            self.close_round(rows, accepted, loss, saved=record.saved)
        # Of refitted weights only those of the present state and of the best one are still there.
        if self.saved:
            write_values(layers, self.masks, load_values(journal.folder, self.saved, layers, self.masks))
        if self.best.saved:
            values = load_values(journal.folder, self.best.saved, layers, self.best.masks)
            self.best = replace(self.best, values=values)
        return unmerged


def check_rebuilt(built: RoundRecord, recorded: RoundRecord) -> None:
    """Hold a round that was built again to its record.

    Raises:
        PruningError: other weights are chosen now.
    """
    pairs = itertools.zip_longest(built.index, recorded.index)
    same = all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    if built.masks != recorded.masks or not same:
        raise PruningError(
            f"round {recorded.number} of the run cannot be built again: other weights are chosen now. Was it begun "
            "on another machine, or with another number of threads? Start a new run folder"
        )
    if built.checksums != recorded.checksums:
        logger.warning("the blocks of round %d differ in the last digits from those on record", recorded.number)
