"""The model card: README.md beside a pruned model, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_icbs.config import Config

if TYPE_CHECKING:
    from hybrid_icbs.result import PruneResult


def write_card(result: PruneResult, folder: Path, test_scores: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the model card of a saved result, beside its folder `model/` and into it."""
    card = model_card(result, test_scores)
    for file in (folder / "README.md", folder / "model" / "README.md"):
        file.write_text(card, "utf-8")


def model_card(result: PruneResult, test_scores: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """What a pruned model is, in Markdown: densities, scores, and how it was made.

    Args:
        result: the result.
        test_scores: scores on test data of the "dense" model, the "start" and the "result", where there are any.
    """
    model, base = result.model, getattr(getattr(result.model, "config", None), "_name_or_path", "") or ""
    transformers = hasattr(model, "save_pretrained")
    head = ["---", *(["library_name: transformers"] if transformers else []), "tags:", "- pruned", "- hybrid-icbs"]
    if base and not base.startswith(("/", ".")):
        head.append(f"base_model: {base}")
    kept, size = (sum(int(f(mask)) for mask in result.masks.values()) for f in (lambda m: m.sum(), lambda m: m.numel()))
    name = base.rstrip("/").rsplit("/", 1)[-1] or type(model).__name__
    lines = [
        *head, "---", "", f"# {name}, pruned to density {result.density:.4g}", "",
        f"A {type(model).__name__} of which {kept:,} of {size:,} weights in {len(result.masks)} layers are kept. "
        "Pruned weights are exact zeros in ordinary dense safetensors, so the model loads everywhere and is neither "
        "smaller nor faster by itself.", "",
    ]  # fmt: skip
    if transformers:
        auto = type(model).__name__
        lines += ["```python", f"from transformers import {auto}", ""]
        lines += [f'model = {auto}.from_pretrained("model")', "```", ""]
    lines += _scores("On test data", test_scores) if test_scores else []
    held_back = "On samples held back from the calibration data"
    guarded = "On the samples by which the run was guarded (they chose the result)"
    lines += _scores(held_back if result.config.by_layer else guarded, result.scores)
    lines += ["## Density by layer", "", "| layer | weights | density |", "|---|---:|---:|"]
    densities = result.densities
    lines += [f"| {key} | {mask.numel():,} | {densities[key]:.4f} |" for key, mask in result.masks.items()]
    lines += ["", "## How it was made", "", _made(result), "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in _settings(result.config).items()]
    return "\n".join(lines) + "\n"


def _scores(title: str, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not scores:
        return []
    texts = list(next(iter(scores.values())).get("perplexity", {}))
    accurate = any(score.get("accuracy") is not None for score in scores.values())
    heads = ["model", "loss", *(["accuracy"] if accurate else [])]
    for text in texts:
        context = next(iter(scores.values()))["perplexity"][text]["context"]
        heads.append(f"perplexity of {text} (context {context})")
    rows = []
    for name, score in scores.items():
        cells = [name, f"{score['loss']:.4f}"]
        if accurate:
            accuracy = score.get("accuracy")
            cells.append("" if accuracy is None else f"{accuracy:.2%}")
        cells += [f"{score['perplexity'][text]['value']:.4g}" for text in texts]
        rows.append(f"| {' | '.join(cells)} |")
    return [f"## {title}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows, ""]


def _made(result: PruneResult) -> str:
    steps = len(result.history)
    where = "The masks are in masks.safetensors, all settings in config.json, both beside the folder of the model."
    if result.config.by_layer:
        return f"hybrid-icbs {_version()} pruned {steps} layers one after the other ({result.backend}). {where}"
    rounds = {row["round"]: bool(row["accepted"]) for row in result.history}
    solver = f"solved by {result.backend}" if result.backend else "so the first masks stayed"
    return (
        f"hybrid-icbs {_version()} chose the weights by combinatorial optimisation (arXiv 2411.17796): {steps} blocks, "
        f"{solver}; {sum(rounds.values())} of {len(rounds)} rounds were accepted. {where}"
    )


def _settings(config: Config) -> dict[str, Any]:
    """The settings that say how to make it again: density, seed, and what differs from the defaults."""
    defaults = Config.of(density=0.5).model_dump(mode="json")
    given = config.model_dump(mode="json")
    return {key: value for key, value in given.items() if key in ("density", "seed") or value != defaults[key]}


def _version() -> str:
    try:
        return importlib.metadata.version("hybrid-icbs")
    except importlib.metadata.PackageNotFoundError:
        return "(from source)"
