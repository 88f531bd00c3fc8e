"""How functions are compiled: numba's `njit`, which keeps what it has compiled on disk where it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator as `numba.njit(cache=True, **options)`.

    Where neither the package's folder nor the user's cache folder can be written, and NUMBA_CACHE_DIR names no other
    one, numba refuses to cache: then each process compiles for itself.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return nb.njit(cache=True, **options)(function)
        except RuntimeError:  # there is no place for a cache; whatever else is wrong is raised again
            return nb.njit(**options)(function)

    return decorate
