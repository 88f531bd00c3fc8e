"""The journal of a run by layer: each pruned decoder block is on disk before the next one begins.

A block's weights and masks are in the run's folder, `layers/NNNN.safetensors`, which is written before the journal
names it, so that a killed run leaves complete blocks only. A resumed run continues at the first unfinished block.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from hybrid_icbs.layerwise.allocation import Allocation
from hybrid_icbs.layerwise.grams import Group
from hybrid_icbs.layerwise.passes import LayerRecord
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.runs.journal import Journal
from hybrid_icbs.runs.tensor_files import read_tensors, write_tensors

FOLDER = "layers"
"""Folder of the blocks' files until the run is finished and its model saved."""


class LayerJournal:
    """The finished blocks of a run by layer, in the run's journal and folder.

    Args:
        journal: the open journal of the run.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._folder = journal.folder / FOLDER

    def plan(self) -> Allocation | None:
        """The stored allocation: weights to prune in each row; None if there is none yet."""
        with self._journal.reading() as connection:
            rows = connection.execute("SELECT layer, counts FROM plan").fetchall()
        return {layer: np.frombuffer(counts, "<i4").tolist() for layer, counts in rows} or None

    def planned(self, plan: Allocation) -> None:
        """Store the allocation."""
        with self._journal.writing() as connection:
            connection.executemany(
                "INSERT INTO plan VALUES (?, ?)",
                [(layer, np.asarray(counts, "<i4").tobytes()) for layer, counts in plan.items()],
            )

    def keep(self, number: int, group: Group, masks: Masks, records: list[LayerRecord]) -> None:
        """Store a finished block.

        Args:
            number: of the block, in the order of pruning.
            group: the block.
            masks: of the model.
            records: of the block's layers, in its order.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        tensors = {}
        for layer in group.layers:
            tensors[layer.name] = layer.weight.detach().cpu().contiguous()
            tensors[_bits(layer.name)] = torch.from_numpy(np.packbits(masks.flat(layer.name)))
        checksum = write_tensors(self._file(number), tensors, self._journal.folder)
        with self._journal.writing() as connection:
            connection.executemany(
                "INSERT INTO layers (block, checksum, history) VALUES (?, ?, ?)",
                [(number, checksum, json.dumps(asdict(record))) for record in records],
            )

    @torch.no_grad()
    def restore(self, number: int, group: Group, masks: Masks) -> list[LayerRecord] | None:
        """Restore the weights and masks of a block, if it is stored.

        Args:
            number: of the block.
            group: the block; its weights are written.
            masks: written for its layers.

        Returns:
            The records of its layers; None if the block is not finished.

        Raises:
            RunFolderError: its file is missing or damaged.
        """
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT checksum, history FROM layers WHERE block = ? ORDER BY number", (number,)
            ).fetchall()
        if not rows:
            return None
        tensors = read_tensors(self._file(number), rows[0][0], "start the run again in another folder")
        for layer in group.layers:
            layer.weight.copy_(tensors[layer.name])
            bits = tensors[_bits(layer.name)].numpy()
            masks.set_flat(layer.name, np.unpackbits(bits, count=layer.size).view(np.bool_))
        return [LayerRecord(**json.loads(history)) for _, history in rows]

    def clear(self) -> None:
        """Remove the blocks' files, when the run's model is saved."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:04d}.safetensors"


def layers_done(journal: Journal) -> list[LayerRecord]:
    """The records of all finished layers, in the order of pruning."""
    with journal.reading() as connection:
        rows = connection.execute("SELECT history FROM layers ORDER BY number").fetchall()
    return [LayerRecord(**json.loads(history)) for (history,) in rows]


def _bits(name: str) -> str:
    return name + ":kept"
