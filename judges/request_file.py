"""The file transport: write the requests, let anything answer them, read the replies in a later run.

    aad judge … --transport file                 writes DIR/requests.jsonl
    vllm run-batch -i DIR/requests.jsonl -o DIR/results.jsonl --model MODEL
    aad judge … --transport file                 reads DIR/results.jsonl

What the results lack, or answer with an error, stands in the next ``requests.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from aad_plugin.errors import ConfigError
from aad_plugin.judges.requests import Reply, Request, batch_line, reply_of_line
from aad_plugin.judges.sitting import Sitting

__all__ = ["exchange"]


def exchange(requests: Iterable[Request], on_reply: Callable[[Reply], None], sitting: Sitting) -> None:
    """Take replies that are there, and write the requests that are still open.

    Raises:
        ConfigError: the run keeps nothing on disk, or the named results file is missing or not JSON lines.
    """
    folder = sitting.store.folder
    if folder is None:
        raise ConfigError("the file transport needs an output folder for its request file; pass one")
    replies = _read(sitting.results or folder / "results.jsonl", required=sitting.results is not None)
    num_open = 0
    path = folder / "requests.jsonl"
    with path.with_suffix(".part").open("wb") as lines:
        for request in requests:
            reply = replies.get(request.key)
            if reply is not None:
                on_reply(reply)
            if reply is None or reply.reason == "transport":
                lines.write(batch_line(request))
                num_open += 1
    path.with_suffix(".part").replace(path)
    if num_open:
        sitting.stop(
            f"{num_open} requests stand in {path}; have them answered (e.g. `vllm run-batch -i {path} -o "
            f"{folder / 'results.jsonl'} --model MODEL`) and run the same command again"
        )


def _read(path: Path, required: bool) -> dict[str, Reply]:
    if not path.is_file():
        if required:
            raise ConfigError(f"there is no results file {path}")
        return {}
    replies: dict[str, Reply] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                reply = reply_of_line(json.loads(line))
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"{path}, line {number} is not a line of batch results: {line[:100]!r}") from error
            held = replies.get(reply.key)
            if held is None or held.body is None:
                replies[reply.key] = reply
    return replies
