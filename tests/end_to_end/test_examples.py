"""The examples run without warnings and print what they promise."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, folder, *arguments):
    unseen = "ignore:FigureCanvasAgg is non-interactive:UserWarning"  # plt.show() without a display
    command = [sys.executable, "-W", "error", "-W", unseen, EXAMPLES / name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def percent(text, name):
    return float(re.search(rf"^{name}\D*([\d.]+)%", text, re.MULTILINE)[1])


@pytest.mark.slow
def test_prune_classifier_beats_magnitude(tmp_path):
    said = run("prune_classifier.py", tmp_path)
    assert percent(said, "iCBS") > percent(said, "magnitude") + 20
    assert percent(said, "dense") > 95


@pytest.mark.slow
def test_ask_tell_by_hand_lowers_the_loss_with_answers_from_files(tmp_path):
    said = run("ask_tell_by_hand.py", tmp_path)
    assert "3 blocks wait for their solutions" in said
    losses = [float(loss) for loss in re.findall(r"-> ([\d.]+), accepted", said)]
    assert len(losses) >= 3
    assert losses == sorted(losses, reverse=True)
    assert "at density 0.0500" in said


@pytest.mark.slow
def test_bring_your_own_solver_passes_the_kit_and_prunes(tmp_path):
    said = run("bring_your_own_solver.py", tmp_path)
    assert said.count("passed") >= 15
    assert re.search(r"HillClimber\(restarts=\d+\): accuracy [\d.]+%", said)


SMALL_TRIAL = ["--blocks", "3", "--size", "10", "--qaoa", "reps=1"]


@pytest.mark.slow
def test_hardware_trial_writes_its_page_without_credentials(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("DWAVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "none.conf"))
    (tmp_path / "none.conf").touch()
    said = run("hardware_trial.py", tmp_path, *SMALL_TRIAL)
    assert "leap is skipped" in said
    assert len(list((tmp_path / "trial" / "blocks").glob("*.json"))) >= 3
    with (tmp_path / "trial" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["solver"] for row in rows} == {"random", "sa", "qaoa"}
    assert all(float(row["final"]) == pytest.approx(0.0, abs=1e-6) for row in rows if row["solver"] == "sa")
    assert all(0.0 < float(row["mean"]) < 100.0 for row in rows if row["solver"] == "qaoa")
    page = (tmp_path / "trial" / "trial.html").read_text()
    assert "<svg" in page
    assert "leap?solver=qpu" in page


@pytest.mark.slow
def test_hardware_trial_pays_for_no_call_twice(tmp_path, sapi):
    run("hardware_trial.py", tmp_path, *SMALL_TRIAL, "--leap", "nl,cqm")
    assert sapi.counts["accepted"] == 6
    said = run("hardware_trial.py", tmp_path, *SMALL_TRIAL, "--leap", "nl,cqm,bqm", "--max-charge", "31")
    assert sapi.counts["accepted"] == 6
    assert "leap(cqm)" in said
    assert "leap?solver=bqm is skipped" in said
    assert "page:" in said


@pytest.mark.slow
def test_prune_language_model_beats_magnitude(tmp_path):
    said = run("prune_language_model.py", tmp_path)
    dense, magnitude, pruned = (float(value) for value in re.findall(r"perplexity ([\d.]+) \(context 128", said))
    assert dense < pruned < magnitude
    assert magnitude - pruned > 0.3 * (magnitude - dense)
    assert said.count("The statement ") == 3


def test_every_example_is_run_here():
    source = Path(__file__).read_text("utf-8")
    assert all(f'run("{file.name}"' in source for file in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES.glob("*.py"), ids=lambda file: file.name)
def test_every_example_says_what_it_shows_and_how_to_run_it(file):
    assert f"Run it: python examples/{file.name}" in file.read_text("utf-8")
