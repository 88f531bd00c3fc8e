"""Where work is done: in this thread, in a pool of threads or processes, or on a Ray cluster.

with get_dispatch("processes?workers=4") as dispatch:
    answers = dispatch.solve(solver, problems, seed=0)  # the same to the bit, wherever they are solved
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from problems.names import nearest
from solvers.dispatch.base import Dispatch, Handle, told_to_stop
from solvers.dispatch.errors import WorkerLost
from solvers.dispatch.local import ByCapabilities, Serial, Threads
from solvers.dispatch.processes import Processes
from solvers.dispatch.ray_cluster import RayCluster
from solvers.errors import OptionError
from solvers.registry import parse, value_of

__all__ = [
    "WAYS", "ByCapabilities", "Dispatch", "Handle", "Processes", "RayCluster", "Serial", "Threads", "WorkerLost",
    "get_dispatch", "opened", "told_to_stop",
]  # fmt: skip

WAYS: dict[str, type[Dispatch]] = {way.name: way for way in (Serial, Threads, Processes, RayCluster)}
"""The ways by name."""


def get_dispatch(dispatch: str | Dispatch | None = None, **options: Any) -> Dispatch:
    """Make the dispatch of a name; nothing is started before there is work.

    Args:
        dispatch: `NAME[?key=value&key=value]`: "serial", "threads?workers=4", "processes?workers=2",
            "ray?address=auto"; None for what the solver's capabilities say; a dispatch comes back as it is.
        options: settings, over those in the text.

    Raises:
        OptionError: an unknown name or option, or a value that the option cannot have.

    Example:
        >>> get_dispatch("threads?workers=4").workers
        4
    """
    if isinstance(dispatch, Dispatch):
        if options:
            raise OptionError(f"options {sorted(options)} were given with a dispatch that has its settings already")
        return dispatch
    if dispatch is None:
        if options:
            raise OptionError(f"options {sorted(options)} need a dispatch by name: {', '.join(WAYS)}")
        return ByCapabilities()
    if not isinstance(dispatch, str):
        raise OptionError(f"dispatch {dispatch!r} must be one of {', '.join(WAYS)}, as text")
    name, in_text = parse(dispatch, "dispatch")
    if name not in WAYS:
        raise OptionError(f"no dispatch {name!r}{nearest(name, list(WAYS))}")
    known = inspect.signature(WAYS[name].__init__, eval_str=True).parameters
    names = [key for key in known if key != "self"]
    for key in [*in_text, *options]:
        if key not in names:
            has = nearest(key, names) if names else "; it has none"
            raise OptionError(f"{name} has no option {key!r}{has}")
    typed = {key: value_of(key, text, known[key].annotation) for key, text in in_text.items()}
    return WAYS[name](**typed | options)


@contextlib.contextmanager
def opened(dispatch: str | Dispatch | None, otherwise: str | None = None) -> Iterator[Dispatch]:
    """A dispatch for a while: one made here is closed at the end, one that was given ready is left as it is.

    Args:
        dispatch: a name, or ready.
        otherwise: a name, where there is none.

    Raises:
        UnavailableError: it lacks something; the message says what.
    """
    if isinstance(dispatch, Dispatch):
        yield dispatch
        return
    with get_dispatch(dispatch or otherwise) as made:
        made.refuse_what_is_missing()
        yield made
