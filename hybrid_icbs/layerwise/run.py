"""Runs of the layer-wise objectives and of the baselines: one pass over the layers instead of blocks and rounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
from hybrid_icbs.layerwise.journal import LayerJournal
from hybrid_icbs.layerwise.passes import LayerRecord, layers_of_blocks, prune_layerwise
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.result import TOOLKITS, PruneResult
from hybrid_icbs.runs.fingerprint import fingerprint
from hybrid_icbs.runs.journal import Journal, check_free

SEQUENCES, SAMPLES = 64, 1000
"""Calibration samples where nothing is said, if they are text (what the tables of the field take for small models) and
if not."""

TOKENS_A_PASS, SAMPLES_A_PASS = 2048, 64


def prune_by_layer(
    model: nn.Module,
    data: CalibrationData,
    config: Config,
    *,
    loss: Loss | None = None,
    inplace: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
    notes: Mapping[str, Any] | None = None,
) -> PruneResult:
    """Prune a model layer by layer, each for its own output on calibration data.

    Args:
        model: a torch or transformers model whose layers in scope are Linear or Conv1D.
        data: calibration data; a part is held back for the scores that the result tells, as the guard of other runs
            does.
        config: settings; of them `density` or `pattern`, `method`, `objective`, `update`, `scope`, `batch_size`,
            `guard`, `guard_size`, `include`, `exclude` and `seed` count.
        loss: per-sample loss of the scores and of the joint objective; None for the model's own.
        inplace: prune the given model itself.
        out: a new folder for model, masks, metrics, report and the journal of the run, by which :func:`resume_by_layer`
            goes on after a kill at the decoder block that was not done.
        progress: show a progress bar.
        notes: values (JSON) of the caller's that the journal keeps from the start.

    Raises:
        PruningError: settings or data that cannot be used.
        RunFolderError: the folder holds a run already, or cannot be written.
    """
    if out is not None:
        check_free(out)  # before anything that takes long
    run = _Run(model, data, config, loss, inplace)
    if out is None:
        return run.complete(None, run.dense_scores(), progress)
    scores = run.dense_scores()
    start = {
        "scores": scores,
        "densities": {layer.name: 1.0 for layer in run.layers},
        "kept": {layer.name: layer.size for layer in run.layers},
        "versions": solvers.versions(TOOLKITS),
    }
    journal = Journal.create(out, run.config, run.identity(), {"start": start, **(notes or {})})
    with closing(journal):
        return run.complete(journal, scores, progress)


def resume_by_layer(
    out: str | Path,
    model: nn.Module,
    data: CalibrationData,
    *,
    loss: Loss | None = None,
    inplace: bool = False,
    progress: bool = True,
) -> PruneResult:
    """Go on with a run by layer at the first decoder block that is not on record.

    Args:
        out: the run's folder.
        model: the same dense model with which the run began.
        data: the same calibration data.
        loss: the same loss.
        inplace: prune the given model itself.
        progress: show a progress bar.

    Returns:
        The same result as of a run that was never stopped.

    Raises:
        RunFolderError: no run is there, it is finished, another process works on it, or model or data are not those
            of the run.
    """
    with closing(Journal.open(out)) as journal:
        if journal.value("end") is not None:
            raise RunFolderError(f"the run in {out} is finished; its pruned model is in {Path(out) / 'model'}")
        run = _Run(model, data, journal.config, loss, inplace)
        journal.check_identity(run.identity())
        return run.complete(journal, dict(journal.value("start")["scores"]), progress)


class _Run:
    """A model, its data and what has been settled of a run by layer."""

    def __init__(
        self, model: nn.Module, data: CalibrationData, config: Config, loss: Loss | None, inplace: bool
    ) -> None:
        self.model = model if inplace else copy.deepcopy(model)
        self.data = data
        self.layers = _layers(self.model, config)
        self.config = config.model_copy(update={"steps": len(self.layers)})  # a layer stands for a block here
        guarded, self.pool = _split(data, config)
        self.guard = Guard(self.model, data, guarded, loss or loss_for(model)) if len(guarded) else None
        self.loss = loss or loss_for(model)
        self.batches = _batches(self.model, data, config, self.pool)

    def dense_scores(self) -> dict[str, dict[str, float | None]]:
        """Of the model before anything is pruned."""
        return {"dense": asdict(self.guard.score())} if self.guard else {}

    def identity(self) -> dict[str, Any]:
        """What must be the same when the run is resumed: the dense model and the data."""
        return {
            "weights": fingerprint(self.model.state_dict()),
            "samples": len(self.data),
            "data": fingerprint([(batch.inputs, batch.targets) for batch in self.batches]),
            "layers": {layer.name: list(layer.weight.shape) for layer in self.layers},
        }

    def complete(
        self, journal: Journal | None, scores: dict[str, dict[str, float | None]], progress: bool
    ) -> PruneResult:
        """Prune what is not pruned yet, and gather the result; into the run's folder too, where there is one."""
        record = LayerJournal(journal) if journal else None
        config = self.config
        with _progress_bar(len(self.layers), progress) as advance:
            result = prune_layerwise(
                self.model, self.batches, config.density, method=config.method,
                objective="joint" if config.objective == "joint" else "layer", update=config.update,
                pattern=config.pattern, scope=config.scope, layers=self.layers, seed=config.seed, record=record,
                loss=lambda outputs, batch: self.loss(outputs, batch.targets).sum(),
                progress=lambda done: advance(done.name),
            )  # fmt: skip
        if self.guard:
            scores["result"] = asdict(self.guard.score())
        done = PruneResult(
            self.model, dict(result.masks), layer_history(result.records, config), config, way(config), scores,
            journal.folder if journal else None, start_densities=dict.fromkeys(result.masks, 1.0),
            tokenizer=self.data.tokenizer,
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


def layer_history(records: Sequence[LayerRecord], config: Config) -> list[dict[str, Any]]:
    """The history of a run by layer, a line each, in the columns that a report reads."""
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
            "backend": way(config),
            "seconds_solve": round(record.seconds, 6),
        }
        for number, record in enumerate(records)
    ]


def way(config: Config) -> str:
    """What prunes by layer, told where other runs name their solver."""
    parts = [config.method] + ([config.objective] if config.method == "icbs" else [])
    return ", ".join(parts + ([config.update] if config.update != "none" else []))


def _layers(model: nn.Module, config: Config) -> list[Layer]:
    if config.include or config.exclude:
        return find_layers(model, config.include, config.exclude or None)
    return layers_of_blocks(model)


def _split(data: CalibrationData, config: Config) -> tuple[Any, Any]:
    """Samples for the scores, and those of calibration."""
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
    """The samples of calibration, in passes of some two thousand tokens where they are text."""
    first = data.take(pool[:1]).inputs
    text = isinstance(first, Mapping) and "input_ids" in first
    size = max(1, TOKENS_A_PASS // first["input_ids"].shape[-1]) if text else SAMPLES_A_PASS
    index = pool[: config.batch_size or (SEQUENCES if text else SAMPLES)]
    return list(data.batches(index, device_of(model), size))


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("pruning"), BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, note="")
        yield lambda name: bar.update(task, advance=1, note=name)
