"""Formatting of figures and tests, headline and warnings, for the terminal and the HTML report."""

from __future__ import annotations

import math

from solvers.comparison.comparison import Comparison
from solvers.comparison.measures import Place
from solvers.comparison.protocol import SEVERAL
from solvers.comparison.statistics import NOISE, Interval, SignTest


def percent(gap: float | None) -> str:
    """A gap in per cent: 0 at the best known energy, 100 at a random state."""
    if gap is None:
        return "infeasible"
    if gap == 0.0:
        return "0 %"
    return f"{100 * gap:.3g} %" if gap < 10.0 else "> 1000 %"


def seconds(value: float | None) -> str:
    """A time in s, ms or µs."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "not reached"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def interval(given: Interval) -> str:
    """The ends of an interval."""
    low, high = (seconds(end).replace("not reached", "∞") for end in (given.low, given.high))
    return f"{low} to {high}"


def limit(value: float | None) -> str:
    """A time limit."""
    return "own work" if value is None else f"{value:g} s"


def verdict(test: SignTest) -> str:
    """The result of a sign test, of the first against the second."""
    if not test.pairs:
        return "not compared"
    if test.wins + test.losses == 0:
        return f"equal on all {test.ties}"
    counted = f"better on {test.wins}, worse on {test.losses}, equal on {test.ties}"
    return f"{counted}; p = {test.p:.2g}{', noise' if test.noise else ''}"


def score(test: SignTest) -> str:
    """The result of a sign test for a table cell: pairs won and lost by the first, and p or "noise"."""
    if not test.pairs:
        return "not compared"
    if test.wins + test.losses == 0:
        return "equal"
    return f"{test.wins}:{test.losses} {'noise' if test.noise else f'p {test.p:.2g}'}"


def headline(comparison: Comparison) -> list[str]:
    """The main result, one sentence or two per time limit."""
    sentences = []
    for limit_ in dict.fromkeys(place.time_limit for place in comparison.board):
        places = [place for place in comparison.board if place.time_limit == limit_]
        first = places[0]
        level = [place for place in places if place.order == first.order]
        others = places[len(level) :]
        within = "With its own amount of work" if limit_ is None else f"Within {limit_:g} s"
        if not any(place.feasible for place in places):
            sentences.append(f"{within}, no run found a feasible state.")
            continue
        if not first.kept:
            within += f" (exceeded: {seconds(first.seconds)} per solve)"
        if len(level) > 1:
            text = f"{within}, {' and '.join(place.backend for place in level)} are tied: {_reached(first)}."
        else:
            text = f"{within}, {first.backend} leads: {_reached(first)}."
        if others:
            text += f" {_next(others[0], first)}"
        sentences.append(text)
    return sentences


def _reached(place: Place) -> str:
    time = "" if math.isinf(place.time) else f" (median time for 99 %: {seconds(place.time)})"
    gap = "its runs are mostly infeasible" if place.gap is None else f"mean gap {percent(place.gap)}"
    return f"{place.successful} of {place.runs} runs reached the best known energy{time}; {gap}"


def _next(place: Place, first: Place) -> str:
    quality, speed = place.quality, place.speed
    assert quality is not None
    assert speed is not None
    if not quality.pairs:
        text = "not compared, because the two have no problem and seed in common"
    elif not quality.noise:
        over = f"sign test over {_count(quality.pairs, 'problem')}, p = {quality.p:.2g}"
        if quality.losses > quality.wins:
            text = f"its energies are higher ({over})"
        else:
            text = f"it has lower energies on more problems ({over}), although {_behind(place, first)}"
    elif not speed.noise:
        slower = speed.losses > speed.wins
        text = "its energies do not differ significantly, and it is "
        text += "slower" if slower else "faster on more problems"
        text += f" (p = {speed.p:.2g})" + ("" if slower else f", although {_behind(place, first)}")
    else:
        text = f"the difference is noise, in energies (p = {quality.p:.2g}) and in speed (p = {speed.p:.2g})"
    return f"Second is {place.backend}: {text}."


def _behind(place: Place, first: Place) -> str:
    """Why a backend ranks below the first, by the first criterion of the leaderboard in which they differ."""
    if place.gap is None:
        return "its runs are mostly infeasible"
    if place.problems < first.problems:
        return "it ran on fewer problems"
    if first.kept and not place.kept:
        return "it exceeds the time limit"
    if place.unsolved > first.unsolved:
        return "it leaves more problems unsolved"
    return "its mean gap is larger" if place.gap != first.gap else "its median time is longer"


def cautions(comparison: Comparison) -> list[str]:
    """Warnings about the validity of the figures."""
    found = []
    protocol = comparison.race.protocol
    if not protocol.fair:
        found.append(
            f"Up to {_count(protocol.workers, 'solve')} ran concurrently ({protocol.dispatch}) and shared the machine: "
            "their times are not comparable."
        )
    if len(comparison.machines) > 1:
        found.append(
            f"Results are from several machines, so times are not comparable: {'; '.join(comparison.machines)}."
        )
    for backend, record in comparison.race.backends.items():
        changed = [f"{name} {version}" for name, version in record["versions"].items() if SEVERAL in version]
        if changed:
            found.append(f"Results of {backend} are from several versions: {'; '.join(changed)}.")
    easy = [name for name, each in comparison.standings.items() if each.easy]
    if easy and len(easy) < len(comparison.standings):
        be = "is" if len(easy) == 1 else "are"
        found.append(
            f"{_count(len(easy), 'problem')} of {len(comparison.standings)} {be} easy (plain descent from a random "
            f"state mostly ends in the best known energy) and left out of headline and leaderboard."
        )
    elif easy:
        found.append("All problems are easy: plain descent from a random state mostly ends in the best known energy.")
    unproven = sum(not each.best.proven for each in comparison.standings.values())
    if unproven:
        found.append(f"The best known energy of {_count(unproven, 'problem')} is not proven: a lower one may exist.")
    found += [f"{name}: {each.contradicted}." for name, each in comparison.standings.items() if each.contradicted]
    for backend in comparison.race.backends:
        failed = [row for row in comparison.rows if row.backend == backend and row.status == "failed"]
        infeasible = sum(row.status == "infeasible" for row in comparison.rows if row.backend == backend)
        if failed:
            found.append(f"{backend} failed in {_count(len(failed), 'run')}: {failed[0].error}")
        if infeasible:
            found.append(f"{backend} found no feasible state in {_count(infeasible, 'run')}.")
    for place in comparison.board:
        if place.unsolved:
            found.append(
                f"{place.backend} has no feasible state in at least half of its runs on {place.unsolved} of "
                f"{_count(place.problems, 'problem')} ({limit(place.time_limit)}): the mean gap leaves these out, and "
                "backends with fewer of them rank higher."
            )
        if not place.kept:
            found.append(
                f"{place.backend} takes {seconds(place.seconds)} per solve (median) with a limit of "
                f"{limit(place.time_limit)}: it ranks below backends that keep the limit."
            )
    found += _incomplete(comparison)
    found += [f"{backend} could not continue: {why}" for backend, why in comparison.put_off.items()]
    few, tests = len(comparison.counting), sum(pair.quality.pairs > 0 for pair in comparison.pairs)
    enough = math.floor(math.log2(2 * tests / NOISE)) + 1 if tests else 0
    if few < enough:
        together = f" (corrected for {tests} pairs)" if tests > 1 else ""
        found.append(
            f"A sign test over {_count(few, 'problem')} cannot be significant: if one backend is better on all of "
            f"them, p = {min(1.0, 2 * tests * 0.5**few):.2g}{together}; p below {NOISE:g} needs {enough} problems."
        )
    return found


def _incomplete(comparison: Comparison) -> list[str]:
    """Warnings about backends with fewer problems or runs than others."""
    found = []
    counting = comparison.counting
    raced: dict[tuple[str, float | None], set[str]] = {}
    for problem, backend, limit_ in comparison.groups:
        raced.setdefault((backend, limit_), set()).add(problem)
    for (backend, limit_), names in raced.items():
        held = len(names.intersection(counting))
        if held < len(counting):
            found.append(
                f"{backend} ran on only {held} of {_count(len(counting), 'problem')} ({limit(limit_)}), so its figures "
                "are over fewer problems than those of other backends."
            )
    runs = {len(rows) for rows in comparison.groups.values()}
    if len(runs) > 1:
        found.append(
            f"The number of runs differs ({min(runs)} to {max(runs)}): times and medians over different runs are not "
            "comparable, and tests use common seeds only."
        )
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
