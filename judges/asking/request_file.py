"""The file transport: write the requests, let anything answer them, read the replies in a later run.

    aad judge … --transport file                 writes DIR/requests.jsonl
    vllm run-batch -i DIR/requests.jsonl -o DIR/results.jsonl --model MODEL
    aad judge … --transport file                 reads DIR/results.jsonl

What the results lack, or answer with anything but a verdict, stands in the next ``requests.jsonl``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.files.whole import replacing
from aad_plugin.judges.asking.replies import CONFLICT
from aad_plugin.judges.asking.requests import Reply, Request, batch_line, reply_of_line
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.texts.messages import digest


def exchange(requests: Iterable[Request], on_reply: Callable[[Reply], None], sitting: Sitting) -> None:
    """Take replies that are there, and write the requests that are still open.

    Raises:
        ConfigError: the run keeps nothing on disk, or the named results file is missing or not JSON lines.
        JudgeError: the disk is full.
    """
    folder = sitting.store.folder
    if folder is None:
        raise ConfigError("the file transport needs an output folder for its request file; pass one")
    replies = _read(sitting.results or folder / "results.jsonl", required=sitting.results is not None)
    num_open = 0
    path = folder / "requests.jsonl"
    known = {note["mark"] for note in sitting.store.noted("failed_result")}
    try:
        with replacing(path) as part, part.open("wb") as lines:
            for request in requests:
                if not _taken(request.key, replies.get(request.key, ()), known, on_reply, sitting):
                    lines.write(batch_line(request))
                    num_open += 1
    except OSError as error:
        raise JudgeError(f"cannot write {path}: {error.strerror or error}; make room and run it again") from error
    if num_open:
        sitting.stop(
            f"{num_open} requests stand in {path}; have them answered (e.g. `vllm run-batch -i {path} -o "
            f"{folder / 'results.jsonl'} --model MODEL`) and run the same command again"
        )


def _taken(
    key: str, replies: Iterable[Reply], known: set[str], on_reply: Callable[[Reply], None], sitting: Sitting
) -> bool:
    """Record the replies to one request until one is a verdict; whether one was.

    A reply that is none is recorded (and billed) once, however often its file is read, and asked for again.
    """
    fresh = [(reply, mark) for reply in replies if (mark := _mark(key, reply)) not in known]
    for number, (reply, mark) in enumerate(fresh):
        also = tuple(later.body for later, _ in fresh[number + 1 :] if later.body is not None)
        on_reply(dataclasses.replace(reply, also=also) if reply.body is not None else reply)
        found = sitting.store.find(key)
        if found and found.judged:
            return True
        # Of replies that contradict each other none counts, now or when the file is read again.
        contradicted = found is not None and CONFLICT in found.detail
        for noted in [mark] + [later for _, later in fresh[number + 1 :]] * contradicted:
            sitting.store.note("failed_result", mark=noted)
        if contradicted:
            return False
    return False


def _mark(key: str, reply: Reply) -> str:
    return digest([key, json.dumps(reply.body), reply.reason, reply.detail])[:32]


def _read(path: Path, required: bool) -> dict[str, list[Reply]]:
    """Replies by key, in the order of the file."""
    if not path.is_file():
        if required:
            raise ConfigError(f"there is no results file {path}")
        return {}
    replies: dict[str, list[Reply]] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    reply = _reply(line, f"{path}, line {number}")
                    replies.setdefault(reply.key, []).append(reply)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    return replies


def _reply(line: bytes, place: str) -> Reply:
    try:
        return reply_of_line(json.loads(line))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        shown = line[:100].decode(errors="replace")
        raise ConfigError(f"{place} is not a line of batch results: {shown!r}") from error
