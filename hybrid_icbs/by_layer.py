"""Runs of the layer-wise objectives and of the baselines: one pass over the layers instead of blocks and rounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hybrid_icbs.calibration import CalibrationData, Loss, device_of
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError, RunFolderError
from hybrid_icbs.journal import FILE
from hybrid_icbs.layers import Layer, find_layers
from hybrid_icbs.layerwise import LayerRecord, layers_of_blocks, prune_layerwise
from hybrid_icbs.merge import Guard
from hybrid_icbs.pretrained import loss_for
from hybrid_icbs.result import PruneResult

SEQUENCES = 64
"""Calibration sequences where nothing is said: what the tables of the field take for small models."""

TOKENS_A_PASS = 2048


def prune_by_layer(
    model: nn.Module,
    data: CalibrationData,
    config: Config,
    *,
    loss: Loss | None = None,
    inplace: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
) -> PruneResult:
    """Prune a model layer by layer, each for its own output on calibration data.

    Args:
        model: a transformers model.
        data: calibration data whose samples are the model's keywords; a part is held back for the scores that the
            result tells, as the guard of other runs does.
        config: settings; of them `density` or `pattern`, `method`, `objective`, `update`, `scope`, `batch_size`,
            `guard`, `guard_size`, `include`, `exclude` and `seed` count.
        loss: per-sample loss of the scores; None for the model's own.
        inplace: prune the given model itself.
        out: a new folder for model, masks, metrics and report. Such a run is done in one go: it keeps no journal.
        progress: show a progress bar.

    Raises:
        PruningError: settings or data that cannot be used.
        RunFolderError: the folder holds a run already.
    """
    if out is not None and (Path(out) / FILE).exists():
        raise RunFolderError(f"{out} holds a run already; choose another folder")
    pruned = model if inplace else copy.deepcopy(model)
    layers = _layers(pruned, config)
    guarded, pool = _split(data, config)
    guard = Guard(pruned, data, guarded, loss or loss_for(model)) if len(guarded) else None
    scores = {"dense": asdict(guard.score())} if guard else {}
    batches = _keywords(pruned, data, pool[: config.batch_size or SEQUENCES])
    history: list[dict[str, Any]] = []
    with _progress_bar(len(layers), progress) as advance:

        def note(record: LayerRecord) -> None:
            history.append(_row(record, len(history), config))
            advance(record.name)

        result = prune_layerwise(
            pruned, batches, config.density, method=config.method,
            objective="joint" if config.objective == "joint" else "layer", update=config.update,
            pattern=config.pattern, scope=config.scope, layers=layers, seed=config.seed, progress=note,
        )  # fmt: skip
    if guard:
        scores["result"] = asdict(guard.score())
    settings = config.model_copy(update={"steps": len(history)})  # a layer stands for a block here
    done = PruneResult(
        pruned, dict(result.masks), history, settings, _told(config), scores, None if out is None else Path(out),
        start_densities=dict.fromkeys(result.masks, 1.0), tokenizer=data.tokenizer,
    )  # fmt: skip
    if done.out is not None:
        done.save(done.out)
        done.report(done.out / "report.html")
    return done


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


def _keywords(model: nn.Module, data: CalibrationData, index: Any) -> list[Mapping[str, Any]]:
    """Calibration samples as the model's keywords, in passes of some two thousand tokens."""
    first = data.take(index[:1]).inputs
    if not isinstance(first, Mapping):
        raise PruningError(
            "a layer-wise objective, or a baseline method, takes a transformers model and data as its keywords "
            f"(input_ids, pixel_values, ..); these samples are of type {type(first).__name__}. Use objective='loss'"
        )
    if "input_ids" not in first:
        return [batch.inputs for batch in data.batches(index, device_of(model), SEQUENCES)]
    size = max(1, TOKENS_A_PASS // first["input_ids"].shape[-1])
    return [batch.inputs for batch in data.batches(index, device_of(model), size)]


def _row(record: LayerRecord, number: int, config: Config) -> dict[str, Any]:
    """A layer's line of the history, in the columns that a report reads."""
    return {
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
        "backend": _told(config),
        "seconds_solve": round(record.seconds, 6),
    }


def _told(config: Config) -> str:
    """What pruned, where no solver was named."""
    parts = [config.method] + ([config.objective] if config.method == "icbs" else [])
    return ", ".join(parts + ([config.update] if config.update != "none" else []))


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
