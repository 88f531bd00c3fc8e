"""The results of a comparison: rows, and the figures and leaderboard derived from them."""

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
    """The results of several backends on several problems.

    Attributes:
        race: protocol, problems and backends.
        rows: one per solve.
        out: the comparison's folder, or None.
        interrupted: whether Ctrl-C stopped it.
        put_off: backends that could not continue, with the reason: a service is down, or the budget is used up.
        left: number of missing solves.
    """

    race: Race
    rows: Sequence[Row]
    out: Path | None = None
    interrupted: bool = False
    put_off: Mapping[str, str] = field(default_factory=dict)
    left: int = 0

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Comparison:
        """Read the results so far from a folder, without solving anything; the comparison may still be running.

        Raises:
            FileFormatError: a file is damaged, or the two files do not belong together.
            FileNotFoundError: the folder holds no comparison.
        """
        path = Path(folder)
        rows = read_rows(path / FILE)  # read first: a problem is in race.json before it has rows
        race = Race.read(path)
        race.check_rows(rows, path)
        return cls(race, rows, path)

    @functools.cached_property
    def groups(self) -> dict[Group, list[Row]]:
        """Rows by problem, backend and time limit, in the order of race.json."""
        problems, backends = list(self.race.problems), list(self.race.backends)

        def place(group: Group) -> tuple[int, int, float]:
            return problems.index(group[0]), backends.index(group[1]), math.inf if group[2] is None else group[2]

        found: dict[Group, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: row.seed):
            found.setdefault((row.problem, row.backend, row.time_limit), []).append(row)
        return {group: found[group] for group in sorted(found, key=place)}

    @functools.cached_property
    def standings(self) -> dict[str, Standing]:
        """The best known energy of each problem that has rows."""
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
        """The leaderboard; without easy problems, unless all are easy."""
        return measures.board(self.figures, self.standings)

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Pairwise comparisons of all backends."""
        return measures.pairs(self.figures, self.standings)

    @property
    def counting(self) -> list[str]:
        """Names of the problems that the leaderboard includes."""
        return measures.counting(self.standings)

    @property
    def machines(self) -> list[str]:
        """The machines on which the solves ran."""
        return list(dict.fromkeys(row.machine for row in self.rows if row.machine))

    def summary(self) -> dict[str, Any]:
        """The comparison as JSON values; infinite times are None."""
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
