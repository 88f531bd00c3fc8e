"""A run as one self-contained HTML page: headline numbers, plots, layers, settings. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hybrid_icbs.config import Config
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.report import plots
from hybrid_icbs.report.record import LayerRecord, RunRecord
from hybrid_icbs.result import PruneResult


def render(result: PruneResult) -> str:
    """The page of a result in memory."""
    return page(RunRecord.of(result))


def write_report(folder: str | Path, file: str | Path | None = None) -> Path:
    """Write the page of a run's folder, finished or not.

    Args:
        folder: the run folder.
        file: where to write; None for report.html in the folder.

    Returns:
        The file.

    Raises:
        RunFolderError: no run is there, another process works on it, or the file cannot be written.
    """
    text = page(RunRecord.read(folder))
    path = Path(folder) / "report.html" if file is None else Path(file)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}; choose another file") from error
    return path


def save_plots(result: PruneResult, folder: str | Path) -> list[Path]:
    """Write the plots of a result as PNG files into a folder, which is made where it does not exist.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    return plots.save(RunRecord.of(result), folder)


def page(record: RunRecord) -> str:
    """The page of a run's record."""
    parts = [
        f"<h1>{escape(record.name)}</h1>",
        f"<p class=sub>{_summary(record)}</p>",
        _headline(record),
        "<div class=plots>",
        *map(_figure, plots.draw(record)),
        "</div>",
        "" if record.scores else "<p>No loss was measured: the guard was off.</p>",
        _layers(record.layers),
        _settings(record.config),
        _versions(record.versions),
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(record.name)} · hybrid-icbs</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _figure(plot: plots.Plot) -> str:
    seen = escape(f"{plot.title}. {plot.caption}")
    return (
        f'<figure><h2>{escape(plot.title)}</h2><div role="img" aria-label="{seen}">{plot.svg()}</div>'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _summary(record: RunRecord) -> str:
    size, kept = sum(layer.size for layer in record.layers), sum(layer.kept for layer in record.layers)
    weights = f"{kept:,} of {size:,} weights kept in {_count(len(record.layers), 'layer')}, " if size else ""
    state = "" if record.finished else f" <strong>Unfinished: {record.steps} of {record.config.steps} steps.</strong>"
    solver = f"<code>{escape(record.backend or 'nobody yet')}</code>"
    if record.config.by_layer:
        return f"{weights}pruned layer by layer: {solver}."
    return f"{weights}{_count(record.steps, 'block')} solved by {solver}.{state}"


def _headline(record: RunRecord) -> str:
    cells = [("density", f"{record.density:.4g}", f"sparsity {1 - record.density:.4g}")]
    scores = record.scores
    for key, title, text in (("accuracy", "accuracy", _percent), ("loss", "loss", _number)):
        if scores.get("result", {}).get(key) is not None:
            others = [
                f"{name} {text(scores[name][key])}"
                for name in ("start", "dense")
                if scores.get(name, {}).get(key) is not None
            ]
            cells.append((title, text(scores["result"][key]), ", ".join(others)))
    rounds = record.rounds
    if rounds:
        each = "layer" if record.config.by_layer else "round"
        if not record.config.by_layer:
            accepted = sum(r.accepted for r in rounds)
            cells.append(("rounds accepted", f"{accepted} of {len(rounds)}", f"{record.steps} blocks"))
        seconds = sum(record.seconds.values())
        cells.append(("seconds", f"{seconds:.3g}", f"{seconds / len(rounds):.3g} a {each}"))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class=note>{escape(note)}</dd></div>"
        for name, value, note in cells
    )
    note = _HELD_BACK if record.config.by_layer else _GUARDED
    return f"<dl>{items}</dl>{note if scores else ''}"


def _layers(layers: Sequence[LayerRecord]) -> str:
    started = all(layer.start_density is not None for layer in layers)
    head = ["layer", "shape", "weights", "kept", "density", *(["at the start"] if started else [])]
    rows = [
        [
            layer.name,
            " × ".join(map(str, layer.shape)),
            f"{layer.size:,}",
            f"{layer.kept:,}",
            f"{layer.density:.4g}",
            *([f"{layer.start_density:.4g}"] if started else []),
        ]
        for layer in layers
    ]
    return _table("Layers", head, rows, numbers_from=2) if rows else ""


def _settings(config: Config) -> str:
    defaults = Config.of(density=0.5).model_dump(mode="json")
    rows = []
    for name, value in config.model_dump(mode="json").items():
        changed = name == "density" or value != defaults[name]
        rows.append([name, _value(value), "" if changed else "default", Config.model_fields[name].description or ""])
    return _table("Settings", ["setting", "value", "", "meaning"], rows)


def _versions(versions: Mapping[str, str]) -> str:
    return f"<h2>Versions</h2><p>{escape(', '.join(f'{name} {version}' for name, version in versions.items()))}</p>"


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    def cell(column: int, text: str, tag: str) -> str:
        number = ' class="number"' if numbers_from is not None and column >= numbers_from else ""
        return f"<{tag}{number}>{escape(text)}</{tag}>"

    lines = [
        "<tr>" + "".join(cell(c, text, tag) for c, text in enumerate(row)) + "</tr>"
        for tag, listed in (("th", [head]), ("td", rows))
        for row in listed
    ]
    return (
        f'<h2>{escape(title)}</h2><div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f"<thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody></table></div>"
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value) if value != {} else "none"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


_HELD_BACK = '<p class="note">Loss and accuracy on samples held back from the calibration data.</p>'

_GUARDED = (
    '<p class="note">Loss and accuracy on the samples by which the guard judged each round: no gradient saw them, but '
    "they chose the result, so expect a little less of it on new data.</p>"
)

_CSS = """
:root { color-scheme: light dark; --line: #d5d8dd; --soft: #5c626b; --paper: #ffffff; --ink: #1c1f24; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3f47; --soft: #a2a9b4; --paper: #15181c; --ink: #e6e8eb; --card: #1e2227; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.1rem; }
p.sub { margin: .3rem 0 1.4rem; }
.note { color: var(--soft); font-size: .85rem; }
code { overflow-wrap: anywhere; font-size: .9em; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 0; }
dl > div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
dd.note { font-size: .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 2.5rem; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
