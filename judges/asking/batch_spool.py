"""Requests of a batch run on disk, so that memory does not grow with their texts; and the shards cut out of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.judges.asking.requests import Request, batch_line, most_cost, prompt_tokens_of
from aad_plugin.judges.sitting.judge import Price


@dataclass
class Limits:
    """What the service takes: lines and bytes of one file, tokens waiting at one time (None where none is known)."""

    lines: int
    num_bytes: int
    tokens: float | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    size: int
    tokens: float
    most: float


class Spool:
    """Request lines in a temporary file, by key, in the order they came. A context manager: the file ends with it."""

    def __init__(self, price: Price | None):
        self.price = price
        self.entries: dict[str, _Entry] = {}
        self._file: Any = tempfile.TemporaryFile(prefix="aad-batch-")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, requests: Iterable[Request]) -> None:
        """Write requests down. Blocks on local disk."""
        offset = 0
        for request in requests:
            line = batch_line(request)
            self._file.write(line)
            most = most_cost(request, self.price) if self.price else 0.0
            self.entries[request.key] = _Entry(offset, len(line), prompt_tokens_of(request.body), most)
            offset += len(line)

    def most(self, key: str) -> float:
        """The most this request can cost."""
        return self.entries[key].most

    def tokens(self, keys: Iterable[str]) -> float:
        """Estimated prompt tokens of these requests; those of an earlier run count nothing."""
        return sum(entry.tokens for key in keys if (entry := self.entries.get(key)))

    def fitting(self, keys: Sequence[str], limits: Limits, waiting: float) -> list[str]:
        """The first of `keys` that make one file within the limits, beside `waiting` tokens that wait already.

        Empty where none fits for now; a single one always fits where nothing else waits.
        """
        taken: list[str] = []
        size, tokens = 0, waiting
        for key in keys:
            entry = self.entries[key]
            size, tokens = size + entry.size, tokens + entry.tokens
            over = len(taken) >= limits.lines or size > limits.num_bytes
            if over or (limits.tokens is not None and tokens > limits.tokens):
                if not taken and not waiting:
                    taken.append(key)
                break
            taken.append(key)
        return taken

    def content(self, keys: Iterable[str]) -> Any:
        """A temporary file with the lines of these requests, at its beginning."""
        shard = tempfile.SpooledTemporaryFile(max_size=4_000_000)
        self._file.flush()
        for key in keys:
            entry = self.entries[key]
            self._file.seek(entry.offset)
            shard.write(self._file.read(entry.size))
        shard.seek(0)
        return shard
