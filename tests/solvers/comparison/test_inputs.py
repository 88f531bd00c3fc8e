"""What a race can be given: files, folders, sets, MDPLIB, instances that ship, memory; and what it says of the rest."""

from __future__ import annotations

import os

import dimod
import numpy as np
import pytest

import problems
from problems import BlockProblem, FileFormatError, ProblemError, instances
from solvers import OptionError
from solvers.comparison.facts import Facts
from solvers.comparison.inputs import Given, current_mask, gathered

BLOCK = instances.random(10, 4, 1)
FACTOR = instances.random(12, 5, 2, rank=3)

MDPLIB = "4 2\n0 1 1.5\n0 2 2.0\n0 3 3.0\n1 2 4.0\n1 3 5.0\n2 3 6.0\n"


def names(*given, **settings):
    return [each.name for each in gathered(list(given), **settings)]


def same(one, other):
    states = other.random_states(5, 0)
    assert one.cardinality == other.cardinality
    return np.allclose(one.energy(states), other.energy(states), rtol=1e-12)


def test_block_files_by_any_of_their_names(tmp_path):
    problems.save(BLOCK, tmp_path / "dense")
    problems.save(FACTOR, tmp_path / "factor")
    for given, block in (("dense.bqm", BLOCK), ("dense.json", BLOCK), ("dense", BLOCK), ("factor.npz", FACTOR)):
        (found,) = gathered(tmp_path / given)
        assert found.name == given.partition(".")[0]
        assert same(found.load(), block)


def test_sets_in_order_and_folders_by_name(tmp_path):
    problems.save_set({"z": BLOCK, "a": FACTOR}, tmp_path / "set")
    assert names(tmp_path / "set") == ["z", "a"]
    folder = tmp_path / "folder"
    folder.mkdir()
    problems.save(BLOCK, folder / "two")
    problems.save(FACTOR, folder / "one")
    (folder / "maxdiv.txt").write_text(MDPLIB)
    (folder / "README.md").write_text("not a block\n")
    (folder / "best.csv").write_text("file,n,m,best_known\nmaxdiv.txt,4,2,6.0\n")
    assert names(folder) == ["maxdiv", "one", "two"]
    by_name = {each.name: each.load() for each in gathered(folder)}
    assert by_name["maxdiv"].best_known.energy == -6.0
    assert same(by_name["two"], BLOCK)


def test_labels_beside_a_block_are_not_a_block(tmp_path):
    labelled = BlockProblem(
        BLOCK.form.dense(), BLOCK.linear, 4, labels=problems.Labels(np.zeros(10, np.int32), np.arange(10))
    )  # fmt: skip
    problems.save(labelled, tmp_path / "b")
    assert (tmp_path / "b.labels.npz").exists()
    assert names(tmp_path) == ["b"]


def test_a_bqm_from_elsewhere_needs_the_cardinality(tmp_path):
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: -1.0, 2: 0.5}, {(0, 1): 1.0}, 0.0, "BINARY")
    with (tmp_path / "bare.bqm").open("wb") as file, bqm.to_file() as source:
        file.write(source.read())
    problems.save(BLOCK, tmp_path / "own")
    bare, own = gathered(tmp_path, cardinality=2)
    assert bare.load().cardinality == 2
    assert own.load().cardinality == 4  # which its own record tells
    (bare, _) = gathered(tmp_path)
    with pytest.raises(ProblemError, match="cardinality"):
        bare.load()


def test_an_mdplib_file_is_known_by_its_head(tmp_path):
    path = tmp_path / "any.name"
    path.write_text(MDPLIB)
    (found,) = gathered(path)
    assert found.load().n == 4


def test_instances_that_ship_by_name_and_by_pattern():
    shipped = instances.names()
    (one,) = gathered(f"instances:{shipped[0]}")
    assert one.name == shipped[0]
    assert one.descent == (instances.facts(shipped[0]).descent.tries, instances.facts(shipped[0]).descent.found)
    problem = one.load()
    assert problem.best_known == instances.facts(shipped[0]).best_known
    assert len(current_mask(one, problem)) == problem.n
    assert [each.name for each in gathered("instances:")] == list(shipped)
    with pytest.raises(ProblemError, match="no instance matches"):
        gathered("instances:no-such-*")


def test_problems_in_memory_by_name_and_by_place():
    assert [each.name for each in gathered({"x": BLOCK})] == ["x"]
    assert names(BLOCK, FACTOR) == ["block_0000", "block_0001"]
    assert [each.name for each in gathered(BLOCK)] == ["block_0000"]
    assert names(Given("y", "here", lambda: BLOCK)) == ["y"]


def test_problems_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("one", "two"):
        problems.save_set({"b": BLOCK}, tmp_path / folder)
    problems.save(FACTOR, tmp_path / "c")
    assert names(tmp_path / "one", tmp_path / "two", tmp_path / "c") == ["one/b", "two/b", "c"]
    problems.save_set({"b": BLOCK}, tmp_path / "other/one")
    with pytest.raises(ProblemError, match="two problems are called 'one/b'"):
        gathered([tmp_path / "one", tmp_path / "other/one"])


def test_what_is_named_twice_is_raced_once(tmp_path, monkeypatch):
    problems.save_set({"b": BLOCK, "f": FACTOR}, tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert names("one", "one/b.bqm", "./one/b.json", tmp_path / "one/b", "one/../one/f.npz") == ["b", "f"]
    (tmp_path / "m.txt").write_text(MDPLIB)
    assert names("m.txt", tmp_path / "m.txt") == ["m"]
    shipped = instances.names()[:2]
    assert names(*(f"instances:{name}" for name in (*shipped, *shipped[::-1]))) == list(shipped)
    with pytest.raises(ProblemError, match="two problems are called"):  # the same object may be meant twice
        gathered([Given("y", "memory", lambda: BLOCK), Given("y", "memory", lambda: FACTOR)])


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "a\udcff"])
def test_names_that_no_table_can_hold_are_refused(name):
    with pytest.raises(ProblemError, match=r"cannot be a problem's name.*rename it"):
        gathered({name: BLOCK})


def test_a_file_whose_name_is_no_utf_8_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")
    try:
        problems.save(BLOCK, path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(ProblemError, match=r"'a\\udcff' cannot be a problem's name"):
        gathered(tmp_path)


def test_an_exported_instance_keeps_its_descents_and_an_altered_one_does_not(tmp_path):
    name = "mlpnet-picked-n16-k8"
    problems.save_set({name: instances.load(name)}, tmp_path / "set")
    (given,) = gathered(tmp_path / "set")
    found = Facts.of(name, given.origin, given.load(), given.descent)
    known = instances.facts(name).descent
    assert (found.tries, found.found, found.descents) == (known.tries, known.found, ())
    problem = instances.load(name)
    altered = BlockProblem(problem.form.dense(), problem.linear + 1e-3, 8, provenance=problem.provenance)
    assert Facts.of(name, "memory", altered).descents


def test_the_mask_of_an_exported_block_is_the_weights_that_are_pruned_now():
    block = BlockProblem(BLOCK.form.dense(), BLOCK.linear, 4, provenance={"pruned_now": 3})
    given = Given("b", "here", lambda: block)
    assert current_mask(given, block).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    own = Given("b", "here", lambda: block, mask=lambda: np.ones(10, np.int8))
    assert current_mask(own, block).sum() == 10
    for wrong in ({}, {"pruned_now": 11}, {"pruned_now": "3"}, {"pruned_now": True}):
        other = BlockProblem(BLOCK.form.dense(), BLOCK.linear, 4, provenance=wrong)
        with pytest.raises(OptionError, match="no current mask on record"):
            current_mask(given, other)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such block"):
        gathered(tmp_path / "missing.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no block"):
        gathered(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("just some notes\n")
    with pytest.raises(FileFormatError, match="is no block"):
        gathered(tmp_path / "notes.txt")
    problems.save_set({}, tmp_path / "set")
    with pytest.raises(FileFormatError, match="the set holds no block"):
        gathered(tmp_path / "set")
    with pytest.raises(OptionError, match="nothing to race on"):
        gathered([])
