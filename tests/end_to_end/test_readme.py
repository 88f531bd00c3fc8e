"""What README prints is true: its Python runs as it stands, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

import solvers
from hybrid_icbs.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_library_example_runs_as_printed(tmp_path):
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    dense, pruned = re.findall(r"accuracy=([\d.]+)", done.stdout)
    assert float(dense) > float(pruned) > 0.8
    assert done.stdout.rstrip().endswith("0.05")
    assert (tmp_path / "pruned" / "model" / "model.safetensors").is_file()


def test_every_command_and_option_that_is_shown_exists():
    shown = re.findall(r"^    hybrid-icbs ([a-z]+)(.*)$", README, re.MULTILINE)
    groups = {group.typer_instance.info.name for group in app.registered_groups}
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert {command for command, _ in shown} == commands | groups
    for command, rest in shown:
        words = [command, rest.split()[0]] if command in groups else [command]
        text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
        for option in re.findall(r" (--[a-z-]+)", rest):
            assert option in text, f"{command} has no {option}"


def test_every_backend_is_in_the_table():
    table = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(.*?)`", cell)}
    assert named == {*solvers.backends(), "dimod:package.Sampler", "auto"}


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\(([^)]*)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
