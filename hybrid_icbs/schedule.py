"""Which layers the blocks of a round come from."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
