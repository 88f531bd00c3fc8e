"""What a pruning run gives back: the model, its masks, the history, and how to save them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from hybrid_icbs.config import Config
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.pretrained import quiet_transformers

TOOLKITS = ("torch", "numpy", "dimod", "numba")
"""Distributions whose versions belong in the record of a run."""


@dataclass(frozen=True)
class Renderer:
    """Makes documents of results; :data:`hybrid_icbs.report.renderer.RENDERER` is the one of all runs.

    Attributes:
        write_card: writes the model card of a result that is saved in a folder.
        page: returns the HTML page of a result.
    """

    write_card: Callable[[PruneResult, Path], None]
    page: Callable[[PruneResult], str]


@dataclass(frozen=True)
class PruneResult:
    """A pruned model and the record of its pruning.

    Attributes:
        model: the pruned model; pruned weights are exact zeros in ordinary dense storage.
        masks: boolean tensors shaped like the weights, by parameter name, True = kept.
        history: one row of plain values a block, in the order of solving.
        config: the run's settings.
        backend: the solver that was used, with its settings.
        scores: mean loss (and accuracy where there are classes) on the guard's samples, of the "dense" model, at the
            "start" and of the "result"; empty without a guard.
        out: the run folder, or None.
        interrupted: whether Ctrl-C ended the run before its budget of steps.
        start_densities: share of kept weights of each layer in the masks of the start.
        budget_reached: which limit on calls to services ended the run, in a sentence; None where none did.
        tokenizer: of the model, or its image processor, which is saved with it; None where none is known.
        renderer: makes the model card and the HTML page.
    """

    model: nn.Module
    masks: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    config: Config
    backend: str
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    out: Path | None = None
    interrupted: bool = False
    start_densities: dict[str, float] = field(default_factory=dict)
    budget_reached: str | None = None
    tokenizer: Any = None
    renderer: Renderer = field(kw_only=True)

    def __repr__(self) -> str:
        known = {
            "density": f"{self.density:.6g}", "layers": len(self.masks), "history": f"<{len(self.history)} rows>",
            "backend": repr(self.backend), "scores": self.scores, "out": None if self.out is None else str(self.out),
        }  # fmt: skip
        return f"PruneResult({', '.join(f'{name}={value}' for name, value in known.items())})"

    @property
    def density(self) -> float:
        """Share of kept weights over all layers in scope."""
        masks = self.masks.values()
        return sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    @property
    def densities(self) -> dict[str, float]:
        """Share of kept weights of each layer."""
        return {name: float(mask.float().mean()) for name, mask in self.masks.items()}

    def save(self, folder: str | Path) -> Path:
        """Write the model, its masks, the settings and the history.

        The folder gets `model/` (what `save_pretrained` writes for a transformers model, its tokenizer with it, else
        `model.safetensors`), `masks.safetensors` (see `load_masks`), `config.json`, `metrics.csv` and a
        model card, `README.md`, beside the model too.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            (folder / "model").mkdir(parents=True, exist_ok=True)
            save_pretrained = getattr(self.model, "save_pretrained", None)
            if callable(save_pretrained):
                with quiet_transformers():
                    save_pretrained(folder / "model")
                if self.tokenizer is not None:
                    self.tokenizer.save_pretrained(folder / "model")
            else:
                save_model(self.model, str(folder / "model" / "model.safetensors"))
            Masks.of(self.masks).save(folder / "masks.safetensors")
            (folder / "config.json").write_text(
                json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n", "utf-8"
            )
            _write_csv(folder / "metrics.csv", self.history)
            self.renderer.write_card(self, folder)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(
                f"{folder} cannot be written: {error}; free some space or choose another folder"
            ) from error
        return folder

    def report(self, file: str | Path | None = None) -> str:
        """The run as one HTML page with plots, which loads nothing from elsewhere.

        Args:
            file: a file to write the page to; None writes nothing.

        Raises:
            RunFolderError: the file cannot be written.
        """
        page = self.renderer.page(self)
        if file is not None:
            try:
                Path(file).write_text(page, "utf-8")
            except OSError as error:
                raise RunFolderError(f"{file} cannot be written: {error}; choose another file") from error
        return page


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        # Rows of blocks that were told by hand lack the loop's own columns.
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(stream, list(names) or ["step"])
        writer.writeheader()
        writer.writerows(rows)
