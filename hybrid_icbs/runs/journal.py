"""The journal of a run: every ask, answer and merge, on disk before the run goes on.

SQLite with a rollback journal and full synchronisation, which keeps its promises on network disks too. The block
problems themselves are not stored: a resume builds them again and compares checksums.
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

from hybrid_icbs.blockwise.blocks import Block
from hybrid_icbs.config import Config
from hybrid_icbs.errors import RunFolderError
from solvers.remote.ledger import Ticket, checked

FILE = "journal.sqlite"

WRITTEN = ("report.html", "model", "masks.safetensors", "race.json")
"""What tells, without a journal, that a folder is another's: what a run would write over, or a race of solvers."""
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

# Since schema 3, for runs by layer: weights that each row loses; layers that are done, and the block they lie in.
_LAYERS = (
    "CREATE TABLE IF NOT EXISTS plan (layer INTEGER PRIMARY KEY, counts BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS layers (number INTEGER PRIMARY KEY, block INTEGER NOT NULL, checksum TEXT NOT NULL, "
    "history TEXT NOT NULL)",
)


def check_free(folder: str | Path) -> None:
    """Refuse a folder that holds a run, or what a run would write over.

    Raises:
        RunFolderError: it does.
    """
    folder = Path(folder)
    if (folder / FILE).exists():
        raise RunFolderError(
            f"{folder} holds a run already; go on with it by hybrid_icbs.resume({str(folder)!r}, model, data), or "
            f"`hybrid-icbs resume {folder}` where the command line began it, or choose another folder"
        )
    held = [name for name in WRITTEN if (folder / name).exists()]
    if held:
        raise RunFolderError(f"{folder} holds {held[0]}, which no run in it has made; choose another folder")


# Since schema 3: the round after which refitted weights were written to the run folder, and their checksum.
_WEIGHTS = ("ALTER TABLE rounds ADD COLUMN weights INTEGER", "ALTER TABLE rounds ADD COLUMN weights_checksum TEXT")


@dataclass(eq=False)
class RoundRecord:
    """What the journal holds of one round.

    Attributes:
        number: 0, 1, ...
        asked: how many blocks were asked for.
        masks: checksum of the masks on which the round stands.
        parameter, index, pruned, checksums: of each block, its labels, how many of its weights are pruned now
            (they come first), and the checksum of its coefficients.
        fixed: bits of the weights that this round fixed for the run, by layer.
        answers: state of each block [n], or None.
        applied: of a merged round, the state that each block's weights went to [n]; None where they stayed.
        merged: whether the round was accepted, the loss after it, and its rows of history; None while it is open.
        saved: where survivors are refitted, the round after which the present weights were written, and their checksum.
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
    """The open journal of one run folder; as long as it is open no other process can write there.

    It is also the ledger (:class:`solvers.remote.ledger.Ledger`) of the run's calls to services, from any thread.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def create(
        cls, folder: str | Path, config: Config, identity: dict[str, Any], notes: Mapping[str, Any] | None = None
    ) -> Journal:
        """Begin a run in a new or empty folder; `notes` are values of the caller's, on record from the start.

        Raises:
            RunFolderError: a run is there already, or the folder cannot be written.
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
        """Open the journal of a run that was begun.

        Raises:
            RunFolderError: there is none, it is damaged, of a later version, or another process works on it.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise RunFolderError(
                f"{folder} holds no run (no {FILE}); runs are begun with `hybrid-icbs prune --out {folder}`"
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
                f"the run in {folder} was stopped before it had begun; delete the folder and start anew"
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
        """Bring a journal of an earlier version up to this one."""
        values: dict[str, Any] = {"schema": SCHEMA}
        with self.writing() as connection:
            if schema == 1:  # begun before there were calls to services, or cuts
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
        """Replace the run's settings, in `config.json` too."""
        settings = config.model_dump(mode="json")
        self.set_value("config", settings)
        _write_text(self.folder / "config.json", json.dumps(settings, indent=2) + "\n")

    def value(self, key: str) -> Any:
        """A value that belongs to the whole run, or None."""
        with self.reading() as connection:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
            row = connection.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone() if tables else None
        return None if row is None else json.loads(row[0])

    def set_value(self, key: str, value: Any) -> None:
        """Write a value (JSON) that belongs to the whole run."""
        with self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def check_identity(self, identity: dict[str, Any]) -> None:
        """Refuse a model or data that are not those of the run.

        Raises:
            RunFolderError: they differ; the message says in what.
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
                    f"{what} not those with which the run in {self.folder} began; give the same dense model and data"
                )

    def asked(self, record: RoundRecord) -> None:
        """Note a round that was asked; again, after a resume, changes nothing."""
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

    def told(self, round_number: int, number: int, block: Block) -> None:
        """Note the answer of a block."""
        assert block.answer is not None
        bits, info = np.packbits(block.answer.astype(bool)).tobytes(), json.dumps(dict(block.info), default=_plain)
        with self.writing() as connection:
            connection.execute(
                "UPDATE blocks SET answer = ?, energy = ?, info = ? WHERE round = ? AND block = ?",
                (bits, block.energy, info, round_number, number),
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
        """Note that a round was merged, or refused, the states that its blocks' weights went to, and their file."""
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
        """The rounds on record, in order."""
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
        """Keep the ticket of a call; it is on disk when this returns."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO calls VALUES (?, ?) ON CONFLICT (label) DO UPDATE SET ticket = excluded.ticket",
                (ticket["label"], json.dumps(checked(ticket), allow_nan=False)),
            )

    def tickets(self) -> list[Ticket]:
        """The tickets of all calls, in the order in which their labels came."""
        with self.reading() as connection:
            rows = connection.execute("SELECT ticket FROM calls ORDER BY rowid").fetchall()
        return [cast(Ticket, json.loads(text)) for (text,) in rows]

    def close(self) -> None:
        """Close the journal and let other processes in."""
        self._connection.close()

    # For those who keep tables of their own here

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk afterwards, or nothing is."""
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
        """The file, with this process's transactions kept apart from each other."""
        with self._explained(), self._lock:
            yield self._connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunFolderError(_reason(self.folder, error)) from error


def _connect(folder: Path, *, create: bool) -> sqlite3.Connection:
    """Open the file and take its lock for as long as the connection lives."""
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
        return f"another process works on the run in {folder}; wait for it, or stop it"
    if "readonly" in text or "unable to open" in text:
        return f"{folder / FILE} cannot be written ({text}); check the folder's permissions, or choose another one"
    if "full" in text or "disk I/O" in text:
        return (
            f"{folder / FILE} cannot grow ({text}); the disk may be full. Nothing on record is lost: make room, "
            f"then `hybrid-icbs resume {folder}`"
        )
    return f"{folder / FILE} cannot be used ({text}); it may be damaged or not a journal of hybrid-icbs"


def _unpacked(bits: bytes | None, n: int) -> npt.NDArray[np.int8] | None:
    return None if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(np.int8)


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of JSON."""
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
