"""README's Python runs as printed, its figures are those recorded, and it shows every command and backend."""

from __future__ import annotations

import csv
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import solvers
from hybrid_icbs.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_library_example_runs_as_printed(tmp_path):
    example = PROGRAMS[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    dense, pruned = re.findall(r"accuracy=([\d.]+)", done.stdout)
    assert float(dense) > float(pruned) > 0.8
    assert done.stdout.rstrip().endswith("0.05")
    assert (tmp_path / "pruned" / "model" / "model.safetensors").is_file()


def test_the_example_of_solvers_alone_runs_as_printed():
    code = PROGRAMS[1].replace("time_limit=1.0", "time_limit=0.1")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0.0, abs=1e-9)


def test_the_claim_is_what_was_recorded():
    with (ROOT / "docs" / "figures" / "accuracy_density.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def mean(method, density):
        return statistics.mean(
            float(row["accuracy"]) for row in rows if (row["method"], row["density"]) == (method, density)
        )

    claimed = re.search(
        r"At 2 % .* keeps ([\d.]+) %.*dense: ([\d.]+) %; magnitude pruning: ([\d.]+) %, Wanda: ([\d.]+) %",
        README.replace("\n", " "),
    )
    measured = [mean("iCBS", "0.02"), mean("dense", "1.0"), mean("magnitude", "0.02"), mean("Wanda", "0.02")]
    assert [float(value) for value in claimed.groups()] == [round(value, 1) for value in measured]


def test_every_command_is_shown():
    shown = re.findall(r"^hybrid-icbs ([a-z]+)", README, re.MULTILINE)
    groups = {group.typer_instance.info.name for group in app.registered_groups}
    assert set(shown) == {command.callback.__name__ for command in app.registered_commands} | groups


def test_every_backend_is_in_the_table():
    table = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(.*?)`", cell)}
    assert named == {*solvers.backends(), "dimod:package.Sampler", "auto"}
