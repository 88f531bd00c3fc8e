"""A race as its reader wants it: figures, standings, leaderboard, files. All of it follows from the rows."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solvers.comparison import measures
from solvers.comparison.measures import Figures, Pair, Place, Standing
from solvers.comparison.protocol import Race
from solvers.comparison.results import FILE, Row, read_rows

Group = tuple[str, str, float | None]
"""Problem, backend and time limit."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Backends raced on problems.

    Attributes:
        race: protocol, problems and backends.
        rows: one for each solve.
        out: the race's folder, or None.
        interrupted: whether Ctrl-C ended it.
        put_off: backends that could not go on for now, a service that is down or a budget that is spent, and why.
        left: solves that are still to be done.
    """

    race: Race
    rows: Sequence[Row]
    out: Path | None = None
    interrupted: bool = False
    put_off: Mapping[str, str] = field(default_factory=dict)
    left: int = 0

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Comparison:
        """The comparison of a race's folder as far as it has come, without racing; the race may be going on.

        Raises:
            FileFormatError: a file is damaged, or the two are not of one race.
            FileNotFoundError: no race is there.
        """
        path = Path(folder)
        rows = read_rows(path / FILE)  # first: problems are in race.json before they have rows
        race = Race.read(path)
        race.check_rows(rows, path)
        return cls(race, rows, path)

    @functools.cached_property
    def groups(self) -> dict[Group, list[Row]]:
        """The rows of each problem, backend and time limit: problems and backends in the race's order."""
        problems, backends = list(self.race.problems), list(self.race.backends)

        def place(group: Group) -> tuple[int, int, float]:
            return problems.index(group[0]), backends.index(group[1]), math.inf if group[2] is None else group[2]

        found: dict[Group, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: row.seed):
            found.setdefault((row.problem, row.backend, row.time_limit), []).append(row)
        return {group: found[group] for group in sorted(found, key=place)}

    @functools.cached_property
    def standings(self) -> dict[str, Standing]:
        """Each problem that has rows, with its best known energy."""
        by_problem: dict[str, list[Row]] = {}
        for row in self.rows:
            by_problem.setdefault(row.problem, []).append(row)
        return {
            name: measures.standing(facts, by_problem[name])
            for name, facts in self.race.problems.items()
            if name in by_problem
        }

    @functools.cached_property
    def figures(self) -> list[Figures]:
        """The figures of each problem, backend and time limit."""
        return [measures.figures(self.standings[group[0]], rows) for group, rows in self.groups.items()]

    @functools.cached_property
    def board(self) -> list[Place]:
        """The leaderboard; easy problems left out, unless all are easy."""
        return measures.board(self.figures, self.standings)

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Every two backends against each other."""
        return measures.pairs(self.figures, self.standings)

    @property
    def counting(self) -> list[str]:
        """Names of the problems that the leaderboard is made of."""
        return measures.counting(self.standings)

    @property
    def machines(self) -> list[str]:
        """Where the rows came from."""
        return list(dict.fromkeys(row.machine for row in self.rows if row.machine))

    def summary(self) -> dict[str, Any]:
        """The race as JSON values; infinite times are None."""
        return {
            "out": None if self.out is None else str(self.out),
            "interrupted": self.interrupted,
            "left": self.left,
            "put_off": dict(self.put_off),
            "rows": len(self.rows),
            "protocol": dataclasses.asdict(self.race.protocol),
            "machines": self.machines,
            "backends": self.race.backends,
            "counting": self.counting,
            "leaderboard": [_plain(place) for place in self.board],
            "figures": [_plain(each) for each in self.figures],
            "pairs": [_plain(pair) for pair in self.pairs],
            "problems": {name: _problem(each) for name, each in self.standings.items()},
        }


def _problem(standing: Standing) -> dict[str, Any]:
    values = standing.facts.record()
    values.pop("descents")
    return values | {
        "best_known": dataclasses.asdict(standing.best),
        "easy": standing.easy,
        "descent_rate": standing.facts.descent_rate(standing.best.energy),
        "contradicted": standing.contradicted,
    }


def _plain(value: Any) -> Any:
    values = dataclasses.asdict(value)
    for key in ("quality", "speed"):
        if values.get(key) is not None:
            values[key]["noise"] = getattr(value, key).noise
    return _finite(values)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
