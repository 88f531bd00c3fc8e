"""The command line: what it prints where, its exit codes, and that it never answers with a traceback."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dimod
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import problems
import problems.instances
import solvers
from hybrid_icbs import Config, Pruner, load_masks, prune
from hybrid_icbs.cli import console
from hybrid_icbs.cli.app import app
from hybrid_icbs.cli.demo import unused
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.journal import Journal

NETS = """
import torch
import torch.nn.functional as F
from torch import nn
from hybrid_icbs.digits import load_digits

def architecture():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def trained():
    model, (x, y) = architecture(), load_digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model

def calibration():
    x, y = load_digits()
    return x[:300], y[:300]

def test(): return load_digits("test")
def odd():
    model = trained()
    model.register_forward_pre_hook(lambda module, args: {}["unforeseen"])
    return model

def wide(): return torch.zeros(50, 65), torch.zeros(50, dtype=torch.long)
def doubled(outputs, targets): return 2 * F.cross_entropy(outputs, targets, reduction="none")
def mean(outputs, targets): return F.cross_entropy(outputs, targets)
def broken(): raise ValueError("no weights here")
"""

MODEL = ["--model", "nets:trained", "--data", "nets:calibration"]
QUICK = ["--backend", "sa?restarts=1&sweeps=20", "--block-size", "64", "--steps", "4", "--batch-size", "50"]
SETTINGS = {"backend": "sa?restarts=1&sweeps=20", "block_size": 64, "steps": 4, "batch_size": 50}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module of the user's."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    sys.modules.pop("nets", None)


def call(*arguments, code=0):
    """A command in this process; the exit code is part of what is promised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def answer(*arguments):
    """What a command says as JSON; nothing else is on standard output."""
    return json.loads(call(*arguments, "--json").stdout)


# Help


def test_every_command_teaches_by_example():
    commands = [command.callback.__name__ for command in app.registered_commands]
    assert commands == ["demo", "prune", "resume", "blocks", "solve", "compare", "backends", "report"]
    for command in commands:
        assert f"hybrid-icbs {command}" in call(command, "--help").stdout.split("Options")[0]


# prune


def test_prune_writes_a_run_folder_and_tells_as_json_what_came_of_it(folder):
    told = answer("prune", *MODEL, "--density", 0.2, *QUICK, "--out", "runs/x", "--quiet")
    assert told["out"] == "runs/x"
    assert told["finished"]
    assert not told["interrupted"]
    assert told["steps"] == 4
    assert told["density"] == pytest.approx(0.2, abs=1 / 1184)
    assert told["scores"]["dense"]["loss"] < told["scores"]["result"]["loss"] <= told["scores"]["start"]["loss"]
    state, masks = load_file("runs/x/model/model.safetensors"), load_masks("runs/x/masks.safetensors")
    for name, mask in masks.items():
        assert torch.all(state[name][~mask] == 0)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.2 * 1184)
    assert (folder / "runs/x/report.html").exists()


def test_prune_does_what_the_library_does(folder):
    call("prune", *MODEL, "--sparsity", 0.8, *QUICK, "--out", "x", "--quiet")
    import nets

    result = prune(nets.trained(), nets.calibration(), sparsity=0.8, progress=False, **SETTINGS)
    masks = load_masks("x/masks.safetensors")
    assert all(torch.equal(masks[name], result.masks[name]) for name in result.masks)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_prune_takes_a_saved_file_with_its_architecture(folder, ending):
    sys.path.insert(0, str(folder))
    import nets

    state = nets.trained().state_dict()
    save_file(state, f"net{ending}") if ending == ".safetensors" else torch.save(state, f"net{ending}")
    of_file = ["--model", f"net{ending}", "--model-fn", "nets:architecture", "--data", "nets:calibration"]
    told = [answer("prune", *model, "--density", 0.2, *QUICK) for model in (MODEL, of_file)]
    assert told[0]["scores"] == told[1]["scores"]


def test_prune_shows_a_table_and_keeps_progress_to_standard_error(folder):
    shown = call("prune", *MODEL, "--density", 0.2, *QUICK, "--eval", "nets:test")
    assert "on test data" in shown.stdout
    assert all(row in shown.stdout for row in ("dense", "start (magnitude)", "result"))
    assert "pruning" in shown.stderr
    assert "pruning" not in shown.stdout


def test_quiet_is_silent(folder):
    shown = call("prune", *MODEL, "--density", 0.2, *QUICK, "--quiet")
    assert shown.output == ""


def test_the_loss_is_the_one_that_is_named(folder):
    plain, doubled = (
        answer("prune", *MODEL, "--density", 0.2, *QUICK, *more) for more in ([], ["--loss", "nets:doubled"])
    )
    assert doubled["scores"]["dense"]["loss"] == pytest.approx(2 * plain["scores"]["dense"]["loss"])


def test_settings_come_from_a_file_and_options_go_over_them(folder):
    Path("settings.toml").write_text('density = 0.5\nguard = "off"\nsteps = 9\nblock_size = 64\nbackend = "sa"\n')
    call("prune", *MODEL, "--config", "settings.toml", "--steps", 1, "--guard", "watch", "--hold-back", "0.25",
         "--exclude", "0", "--out", "x", "-q")  # fmt: skip
    config = Config.read("x/config.json")
    assert (config.density, config.guard, config.steps, config.hold_back) == (0.5, "watch", 1, 0.25)
    assert config.exclude == ("0",)
    assert list(load_masks("x/masks.safetensors")) == ["2.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nets:calibration", "--density", "0.5"], "--model is missing: package.module:function, or"),
        (["--model", "nets:trained", "--density", "0.5"], "--data is missing: package.module:function, or"),
        ([*MODEL], "give density"),
        ([*MODEL, "--density", "0.5", "--sparsity", "0.5"], "not both"),
        ([*MODEL, "--density", "1.5"], "density = 1.5"),
        ([*MODEL, "--density", "much"], "number"),
        ([*MODEL, "--density", "0.5", "--backend", "tabuu"], "did you mean 'tabu'"),
        ([*MODEL, "--density", "0.5", "--backend", "sa?restart=4"], "did you mean 'restarts'"),
        ([*MODEL, "--density", "0.5", "--roh", "1"], "Possible options: --out, --rho"),
        ([*MODEL, "--density", "0.5", "--rho", "-1"], "rho = -1.0"),
        ([*MODEL, "--density", "0.5", "--guard", "maybe"], "'maybe' is not one of"),
        ([*MODEL, "--density", "0.5", "--preset", "best"], "there are icbs, icbs-paper"),
        ([*MODEL, "--density", "0.5", "--config", "absent.toml"], "absent.toml"),
        ([*MODEL, "--density", "0.5", "--include", "nothing"], "nothing"),
        ([*MODEL, "--density", "0.5", "--no-such-option"], "No such option"),
        (["--model", "nets:nothing", "--data", "nets:calibration", "--density", "0.5"], "no 'nothing'"),
        (["--model", "nets:broken", "--data", "nets:calibration", "--density", "0.5"], "ValueError: no weights here"),
        (["--model", "nets:trained", "--data", "absent:data", "--density", "0.5"], "no module 'absent'"),
        (["--model", "org/name", "--data", "nets:calibration", "--density", "0.5"], "(no such folder here"),
        ([*MODEL, "--density", "0.5", "--loss", "nets:mean"], "loss of each sample"),
        ([*MODEL, "--density", "0.5", "--objective", "layer", "--backend", "leap"], "backend = 'leap': no effect"),
        ([*MODEL, "--density", "0.5", "--method", "wanda", "--steps", "9"], "steps = 9: no effect with method"),
        ([*MODEL, "--density", "0.5", "--objective", "layer", "--dry-run"], "--dry-run estimates what backends take"),
    ],
)
def test_wrong_use_ends_with_code_2_and_says_what_is_allowed(folder, arguments, message):
    shown = call("prune", *arguments, code=2)
    assert shown.stdout == ""
    assert message in " ".join(shown.stderr.split())


def test_a_failure_ends_with_code_1_and_one_line(folder):
    Path("file").touch()
    shown = call("prune", *MODEL, "--density", 0.5, *QUICK, "--out", "file/run", "-q", code=1)
    assert shown.stderr.startswith("error: file/run cannot be made")
    assert len(shown.stderr.splitlines()) == 1


def test_what_is_compiled_for_the_first_time_is_told_on_standard_error_unless_all_is_quiet(capsys):
    @console.command
    def solves(quiet=False):
        logging.getLogger("problems.compiling").info("compiling")

    solves()
    solves()
    assert capsys.readouterr() == ("", "compiling\ncompiling\n")
    solves(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_what_nobody_foresaw_is_one_line_too_and_a_variable_shows_where_it_was(folder, monkeypatch):
    given = ["prune", "--model", "nets:odd", "--data", "nets:calibration", "--density", "0.5", *QUICK, "-q"]
    shown = call(*given, code=1)
    assert shown.stderr.startswith("error: KeyError: 'unforeseen'")
    assert len(shown.stderr.splitlines()) == 1
    monkeypatch.setenv("HYBRID_ICBS_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(app, given).exception, KeyError)


def test_data_that_does_not_fit_the_model_is_wrong_use_and_leaves_no_folder(folder):
    given = ["--model", "nets:trained", "--data", "nets:wide", "--density", "0.5", *QUICK, "--out", "x", "-q"]
    shown = call("prune", *given, code=2)
    assert shown.stderr.startswith("error: Sequential does not run on inputs [16, 65] float32")
    assert len(shown.stderr.splitlines()) == 1
    assert not Path("x").exists()


def test_a_folder_with_a_run_is_not_pruned_into(folder):
    call("prune", *MODEL, "--density", 0.2, *QUICK, "--out", "x", "-q")
    before = Path("x", FILE).read_bytes()
    shown = call("prune", *MODEL, "--density", 0.3, *QUICK, "--out", "x", code=2)
    assert "hybrid-icbs resume x" in shown.stderr
    assert Path("x", FILE).read_bytes() == before


@pytest.mark.parametrize("way", [[], ["--method", "wanda"]], ids=["blocks", "layers"])
def test_a_folder_of_a_run_or_a_race_is_left_alone(folder, way):
    (folder / "x").mkdir()
    (folder / "x" / "race.json").touch()
    told = call("prune", *MODEL, "--density", 0.2, *way, "--out", "x", code=2).stderr
    assert "x holds race.json, which is not of a run in this folder; choose another folder" in " ".join(told.split())
    (folder / "x" / "race.json").rename(folder / "x" / "journal.sqlite")
    told = call("prune", *MODEL, "--density", 0.2, *way, "--out", "x", code=2).stderr
    assert "x holds a run already; go on with it by `hybrid-icbs resume x`" in " ".join(told.split())


# resume


def begun(steps_done):
    """A run of the command line that stopped after some steps."""
    from hybrid_icbs.blockwise.solving import solve_round
    from hybrid_icbs.cli.commands import configure, sources_of, start

    sources = sources_of("nets:trained", "nets:calibration", test="nets:test")
    pruner, _ = start(sources, configure(None, {"density": 0.2, **SETTINGS}), Path("x"))
    for _ in range(steps_done):
        solver = pruner.solver(pruner.ask()[0])
        answers = solve_round(solver, pruner._round.blocks, pruner.rounds, pruner.config)
        for problem, solved in zip(pruner.pending(), answers, strict=True):
            pruner.tell(problem, solved)
    pruner.close()


def test_resume_ends_as_a_run_that_was_never_stopped(folder):
    whole = answer("prune", *MODEL, "--eval", "nets:test", "--density", 0.2, *QUICK, "--out", "whole", "-q")
    begun(2)
    sys.modules.pop("nets", None)
    resumed = answer("resume", "x", "-q")
    for key in ("scores", "test_scores", "densities", "steps", "rounds_accepted"):
        assert resumed[key] == whole[key]
    ours, theirs = load_masks("x/masks.safetensors"), load_masks("whole/masks.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_resume_finds_modules_where_the_run_was_begun(folder, tmp_path_factory, monkeypatch):
    begun(3)
    sys.modules.pop("nets", None)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    assert answer("resume", folder / "x", "-q")["finished"]


def test_resume_of_a_finished_run_says_so(folder):
    told = answer("prune", *MODEL, "--density", 0.2, *QUICK, "--out", "x", "-q")
    assert "is finished" in call("resume", "x").stdout
    again = answer("resume", "x")
    for key in ("scores", "density", "densities", "steps", "finished"):
        assert again[key] == told[key]


def test_resume_needs_a_run_whose_model_is_on_record(folder):
    assert "holds no run" in call("resume", "absent", code=2).stderr
    sys.path.insert(0, str(folder))
    import nets

    pruner = Pruner(nets.trained(), nets.calibration(), Config.of(density=0.2, **SETTINGS), out="x")
    pruner.close()
    assert "hybrid_icbs.resume('x', model, data)" in call("resume", "x", code=2).stderr


def test_resume_with_another_model_is_refused(folder):
    begun(1)
    Path("nets.py").write_text(NETS.replace("range(25)", "range(61)"))
    sys.modules.pop("nets", None)
    assert "weights are not those" in call("resume", "x", "-q", code=1).stderr


def test_a_second_process_on_a_run_is_told_so(folder):
    begun(1)
    journal = Journal.open("x")
    try:
        for command in (["resume", "x"], ["report", "x"], ["blocks", "--from", "x", "--out", "b"]):
            assert "another process has the run" in call(*command, "-q", code=1).stderr
    finally:
        journal.close()


def test_ctrl_c_keeps_the_best_so_far_and_ends_cleanly(folder):
    quick = [*QUICK, "--steps", "100000"]
    command = [sys.executable, "-m", "hybrid_icbs.cli.app", "prune", *MODEL, "--density", "0.2", *quick, "--out", "x"]
    script = "from hybrid_icbs.cli.app import main; main()"
    command = [sys.executable, "-c", script, *command[3:]]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        journal = folder / "x" / FILE
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size > 150_000):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "stopped early" in out
    assert "hybrid-icbs resume x" in out
    assert "Traceback" not in err
    record = RunRecord.read("x")
    assert 0 < record.steps < 100_000
    masks = load_masks("x/masks.safetensors")
    assert [int(masks[layer.name].sum()) for layer in record.layers] == [layer.kept for layer in record.layers]


# blocks and solve


@pytest.mark.parametrize("bqm", [False, True])
def test_blocks_of_a_model_are_files_that_solvers_read(folder, bqm):
    size = ["--block-size", 64, "--batch-size", 50]
    more = ["--bqm"] if bqm else []
    told = answer("blocks", *MODEL, "--density", 0.2, *size, "--count", 2, "--out", "b", *more)
    assert [Path(block["file"]).suffix for block in told["blocks"]] == [".bqm" if bqm else ".npz"] * 2
    weights = set()
    for block in told["blocks"]:
        problem = problems.load(block["file"])
        assert (problem.n, problem.cardinality) == (block["n"], block["cardinality"])
        weights.update(zip(problem.labels.parameter.tolist(), problem.labels.index.tolist(), strict=True))
        if bqm:
            with open(block["file"], "rb") as file:
                assert dimod.BinaryQuadraticModel.from_file(file).num_variables == problem.n
    assert len(weights) == sum(block["n"] for block in told["blocks"])


@pytest.mark.parametrize("steps_done", [0, 2, 4])
def test_blocks_of_a_run_leave_it_as_it_was(folder, steps_done):
    begun(steps_done)
    journal = Journal.open("x")
    rounds = len(list(journal.rounds()))
    journal.close()
    first, second = (answer("blocks", "--from", "x", "--count", 2, "--out", out) for out in ("a", "b"))
    assert len(first["blocks"]) == 2
    for ours, theirs in zip(first["blocks"], second["blocks"], strict=True):
        one, two = problems.load(ours["file"]), problems.load(theirs["file"])
        assert one.provenance["round"] == steps_done
        assert np.array_equal(one.labels.index, two.labels.index)
        assert np.array_equal(one.linear, two.linear)
    journal = Journal.open("x")
    assert len(list(journal.rounds())) == rounds
    journal.close()


def test_blocks_of_a_run_take_no_settings_of_their_own(folder):
    begun(0)
    shown = call("blocks", "--from", "x", "--density", 0.5, "--out", "b", code=2)
    assert "takes model, data and settings from the run" in shown.stderr


@pytest.fixture
def shipped(tmp_path):
    """A block with a proven optimum."""
    problem = next(p for p in problems.instances.pruning() if p.best_known and p.best_known.proven)
    return problem, problems.save(problem, tmp_path / "block")


def test_solve_tells_the_state_its_energy_and_the_gap(shipped):
    problem, file = shipped
    told = answer("solve", file, "--backend", "exact", "--seed", 3)
    assert problem.is_feasible(told["state"])
    assert problem.energy(told["state"]) == told["energy"]
    assert told["gap"] == pytest.approx(0, abs=1e-9)
    assert told["seed"] == 3
    assert told["backend"] == "exact"
    assert set(told["timing"]) >= {"setup", "solve", "total"}
    lines = call("solve", file, "--backend", "exact", "-q").output
    assert lines == ""
    assert "from the best known" in call("solve", file, "--backend", "sa", "--seed", 0).stdout


def test_solve_passes_options_limits_and_targets_on(shipped):
    problem, file = shipped
    told = answer("solve", file, "--backend", "sa", "--option", "restarts=3", "--option", "sweeps=7", "--seed", 0)
    same = solvers.solve(problem, "sa", restarts=3, sweeps=7, seed=0)
    assert told["energy"] == same.first.energy
    told = answer("solve", file, "--backend", "sa?threads=1", "--target", 1e9, "--option", "restarts=1000")
    assert told["ended_by"] == "target"
    assert answer("solve", file, "--backend", "sa", "--time-limit", 0.05)["ended_by"] == "time_limit"


def test_solve_and_blocks_take_instances_folders_and_mdplib_files(folder):
    mdplib = Path("MDG-x_n4_m2.txt")
    mdplib.write_text("4 2\n0 1 3.0\n0 2 1.0\n0 3 1.0\n1 2 1.0\n1 3 1.0\n2 3 2.0\n")
    answer("blocks", "--from", "instances:mlpnet-picked-n16-*", "--from", str(mdplib), "--bqm", "--out", "small")
    names = problems.load_set("small").names
    assert names == ("mlpnet-picked-n16-k2", "mlpnet-picked-n16-k8", "mlpnet-picked-n16-k14", "MDG-x_n4_m2")
    told = answer("solve", "small", "--backend", "exact")
    assert [each["name"] for each in told] == list(names)
    assert told[-1]["energy"] == -3.0
    shipped = answer("solve", "instances:mlpnet-picked-n16-k8", "--backend", "exact")
    assert shipped["energy"] == pytest.approx(told[1]["energy"])
    assert shipped["gap"] == pytest.approx(0.0, abs=1e-6)
    assert answer("solve", str(mdplib), "--backend", "exact")["energy"] == -3.0
    assert "nothing-*" in call("solve", "instances:nothing-*", code=2).stderr
    assert "lists all" in call("blocks", "--from", "instances:nothing-*", "--out", "y", code=2).stderr


def test_solve_takes_any_dimod_file_with_its_cardinality(folder):
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: -1.0, 2: 0.5}, {(0, 1): 2.0, (1, 2): -1.0}, 0.0, "BINARY")
    with bqm.to_file() as written:
        Path("other.bqm").write_bytes(written.read())
    assert "cardinality" in call("solve", "other.bqm", code=2).stderr
    told = answer("solve", "other.bqm", "--cardinality", 2, "--backend", "exact")
    assert told["state"] == [0, 1, 1]
    assert told["energy"] == -1.5
    assert told["gap"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.bqm"], "absent"),
        (["bad.bqm", "--cardinality", "2"], "bad.bqm"),
        (["worse.json"], "worse.json"),
        (["good.bqm", "--backend", "saa"], "did you mean 'sa'"),
        (["good.bqm", "--option", "restart=2"], "did you mean 'restarts'"),
        (["good.bqm", "--option", "restarts"], "must be KEY=VALUE"),
        (["good.bqm", "--time-limit", "-1"], "time_limit -1 must be more than 0"),
        (["good.bqm", "--cardinality", "3"], "cardinality"),
    ],
)
def test_what_cannot_be_solved_is_wrong_use(folder, arguments, message):
    Path("bad.bqm").write_bytes(b"DIMODBQM nonsense")
    Path("worse.json").write_text("{")
    problems.save(problems.BlockProblem(np.eye(4), cardinality=2), "good")
    shown = call("solve", *arguments, "-q", code=2)
    assert shown.stderr.startswith("error: ")
    assert message in shown.stderr


# backends, report, demo


def test_backends_are_listed_with_what_they_take(folder):
    listed = {record["backend"]: record for record in answer("backends")}
    assert set(listed) == {*solvers.backends(), "dimod:package.Sampler"}
    assert listed["sa"]["ready"]
    assert listed["sa"]["native_cardinality"]
    assert listed["sa"]["options"]["restarts"] == solvers.get_solver("sa").restarts
    assert not listed["ocean-sa"]["native_cardinality"]
    shown = call("backends").stdout
    assert all(name in shown for name in listed)


def test_report_works_for_unfinished_runs(folder):
    begun(2)
    assert "page.html" in call("report", "x", "--out", "page.html").stdout
    assert "Unfinished: 2 of 4 steps" in Path("page.html").read_text()
    assert answer("report", "x")["report"] == str(Path("x", "report.html"))
    assert "holds no run" in call("report", "absent", code=2).stderr


def test_the_demo_takes_the_first_folder_that_holds_no_run(tmp_path):
    out = tmp_path / "demo"
    assert unused(out) == out
    for used, following in (("demo", "demo-2"), ("demo-2", "demo-3")):
        (tmp_path / used).mkdir()
        (tmp_path / used / FILE).touch()
        assert unused(out).name == following


def test_the_demo_refuses_a_wrong_density_before_it_trains(folder):
    assert "density = 2.0" in call("demo", "--density", 2, code=2).stderr
    assert "did you mean 'tabu'" in call("demo", "--backend", "tabuu", code=2).stderr
    assert not Path("runs").exists()


def test_solve_tells_the_proof_that_an_exact_answer_has(tmp_path: Path) -> None:
    problems.instances.random(12, 6, seed=0).save(tmp_path / "block")
    command = ["solve", str(tmp_path / "block.bqm"), "--backend", "exact", "--seed", "0"]
    assert "proof    the optimum" in CliRunner().invoke(app, command).stdout
    proof = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["proof"]
    assert proof["proven"]
    assert proof["gap"] == 0.0
