"""Tables of the page: they scroll inside themselves where the screen is narrow, and sort by a click on a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from solvers.comparison import words


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what it says.
        value: the number that it sorts by; None to sort by its text, NaN to come last.
        kind: its class in the page's style.
    """

    text: str
    value: float | None = None
    kind: str = ""


def text_cell(text: str, kind: str = "") -> Cell:
    """A cell of words."""
    return Cell(text, None, kind)


def number_cell(text: str, value: float | None) -> Cell:
    """A cell of a number; None comes last."""
    return Cell(text, math.nan if value is None else value, "number")


def gap_cell(gap: float | None) -> Cell:
    """A cell of a gap; the best possible stands out."""
    return Cell(words.percent(gap), math.nan if gap is None else gap, "number best" if gap == 0.0 else "number")


def time_cell(seconds: float | None) -> Cell:
    """A cell of seconds."""
    return number_cell(words.seconds(seconds), seconds)


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    marks: Sequence[Mapping[str, str]] | None = None,
    identity: str = "",
) -> str:
    """A table that sorts.

    Args:
        title: what it is, for those who hear it.
        head: names of the columns.
        rows: cells.
        marks: data attributes of each row.
        identity: its id in the page.
    """
    numeric = ["number" in cell.kind for cell in rows[0]] if rows else [False] * len(head)
    heads = "".join(
        f'<th scope="col"{" class=number" if right else ""}><button type="button">{escape(name)}</button></th>'
        for name, right in zip(head, numeric, strict=True)
    )
    lines = []
    for at, row in enumerate(rows):
        data = "".join(f' data-{key}="{escape(value)}"' for key, value in (marks[at] if marks else {}).items())
        lines.append(f"<tr{data}>{''.join(map(_cell, row))}</tr>")
    named = f' id="{identity}"' if identity else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table class="sortable"{named}>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    if cell.value is None:
        value = ""
    elif math.isnan(cell.value):
        value = ' data-value=""'
    else:
        value = f' data-value="{"Infinity" if math.isinf(cell.value) else repr(float(cell.value))}"'
    text = escape(cell.text)
    if cell.kind == "backend":  # its options are where a long one may be broken
        text = text.replace("?", "?<wbr>").replace("&amp;", "&amp;<wbr>")
    return f"<td{kind}{value}>{text}</td>"
