"""Sets: folders of block problems with a manifest.json that lists them in order."""

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
    """Write several problems to a folder, and the manifest after them.

    Args:
        problems: the problems, possibly from a generator, which are then called block_0000, block_0001, and so on; or a
            mapping by name.
        folder: created if it does not exist. The manifest of an earlier set in it is replaced; its files are kept.
        add: whether to keep the blocks of an earlier set in the folder; those of the same name are replaced.

    Returns:
        The folder.

    Raises:
        ProblemError: a name that is not allowed, or two names that differ in case at most.
        FileFormatError: the folder has a manifest.json of something else, or a damaged one; nothing was written.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = _held(folder)
    names = dict.fromkeys(held if add else ())  # in order
    taken = {name.lower() for name in names}
    if not add:
        (folder / MANIFEST).unlink(missing_ok=True)  # a set that is half old and half new must not load
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
    """Open a set; each block is read when it is indexed.

    Raises:
        FileFormatError: the manifest is damaged, or names a file outside the folder.
        FileNotFoundError: there is no manifest.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    with opened(path) as (file, size):
        limit = (1 << 20) + 256 * sum(1 for _ in folder.iterdir())  # a name has 200 characters at most
        if size > limit:
            raise FileFormatError(f"{path}: size: {size} bytes; a folder of so many files needs at most {limit}")
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
    """The blocks of a set in order; each is read whenever it is indexed, by number or by name.

    Attributes:
        folder: the folder.
        names: the names of the blocks.
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
            raise KeyError(f"no block {which!r} in {self.folder}; its blocks are {', '.join(self.names)}")
        return BlockProblem.load(self.folder / f"{which if isinstance(which, str) else self.names[which]}.json")

    def __repr__(self) -> str:
        return f"<BlockSet of {len(self)} blocks in {self.folder}>"


def _held(folder: Path) -> tuple[str, ...]:
    """The names of the blocks of a set; none if the folder has no manifest."""
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
    """What is wrong with a block's name; a valid name is added to `taken`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"{repr(name)[:100]} cannot be a block's name; allowed are up to 200 letters, digits and _.+=@,- that "
            "begin with a letter, a digit or _"
        )
    if name.lower() == "manifest" or name.lower().endswith(".labels"):
        return f"{name!r} cannot be a block's name: a set has another file of this name"
    if name.lower() in taken:
        return f"{name!r} is used twice; some file systems ignore case"
    taken.add(name.lower())
    return None
