"""Runs a comparison: computes the missing solves and writes each row to disk at once."""

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
"""Temporary folder of the problem files that worker processes read."""

MOST_SEEDS = 100_000
"""With more seeds the list of tasks takes gigabytes."""

OnProgress = Callable[[str, int, int], None]
"""Called with the current activity, the number of finished tasks and their total."""


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
    """Compare backends on block problems under one protocol.

    Each backend has its own process with the same number of processors; imports and compilation are not timed. Backends
    take turns on each problem and seed, so that a machine that becomes slower affects all. Energies are recomputed;
    infeasible answers are counted and never scored.

    With a folder, each row is on disk before the next solve starts: the same call continues a comparison that was
    stopped or killed, and a call with more backends, seeds, time limits or problems computes only the missing rows.

    Args:
        given: a problem, a file (NAME.npz, NAME.bqm, an MDPLIB file), a folder of such files, "instances:PATTERN" for
            included instances, or several of these; or a mapping from names to problems.
        backends: texts such as "sa?restarts=32" or "dimod:package.Sampler", or solvers.
        time_limits: one or several limits in seconds; None for each backend's own amount of work.
        seeds: number of solves per problem, backend and time limit.
        first_seed: seed of the first solve.
        threads: number of processors and threads per solve.
        start: "cold", or "mask" for the network's current masks.
        out: folder of race.json, results.csv, submission.csv and report.html; None writes no files.
        cardinality: for .bqm files of other programs.
        dispatch: "serial" for one solve at a time; "threads", "processes?workers=4", "ray" or any other text of
            :func:`solvers.dispatch.get_dispatch` for concurrent solves, which share the machine; a
            :class:`solvers.dispatch.Dispatch` is not closed. Calls to services are always sequential.
        max_calls: maximal number of calls to services for the whole comparison.
        max_charge: maximal seconds billed by services for the whole comparison.
        on_progress: called before every task.

    Returns:
        The comparison, `interrupted` if Ctrl-C stopped it. With `out`, its files are written.

    Raises:
        OptionError: an invalid backend, option or number, or a folder with a comparison under another protocol.
        UnavailableError: a backend cannot run here; the message says why.
        ProblemError: an invalid problem.
        FileFormatError: a damaged file.
        SolverError: another comparison is writing to the folder.

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
            f"threads {threads} are more than the {processors()} processors that this process may use; use at most "
            f"{processors()}"
        )
    at_least(1, seeds=seeds)
    if seeds > MOST_SEEDS:
        raise OptionError(f"seeds {seeds} must be at most {MOST_SEEDS}")
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
        raise OptionError(f"{remote[0]} calls a service; give out=, a folder in which its calls are recorded")
    listed = gathered(given, cardinality)
    folder = None if out is None else _folder(Path(out))
    report = on_progress or _no_progress
    with Results(None if folder is None else folder / FILE) as results, _spool(folder) as spool:
        race = _opened(folder, asked, results)
        for entrant in entrants:
            race.admit_backend(entrant.text, entrant.record(), folder)
        lineup = _Lineup(race, folder, results, spool, entrants, limits, range(first_seed, first_seed + seeds))
        interrupted = False
        try:
            for place, each in enumerate(listed):
                report(f"loading {each.name}", place, len(listed))
                lineup.admit(each)
                lineup.loaded += 1
            tasks = list(lineup.tasks(max_calls, max_charge))
            raced = {task.backend for task in tasks}
            for entrant in entrants:
                if entrant.text in raced:
                    race.note_versions(entrant.text, entrant.record())
            if folder is not None:
                race.write(folder)
            with contextlib.nullcontext() if isinstance(dispatch, Dispatch) else way, tracks_closed():
                lineup.run(tasks, way, report)
        except KeyboardInterrupt:
            interrupted = True
            lineup.count_not_loaded(listed)
        comparison = Comparison(
            race, results.rows, folder, interrupted=interrupted, put_off=lineup.put_off, left=lineup.left
        )
        if folder is not None and comparison.rows:
            write(comparison, folder)
    return comparison


@dataclass
class _Lineup:
    """The problems of a comparison, stored for the worker processes, and the remaining tasks."""

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
    loaded: int = 0

    def admit(self, given: Given) -> None:
        """Load a problem, compute its properties, and write it to the file that the worker processes read."""
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
        # All backends read the same file.
        self.files[name] = problems.save(problem, self.files[name])

    def _held_as(self, given: Given, print_: str) -> str | None:
        """The name under which the comparison already holds a problem, or None.

        It differs from the present name if one of the calls had to distinguish problems of the same name.
        """
        held = self.race.problems
        if given.name in held and held[given.name].fingerprint == print_:
            return given.name
        if given.origin == MEMORY:  # only its name identifies it
            return None
        place = source(given.origin)
        for name, facts in held.items():
            if facts.fingerprint == print_ and name not in self.files and source(facts.origin) == place:
                return name
        return None

    def tasks(self, max_calls: int | None, max_charge: float | None) -> Iterator[RaceTask]:
        """Tasks without a row: problem by problem, with backends taking turns."""
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

    def count_not_loaded(self, given: Sequence[Given]) -> None:
        """Add the missing solves of problems that were not loaded to `left`."""
        for each in given[self.loaded :]:
            self.left += sum(1 for _ in self._waiting(each.name))

    def _waiting(self, name: str) -> Iterator[tuple[int, float | None, Entrant]]:
        """Seed, time limit and entrant of each missing solve of a problem."""
        for seed, limit, entrant in itertools.product(self.seeds, self.limits, self.entrants):
            if (name, entrant.text, limit, seed) not in self._done:
                yield seed, limit, entrant

    @functools.cached_property
    def _done(self) -> set[Key]:
        return {row.key for row in self.results.rows}

    def run(self, tasks: Sequence[RaceTask], way: Dispatch, report: OnProgress) -> None:
        """Run the tasks and append each row to the results."""
        serial = way.name == "serial"
        for task, outcome in self._in_turn(tasks, report) if serial else self._at_once(tasks, way, report):
            if isinstance(outcome, Row):
                self.results.append(outcome)
                self.left -= 1
            else:
                self.put_off[task.backend] = outcome
        report("", len(tasks), len(tasks))

    def _at_once(
        self, tasks: Sequence[RaceTask], way: Dispatch, report: OnProgress
    ) -> Iterator[tuple[RaceTask, Row | str]]:
        # Calls to services are sequential: their ledger admits one process at a time.
        yield from self._in_turn([task for task in tasks if task.calls is not None], report)
        others = [task for task in tasks if task.calls is None]
        if way.name == "ray":  # its nodes may not share a disk
            sent = {file: way.share(problems.load(file)) for file in dict.fromkeys(task.file for task in others)}
            others = [replace(task, sent=sent[task.file]) for task in others]
        done = len(tasks) - len(others)
        report(f"{way.workers} concurrent solves", done, len(tasks))

        def end() -> None:
            close_tracks()  # otherwise threads of the pool would wait for their answers
            raise KeyboardInterrupt

        with on_interrupt(end):
            for place, outcome in way.map(race_task, others):
                done += 1
                report(f"{others[place].backend} on {others[place].problem}", done, len(tasks))
                yield others[place], outcome

    def _in_turn(self, tasks: Sequence[RaceTask], report: OnProgress) -> Iterator[tuple[RaceTask, Row | str]]:
        for done, task in enumerate(tasks):
            if task.backend in self.put_off:  # the service is down, or the budget is used up
                continue
            report(f"{task.backend} on {task.problem}, seed {task.seed}", done, len(tasks))
            yield task, race_task(task)


def _opened(folder: Path | None, asked: Protocol, results: Results) -> Race:
    """The settings of a folder, or new ones."""
    if folder is None or not (folder / settings.FILE).exists():
        if results.rows:
            raise OptionError(
                f"{folder} has a {FILE} with {len(results.rows)} rows but no {settings.FILE} with their settings; use "
                "another folder"
            )
        return Race(asked)
    race = Race.read(folder)
    race.admit_protocol(asked, folder)
    race.check_rows(results.rows, folder)
    return race


def _way(dispatch: str | Dispatch, threads: int) -> Dispatch:
    """The dispatch, with the threads of a solve if it has such an option and it is unset."""
    if not isinstance(dispatch, str):
        return get_dispatch(dispatch)
    name, in_text = parse(dispatch, "dispatch")
    shared = name in WAYS and "threads" in inspect.signature(WAYS[name]).parameters and "threads" not in in_text
    return get_dispatch(dispatch, **({"threads": threads} if shared else {}))


@contextlib.contextmanager
def _spool(folder: Path | None) -> Iterator[Path]:
    """A temporary folder for problem files, in the comparison's folder, so that the next call removes leftovers."""
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    spool = folder.resolve() / SPOOL
    shutil.rmtree(spool, ignore_errors=True)  # left by a killed comparison; the lock of results.csv excludes others
    spool.mkdir()
    try:
        yield Path(tempfile.mkdtemp(dir=spool))  # unique, so that a machine never reads another comparison's file
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OptionError(f"{path} is a file; give a folder for the results") from error
    if not (path / settings.FILE).exists() and not (path / FILE).exists():
        others = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
        if others:
            raise OptionError(f"{path} holds {others[0]} but no comparison; use a new folder or that of a comparison")
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _no_progress(what: str, done: int, total: int) -> None:
    return
