"""Files of blocks: round trips, files of other programs, atomic saving."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dimod
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from problems import (
    BestKnown,
    BlockProblem,
    FileFormatError,
    Labels,
    ProblemError,
    instances,
    load,
    load_set,
    save,
)

sys.path.insert(0, str(Path(__file__).parent))

from file_cases import GOLDEN, assert_same, dimod_bytes, forms, full, problems, some

# Round trips


@some
@given(problems, st.booleans())
def test_a_saved_problem_is_read_unchanged(tmp_path: Path, problem: BlockProblem, labelled: bool) -> None:
    if labelled:
        problem = problem.replaced(labels=Labels(np.zeros(problem.n, np.int32), np.arange(problem.n)))
    assert_same(load(save(problem, tmp_path / "block")), problem)


@forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_dtypes_are_read_unchanged(tmp_path: Path, form: str, dtype: type) -> None:
    problem = instances.random(9, 4, 0, rank=None if form == "dense" else 2, dtype=dtype)
    assert problem.form.dtype == dtype
    assert_same(load(save(problem, tmp_path / "block")), problem)


@forms
def test_all_attributes_are_read_unchanged(tmp_path: Path, form: str) -> None:
    problem = full(form)
    problem.save(tmp_path / "block")
    assert_same(BlockProblem.load(tmp_path / "block"), problem)


@forms
def test_a_path_may_be_the_name_or_any_of_its_files(tmp_path: Path, form: str) -> None:
    problem, data = full(form), "layer.0.q.bqm" if form == "dense" else "layer.0.q.npz"
    for ending in ("", ".json", data.removeprefix("layer.0.q")):
        path = tmp_path / ("s" + ending.replace(".", "_"))
        path.mkdir()
        saved = save(problem, path / f"layer.0.q{ending}")
        assert saved == path / data
        assert sorted(p.name for p in path.iterdir()) == sorted([data, "layer.0.q.json", "layer.0.q.labels.npz"])
        assert_same(load(path / f"layer.0.q{ending}"), problem)
        assert_same(load(str(path / "layer.0.q")), problem)


def test_dimod_and_numpy_read_the_data_files(tmp_path: Path, rng: np.random.Generator) -> None:
    dense = BlockProblem(
        np.where(rng.random((9, 9)) < 0.6, rng.standard_normal((9, 9)), 0), rng.random(9), 4, offset=2.0
    )
    assert save(dense, tmp_path / "dense").read_bytes() == dimod_bytes(dense.to_bqm())
    bqm = dimod.BinaryQuadraticModel.from_file((tmp_path / "dense.bqm").read_bytes())
    assert bqm.is_almost_equal(dense.to_bqm(), places=15)
    low = full("low-rank")
    with np.load(save(low, tmp_path / "low")) as arrays:
        assert np.array_equal(arrays["factor"], low.form.factor)
        assert np.array_equal(arrays["linear"], low.linear)


def test_a_block_replaces_all_files_of_an_earlier_one(tmp_path: Path) -> None:
    save(full("dense"), tmp_path / "block")
    plain = instances.random(5, 2, 0, rank=2)
    save(plain, tmp_path / "block")
    assert_same(load(tmp_path / "block"), plain)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["block.json", "block.npz"]


def test_a_very_sparse_matrix_is_read_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("problems.formats.bqm._ALWAYS_DENSE", 0)
    Q = np.zeros((40, 40))
    Q[3, 5] = 1.0
    problem = BlockProblem(Q, None, 4)
    assert_same(load(save(problem, tmp_path / "block")), problem)
    assert load(tmp_path / "block").to_bqm().num_interactions == 1


# BQM files of other programs


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", ["abcd", range(4), [("x", 1), 2, "ü", 3.5]])
@pytest.mark.parametrize("vartype", ["BINARY", "SPIN"])
def test_a_bare_bqm_of_any_kind_is_read(
    tmp_path: Path, version: int, dtype: type, labels: object, vartype: str
) -> None:
    bqm = dimod.BinaryQuadraticModel(vartype, dtype=dtype)
    for i, v in enumerate(labels):
        bqm.add_linear(v, i - 1.5)
    variables = list(bqm.variables)
    bqm.add_quadratic(variables[0], variables[3], 0.5)
    bqm.add_quadratic(variables[2], variables[1], -2.25)
    bqm.offset = 1.0
    (tmp_path / "other.bqm").write_bytes(dimod_bytes(bqm, version))
    problem = load(tmp_path / "other.bqm", cardinality=2)
    assert_same(problem, BlockProblem.from_bqm(bqm, 2))
    grouped = load(tmp_path / "other", [1, 0], [0, 0, 1, 1])
    assert grouped.cardinality.tolist() == [1, 0]


def test_a_bare_bqm_needs_a_cardinality(tmp_path: Path) -> None:
    (tmp_path / "other.bqm").write_bytes(dimod_bytes(full().to_bqm()))
    with pytest.raises(FileFormatError, match=r"other\.bqm: cardinality: .*pass cardinality="):
        load(tmp_path / "other.bqm")
    with pytest.raises(ProblemError, match="cardinality 7 is larger"):
        load(tmp_path / "other.bqm", 7)


def test_a_cardinality_that_disagrees_with_the_description_is_refused(tmp_path: Path) -> None:
    save(full(), tmp_path / "block")
    assert load(tmp_path / "block", [1, 2]).cardinality.tolist() == [1, 2]
    assert load(tmp_path / "block", [1, 2], [0, 1] * 3).n == 6
    for other in ({"cardinality": [2, 1]}, {"cardinality": [1, 2], "groups": [1, 0] * 3}):
        with pytest.raises(FileFormatError, match=r"block\.json: cardinality"):
            load(tmp_path / "block", **other)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no problem at .*nothing: no such file.*\.bqm"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        load_set(tmp_path / "nothing")
    save(full("low-rank"), tmp_path / "block")
    (tmp_path / "block.json").rename(tmp_path / "away.json")
    with pytest.raises(FileFormatError, match=r"block\.npz: block\.json is missing"):
        load(tmp_path / "block")
    (tmp_path / "away.json").rename(tmp_path / "block.json")
    for missing in ("block.labels.npz", "block.npz"):
        (tmp_path / missing).unlink()
        with pytest.raises(FileFormatError, match="is missing"):
            load(tmp_path / "block")


# Golden files


@pytest.mark.parametrize("name", ["v1_dense", "v1_low_rank"])
def test_golden_files_are_read_and_written_to_the_byte(tmp_path: Path, name: str) -> None:
    problem = runpy.run_path(str(GOLDEN / "make_golden.py"))["PROBLEMS"][name]()
    assert_same(load(GOLDEN / name), problem)
    save(problem, tmp_path / name)
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == sorted(p.name for p in GOLDEN.glob(f"{name}.*"))
    for path in written:
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes(), path.name


def test_golden_files_contain_the_known_numbers() -> None:
    dense, low = load(GOLDEN / "v1_dense"), load(GOLDEN / "v1_low_rank")
    assert dense.form.row(1).tolist() == [-0.5, 0.0, -1.5, 2.0, 0.0]
    assert dense.linear.tolist() == [1.75, -1.0, 2.25, 4.125, 13.25]
    assert (dense.cardinality, dense.offset, dense.provenance["step"]) == (2, -3.75, 7)
    assert dense.best_known == BestKnown(-8.5, True, "enumeration")
    assert low.form.factor.tolist()[:2] == [[-1.5, 1.0, 0.0], [0.0, -1.0, 1.5]]
    assert low.linear.tolist() == [0.5, -1.0, 2.0, -0.25, 0.0, 1.0]
    assert (low.cardinality.tolist(), low.groups.tolist()) == ([1, 2], [0, 1, 0, 1, 1, 0])
    assert low.labels.index.tolist() == [3, 10, 0, 2**33, 5, 6]


# Atomic saving


def test_a_failed_save_leaves_the_earlier_block_and_no_temporary_files(tmp_path: Path) -> None:
    problem = full()
    save(problem, tmp_path / "block")
    before = sorted(p.name for p in tmp_path.iterdir())
    for provenance in ({"x": object()}, {"x": float("nan")}, {1: 1, "1": 2}, {"x": "y" * (2 << 20)}):
        with pytest.raises(ProblemError, match="provenance"):
            save(problem.replaced(provenance=provenance), tmp_path / "block")
    with pytest.raises(ProblemError, match="double"):
        save(BlockProblem([[0, 1.7e308], [1.7e308, 0]], None, 1), tmp_path / "block")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert_same(load(tmp_path / "block"), problem)


@pytest.mark.parametrize("name", ["block.labels", "", ".."])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((ProblemError, OSError)):
        save(full(), f"{tmp_path}/sub/{name}" if name else "")


def test_the_mode_of_new_files_follows_the_umask(tmp_path: Path) -> None:
    saved = save(full(), tmp_path / "block")
    (tmp_path / "plain").touch()
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_kill_at_any_moment_leaves_a_whole_block_or_an_error(tmp_path: Path) -> None:
    writer = textwrap.dedent("""
        import sys, numpy as np
        from problems import BlockProblem, save
        twins = [BlockProblem(np.full((300, 300), v), None, 5, provenance={"v": v}) for v in (1.0, 2.0)]
        save(twins[0], sys.argv[1])  # so that all imports are done
        print("ready", flush=True)
        for i in range(10**6):
            save(twins[i % 2], sys.argv[1])
    """)
    outcomes: list[str] = []
    while len(outcomes) < 6 or ("whole" not in outcomes and len(outcomes) < 30):
        with subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path / "block")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.013 * len(outcomes))
            process.send_signal(signal.SIGKILL)
        try:
            problem = load(tmp_path / "block")
        except FileFormatError:
            outcomes.append("error")
        else:
            value = problem.provenance["v"]
            assert problem.form.matrix[0, 1] == value
            outcomes.append("whole")
    assert "whole" in outcomes
