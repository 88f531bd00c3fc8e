"""The registry of remote services: a name and a :class:`~solvers.remote.solver.RemoteSolver` class for each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeVar

from problems.names import nearest
from solvers.entry_points import entry_points, loaded, subclass
from solvers.errors import OptionError

if TYPE_CHECKING:
    from solvers.remote.solver import RemoteSolver

    S = TypeVar("S", bound=type[RemoteSolver])

ENTRY_POINTS = "hybrid_icbs.remote_services"
"""Entry-point group of third-party services: `name = "package.module:Class"`, a subclass of `RemoteSolver`."""

BUILT_IN = {"leap": "solvers.remote.leap:Leap"}

registered: dict[str, type[RemoteSolver]] = {}


def register(service: S) -> S:
    """Add a remote service, so that its `name` is a backend of :func:`solvers.solve` in this process.

    Processes of a dispatch or a comparison do not know it; an entry point of the group `hybrid_icbs.remote_services`
    is found in all of them.

    Returns:
        The class, so that this can be its decorator.

    Raises:
        OptionError: it is not a subclass of `solvers.remote.RemoteSolver`, or another service has its name.
    """
    from solvers.remote.solver import RemoteSolver

    subclass(service, f"service {service!r:.100}", RemoteSolver)
    if service.name in BUILT_IN or registered.get(service.name, service) is not service:
        raise OptionError(f"a remote service named {service.name!r} is registered already; choose another name")
    registered[service.name] = service
    return service


def services() -> list[str]:
    """Names of all remote services: the built-in, the registered, and those of installed distributions."""
    return list(dict.fromkeys([*BUILT_IN, *registered, *sorted(entry_points(ENTRY_POINTS))]))


def service_class(name: str) -> type[RemoteSolver]:
    """The class behind the name of a remote service.

    Raises:
        OptionError: no service has that name, or its entry point does not load.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        built_in: type[RemoteSolver] = getattr(importlib.import_module(module), attribute)
        return built_in
    if name in registered:
        return registered[name]
    installed = entry_points(ENTRY_POINTS)
    if name not in installed:
        raise OptionError(f"no remote service {name!r}{nearest(name, services())}")
    from solvers.remote.solver import RemoteSolver

    return loaded(installed[name], "remote service", RemoteSolver)
