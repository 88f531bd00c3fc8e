"""The HTML page of a run: key figures, plots, layers and settings. It loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_icbs.config import Config
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.report import plots
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.result import PruneResult
from solvers.html import render as filled
from solvers.html.tables import Table, number_cell, text_cell


def render(result: PruneResult) -> str:
    """The page of a result in memory."""
    return page(RunRecord.of(result))


def write_report(folder: str | Path, file: str | Path | None = None) -> Path:
    """Write the page of a run folder, finished or not.

    Args:
        folder: the run folder.
        file: the file to write; None for report.html in the folder.

    Returns:
        The file.

    Raises:
        RunFolderError: the folder holds no run, another process has it open, or the file cannot be written.
    """
    text = page(RunRecord.read(folder))
    path = Path(folder) / "report.html" if file is None else Path(file)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}; choose another file") from error
    return path


def page(record: RunRecord) -> str:
    """The page of a run's record."""
    return filled(
        "hybrid_icbs.report", "page.html", record=record, size=sum(layer.size for layer in record.layers),
        kept=sum(layer.kept for layer in record.layers), figures=_figures(record), plots=plots.draw(record),
        layers=_layers(record), settings=_settings(record.config),
    )  # fmt: skip


def _figures(record: RunRecord) -> list[tuple[str, str, str]]:
    """The key figures: name, value and a note."""
    found = [("density", f"{record.density:.4g}", f"sparsity {1 - record.density:.4g}")]
    for key, form in (("accuracy", "{:.2%}"), ("loss", "{:.4g}")):
        values = {name: score[key] for name, score in record.scores.items() if score.get(key) is not None}
        if "result" in values:
            others = ", ".join(f"{name} {form.format(values[name])}" for name in ("start", "dense") if name in values)
            found.append((key, form.format(values["result"]), others))
    rounds = record.rounds
    if rounds:
        by_layer = record.config.by_layer
        if not by_layer:
            accepted = sum(each.accepted for each in rounds)
            found.append(("rounds accepted", f"{accepted} of {len(rounds)}", f"{record.steps} blocks"))
        seconds = sum(record.seconds.values())
        each = "layer" if by_layer else "round"
        found.append(("seconds", f"{seconds:.3g}", f"{seconds / len(rounds):.3g} per {each}"))
    return found


def _layers(record: RunRecord) -> Table:
    rows = [
        [
            text_cell(layer.name), text_cell(" × ".join(map(str, layer.shape))),
            number_cell(f"{layer.size:,}", layer.size), number_cell(f"{layer.kept:,}", layer.kept),
            number_cell(f"{layer.density:.4g}", layer.density),
        ]
        for layer in record.layers
    ]  # fmt: skip
    head = ["layer", "shape", "weights", "kept", "density"]
    starts = [layer.start_density for layer in record.layers if layer.start_density is not None]
    if len(starts) == len(rows):
        head.append("at the start")
        for row, start in zip(rows, starts, strict=True):
            row.append(number_cell(f"{start:.4g}", start))
    return Table("Layers", head, rows, sortable=False)


def _settings(config: Config) -> Table:
    defaults = Config.of(density=0.5).model_dump(mode="json")
    rows = []
    for name, value in config.model_dump(mode="json").items():
        changed = name == "density" or value != defaults[name]
        texts = (name, _value(value), "" if changed else "default", Config.model_fields[name].description or "")
        rows.append([text_cell(text) for text in texts])
    return Table("Settings", ["setting", "value", "", "meaning"], rows, sortable=False)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value) if value != {} else "none"
