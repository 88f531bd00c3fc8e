"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from solvers.comparison import words
from solvers.comparison.comparison import Comparison
from solvers.comparison.measures import Place

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def leaderboard(comparison: Comparison) -> Group:
    """The leaderboard as rich tables, one per time limit, in 80 columns."""
    from rich.console import Group

    limits = dict.fromkeys(place.time_limit for place in comparison.board)
    count = len(comparison.counting)
    over = f"over {count} problem{'' if count == 1 else 's'}"
    return Group(*(
        _table(
            f"leaderboard {over}, {'own amount of work' if limit is None else f'{limit:g} s a solve'}",
            [place for place in comparison.board if place.time_limit == limit],
            count,
        )
        for limit in limits
    ))  # fmt: skip


def _table(title: str, places: Sequence[Place], count: int) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("backend", overflow="fold", min_width=9)
    partly = any(place.problems != count for place in places)
    heads = [
        "mean\ngap",
        "reached\nbest",
        "feasible",
        "time to\nbest, 99 %",
        "energy vs\nthe first",
        "speed vs\nthe first",
    ]
    for head in ["prob-\nlems", *heads] if partly else heads:
        made.add_column(head, justify="right", no_wrap=True)
    for place in places:
        against = ["" if test is None else words.score(test) for test in (place.quality, place.speed)]
        made.add_row(
            place.backend, *([f"{place.problems}/{count}"] if partly else []), words.percent(place.gap),
            f"{place.successful}/{place.runs}",
            f"{place.feasible}/{place.runs}", words.seconds(place.time), *against,
        )  # fmt: skip
    return made


def footnotes(comparison: Comparison) -> list[str]:
    """Lines below the table: protocol, changed settings, set-up times, warnings."""
    protocol, race = comparison.race.protocol, comparison.race
    start = "cold start" if protocol.start == "cold" else "start from the current mask"
    lines = [
        f"protocol {protocol.threads} thread{'s' if protocol.threads > 1 else ''} a solve, {start}, {protocol.dispatch}"
    ]
    for text, record in race.backends.items():
        tuned = ", ".join(f"{key}={value}" for key, value in record["tuned"].items())
        if tuned:
            lines.append(f"tuned    {text}: {tuned}")
    setup = {text: sum(row.setup for row in comparison.rows if row.backend == text) for text in race.backends}
    lines.append(
        f"set-up   {', '.join(f'{text} {words.seconds(spent)}' for text, spent in setup.items())}, not included above"
    )
    lines += [f"note     {caution}" for caution in words.cautions(comparison)]
    return lines
