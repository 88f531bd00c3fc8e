"""`hybrid-icbs instances`: the benchmark set on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import problems
from hybrid_icbs.cli.app import app
from problems import instances

NAME = "resnet20-picked-n32-k16"


def call(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["instances", *map(str, arguments)], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_the_list_is_a_line_for_each_instance() -> None:
    lines = call("list").stdout.splitlines()
    for instance in instances.curated():
        (line,) = [line for line in lines if f" {instance.name} " in f"{line} "]
        assert ("easy" in line) == instance.easy
        assert (f"{instance.best_known.energy:.6g}*" in line) == instance.best_known.proven
    easy = sum(each.easy for each in instances.curated())
    assert lines[-1] == f"{len(instances.names())} instances, {easy} of them easy; * = proven"


def test_the_list_for_programs_holds_all_facts() -> None:
    told = json.loads(call("list", "--json").stdout)
    assert [each["name"] for each in told] == list(instances.names())
    for each in told:
        facts = instances.facts(each["name"])
        assert each["best_known"]["energy"] == facts.best_known.energy
        assert each["descent"] == {"tries": facts.descent.tries, "found": facts.descent.found}
        assert each["easy"] == facts.easy


def test_the_list_can_be_narrowed() -> None:
    told = json.loads(call("list", "llama-*", "--hard", "--form", "dense", "--json").stdout)
    assert [each["name"] for each in told] == [
        each.name for each in instances.curated("llama-*", easy=False, form="dense")
    ]
    assert "of them easy" in call("list", "--source", "mlpnet").stdout


def test_show_tells_the_facts_and_how_to_solve_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = call("show", NAME).stdout
    facts = instances.facts(NAME)
    for part in (f"{facts.best_known.energy:.12g}", facts.best_known.found_by, facts.sha256, "ResNet-20", "descent"):
        assert part in shown
    monkeypatch.chdir(tmp_path)
    commands = [line for line in shown.splitlines() if "hybrid-icbs " in line]
    assert len(commands) == 2
    for line in commands:
        arguments = line[line.index("hybrid-icbs ") :].split()[1:]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert "from the best known" in result.output


def test_show_for_programs_has_the_best_state() -> None:
    told = json.loads(call("show", NAME, "--json").stdout)
    problem = instances.load(NAME)
    assert problem.energy(told["best_state"]) == told["energies"]["best_known"] == told["best_known"]["energy"]
    assert told["energies"]["present_mask"] == problem.energy(instances.facts(NAME).mask())


def test_export_writes_files_that_others_take(tmp_path: Path) -> None:
    told = json.loads(call("export", "*-picked-n16-*", NAME, "--out", tmp_path / "b", "--json").stdout)
    found = problems.load_set(tmp_path / "b")
    assert set(found.names) == {each.name for each in instances.curated("*-picked-n16-*", NAME)}
    assert sorted(told["blocks"]) == sorted(str(tmp_path / "b" / f"{name}.bqm") for name in found.names)
    assert np.array_equal(found[NAME].form.dense(), instances.load(NAME).form.dense())


def test_a_second_export_comes_to_the_first_and_a_stranger_s_manifest_stays(tmp_path: Path) -> None:
    other = "resnet20-picked-n16-k8"
    for name in (NAME, other):
        call("export", name, "--out", tmp_path / "b", "-q")
    assert problems.load_set(tmp_path / "b").names == (NAME, other)
    (tmp_path / "web").mkdir()
    (tmp_path / "web/manifest.json").write_text('{"name": "my app"}')
    assert "choose another folder" in call("export", NAME, "--out", tmp_path / "web", code=2).stderr
    assert (tmp_path / "web/manifest.json").read_text() == '{"name": "my app"}'


def test_export_of_low_rank_blocks_is_dense_only_if_told(tmp_path: Path) -> None:
    name = "mlpnet-typical-n4096-k2048"
    call("export", name, "--out", tmp_path / "low", "-q")
    assert problems.load(tmp_path / "low" / name).is_low_rank
    shown = call("export", "mlpnet-picked-n64-*", "--dense", "--out", tmp_path / "dense").stdout
    assert "next: hybrid-icbs solve" in shown
    told = call("export", "*n65536*", "--dense", "--out", tmp_path / "no", code=2).stderr
    assert "goes up to n = 4096; leave out" in told
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "resnet20-picked-n33-k16"), f"did you mean '{NAME}'"),
        (("list", "bert-*"), "no instance matches 'bert-*'"),
        (("list", "--form", "sparse"), "no instance has the form 'sparse'; there are dense, low-rank"),
        (("list", "--source", "bert"), "there are mlpnet, resnet20, llama"),
        (("export", "nothing", "--out", "x"), "no instance matches 'nothing'"),
    ],
)
def test_wrong_use_gets_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    shown = call(*arguments, code=2).stderr
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
