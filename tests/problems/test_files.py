from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import pickle
import runpy
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dimod
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from problems import (
    BestKnown,
    BlockProblem,
    FileFormatError,
    Labels,
    ProblemError,
    ScaledForm,
    instances,
    load,
    load_set,
    save,
    save_set,
)

GOLDEN = Path(__file__).parent / "golden"
problems = st.from_type(BlockProblem)
some = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same(one: BlockProblem, other: BlockProblem) -> None:
    """Every number to the bit, and everything else; what was scaled comes back dense."""
    one, other = (p.to_dense() if isinstance(p.form, ScaledForm) else p for p in (one, other))
    assert type(one.form) is type(other.form)
    assert one.form.dtype == other.form.dtype
    for a, b in (
        (one.form.factor, other.form.factor) if one.is_low_rank else (one.form.matrix, other.form.matrix),
        (one.linear, other.linear),
        (one.constraint.counts, other.constraint.counts),
        (one.constraint.groups, other.constraint.groups),
    ):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert one.offset == other.offset
    assert one.provenance == other.provenance
    assert one.best_known == other.best_known
    assert (one.labels is None) == (other.labels is None)
    if one.labels is not None and other.labels is not None:
        assert np.array_equal(one.labels.parameter, other.labels.parameter)
        assert np.array_equal(one.labels.index, other.labels.index)


def full(form: str = "dense", n: int = 6) -> BlockProblem:
    """A problem with everything that a block can carry."""
    rng = np.random.default_rng(1)
    arguments = {
        "offset": 0.1, "groups": np.arange(n) % 2, "labels": Labels(np.arange(n), np.arange(n) * 10**10),
        "provenance": {"layer": "fc1", "step": 3, "nested": {"a": [1, 2.5, None, True]}, "text": "Größe ✓"},
        "best_known": BestKnown(-1.0 / 3.0, False, "someone"),
    }  # fmt: skip
    if form == "dense":
        return BlockProblem(rng.standard_normal((n, n)), rng.standard_normal(n), [1, 2], **arguments)
    return BlockProblem.low_rank(
        rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal(n), [1, 2], **arguments
    )


def dimod_bytes(bqm: dimod.BinaryQuadraticModel, version: int = 2) -> bytes:
    with bqm.to_file(version=version) as file:
        return file.read()


forms = pytest.mark.parametrize("form", ["dense", "low-rank"])


# Round trips


@some
@given(problems, st.booleans())
def test_nothing_is_lost_through_files(tmp_path: Path, problem: BlockProblem, labelled: bool) -> None:
    if labelled:
        problem = problem._with(problem.form, labels=Labels(np.zeros(problem.n, np.int32), np.arange(problem.n)))
    assert_same(load(save(problem, tmp_path / "block")), problem)


@forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_dtypes_come_back(tmp_path: Path, form: str, dtype: type) -> None:
    problem = instances.random(9, 4, 0, rank=None if form == "dense" else 2, dtype=dtype)
    assert problem.form.dtype == dtype
    assert_same(load(save(problem, tmp_path / "block")), problem)


@forms
def test_everything_that_a_block_carries_comes_back(tmp_path: Path, form: str) -> None:
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


def test_the_data_files_are_those_of_dimod_and_numpy(tmp_path: Path, rng: np.random.Generator) -> None:
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


def test_a_block_replaces_an_earlier_one_of_its_name_whole(tmp_path: Path) -> None:
    save(full("dense"), tmp_path / "block")
    plain = instances.random(5, 2, 0, rank=2)
    save(plain, tmp_path / "block")
    assert_same(load(tmp_path / "block"), plain)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["block.json", "block.npz"]


def test_a_very_sparse_matrix_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("problems.bqm_file._ALWAYS_DENSE", 0)
    Q = np.zeros((40, 40))
    Q[3, 5] = 1.0
    problem = BlockProblem(Q, None, 4)
    assert_same(load(save(problem, tmp_path / "block")), problem)
    assert load(tmp_path / "block").to_bqm().num_interactions == 1


# BQM files from elsewhere


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


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither nothing\.json nor nothing\.bqm"):
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
def test_golden_files_load_and_are_written_the_same_today(tmp_path: Path, name: str) -> None:
    problem = runpy.run_path(str(GOLDEN / "make_golden.py"))["PROBLEMS"][name]()
    assert_same(load(GOLDEN / name), problem)
    save(problem, tmp_path / name)
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == sorted(p.name for p in GOLDEN.glob(f"{name}.*"))
    for path in written:
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes(), path.name


def test_golden_files_hold_the_known_numbers() -> None:
    dense, low = load(GOLDEN / "v1_dense"), load(GOLDEN / "v1_low_rank")
    assert dense.form.row(1).tolist() == [-0.5, 0.0, -1.5, 2.0, 0.0]
    assert dense.linear.tolist() == [1.75, -1.0, 2.25, 4.125, 13.25]
    assert (dense.cardinality, dense.offset, dense.provenance["step"]) == (2, -3.75, 7)
    assert dense.best_known == BestKnown(-8.5, True, "enumeration")
    assert low.form.factor.tolist()[:2] == [[-1.5, 1.0, 0.0], [0.0, -1.0, 1.5]]
    assert low.linear.tolist() == [0.5, -1.0, 2.0, -0.25, 0.0, 1.0]
    assert (low.cardinality.tolist(), low.groups.tolist()) == ([1, 2], [0, 1, 0, 1, 1, 0])
    assert low.labels.index.tolist() == [3, 10, 0, 2**33, 5, 6]


# Saving is all or nothing


def test_a_save_that_fails_leaves_the_earlier_block_and_no_litter(tmp_path: Path) -> None:
    problem = full()
    save(problem, tmp_path / "block")
    before = sorted(p.name for p in tmp_path.iterdir())
    for provenance in ({"x": object()}, {"x": float("nan")}, {1: 1, "1": 2}, {"x": "y" * (2 << 20)}):
        with pytest.raises(ProblemError, match="provenance"):
            save(problem._with(problem.form, provenance=provenance), tmp_path / "block")
    with pytest.raises(ProblemError, match="double"):
        save(BlockProblem([[0, 1.7e308], [1.7e308, 0]], None, 1), tmp_path / "block")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert_same(load(tmp_path / "block"), problem)


@pytest.mark.parametrize("name", ["block.labels", "", ".."])
def test_a_name_that_cannot_be_a_blocks_is_refused(tmp_path: Path, name: str) -> None:
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
        print("ready", flush=True)
        for i in range(10**6):
            save(twins[i % 2], sys.argv[1])
    """)
    outcomes = set()
    for attempt in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path / "block")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.013 * attempt)
            process.send_signal(signal.SIGKILL)
        try:
            problem = load(tmp_path / "block")
        except (FileFormatError, FileNotFoundError):
            outcomes.add("error")
        else:
            value = problem.provenance["v"]
            assert problem.form.matrix[0, 1] == value
            outcomes.add("whole")
    assert "whole" in outcomes


# Damage: always an error that names the file, or the very same problem


@contextmanager
def little_memory(limit: int = 8 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def read_or_refuse(path: Path, original: BlockProblem | None, **given: object) -> bool:
    """Whether the file was refused; where it was not, it must hold the original (None: any problem will do)."""
    try:
        problem = load(path, **given)
    except FileFormatError as error:
        return str(path.parent) in str(error)
    if original is not None:
        assert_same(problem, original)
    return False


@forms
def test_every_truncation_is_refused(tmp_path: Path, form: str) -> None:
    problem = full(form)
    save(problem, tmp_path / "block")
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        with little_memory():
            for length in range(0, len(data) - (path.suffix == ".json"), 3):
                path.write_bytes(data[:length])
                assert read_or_refuse(tmp_path / "block", problem), (path.name, length)
        path.write_bytes(data)


@forms
def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path, form: str) -> None:
    problem = full(form)
    save(problem, tmp_path / "block")
    for path in sorted(tmp_path.iterdir()):
        data = bytearray(path.read_bytes())
        data_file = path.suffix != ".json"
        with little_memory():
            for at in range(0, len(data), 3):
                old = data[at]
                data[at] ^= 0x11 if data_file else 0x01
                path.write_bytes(data)
                # A description is not checksummed itself: another digit there is another problem, but a checked one.
                refused = read_or_refuse(tmp_path / "block", None)
                assert refused or not data_file
                data[at] = old
        path.write_bytes(data)


def resealed(folder: Path, ending: str, data: bytes) -> None:
    """Put hostile bytes in a file, and their checksum in the description, so that the reader itself is tried."""
    (folder / f"block{ending}").write_bytes(data)
    described = json.loads((folder / "block.json").read_text())
    described["sha256"][ending] = hashlib.sha256(data).hexdigest()
    (folder / "block.json").write_text(json.dumps(described))


@pytest.mark.parametrize(("form", "ending"), [("dense", ".bqm"), ("low-rank", ".npz"), ("dense", ".labels.npz")])
def test_damage_under_a_right_checksum_is_refused_or_read_in_bounds(tmp_path: Path, form: str, ending: str) -> None:
    save(full(form, 4), tmp_path / "block")
    data = (tmp_path / f"block{ending}").read_bytes()
    for length in range(0, len(data), 7):
        resealed(tmp_path, ending, data[:length])
        assert read_or_refuse(tmp_path / "block", None), length
    resealed(tmp_path, ending, data + b"\0" * 64)
    if ending == ".bqm":
        assert read_or_refuse(tmp_path / "block", None)
    with little_memory():
        for at, mask in zip(range(0, len(data), 2), itertools.cycle((0x01, 0x80, 0xFF, 0x10))):
            resealed(tmp_path, ending, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
            read_or_refuse(tmp_path / "block", None)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_random_damage_to_a_bare_bqm_is_refused_or_read_in_bounds(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(dimod_bytes(instances.random(5, 2, 0).to_bqm()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(piece)] = piece
    (tmp_path / "bare.bqm").write_bytes(raw)
    with little_memory():
        read_or_refuse(tmp_path / "bare.bqm", None, cardinality=0)


def bqm_with(
    header: object = None, body: bytes = b"", magic: bytes = b"DIMODBQM", version: tuple = (2, 0), length: int = -1
) -> bytes:
    base = {
        "dtype": "float64", "itype": "int32", "ntype": "int32", "shape": [0, 0], "type": "BinaryQuadraticModel",
        "variables": False, "vartype": "BINARY",
    }  # fmt: skip
    text = header if isinstance(header, bytes) else json.dumps(base | (header or {})).encode()
    return magic + bytes(version) + struct.pack("<I", len(text) if length < 0 else length) + text + body


def linear(*pairs: tuple[int, float]) -> bytes:
    return b"".join(struct.pack("<id", start, bias) for start, bias in pairs)


zero = struct.pack("<d", 0.0)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "magic"),
        (b"DIMOD", "magic"),
        (b"PK\x03\x04" + b"x" * 99, "magic"),
        (b"DIMODBQM\x02", "header"),
        (bqm_with(version=(3, 0), body=zero), "version"),
        (bqm_with(version=(2, 1), body=zero), "version"),
        (bqm_with(version=(0, 0), body=zero), "version"),
        (bqm_with(length=2**32 - 1, body=zero), "header"),
        (bqm_with(length=10, body=zero), "header"),
        (bqm_with(b"[]", zero), "header"),
        (bqm_with(b"{}", zero), "dtype"),
        (bqm_with(b"\xff\xfe", zero), "header"),
        (bqm_with(b"[" * 60000, zero), "header"),
        (bqm_with(b'{"dtype": NaN}', zero), "header"),
        (bqm_with(b'{"dtype": "float64", "dtype": "float32"}', zero), "dtype.* twice"),
        (bqm_with(b'{"shape": ' + b"9" * 5000 + b"}", zero), "header"),
        (bqm_with({"dtype": "object"}, zero), "dtype"),
        (bqm_with({"dtype": ["float64"]}, zero), "dtype"),
        (bqm_with({"itype": "V2000000000"}, zero), "itype"),
        (bqm_with({"ntype": "float64"}, zero), "ntype"),
        (bqm_with({"vartype": "INTEGER"}, zero), "vartype"),
        (bqm_with({"variables": "yes"}, zero), "variables"),
        (bqm_with({"variables": True}, zero), "variables"),
        (bqm_with({"variables": True}, zero + b"VARS\xff\xff\xff\xff[]"), "variables"),
        (bqm_with({"variables": True}, zero + b"VARS\x03\x00\x00\x00[1]"), "variables"),
        (bqm_with({"variables": 7}, zero, version=(1, 0)), "variables"),
        (bqm_with({"shape": [10**18, 0]}, zero), "shape"),
        (bqm_with({"shape": [10**6, 10**11]}, zero), "shape"),
        (bqm_with({"shape": [-1, 0]}, zero), "shape"),
        (bqm_with({"shape": [2.0, 0]}, zero), "shape"),
        (bqm_with({"shape": [True, 0]}, zero), "shape"),
        (bqm_with({"shape": [2]}, zero), "shape"),
        (bqm_with({"shape": {"n": 2}}, zero), "shape"),
        (bqm_with({"shape": [2, 2]}, zero + b"\0" * 200), "at most 1 couplings"),
        (bqm_with({"shape": [2, 0]}, zero), "shape"),
        (bqm_with({"shape": [60000, 0]}, zero + b"\0" * 720000), "shape.*GiB"),
        (bqm_with(body=struct.pack("<d", np.nan)), "offset"),
        (bqm_with({"shape": [1, 0]}, zero + linear((0, np.inf))), "linear"),
        (bqm_with({"shape": [2, 0]}, zero + linear((0, 1), (5, 1))), "linear"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (-7, 1)) + linear((1, 2), (0, 2))), "linear"),
        (bqm_with({"shape": [2, 1]}, zero + linear((1, 1), (1, 1)) + linear((1, 2), (0, 2))), "linear"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (2, 1)) + linear((1, 2), (0, 2))), "linear"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, 1)) + linear((2, 2), (0, 2))), "quadratic"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, 1)) + linear((-1, 2), (0, 2))), "quadratic"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, 1)) + linear((0, 2), (0, 2))), "quadratic"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, 1)) + linear((1, 2), (0, 3))), "quadratic: .*2.0.*3.0"),
        (bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, 1)) + linear((1, np.nan), (0, np.nan))), "quadratic"),
        (
            bqm_with({"shape": [2, 1], "vartype": "SPIN"}, zero + linear((0, 1), (1, 1), (1, 1e308), (0, 1e308))),
            "vartype",
        ),
    ],
)  # fmt: skip
def test_a_hostile_bqm_is_refused_by_field(tmp_path: Path, data: bytes, field: str) -> None:
    (tmp_path / "bad.bqm").write_bytes(data)
    with little_memory(), pytest.raises(FileFormatError, match=rf"bad\.bqm: .*{field}"):
        load(tmp_path / "bad.bqm", cardinality=0)


def test_the_plainest_bqm_is_read(tmp_path: Path) -> None:
    data = bqm_with({"shape": [2, 1]}, zero + linear((0, 1), (1, -1)) + linear((1, 2), (0, 2)))
    (tmp_path / "good.bqm").write_bytes(data)
    assert load(tmp_path / "good.bqm", 1).energy([[1, 0], [0, 1], [1, 1]]).tolist() == [1.0, -1.0, 2.0]


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=pickled)
    return file.getvalue()


def npy_saying(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode() + body


def says(descr: str, shape: str, body: bytes = b"") -> bytes:
    """A linear member that says what it likes."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    return archive(factor=factor, linear=npy_saying(header, body))


def archive(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        for name, data in members.items():
            out.writestr(f"{name}.npy", data)
    return file.getvalue()


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path("/nonexistent-pickle-was-run").mkdir, ())


good_linear = npy(np.zeros(6))
factor = npy(np.zeros((6, 3), np.float32))


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "archive"),
        (b"PK\x05\x06" + b"\0" * 18, "archive"),
        (pickle.dumps({"factor": 1}), "archive"),
        (archive(factor=factor), "archive"),
        (archive(factor=factor, linear=good_linear, more=good_linear), "archive"),
        (archive(**{"factor": factor, "../linear": good_linear}), "archive"),
        (archive(zipfile.ZIP_DEFLATED, factor=npy(np.zeros((10**6, 4))), linear=good_linear), "factor.*compressed"),
        (archive(zipfile.ZIP_LZMA, factor=factor, linear=good_linear), "compressed"),
        (archive(factor=npy(np.array([[Bomb()]]), pickled=True), linear=good_linear), "factor"),
        (archive(factor=npy(np.zeros((6, 3))), linear=good_linear), "factor.*float32"),
        (archive(factor=npy(np.zeros((6, 3), ">f4")), linear=good_linear), "factor"),
        (archive(factor=npy(np.zeros((6, 3, 1), np.float32)), linear=good_linear), "factor.*2 axes"),
        (archive(factor=npy(np.zeros((3, 6), np.float32).T), linear=good_linear), "factor.*contiguous"),
        (archive(factor=npy(np.zeros((5, 3), np.float32)), linear=good_linear), "factor.*5.*n is 6"),
        (archive(factor=npy(np.full((6, 3), np.nan, np.float32)), linear=good_linear), "factor.*nan"),
        (archive(factor=factor, linear=npy(np.full(6, np.inf))), "linear.*inf"),
        (archive(factor=factor, linear=npy(np.zeros(7))), "linear.*7.*n is 6"),
        (archive(factor=factor[:-1], linear=good_linear), "factor.*bytes"),
        (archive(factor=factor + b"\0", linear=good_linear), "factor.*bytes"),
        (archive(factor=b"nothing", linear=good_linear), "factor"),
        (archive(factor=b"", linear=good_linear), "factor"),
        (says("<f8", "(10**12,)"), "linear"),
        (says("<f8", "(1000000000000,)"), "linear.*shape"),
        (says("<f8", "(-1,)"), "linear"),
        (says("|O", "(6,)", b"\0" * 48), "linear"),
        (says("|V99999999", "(6,)"), "linear"),
        (archive(factor=factor, linear=npy_saying("__import__('os')")), "linear"),
        (archive(factor=factor, linear=npy_saying("(" * 3000)), "linear"),
        (archive(factor=factor, linear=npy_saying("{}", version=b"\x09\x00")), "linear"),
        (archive(factor=factor, linear=npy_saying("x" * 60000)), "linear"),
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused_by_member(tmp_path: Path, data: bytes, field: str) -> None:
    save(full("low-rank"), tmp_path / "block")
    resealed(tmp_path, ".npz", data)
    with little_memory(), pytest.raises(FileFormatError, match=rf"(block\.npz: |block\.json: ).*{field}"):
        load(tmp_path / "block")
    assert not Path("/nonexistent-pickle-was-run").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": "something else"}, "schema"),
        ({"version": 2}, "version.*newer"),
        ({"version": True}, "version"),
        ({"form": "sparse"}, "form"),
        ({"form": ["dense"]}, "form"),
        ({"form": "low-rank"}, "sha256"),
        ({"n": 7}, "n is 7"),
        ({"n": -1}, "n: "),
        ({"n": 6.0}, "n: "),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "float32"}, "dtype.*float32"),
        ({"cardinality": 2.5}, "cardinality"),
        ({"cardinality": [1, 9]}, "cardinality 9 is larger"),
        ({"cardinality": [1, True]}, "cardinality"),
        ({"cardinality": 10**40}, "cardinality"),
        ({"cardinality": None}, "cardinality"),
        ({"groups": [0, 1]}, "groups"),
        ({"groups": [0, 1, 0, 1, 0, 10**12]}, "groups"),
        ({"groups": "none"}, "groups"),
        ({"offset": 1.5}, "offset.*1.5"),
        ({"offset": "0.1"}, "offset"),
        ({"offset": 10**400}, "offset"),
        ({"provenance": []}, "provenance"),
        ({"best_known": {"energy": 1.0}}, "best_known"),
        ({"best_known": {"energy": "low", "proven": True, "found_by": ""}}, "best_known"),
        ({"best_known": {"energy": 1.0, "proven": 1, "found_by": ""}}, "best_known"),
        ({"best_known": 3}, "best_known"),
        ({"sha256": {}}, "sha256"),
        ({"sha256": {".bqm": 5}}, "sha256"),
        ({"sha256": {".bqm": "0" * 64}}, "sha256"),
        ({"sha256": {".bqm": "0" * 64, "/etc/passwd": "0" * 64}}, "sha256"),
        ({"note": "hello"}, "note"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_field(tmp_path: Path, change: dict, field: str) -> None:
    save(full(), tmp_path / "block")
    described = json.loads((tmp_path / "block.json").read_text()) | change
    (tmp_path / "block.json").write_text(json.dumps(described))
    with little_memory(), pytest.raises(FileFormatError, match=rf"block\.(json|bqm): .*{field}"):
        load(tmp_path / "block")


@pytest.mark.parametrize("field", ["schema", "form", "n", "groups", "best_known", "sha256"])
def test_a_description_without_a_field_is_refused(tmp_path: Path, field: str) -> None:
    save(full(), tmp_path / "block")
    described = json.loads((tmp_path / "block.json").read_text())
    del described[field]
    (tmp_path / "block.json").write_text(json.dumps(described))
    with pytest.raises(FileFormatError, match=field):
        load(tmp_path / "block")


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\xff", b'{"n": Infinity}', b'{"n": 1e999}', b'{"n": 1, "n": 1}', b"[" * 900_000],
)
def test_a_description_that_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    save(full(), tmp_path / "block")
    (tmp_path / "block.json").write_bytes(text)
    with pytest.raises(FileFormatError, match=r"block\.json: description"):
        load(tmp_path / "block")


def test_an_oversized_description_is_refused_unread(tmp_path: Path) -> None:
    save(full(), tmp_path / "block")
    with (tmp_path / "block.json").open("wb") as file:
        file.truncate(1 << 34)
    with little_memory(), pytest.raises(FileFormatError, match=r"block\.json: size"):
        load(tmp_path / "block")


@forms
def test_the_other_forms_file_of_a_block_is_refused(tmp_path: Path, form: str) -> None:
    save(full(form), tmp_path / "block")
    with pytest.raises(FileFormatError, match="form"):
        load(tmp_path / ("block.npz" if form == "dense" else "block.bqm"))


@pytest.mark.parametrize("name", ["block.json", "block.bqm", "block.labels.npz"])
def test_pipes_and_folders_are_refused(tmp_path: Path, name: str) -> None:
    for make in (os.mkfifo, os.mkdir):
        folder = tmp_path / make.__name__
        folder.mkdir()
        save(full(), folder / "block")
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(FileFormatError, match="not a regular file"):
            load(folder / "block")


# Sets


def test_a_set_comes_back_in_order_and_by_name(tmp_path: Path) -> None:
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


def test_problems_without_names_are_numbered_and_may_come_one_at_a_time(tmp_path: Path) -> None:
    save_set((instances.random(4, 2, i) for i in range(3)), tmp_path)
    assert load_set(tmp_path).names == ("block_0000", "block_0001", "block_0002")
    save_set([], tmp_path)
    assert len(load_set(tmp_path)) == 0


def test_a_set_that_was_not_finished_is_none(tmp_path: Path) -> None:
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
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
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
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: dict) -> None:
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


def test_a_block_that_the_manifest_names_and_the_folder_lacks_is_reported(tmp_path: Path) -> None:
    save_set({"a": full(), "b": full()}, tmp_path)
    (tmp_path / "b.json").unlink()
    assert load_set(tmp_path)[0].n == 6
    with pytest.raises(FileFormatError, match=r"b\.bqm: cardinality"):
        load_set(tmp_path)["b"]
