"""An append-only file of JSON lines that survives being killed at any instant.

A line is written by one `write` to a file opened for appending, so a kill loses at most the line in flight. A torn last
line is ended when the file is opened again, and skipped by whoever reads it. Knows no meaning of any line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class AppendLog:
    """One file. Reading needs no :meth:`open`; every OSError is the caller's to put into words.

    Args:
        path: of the file. ascii: whether to write other characters as escapes. sync_every_s: how often an entry also waits
            for the disk, at most; None for never.
    """

    def __init__(self, path: Path, *, ascii: bool = True, sync_every_s: float | None = None) -> None:
        self.path = path
        self._ascii = ascii
        self._sync_every_s = sync_every_s
        self._synced = 0.0
        self._file: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether entries can be appended."""
        return self._file is not None

    def lines(self) -> Iterator[bytes]:
        """Every line on disk, torn ones too; nothing where there is no file."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                yield from file

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line that is a JSON object; others are what a kill has torn."""
        for line in self.lines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry

    def open(self) -> None:
        """Open the file for appending, behind a line that a kill has torn; makes its folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = _is_torn(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if torn:
            os.write(self._file, b"\n")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line; blocks on local disk."""
        assert self._file is not None, "open the log first"
        line = memoryview(json.dumps(entry, ensure_ascii=self._ascii, allow_nan=False).encode() + b"\n")
        while line:
            line = line[os.write(self._file, line) :]
        if self._sync_every_s is not None and time.monotonic() - self._synced > self._sync_every_s:
            self.sync()

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._file is not None:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file; a second call changes nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _is_torn(path: Path) -> bool:
    """Whether a file ends inside a line."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
