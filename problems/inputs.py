"""Problems named by a user: files, folders, `instances:PATTERN`, or problems in memory, each read when it is needed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from problems import formats, instances
from problems.block import BlockProblem
from problems.errors import FileFormatError, ProblemError
from problems.forms import StateArray
from problems.sets import MANIFEST, load_set

PREFIX = "instances:"
"""Prefix of the name, or of a shell pattern of names, of shipped instances: `instances:mlpnet-*`; alone for all."""

MEMORY = "memory"
"""Origin of problems that come from no file."""


@dataclass(frozen=True)
class NamedProblem:
    """A problem that is not read yet.

    Attributes:
        name: its name in tables.
        origin: the file or instance it comes from, as text.
        load: reads it.
        mask: the state of the network's present masks [n], of shipped instances; otherwise None.
        descent: how many descents from random states were tried and how many found the best known energy, of shipped
            instances; otherwise None.
    """

    name: str
    origin: str
    load: Callable[[], BlockProblem]
    mask: Callable[[], StateArray] | None = None
    descent: tuple[int, int] | None = None


Source: TypeAlias = "NamedProblem | BlockProblem | str | os.PathLike[str]"


def resolve(
    sources: Source | Mapping[str, BlockProblem] | Iterable[Source], cardinality: int | None = None
) -> list[NamedProblem]:
    """The problems that a user names, each once and in order; none of them is read yet.

    Args:
        sources: one or several of: a problem file of any known format, with or without its ending; a set (see
            :func:`problems.load_set`); a folder of problem files; `instances:PATTERN`; a problem. Or problems by name.
        cardinality: the demanded number of ones, for files that do not contain it (other files ignore it).

    Returns:
        The problems, empty only if `sources` is. Problems of the same name are called FOLDER/NAME.

    Raises:
        ProblemError: a file or an instance that cannot be used, or two problems of the same name in folders of the
            same name; the message names it.
        FileNotFoundError: a file or folder that does not exist, or a folder without problems.
        TypeError: a source of another type.

    Example:
        >>> from problems import resolve
        >>> [(each.name, each.load().n) for each in resolve("instances:*-typical-n16-*")]
        [('mlpnet-typical-n16-k8', 16), ('resnet20-typical-n16-k8', 16), ('llama-typical-n16-k8', 16)]
    """
    if isinstance(sources, Mapping):
        found = [_in_memory(name, problem) for name, problem in sources.items()]
    else:
        single = isinstance(sources, NamedProblem | BlockProblem | str | os.PathLike)
        listed: Iterable[Source] = [sources] if single else sources  # type: ignore[list-item, assignment]
        found = [named for place, each in enumerate(listed) for named in _resolved(each, place, cardinality)]
    return _distinct(found)


def source_of(origin: str) -> Path:
    """The file of an origin, the same for all ways to write its path and for all files of one block."""
    path = Path(origin).resolve()
    base = path.with_suffix("") if path.suffix in (".json", ".bqm", ".npz") else path
    return base if base.with_name(f"{base.name}.json").is_file() else path


def _resolved(source: Source, place: int, cardinality: int | None) -> Iterator[NamedProblem]:
    if isinstance(source, NamedProblem):
        yield source
    elif isinstance(source, BlockProblem):
        yield _in_memory(f"block_{place:04d}", source)
    elif isinstance(source, str) and source.startswith(PREFIX):
        yield from _shipped(source.removeprefix(PREFIX))
    elif isinstance(source, str | os.PathLike):
        yield from _on_disk(Path(source), cardinality)
    else:
        raise TypeError(
            f"{source!r:.100} is not a block problem; a problems.BlockProblem, a file, a folder or "
            f"{PREFIX}PATTERN is needed"
        )


def _in_memory(name: str, problem: BlockProblem) -> NamedProblem:
    if not isinstance(problem, BlockProblem):
        raise TypeError(f"{name} is of type {type(problem).__name__}; a problems.BlockProblem is needed")
    return NamedProblem(str(name), MEMORY, lambda: problem)


def _shipped(pattern: str) -> Iterator[NamedProblem]:
    for instance in instances.curated(*([pattern] if pattern else [])):
        descent = (instance.descent.tries, instance.descent.found)
        yield NamedProblem(instance.name, f"{PREFIX}{instance.name}", instance.load, instance.mask, descent)


def _on_disk(path: Path, cardinality: int | None) -> Iterator[NamedProblem]:
    if not path.is_dir():
        yield _file(path, cardinality)
        return
    if (path / MANIFEST).is_file():
        listed = load_set(path)
        for name in listed.names:
            yield _file(path / f"{name}.json", cardinality)
        if not listed.names:
            raise FileFormatError(f"{path}: the set holds no block")
        return
    files = sorted(file for file in path.iterdir() if file.is_file() and _is_problem(file))
    if not files:
        names = ", ".join(map(str, formats.known()))
        raise FileNotFoundError(2, f"no problem in the folder; known formats: {names}", str(path))
    for file in files:
        yield _file(file, cardinality)


def _is_problem(file: Path) -> bool:
    """Whether a file of a folder is a problem by itself, and not a companion of another file."""
    format = formats.recognised(file)
    return format is not None and not file.name.endswith(format.companions)


def _file(path: Path, cardinality: int | None) -> NamedProblem:
    try:
        format, file = formats.located(path)
    except FileNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise FileNotFoundError(2, f"no such problem; a file, a folder or {PREFIX}NAME is needed", str(path))
    ending = next((ending for ending in format.endings if file.name.endswith(ending)), file.suffix)
    return NamedProblem(
        file.name.removesuffix(ending), str(path), lambda: BlockProblem.of(formats.read(path, cardinality))
    )


def _distinct(found: list[NamedProblem]) -> list[NamedProblem]:
    """Each problem once, with names that differ."""
    once: dict[object, NamedProblem] = {}
    for place, each in enumerate(found):  # overlapping patterns may name a problem several times
        once.setdefault(place if each.origin == MEMORY else (each.name, source_of(each.origin)), each)
    found = list(once.values())
    count = Counter(each.name for each in found)
    named = [
        replace(each, name=f"{Path(each.origin).resolve().parent.name}/{each.name}") if count[each.name] > 1 else each
        for each in found
    ]
    again = [name for name, times in Counter(each.name for each in named).items() if times > 1]
    if again:
        raise ProblemError(f"two problems are called {again[0]!r}; rename one of them, or its folder")
    return named
