"""dimod's binary file of a BQM, read into and written from arrays.

dimod's own reader does not check the file, and its model takes twice the memory of the matrix. This one checks every
number against the file's real size before it allocates memory, and takes half a second at n = 4096.

The format (dimod's documentation of `BinaryQuadraticModel.to_file`, versions 1.0 and 2.0): "DIMODBQM", two bytes of
version, the header's length as uint32, a JSON header padded to a multiple of 64 bytes; the offset; (start, bias) of
each variable; and for each variable in turn (neighbour, bias) of its neighbours in ascending order, so that each
coupling is there twice. In version 2, if the variables are not 0..n-1, a section "VARS" with their labels follows.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from problems.errors import FileFormatError, ProblemError
from problems.forms import Float64Array, FloatArray, spin_to_binary
from problems.storage import parse_json

_MAGIC = b"DIMODBQM"
_BIAS_TYPES = ("float32", "float64")
_INDEX_TYPES = ("int32", "int64", "uint16", "uint32", "uint64")
_HEADER_BYTES = 1 << 16  # the header of version 2 has no labels and some 200 bytes
_CHUNK = 1 << 20  # couplings converted at a time
_ALWAYS_DENSE = 1 << 29  # bytes of a matrix that any file may need, however sparse: n = 8192
_DENSE_FACTOR = 4  # a larger matrix may have this many times the bytes of its file


def write_bqm(file: BinaryIO, Q: FloatArray, linear: Float64Array, offset: float) -> None:
    """Write x^T Q x + linear.x + offset as a BINARY float64 model over 0..n-1, with the bytes that dimod writes.

    Couplings of zero are omitted, unless :func:`read_bqm` would refuse so sparse a file.

    Args:
        file: open for writing in binary.
        Q: symmetric with a zero diagonal [n, n].
        linear: linear coefficients [n].
        offset: the constant.

    Raises:
        ProblemError: 2 Q_ij, the bias of a coupling, is not finite.
    """
    n = len(linear)
    degrees = np.array([np.count_nonzero(row) for row in Q], np.int64)
    keep_zeros = _too_sparse_json(n, 12 * int(degrees.sum()))
    if keep_zeros:
        degrees[:] = n - 1
    start = "int32" if degrees.sum() < 2**31 else "int64"
    header = {
        "dtype": "float64", "itype": "int32", "ntype": start, "shape": [n, int(degrees.sum()) // 2],
        "type": "BinaryQuadraticModel", "variables": False, "vartype": "BINARY",
    }  # fmt: skip
    text = json.dumps(header, sort_keys=True).encode("ascii") + b"\n"
    text += b" " * (-(len(_MAGIC) + 6 + len(text)) % 64)
    file.write(_MAGIC + bytes((2, 0)) + struct.pack("<I", len(text)) + text + struct.pack("<d", offset))
    starts = np.empty(n, _record("start", start, "float64"))
    starts["start"] = np.cumsum(degrees) - degrees
    starts["bias"] = linear
    file.write(starts.tobytes())
    step = max(1, _CHUNK // max(1, n))
    for first in range(0, n, step):
        file.write(_neighbourhoods(Q[first : first + step], first, keep_zeros))


def read_bqm(file: BinaryIO, path: Path) -> tuple[Float64Array, Float64Array, float]:
    """Read Q (symmetric, zero diagonal) [n, n], the linear term [n] and the offset of a BINARY or SPIN model.

    Labels are ignored: variable i is the i-th of the file. A SPIN model is converted to BINARY, with +1 read as one.

    Args:
        file: open for reading in binary, at its beginning.
        path: its name, for messages.

    Raises:
        FileFormatError: the file does not follow the format; the message names the field.
    """
    size = file.seek(0, 2)
    file.seek(0)
    header, version = _read_header(file, path, size)
    n, interactions = header["shape"]
    bias, index, start = (np.dtype(header[name]).newbyteorder("<") for name in ("dtype", "itype", "ntype"))
    records = _record("start", start, bias), _record("neighbour", index, bias)
    expected = file.tell() + bias.itemsize + n * records[0].itemsize + 2 * interactions * records[1].itemsize
    labelled = version == 2 and header["variables"]
    if size < expected or (size > expected and not labelled):
        _fail(path, "shape", f"{n} variables and {interactions} couplings need {expected} bytes, the file has {size}")
    if _too_sparse_json(n, size):
        _fail(path, "shape", f"{n} variables need a matrix of {8 * n * n / 2**30:.1f} GiB, the file has {size} bytes")
    offset = float(_numbers(file, path, "offset", bias, 1)[0])
    if not math.isfinite(offset):
        _fail(path, "offset", f"is {offset}; it must be finite")
    variables = _numbers(file, path, "linear", records[0], n)
    linear = variables["bias"].astype(np.float64)
    if not np.isfinite(linear).all():
        _fail(path, "linear", f"bias {int(np.argmin(np.isfinite(linear)))} is not finite")
    starts = _checked_starts(variables["start"], 2 * interactions, path)
    Q = _read_couplings(file, path, records[1], starts)
    if labelled:
        _check_labels(file, path, n, size)
    if header["vartype"] == "SPIN":
        with np.errstate(over="ignore", invalid="ignore"):
            Q, linear, offset = spin_to_binary(Q, linear, offset)
        if not (np.isfinite(Q).all() and np.isfinite(linear).all() and math.isfinite(offset)):
            _fail(path, "vartype", "the SPIN model's biases overflow when converted to BINARY")
    return Q, linear, offset


def _record(name: str, integer: npt.DTypeLike, bias: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype([(name, np.dtype(integer).newbyteorder("<")), ("bias", np.dtype(bias).newbyteorder("<"))])


def _too_sparse_json(n: int, size: int) -> bool:
    return 8 * n * n > max(_ALWAYS_DENSE, _DENSE_FACTOR * size)


def _fail(path: Path, field: str, what: str) -> None:
    raise FileFormatError(f"{path}: {field}: {what}")


# Writing


def _neighbourhoods(rows: FloatArray, first: int, keep_zeros: bool) -> bytes:
    if keep_zeros:
        present = np.ones(rows.shape, np.bool_)
        present[np.arange(len(rows)), np.arange(first, first + len(rows))] = False
    else:
        present = rows != 0
    pairs = np.empty(int(np.count_nonzero(present)), _record("neighbour", "int32", "float64"))
    pairs["neighbour"] = np.nonzero(present)[1]
    with np.errstate(over="ignore"):
        pairs["bias"] = 2.0 * rows[present].astype(np.float64)
    if not np.isfinite(pairs["bias"]).all():
        raise ProblemError("Q has coefficients whose double, a dimod bias, is not finite; scale the problem")
    return pairs.tobytes()


# Reading


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The checked JSON header and the major version; the file is then positioned at the offset."""
    lead = file.read(len(_MAGIC) + 6)
    if lead[: len(_MAGIC)] != _MAGIC:
        _fail(path, "magic", f"begins with {lead[:8]!r}, not with {_MAGIC!r}; this is not a dimod BQM file")
    if len(lead) < len(_MAGIC) + 6:
        _fail(path, "header", f"the file ends after {size} bytes")
    version, minor, length = struct.unpack("<BBI", lead[len(_MAGIC) :])
    if version not in (1, 2) or minor != 0:
        _fail(path, "version", f"is {version}.{minor}; versions 1.0 and 2.0 are supported")
    if length > size - len(lead) or (version == 2 and length > _HEADER_BYTES):
        _fail(path, "header", f"its length is {length} bytes according to the file, which has {size}")
    header = parse_json(file.read(length), path, "header")
    allowed = {
        "dtype": _BIAS_TYPES, "itype": _INDEX_TYPES, "ntype": _INDEX_TYPES, "vartype": ("BINARY", "SPIN"),
    }  # fmt: skip
    for name, values in allowed.items():
        if header.get(name) not in values:
            _fail(path, name, f"is {header.get(name)!r}; one of {', '.join(values)} is needed")
    shape = header.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(s) is int and s >= 0 for s in shape)):
        _fail(path, "shape", f"is {shape!r}; [variables, couplings] is needed")
    n, interactions = header["shape"]
    if interactions > n * (n - 1) // 2:
        _fail(path, "shape", f"{n} variables have at most {n * (n - 1) // 2} couplings, not {interactions}")
    if version == 2 and not isinstance(header.get("variables"), bool):
        _fail(path, "variables", f"is {header.get('variables')!r}; true or false is needed")
    if version == 1 and not (isinstance(header.get("variables"), list) and len(header["variables"]) == n):
        _fail(path, "variables", f"a list of {n} labels is needed")
    return header, version


def _numbers(file: BinaryIO, path: Path, field: str, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """The next `count` numbers or records; the caller has checked that the file is large enough."""
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        _fail(path, field, f"the file ends after {len(data)} of {count * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype)


def _checked_starts(given: npt.NDArray[Any], total: int, path: Path) -> npt.NDArray[np.int64]:
    """The position of each variable's first neighbour, and the end of the last one's neighbours [n + 1]."""
    n = len(given)
    if n and int(given.max()) > total:
        _fail(path, "linear", f"a neighbourhood starts at {int(given.max())}, but there are {total} entries")
    starts = np.append(given.astype(np.int64), total)
    degrees = np.diff(starts)
    if (n and starts[0] != 0) or np.any(degrees < 0) or np.any(degrees > max(0, n - 1)):
        _fail(path, "linear", "the starts of the neighbourhoods do not ascend from 0 by at most n - 1")
    return starts


def _read_couplings(file: BinaryIO, path: Path, dtype: np.dtype[Any], starts: npt.NDArray[np.int64]) -> Float64Array:
    n = len(starts) - 1
    Q = np.zeros((n, n))
    first = 0
    while first < n:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1)
        last = min(last, n)
        pairs = _numbers(file, path, "quadratic", dtype, int(starts[last] - starts[first]))
        rows = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
        columns = pairs["neighbour"]
        if columns.size and (int(columns.min()) < 0 or int(columns.max()) >= n):
            _fail(path, "quadratic", f"a neighbour of the variables {first}..{last - 1} is not one of 0..{n - 1}")
        columns = columns.astype(np.int64)
        if np.any(columns == rows) or np.any(np.diff(rows * n + columns) <= 0):
            _fail(
                path,
                "quadratic",
                f"the neighbours of a variable in {first}..{last - 1} do not ascend, or include it",
            )
        biases = pairs["bias"].astype(np.float64)
        if not np.isfinite(biases).all():
            _fail(path, "quadratic", f"a bias of the variables {first}..{last - 1} is not finite")
        Q[rows, columns] = biases / 2
        first = last
    if not np.array_equal(Q, Q.T):
        i, j = (int(v) for v in np.argwhere(Q != Q.T)[0])
        _fail(
            path,
            "quadratic",
            f"the coupling of {i} and {j} is {2 * Q[i, j]} for {i} and {2 * Q[j, i]} for {j}",
        )
    return Q


def _check_labels(file: BinaryIO, path: Path, n: int, size: int) -> None:
    lead = file.read(8)
    if len(lead) < 8 or lead[:4] != b"VARS" or struct.unpack("<I", lead[4:])[0] != size - file.tell():
        _fail(path, "variables", "the section with the labels is damaged")
    text = file.read()
    labels = parse_json(b'{"labels": ' + text + b"}", path, "variables")["labels"]
    if not isinstance(labels, list) or len(labels) != n:
        _fail(path, "variables", f"a list of {n} labels is needed")
