"""The race itself: what is still to be solved is solved, one task after the other, and every row is on disk at once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import problems
from problems import BlockProblem
from solvers.base import Solver
from solvers.checks import at_least
from solvers.comparison import protocol as settings
from solvers.comparison.comparison import Comparison
from solvers.comparison.facts import Facts
from solvers.comparison.inputs import MEMORY, Given, Source, current_mask, gathered, source
from solvers.comparison.output import write
from solvers.comparison.protocol import Protocol, Race, checked_limits, processors
from solvers.comparison.racing.entrants import Entrant, entered
from solvers.comparison.racing.spending import CALLS
from solvers.comparison.racing.track import RaceTask, close_tracks, race_task, tracks_closed
from solvers.comparison.results import FILE, Key, Results, Row
from solvers.dispatch import WAYS, Dispatch, get_dispatch
from solvers.errors import OptionError
from solvers.local.repair import repair
from solvers.registry import parse
from solvers.remote.ledger import fingerprint
from solvers.run import MAX_SEED, on_interrupt

SPOOL = ".problems"
"""Folder, while a race goes on, of the files that its processes read."""

MOST_SEEDS = 100_000
"""Beyond, the list of what is to be solved alone takes gigabytes."""

OnProgress = Callable[[str, int, int], None]
"""Told what is going on, how many tasks are done, and how many there are."""


def compare(
    given: Given | Source | Mapping[str, BlockProblem] | Iterable[Given | Source],
    backends: str | Solver | Iterable[str | Solver] = ("sa", "tabu"),
    *,
    time_limits: float | Sequence[float | None] | None = 1.0,
    seeds: int = 5,
    first_seed: int = 0,
    threads: int = 1,
    start: str = "cold",
    out: str | os.PathLike[str] | None = None,
    cardinality: int | None = None,
    dispatch: str | Dispatch = "serial",
    max_calls: int | None = None,
    max_charge: float | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Race backends on block problems by one protocol, and measure them.

    Each backend works in a process of its own with the same number of processors; its imports and compilation come
    before the clock. Backends take turns on each problem and seed, so that a machine that slows down slows all of them.
    Energies are recomputed, infeasible answers are counted and never scored.

    With a folder, each row is on disk before the next solve begins: the same call goes on where a race was stopped or
    killed, and one with more backends, seeds, time limits or problems adds only their rows.

    Args:
        given: a problem, a file (NAME.npz, NAME.bqm, an MDPLIB file), a folder of such, "instances:PATTERN" for those
            that ship, or several of these; or problems by name.
        backends: texts such as "sa?restarts=32" or "dimod:package.Sampler", or solvers.
        time_limits: seconds for each solve, one or several; None for each backend's own amount of work.
        seeds: how many solves of each problem, backend and time limit.
        first_seed: the first of them.
        threads: processors and threads of a solve.
        start: "cold", or "mask" for the state that leaves the network's masks as they are.
        out: folder of race.json, results.csv, submission.csv and report.html; None keeps nothing.
        cardinality: for .bqm files from elsewhere.
        dispatch: "serial" for one solve at a time; "threads", "processes?workers=4", "ray" and all else that
            :func:`solvers.dispatch.get_dispatch` takes for several, whose times then share the machine; a
            :class:`solvers.dispatch.Dispatch` is left open. Calls to services are made one after the other all the
            same.
        max_calls: calls to services that the race may make in all.
        max_charge: seconds that services may bill it in all.
        on_progress: told of every task before it begins.

    Returns:
        The comparison, `interrupted` where Ctrl-C ended it. With `out` its files are written.

    Raises:
        OptionError: a backend, option or number that cannot be used, or a folder that holds a race by another protocol.
        UnavailableError: a backend lacks something; the message says what.
        ProblemError: a problem that cannot be used.
        FileFormatError: a damaged file.
        SolverError: another race is writing into the folder.

    Example:
        >>> from problems import BlockProblem
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> race = compare({"small": problem}, ["exact"], time_limits=None, seeds=1)
        >>> race.rows[0].energy
        1.0
    """
    way = _way(dispatch, threads)
    way.refuse_what_is_missing()
    asked = Protocol(threads, start, way.name, way.workers)
    limits = checked_limits(time_limits)
    if way.name != "ray" and threads > processors():  # Ray's nodes may have more
        raise OptionError(
            f"threads {threads} are more than the {processors()} processors that this process may use; ask for "
            f"{processors()} or fewer"
        )
    at_least(1, seeds=seeds)
    if seeds > MOST_SEEDS:
        raise OptionError(f"seeds {seeds} are too many; {MOST_SEEDS} is the most")
    at_least(0, first_seed=first_seed)
    if max_calls is not None:
        at_least(0, max_calls=max_calls)
    if max_charge is not None and not 0.0 <= max_charge < math.inf:
        raise OptionError(f"max_charge {max_charge!r} must be a number of seconds, 0 or more")
    if first_seed + seeds - 1 > MAX_SEED:
        raise OptionError(f"first_seed {first_seed} is too large for {seeds} seeds; {MAX_SEED} is the largest")
    entrants = entered(backends, threads)
    remote = [entrant.text for entrant in entrants if entrant.solver.capabilities.remote]
    if remote and out is None:
        raise OptionError(f"{remote[0]} calls a service; give out=, a folder in which its calls are on record")
    listed = gathered(given, cardinality)
    folder = None if out is None else _folder(Path(out))
    tell = on_progress or _nobody
    with Results(None if folder is None else folder / FILE) as results, _spool(folder) as spool:
        race = _opened(folder, asked, results)
        for entrant in entrants:
            race.admit_backend(entrant.text, entrant.record(), folder)
        lineup = _Lineup(race, folder, results, spool, entrants, limits, range(first_seed, first_seed + seeds))
        interrupted = False
        try:
            for place, each in enumerate(listed):
                tell(f"looking at {each.name}", place, len(listed))
                lineup.admit(each)
                lineup.looked_at += 1
            tasks = list(lineup.tasks(max_calls, max_charge))
            raced = {task.backend for task in tasks}
            for entrant in entrants:
                if entrant.text in raced:
                    race.note_versions(entrant.text, entrant.record())
            if folder is not None:
                race.write(folder)
            with contextlib.nullcontext() if isinstance(dispatch, Dispatch) else way, tracks_closed():
                lineup.run(tasks, way, tell)
        except KeyboardInterrupt:
            interrupted = True
            lineup.count_those_not_looked_at(listed)
        comparison = Comparison(
            race, results.rows, folder, interrupted=interrupted, put_off=lineup.put_off, left=lineup.left
        )
        if folder is not None and comparison.rows:
            write(comparison, folder)
    return comparison


@dataclass
class _Lineup:
    """The problems of a race, ready for its processes, and the tasks that are left."""

    race: Race
    folder: Path | None
    results: Results
    spool: Path
    entrants: Sequence[Entrant]
    limits: Sequence[float | None]
    seeds: range
    files: dict[str, Path] = field(default_factory=dict)
    starts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    put_off: dict[str, str] = field(default_factory=dict)
    left: int = 0
    looked_at: int = 0

    def admit(self, given: Given) -> None:
        """Look at a problem, and write it where the racing processes read it."""
        problem = given.load()
        name = self._held_as(given, fingerprint(problem))
        if name is None:
            name = given.name
            self.race.admit_problem(Facts.of(name, given.origin, problem, given.descent), self.folder)
        else:
            self.race.problems[name] = self.race.problems[name].renewed(problem.best_known)
        if name in self.files:
            return
        self.files[name] = self.spool / f"p{len(self.files)}"
        waiting = sum(1 for _ in self._waiting(name))
        self.left += waiting
        if not waiting:
            return
        if self.race.protocol.start == "mask":
            state = repair(problem, current_mask(given, problem))[0][0]
            self.starts[name] = tuple(np.flatnonzero(state).tolist())
        # One file for every backend: none of them gets a problem that another one does not.
        self.files[name] = problems.save(problem, self.files[name])

    def _held_as(self, given: Given, print_: str) -> str | None:
        """The race's name of a problem that it has.

        Another one than it has now, where it was told apart from others of its name then, or is for the first time now.
        """
        held = self.race.problems
        if given.name in held and held[given.name].fingerprint == print_:
            return given.name
        if given.origin == MEMORY:  # its name is all that there is to know it by
            return None
        place = source(given.origin)
        for name, facts in held.items():
            if facts.fingerprint == print_ and name not in self.files and source(facts.origin) == place:
                return name
        return None

    def tasks(self, max_calls: int | None, max_charge: float | None) -> Iterator[RaceTask]:
        """What has no row yet: problem by problem, and on each the backends in turn."""
        protocol = self.race.protocol
        for name, file in self.files.items():
            for seed, limit, entrant in self._waiting(name):
                calls = None
                if entrant.solver.capabilities.remote and self.folder is not None:
                    calls = {
                        "file": str(self.folder / CALLS), "run": f"compare-{self.race.token}",
                        "task": _digest(f"{entrant.text} {limit}"), "max_calls": max_calls, "max_charge": max_charge,
                    }  # fmt: skip
                yield RaceTask(
                    name, entrant.text, limit, seed, entrant.recipe, str(file), protocol.threads, protocol.fair,
                    self.starts.get(name), calls,
                )  # fmt: skip

    def count_those_not_looked_at(self, given: Sequence[Given]) -> None:
        """Count what is left to be solved of problems that the race had not come to."""
        for each in given[self.looked_at :]:
            self.left += sum(1 for _ in self._waiting(each.name))

    def _waiting(self, name: str) -> Iterator[tuple[int, float | None, Entrant]]:
        """Seed, time limit and entrant of each solve of a problem that has no row."""
        for seed, limit, entrant in itertools.product(self.seeds, self.limits, self.entrants):
            if (name, entrant.text, limit, seed) not in self._done:
                yield seed, limit, entrant

    @functools.cached_property
    def _done(self) -> set[Key]:
        return {row.key for row in self.results.rows}

    def run(self, tasks: Sequence[RaceTask], way: Dispatch, tell: OnProgress) -> None:
        """Do the tasks, each row on disk as it comes."""
        for task, outcome in self._in_turn(tasks, tell) if way.name == "serial" else self._at_once(tasks, way, tell):
            if isinstance(outcome, Row):
                self.results.append(outcome)
                self.left -= 1
            else:
                self.put_off[task.backend] = outcome
        tell("", len(tasks), len(tasks))

    def _at_once(
        self, tasks: Sequence[RaceTask], way: Dispatch, tell: OnProgress
    ) -> Iterator[tuple[RaceTask, Row | str]]:
        # One process at a time may hold the record of calls to services.
        yield from self._in_turn([task for task in tasks if task.calls is not None], tell)
        others = [task for task in tasks if task.calls is None]
        if way.name == "ray":  # its machines may share no disk
            sent = {file: way.share(problems.load(file)) for file in dict.fromkeys(task.file for task in others)}
            others = [replace(task, sent=sent[task.file]) for task in others]
        done = len(tasks) - len(others)
        tell(f"{way.workers} solves at once", done, len(tasks))

        def end() -> None:
            close_tracks()  # or threads of a pool would wait for the answers of theirs
            raise KeyboardInterrupt

        with on_interrupt(end):
            for place, outcome in way.map(race_task, others):
                done += 1
                tell(f"{others[place].backend} on {others[place].problem}", done, len(tasks))
                yield others[place], outcome

    def _in_turn(self, tasks: Sequence[RaceTask], tell: OnProgress) -> Iterator[tuple[RaceTask, Row | str]]:
        for done, task in enumerate(tasks):
            if task.backend in self.put_off:  # a service that is down, or a budget that is spent, stays so
                continue
            tell(f"{task.backend} on {task.problem}, seed {task.seed}", done, len(tasks))
            yield task, race_task(task)


def _opened(folder: Path | None, asked: Protocol, results: Results) -> Race:
    """The race of a folder, or a new one."""
    if folder is None or not (folder / settings.FILE).exists():
        if results.rows:
            raise OptionError(
                f"{folder} has a {FILE} with {len(results.rows)} rows, but no {settings.FILE} that tells how they came "
                "about; choose another folder"
            )
        return Race(asked)
    race = Race.read(folder)
    race.admit_protocol(asked, folder)
    race.check_rows(results.rows, folder)
    return race


def _way(dispatch: str | Dispatch, threads: int) -> Dispatch:
    """The dispatch, with the threads of a solve for each of its tasks where it takes a number and was told none."""
    if not isinstance(dispatch, str):
        return get_dispatch(dispatch)
    name, in_text = parse(dispatch, "dispatch")
    shared = name in WAYS and "threads" in inspect.signature(WAYS[name]).parameters and "threads" not in in_text
    return get_dispatch(dispatch, **({"threads": threads} if shared else {}))


@contextlib.contextmanager
def _spool(folder: Path | None) -> Iterator[Path]:
    """A place for the problems' files: in the race's folder, where a race that is killed leaves nothing for long."""
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    spool = folder.resolve() / SPOOL
    shutil.rmtree(spool, ignore_errors=True)  # of a race that was killed: the results' lock is ours
    spool.mkdir()
    try:
        yield Path(tempfile.mkdtemp(dir=spool))  # no other machine has files of this name, which it would take for ours
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OptionError(f"{path} is a file; a folder for the race's results is needed") from error
    if not (path / settings.FILE).exists() and not (path / FILE).exists():
        others = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
        if others:
            raise OptionError(f"{path} holds {others[0]}, and no race; choose a new folder, or that of a race")
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _nobody(what: str, done: int, total: int) -> None:
    return
