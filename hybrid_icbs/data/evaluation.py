"""What a run is judged by, apart from its calibration data: labelled samples, or texts by their perplexity."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from hybrid_icbs.data.calibration import CalibrationData, Loss, evaluate
from hybrid_icbs.data.perplexity import perplexity


@dataclass(frozen=True)
class Tokens:
    """A text for perplexity: its token ids [tokens], and the tokens of a window."""

    ids: torch.Tensor
    context: int


@dataclass(frozen=True)
class Evaluation:
    """Test data by name; at least one."""

    parts: dict[str, CalibrationData | Tokens]

    def score(self, model: nn.Module, loss: Loss) -> dict[str, Any]:
        """What a model scores, as plain values.

        Args:
            model: the model.
            loss: per-sample loss, for labelled samples.

        Returns:
            {"loss", "accuracy"} of the first of the test data, where it is a text {"loss", "accuracy": None,
            "perplexity"} with a dict of {"value", "tokens", "context", "stride"} by name for all texts.
        """
        scores: dict[str, Any] = {}
        perplexities: dict[str, Any] = {}
        for name, part in self.parts.items():
            if isinstance(part, Tokens):
                found = perplexity(model, part.ids, context=part.context)
                perplexities[name] = asdict(found)
                scores = scores or {"loss": found.loss, "accuracy": None}
            else:
                scores = scores or asdict(evaluate(model, part, loss))
        return {**scores, "perplexity": perplexities} if perplexities else scores
