"""Writes submission.csv and report.html."""

from __future__ import annotations

import os
from pathlib import Path

from problems.storage import write_whole
from solvers.comparison import page
from solvers.comparison.comparison import Comparison
from solvers.comparison.submission import submission


def write(comparison: Comparison, folder: str | os.PathLike[str]) -> None:
    """Write submission.csv and report.html into a folder, each atomically."""
    base = Path(folder)
    write_whole(base / "submission", {}, (".csv", lambda _: _encoded(submission(comparison))))
    write_whole(base / "report", {}, (".html", lambda _: _encoded(page.render(comparison))))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # folder names may be invalid UTF-8
