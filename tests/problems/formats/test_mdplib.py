"""Instances of the maximum-diversity library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from problems import FileFormatError, instances

DATA = Path(os.environ.get("HYBRID_ICBS_DATA", Path(__file__).parents[4] / "shared" / "data")) / "mdplib"

GOOD = "4 2\n0 1 3.5\n0 2 1\n0 3 0\n1 2 7.25\n1 3 2\n2 3 -1\n"


def test_an_mdplib_file_becomes_a_minimisation(tmp_path: Path) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text(GOOD)
    problem = instances.read_mdplib(path)
    assert (problem.n, problem.cardinality, problem.best_known) == (4, 2, None)
    assert problem.energy([[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).tolist() == [-7.25, -3.5, -12.75]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        GOOD + "\n \n",
        GOOD.rstrip(),
        GOOD.replace(" ", "\t"),
        GOOD.replace("1 2 7", "2 1 7"),
    ],
)
def test_variants_of_an_mdplib_file_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiny.txt").write_bytes(text.encode())
    assert instances.read_mdplib(tmp_path / "tiny.txt").energy([0, 1, 1, 0]) == -7.25


def test_the_best_known_value_is_read_from_best_csv(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text(GOOD)
    (tmp_path / "best.csv").write_text("file,n,m,best_known\nother.txt,9,9,9\ntiny.txt,4,2,7.25\n")
    best = instances.read_mdplib(tmp_path / "tiny.txt").best_known
    assert (best.energy, best.proven) == (-7.25, False)


@pytest.mark.parametrize("row", ["tiny.txt,5,2,7.25", "tiny.txt,4,2,nan", "tiny.txt,4,2", "tiny.txt,a,b,c"])
def test_a_best_csv_that_disagrees_is_refused_by_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "tiny.txt").write_text(GOOD)
    (tmp_path / "best.csv").write_text(f"file,n,m,best_known\n{row}\n")
    with pytest.raises(FileFormatError, match=r"best\.csv: line 2"):
        instances.read_mdplib(tmp_path / "tiny.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("4\n", "line 1"),
        ("4 2 1\n", "line 1"),
        ("four 2\n", "line 1"),
        ("4 5\n", "line 1: 5 of 4"),
        ("-4 2\n", "line 1"),
        ("100000000 2\n0 1 1\n", "4999999950000000 pairs, but 1 distances"),
        (GOOD.replace("1 2 7.25\n", ""), "6 pairs, but 5"),
        (GOOD + "0 1 3.5\n", "6 pairs, but 7"),
        (GOOD.replace("0 3 0", "0 3"), r"line 4: '0 3'"),
        (GOOD.replace("0 3 0", "0 3 0 0"), "line 4"),
        (GOOD.replace("0 3 0", ""), "line 4"),
        (GOOD.replace("0 3 0", "0 x 0"), "line 4.*field 2"),
        (GOOD.replace("0 3 0", "0 3 x"), "line 4.*field 3"),
        (GOOD.replace("0 3 0", "0 3.5 0"), "line 4.*field 2"),
        (GOOD.replace("0 3 0", "0 4 0"), r"line 4.*0\.\.3"),
        (GOOD.replace("0 3 0", "-1 3 0"), r"line 4.*0\.\.3"),
        (GOOD.replace("0 3 0", f"0 {10**30} 0"), "line 4.*field 2"),
        (GOOD.replace("0 3 0", "3 3 0"), "line 4.*itself"),
        (GOOD.replace("0 3 0", "1 0 0"), "line 4.*already"),
        (GOOD.replace("0 3 0", "0 3 nan"), "line 4.*finite"),
        (GOOD.replace("0 3 0", "0 3 1e999"), "line 4.*finite"),
        (GOOD.replace("0 3 0", "0 3 \xff"), "line 4.*field 3"),
    ],
)  # fmt: skip
def test_a_damaged_mdplib_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=rf"bad\.txt: .*{message}"):
        instances.read_mdplib(tmp_path / "bad.txt")


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the measuring data is not here; set HYBRID_ICBS_DATA")
def test_every_instance_of_the_library_is_read_with_its_best_known_value() -> None:
    paths = sorted(DATA.glob("*_n50_*.txt")) + sorted(DATA.glob("*_n100_*.txt"))
    assert paths
    for path in paths:
        problem = instances.read_mdplib(path)
        assert f"_n{problem.n}_m{problem.cardinality}" in path.stem
        assert problem.best_known is not None
        assert problem.best_known.energy < problem.energy(problem.random_states(200, 0)).min()
