"""The benchmark set: its records agree with its blocks, and the blocks can be made again to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from problems import BlockProblem, DenseForm, FileFormatError, LowRankForm, ProblemError, instances
from problems.instances import benchmark
from problems.instances.compact import MOST_COLUMNS, Compact

REPOSITORY = Path(__file__).parents[3]
DATA = Path(os.environ.get("HYBRID_ICBS_DATA", REPOSITORY.parent / "shared" / "data"))
NAMES = instances.names()


# Contents


def test_every_network_size_and_fraction_of_ones_is_there() -> None:
    everything = instances.curated()
    assert {each.source for each in everything} == {"mlpnet", "resnet20", "llama"}
    for source in ("mlpnet", "resnet20", "llama"):
        for n in (16, 24, 32, 64, 128, 256, 1024, 4096):
            shares = {round(each.cardinality / each.n, 1) for each in instances.curated(source=source, n=n)}
            assert shares == {0.1, 0.5, 0.9}, (source, n)
    largest = instances.curated(n=65536)
    assert {round(each.cardinality / each.n, 1) for each in largest} == {0.1, 0.5, 0.9}
    assert all(each.form == ("dense" if each.n <= 1024 else "low-rank") for each in everything)


def test_the_set_takes_a_few_megabytes() -> None:
    assert sum(path.stat().st_size for path in benchmark.FOLDER.iterdir()) < 8_000_000


def test_the_folder_contains_the_manifest_and_two_files_of_each_instance_only() -> None:
    found = {path.name for path in benchmark.FOLDER.iterdir()}
    assert found == {"manifest.json"} | {f"{name}{ending}" for name in NAMES for ending in (".json", ".npz")}


@pytest.mark.parametrize("name", NAMES)
def test_a_record_agrees_with_its_block(name: str) -> None:
    facts = instances.facts(name)
    problem, best, mask = facts.load(), facts.best(), facts.mask()
    assert (problem.n, problem.constraint.total, problem.groups) == (facts.n, facts.cardinality, None)
    assert isinstance(problem.form, DenseForm if facts.form == "dense" else LowRankForm)
    assert hashlib.sha256((facts.folder / f"{name}.npz").read_bytes()).hexdigest() == facts.sha256
    assert problem.is_feasible(best)
    assert problem.is_feasible(mask)
    scale = abs(problem.random_mean_energy() - facts.best_known.energy)
    assert problem.energy(best) == pytest.approx(facts.best_known.energy, abs=1e-12 * scale)
    assert problem.energy(mask) >= facts.best_known.energy
    assert problem.energy(problem.random_states(20, 0)).min() >= facts.best_known.energy - 1e-9 * scale
    assert 0 <= facts.descent.found <= facts.descent.tries
    assert facts.descent.tries >= 1
    assert facts.easy == (2 * facts.descent.found > facts.descent.tries)
    assert facts.best_known.found_by
    assert facts.best_known.proven or facts.n > 32
    assert {"model", "data", "objective", "rule", "made_by"} <= set(problem.provenance)
    assert problem.labels is not None
    weights = [list(facts.layers.values())[number] for number in problem.labels.parameter]
    assert (problem.labels.index >= 0).all()
    assert (problem.labels.index < weights).all()
    assert len(set(zip(problem.labels.parameter.tolist(), problem.labels.index.tolist(), strict=True))) == facts.n


@pytest.mark.parametrize("name", [each.name for each in instances.curated() if each.n <= 1024])
def test_no_swap_improves_a_best_known_state(name: str) -> None:
    facts = instances.facts(name)
    problem, x = facts.load(), facts.best()
    h, ones, zeros = problem.local_fields(x), np.flatnonzero(x), np.flatnonzero(x == 0)
    changes = h[zeros] - h[ones][:, None] - 2 * problem.form.dense()[np.ix_(ones, zeros)]
    assert changes.min() >= -1e-9 * abs(problem.random_mean_energy() - facts.best_known.energy)


@pytest.mark.parametrize("name", [each.name for each in instances.curated(n=(1, 64))])
def test_dense_and_low_rank_form_agree_to_the_last_bit_of_float32(name: str) -> None:
    dense, low_rank = instances.load(name), instances.load(name, dense=False)
    A = low_rank.form.factor.astype(np.float64)  # type: ignore[attr-defined]
    exact = A @ A.T
    np.fill_diagonal(exact, 0.0)
    assert dense.form.dtype == np.float32
    assert np.array_equal(dense.form.dense(), exact)
    X = low_rank.random_states(10, 0)
    assert dense.energy(X) == pytest.approx(low_rank.energy(X), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", [each.name for each in instances.curated(n=(1, 24), proven=True)])
def test_proven_optima_are_found_by_the_exact_solver(name: str) -> None:
    import solvers

    problem = instances.load(name)
    answer = solvers.solve(problem, "exact", seed=1)
    assert answer.info["proven"]
    scale = problem.random_mean_energy() - answer.first.energy
    assert problem.best_known is not None
    assert problem.best_known.energy == pytest.approx(answer.first.energy, abs=1e-9 * scale)
    assert problem.energy(instances.known_optimum(problem)) == problem.best_known.energy


# Selection


def test_instances_are_chosen_by_their_facts() -> None:
    hard = instances.curated(easy=False)
    assert 0 < len(hard) < len(NAMES)
    assert not any(each.easy for each in hard)
    assert {each.source for each in instances.curated(source="llama")} == {"llama"}
    assert {each.n for each in instances.curated(n=(16, 32))} == {16, 24, 32}
    assert {each.form for each in instances.curated(form="low-rank")} == {"low-rank"}
    assert all(each.best_known.proven for each in instances.curated(proven=True))
    assert {each.family for each in instances.curated("*-typical-*")} == {"typical"}
    both = instances.curated("llama-picked-n16-*", "mlpnet-picked-n16-*")
    assert [each.name for each in both] == [
        name for name in NAMES if name.startswith(("llama-picked-n16-", "mlpnet-picked-n16-"))
    ]


def test_an_error_about_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ProblemError, match=r"'resnet-picked-n32-k16'; did you mean .*resnet20-picked-n32-k16"):
        instances.load("resnet-picked-n32-k16")
    with pytest.raises(ProblemError, match=r"matches 'bert-\*'.*instances list"):
        instances.curated("bert-*")
    with pytest.raises(ProblemError, match="no instance has the source 'bert'; there are mlpnet, resnet20, llama"):
        instances.curated(source="bert")


def test_an_exported_block_is_read_unchanged(tmp_path: Path) -> None:
    for name in ("resnet20-picked-n64-k32", "llama-typical-n4096-k2048"):
        problem = instances.load(name)
        back = BlockProblem.load(problem.save(tmp_path / name))
        X = problem.random_states(5, 0)
        assert np.array_equal(back.energy(X), problem.energy(X))
        assert back.best_known == problem.best_known
        assert back.provenance["instance"] == name


# The compact file


def test_rounding_keeps_each_row_within_a_128th_and_the_linear_term_to_float32() -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((50, 8)) * np.exp(5 * rng.standard_normal((50, 1)))
    A[7] = 0.0
    c = rng.standard_normal(50)
    numbers = np.cumsum(rng.integers(1, 100_000, 50))
    pruned = rng.random(50) < 0.5
    compact = Compact.of(A, c, numbers, pruned)
    problem = compact.problem(25)
    error = np.abs(problem.form.factor - A).max(axis=1)  # type: ignore[attr-defined]
    assert (error <= np.abs(A).max(axis=1) / 64).all()
    assert not problem.form.factor[7].any()  # type: ignore[attr-defined]
    assert np.array_equal(problem.linear, c.astype(np.float32))
    assert np.array_equal(compact.mask(), pruned)
    labels = compact.labels([1_000_000, 10_000_000])
    assert np.array_equal(labels.index + 1_000_000 * labels.parameter, numbers)


def test_factors_whose_products_would_be_inexact_are_refused() -> None:
    with pytest.raises(ProblemError, match="1041 columns; at most 1040"):
        Compact.of(np.ones((2, MOST_COLUMNS + 1)), np.zeros(2), np.arange(2), np.zeros(2, bool))
    with pytest.raises(ProblemError, match="must ascend"):
        Compact.of(np.ones((2, 1)), np.zeros(2), np.array([3, 3]), np.zeros(2, bool))


# Damaged files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one instance."""
    for ending in (".json", ".npz"):
        shutil.copy(benchmark.FOLDER / f"mlpnet-picked-n16-k8{ending}", tmp_path)
    benchmark.write_manifest(tmp_path, ["mlpnet-picked-n16-k8"])
    return tmp_path


def test_a_record_that_is_read_and_written_is_unchanged(folder: Path) -> None:
    (instance,) = benchmark.read_records(folder).values()
    before = (folder / f"{instance.name}.json").read_bytes()
    benchmark.write_record(instance)
    assert (folder / f"{instance.name}.json").read_bytes() == before


def test_a_changed_data_file_is_refused(folder: Path) -> None:
    (instance,) = benchmark.read_records(folder).values()
    path = folder / f"{instance.name}.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"mlpnet-picked-n16-k8\.npz: sha256"):
        instance.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "schema"),
        ({"version": 2}, "a newer hybrid-icbs is needed"),
        ({"name": "other"}, "of another instance"),
        ({"surprise": 1}, "surprise"),
        ({"n": "many"}, "value of another type"),
        ({"best_known": 3}, "value of another type"),
    ],
)
def test_a_damaged_record_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "mlpnet-picked-n16-k8.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FileFormatError, match=message):
        benchmark.read_records(folder)


def test_a_manifest_that_names_a_file_outside_is_refused(folder: Path) -> None:
    benchmark.write_manifest(folder, ["../x"])
    with pytest.raises(FileFormatError, match=r"manifest\.json: instances"):
        benchmark.read_records(folder)


# Reproduction


def test_the_selected_candidates_are_those_of_the_records() -> None:
    chosen = json.loads((REPOSITORY / "benchmarks" / "instances.json").read_text())
    assert tuple(chosen) == NAMES
    for name, recipe in chosen.items():
        provenance = instances.facts(name).provenance
        assert {key: provenance[key] for key in recipe} == recipe


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the measuring data is not here; set HYBRID_ICBS_DATA")
@pytest.mark.parametrize(
    "pattern",
    [
        "mlpnet-typical-n256-*",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("mlpnet-*", "llama-picked-n[1236]*")),
    ],
)
def test_the_blocks_can_be_made_again_to_the_bit(pattern: str) -> None:
    command = [sys.executable, "benchmarks/make_instances.py", "--check", "--only", pattern]
    environment = {**os.environ, "HYBRID_ICBS_DATA": str(DATA), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 differ" in done.stdout
