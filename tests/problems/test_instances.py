from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from problems import BlockProblem, FileFormatError, ProblemError, instances

DATA = Path(os.environ.get("HYBRID_ICBS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "mdplib"
GROUPS = np.arange(12) % 3


def every_feasible_state(problem: BlockProblem) -> np.ndarray:
    states = np.zeros((0, problem.n), np.int8)
    for ones in itertools.combinations(range(problem.n), problem.constraint.total):
        x = np.zeros((1, problem.n), np.int8)
        x[0, list(ones)] = 1
        if problem.is_feasible(x[0]):
            states = np.vstack([states, x])
    return states


# Random and planted


@pytest.mark.parametrize("make", [instances.random, instances.planted])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_instances_are_reproducible_and_differ_between_seeds(make: object, dtype: type) -> None:
    one, again, other = (make(12, 5, seed, rank=4, dtype=dtype) for seed in (3, 3, 4))
    assert one.form.dtype == dtype
    assert np.array_equal(one.form.factor, again.form.factor)
    assert np.array_equal(one.linear, again.linear)
    assert not np.array_equal(one.form.factor, other.form.factor)


def test_random_problems_have_the_given_form_and_cardinality() -> None:
    assert not instances.random(9, 4, 0).is_low_rank
    assert instances.random(9, 4, 0, rank=3).form.rank == 3
    assert instances.random(12, 2, 0, groups=GROUPS).cardinality.tolist() == [2, 2, 2]
    with pytest.raises(ProblemError, match="cardinality 10 is larger"):
        instances.random(9, 10, 0)


def test_linear_and_quadratic_terms_of_random_problems_are_of_comparable_size() -> None:
    for problem in (instances.random(200, 100, 0), instances.random(200, 100, 0, rank=20)):
        X = problem.random_states(500, 0)
        linear = X @ problem.single_energies
        quadratic = problem.energy(X) - linear
        assert 0.1 < linear.std() / quadratic.std() < 10


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_state_is_optimal_to_the_last_bit(groups: np.ndarray | None, dtype: type, seed: int) -> None:
    problem = instances.planted(12, 6 if groups is None else 2, seed, rank=4, groups=groups, dtype=dtype)
    x = instances.known_optimum(problem)
    assert problem.is_feasible(x)
    for form in (problem, problem.to_dense()):
        assert form.energy(x) == 0.0
        assert form.energy(every_feasible_state(problem)).min() == 0.0
        assert form.best_known.energy == 0.0
        assert form.best_known.proven


def test_a_large_planted_state_stays_exact() -> None:
    problem = instances.planted(50_000, 20_000, 0, rank=8, dtype=np.float32)
    assert problem.energy(instances.known_optimum(problem)) == 0.0
    assert problem.energy(problem.random_states(3, 0)).min() > 0.0


def test_a_planted_state_is_saved_with_the_problem(tmp_path: Path) -> None:
    problem = instances.planted(20, 8, 0)
    back = BlockProblem.load(problem.save(tmp_path / "block"))
    assert np.array_equal(instances.known_optimum(back), instances.known_optimum(problem))


def test_known_optimum_refuses_a_problem_without_one() -> None:
    with pytest.raises(ProblemError, match="no optimal state"):
        instances.known_optimum(instances.random(5, 2, 0))


# Real blocks


def test_real_blocks_have_optima_that_no_swap_improves() -> None:
    blocks = instances.pruning()
    assert instances.pruning_names() == blocks.names
    assert len(blocks) >= 6
    for name, problem in zip(blocks.names, blocks, strict=True):
        x = instances.known_optimum(problem)
        assert problem.is_feasible(x), name
        assert problem.best_known.proven
        assert problem.energy(x) == pytest.approx(problem.best_known.energy, rel=1e-12)
        assert problem.energy(problem.random_states(2000, 0)).min() >= problem.energy(x) - 1e-14
        h, ones, zeros = problem.local_fields(x), np.flatnonzero(x), np.flatnonzero(x == 0)
        changes = h[zeros] - h[ones][:, None] - 2 * problem.form.dense()[np.ix_(ones, zeros)]
        assert changes.min() >= -1e-15
        assert 12 <= problem.n <= 28
        assert problem.labels is not None
        assert {"model", "data", "layer", "fingerprint", "density", "samples", "gamma", "rho"} <= set(
            problem.provenance
        )


@pytest.mark.parametrize("name", ["fc3_n12_k6", "fc2_n16_k8", "fc2_n20_k2", "fc2_n20_k18"])
def test_the_optima_of_small_real_blocks_are_those_of_enumeration(name: str) -> None:
    problem = instances.pruning()[name]
    combinations = np.array(list(itertools.combinations(range(problem.n), problem.constraint.total)))
    X = np.zeros((len(combinations), problem.n), np.int8)
    X[np.arange(len(X))[:, None], combinations] = 1
    assert problem.energy(X).min() == pytest.approx(problem.best_known.energy, rel=1e-12)


def test_the_real_blocks_are_small() -> None:
    folder = instances.pruning().folder
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


# MDPLIB

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
