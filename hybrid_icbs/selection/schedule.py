"""Schedules of a run: which layers the blocks come from, and the number of kept weights after each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_icbs.config import Config


class CutSchedule:
    """Number of kept weights along a run whose first steps lower the density, by the same factor each.

    A block prunes at most half of its kept weights, so that a choice is left; this bounds the initial density. On
    models much larger than the blocks the bound is close to the final density, and the schedule did not lower the loss
    on held-out data; so it is the default only if a sixth of the steps can halve the model.

    Args:
        config: settings of the run.
        total: number of weights in scope.
        final: number of weights kept at the end.

    Attributes:
        start: number of weights kept at the start.

    Source:
        CHITA++ (Benbaki et al. 2023, arXiv 2302.14623) lowers the density by a constant factor a stage, and
        measures gradients at each.
    """

    def __init__(self, config: Config, total: int, final: int) -> None:
        steps, each = config.cut_steps, config.block_size // 4
        if config.pattern is not None:  # fixes the number of kept weights of each group
            steps = 0
        elif steps is None:
            steps = config.steps // 6
            if config.scope != "global" or steps * each < final:
                steps = 0
        most = min(round(config.cut_from * final), final + steps * each, (final + total) // 2)
        self._final, self._steps = final, steps
        self.start = max(final, most)

    def kept(self, steps: int) -> int:
        """Number of weights kept after `steps` blocks."""
        if steps >= self._steps:
            return self._final
        return round(self.start * math.pow(self._final / self.start, steps / self._steps))


class LayerSchedule:
    """Assigns blocks to layers in proportion to the logarithm of their size.

    The paper draws layers at random with these probabilities (arXiv 2411.17796, section 4). Taking the layer that is
    furthest below its share gives the same shares without variance, and needs no state but the counts.

    Args:
        sizes: number of weights of each layer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        weights = [math.log10(max(size, 2)) for size in sizes]
        self._share = [w / sum(weights) for w in weights]
        self._given = [0] * len(sizes)

    def next(self, count: int) -> list[int]:
        """Layer numbers of the next `count` blocks; no layer twice before every layer came once."""
        picked: list[int] = []
        rest: list[int] = []
        while len(picked) < count:
            rest = rest or list(range(len(self._share)))
            done = sum(self._given) + 1
            behind = max(rest, key=lambda n: self._share[n] * done - self._given[n])
            rest.remove(behind)
            self._given[behind] += 1
            picked.append(behind)
        return picked
