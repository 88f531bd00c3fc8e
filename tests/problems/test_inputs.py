"""Problems that a user names: files, folders, sets, MDPLIB files, shipped instances and problems in memory."""

from __future__ import annotations

import dimod
import numpy as np
import pytest

import problems
from problems import BlockProblem, FileFormatError, NamedProblem, ProblemError, instances, resolve

BLOCK = instances.random(10, 4, 1)
FACTOR = instances.random(12, 5, 2, rank=3)

MDPLIB = "4 2\n0 1 1.5\n0 2 2.0\n0 3 3.0\n1 2 4.0\n1 3 5.0\n2 3 6.0\n"


def names(*sources: object, **settings: object) -> list[str]:
    return [each.name for each in resolve(list(sources), **settings)]


def same(one, other):
    states = other.random_states(5, 0)
    assert one.cardinality == other.cardinality
    return np.allclose(one.energy(states), other.energy(states), rtol=1e-12)


def test_block_files_by_any_of_their_names(tmp_path):
    problems.save(BLOCK, tmp_path / "dense")
    problems.save(FACTOR, tmp_path / "factor")
    for given, block in (("dense.bqm", BLOCK), ("dense.json", BLOCK), ("dense", BLOCK), ("factor.npz", FACTOR)):
        (found,) = resolve(tmp_path / given)
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
    by_name = {each.name: each.load() for each in resolve(folder)}
    assert by_name["maxdiv"].best_known.energy == -6.0
    assert same(by_name["two"], BLOCK)


def test_labels_beside_a_block_are_not_a_block(tmp_path):
    labelled = BlockProblem(
        BLOCK.form.dense(), BLOCK.linear, 4, labels=problems.Labels(np.zeros(10, np.int32), np.arange(10))
    )  # fmt: skip
    problems.save(labelled, tmp_path / "b")
    assert (tmp_path / "b.labels.npz").exists()
    assert names(tmp_path) == ["b"]


def test_a_bqm_of_another_program_needs_the_cardinality(tmp_path):
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: -1.0, 2: 0.5}, {(0, 1): 1.0}, 0.0, "BINARY")
    with (tmp_path / "bare.bqm").open("wb") as file, bqm.to_file() as source:
        file.write(source.read())
    problems.save(BLOCK, tmp_path / "own")
    bare, own = resolve(tmp_path, cardinality=2)
    assert bare.load().cardinality == 2
    assert own.load().cardinality == 4  # its NAME.json has it
    (bare, _) = resolve(tmp_path)
    with pytest.raises(ProblemError, match="cardinality"):
        bare.load()


def test_an_mdplib_file_is_recognised_by_its_first_line(tmp_path):
    path = tmp_path / "any.name"
    path.write_text(MDPLIB)
    (found,) = resolve(path)
    assert found.load().n == 4


def test_shipped_instances_by_name_and_by_pattern():
    shipped = instances.names()
    (one,) = resolve(f"instances:{shipped[0]}")
    assert one.name == shipped[0]
    assert one.descent == (instances.facts(shipped[0]).descent.tries, instances.facts(shipped[0]).descent.found)
    problem = one.load()
    assert problem.best_known == instances.facts(shipped[0]).best_known
    assert one.mask is not None
    assert one.mask().shape == (problem.n,)
    assert [each.name for each in resolve("instances:")] == list(shipped)
    with pytest.raises(ProblemError, match="no instance matches"):
        resolve("instances:no-such-*")


def test_problems_in_memory_by_name_and_by_place():
    assert [each.name for each in resolve({"x": BLOCK})] == ["x"]
    assert names(BLOCK, FACTOR) == ["block_0000", "block_0001"]
    assert [each.name for each in resolve(BLOCK)] == ["block_0000"]
    assert names(NamedProblem("y", "here", lambda: BLOCK)) == ["y"]


def test_problems_of_the_same_name_get_the_name_of_their_folder(tmp_path):
    for folder in ("one", "two"):
        problems.save_set({"b": BLOCK}, tmp_path / folder)
    problems.save(FACTOR, tmp_path / "c")
    assert names(tmp_path / "one", tmp_path / "two", tmp_path / "c") == ["one/b", "two/b", "c"]
    problems.save_set({"b": BLOCK}, tmp_path / "other/one")
    with pytest.raises(ProblemError, match="two problems are called 'one/b'"):
        resolve([tmp_path / "one", tmp_path / "other/one"])


def test_a_problem_named_twice_is_found_once(tmp_path, monkeypatch):
    problems.save_set({"b": BLOCK, "f": FACTOR}, tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert names("one", "one/b.bqm", "./one/b.json", tmp_path / "one/b", "one/../one/f.npz") == ["b", "f"]
    (tmp_path / "m.txt").write_text(MDPLIB)
    assert names("m.txt", tmp_path / "m.txt") == ["m"]
    shipped = instances.names()[:2]
    assert names(*(f"instances:{name}" for name in (*shipped, *shipped[::-1]))) == list(shipped)
    with pytest.raises(ProblemError, match="two problems are called"):  # the same object may be meant twice
        resolve([NamedProblem("y", "memory", lambda: BLOCK), NamedProblem("y", "memory", lambda: FACTOR)])


def test_missing_files_and_files_of_other_formats_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such problem"):
        resolve(tmp_path / "missing.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no problem in the folder"):
        resolve(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("just some notes\n")
    with pytest.raises(FileFormatError, match="no format recognises the file"):
        resolve(tmp_path / "notes.txt")
    problems.save_set({}, tmp_path / "set")
    with pytest.raises(FileFormatError, match="the set holds no block"):
        resolve(tmp_path / "set")
    assert resolve([]) == []
    for wrong in ([5], {"a": 5}):
        with pytest.raises(TypeError, match=r"problems\.BlockProblem"):
            resolve(wrong)
