"""The backends of a comparison, and recipes from which a worker process creates the same solvers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import solvers.registry as registry
from solvers.base import Solver
from solvers.comparison.results import can_be_named
from solvers.errors import OptionError
from solvers.run import versions


@dataclass(frozen=True)
class Entrant:
    """A backend of the comparison.

    Attributes:
        text: its name in all tables, as the user wrote it.
        solver: the solver, with the comparison's number of threads if it has such an option.
        recipe: JSON values to create the solver in another process: a text, or a class and its settings.
    """

    text: str
    solver: Solver
    recipe: dict[str, Any]

    @classmethod
    def of(cls, backend: str | Solver, threads: int) -> Entrant:
        """Create an entrant and its solver.

        Args:
            backend: a text such as "sa?restarts=8", or a solver.
            threads: number of threads, unless the backend sets one.

        Raises:
            OptionError: an unknown name or option, or a solver that cannot be created from its settings.
            UnavailableError: the solver cannot run here; the message says why.
        """
        made = registry.checked(backend.strip() if isinstance(backend, str) else backend)
        if isinstance(backend, str):
            return cls(backend.strip(), _threaded(made, threads), {"text": backend.strip(), "threads": threads})
        settings = _plain(made)
        kind = type(made)
        recipe = {"class": f"{kind.__module__}:{kind.__qualname__}", "settings": settings, "threads": threads}
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise OptionError(
                f"{made.backend}: its class {kind.__qualname__} cannot be imported by the worker process; move it to a "
                "module, and give it as an entry point or import path"
            )
        changed = "&".join(f"{key}={value}" for key, value in _tuned(made).items())
        return cls(f"{made.backend}{'?' if changed else ''}{changed}", _threaded(made, threads), recipe)

    def record(self) -> dict[str, Any]:
        """The backend as JSON values: `name`, `settings`, `tuned` (non-default settings), `paradigm`, versions, etc."""
        can = self.solver.capabilities
        return {
            "name": self.solver.backend,
            "settings": {key: _complete(value) for key, value in _fields(self.solver).items()},
            "tuned": {key: _displayed(value) for key, value in _tuned(self.solver).items() if key != "threads"},
            "paradigm": paradigm(self.solver),
            "deterministic": can.deterministic,
            "remote": can.remote,
            "device": can.device,
            "versions": versions(self.solver.toolkits),
        }


def entered(backends: str | Solver | Iterable[str | Solver], threads: int) -> list[Entrant]:
    """The entrants of a comparison.

    Raises:
        OptionError: no backend, a repeated one, or as for :meth:`Entrant.of`.
    """
    listed = [backends] if isinstance(backends, str | Solver) else list(backends)
    entrants = [Entrant.of(backend, threads) for backend in listed]
    if not entrants:
        raise OptionError("no backend is given; give at least one, such as 'tabu'")
    texts = [entrant.text for entrant in entrants]
    for text in texts:
        if texts.count(text) > 1:
            raise OptionError(f"backend {text!r} is given twice")
        if not can_be_named(text):
            raise OptionError(f"backend {text!a:.200} contains control characters; remove them")
    return entrants


def made(recipe: dict[str, Any]) -> Solver:
    """Create the solver of a recipe."""
    if "text" in recipe:
        solver = registry.get_solver(recipe["text"])
    else:
        import importlib

        module, _, name = recipe["class"].partition(":")
        kind = importlib.import_module(module)
        for part in name.split("."):
            kind = getattr(kind, part)
        solver = kind(**recipe["settings"])  # type: ignore[operator]
    return _threaded(solver, recipe["threads"])


def paradigm(solver: Solver) -> str:
    """QOBLIB's paradigm: "Classical", "Quantum Simulator" or "Quantum Hardware"."""
    inner = getattr(solver, "inner", None)
    if isinstance(inner, Solver):
        return paradigm(inner)
    members = getattr(solver, "members", ())
    kinds = {paradigm(member) for member in members}
    if solver.name == "qaoa":
        kinds.add("Quantum Hardware" if solver.capabilities.remote else "Quantum Simulator")
    elif solver.name == "leap":
        kinds.add("Quantum Hardware")
    for kind in ("Quantum Hardware", "Quantum Simulator"):
        if kind in kinds:
            return kind
    return "Classical"


def _threaded(solver: Solver, threads: int) -> Solver:
    """The solver, and its members, with a number of threads where they have the option and it is unset."""
    fields = _fields(solver)
    changes: dict[str, Any] = {}
    if "threads" in fields and fields["threads"] is None:
        changes["threads"] = threads
    for key, value in fields.items():
        if isinstance(value, Solver):
            changes[key] = _threaded(value, threads)
        elif isinstance(value, tuple) and value and all(isinstance(each, Solver) for each in value):
            changes[key] = tuple(_threaded(each, threads) for each in value)
    return dataclasses.replace(solver, **changes) if changes else solver


def _fields(solver: Solver) -> dict[str, Any]:
    return {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver) if field.init}


def _tuned(solver: Solver) -> dict[str, Any]:
    """Settings that differ from their defaults."""
    found = {}
    for field in dataclasses.fields(solver):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.init and _displayed(getattr(solver, field.name)) != _displayed(default):
            found[field.name] = getattr(solver, field.name)
    return found


def _complete(value: Any) -> Any:
    """A setting as a JSON value; a solver with all its settings."""
    if isinstance(value, Solver):
        return {"backend": value.backend, "settings": {key: _complete(each) for key, each in _fields(value).items()}}
    if isinstance(value, tuple | list):
        return [_complete(each) for each in value]
    return _displayed(value)


def _displayed(value: Any) -> Any:
    """A setting as a JSON value for display; a solver by name."""
    if isinstance(value, Solver):
        return value.backend
    if isinstance(value, tuple | list):
        return [_displayed(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _plain(solver: Solver) -> dict[str, Any]:
    settings = _fields(solver)
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{solver.backend} has settings that cannot be sent to a worker process ({error}); give it as text, "
            "such as 'sa?restarts=8'"
        ) from error
    return settings
