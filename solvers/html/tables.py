"""Tables of a page: cells with a text to show and a value to sort by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what it shows.
        value: the number that it sorts by; None sorts by the text, NaN comes last.
        kind: its class in the stylesheet. Cells of kind "backend" may break after each "?" and "&".
    """

    text: str
    value: float | None = None
    kind: str = ""

    @property
    def key(self) -> str | None:
        """The number to sort by as JavaScript reads it, empty for NaN; None to sort by the text."""
        if self.value is None:
            return None
        if math.isnan(self.value):
            return ""
        return "Infinity" if math.isinf(self.value) else repr(float(self.value))

    @property
    def pieces(self) -> list[str]:
        """The text, split where a line may break."""
        return re.split(r"(?<=[?&])", self.text) if self.kind == "backend" else [self.text]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: its name for screen readers.
        head: names of the columns.
        rows: cells, row by row.
        sortable: whether a click on a column's head sorts it; the page must include `tables.js`.
        marks: data attributes of each row, for filters.
        identity: id of the table in the page.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True
    marks: Sequence[Mapping[str, str]] | None = None
    identity: str = ""

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """The name of each column, and whether it holds numbers."""
        numbers = ["number" in cell.kind for cell in self.rows[0]] if self.rows else [False] * len(self.head)
        return list(zip(self.head, numbers, strict=True))

    @property
    def marked(self) -> list[tuple[Mapping[str, str], Sequence[Cell]]]:
        """Each row after its data attributes."""
        return list(zip(self.marks or [{}] * len(self.rows), self.rows, strict=True))


def text_cell(text: str, kind: str = "") -> Cell:
    """A cell of text."""
    return Cell(text, None, kind)


def number_cell(text: str, value: float | None) -> Cell:
    """A cell of a number; None comes last."""
    return Cell(text, math.nan if value is None else value, "number")
