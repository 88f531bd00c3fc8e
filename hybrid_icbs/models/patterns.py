"""N:M patterns: of every M weights in a row exactly N are kept, as semi-structured kernels want them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_icbs.errors import PruningError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pattern:
    """Of every `of` consecutive weights along the inputs of a row, `kept` are kept."""

    kept: int
    of: int

    @classmethod
    def read(cls, text: str) -> Pattern:
        """The pattern of a text such as "2:4".

        Raises:
            PruningError: the text has another form, or keeps all weights or none.
        """
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise PruningError(f'pattern {text!r} must be N:M with 0 < N < M, such as "2:4" for two kept of every four')
        return cls(int(found[1]), int(found[2]))

    @property
    def pruned(self) -> int:
        """Weights pruned of each group."""
        return self.of - self.kept

    @property
    def density(self) -> float:
        """Share of weights kept."""
        return self.kept / self.of

    def check(self, name: str, inputs: int) -> None:
        """Refuse a layer whose rows cannot be divided into groups.

        Raises:
            PruningError: `of` does not divide the inputs of the layer.
        """
        if inputs % self.of:
            raise PruningError(
                f"layer {name!r} has {inputs} inputs, which pattern {self} does not divide; leave it out with "
                f"exclude=[{name.removesuffix('.weight')!r}]"
            )

    def lowest(self, scores: torch.Tensor) -> torch.Tensor:
        """What the pattern prunes, bool [..., d]: the lowest scores [..., d] of each group, of equal ones the first."""
        import torch

        grouped = scores.unflatten(-1, (-1, self.of))
        order = torch.argsort(grouped, dim=-1, stable=True)[..., : self.pruned]
        return torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, order, True).flatten(-2)

    def holds(self, kept: torch.Tensor) -> bool:
        """Whether a mask [..., d] keeps exactly `kept` of every group."""
        return bool((kept.unflatten(-1, (-1, self.of)).sum(-1) == self.kept).all())

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"
