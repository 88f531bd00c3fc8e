"""The model card: the README.md beside a pruned model, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_icbs.config import Config
from hybrid_icbs.result import PruneResult
from solvers.html import render as filled

Scores = Mapping[str, Mapping[str, Any]]
"""Loss, accuracy and perplexity of the "dense" model, the "start" and the "result"."""


def write_card(result: PruneResult, folder: Path, test_scores: Scores | None = None) -> None:
    """Write the model card into a saved result's folder, and into `model/` in it."""
    card = model_card(result, test_scores)
    for file in (folder / "README.md", folder / "model" / "README.md"):
        file.write_text(card, "utf-8")


def model_card(result: PruneResult, test_scores: Scores | None = None) -> str:
    """The model card in Markdown: densities, scores, and how the model was pruned.

    Args:
        result: the result.
        test_scores: scores on test data, if there are any.
    """
    model, base = result.model, getattr(getattr(result.model, "config", None), "_name_or_path", "") or ""
    kind = type(model).__name__
    held_back = "On samples held back from the calibration data"
    guarded = "On the guard's samples (they selected the result)"
    scores = {"On test data": test_scores, held_back if result.config.by_layer else guarded: result.scores}
    rounds = {row["round"]: bool(row["accepted"]) for row in result.history}
    densities = result.densities
    return filled(
        "hybrid_icbs.report", "model_card.md", result=result, kind=kind,
        name=base.rstrip("/").rsplit("/", 1)[-1] or kind, transformers=hasattr(model, "save_pretrained"),
        base="" if base.startswith(("/", ".")) else base,  # a folder of this machine is no model of the hub
        kept=sum(int(mask.sum()) for mask in result.masks.values()),
        size=sum(mask.numel() for mask in result.masks.values()),
        layers=[(name, mask.numel(), densities[name]) for name, mask in result.masks.items()],
        scores=[(title, *_table(each)) for title, each in scores.items() if each],
        accepted=sum(rounds.values()), rounds=len(rounds), settings=_settings(result.config), version=_version(),
    )  # fmt: skip


def _table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of scores."""
    texts: Mapping[str, Any] = next(iter(scores.values())).get("perplexity", {})
    accurate = any(score.get("accuracy") is not None for score in scores.values())
    head = ["model", "loss", *(["accuracy"] if accurate else [])]
    head += [f"perplexity of {text} (context {value['context']})" for text, value in texts.items()]
    rows = []
    for name, score in scores.items():
        cells = [name, f"{score['loss']:.4f}"]
        if accurate:
            accuracy = score.get("accuracy")
            cells.append("" if accuracy is None else f"{accuracy:.2%}")
        rows.append(cells + [f"{score['perplexity'][text]['value']:.4g}" for text in texts])
    return head, rows


def _settings(config: Config) -> dict[str, Any]:
    """Density, seed, and the settings that differ from their defaults."""
    defaults = Config.of(density=0.5).model_dump(mode="json")
    given = config.model_dump(mode="json")
    return {key: value for key, value in given.items() if key in ("density", "seed") or value != defaults[key]}


def _version() -> str:
    try:
        return importlib.metadata.version("hybrid-icbs")
    except importlib.metadata.PackageNotFoundError:
        return "(from source)"
