"""Block problems of the command line: files to be solved, and files that are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import problems
from hybrid_icbs.cli.console import WrongUse
from hybrid_icbs.runs.folder import FILE


def converted(
    sources: Sequence[str], cardinality: int | None
) -> tuple[list[str] | None, list[problems.BlockProblem] | None]:
    """The names and problems of block files, folders, MDPLIB files and instances; None for a run folder.

    Raises:
        WrongUse: a run folder among other sources.
    """
    runs = [source for source in sources if (Path(source) / FILE).is_file()]
    if runs and len(sources) > 1:
        raise WrongUse(f"{runs[0]} is a run folder; give it alone, its blocks are not mixed with others")
    if runs:
        return None, None
    listed = problems.resolve(sources, cardinality)
    # Problems of different folders may be called FOLDER/NAME, which is no name of a file.
    return [each.name.replace("/", "-") for each in listed], [each.load() for each in listed]


def write_blocks(
    found: Sequence[problems.BlockProblem], out: Path, *, names: Sequence[str] | None, dense: bool
) -> dict[str, Any]:
    """Write blocks as a set, and return the file, n, cardinality and layers of each.

    Args:
        found: the blocks.
        out: folder of the set.
        names: their names; None for block_0000, block_0001, ...
        dense: whether to write dense .bqm files.
    """
    written = [problem.to_dense() if dense else problem for problem in found]
    problems.save_set(written if names is None else dict(zip(names, written, strict=True)), out)
    listed = [
        {
            "file": str(
                next(out / f"{name}{ending}" for ending in (".bqm", ".npz") if (out / f"{name}{ending}").exists())
            ),
            "n": problem.n,
            "cardinality": problem.cardinality,
            "layers": problem.provenance.get("layers", []),
        }
        for name, problem in zip(problems.load_set(out).names, written, strict=True)
    ]
    return {"out": str(out), "blocks": listed}
