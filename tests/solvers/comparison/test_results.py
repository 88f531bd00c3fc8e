"""results.csv: rows are read back exactly, incomplete lines dropped, damage reported."""

from __future__ import annotations

import csv
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import FileFormatError
from solvers import SolverError
from solvers.comparison.results import COLUMNS, Results, Row, read_rows

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12)


def rows_of(path):
    with Results(path) as results:
        return list(results.rows)


def written(path, *rows):
    with Results(path) as results:
        for row in rows:
            results.append(row)
    return path


FIRST = Row("p,1", 'dimod:a.B?x="1"', None, 0, "ok", -1.5, 0.25, incumbents=((0.1, 2.0), (0.2, -1.5)))
FIRST_FAILED = Row("p,1", "sa", 0.1, 0, "failed", error="why")
SECOND = Row("p,1", "sa", 0.1, 2**63 - 1, "failed", error="ValueError: a, \"b\"\nand 'c'")


def test_rows_are_read_back_exactly(tmp_path):
    path = written(tmp_path / "results.csv", FIRST, SECOND)
    assert rows_of(path) == [FIRST, dataclasses.replace(SECOND, error="ValueError: a, \"b\" and 'c'")]
    with path.open(newline="") as file:
        assert [row["backend"] for row in csv.DictReader(file)] == [FIRST.backend, "sa"]


@settings(deadline=None)
@given(TEXT, TEXT, FINITE, FINITE, st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=4), st.none() | FINITE)
def test_any_row_is_read_back_exactly(tmp_path_factory, problem, backend, energy, seconds, pairs, queue):
    row = Row(problem, backend, 1.0, 3, "ok", energy, seconds, queue=queue, incumbents=tuple(pairs))
    path = tmp_path_factory.mktemp("race") / "results.csv"
    assert rows_of(written(path, row)) == [row]


def test_names_keep_whitespace_and_errors_become_one_line_of_utf_8(tmp_path):
    odd = Row(" two  blanks\u00a0and\u2028more ", "sa", None, 0, "failed", error="lone \ud800\nsurrogate  ")
    with Results(tmp_path / "results.csv") as results:
        results.append(odd)
        (kept,) = results.rows
    assert (kept.problem, kept.error) == (odd.problem, "lone \\ud800 surrogate")
    assert rows_of(tmp_path / "results.csv") == [kept]


def test_a_whole_row_without_its_newline_is_kept(tmp_path):
    path = written(tmp_path / "results.csv", FIRST, FIRST_FAILED)
    for rows in (2, 1):
        whole = b"".join(path.read_bytes().splitlines(keepends=True)[: rows + 1])
        path.write_bytes(whole.rstrip(b"\n"))
        assert len(rows_of(path)) == rows
        assert path.read_bytes() == whole


def test_a_foreign_file_is_not_changed(tmp_path):
    path = tmp_path / "results.csv"
    for foreign in (b"name,score\nme,1\nyou,2", b"one line", b"\xff", b"problem,energy\n"):
        path.write_bytes(foreign)
        with pytest.raises(FileFormatError):
            Results(path)
        assert path.read_bytes() == foreign


def test_a_file_is_read_while_a_comparison_writes_to_it(tmp_path):
    path = written(tmp_path / "results.csv", FIRST)
    with Results(path) as results:
        with path.open("ab") as file:
            file.write(b"half of a ro")
        before = path.read_bytes()
        assert read_rows(path) == results.rows == [FIRST]
        assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.csv")


def test_an_incomplete_row_is_dropped(tmp_path):
    whole = written(tmp_path / "whole.csv", FIRST, SECOND).read_bytes()
    head, first, _ = whole.split(b"\n")[:3]
    path = tmp_path / "cut.csv"
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        kept = rows_of(path)
        assert kept == [FIRST, SECOND][: max(0, whole[: end + 1].count(b"\n") - 1)]  # only the newline may be missing
        written(path, dataclasses.replace(FIRST, seed=7))  # the next row is on its own line
        assert rows_of(path) == [*kept, dataclasses.replace(FIRST, seed=7)]
    assert path.read_bytes().startswith(head + b"\n" + first + b"\n")


def damaged(line, old, new):
    def change(path):
        lines = path.read_text("utf-8").split("\n")
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        path.write_text("\n".join(lines), "utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged(1, "energy", "energies"), "line 1: the columns"),
        (damaged(2, "-1.5", "low"), "line 2: is not a valid row"),
        (damaged(2, "-1.5", "nan"), "line 2: is not a valid row"),
        (damaged(2, "-1.5", ""), "line 2: is not a valid row"),
        (damaged(2, ",ok,", ",good,"), "line 2: is not a valid row"),
        (damaged(2, "[[0.1", "[0.1"), "line 2: is not a valid row"),
        (damaged(2, '"[[0.1,2.0],[0.2,-1.5]]"', "[]"), "line 2: is not a valid row.*0 incumbents"),
        (damaged(2, "0.25", "0.25,1"), "line 2: is not a valid row"),
        (
            lambda path: path.write_text(path.read_text() + path.read_text().split("\n")[1] + "\n"),
            "line 4.*occurs twice",
        ),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "not UTF-8"),
        (lambda path: path.write_text("another,file\n1,2\n"), "line 1"),
    ],
)
def test_damage_is_reported_with_its_line(tmp_path, change, message):
    path = written(tmp_path / "results.csv", FIRST, SECOND)
    change(path)
    with pytest.raises(FileFormatError, match=message):
        Results(path)


def test_two_comparisons_cannot_write_to_one_file(tmp_path):
    with Results(tmp_path / "results.csv"), pytest.raises(SolverError, match="another comparison"):
        Results(tmp_path / "results.csv")
    assert rows_of(tmp_path / "results.csv") == []


def test_without_a_file_rows_are_kept_in_memory():
    with Results(None) as results:
        results.append(FIRST)
        assert results.rows == [FIRST]


def test_columns_are_the_row_s_fields():
    assert COLUMNS[:6] == ("problem", "backend", "time_limit", "seed", "status", "energy")
    assert COLUMNS[-1] == "incumbents"


@pytest.mark.parametrize(
    "cells", [{"raw": float("inf")}, {"queue": float("nan")}, {"samples": 2.5}, {"incumbents": ()}], ids=str
)
def test_a_row_with_invalid_figures_becomes_failed(tmp_path, cells):
    with Results(tmp_path / "results.csv") as results:
        results.append(dataclasses.replace(FIRST, **cells))
        (kept,) = results.rows
    assert (kept.key, kept.status, kept.energy) == (FIRST.key, "failed", None)
    assert kept.error.startswith("the solver reported invalid figures: ")
    assert rows_of(tmp_path / "results.csv") == [kept]
