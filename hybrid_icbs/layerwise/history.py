"""The history of a run by layer, one row per layer, in the columns that reports read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_icbs.config import Config
from hybrid_icbs.layerwise.passes import LayerRecord


def layer_history(records: Sequence[LayerRecord], config: Config) -> list[dict[str, Any]]:
    """One row per layer, in the order of pruning."""
    return [
        {
            "step": number + 1,
            "round": number,
            "block": 0,
            "layers": record.name,
            "error": record.error,
            "predicted": record.error,
            "loss_before": None,
            "loss_after": None,
            "accepted": True,
            "density": record.density,
            "backend": described(config),
            "seconds_solve": round(record.seconds, 6),
        }
        for number, record in enumerate(records)
    ]


def described(config: Config) -> str:
    """The method with its objective and update; runs by blocks report their solver in its place."""
    parts = [config.method] + ([config.objective] if config.method == "icbs" else [])
    return ", ".join(parts + ([config.update] if config.update != "none" else []))
