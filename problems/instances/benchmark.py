"""The benchmark set: real block problems of three networks with best known energies, part of the package.

A folder of NAME.npz (coefficients, see :mod:`problems.instances.compact`), NAME.json (the record) and manifest.json.
benchmarks/make_instances.py makes it; docs/instances.md is its datasheet.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from problems.block import BlockProblem
from problems.data import BestKnown
from problems.errors import FileFormatError, ProblemError
from problems.forms import StateArray
from problems.instances.compact import Compact, unpacked
from problems.names import suggestion
from problems.sets import BlockSet, load_set
from problems.storage import check_schema, json_bytes, opened, parse_json, write_whole

SCHEMA, SET_SCHEMA, VERSION = "hybrid-icbs benchmark instance", "hybrid-icbs benchmark set", 1

FOLDER = Path(__file__).parent / "set"
_SMALL = Path(__file__).parent / "small"
_JSON_LIMIT = 1 << 20
_FIELDS = (
    "schema", "version", "name", "source", "family", "form", "n", "cardinality", "rank", "offset", "best_known",
    "best_state", "descent", "layers", "provenance", "sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Descent:
    """How often plain descent finds the best known energy.

    Attributes:
        tries: number of descents, from uniformly random feasible states to states that no swap improves.
        found: how many of them ended at the best known energy, up to rounding.
    """

    tries: int
    found: int

    @property
    def rate(self) -> float:
        """Fraction of the descents that found it."""
        return self.found / self.tries


@dataclass(frozen=True)
class Instance:
    """The record of a block of the set; :meth:`load` reads the block problem.

    Attributes:
        name: its name, NETWORK-FAMILY-nN-kK.
        source: the network: "mlpnet", "resnet20" or "llama".
        family: "typical", a block of a run with the default preset, or "picked", the one of many candidates that plain
            descent solves least often.
        form: "dense" or "low-rank".
        n: number of variables.
        cardinality: demanded number of ones, k.
        rank: columns of the factor, one for each sample.
        offset: the constant in every energy.
        best_known: the lowest energy found, whether it is proven optimal, and which solver found it.
        descent: how often plain descent finds it.
        layers: number of weights of each layer of the network, in the order of `Labels.parameter`.
        provenance: how the block was made.
        sha256: checksum of NAME.npz.
    """

    name: str
    source: str
    family: str
    form: Literal["dense", "low-rank"]
    n: int
    cardinality: int
    rank: int
    offset: float
    best_known: BestKnown
    descent: Descent
    layers: Mapping[str, int]
    provenance: Mapping[str, Any]
    sha256: str
    best_state: str
    """A state of the best known energy, bits in base64; :meth:`best` unpacks it."""
    folder: Path = FOLDER

    @property
    def easy(self) -> bool:
        """Whether more than half of the descents find the best known energy; such instances distinguish no solvers."""
        return self.descent.rate > 0.5

    def load(self, dense: bool | None = None) -> BlockProblem:
        """Read the block problem with labels and provenance, which contains the "optimum" if it is proven.

        Args:
            dense: the dense form (float32, exact) or the low-rank one; None for that of `form`.

        Raises:
            FileFormatError: the file is damaged.
        """
        compact = self._compact()
        facts: dict[str, Any] = {**self.provenance, "instance": self.name, "source": self.source}
        if self.best_known.proven:
            facts["optimum"] = np.flatnonzero(self.best()).tolist()
        problem = compact.problem(
            self.cardinality, offset=self.offset, labels=compact.labels(list(self.layers.values())), provenance=facts,
            best_known=self.best_known,
        )  # fmt: skip
        return problem.to_dense(np.float32) if (self.form == "dense" if dense is None else dense) else problem

    def mask(self) -> StateArray:
        """The state of the network's present masks: ones for the weights that are pruned now [n], int8."""
        return self._compact().mask()

    def best(self) -> StateArray:
        """A state of the best known energy [n], int8.

        Raises:
            FileFormatError: the record has none of this size.
        """
        try:
            bits = np.frombuffer(base64.b64decode(self.best_state, validate=True), np.uint8)
        except (ValueError, binascii.Error) as error:
            raise FileFormatError(f"{self._path('.json')}: best_state: is not base64: {error}") from error
        if len(bits) != -(-self.n // 8):
            raise FileFormatError(f"{self._path('.json')}: best_state: has {len(bits)} bytes, not {-(-self.n // 8)}")
        return unpacked(bits, self.n)

    def _compact(self) -> Compact:
        path = self._path(".npz")
        with opened(path) as (file, _):
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise FileFormatError(f"{path}: sha256: the file is not the one that {self.name}.json describes")
        compact = Compact.read(path)
        if compact.factor.shape != (self.n, self.rank):
            raise FileFormatError(f"{path}: factor: is {list(compact.factor.shape)}, not {[self.n, self.rank]}")
        return compact

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"


def names() -> tuple[str, ...]:
    """Names of the benchmark set's instances, by network, family and size."""
    return tuple(_records())


def facts(name: str) -> Instance:
    """The record of an instance.

    Raises:
        ProblemError: no instance has that name; the message lists the nearest names.
    """
    records = _records()
    if name not in records:
        raise ProblemError(f"no instance {name!r}{_meant(name)}")
    return records[name]


def load(name: str, dense: bool | None = None) -> BlockProblem:
    """The block problem of an instance, by name; `facts(name)` is its record.

    Args:
        name: its name.
        dense: the dense or the low-rank form; None for the instance's own.

    Raises:
        ProblemError: no instance has that name; the message lists the nearest names.

    Example:
        >>> from problems import instances
        >>> instances.load("resnet20-picked-n32-k16").n
        32
    """
    return facts(name).load(dense)


def curated(
    *patterns: str,
    n: int | tuple[int, int] | None = None,
    form: Literal["dense", "low-rank"] | None = None,
    source: str | None = None,
    family: str | None = None,
    easy: bool | None = None,
    proven: bool | None = None,
) -> tuple[Instance, ...]:
    """Instances of the benchmark set, in its order, that match all arguments; without arguments, all.

    Args:
        patterns: names, or shell patterns such as "llama-*"; none for all.
        n: number of variables, or the least and the most of them.
        form: "dense" or "low-rank".
        source: the network.
        family: "typical" or "picked".
        easy: whether plain descent mostly finds the best known energy; False for what headlines are made of.
        proven: whether the best known energy is proven.

    Raises:
        ProblemError: a pattern, or a source, family or form, that no instance has; the nearest are named.

    Example:
        >>> from problems import instances
        >>> [i.name for i in instances.curated("mlpnet-*", n=(16, 24), easy=False)]  # doctest: +SKIP
    """
    chosen = tuple(_records().values()) if not patterns else _matching(patterns)
    for what, value in (("source", source), ("family", family), ("form", form)):
        known = list(dict.fromkeys(getattr(each, what) for each in _records().values()))
        if value is not None and value not in known:
            raise ProblemError(f"no instance has the {what} {value!r}; there are {', '.join(known)}")
        chosen = tuple(each for each in chosen if value is None or getattr(each, what) == value)
    low, high = n if isinstance(n, tuple) else (n, n)
    return tuple(
        each
        for each in chosen
        if (low is None or low <= each.n)
        and (high is None or each.n <= high)
        and (easy is None or each.easy == easy)
        and (proven is None or each.best_known.proven == proven)
    )


def pruning() -> BlockSet:
    """Seven small real pruning blocks with proven optima, by number or by name, for tests.

    Empirical Fisher blocks of a small classifier pruned to density 0.1 by magnitude; each one's provenance says
    which. :func:`known_optimum` gives an optimum.

    Example:
        >>> from problems import instances
        >>> instances.pruning()["fc3_n12_k6"].n
        12
    """
    return load_set(_SMALL)


def pruning_names() -> tuple[str, ...]:
    """Names of the blocks of :func:`pruning`."""
    return pruning().names


# The folder


def read_records(folder: Path) -> dict[str, Instance]:
    """The records of all instances of a folder, by name, in the order of the manifest.

    Raises:
        FileFormatError: the manifest or a record is damaged; the message names the file and the field.
        FileNotFoundError: a file is missing.
    """
    path = folder / "manifest.json"
    manifest = _read_json(path, SET_SCHEMA)
    listed = manifest.get("instances")
    if not isinstance(listed, list) or not all(isinstance(name, str) and Path(name).name == name for name in listed):
        raise FileFormatError(f"{path}: instances: must be a list of names")
    return {name: _read_record(folder, name) for name in listed}


def write_record(instance: Instance) -> None:
    """Write NAME.json beside NAME.npz, whole or not at all."""
    best, tries = instance.best_known, instance.descent
    values = {
        "schema": SCHEMA,
        "version": VERSION,
        **{key: getattr(instance, key) for key in ("name", "source", "family", "form", "n", "cardinality", "rank")},
        "offset": instance.offset,
        "best_known": {"energy": best.energy, "proven": best.proven, "found_by": best.found_by},
        "best_state": instance.best_state,
        "descent": {"tries": tries.tries, "found": tries.found},
        "layers": dict(instance.layers),
        "provenance": dict(instance.provenance),
        "sha256": instance.sha256,
    }
    write_whole(instance.folder / instance.name, {}, (".json", lambda _: json_bytes(values)))


def write_manifest(folder: Path, listed: Iterable[str]) -> None:
    """Write manifest.json."""
    values = {"schema": SET_SCHEMA, "version": VERSION, "instances": list(listed)}
    write_whole(folder / "manifest", {}, (".json", lambda _: json_bytes(values)))


@functools.cache
def _records() -> dict[str, Instance]:
    return read_records(FOLDER)


def _read_json(path: Path, schema: str) -> dict[str, Any]:
    with opened(path) as (file, size):
        if size > _JSON_LIMIT:
            raise FileFormatError(f"{path}: size: {size} bytes; a record has at most {_JSON_LIMIT}")
        values = parse_json(file.read(_JSON_LIMIT), path, "record")
    check_schema(values, schema, VERSION, path)
    return values


def _read_record(folder: Path, name: str) -> Instance:
    path = folder / f"{name}.json"
    values = _read_json(path, SCHEMA)
    if set(values) != set(_FIELDS) or values["name"] != name:
        wrong = sorted(set(values) ^ set(_FIELDS)) or ["name"]
        raise FileFormatError(f"{path}: {', '.join(wrong)[:100]}: missing, unknown, or of another instance")
    try:
        return Instance(
            name=name,
            source=str(values["source"]),
            family=str(values["family"]),
            form="dense" if values["form"] == "dense" else "low-rank",
            n=int(values["n"]),
            cardinality=int(values["cardinality"]),
            rank=int(values["rank"]),
            offset=float(values["offset"]),
            best_known=BestKnown(**values["best_known"]),
            descent=Descent(**values["descent"]),
            layers={str(key): int(size) for key, size in values["layers"].items()},
            provenance=dict(values["provenance"]),
            sha256=str(values["sha256"]),
            best_state=str(values["best_state"]),
            folder=folder,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: a field has a value of another type: {str(error)[:200]}") from error


def _matching(patterns: tuple[str, ...]) -> tuple[Instance, ...]:
    chosen: dict[str, Instance] = {}
    for pattern in patterns:
        found = fnmatch.filter(_records(), pattern)
        if not found:
            raise ProblemError(f"no instance matches {pattern!r}{_meant(pattern)}")
        chosen |= {name: _records()[name] for name in found}
    return tuple(each for name, each in _records().items() if name in chosen)


def _meant(name: str) -> str:
    meant = suggestion(name.lower(), _records(), 3)
    return f"{meant or ';'} `hybrid-icbs instances list` lists all"
