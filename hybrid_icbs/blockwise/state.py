"""The state of a run between two rounds: current masks, the best snapshot, and all that the next round depends on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hybrid_icbs.blockwise.merge import apply, moves_of
from hybrid_icbs.blockwise.snapshots import Saved, Snapshot, Values, load_values, write_values
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from hybrid_icbs.models.layers import Layer
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.runs.journal import Journal, RoundRecord
from hybrid_icbs.selection.candidates import HoldBack
from hybrid_icbs.selection.schedule import CutSchedule, LayerSchedule

logger = logging.getLogger(__name__)


class RunState:
    """The state of a run between two rounds.

    Args:
        config: the run's settings.
        layers: the layers.
        masks: initial masks at the final density.
        loss: loss on the guard's samples with these masks; None without a guard.

    Attributes:
        masks: current masks.
        guard_loss: loss on the guard's samples now; None without a guard.
        saved: file of the current refitted weights in the run folder; None if they are not saved.
        best, best_loss: best snapshot at the final density so far.
        kept: number of weights kept at the end of the run.
        history: a row for each block.
        rounds, steps: number of merged or refused rounds, and of their blocks.
        damping: factor on the config's rho.
        held: weights that may not enter a block now.
        schedule: which layers the next blocks come from.
        cuts: number of weights kept along the run.
    """

    def __init__(self, config: Config, layers: Sequence[Layer], masks: Masks, loss: float | None) -> None:
        self.masks, self.guard_loss = masks, loss
        self.saved: Saved | None = None
        self.best, self.best_loss = Snapshot(masks.copy()), loss
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
        """Count a merged or refused round, and keep its snapshot if it is the best so far.

        Args:
            rows: its rows of history, one for each block.
            accepted: whether its answers were kept.
            loss: loss on the guard's samples after it.
            values: values of the kept weights, if survivors are refitted.
            saved: file of the values in the run folder.
        """
        self.history += rows
        self.steps += len(rows)
        self.rounds += 1
        if self._adapts:
            # Levenberg-Marquardt: the quadratic model holds only near the current weights, so a refusal doubles the
            # damping. The bounds let the damping recover after a long series of one outcome.
            self.damping = min(max(self.damping * (0.5 if accepted else 2.0), 2.0**-10), 2.0**10)
        self.guard_loss, self.saved = loss, saved
        lowest = loss is not None and (self.best_loss is None or loss <= self.best_loss)
        if lowest and self.masks.kept() == self.kept:  # not while the density is still being lowered
            self.best_loss, self.best = loss, Snapshot(self.masks.copy(), values, saved)

    def replay(self, journal: Journal, layers: Sequence[Layer], restore: Sequence[torch.Tensor]) -> RoundRecord | None:
        """Replay the merged rounds of a journal.

        Args:
            journal: journal of the run.
            layers: the layers; their weights are changed.
            restore: restore values of each layer.

        Returns:
            The round that was asked for and not merged; None if there is none.
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
        # Refitted weights are saved for the current and the best snapshot only.
        if self.saved:
            write_values(layers, self.masks, load_values(journal.folder, self.saved, layers, self.masks))
        if self.best.saved:
            values = load_values(journal.folder, self.best.saved, layers, self.best.masks)
            self.best = replace(self.best, values=values)
        return unmerged


def check_rebuilt(built: RoundRecord, recorded: RoundRecord) -> None:
    """Compare a rebuilt round with its record.

    Raises:
        PruningError: the rebuilt blocks hold other weights.
    """
    pairs = itertools.zip_longest(built.index, recorded.index)
    same = all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    if built.masks != recorded.masks or not same:
        raise PruningError(
            f"round {recorded.number} of the run cannot be rebuilt: its blocks now hold other weights. The run may "
            "have begun on another machine or with another number of threads; start a new run folder"
        )
    if built.checksums != recorded.checksums:
        logger.warning(
            "the coefficients of the blocks of round %d differ from the recorded ones by rounding", recorded.number
        )
