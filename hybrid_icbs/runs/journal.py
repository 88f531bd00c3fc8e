"""The journal of a run: each ask, answer and merge is on disk before the run continues.

SQLite with a rollback journal and full synchronisation, which is safe on network disks too. Block problems are not
stored: a resume rebuilds them and compares checksums.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hybrid_icbs.config import Config
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.runs.folder import FILE
from solvers.remote.ledger import Ticket, checked

WRITTEN = ("report.html", "model", "masks.safetensors", "race.json")
"""Files that mark a folder as used although it has no journal: a run would overwrite them."""
SCHEMA = 3

_TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, asked INTEGER NOT NULL, masks TEXT NOT NULL, begun REAL NOT NULL,
    accepted INTEGER, loss REAL, history TEXT, weights INTEGER, weights_checksum TEXT
);
CREATE TABLE blocks (
    round INTEGER NOT NULL, block INTEGER NOT NULL, pruned INTEGER NOT NULL,
    parameter BLOB NOT NULL, flat_index BLOB NOT NULL,
    checksum TEXT NOT NULL, answer BLOB, energy REAL, info TEXT, applied BLOB, PRIMARY KEY (round, block)
);
CREATE TABLE fixed (layer INTEGER PRIMARY KEY, round INTEGER NOT NULL, bits BLOB NOT NULL);
"""

_CALLS = "CREATE TABLE IF NOT EXISTS calls (label TEXT PRIMARY KEY, ticket TEXT NOT NULL)"  # since schema 2

# Since schema 3, for runs by layer: number of pruned weights of each row; finished layers and their decoder blocks.
_LAYERS = (
    "CREATE TABLE IF NOT EXISTS plan (layer INTEGER PRIMARY KEY, counts BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS layers (number INTEGER PRIMARY KEY, block INTEGER NOT NULL, checksum TEXT NOT NULL, "
    "history TEXT NOT NULL)",
)


def check_free(folder: str | Path) -> None:
    """Refuse a folder that holds a run, or files that a run would overwrite.

    Raises:
        RunFolderError: the folder is used.
    """
    folder = Path(folder)
    if (folder / FILE).exists():
        raise RunFolderError(
            f"{folder} holds a run already; continue it by hybrid_icbs.resume({str(folder)!r}, model, data), or by "
            f"`hybrid-icbs resume {folder}` if the command line began it, or choose another folder"
        )
    held = [name for name in WRITTEN if (folder / name).exists()]
    if held:
        raise RunFolderError(f"{folder} holds {held[0]}, which is not of a run in this folder; choose another folder")


# Since schema 3: the round after which refitted weights were saved, and their checksum.
_WEIGHTS = ("ALTER TABLE rounds ADD COLUMN weights INTEGER", "ALTER TABLE rounds ADD COLUMN weights_checksum TEXT")


@dataclass(eq=False)
class RoundRecord:
    """The entry of one round in the journal.

    Attributes:
        number: 0, 1, ...
        asked: number of blocks that were asked for.
        masks: checksum of the masks before the round.
        parameter, index: labels of each block: layer number and flat index of its weights [n].
        pruned: number of weights of each block that are pruned before the round; they come first.
        checksums: checksum of each block's coefficients.
        fixed: packed bits of the weights that this round fixed for the rest of the run, by layer.
        answers: answer of each block [n], or None.
        applied: of a merged round, the new state of each block [n]; None for an unchanged block.
        merged: whether the round was accepted, the loss after it, and its rows of history; None while it is open.
        saved: if survivors are refitted, the round after which the current weights were saved, and their checksum.
    """

    number: int
    asked: int
    masks: str
    parameter: list[npt.NDArray[np.int32]]
    index: list[npt.NDArray[np.int64]]
    pruned: list[int]
    checksums: list[str]
    fixed: dict[int, npt.NDArray[np.uint8]]
    answers: list[npt.NDArray[np.int8] | None] = field(default_factory=list)
    applied: list[npt.NDArray[np.int8] | None] = field(default_factory=list)
    merged: tuple[bool, float | None, list[dict[str, Any]]] | None = None
    saved: tuple[int, str] | None = None


class Journal:
    """The open journal of a run folder. While it is open, no other process can open it.

    It is also the ledger (:class:`solvers.remote.ledger.Ledger`) of the run's calls to services, usable by any thread.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def create(
        cls, folder: str | Path, config: Config, identity: dict[str, Any], notes: Mapping[str, Any] | None = None
    ) -> Journal:
        """Begin a run in a new or empty folder; `notes` are JSON values to store.

        Raises:
            RunFolderError: the folder holds a run already, or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{folder} cannot be made: {error.strerror}; choose another folder") from error
        journal = cls(folder, _connect(folder, create=True))
        values = {
            "schema": SCHEMA,
            "run": secrets.token_hex(8),
            "config": config.model_dump(mode="json"),
            "identity": identity,
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **(notes or {}),
        }
        with journal.writing() as connection:
            for statement in [*filter(None, map(str.strip, _TABLES.split(";"))), _CALLS, *_LAYERS]:
                connection.execute(statement)
            connection.executemany("INSERT INTO run VALUES (?, ?)", [(k, json.dumps(v)) for k, v in values.items()])
        _write_text(folder / "config.json", json.dumps(values["config"], indent=2) + "\n")
        return journal

    @classmethod
    def open(cls, folder: str | Path) -> Journal:
        """Open the journal of a run.

        Raises:
            RunFolderError: there is none, it is damaged or of a later version, or another process has it open.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise RunFolderError(
                f"{folder} holds no run (no {FILE}); begin one with `hybrid-icbs prune --out {folder}`"
            )
        journal = cls(folder, _connect(folder, create=False))
        try:
            schema = journal.value("schema")
        except RunFolderError:
            journal.close()
            raise
        if schema is None:
            journal.close()
            raise RunFolderError(
                f"the run in {folder} was stopped before its first entry; delete the folder and begin again"
            )
        if schema not in range(1, SCHEMA + 1):
            journal.close()
            raise RunFolderError(
                f"{folder / FILE} has schema {schema}; this version reads 1 to {SCHEMA}. Update hybrid-icbs"
            )
        if schema < SCHEMA:
            journal._upgrade(schema)
        return journal

    def _upgrade(self, schema: int) -> None:
        """Upgrade a journal of an earlier version."""
        values: dict[str, Any] = {"schema": SCHEMA}
        with self.writing() as connection:
            if schema == 1:  # from before calls to services and falling densities
                connection.execute(_CALLS)
                connection.execute("ALTER TABLE blocks ADD COLUMN applied BLOB")
                connection.execute(
                    "UPDATE blocks SET applied = answer WHERE round IN (SELECT number FROM rounds WHERE accepted = 1)"
                )
                settings = self.value("config") | {"cut_steps": 0}
                values |= {"run": secrets.token_hex(8), "config": settings}
            for statement in (*_LAYERS, *_WEIGHTS):
                connection.execute(statement)
            connection.executemany(
                "INSERT OR REPLACE INTO run VALUES (?, ?)", [(k, json.dumps(v)) for k, v in values.items()]
            )

    @property
    def config(self) -> Config:
        """The run's settings."""
        return Config.of(**self.value("config"))

    def set_config(self, config: Config) -> None:
        """Replace the run's settings, also in `config.json`."""
        settings = config.model_dump(mode="json")
        self.set_value("config", settings)
        _write_text(self.folder / "config.json", json.dumps(settings, indent=2) + "\n")

    def value(self, key: str) -> Any:
        """A value of the whole run, or None."""
        with self.reading() as connection:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
            row = connection.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone() if tables else None
        return None if row is None else json.loads(row[0])

    def set_value(self, key: str, value: Any) -> None:
        """Store a JSON value of the whole run."""
        with self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def check_identity(self, identity: dict[str, Any]) -> None:
        """Refuse a model or data that are not the run's.

        Raises:
            RunFolderError: they differ; the message says how.
        """
        recorded = self.value("identity")
        for key, what in (
            ("layers", "the model's layers are"),
            ("weights", "the model's weights are"),
            ("samples", "the number of calibration samples is"),
            ("data", "the calibration samples are"),
            ("masks", "the masks of the start are"),
        ):
            if recorded.get(key) != identity.get(key):
                raise RunFolderError(
                    f"{what} not those of the run in {self.folder}; give the dense model and data that it began with"
                )

    def asked(self, record: RoundRecord) -> None:
        """Record a round that was asked for; recording it again after a resume changes nothing."""
        with self.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO rounds (number, asked, masks, begun) VALUES (?, ?, ?, ?)",
                (record.number, record.asked, record.masks, time.time()),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO blocks (round, block, pruned, parameter, flat_index, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        record.number,
                        b,
                        pruned,
                        parameter.astype("<i4").tobytes(),
                        index.astype("<i8").tobytes(),
                        checksum,
                    )
                    for b, (pruned, parameter, index, checksum) in enumerate(
                        zip(record.pruned, record.parameter, record.index, record.checksums, strict=True)
                    )
                ],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO fixed VALUES (?, ?, ?)",
                [(layer, record.number, bits.tobytes()) for layer, bits in record.fixed.items()],
            )

    def answered(
        self, round_number: int, block: int, answer: npt.NDArray[np.int8], energy: float, info: Mapping[str, Any]
    ) -> None:
        """Record the answer of a block: its state [n], the energy, and what the solver reported."""
        bits = np.packbits(answer.astype(bool)).tobytes()
        with self.writing() as connection:
            connection.execute(
                "UPDATE blocks SET answer = ?, energy = ?, info = ? WHERE round = ? AND block = ?",
                (bits, energy, json.dumps(dict(info), default=_plain), round_number, block),
            )

    def merged(
        self,
        round_number: int,
        accepted: bool,
        loss: float | None,
        history: list[dict[str, Any]],
        applied: list[npt.NDArray[np.int8] | None],
        saved: tuple[int, str] | None = None,
    ) -> None:
        """Record that a round was merged or refused, the new states of its blocks, and the saved values."""
        with self.writing() as connection:
            connection.executemany(
                "UPDATE blocks SET applied = ? WHERE round = ? AND block = ?",
                [
                    (None if state is None else np.packbits(state.astype(bool)).tobytes(), round_number, b)
                    for b, state in enumerate(applied)
                ],
            )
            connection.execute(
                "UPDATE rounds SET accepted = ?, loss = ?, history = ?, weights = ?, weights_checksum = ? "
                "WHERE number = ?",
                (int(accepted), loss, json.dumps(history, default=_plain), *(saved or (None, None)), round_number),
            )

    def rounds(self) -> Iterator[RoundRecord]:
        """The recorded rounds, in order."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT number, asked, masks, accepted, loss, history, weights, weights_checksum FROM rounds "
                "ORDER BY number"
            )
            for number, asked, masks, accepted, loss, history, weights, weights_checksum in rows.fetchall():
                blocks = connection.execute(
                    "SELECT pruned, parameter, flat_index, checksum, answer, applied FROM blocks "
                    "WHERE round = ? ORDER BY block",
                    (number,),
                ).fetchall()
                fixed = connection.execute("SELECT layer, bits FROM fixed WHERE round = ?", (number,)).fetchall()
                index = [np.frombuffer(block[2], "<i8").astype(np.int64) for block in blocks]
                yield RoundRecord(
                    number,
                    asked,
                    masks,
                    parameter=[np.frombuffer(block[1], "<i4").astype(np.int32) for block in blocks],
                    index=index,
                    pruned=[block[0] for block in blocks],
                    checksums=[block[3] for block in blocks],
                    fixed={layer: np.frombuffer(bits, np.uint8) for layer, bits in fixed},
                    answers=[_unpacked(block[4], len(own)) for block, own in zip(blocks, index, strict=True)],
                    applied=[_unpacked(block[5], len(own)) for block, own in zip(blocks, index, strict=True)],
                    merged=None if accepted is None else (bool(accepted), loss, json.loads(history)),
                    saved=None if weights is None else (weights, weights_checksum),
                )

    # The ledger of calls to services

    def get(self, label: str) -> Ticket | None:
        """The ticket of a call, or None."""
        with self.reading() as connection:
            row = connection.execute("SELECT ticket FROM calls WHERE label = ?", (label,)).fetchone()
        return None if row is None else cast(Ticket, json.loads(row[0]))

    def put(self, ticket: Ticket) -> None:
        """Record the ticket of a call; it is on disk when this returns."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO calls VALUES (?, ?) ON CONFLICT (label) DO UPDATE SET ticket = excluded.ticket",
                (ticket["label"], json.dumps(checked(ticket), allow_nan=False)),
            )

    def tickets(self) -> list[Ticket]:
        """The tickets of all calls, in the order of their first record."""
        with self.reading() as connection:
            rows = connection.execute("SELECT ticket FROM calls ORDER BY rowid").fetchall()
        return [cast(Ticket, json.loads(text)) for (text,) in rows]

    def close(self) -> None:
        """Close the journal, so that other processes can open it."""
        self._connection.close()

    # For modules with tables of their own in the journal

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk as a whole when it ends, or not at all."""
        with self._explained(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read access, exclusive of this process's other transactions."""
        with self._explained(), self._lock:
            yield self._connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunFolderError(_reason(self.folder, error)) from error


def _connect(folder: Path, *, create: bool) -> sqlite3.Connection:
    """Open the file and lock it for the lifetime of the connection."""
    mode = "rwc" if create else "rw"
    try:
        connection = sqlite3.connect(
            f"{(folder / FILE).resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise RunFolderError(_reason(folder, error)) from error
    return connection


def _reason(folder: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"another process has the run in {folder} open; wait for it, or stop it"
    if "readonly" in text or "unable to open" in text:
        return f"{folder / FILE} cannot be written ({text}); check the folder's permissions, or choose another one"
    if "full" in text or "disk I/O" in text:
        return (
            f"{folder / FILE} cannot grow ({text}); the disk may be full. Recorded entries are safe: free some "
            f"space, then `hybrid-icbs resume {folder}`"
        )
    return f"{folder / FILE} cannot be used ({text}); it may be damaged or not a journal of hybrid-icbs"


def _unpacked(bits: bytes | None, n: int) -> npt.NDArray[np.int8] | None:
    return None if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(np.int8)


def _plain(value: Any) -> Any:
    """Values that JSON can hold: numpy numbers and arrays converted, others as text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}") from error
