"""Several block problems as a folder: the files of each, and a manifest.json that names them in order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

from problems.block import BlockProblem
from problems.errors import FileFormatError, ProblemError
from problems.storage import check_schema, json_bytes, opened, parse_json, write_whole

SCHEMA, VERSION = "hybrid-icbs block set", 1

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]{0,199}")


def save_set(
    problems: Iterable[BlockProblem] | Mapping[str, BlockProblem], folder: str | os.PathLike[str], *, add: bool = False
) -> Path:
    """Write several problems to a folder, with a manifest when all are written.

    Args:
        problems: the problems, one at a time if need be; in a mapping by name, otherwise named block_0000 and so on.
        folder: made where it does not exist. A set that was there before is one no longer; its blocks stay as files.
        add: whether the blocks come to those of a set that is there, behind them or, under a name of theirs, instead.

    Returns:
        The folder.

    Raises:
        ProblemError: a name that cannot be a file's everywhere, or two that differ in case at most.
        FileFormatError: the folder has a manifest.json that is not a set's, or a damaged one; nothing was written.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = _held(folder)
    names = dict.fromkeys(held if add else ())  # in order
    taken = {name.lower() for name in names}
    if not add:
        (folder / MANIFEST).unlink(missing_ok=True)  # a set half old and half new must not load
    for name, problem in _named(problems):
        if name in names:
            taken.discard(name.lower())
        fault = _name_fault(name, taken)
        if fault:
            raise ProblemError(fault)
        problem.save(folder / f"{name}.json")
        names[name] = None
    manifest = json_bytes({"schema": SCHEMA, "version": VERSION, "blocks": list(names)})
    write_whole(folder / "manifest", {}, (".json", lambda _: manifest))
    return folder


def load_set(folder: str | os.PathLike[str]) -> BlockSet:
    """Open a folder of blocks; each is read when it is asked for.

    Raises:
        FileFormatError: the manifest is damaged, or names what lies outside the folder.
        FileNotFoundError: there is no manifest.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    with opened(path) as (file, size):
        limit = (1 << 20) + 256 * sum(1 for _ in folder.iterdir())  # a block has two files; a name, 200 characters
        if size > limit:
            raise FileFormatError(f"{path}: size: {size} bytes are more than the {limit} that this folder may need")
        manifest = parse_json(file.read(limit), path, "manifest")
    check_schema(manifest, SCHEMA, VERSION, path)
    names = manifest.get("blocks")
    if not isinstance(names, list) or set(manifest) != {"schema", "version", "blocks"}:
        raise FileFormatError(f"{path}: blocks: must be a list of names, with schema and version the only fields")
    taken: set[str] = set()
    for name in names:
        fault = _name_fault(name, taken)
        if fault:
            raise FileFormatError(f"{path}: blocks: {fault}")
    return BlockSet(folder, tuple(names))


class BlockSet(Sequence[BlockProblem]):
    """The blocks of a folder in order, each read anew when it is asked for by number or by name.

    Attributes:
        folder: where they are.
        names: their names.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, which: int | str) -> BlockProblem: ...

    @overload
    def __getitem__(self, which: slice) -> BlockSet: ...

    def __getitem__(self, which: int | str | slice) -> BlockProblem | BlockSet:
        if isinstance(which, slice):
            return BlockSet(self.folder, self.names[which])
        if isinstance(which, str) and which not in self.names:
            raise KeyError(f"no block {which!r} in {self.folder}; there are {', '.join(self.names)}")
        return BlockProblem.load(self.folder / f"{which if isinstance(which, str) else self.names[which]}.json")

    def __repr__(self) -> str:
        return f"<BlockSet of {len(self)} blocks in {self.folder}>"


def _held(folder: Path) -> tuple[str, ...]:
    """The names of the set that a folder holds; none where it has no manifest."""
    try:
        return load_set(folder).names
    except FileNotFoundError:
        return ()
    except FileFormatError as error:
        raise FileFormatError(
            f"{error}. It would be overwritten: move it away, or choose another folder for the blocks"
        ) from error


def _named(problems: Iterable[BlockProblem] | Mapping[str, BlockProblem]) -> Iterable[tuple[str, BlockProblem]]:
    if isinstance(problems, Mapping):
        return problems.items()
    return ((f"block_{i:04d}", problem) for i, problem in enumerate(problems))


def _name_fault(name: object, taken: set[str]) -> str | None:
    """What is wrong with a block's name; where nothing is, the name is taken from now on."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"{repr(name)[:100]} cannot be a block's name; up to 200 letters, digits and _.+=@,- are allowed, "
            "beginning with a letter, a digit or _"
        )
    if name.lower() == "manifest" or name.lower().endswith(".labels"):
        return f"{name!r} cannot be a block's name: that file has another meaning in a set"
    if name.lower() in taken:
        return f"{name!r} is there twice; some file systems do not tell upper from lower case"
    taken.add(name.lower())
    return None
