"""The Python of docs/comparing-solvers.md runs as printed and writes the files that the page names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "comparing-solvers.md").read_text("utf-8")


@pytest.mark.slow
def test_the_example_runs_as_printed(tmp_path):
    (example,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("tabu", "sa")
    named = set(re.findall(r"`(race\.json|results\.csv|submission\.csv|report\.html)`", TEXT))
    assert named == {path.name for path in (tmp_path / "runs/race").iterdir()}
