"""The protocol of a comparison and its settings file, race.json.

race.json holds all settings that results.csv depends on: threads, start and dispatch, properties of each problem, and
the settings of each backend. Backends, seeds, time limits and problems can be added later, but not changed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import platform
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from problems import FileFormatError
from problems.storage import check_schema, json_bytes, opened, parse_json, write_whole
from solvers.checks import at_least, one_of
from solvers.comparison.facts import Facts
from solvers.comparison.results import FILE as RESULTS
from solvers.comparison.results import Row
from solvers.errors import OptionError

SCHEMA, VERSION = "hybrid-icbs race", 1

FILE = "race.json"

STARTS = ("cold", "mask")

_LARGEST = 1 << 28  # bytes of race.json; a problem takes a few KB


@dataclass(frozen=True)
class Protocol:
    """Settings common to all rows of a comparison.

    Attributes:
        threads: processors and threads of each worker process.
        start: "cold", or "mask" for the network's current masks.
        dispatch: "serial" for one solve at a time; with any other, concurrent solves share the machine.
        workers: number of concurrent solves.
    """

    threads: int = 1
    start: str = "cold"
    dispatch: str = "serial"
    workers: int = 1

    def __post_init__(self) -> None:
        at_least(1, threads=self.threads, workers=self.workers)
        one_of(STARTS, start=self.start)

    @property
    def fair(self) -> bool:
        """Whether each solve had the machine to itself."""
        return self.dispatch == "serial"


@dataclass
class Race:
    """The settings of a comparison, stored in race.json.

    Attributes:
        protocol: settings common to all rows.
        token: identifies the comparison in labels of calls to services.
        problems: properties of each problem, by name.
        backends: settings of each backend, by its text: see :func:`solvers.comparison.racing.entrants.Entrant.record`.
    """

    protocol: Protocol
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4))
    problems: dict[str, Facts] = dataclasses.field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Race:
        """Read the settings of a folder.

        Raises:
            FileFormatError: race.json is damaged or from another program.
            FileNotFoundError: the folder has no race.json.
        """
        path = folder / FILE
        with opened(path) as (file, size):
            if size > _LARGEST:
                raise FileFormatError(f"{path}: size: {size} bytes; at most {_LARGEST} are allowed")
            values = parse_json(file.read(_LARGEST), path, "race")
        check_schema(values, SCHEMA, VERSION, path)
        try:
            for text, record in values["backends"].items():
                _check_backend(text, record)
            return cls(
                Protocol(**values["protocol"]),
                str(values["token"]),
                {name: Facts.of_record(name, record) for name, record in values["problems"].items()},
                {text: dict(record) for text, record in values["backends"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FileFormatError(f"{path}: a field is missing or has the wrong type: {error}") from error

    def write(self, folder: Path) -> None:
        """Write race.json atomically."""
        values = {
            "schema": SCHEMA,
            "version": VERSION,
            "protocol": dataclasses.asdict(self.protocol),
            "token": self.token,
            "backends": self.backends,
            "problems": {name: facts.record() for name, facts in self.problems.items()},
        }
        write_whole(folder / "race", {}, (".json", lambda _: json_bytes(values)))

    def check_rows(self, rows: Iterable[Row], folder: Path) -> None:
        """Refuse rows of another comparison.

        Raises:
            FileFormatError: a row's problem or backend is not in race.json.
        """
        for row in rows:
            if row.problem not in self.problems or row.backend not in self.backends:
                unknown = row.problem if row.problem not in self.problems else row.backend
                raise FileFormatError(
                    f"{folder / RESULTS}: {unknown!r} is not in {FILE}: the two files do not belong together"
                )

    def admit_protocol(self, protocol: Protocol, folder: Path | None) -> None:
        """Refuse a protocol that differs from the stored one.

        Raises:
            OptionError: names the first setting that differs.
        """
        for field in dataclasses.fields(Protocol):
            held, asked = getattr(self.protocol, field.name), getattr(protocol, field.name)
            if held != asked:
                raise OptionError(
                    f"{folder} holds a comparison with {field.name} {held!r}, not {asked!r}; their results are not "
                    f"comparable. Use {field.name} {held!r} or another folder"
                )

    def admit_problem(self, facts: Facts, folder: Path | None) -> None:
        """Add a problem, unless its name stands for another one.

        Raises:
            OptionError: the stored problem of this name has other coefficients or another cardinality.
        """
        held = self.problems.setdefault(facts.name, facts)
        if held.fingerprint != facts.fingerprint:
            raise OptionError(
                f"{folder} holds results for another problem named {facts.name!r} ({held.n} variables, {held.ones} "
                f"ones, from {held.origin}); rename the problem from {facts.origin} or use another folder"
            )

    def admit_backend(self, text: str, record: Mapping[str, Any], folder: Path | None) -> None:
        """Add a backend, unless its stored settings differ.

        Raises:
            OptionError: the defaults have changed, or another solver has the same name.
        """
        held = self.backends.setdefault(text, dict(record))
        if held["settings"] != record["settings"]:
            other = sorted(
                key
                for key in held["settings"] | record["settings"]
                if held["settings"].get(key) != record["settings"].get(key)
            )
            raise OptionError(
                f"{folder} holds results for {text!r} with other values of {', '.join(other)} (defaults change between "
                "versions); give these options explicitly or use another folder"
            )

    def note_versions(self, text: str, record: Mapping[str, Any]) -> None:
        """Add the current versions of a backend's toolkits to those of its earlier rows."""
        held = dict(self.backends[text]["versions"])
        for name, version in record["versions"].items():
            known = str(held.get(name, version)).split(SEVERAL)
            held[name] = SEVERAL.join(dict.fromkeys([*known, version]))
        self.backends[text]["versions"] = held


SEVERAL = ", then "
"""Separates the versions of a toolkit that a backend's rows were computed with."""


_BACKEND = {
    "name": str, "settings": dict, "tuned": dict, "paradigm": str, "deterministic": bool, "remote": bool,
    "device": str, "versions": dict,
}  # fmt: skip
"""Required fields of a backend in race.json: see :meth:`solvers.comparison.racing.entrants.Entrant.record`."""


def _check_backend(text: str, record: Mapping[str, Any]) -> None:
    for key, kind in _BACKEND.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"backend {text!r}: {key} is {record.get(key)!r:.100}")


def checked_limits(time_limits: float | Sequence[float | None] | None) -> tuple[float | None, ...]:
    """Time limits in seconds, ascending; None (the backend's own amount of work) last.

    Raises:
        OptionError: no limit, a limit of 0 or less, or a repeated limit.
    """
    given = list(time_limits) if isinstance(time_limits, Iterable) else [time_limits]
    if not given:
        raise OptionError("no time limit is given; give at least one, such as 1.0 seconds or None")
    for limit in given:
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0.0 < limit < math.inf:
            raise OptionError(f"time limit {limit!r} must be a number of seconds above 0")
    limits = [None if limit is None else float(limit) for limit in given]
    if len(set(limits)) < len(limits):
        raise OptionError(f"time limits {given} contain a value twice")
    return tuple(sorted(limits, key=lambda limit: math.inf if limit is None else limit))


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def machine() -> str:
    """The processor model, and the number of processors that this process may use."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {processors()} processors"
