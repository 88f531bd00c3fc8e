"""Answers, scores and solvers as plain values (for JSON) and as lines and tables (for the terminal)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import problems
import solvers

if TYPE_CHECKING:
    import dimod
    from rich.table import Table


def score_table(
    title: str, rows: Sequence[tuple[str, Mapping[str, Any], float]], seconds: Sequence[float] | None = None
) -> Table:
    """A table of what models score: name, {"loss", "accuracy"} and density of each, and seconds if they are given.

    Scores that hold the "perplexity" of texts get a column for each.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model")
    texts = _perplexity_heads([score for _, score, _ in rows])
    for head in (*texts.values(), "accuracy", "loss", "density", *(["seconds"] if seconds else [])):
        table.add_column(head, justify="right")
    for row, (name, score, density) in enumerate(rows):
        accuracy = score["accuracy"]
        cells = [name, *(f"{score['perplexity'][text]['value']:.4g}" for text in texts)]
        cells += ["" if accuracy is None else f"{accuracy:.2%}", f"{score['loss']:.4f}", f"{density:.4g}"]
        table.add_row(*cells, *([f"{seconds[row]:.1f}"] if seconds else []))
    return table


def _perplexity_heads(scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Heads of a table's columns for the texts that all scores have: each name, and the context of its measurement."""
    first = scores[0].get("perplexity", {}) if scores else {}
    return {
        name: f"{name}\nperplexity,\ncontext {value['context']}"
        for name, value in first.items()
        if all(name in score.get("perplexity", {}) for score in scores)
    }


_TOLD = ("backend", "seed", "timing", "ended_by", "repaired", "raw", "incumbents")  # by every solver
_PROOF = ("proven", "lower_bound", "gap")  # by exact ones


def answer_record(problem: problems.BlockProblem, answer: dimod.SampleSet) -> dict[str, Any]:
    """A solver's answer as plain values; `gap` is 0 at the best known energy and 1 at that of a random state."""
    energy, best = float(answer.first.energy), problem.best_known
    gap = None
    if best is not None and (scale := problem.random_mean_energy() - best.energy) > 0:
        gap = (energy - best.energy) / scale
    info = answer.info
    return {
        "energy": energy,
        "gap": gap,
        "best_known": None if best is None else dataclasses.asdict(best),
        "n": problem.n,
        "cardinality": problem.constraint.total,
        **{key: info[key] for key in _TOLD},
        "proof": {key: info[key] for key in _PROOF if key in info} or None,
        "info": {key: value for key, value in info.items() if key not in (*_TOLD, *_PROOF)},
        "state": [int(value) for value in answer.record.sample[0]],
    }


def answer_lines(record: Mapping[str, Any]) -> list[str]:
    """A solver's answer as lines of text."""
    best, timing = record["best_known"], record["timing"]
    gap = "no best known energy on record"
    if best is not None:
        share = "" if record["gap"] is None else f"{100 * record['gap']:.4g} % from "
        gap = f"{share}the best known {best['energy']:.10g} ({'proven, ' if best['proven'] else ''}{best['found_by']})"
    proof = []
    if record["proof"] is not None:
        lower = f"no feasible state is below {record['proof']['lower_bound']:.10g}"
        proof = [f"proof    {'the optimum' if record['proof']['proven'] else f'not complete: {lower}'}"]
    overrun = f", {timing['overrun']:.3f} over the limit" if "overrun" in timing else ""
    return [
        f"energy   {record['energy']:.10g}",
        f"gap      {gap}",
        *proof,
        f"backend  {record['backend']}, seed {record['seed']}, {record['n']} variables, {record['cardinality']} ones",
        f"seconds  {timing['solve']:.3f}, after {timing['setup']:.3f} of setup{overrun}; ended by {record['ended_by']}",
    ]


def backend_records() -> list[dict[str, Any]]:
    """Each backend: whether it is ready or what it lacks, what it can take, and its options with their defaults."""
    return [_backend_record(name) for name in (*solvers.backends(), "dimod:package.Sampler")]


def backend_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The backends as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("backend", "state", "largest n", "cardinality", "options"):
        justify: Literal["left", "right"] = "right" if head == "largest n" else "left"
        table.add_column(head, justify=justify, no_wrap=head == "backend", overflow="fold")
    for record in records:
        largest = record["max_variables"]
        native = record["native_cardinality"]
        table.add_row(
            record["backend"],
            "ready" if record["ready"] else record["missing"],
            f"{largest:,}" if largest is not None else "" if native is None else "any",
            "" if native is None else "native" if native else "penalty",
            ", ".join(f"{key}={value}" for key, value in record["options"].items()),
        )
    return table


def _backend_record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = {"backend": name, "ready": False, "missing": "", "max_variables": None}
    record |= {"native_cardinality": None, "low_rank": None, "remote": None, "options": {}}
    try:
        if name.startswith("dimod:"):
            solver: solvers.Solver = solvers.get_solver("dimod:dimod.ExactSolver")
        else:
            solver = solvers.get_solver(name)
    except solvers.OptionError as error:  # a third party's, that does not load or needs options
        return record | {"missing": str(error)}
    ready, can = solver.available(), solver.capabilities
    return record | {
        "ready": ready.ready,
        "missing": ready.reason,
        "max_variables": can.max_variables,
        "native_cardinality": can.native_cardinality,
        "low_rank": can.low_rank,
        "remote": can.remote,
        "options": {
            field.name: _plain(field.default)
            for field in dataclasses.fields(solver)
            if field.init and field.name not in ("path", "parameters")  # of a dimod sampler; they are in its name
        },
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
