"""The record of a run by layer: what each decoder block came to, on disk before the next one is begun.

A block's weights and masks lie in a file of the run's folder, `layers/NNNN.safetensors`, written before the journal
names it, so a kill at any moment leaves whole blocks only. A resume goes on at the first block that is not on record.
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
"""Where the blocks' files lie until the run is done and its model saved."""


class LayerJournal:
    """What a run by layer has done, in the journal and the folder of the run.

    Args:
        journal: the run's, open.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._folder = journal.folder / FOLDER

    def plan(self) -> Allocation | None:
        """How many weights each row is to lose, as it was found out on the dense model; None if that is not done."""
        with self._journal.reading() as connection:
            rows = connection.execute("SELECT layer, counts FROM plan").fetchall()
        return {layer: np.frombuffer(counts, "<i4").tolist() for layer, counts in rows} or None

    def planned(self, plan: Allocation) -> None:
        """Keep the plan."""
        with self._journal.writing() as connection:
            connection.executemany(
                "INSERT INTO plan VALUES (?, ?)",
                [(layer, np.asarray(counts, "<i4").tobytes()) for layer, counts in plan.items()],
            )

    def keep(self, number: int, group: Group, masks: Masks, records: list[LayerRecord]) -> None:
        """Keep a block whose layers are all pruned.

        Args:
            number: of the block, in the order of pruning.
            group: the block.
            masks: of the model, the block's among them.
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
        """Put a block's weights and masks back as they were left, if it is on record.

        Args:
            number: of the block.
            group: the block; its weights are written.
            masks: written for its layers.

        Returns:
            The records of its layers, or None: the block is not done.

        Raises:
            RunFolderError: its file is missing or damaged.
        """
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT checksum, history FROM layers WHERE block = ? ORDER BY number", (number,)
            ).fetchall()
        if not rows:
            return None
        tensors = read_tensors(self._file(number), rows[0][0], "begin the run anew in another folder")
        for layer in group.layers:
            layer.weight.copy_(tensors[layer.name])
            bits = tensors[_bits(layer.name)].numpy()
            masks.set_flat(layer.name, np.unpackbits(bits, count=layer.size).view(np.bool_))
        return [LayerRecord(**json.loads(history)) for _, history in rows]

    def clear(self) -> None:
        """Remove the blocks' files: the run's model is saved."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:04d}.safetensors"


def layers_done(journal: Journal) -> list[LayerRecord]:
    """The layers on record, in the order of pruning."""
    with journal.reading() as connection:
        rows = connection.execute("SELECT history FROM layers ORDER BY number").fetchall()
    return [LayerRecord(**json.loads(history)) for (history,) in rows]


def _bits(name: str) -> str:
    return name + ":kept"
