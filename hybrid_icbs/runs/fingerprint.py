"""Checksums of a run's model and data, by which a resume recognises them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def fingerprint(values: Any) -> str:
    """SHA-256 of nested dicts and tuples of tensors; other values are hashed by their text."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                digest.update(str(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(str(value).encode())

    add(values)
    return digest.hexdigest()
