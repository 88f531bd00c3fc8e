"""`hybrid-icbs demo` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = "from hybrid_icbs.cli.app import main; main()"


def test_the_demo_prunes_better_than_magnitude_and_leaves_a_run_folder(tmp_path):
    command = [sys.executable, "-c", SCRIPT, "demo", "--out", "runs/demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dense"]["accuracy"] > 0.95
    assert told["icbs"]["accuracy"] > told["magnitude"]["accuracy"] + 0.2
    assert told["icbs"]["loss"] < told["magnitude"]["loss"] / 2
    assert told["icbs"]["density"] == told["magnitude"]["density"] == 0.05
    assert "training" in done.stderr
    assert "pruning" in done.stderr
    run = tmp_path / "runs" / "demo"
    for name in ("config.json", "journal.sqlite", "masks.safetensors", "metrics.csv", "report.html"):
        assert (run / name).is_file()
    assert Path(tmp_path, told["report"]).is_file()
    resumed = subprocess.run(
        [*command[:3], "resume", "runs/demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "is finished" in resumed.stdout
