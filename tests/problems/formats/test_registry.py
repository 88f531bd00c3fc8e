"""The registry of file formats: how a file's format is found, and formats that third parties add."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from problems import BlockProblem, FileFormatError, ProblemError, formats, instances, load, save

THIRD_PARTY = Path(__file__).parent / "third_party"
ROOT = Path(__file__).resolve().parents[3]
MDPLIB = "3 2\n0 1 1.5\n0 2 2.0\n1 2 4.0\n"


def in_new_process(code: str, folder: Path, *paths: Path) -> str:
    """What code prints in an interpreter of its own, where a registration does not affect other tests."""
    prelude = f"import sys; sys.path[:0] = {[str(path) for path in (ROOT, *paths)]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


ROUND_TRIP = """
    import numpy as np, problems
    problem = problems.BlockProblem([[1.0, 2.0, 0.0], [0.0, -1.5, 0.25], [0.0, 0.0, 0.0]], cardinality=2)
    assert problems.save(problem, "a.toy").name == "a.toy"
    for path in ("a.toy", "a"):
        again = problems.load(path, cardinality=2)
        assert np.array_equal(again.form.matrix, problem.form.matrix) and np.array_equal(again.linear, problem.linear)
    (named,) = problems.resolve("a.toy", cardinality=2)
    assert (named.name, named.load().n) == ("a", 3)
    import pathlib
    pathlib.Path("a.toy").rename("a.dat")
    assert problems.load("a.dat", 2).n == 3  # recognised by its content
    assert [each.name for each in problems.resolve(".", cardinality=2)] == ["a"]
    try:
        problems.load("a.dat")
    except problems.FileFormatError as error:
        print(error)
    try:
        problems.load("a.dat", format="tyo")
    except problems.ProblemError as error:
        print(error)
"""


def test_a_registered_format_is_read_and_written(tmp_path: Path) -> None:
    code = "import problems.formats, toy_format\nproblems.formats.register(toy_format.FORMAT)\n" + textwrap.dedent(
        ROUND_TRIP
    )
    printed = in_new_process(code, tmp_path, THIRD_PARTY)
    assert "a.dat: cardinality: the file has none; pass cardinality=" in printed
    assert "no file format 'tyo'; did you mean 'toy'? known formats: block (.json, .bqm, .npz), mdplib" in printed
    assert "toy (.toy)" in printed


def test_a_format_of_an_installed_distribution_is_read_and_written(tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "toyformat-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toyformat\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[hybrid_icbs.formats]\ntoy = toy_format:FORMAT\nbroken = no_such_module:FORMAT\nwrong = toy_format:read\n"
    )
    (tmp_path / "work").mkdir()
    code = "import logging; logging.basicConfig()\n" + textwrap.dedent(ROUND_TRIP)
    printed = in_new_process(code, tmp_path / "work", THIRD_PARTY, metadata.parent)
    assert "toy (.toy)" in printed
    assert "file format 'broken' (no_such_module:FORMAT) was not loaded: No module named" in printed
    assert "file format 'wrong' (toy_format:read) was not loaded" in printed


def test_files_of_known_endings_are_read_without_looking_for_third_party_formats(tmp_path: Path) -> None:
    save(instances.random(5, 2, 0), tmp_path / "block")
    code = """
        import importlib.metadata, problems
        def fail(**_): raise AssertionError("looked for entry points")
        importlib.metadata.entry_points = fail
        for name in ("block.bqm", "block.json", "block"):
            assert problems.load(name).n == 5
        problems.save(problems.load("block.bqm"), "again")
    """
    in_new_process(code, tmp_path)


def test_the_file_that_a_path_stands_for(tmp_path: Path) -> None:
    save(instances.random(5, 2, 0), tmp_path / "a.b")
    (tmp_path / "max.txt").write_text(MDPLIB)
    for path, name in (("a.b", "block"), ("a.b.bqm", "block"), ("a.b.json", "block"), ("max.txt", "mdplib")):
        assert formats.located(tmp_path / path)[0].name == name
        assert load(tmp_path / path).n in (3, 5)
    assert load(tmp_path / "max.txt", format="mdplib").cardinality == 2


def test_a_cardinality_that_disagrees_with_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "max.txt").write_text(MDPLIB)
    assert load(tmp_path / "max.txt", 2).cardinality == 2
    with pytest.raises(FileFormatError, match=r"max\.txt: cardinality: the file has \[2\], but \[1\] was given"):
        load(tmp_path / "max.txt", 1)
    assert formats.read(tmp_path / "max.txt", 1).cardinality == 2


def test_a_file_of_an_unknown_format_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes\n")
    known = r"known formats: block \(\.json, \.bqm, \.npz\), mdplib \(recognised by its content\)"
    with pytest.raises(FileFormatError, match=rf"notes\.txt: no format recognises the file; {known}"):
        load(tmp_path / "notes.txt")
    with pytest.raises(ProblemError, match=rf"no file format 'lp'; {known}"):
        load(tmp_path / "notes.txt", format="lp")
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it"):
        load(tmp_path)
    with pytest.raises(FileFormatError, match="not a regular file"):
        load("/dev/zero")


def test_a_format_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    problem = BlockProblem(np.eye(3), cardinality=1)
    with pytest.raises(ProblemError, match=r"mdplib files can be read, not written; formats written: block"):
        save(problem, tmp_path / "a", format="mdplib")
    assert list(tmp_path.iterdir()) == []


def test_several_formats_of_one_ending_are_told_apart_by_content_or_by_name(tmp_path: Path) -> None:
    code = """
        import dataclasses, pathlib, problems, toy_format
        from problems.formats import register
        register(toy_format.FORMAT)
        register(toy_format.FORMAT)  # the same again changes nothing
        other = dataclasses.replace(toy_format.FORMAT, name="other", sniff=lambda head: head.startswith(b"OTHER"))
        register(other)
        pathlib.Path("a.toy").write_text("TOY 2\\n0 1 3.0\\n")
        assert problems.load("a.toy", 1).n == 2
        register(dataclasses.replace(other, name="third", sniff=toy_format.sniff))
        for call in (
            lambda: problems.load("a.toy", 1),
            lambda: problems.save(problems.load("a.toy", 1, format="toy"), "b.toy"),
            lambda: register(dataclasses.replace(other, name="toy")),
            lambda: register("toy"),
            lambda: register(dataclasses.replace(other, name="lp", endings=".lp")),
            lambda: register(dataclasses.replace(other, name="lp", endings=("lp",))),
        ):
            try:
                call()
            except problems.ProblemError as error:
                print(error)
    """
    printed = in_new_process(code, tmp_path, THIRD_PARTY)
    assert "a.toy: several formats match; pass format='toy' or 'third'" in printed
    assert "b.toy: several formats have this ending; pass format='toy' or 'other' or 'third'" in printed
    assert "a format named 'toy' is registered already; choose another name" in printed
    assert "'toy' is not a problems.formats.Format" in printed
    assert "the endings of format 'lp' are '.lp'; give a tuple such as ('.lp',)" in printed
    assert "the endings of format 'lp' are ('lp',); give a tuple" in printed
