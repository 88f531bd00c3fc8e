"""Sets of blocks: folders with a manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from problems import (
    BlockProblem,
    FileFormatError,
    ProblemError,
    instances,
    load_set,
    save_set,
)

sys.path.insert(0, str(Path(__file__).parent / "formats"))

from file_cases import assert_same, full, little_memory


def test_a_set_is_read_in_order_and_by_name(tmp_path: Path) -> None:
    problems = {name: instances.random(4 + i, 2, i) for i, name in enumerate(["b", "a", "layer.0=q"])}
    assert save_set(problems, tmp_path / "set") == tmp_path / "set"
    loaded = load_set(tmp_path / "set")
    assert loaded.names == ("b", "a", "layer.0=q")
    assert len(loaded) == 3
    for one, (name, other) in zip(loaded, problems.items(), strict=True):
        assert_same(one, other)
        assert_same(loaded[name], other)
    assert [problem.n for problem in loaded[1:]] == [5, 6]
    assert loaded[-1].n == 6
    assert loaded[:2].names == ("b", "a")
    with pytest.raises(KeyError, match=r"no block 'c'.*b, a"):
        loaded["c"]
    with pytest.raises(IndexError):
        loaded[3]


def test_problems_of_a_generator_are_numbered(tmp_path: Path) -> None:
    save_set((instances.random(4, 2, i) for i in range(3)), tmp_path)
    assert load_set(tmp_path).names == ("block_0000", "block_0001", "block_0002")
    save_set([], tmp_path)
    assert len(load_set(tmp_path)) == 0


def test_blocks_are_added_to_a_set(tmp_path: Path) -> None:
    first, second = instances.random(4, 2, 0), instances.random(5, 2, 1)
    save_set({"b": first, "a": first}, tmp_path, add=True)
    save_set({"c": first, "a": second}, tmp_path, add=True)
    found = load_set(tmp_path)
    assert found.names == ("b", "a", "c")
    assert [problem.n for problem in found] == [4, 5, 4]
    with pytest.raises(ProblemError, match="some file systems ignore case"):
        save_set({"A": first}, tmp_path, add=True)
    assert load_set(tmp_path).names == ("b", "a", "c")


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("text", ['{"name": "my app"}', "[]", '{"schema": "hybrid-icbs block set", "version": 1}'])
def test_a_manifest_of_another_program_is_never_overwritten(tmp_path: Path, add: bool, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"manifest\.json: .* choose another folder"):
        save_set({"a": full()}, tmp_path, add=add)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == text


def test_an_unfinished_set_does_not_load(tmp_path: Path) -> None:
    def broken() -> Iterator[BlockProblem]:
        yield instances.random(4, 2, 0)
        raise RuntimeError("out of blocks")

    save_set([instances.random(4, 2, 9)], tmp_path)
    with pytest.raises(RuntimeError):
        save_set(broken(), tmp_path)
    with pytest.raises(FileNotFoundError):
        load_set(tmp_path)


bad_names = [
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "",
    ".hidden",
    "x\n",
    "manifest",
    "Manifest",
    "a.labels",
    "ü",
    "x" * 201,
]


@pytest.mark.parametrize("name", bad_names)
def test_names_that_are_not_plain_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="cannot be a block's name"):
        save_set({name: full()}, tmp_path / "out")
    manifest = {"schema": "hybrid-icbs block set", "version": 1, "blocks": [name]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileFormatError, match=r"manifest\.json: blocks"):
        load_set(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": None}, {"blocks": [3]}, {"blocks": [["a"]]}, {"blocks": {"a": 1}}, {"blocks": ["a", "A"]},
        {"version": 9}, {"schema": "x"}, {"extra": 1},
    ],
)  # fmt: skip
def test_an_invalid_manifest_is_refused(tmp_path: Path, change: dict) -> None:
    manifest = {"schema": "hybrid-icbs block set", "version": 1, "blocks": []} | change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        FileFormatError, match=rf"manifest\.json: {next(iter(change)) if 'extra' not in change else 'blocks'}"
    ):
        load_set(tmp_path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 900_000])
def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(FileFormatError, match=r"manifest\.json: manifest"):
        load_set(tmp_path)


def test_an_oversized_manifest_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 34)
    with little_memory(), pytest.raises(FileFormatError, match=r"manifest\.json: size"):
        load_set(tmp_path)


def test_a_missing_block_of_a_set_is_reported(tmp_path: Path) -> None:
    save_set({"a": full(), "b": full()}, tmp_path)
    (tmp_path / "b.json").unlink()
    assert load_set(tmp_path)[0].n == 6
    with pytest.raises(FileFormatError, match=r"b\.bqm: cardinality"):
        load_set(tmp_path)["b"]
