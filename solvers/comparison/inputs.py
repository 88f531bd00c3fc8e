"""The problems of a race, from block files, folders, MDPLIB's files, instances that ship, or memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

import problems
from problems import BlockProblem, FileFormatError, ProblemError, instances
from problems.forms import StateArray
from problems.storage import opened
from solvers.comparison.results import can_be_named
from solvers.errors import OptionError

PREFIX = "instances:"
"""Before the name, or the shell pattern of names, of instances that ship: `instances:mlpnet-*`; alone for all."""

Source: TypeAlias = "BlockProblem | str | os.PathLike[str]"

MEMORY = "memory"
"""Origin of problems that come from no file."""

_BLOCK = (".npz", ".bqm")
_MDPLIB_HEAD = re.compile(rb"\s*\d+[ \t]+\d+[ \t]*\r?\n")


@dataclass(frozen=True)
class Given:
    """A problem that a race was given.

    Attributes:
        name: as tables call it.
        origin: the file or set it comes from.
        load: reads it.
        mask: the state that leaves the network as it is [n]; None where the problem is to tell by itself.
        descent: how many descents from random states were tried and found the best known energy, if on record.
    """

    name: str
    origin: str
    load: Callable[[], BlockProblem]
    mask: Callable[[], StateArray] | None = None
    descent: tuple[int, int] | None = None


def gathered(
    given: Given | Source | Mapping[str, BlockProblem] | Iterable[Given | Source], cardinality: int | None = None
) -> list[Given]:
    """All problems that were named, each once and in order; those of one name get their folder's before it.

    Args:
        given: a problem, a file (NAME.npz, NAME.bqm, an MDPLIB file), a folder of such files, `instances:PATTERN`, or
            several of these; or problems by name.
        cardinality: for .bqm files without a .json, that come from elsewhere.

    Raises:
        OptionError: nothing was given, or what cannot be raced on.
        ProblemError: a file or an instance that cannot be used; the message names it.
        FileNotFoundError: a file or folder that is not there.
    """
    if isinstance(given, Mapping):
        found = [_in_memory(name, problem) for name, problem in given.items()]
    else:
        listed = [given] if isinstance(given, BlockProblem | Given | str | os.PathLike) else list(given)
        found = []
        for place, each in enumerate(listed):
            found += _found(each, place, cardinality)
    if not found:
        raise OptionError("there is nothing to race on: no block problem was given")
    return _told_apart(found)


def current_mask(given: Given, problem: BlockProblem) -> StateArray:
    """The state [n] that leaves the network's masks as they are, ones for the weights that are pruned now.

    Raises:
        OptionError: the problem does not tell: it is no pruning block, or was exported by an older version.
    """
    if given.mask is not None:
        return given.mask()
    pruned = problem.provenance.get("pruned_now")
    if type(pruned) is not int or not 0 <= pruned <= problem.n:
        raise OptionError(
            f"{given.name} has no current mask on record, from which to start: it is no pruning block of this version; "
            "start cold"
        )
    mask = np.zeros(problem.n, np.int8)
    mask[:pruned] = 1  # a block's weights are in this order
    return mask


def source(origin: str) -> Path:
    """The place of an origin: one for all ways to write a path, and for all files of a block."""
    path = Path(origin).resolve()
    base = path.with_suffix("") if path.suffix in (".json", *_BLOCK) else path
    return base if base.with_name(f"{base.name}.json").is_file() else path


def _found(given: Given | Source, place: int, cardinality: int | None) -> Iterator[Given]:
    if isinstance(given, Given):
        yield given
    elif isinstance(given, BlockProblem):
        yield _in_memory(f"block_{place:04d}", given)
    elif isinstance(given, str) and given.startswith(PREFIX):
        yield from _shipped(given.removeprefix(PREFIX))
    elif isinstance(given, str | os.PathLike):
        yield from _on_disk(Path(given), cardinality)
    else:
        raise OptionError(
            f"{given!r:.100} is no block problem; a problems.BlockProblem, a file, a folder or "
            f"{PREFIX}PATTERN is needed"
        )


def _in_memory(name: str, problem: BlockProblem) -> Given:
    if not isinstance(problem, BlockProblem):
        raise OptionError(f"{name} is of type {type(problem).__name__}; a problems.BlockProblem is needed")
    return Given(str(name), MEMORY, lambda: problem)


def _shipped(pattern: str) -> Iterator[Given]:
    for instance in instances.curated(*([pattern] if pattern else [])):
        descent = (instance.descent.tries, instance.descent.found)
        yield Given(instance.name, f"{PREFIX}{instance.name}", instance.load, instance.mask, descent)


def _on_disk(path: Path, cardinality: int | None) -> Iterator[Given]:
    if not path.is_dir():
        yield _file(path, cardinality)
        return
    if (path / "manifest.json").is_file():
        listed = problems.load_set(path)
        for name in listed.names:
            yield _file(path / f"{name}.json", cardinality)
        if not listed.names:
            raise FileFormatError(f"{path}: the set holds no block")
        return
    files = sorted(file for file in path.iterdir() if _is_block(file) or _is_mdplib(file))
    if not files:
        raise FileNotFoundError(2, "holds no block: no NAME.npz, NAME.bqm or MDPLIB file", str(path))
    for file in files:
        yield _file(file, cardinality)


def _file(path: Path, cardinality: int | None) -> Given:
    if path.is_file() and _is_mdplib(path):
        return Given(path.stem, str(path), lambda: instances.read_mdplib(path))
    if path.suffix not in (".json", *_BLOCK):
        if path.is_file():
            raise FileFormatError(f"{path}: is no block: neither NAME.npz, NAME.bqm nor a file of MDPLIB's format")
        if not any(path.with_name(path.name + ending).is_file() for ending in (".json", *_BLOCK)):
            raise FileNotFoundError(2, "no such block; a file, a folder or instances:PATTERN is needed", str(path))
    elif not path.is_file():
        raise FileNotFoundError(2, "no such block; a file, a folder or instances:PATTERN is needed", str(path))
    name = path.stem if path.suffix in (".json", *_BLOCK) else path.name
    described = path.with_name(f"{name}.json").is_file()
    return Given(name, str(path), lambda: problems.load(path, None if described else cardinality))


def _is_block(path: Path) -> bool:
    return path.suffix in _BLOCK and not path.name.endswith(".labels.npz")


def _is_mdplib(path: Path) -> bool:
    """Whether a file begins as MDPLIB's do, with the two sizes alone on a line."""
    if path.suffix in (".json", *_BLOCK) or not path.is_file():
        return False
    with opened(path) as (file, _):
        return _MDPLIB_HEAD.match(file.read(64)) is not None


def _told_apart(found: list[Given]) -> list[Given]:
    once: dict[object, Given] = {}
    for place, each in enumerate(found):  # overlapping patterns name one thing several times
        once.setdefault(place if each.origin == MEMORY else (each.name, source(each.origin)), each)
    found = list(once.values())
    count = Counter(each.name for each in found)
    named = [
        replace(each, name=f"{Path(each.origin).resolve().parent.name}/{each.name}") if count[each.name] > 1 else each
        for each in found
    ]
    again = [name for name, times in Counter(each.name for each in named).items() if times > 1]
    if again:
        raise ProblemError(f"two problems are called {again[0]!r}; rename one of them, or its folder")
    for each in named:
        if not can_be_named(each.name):
            raise ProblemError(
                f"{each.name!a:.200} cannot be a problem's name: it holds control characters, or bytes that are no "
                "UTF-8; rename it, or its file"
            )
    return named
