"""The store: every ruling ever paid for, in one append-only file on local disk.

`store.jsonl` starts with a header line; every further line is a ruling or a note (what the probe found, which batches
were collected). A run holds the folder's lock; a second process waits for it and then finds the first one's rulings instead
of paying for them again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.files.append_log import AppendLog
from aad_plugin.judges.items import Ruling

FORMAT = 1
_FIELDS = tuple(field.name for field in dataclasses.fields(Ruling))
_FSYNC_EVERY_S = 1.0


class Store:
    """Rulings by question key, kept in `folder` or, with None, in memory only. A context manager: holds the lock.

    Blocks on entry while another process judges into the same folder.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = Path(folder) if folder is not None else None
        self.id = uuid.uuid4().hex
        self.notes: list[dict[str, Any]] = []
        self.num_torn = 0
        self._rulings: dict[str, Ruling] = {}
        self._superseded: dict[str, list[Ruling]] = {}
        log = None if self.folder is None else AppendLog(self.folder / "store.jsonl", sync_every_s=_FSYNC_EVERY_S)
        self._log = log
        self._lock: FileLock | None = None

    def __enter__(self) -> Store:
        if self._log is not None:
            try:
                self._log.path.parent.mkdir(parents=True, exist_ok=True)
                self._acquire()
                self._open(self._log)
            except OSError as error:
                self._close()
                raise ConfigError(f"cannot keep verdicts in {self.folder}: {error}; pass another --output") from error
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self._log is not None:
                self._log.sync()
        except OSError as error:
            if kind is None:  # what ended the run already says more
                raise self._full(error) from error
        finally:
            self._close()

    @classmethod
    def peek(cls, folder: str | Path | None) -> Store:
        """What a folder's store holds right now, read without waiting for a run that judges into it; writes nothing."""
        store = cls(folder)
        if store._log is not None:
            try:
                store._load(store._log)
            except OSError as error:
                raise ConfigError(f"cannot read {store._log.path}: {error.strerror or error}") from error
        return store

    def __len__(self) -> int:
        return len(self._rulings)

    def find(self, key: str) -> Ruling | None:
        """The newest ruling on a question; one that holds a value is never replaced by a later failure."""
        return self._rulings.get(key)

    def superseded(self, key: str) -> list[Ruling]:
        """Other rulings on a question that were billed: failures before its verdict, and the like."""
        return self._superseded.get(key, [])

    def add(self, ruling: Ruling) -> None:
        """Append a ruling.

        Raises:
            JudgeError: the disk is full or the file cannot be written; what was stored before stays.
        """
        kept = {"type": "ruling"}
        for name in _FIELDS:
            value = getattr(ruling, name)
            if value not in (None, "", 0, {}):
                kept[name] = value
            elif name in ("p", "grade", "cost") and value is not None:
                kept[name] = value  # 0.0 is a value
        self._append(kept)
        self._take(ruling)

    def note(self, kind: str, **content: Any) -> None:
        """Append a note: something a later run must know that is no ruling."""
        entry = {"type": "note", "kind": kind, **content}
        self._append(entry)
        self.notes.append(entry)

    def noted(self, kind: str, **match: Any) -> list[dict[str, Any]]:
        """Notes of one kind whose content has all of `match`, oldest first."""
        return [n for n in self.notes if n.get("kind") == kind and all(n.get(k) == v for k, v in match.items())]

    def probes(self, judge: str) -> list[dict[str, Any]]:
        """What was billed for finding out how a judge replies, that it replied in no way included."""
        return [*self.noted("probe_failed", judge=judge), *self.noted("probe", judge=judge)] if judge else []

    def shards_under_way(self, judge: str) -> dict[str, list[str]]:
        """Keys of the batches, by shard, that this judge was asked by and whose replies nobody has collected yet."""
        done = {note.get("shard") for note in self.noted("batch_collected")}
        return {
            note["shard"]: note["keys"] for note in self.noted("batch_shard", judge=judge) if note["shard"] not in done
        }

    def _acquire(self) -> None:
        assert self.folder is not None
        self._lock = FileLock(self.folder / "store.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            print(f"another run is judging into {self.folder}; waiting for it to end", file=sys.stderr, flush=True)
            self._lock.acquire()

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            self._lock.release()

    def _load(self, log: AppendLog) -> bool:
        """Take a file's lines in; whether its header is there."""
        headers = [header for line in log.lines() if (header := self._read(line, log.path)) is not None]
        if headers:
            self.id = headers[-1]["id"]
        return bool(headers)

    def _open(self, log: AppendLog) -> None:
        has_header = self._load(log)
        log.open()
        if not has_header:
            self._append({"type": "store", "format": FORMAT, "id": self.id, "created": time.time()})

    def _read(self, line: bytes, path: Path) -> dict[str, Any] | None:
        """Take one line in; return it if it is the header."""
        try:
            entry = json.loads(line)
            kind = entry["type"]
        except (ValueError, TypeError, KeyError):
            self.num_torn += bool(line.strip())
            return None
        if kind == "store":
            if entry.get("format") != FORMAT or not isinstance(entry.get("id"), str):
                raise ConfigError(
                    f"{path} was written by a newer aad_plugin (store format {entry.get('format')!r}, this version "
                    f"reads up to {FORMAT}); upgrade aad_plugin or pass another --output"
                )
            return entry
        if kind == "note" and isinstance(entry.get("kind"), str):
            self.notes.append(entry)
        elif kind == "ruling" and isinstance(entry.get("key"), str):
            text_free = {name: value for name, value in entry.items() if name in _FIELDS and name != "reply"}
            self._take(Ruling(**text_free))
        else:
            self.num_torn += 1
        return None

    def _take(self, ruling: Ruling) -> None:
        held = self._rulings.get(ruling.key)
        # Replies stay on disk only: 50,000 of them would not fit the promise of flat memory.
        keep = dataclasses.replace(ruling, reply="") if self.folder is not None else ruling
        left: Ruling | None = keep
        if held is None or ruling.judged or not held.judged:
            self._rulings[ruling.key] = keep
            left = held
        if left is not None and (left.prompt_tokens or left.completion_tokens):
            self._superseded.setdefault(ruling.key, []).append(left)

    def _append(self, entry: dict[str, Any]) -> None:
        if self._log is None or not self._log.is_open:
            return
        try:
            self._log.append(entry)
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> JudgeError:
        return JudgeError(
            f"cannot write to {self.folder}/store.jsonl: {error.strerror or error}; {len(self._rulings)} rulings are "
            "kept there; make room and run the same command again"
        )
