"""Clique embeddings: which qubits stand for each variable of a fully coupled problem.

A block problem couples all its variables, so its embedding depends on n and the QPU's working graph alone, and is found
once. The first search on a graph with missing qubits may take a minute; minorminer keeps its result on disk.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np

from solvers.errors import ServiceError

_graphs: dict[str, Any] = {}
_found: dict[tuple[str, int], dict[int, tuple[int, ...]]] = {}
_lock = threading.Lock()


def clique_embedding(solver: Any, n: int) -> dict[int, tuple[int, ...]]:
    """Chains of qubits for the variables 0..n-1, each two of them coupled.

    Args:
        solver: the client library's object of a QPU.
        n: variables.

    Raises:
        ServiceError: they do not fit; the message names the largest clique that does.
    """
    with _lock:
        key = _key(solver)
        if (key, n) not in _found:
            cliques = _cliques(solver, key)
            found = cliques.find_clique_embedding(n)
            if len(found) != n:
                largest = len(cliques.largest_clique())
                raise ServiceError(
                    f"a block of {n} fully coupled variables does not fit on {solver.name}, which takes {largest}; "
                    "choose smaller blocks, or decompose them with the backend decompose?solver=leap"
                )
            _found[key, n] = {int(v): tuple(int(q) for q in chain) for v, chain in found.items()}
        return _found[key, n]


def largest_clique(solver: Any) -> int:
    """How many fully coupled variables fit on a QPU."""
    with _lock:
        return len(_cliques(solver, _key(solver)).largest_clique())


def _key(solver: Any) -> str:
    graph = repr((solver.properties["topology"], solver.properties["qubits"])).encode()
    couplers = np.asarray(solver.properties["couplers"], np.int64).tobytes()
    return hashlib.sha256(graph + couplers).hexdigest()


def _cliques(solver: Any, key: str) -> Any:
    """The search of minorminer, with its cache on disk, on a QPU's working graph."""
    if key not in _graphs:
        from minorminer.busclique import busgraph_cache  # type: ignore[import-untyped]

        _graphs[key] = busgraph_cache(working_graph(solver), seed=0)
    return _graphs[key]


def working_graph(solver: Any) -> Any:
    """The QPU's qubits and couplers that work, as a graph that minorminer knows the structure of.

    Raises:
        ServiceError: a topology that minorminer has no clique embeddings for.
    """
    import dwave.graphs

    properties = solver.properties
    topology = properties["topology"]
    generators = {name: getattr(dwave.graphs, f"{name}_graph") for name in ("pegasus", "zephyr", "chimera")}
    if topology["type"] not in generators:
        raise ServiceError(
            f"{solver.name} has the topology {topology['type']!r}; clique embeddings are known for "
            f"{', '.join(generators)}"
        )
    couplers = [tuple(coupler) for coupler in properties["couplers"]]
    return generators[topology["type"]](*topology["shape"], node_list=properties["qubits"], edge_list=couplers)
