"""Classes of third-party distributions, by their entry points."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from solvers.errors import OptionError


def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def loaded(point: importlib.metadata.EntryPoint, kind: str, base: type[Any]) -> type[Any]:
    """The class that an entry point names.

    Args:
        point: the entry point.
        kind: what the class is, for messages.
        base: the class that it must be derived from.

    Raises:
        OptionError: the entry point cannot be imported, or is not a subclass of `base`.
    """
    try:
        found = point.load()
    except Exception as error:  # a third-party module may raise anything while it is imported
        raise OptionError(f"{kind} {point.name!r} ({point.value}) does not load: {error}") from error
    return subclass(found, f"{kind} {point.name!r} ({point.value})", base)


def subclass(given: object, what: str, base: type[Any]) -> type[Any]:
    """What was given, if it is a subclass of `base`.

    Raises:
        OptionError: it is not.
    """
    if isinstance(given, type) and issubclass(given, base):
        return given
    raise OptionError(f"{what} is not a subclass of {base.__module__.partition('.')[0]}.{base.__qualname__}")
