"""The registry of pruning methods: built-in ones, registered ones, and those of installed distributions."""

from __future__ import annotations

import importlib.metadata
import logging

from hybrid_icbs.errors import PruningError
from hybrid_icbs.methods.base import LayerMethod, Method, ModelMethod
from hybrid_icbs.methods.icbs import Icbs
from hybrid_icbs.methods.magnitude import Magnitude
from hybrid_icbs.methods.sparsegpt import SparseGpt
from hybrid_icbs.methods.wanda import Wanda
from problems.names import nearest

logger = logging.getLogger(__name__)

ENTRY_POINTS = "hybrid_icbs.methods"
"""Entry-point group of third-party methods: `name = "package.module:METHOD"`, a `LayerMethod` or `ModelMethod`."""

_methods: dict[str, Method] = {method.name: method for method in (Icbs(), Magnitude(), Wanda(), SparseGpt())}


def register(method: Method) -> None:
    """Add a method, so that `prune(..., method=NAME)` and `hybrid-icbs prune --method NAME` know it.

    Raises:
        PruningError: it is neither a `LayerMethod` nor a `ModelMethod`, or another method has its name.
    """
    if not isinstance(method, LayerMethod | ModelMethod):
        raise PruningError(f"{method!r:.100} is neither a hybrid_icbs.methods.LayerMethod nor a ModelMethod")
    if _methods.get(method.name, method) is not method:
        raise PruningError(f"a method named {method.name!r} is registered already; choose another name")
    _methods[method.name] = method


def unregister(name: str) -> None:
    """Remove a method that was registered."""
    _methods.pop(name, None)


def get_method(name: str) -> Method:
    """The method of a name.

    Raises:
        PruningError: no method has that name; the message lists all.
    """
    if name not in _methods:
        _load_entry_points()
    if name not in _methods:
        raise PruningError(f"no method {name!r}{nearest(name, _methods)}")
    return _methods[name]


def get_layer_method(name: str) -> LayerMethod:
    """The method of a name, which must prune layer by layer.

    Raises:
        PruningError: there is none, or it prunes the whole model at once.
    """
    method = get_method(name)
    if not isinstance(method, LayerMethod):
        raise PruningError(f"method {name!r} prunes the whole model at once, not layer by layer")
    return method


def names() -> list[str]:
    """Names of all methods."""
    _load_entry_points()
    return list(_methods)


def _load_entry_points() -> None:
    """Register the methods of installed distributions."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            register(point.load())
        except Exception as error:  # raised by a third party's package
            logger.warning("method %r (%s) was not loaded: %s", point.name, point.value, error)
