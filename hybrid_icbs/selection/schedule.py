"""Which layers the blocks of a round come from, and how many weights are kept after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_icbs.config import Config


class CutSchedule:
    """How many weights are kept along a run whose first blocks lower the density, by the same factor each.

    It starts at no more than those blocks can cut: half of the kept weights of each, so that a choice is left. On
    models that are large beside its blocks that is next to nothing, and on held-out data it did not pay there; so it
    is the default only where a sixth of the blocks can halve the model.

    Args:
        config: settings of the run.
        total: weights in scope.
        final: weights kept at the end.

    Attributes:
        start: weights kept at the start.

    Source:
        CHITA++ (Benbaki et al. 2023, arXiv 2302.14623) lowers the density by one factor a stage, with gradients
        measured anew at each.
    """

    def __init__(self, config: Config, total: int, final: int) -> None:
        steps, each = config.cut_steps, config.block_size // 4
        if config.pattern is not None:  # says how many weights each group keeps, at every moment
            steps = 0
        elif steps is None:
            steps = config.steps // 6
            if config.scope != "global" or steps * each < final:
                steps = 0
        most = min(round(config.cut_from * final), final + steps * each, (final + total) // 2)
        self._final, self._steps = final, steps
        self.start = max(final, most)

    def kept(self, steps: int) -> int:
        """Weights kept after so many blocks."""
        if steps >= self._steps:
            return self._final
        return round(self.start * math.pow(self._final / self.start, steps / self._steps))


class LayerSchedule:
    """Hands out layers in proportion to the logarithm of their size, as evenly as whole numbers allow.

    The paper draws a layer at random with these odds (arXiv 2411.17796, section 4); taking the layer that is
    furthest behind gives the same shares without the luck, and needs no state but the counts.

    Args:
        sizes: weights of each layer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        weights = [math.log10(max(size, 2)) for size in sizes]
        self._share = [w / sum(weights) for w in weights]
        self._given = [0] * len(sizes)

    def next(self, count: int) -> list[int]:
        """Numbers of the layers of the next `count` blocks; each layer once before any comes twice."""
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
