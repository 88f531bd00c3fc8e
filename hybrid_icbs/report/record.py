"""What there is to tell about a run: gathered from its result, or from its folder while it is unfinished."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import solvers
from hybrid_icbs.config import Config
from hybrid_icbs.layerwise.history import layer_history
from hybrid_icbs.layerwise.journal import layers_done
from hybrid_icbs.result import TOOLKITS, PruneResult
from hybrid_icbs.runs.journal import Journal, RoundRecord


@dataclass(frozen=True)
class LayerRecord:
    """One layer: its weight's name and shape, how many weights are kept, and the densities now and at the start."""

    name: str
    shape: tuple[int, ...]
    kept: int
    start_density: float | None

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def density(self) -> float:
        """Share of kept weights."""
        return self.kept / self.size


@dataclass(frozen=True)
class Round:
    """The blocks of one ask, which were merged or refused together.

    Attributes:
        step: number of the last of its blocks, counted from 1.
        predicted: modelled change of the loss, all blocks together.
        before, after: loss on the guard's samples; None without a guard.
        accepted: whether its answers were kept.
        seconds: by part of the work.
    """

    step: int
    predicted: float
    before: float | None
    after: float | None
    accepted: bool
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """A run as a report tells it.

    Attributes:
        name: of the run folder, or of the run in general.
        config: the settings.
        backend: the solver with its settings; empty while no block is solved.
        scores: of the "dense" model, the "start" and the "result": {"loss": ..., "accuracy": ...}.
        layers: in the model's order.
        history: a row for each block.
        versions: of the packages that ran.
    """

    name: str
    config: Config
    backend: str
    scores: Mapping[str, Mapping[str, float | None]]
    layers: tuple[LayerRecord, ...]
    history: list[dict[str, Any]]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, result: PruneResult) -> RunRecord:
        """The record of a result in memory."""
        layers = []
        for name in result.masks:
            mask = result.masks[name]
            layers.append(LayerRecord(name, tuple(mask.shape), int(mask.sum()), result.start_densities.get(name)))
        return cls(
            result.out.name if result.out else "pruning run",
            result.config,
            result.backend,
            result.scores,
            tuple(layers),
            result.history,
            _versions(solvers.versions(TOOLKITS)),
        )

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """The record of a run folder, finished or not.

        Raises:
            RunFolderError: no run is there, or another process works on it.
        """
        folder = Path(folder)
        journal = Journal.open(folder)
        try:
            start, end = journal.value("start") or {}, journal.value("end") or {}
            shapes = {name: tuple(shape) for name, shape in journal.value("identity")["layers"].items()}
            config, rounds, pruned = journal.config, list(journal.rounds()), layers_done(journal)
        finally:
            journal.close()
        history = [row for record in rounds if record.merged for row in record.merged[2]]
        history += layer_history(pruned, config)
        scores, densities = dict(start.get("scores", {})), start.get("densities", {})
        sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
        final = {name: round(densities[name] * sizes[name]) for name in shapes if name in densities}
        kept, loss = _best_kept(rounds, start.get("kept", final), final, scores.get("start", {}).get("loss"))
        if end and end["steps"] == len(history):
            scores, kept = end["scores"], end.get("kept", kept)
        elif config.by_layer:
            kept = kept | {layer.name: round(layer.density * sizes[layer.name]) for layer in pruned}
        elif loss is not None and history:
            scores["result"] = {"loss": loss, "accuracy": None}
        layers = (LayerRecord(name, shapes[name], kept[name], densities[name]) for name in final)
        backend = end.get("backend") or (history[-1]["backend"] if history else "")
        return cls(
            folder.resolve().name,
            config,
            backend,
            scores,
            tuple(layers),
            history,
            _versions(start.get("versions", {})),
        )

    @property
    def steps(self) -> int:
        """Blocks solved."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether the budget of steps is used up."""
        return self.steps >= self.config.steps

    @property
    def density(self) -> float:
        """Share of kept weights of all layers; of the config where the layers are not on record."""
        size = sum(layer.size for layer in self.layers)
        return sum(layer.kept for layer in self.layers) / size if size else self.config.density

    @property
    def rounds(self) -> list[Round]:
        """The history, a round at a time."""
        return list(_rounds(self.history))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part of the work, all rounds together."""
        total: dict[str, float] = {}
        for each in self.rounds:
            for part, seconds in each.seconds.items():
                total[part] = total.get(part, 0.0) + seconds
        return total


def _rounds(history: list[dict[str, Any]]) -> Iterator[Round]:
    for _, group in itertools.groupby(history, key=lambda row: row["round"]):
        rows = list(group)
        last = rows[-1]
        yield Round(
            last["step"],
            sum(row["predicted"] for row in rows),
            last["loss_before"],
            last["loss_after"],
            last["accepted"],
            {key.removeprefix("seconds_"): value for key, value in last.items() if key.startswith("seconds_")},
        )


def _best_kept(
    rounds: list[RoundRecord], start: Mapping[str, int], final: Mapping[str, int], least: float | None
) -> tuple[dict[str, int], float | None]:
    """Weights that each layer keeps in the best state so far, and its loss.

    While the density is still being lowered that is the present state.

    Args:
        rounds: on record.
        start: weights that each layer keeps at the start.
        final: those of the masks of the start method at the final density.
        least: the loss of these.
    """
    now = np.array(list(start.values()), np.int64)
    best, total = np.array(list(final.values()), np.int64), sum(final.values())
    for record in rounds:
        if record.merged is None:
            continue
        for parameter, pruned, applied in zip(record.parameter, record.pruned, record.applied, strict=True):
            if applied is not None:
                change = (applied == 0).astype(np.int64) - (np.arange(len(applied)) >= pruned)
                now = now + np.bincount(parameter, change, len(now)).astype(np.int64)
        _, loss, _ = record.merged
        if now.sum() == total and (loss is None or least is None or loss <= least):
            best, least = now, loss
    if now.sum() > total:
        best, least = now, None
    return dict(zip(start, best.tolist(), strict=True)), least


def _versions(toolkits: Mapping[str, str]) -> dict[str, str]:
    return {"python": platform.python_version(), **toolkits}
