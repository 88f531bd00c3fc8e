"""How the test server solves what it is sent: files and arrays of the solver API in, its answers out."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from typing import Any

import dimod
import numpy as np

from problems import BlockProblem
from solvers.local.sa import SimulatedAnnealing
from solvers.local.tabu import TabuSearch

SECONDS = 0.5
"""How long the search of a nonlinear model may take."""

_READS = 25  # anneals done for a QPU's reads; the others repeat them


def solved(kind: str, data: Any, params: dict[str, Any], solver: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The answer to a problem, and the binary file that belongs to it (nonlinear models only)."""
    if kind == "ising":
        return _ising(data, params, solver), b""
    micro = 1e6 * params["time_limit"]
    timing = {"charge_time": micro, "run_time": micro - 1.0, "qpu_access_time": 0.0}
    if kind == "nl":
        binary = _nonlinear(data)
        return {"format": "binary-ref", "auth_method": "sapi-token", "timing": timing, "shape": {}}, binary
    answer = _bqm(data) if kind == "bqm" else _cqm(data)
    answer.info["timing"] = timing
    return {"format": "bq", "data": answer.to_serializable()}, b""


def _bqm(data: bytes) -> dimod.SampleSet:
    return SimulatedAnnealing().sample(dimod.BinaryQuadraticModel.from_file(io.BytesIO(data)), num_reads=20, seed=0)


def _cqm(data: bytes) -> dimod.SampleSet:
    cqm = dimod.ConstrainedQuadraticModel.from_file(io.BytesIO(data))
    problem = BlockProblem.from_cqm(cqm)
    states = TabuSearch().solve(problem, seed=0).record.sample[:3]
    return dimod.SampleSet.from_samples_cqm((states, list(cqm.variables)), cqm)


def _nonlinear(data: bytes) -> bytes:
    """States of a model whose decisions are sets of fixed size: descents by swaps on the model's own objective."""
    from dwave.optimization import Model

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        model = Model.from_file(io.BytesIO(data))
        sets = list(model.iter_decisions())
        shapes = [json.loads(file.read(f"nodes/{s.topological_index()}/shape.json")) for s in sets]
    model.lock()
    model.states.resize(1)
    rng = np.random.default_rng(0)

    def energy(chosen: list[np.ndarray]) -> float:
        for s, members in zip(sets, chosen, strict=True):
            s.set_state(0, sorted(members))
        return float(model.objective.state(0))

    best: tuple[float, list[np.ndarray]] = (np.inf, [])
    end = time.monotonic() + SECONDS
    for start in range(30):
        chosen = [rng.permutation(shape["max_value"])[: shape["min_size"]] for shape in shapes]
        lowest, improved = energy(chosen), True
        while improved and (time.monotonic() < end or (start == 0 and not best[1])):
            improved = False
            for members, shape in zip(chosen, shapes, strict=True):
                for place in range(len(members)):
                    for candidate in rng.permutation(np.setdiff1d(np.arange(shape["max_value"]), members)):
                        if time.monotonic() > end:
                            break
                        before, members[place] = members[place], candidate
                        now = energy(chosen)
                        if now < lowest - 1e-12 * abs(lowest):
                            lowest, improved = now, True
                        else:
                            members[place] = before
            if time.monotonic() > end:
                break
        if lowest < best[0]:
            best = (lowest, [members.copy() for members in chosen])
        if time.monotonic() > end:
            break
    energy(best[1])
    states = io.BytesIO()
    model.states.into_file(states)
    return states.getvalue()


def pegasus_solver(m: int) -> dict[str, Any]:
    """A QPU with a small Pegasus graph, one of its qubits missing, as the service describes it."""
    from dwave.cloud.testing.mocks import qpu_pegasus_solver_data, qpu_problem_timing_data

    solver = qpu_pegasus_solver_data(m, name=f"Pegasus{m}_test", graph_id="01test", avg_load=0.1, status="ONLINE")
    properties = solver["properties"]
    missing = properties["qubits"][-1]
    properties["qubits"] = properties["qubits"][:-1]
    properties["couplers"] = [c for c in properties["couplers"] if missing not in c]
    properties["h_range"], properties["j_range"] = [-4.0, 4.0], [-1.0, 1.0]
    properties["extended_j_range"] = [-2.0, 1.0]
    properties["problem_timing_data"] = qpu_problem_timing_data()
    names = ("num_reads", "annealing_time", "answer_mode", "auto_scale", "label")
    properties["parameters"] = dict.fromkeys(names, "")
    return solver


def _ising(data: dict[str, Any], params: dict[str, Any], solver: dict[str, Any]) -> dict[str, Any]:
    properties = solver["properties"]
    linear = np.frombuffer(base64.b64decode(data["lin"]), "<f8")
    active = [q for q, bias in zip(properties["qubits"], linear, strict=True) if not np.isnan(bias)]
    h = {q: float(bias) for q, bias in zip(properties["qubits"], linear, strict=True) if not np.isnan(bias)}
    couplers = [(u, v) for u, v in properties["couplers"] if u in h and v in h]
    J = dict(zip(couplers, np.frombuffer(base64.b64decode(data["quad"]), "<f8").tolist(), strict=True))
    low, high = properties["extended_j_range"]
    if any(not low - 1e-9 <= b <= high + 1e-9 for b in J.values()) or any(abs(b) > 4.0 + 1e-9 for b in h.values()):
        raise ValueError("biases out of range")
    model = dimod.BinaryQuadraticModel.from_ising(h, J)
    reads = int(params.get("num_reads", 1))
    few = SimulatedAnnealing().sample(model, num_reads=min(reads, _READS), seed=0)
    order = [few.variables.index(q) for q in active]
    rows = np.arange(reads) % len(few)
    spins, energies = few.record.sample[rows][:, order], few.record.energy[rows]
    timing = {"qpu_access_time": 15_072.0 + reads * 250.0, "qpu_sampling_time": reads * 250.0}
    return {
        "format": "qp", "active_variables": _base64(np.array(active, "<i4")), "energies": _base64(energies, "<f8"),
        "solutions": _base64(np.packbits(spins > 0, axis=1)), "num_occurrences": _base64(np.ones(reads, "<i4")),
        "num_variables": properties["num_qubits"], "timing": timing,
    }  # fmt: skip


def _base64(array: np.ndarray, dtype: Any = None) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")
