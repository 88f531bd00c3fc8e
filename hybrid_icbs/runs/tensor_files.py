"""Tensors in files of a run folder, written atomically and verified when they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.runs.fingerprint import fingerprint


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], run: Path) -> str:
    """Write tensors atomically; they are on disk when this returns.

    Args:
        file: the file; its folder is created.
        tensors: by name, on the CPU and contiguous.
        run: the run folder, for error messages.

    Returns:
        The checksum to pass to :func:`read_tensors`.

    Raises:
        RunFolderError: the file cannot be written.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(exist_ok=True)
        save_file(dict(tensors), part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise RunFolderError(
            f"{file} cannot be written: {error}; free some space, then `hybrid-icbs resume {run}`"
        ) from error
    return _checksum(tensors)


def read_tensors(file: Path, checksum: str, remedy: str) -> dict[str, torch.Tensor]:
    """Read tensors that :func:`write_tensors` wrote.

    Args:
        file: the file.
        checksum: checksum that :func:`write_tensors` returned.
        remedy: what to do without the file, for error messages.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file} cannot be read: {error}; {remedy}") from error
    if _checksum(tensors) != checksum:
        raise RunFolderError(f"{file} is damaged: its checksum does not match the journal; {remedy}")
    return tensors


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    return fingerprint({name: tensors[name] for name in sorted(tensors)})
