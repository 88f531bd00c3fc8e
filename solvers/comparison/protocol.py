"""By what protocol solvers are raced, and the settings file that keeps two protocols out of one folder.

Everything that an energy or a second of results.csv depends on, beyond its own row, is in race.json: threads, start and
dispatch, what each problem is, and the settings that each backend ran with. A race may grow, by backends, seeds, time
limits and problems; it may not change.
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

_LARGEST = 1 << 28  # bytes of a race.json: a few KB a problem


@dataclass(frozen=True)
class Protocol:
    """What all rows of a race have in common.

    Attributes:
        threads: processors and threads that each racing process has.
        start: "cold", or "mask" for the state that leaves the network's masks as they are.
        dispatch: "serial" for one solve at a time; otherwise how tasks were handed out, and timings share machines.
        workers: solves at once.
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
    """The settings of a race, as race.json keeps them.

    Attributes:
        protocol: what all rows have in common.
        token: names the race in labels of calls to services.
        problems: the facts of each problem, by name.
        backends: of each backend, by its text, what ran: see :func:`solvers.comparison.racing.entrants.Entrant.record`.
    """

    protocol: Protocol
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4))
    problems: dict[str, Facts] = dataclasses.field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Race:
        """The race of a folder.

        Raises:
            FileFormatError: race.json is damaged, or another program's.
            FileNotFoundError: there is none.
        """
        path = folder / FILE
        with opened(path) as (file, size):
            if size > _LARGEST:
                raise FileFormatError(f"{path}: size: {size} bytes are more than the {_LARGEST} that are taken")
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
            raise FileFormatError(f"{path}: a field is missing or of another kind: {error}") from error

    def write(self, folder: Path) -> None:
        """Write race.json, whole or not at all."""
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
        """Refuse rows of another race.

        Raises:
            FileFormatError: a row's problem or backend is none of this race's.
        """
        for row in rows:
            if row.problem not in self.problems or row.backend not in self.backends:
                stranger = row.problem if row.problem not in self.problems else row.backend
                raise FileFormatError(
                    f"{folder / RESULTS}: {stranger!r} is not in {FILE}: the two do not belong together"
                )

    def admit_protocol(self, protocol: Protocol, folder: Path | None) -> None:
        """Refuse another protocol than the race's own.

        Raises:
            OptionError: names the first setting that differs.
        """
        for field in dataclasses.fields(Protocol):
            held, asked = getattr(self.protocol, field.name), getattr(protocol, field.name)
            if held != asked:
                raise OptionError(
                    f"{folder} holds a race with {field.name} {held!r}; this one asks for {asked!r}, and figures of "
                    f"the two cannot stand side by side. Ask for {held!r}, or choose another folder"
                )

    def admit_problem(self, facts: Facts, folder: Path | None) -> None:
        """Take a problem in, unless another one has its name.

        Raises:
            OptionError: a problem of this name and other coefficients, or cardinality, was raced already.
        """
        held = self.problems.setdefault(facts.name, facts)
        if held.fingerprint != facts.fingerprint:
            raise OptionError(
                f"{folder} has raced another problem called {facts.name!r} ({held.n} variables, {held.ones} ones, from "
                f"{held.origin}); rename the one from {facts.origin}, or choose another folder"
            )

    def admit_backend(self, text: str, record: Mapping[str, Any], folder: Path | None) -> None:
        """Take a backend in, unless its text stood for other settings before.

        Raises:
            OptionError: the defaults have changed since, or it is another's solver of the same name.
        """
        held = self.backends.setdefault(text, dict(record))
        if held["settings"] != record["settings"]:
            other = sorted(
                key
                for key in held["settings"] | record["settings"]
                if held["settings"].get(key) != record["settings"].get(key)
            )
            raise OptionError(
                f"{folder} has raced {text!r} with another {', '.join(other)} than it has now (defaults change between "
                "versions); write the settings out, or choose another folder"
            )

    def note_versions(self, text: str, record: Mapping[str, Any]) -> None:
        """Keep the versions by which a backend's next rows are made beside those of its rows so far."""
        held = dict(self.backends[text]["versions"])
        for name, version in record["versions"].items():
            told = str(held.get(name, version)).split(SEVERAL)
            held[name] = SEVERAL.join(dict.fromkeys([*told, version]))
        self.backends[text]["versions"] = held


SEVERAL = ", then "
"""Between versions of a toolkit by which the rows of one backend were made."""


_BACKEND = {
    "name": str, "settings": dict, "tuned": dict, "paradigm": str, "deterministic": bool, "remote": bool,
    "device": str, "versions": dict,
}  # fmt: skip
"""What is on record of a backend: see :meth:`solvers.comparison.racing.entrants.Entrant.record`."""


def _check_backend(text: str, record: Mapping[str, Any]) -> None:
    for key, kind in _BACKEND.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"backend {text!r}: {key} is {record.get(key)!r:.100}")


def checked_limits(time_limits: float | Sequence[float | None] | None) -> tuple[float | None, ...]:
    """Time limits in seconds, shortest first; None (the backend's own amount of work) last.

    Raises:
        OptionError: none, one that is not above 0, or one that is there twice.
    """
    given = list(time_limits) if isinstance(time_limits, Iterable) else [time_limits]
    if not given:
        raise OptionError("no time limit is given; one at least is needed, such as 1.0 seconds, or None")
    for limit in given:
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0.0 < limit < math.inf:
            raise OptionError(f"time limit {limit!r} must be a number of seconds above 0")
    limits = [None if limit is None else float(limit) for limit in given]
    if len(set(limits)) < len(limits):
        raise OptionError(f"time limits {given} name one twice")
    return tuple(sorted(limits, key=lambda limit: math.inf if limit is None else limit))


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def machine() -> str:
    """The processor here, and how many of them this process may use."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {processors()} processors"
