"""Backends by name: the table of our own solvers, third parties' entry points, and how options are read from text."""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

from problems import BlockProblem
from problems.names import nearest
from solvers.base import Availability, InitialStates, Solver
from solvers.entry_points import entry_points, loaded
from solvers.errors import OptionError, SolverError
from solvers.remote.services import service_class, services

if TYPE_CHECKING:
    import dimod

ENTRY_POINTS = "hybrid_icbs.solvers"
"""Group in which a third party's distribution names its solvers: `name = "package.module:SolverClass"`."""

BUILT_IN = {
    "sa": "solvers.local.sa:SimulatedAnnealing",
    "tabu": "solvers.local.tabu:TabuSearch",
    "exact": "solvers.exact:Exact",
    "qaoa": "solvers.qaoa:Qaoa",
    "ocean-sa": "solvers.ocean.samplers:OceanSA",
    "ocean-tabu": "solvers.ocean.samplers:OceanTabu",
    "decompose": "solvers.decompose:Decompose",
    "portfolio": "solvers.portfolio:Portfolio",
}

DIMOD_PREFIX = "dimod:"


def solve(
    problem: BlockProblem,
    backend: str | Solver = "tabu",
    *,
    seed: int | None = None,
    time_limit: float | None = None,
    target: float | None = None,
    initial_states: InitialStates = None,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> dimod.SampleSet:
    """Solve a block problem with the backend of a name; see :meth:`solvers.Solver.solve` for what comes back.

    Args:
        problem: the block problem.
        backend: a name such as "sa", text such as "sa?restarts=8", or a solver.
        seed: where randomness starts.
        time_limit: seconds of search; None for the backend's fixed amount of work.
        target: an energy at which to stop.
        initial_states: feasible states to start from [n] or [s, n].
        stop: a function that returns True to end early.
        options: settings of the backend.

    Raises:
        OptionError: an unknown backend or option (the message names the nearest one), or see the method.
        SolverError, UnavailableError: see the method.

    Example:
        >>> from problems import BlockProblem
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> solve(problem, backend="exact").first.energy
        1.0
    """
    solver = get_solver(backend, **options)
    return solver.solve(
        problem, seed=seed, time_limit=time_limit, target=target, initial_states=initial_states, stop=stop
    )


def get_solver(backend: str | Solver, **options: Any) -> Solver:
    """Make the solver of a backend's name.

    Args:
        backend: `NAME[?key=value&key=value]`, or `dimod:package.Sampler`, or a solver, which comes back as it is.
        options: settings, over those in the text.

    Raises:
        OptionError: an unknown name or option, or a value that the option cannot have.
    """
    if isinstance(backend, Solver):
        if options:
            raise OptionError(f"options {sorted(options)} were given with a solver that has its settings already")
        return backend
    if not isinstance(backend, str):
        raise OptionError(f"backend {backend!r} must be a name such as 'tabu', or a solver")
    name, in_text = parse(backend)
    if name.startswith(DIMOD_PREFIX):
        from solvers.ocean.samplers import DimodSampler

        return DimodSampler.named(name.removeprefix(DIMOD_PREFIX), _typed(DimodSampler, in_text) | options)
    cls = solver_class(name)
    settings = _typed(cls, in_text) | options
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for option in settings:
        if option not in known:
            raise OptionError(f"{name} has no option {option!r}{nearest(option, known)}")
    return cls(**settings)


def checked(backend: str | Solver, *, ready: bool = True, **options: Any) -> Solver:
    """The solver of a backend's name, found out to be usable before any work is done for it.

    Args:
        backend: as :func:`get_solver` takes it.
        ready: whether it has to be ready to run.
        options: settings.

    Raises:
        OptionError: an unknown name or option, or a value that the option cannot have.
        UnavailableError: it is not ready; the message says what is missing.
    """
    solver = get_solver(backend, **options)
    if ready:
        solver._refuse_what_is_missing()
    return solver


def fastest_local(problem: BlockProblem) -> Solver:
    """The local heuristic that is expected to be done first with problems like this one.

    Raises:
        SolverError: none takes a problem of this size.
    """
    candidates = [solver for name in ("tabu", "sa") for solver in [get_solver(name)] if solver.available()]
    fitting = [
        (estimate.seconds, solver) for solver in candidates for estimate in [solver.estimate(problem)] if estimate.fits
    ]
    if not fitting:
        raise SolverError(f"no local solver takes {problem}; choose a smaller block")
    return min(fitting, key=lambda pair: pair[0])[1]


def backends() -> list[str]:
    """Names of all backends that are known here, our own first; whether they can run is `available`'s matter."""
    return list(dict.fromkeys([*BUILT_IN, *services(), *sorted(entry_points(ENTRY_POINTS))]))


def available(backend: str) -> Availability:
    """Whether a backend can run here, and if not, what is missing and what mends it."""
    name, _ = parse(backend)
    if name.startswith(DIMOD_PREFIX):
        try:
            return get_solver(backend).available()
        except OptionError as error:
            return Availability(False, str(error))
    return solver_class(name).available()


def solver_class(name: str) -> type[Solver]:
    """The class behind a backend's name.

    Raises:
        OptionError: the name is unknown, or a third-party entry point does not load.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        cls: type[Solver] = getattr(importlib.import_module(module), attribute)
        return cls
    if name in services():
        return service_class(name)
    installed = entry_points(ENTRY_POINTS)
    if name in installed:
        return loaded(installed[name], "backend", Solver)
    names = [*backends(), DIMOD_PREFIX + "package.Sampler"]
    if name == "auto":
        raise OptionError(
            f"backend 'auto' is for prune, which chooses by its blocks; here name one: {', '.join(names)}"
        )
    raise OptionError(f"no backend {name!r}{nearest(name, names)}")


def parse(text: str, kind: str = "backend") -> tuple[str, dict[str, str]]:
    """Split `NAME[?key=value&key=value]` into the name and its options as text.

    Args:
        text: what was given.
        kind: what it names, for messages.

    Raises:
        OptionError: an option without a value, or given twice.
    """
    name, _, query = text.strip().partition("?")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise OptionError(f"{kind} {text!r}: {part!r} must be key=value")
        if key in options:
            raise OptionError(f"{kind} {text!r} gives {key!r} twice")
        options[key] = value
    return name, options


def _typed(cls: type[Solver], options: dict[str, str]) -> dict[str, Any]:
    """Text values as the types that the solver's settings declare."""
    hints = typing.get_type_hints(cls)
    return {key: value_of(key, text, hints.get(key, str)) for key, text in options.items()}


def value_of(key: str, text: str, hint: Any) -> Any:
    """A text as a value of the type that an option declares.

    Raises:
        OptionError: the text is no such value.
    """
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, Union) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if typing.get_origin(hint) is typing.Literal or str in kinds or any(k not in (int, float, bool) for k in kinds):
        return text
    raise OptionError(f"option {key}={text!r} must be {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}")
