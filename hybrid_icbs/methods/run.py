"""Runs of pruning methods that do not go through blocks: calibration data, journal, scores and result."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import solvers
from hybrid_icbs.config import Config
from hybrid_icbs.data.calibration import Batch, CalibrationData
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.data.forward import device_of
from hybrid_icbs.data.losses import Loss, loss_for
from hybrid_icbs.errors import PruningError, RunFolderError
from hybrid_icbs.layerwise.history import described, layer_history
from hybrid_icbs.layerwise.journal import LayerJournal
from hybrid_icbs.layerwise.method import LayerwiseSettings
from hybrid_icbs.layerwise.passes import LayerRecord, LayerwiseResult, prune_layerwise
from hybrid_icbs.methods.base import LayerMethod, ModelMethod, ModelProblem
from hybrid_icbs.methods.registry import get_method
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import apply_masks
from hybrid_icbs.models.patterns import Pattern
from hybrid_icbs.progress import phase
from hybrid_icbs.report.renderer import RENDERER
from hybrid_icbs.result import TOOLKITS, PruneResult
from hybrid_icbs.runs.fingerprint import fingerprint
from hybrid_icbs.runs.journal import Journal, check_free

SEQUENCES, SAMPLES = 64, 1000
"""Default numbers of calibration samples: sequences of text (as in the field's tables for small models), and others."""

TOKENS_A_PASS, SAMPLES_A_PASS = 2048, 64


def prune_by_method(
    model: nn.Module,
    data: CalibrationData,
    config: Config,
    *,
    loss: Loss | None = None,
    inplace: bool = False,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> PruneResult:
    """Prune a model with the method that the settings name.

    Args:
        model: a torch or transformers model.
        data: calibration data; a part is held back for the scores of the result.
        config: settings; those used are `density`, `pattern`, `method`, `objective`, `update`, `scope`, `batch_size`,
            `guard`, `guard_size`, `include`, `exclude` and `seed`.
        loss: per-sample loss of the scores and of the joint objective; None for the model's own.
        inplace: prune the given model itself.
        out: a new folder for model, masks, metrics, report and the journal of the run; a run that is killed resumes
            from there with :func:`resume_by_method`, by layer at the first unfinished decoder block.
        notes: the caller's values (JSON) for the journal.

    Raises:
        PruningError: settings or data that cannot be used.
        RunFolderError: the folder holds a run already, or cannot be written.
    """
    if out is not None:
        check_free(out)  # before anything that takes long
    run = _Run(model, data, config, loss, inplace)
    if out is None:
        return run.complete(None, run.dense_scores())
    scores = run.dense_scores()
    start = {
        "scores": scores,
        "densities": {layer.name: 1.0 for layer in run.layers},
        "kept": {layer.name: layer.size for layer in run.layers},
        "versions": solvers.versions(TOOLKITS),
    }
    journal = Journal.create(out, run.config, run.identity(), {"start": start, **(notes or {})})
    with closing(journal):
        return run.complete(journal, scores)


def resume_by_method(
    out: str | Path,
    model: nn.Module,
    data: CalibrationData,
    *,
    loss: Loss | None = None,
    inplace: bool = False,
) -> PruneResult:
    """Resume a run, by layer at the first unfinished decoder block.

    Args:
        out: the run's folder.
        model: the dense model with which the run began.
        data: the same calibration data.
        loss: the same loss.
        inplace: prune the given model itself.

    Returns:
        The same result as from an uninterrupted run.

    Raises:
        RunFolderError: there is no run, it is finished, another process works on it, or model or data differ from
            those of the run.
    """
    with closing(Journal.open(out)) as journal:
        if journal.value("end") is not None:
            raise RunFolderError(f"the run in {out} is finished; its pruned model is in {Path(out) / 'model'}")
        run = _Run(model, data, journal.config, loss, inplace)
        journal.check_identity(run.identity())
        return run.complete(journal, dict(journal.value("start")["scores"]))


class _Run:
    """A run: the model, its layers and its data."""

    def __init__(
        self, model: nn.Module, data: CalibrationData, config: Config, loss: Loss | None, inplace: bool
    ) -> None:
        self.method = get_method(config.method)
        self.model = model if inplace else copy.deepcopy(model)
        self.data = data
        self.layers = _layers(self.model, config)
        self.config = config.model_copy(update={"steps": len(self.layers)})  # a layer stands for a block here
        guarded, self.pool = _split(data, config)
        self.guard = Guard(self.model, data, guarded, loss or loss_for(model)) if len(guarded) else None
        self.loss = loss or loss_for(model)
        self.batches = _batches(self.model, data, config, self.pool)

    def dense_scores(self) -> dict[str, dict[str, float | None]]:
        """Scores of the dense model."""
        if self.guard is None:
            return {}
        with phase("evaluating the dense model"):
            return {"dense": asdict(self.guard.score())}

    def identity(self) -> dict[str, Any]:
        """Checksums of the dense model and the data, which must be the same when the run is resumed."""
        return {
            "weights": fingerprint(self.model.state_dict()),
            "samples": len(self.data),
            "data": fingerprint([(batch.inputs, batch.targets) for batch in self.batches]),
            "layers": {layer.name: list(layer.weight.shape) for layer in self.layers},
        }

    def complete(self, journal: Journal | None, scores: dict[str, dict[str, float | None]]) -> PruneResult:
        """Prune the layers that are not pruned yet; write the result into the run's folder, if there is one."""
        record = LayerJournal(journal) if journal else None
        config = self.config
        if isinstance(self.method, LayerMethod):
            result = self._by_layer(self.method, record)
        else:
            with phase("pruning"):
                result = self._at_once(self.method)
        if self.guard:
            with phase("evaluating"):
                scores["result"] = asdict(self.guard.score())
        done = PruneResult(
            self.model, dict(result.masks), layer_history(result.records, config), config, described(config), scores,
            journal.folder if journal else None, start_densities=dict.fromkeys(result.masks, 1.0),
            tokenizer=self.data.tokenizer, renderer=RENDERER,
        )  # fmt: skip
        if journal and record and done.out:
            done.save(done.out)
            done.report(done.out / "report.html")
            kept = {name: result.masks.kept(name) for name in result.masks}
            journal.set_value(
                "end", {"scores": scores, "backend": done.backend, "steps": len(done.history), "kept": kept}
            )
            record.clear()
        return done

    def _by_layer(self, method: LayerMethod, record: LayerJournal | None) -> LayerwiseResult:
        config = self.config
        settings = LayerwiseSettings(
            method, config.density, objective="joint" if config.objective == "joint" else "layer",
            update=config.update, pattern=Pattern.read(config.pattern) if config.pattern else None,
            scope=config.scope, seed=config.seed,
        )  # fmt: skip
        return prune_layerwise(
            self.model, self.batches, settings, layers=self.layers, record=record,
            loss=lambda outputs, batch: self.loss(outputs, batch.targets).sum(),
        )  # fmt: skip

    def _at_once(self, method: ModelMethod) -> LayerwiseResult:
        begun = time.perf_counter()
        problem = ModelProblem(self.model, self.layers, self.batches, self.loss, self.config)
        masks = method.prune(problem)
        if masks.kept() != problem.kept or set(masks) != {layer.name for layer in self.layers}:
            raise PruningError(
                f"method {method.name!r} returned masks that keep {masks.kept()} weights of {len(masks)} layers; "
                f"{problem.kept} weights of the {len(self.layers)} layers in scope must be kept"
            )
        apply_masks(self.model, masks)
        seconds = time.perf_counter() - begun
        shares = [seconds * layer.size / sum(each.size for each in self.layers) for layer in self.layers]
        records = [
            LayerRecord(layer.name, masks.density(layer.name), math.nan, share)
            for layer, share in zip(self.layers, shares, strict=True)
        ]
        return LayerwiseResult(masks, records, seconds)


def _layers(model: nn.Module, config: Config) -> list[Layer]:
    given = bool(config.include or config.exclude)
    return find_layers(model, config.include, config.exclude or None, in_blocks=not given)


def _split(data: CalibrationData, config: Config) -> tuple[Any, Any]:
    """Indices of the samples for the scores, and of those for calibration."""
    order = np.random.default_rng([config.seed, 0]).permutation(len(data))
    if config.guard == "off":
        return order[:0], order
    size = min(SEQUENCES, len(order) // 3) if config.guard_size is None else config.guard_size
    if not 0 <= size < len(order):
        raise PruningError(
            f"{size} samples for the scores leave none of {len(order)} for calibration; give more data, a smaller "
            'guard_size, or guard="off"'
        )
    return order[:size], order[size:]


def _batches(model: nn.Module, data: CalibrationData, config: Config, pool: Any) -> list[Batch]:
    """The calibration samples, in batches of about two thousand tokens if they are text."""
    first = data.take(pool[:1]).inputs
    text = isinstance(first, Mapping) and "input_ids" in first
    size = max(1, TOKENS_A_PASS // first["input_ids"].shape[-1]) if text else SAMPLES_A_PASS
    index = pool[: config.batch_size or (SEQUENCES if text else SAMPLES)]
    return list(data.batches(index, device_of(model), size))
