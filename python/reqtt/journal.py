"""What was asked and what was answered, on disk: what must not run twice does not, even after a crash.

One file (SQLite) and one thread, which writes in one transaction what came together. Knows nothing of
messages and connections: `reqtt.responder` asks before a handler runs, and tells what it answered.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from reqtt.errors import ReqttError

if TYPE_CHECKING:
    from reqtt._core import Request
    from reqtt.responder import Reply

__all__ = ["INTERRUPTED", "Journal", "default_path"]

INTERRUPTED: Final = object()
"""It was begun in an earlier life of the process, and never answered."""

# What this file means; another number is refused, not guessed at.
_VERSION: Final = 1
# How long a request without an expiry is remembered, in seconds.
_WITHOUT_EXPIRY: Final = 24 * 3600.0
# And one with an expiry after that: a copy may come late, or without its expiry.
_AFTER_EXPIRY: Final = 60.0
# What is kept at most, in requests and in bytes of answers: beyond that the oldest answers go.
_ENTRIES: Final = 100_000
_BYTES: Final = 256 * 1024 * 1024
# Operations in one transaction, which is one write to the disk.
_BATCH: Final = 256

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS request (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, until REAL NOT NULL, answer BLOB
);
CREATE INDEX IF NOT EXISTS request_until ON request (until);
"""

_Operation: TypeAlias = Callable[[sqlite3.Connection], Any]
_Job: TypeAlias = tuple[_Operation, "concurrent.futures.Future[Any]"]


def default_path(client_id: str) -> Path:
    """Where the state of programs belongs: `$XDG_STATE_HOME`, `~/.local/state`, or `%LOCALAPPDATA%`."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "reqtt" / f"{quote(client_id, safe='')}.sqlite3"


class Journal:
    """The requests of one responder. Opening raises `ReqttError` if the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._bytes = 0
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(opened,), name="reqtt-journal", daemon=True)
        self._thread.start()
        try:
            opened.result()
        except (OSError, sqlite3.Error) as error:
            raise ReqttError(
                f"the file of answered requests {path} cannot be used ({error}): give a file that no other"
                " responder uses, on a disk with room, as deduplicate_file="
            ) from error

    async def begin(self, request: Request) -> Reply | object | None:
        """Before the handler: None if the request is new, and on disk now; else its answer or INTERRUPTED."""
        key, interval = _key(request), request.message_expiry_interval
        until = time.time() + (_WITHOUT_EXPIRY if interval is None else interval + _AFTER_EXPIRY)

        def begin(db: sqlite3.Connection) -> Reply | object | None:
            row = db.execute("SELECT answer, until FROM request WHERE key = ?", (key,)).fetchone()
            if row is not None and row[1] > time.time():
                return INTERRUPTED if row[0] is None else _decode(row[0])
            db.execute("INSERT OR REPLACE INTO request (key, until) VALUES (?, ?)", (key, until))
            return None

        answer: Reply | object | None = await self._do(begin)
        return answer

    async def finish(self, request: Request, answer: Reply) -> None:
        """After the handler: its answer is on disk."""
        key, encoded = _key(request), _encode(answer)

        def finish(db: sqlite3.Connection) -> None:
            self._bytes += len(encoded)
            db.execute("UPDATE request SET answer = ? WHERE key = ?", (encoded, key))

        await self._do(finish)

    async def forget(self, request: Request) -> None:
        """The handler did not run after all."""
        key = _key(request)
        await self._do(lambda db: db.execute("DELETE FROM request WHERE key = ?", (key,)))

    def close(self) -> None:
        """Writes what is left, and lets go of the file."""
        self._jobs.put(None)
        self._thread.join(timeout=5)

    async def _do(self, operation: _Operation) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._jobs.put((operation, future))
        # Shielded: what was begun on disk is finished there, whoever stops waiting.
        return await asyncio.shield(asyncio.wrap_future(future))

    def _run(self, opened: concurrent.futures.Future[None]) -> None:
        try:
            db = self._open()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            while self._batch(db):
                pass
        finally:
            db.close()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=1, isolation_level=None)
        try:
            # One responder: what another process has begun would look like a crash of our own.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            [version] = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"version {version} is not of this release")
            # Writes, so that a read-only file or a full disk shows now.
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
            sql = "SELECT coalesce(sum(length(answer)), 0) FROM request"
            [self._bytes] = db.execute(sql).fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _batch(self, db: sqlite3.Connection) -> bool:
        """Carries out what waits, in one transaction; False at the end."""
        jobs = [self._jobs.get()]
        while len(jobs) < _BATCH and jobs[-1] is not None:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        work = [job for job in jobs if job is not None]
        try:
            db.execute("BEGIN IMMEDIATE")
            results = [operation(db) for operation, _ in work]
            self._tidy(db)
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            for _, future in work:
                future.set_exception(error)
        else:
            for (_, future), result in zip(work, results, strict=True):
                future.set_result(result)
        return jobs[-1] is not None

    def _tidy(self, db: sqlite3.Connection) -> None:
        """Lets go of what is over, and of the oldest answers where there are too many."""
        self._remove(db, "until <= ?", time.time())
        [highest, lowest] = db.execute("SELECT max(number), min(number) FROM request").fetchone()
        if highest is None:
            return
        if highest - lowest >= _ENTRIES:
            self._remove(db, "number <= ? AND answer IS NOT NULL", highest - _ENTRIES)
        if self._bytes > _BYTES:
            self._remove(db, "number <= ? AND answer IS NOT NULL", (highest + lowest) // 2)

    def _remove(self, db: sqlite3.Connection, which: str, value: float) -> None:
        sql = f"SELECT coalesce(sum(length(answer)), 0) FROM request WHERE {which}"
        [size] = db.execute(sql, (value,)).fetchone()
        if db.execute(f"DELETE FROM request WHERE {which}", (value,)).rowcount:
            self._bytes -= size


def _key(request: Request) -> bytes:
    """What tells one request from another, of one length whatever a peer sends."""
    whole = hashlib.sha256()
    for part in (
        request.correlation_data or b"",
        (request.response_topic or "").encode(),
        request.topic.encode(),
    ):
        whole.update(len(part).to_bytes(4, "big"))
        whole.update(part)
    return whole.digest()


_DECODER: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(
    tuple[bytes, int, str | None, int | None, tuple[tuple[str, str], ...]]
)


def _encode(answer: Reply) -> bytes:
    return msgspec.msgpack.encode(answer)


def _decode(answer: bytes) -> Reply:
    return _DECODER.decode(answer)
