"""Damaged and hostile files: an error that names the file and the field, or the same problem."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from problems import (
    BlockProblem,
    FileFormatError,
    instances,
    load,
    save,
)

sys.path.insert(0, str(Path(__file__).parent))

from file_cases import assert_same, dimod_bytes, forms, full, little_memory


def read_or_refuse(path: Path, original: BlockProblem | None, **given: object) -> bool:
    """Whether the file was refused; if not, it must contain the original problem (None: any problem)."""
    try:
        problem = load(path, **given)
    except FileFormatError as error:
        if str(path.parent) not in str(error):
            pytest.fail(f"the refusal does not name the file: {error}")
        return True
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
                # The description has no checksum: another digit there may give another, valid problem.
                refused = read_or_refuse(tmp_path / "block", None)
                assert refused or not data_file
                data[at] = old
        path.write_bytes(data)


def resealed(folder: Path, ending: str, data: bytes) -> None:
    """Write hostile bytes to a file and their checksum to the description, so that the reader itself is tested."""
    (folder / f"block{ending}").write_bytes(data)
    described = json.loads((folder / "block.json").read_text())
    described["sha256"][ending] = hashlib.sha256(data).hexdigest()
    (folder / "block.json").write_text(json.dumps(described))


@pytest.mark.parametrize(("form", "ending"), [("dense", ".bqm"), ("low-rank", ".npz"), ("dense", ".labels.npz")])
def test_damage_with_a_correct_checksum_is_refused_or_read_within_bounds(
    tmp_path: Path, form: str, ending: str
) -> None:
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
def test_random_damage_to_a_bare_bqm_is_refused_or_read_within_bounds(tmp_path: Path, data: st.DataObject) -> None:
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


def test_the_smallest_bqm_is_read(tmp_path: Path) -> None:
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
    """A member `linear` with any header."""
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
def test_an_invalid_description_is_refused_by_field(tmp_path: Path, change: dict, field: str) -> None:
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
def test_the_file_of_the_other_form_is_refused(tmp_path: Path, form: str) -> None:
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
