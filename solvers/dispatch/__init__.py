"""Dispatch of work: in this thread, in a pool of threads or processes, or on a Ray cluster.

    with get_dispatch("processes?workers=4") as dispatch:
        answers = dispatch.solve(solver, problems, seed=0)  # the same to the bit with every dispatch

- `base`: the interface `Dispatch`, solving problems with it, and `stop_requested` for tasks.
- `local`: the calling thread, a pool of threads, and the default, which chooses by the solver's capabilities.
- `processes`: a pool of processes of this machine; `worker`: the program of each process.
- `ray_cluster`: a Ray cluster; `ray_node`: what runs on its nodes; `ray_setup`: importing and starting Ray.
- `parcels`: objects split into a small pickle and large arrays, which are sent once.
- `errors`: `WorkerLost`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from problems.names import nearest
from solvers.dispatch.base import Dispatch, Handle, stop_requested
from solvers.dispatch.errors import WorkerLost
from solvers.dispatch.local import ByCapabilities, Serial, Threads
from solvers.dispatch.processes import Processes
from solvers.dispatch.ray_cluster import RayCluster
from solvers.errors import OptionError
from solvers.registry import parse, value_of

__all__ = [
    "WAYS", "ByCapabilities", "Dispatch", "Handle", "Processes", "RayCluster", "Serial", "Threads", "WorkerLost",
    "get_dispatch", "opened", "stop_requested",
]  # fmt: skip

WAYS: dict[str, type[Dispatch]] = {way.name: way for way in (Serial, Threads, Processes, RayCluster)}
"""Dispatches by name."""


def get_dispatch(dispatch: str | Dispatch | None = None, **options: Any) -> Dispatch:
    """Create a dispatch by name; workers start when there is work.

    Args:
        dispatch: `NAME[?key=value&key=value]`: "serial", "threads?workers=4", "processes?workers=2",
            "ray?address=auto"; None chooses by the solver's capabilities; a dispatch is returned unchanged.
        options: settings; they override those in the text.

    Raises:
        OptionError: an unknown name or option, or an invalid value.

    Example:
        >>> get_dispatch("threads?workers=4").workers
        4
    """
    if isinstance(dispatch, Dispatch):
        if options:
            raise OptionError(
                f"options {sorted(options)} were given with a dispatch, which has settings already; pass a name"
            )
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
    """A context with a dispatch: one created by name is closed at its end, one that was given stays open.

    Args:
        dispatch: a name or a dispatch.
        otherwise: the name to use if `dispatch` is None.

    Raises:
        UnavailableError: something is missing; the message says what.
    """
    if isinstance(dispatch, Dispatch):
        yield dispatch
        return
    with get_dispatch(dispatch or otherwise) as made:
        made.refuse_what_is_missing()
        yield made
