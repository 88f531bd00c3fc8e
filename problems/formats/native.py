"""The project's own files of a block problem, and dimod's BQM files without a description.

A block called NAME is

    NAME.bqm         a dense objective without penalty, as dimod's binary file, which any dimod program reads; or
    NAME.npz         a low-rank one: "factor" [n, r] and "linear" [n], stored uncompressed;
    NAME.labels.npz  the labels, if it has any: "parameter" and "index" [n], stored uncompressed;
    NAME.json        everything else, and the checksums of the other files. It is put in place last, so that a block
                     whose writing was interrupted does not load.

Nothing is ever pickled, and every size is checked against the file's real size before memory is allocated.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from problems.data import BestKnown, Labels, ProblemData
from problems.errors import FileFormatError, ProblemError
from problems.formats.bqm import read_bqm, write_bqm
from problems.formats.format import Format, required
from problems.formats.npz import read_npz, write_npz
from problems.forms import DenseForm, LowRankForm, QuadraticForm
from problems.storage import check_schema, json_bytes, opened, parse_json, with_ending, write_whole

if TYPE_CHECKING:
    from problems.block import BlockProblem

SCHEMA, VERSION = "hybrid-icbs block problem", 1

_BQM, _NPZ, _JSON, _LABELS = ".bqm", ".npz", ".json", ".labels.npz"
_DATA = {"dense": _BQM, "low-rank": _NPZ}
_FIELDS = (
    "schema", "version", "form", "n", "dtype", "cardinality", "groups", "offset", "best_known", "provenance", "sha256",
)  # fmt: skip


def write(problem: BlockProblem, path: Path) -> Path:
    """Write a problem to files that share a name; either all are written or none.

    Args:
        problem: the block problem.
        path: NAME; an ending .bqm, .npz or .json is dropped, since the form decides it. The folder must exist.

    Returns:
        The file that holds the coefficients, NAME.bqm or NAME.npz.

    Raises:
        ProblemError: the provenance is too large or not JSON, or the name ends in ".labels".
        OSError: the files cannot be written.
    """
    base = _base(path)
    if base.name.endswith(".labels"):
        raise ProblemError(f"a block cannot be named {base.name!r}: NAME.labels.npz holds the labels of NAME")
    writers = _writers(problem)
    write_whole(base, writers, (_JSON, lambda ready: _description(problem, ready)))
    for ending in {_BQM, _NPZ, _LABELS} - set(writers):  # files of an earlier block of this name
        with_ending(base, ending).unlink(missing_ok=True)
    return with_ending(base, next(iter(writers)))


def read(path: Path, cardinality: int | npt.ArrayLike | None, groups: npt.ArrayLike | None) -> ProblemData:
    """Read a problem that :func:`write` wrote, or any dimod BQM file.

    Args:
        path: NAME.bqm, NAME.npz or NAME.json.
        cardinality: needed for a .bqm without a .json beside it; otherwise not used.
        groups: likewise, for a .bqm whose cardinality is one number for each group.

    Raises:
        FileFormatError: a file is damaged, truncated, oversized or of another kind; the message names the file and the
            field.
        FileNotFoundError: there is no such block.
    """
    base = _base(path)
    if with_ending(base, _JSON).exists():
        return _read_described(base, path.suffix)
    return _read_bare(base, cardinality, groups)


FORMAT = Format("block", read, (_JSON, _BQM, _NPZ), write=write, companions=(_JSON, _LABELS))


def _base(path: Path) -> Path:
    """NAME with its folder."""
    base = path.parent / path.stem if path.suffix in (_BQM, _NPZ, _JSON) else path
    if not base.name:
        raise ProblemError(f"{str(path)!r} names no block; NAME, NAME.bqm, NAME.npz or NAME.json is needed")
    return base


# Writing


def _writers(problem: BlockProblem) -> dict[str, Callable[[BinaryIO], None]]:
    form, linear, labels = problem.form, problem.linear, problem.labels
    writers: dict[str, Callable[[BinaryIO], None]] = {}
    if isinstance(form, LowRankForm):
        factor = form.factor
        writers[_NPZ] = lambda file: write_npz(file, {"factor": factor, "linear": linear})
    else:
        # A scaled form is written dense, since other problems may share its matrix: a file must be complete by itself.
        matrix = form.matrix if isinstance(form, DenseForm) else form.dense()
        writers[_BQM] = lambda file: write_bqm(file, matrix, problem.single_energies, problem.offset)
    if labels is not None:
        writers[_LABELS] = lambda file: write_npz(file, {"parameter": labels.parameter, "index": labels.index})
    return writers


def _description(problem: BlockProblem, ready: Mapping[str, Path]) -> bytes:
    """The bytes of NAME.json for the other files, already written under temporary names."""
    counts, groups, best = problem.constraint.counts, problem.groups, problem.best_known
    text = json_bytes({
        "schema": SCHEMA,
        "version": VERSION,
        "form": "low-rank" if problem.is_low_rank else "dense",
        "n": problem.n,
        "dtype": problem.form.dtype.name,
        "cardinality": problem.constraint.total if groups is None else counts.tolist(),
        "groups": None if groups is None else groups.tolist(),
        "offset": problem.offset,
        "best_known": best and {"energy": best.energy, "proven": best.proven, "found_by": best.found_by},
        "provenance": dict(problem.provenance),
        "sha256": {ending: _sha256(path) for ending, path in ready.items()},
    })  # fmt: skip
    limit = _json_limit(sum(path.stat().st_size for path in ready.values()))
    if len(text) > limit:
        raise ProblemError(f"provenance makes the .json {len(text)} bytes large; {limit} is the limit for this block")
    return text


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_limit(data_bytes: int) -> int:
    """Most bytes that NAME.json may have for so many bytes of data.

    1 MiB is for provenance and text; the rest for groups and their cardinalities, at most 24 bytes a variable, which
    has at least 8 bytes of data.
    """
    return (1 << 20) + 3 * data_bytes


# Reading


def _read_bare(base: Path, cardinality: Any, groups: npt.ArrayLike | None) -> ProblemData:
    """A .bqm file of another program."""
    path = with_ending(base, _BQM)
    if not path.exists():
        if with_ending(base, _NPZ).exists():
            raise FileFormatError(f"{with_ending(base, _NPZ)}: {base.name}{_JSON} is missing beside it")
        raise FileNotFoundError(f"no block at {base}: neither {base.name}{_JSON} nor {base.name}{_BQM} is there")
    required(path, cardinality)
    with opened(path) as (file, _):
        Q, linear, offset = read_bqm(file, path)
    return ProblemData.of_form(_dense(Q), linear, cardinality, offset=offset, groups=groups)


def _read_described(base: Path, asked: str) -> ProblemData:
    path = with_ending(base, _JSON)
    beside = [with_ending(base, ending) for ending in (_BQM, _NPZ, _LABELS)]
    with opened(path) as (file, size):
        limit = _json_limit(sum(other.stat().st_size for other in beside if other.exists()))
        if size > limit:
            raise FileFormatError(f"{path}: size: {size} bytes; a block of this size needs at most {limit}")
        values = parse_json(file.read(limit), path, "description")
    _check_description(values, path)
    data = _DATA[values["form"]]
    if asked in (_BQM, _NPZ) and asked != data:
        raise FileFormatError(f"{path}: form: says {values['form']}, so the block is {base.name}{data}, not {asked}")
    form, linear = _read_dense(base, values) if data == _BQM else _read_low_rank(base, values)
    labels = _read_labels(base, values) if _LABELS in values["sha256"] else None
    best = values["best_known"]
    try:
        return ProblemData.of_form(
            form, linear, values["cardinality"], offset=float(values["offset"]), groups=values["groups"],
            labels=labels, provenance=values["provenance"],
            best_known=best and BestKnown(float(best["energy"]), best["proven"], best["found_by"]),
        )  # fmt: skip
    except ProblemError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _check_description(values: dict[str, Any], path: Path) -> None:
    check_schema(values, SCHEMA, VERSION, path)
    for name in _FIELDS:
        if name not in values:
            raise FileFormatError(f"{path}: {name}: is missing")
    for name in values:
        if name not in _FIELDS:
            raise FileFormatError(f"{path}: {name!r:.100}: is not a field of version {VERSION}")
    best, sums, ending = values["best_known"], values["sha256"], _DATA.get(str(values["form"]))
    demands = {
        "form": (values["form"] in tuple(_DATA), "dense or low-rank"),
        "n": (_is_count(values["n"]), "an integer >= 0"),
        "dtype": (values["dtype"] in ("float32", "float64"), "float32 or float64"),
        "cardinality": (_is_count(values["cardinality"]) or _are_counts(values["cardinality"]),
                        "an integer >= 0, or a list of them"),
        "groups": (values["groups"] is None or _are_counts(values["groups"]), "null, or a list of integers >= 0"),
        "offset": (_is_number(values["offset"]), "a number"),
        "provenance": (isinstance(values["provenance"], dict), "an object"),
        "best_known": (best is None or (
            isinstance(best, dict) and set(best) == {"energy", "proven", "found_by"} and _is_number(best["energy"])
            and isinstance(best["proven"], bool) and isinstance(best["found_by"], str)
        ), "null, or an object of energy, proven and found_by"),
        "sha256": (
            isinstance(sums, dict) and ending in sums and set(sums) <= {ending, _LABELS}
            and all(isinstance(digest, str) for digest in sums.values()),
            f"an object with the checksum of {ending}",
        ),
    }  # fmt: skip
    for name, (met, demand) in demands.items():
        if not met:
            raise FileFormatError(f"{path}: {name}: is {repr(values[name])[:100]}; {demand} is needed")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _read_dense(base: Path, values: dict[str, Any]) -> tuple[QuadraticForm, npt.NDArray[np.float64]]:
    path = with_ending(base, _BQM)
    with _checked(path, values["sha256"][_BQM]) as file:
        Q, linear, offset = read_bqm(file, path)
    _check_count(path, "variables", len(linear), values["n"])
    if offset != values["offset"]:
        raise FileFormatError(f"{path}: offset: is {offset}, but {base.name}{_JSON} says {values['offset']}")
    form = _dense(Q)
    if values["dtype"] == "float32":
        with np.errstate(over="ignore"):
            form = _dense(Q.astype(np.float32))
        if not np.array_equal(form.matrix, Q):
            raise FileFormatError(f"{path}: dtype: {base.name}{_JSON} says float32, which cannot hold the couplings")
    return form, linear


def _read_low_rank(base: Path, values: dict[str, Any]) -> tuple[QuadraticForm, npt.NDArray[np.float64]]:
    path = with_ending(base, _NPZ)
    with _checked(path, values["sha256"][_NPZ]) as file:
        arrays = read_npz(file, path, {"factor": ((values["dtype"],), 2), "linear": (("float64",), 1)})
    for name, array in arrays.items():
        _check_count(path, name, len(array), values["n"])
    try:
        return LowRankForm.of(arrays["factor"]), arrays["linear"]
    except ProblemError as error:
        raise FileFormatError(f"{path}: factor: {error}") from error


def _read_labels(base: Path, values: dict[str, Any]) -> Labels:
    path = with_ending(base, _LABELS)
    with _checked(path, values["sha256"][_LABELS]) as file:
        arrays = read_npz(file, path, {"parameter": (("int32",), 1), "index": (("int64",), 1)})
    for name, array in arrays.items():
        _check_count(path, name, len(array), values["n"])
    return Labels(arrays["parameter"], arrays["index"])


@contextlib.contextmanager
def _checked(path: Path, digest: str) -> Iterator[io.BufferedReader]:
    """A file of a block with the right checksum, open at its beginning."""
    if not path.exists():
        raise FileFormatError(f"{path}: is missing, but the .json beside it describes it")
    with opened(path) as (file, _):
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise FileFormatError(f"{path}: sha256: the checksum is not that of the .json; the file was changed")
        file.seek(0)
        yield file


def _check_count(path: Path, name: str, found: int, n: int) -> None:
    if found != n:
        raise FileFormatError(f"{path}: {name}: there are {found}, but the .json says n is {n}")


def _dense(Q: npt.NDArray[Any]) -> DenseForm:
    """The form of a matrix that the reader has checked; DenseForm.split would check and copy it again."""
    Q.flags.writeable = False
    return DenseForm(Q)
