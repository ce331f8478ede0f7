"""Calls to the batch service: tried again within the patience, creations looked up before they are repeated."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aad_plugin.errors import JudgeUnavailable
from aad_plugin.judges.asking.endpoint import Endpoint, Failure
from aad_plugin.judges.asking.patience import Notice, pause_s
from aad_plugin.judges.asking.requests import URL, Reply, reply_of_line

_LONGEST_PAUSE_S = 60.0
_LOOKS_LIKE_A_LIMIT = re.compile(
    r"limit|exceed|too (?:many|large|big|long)|maximum|at most|no more than|more than|larger than|entity too large",
    re.I,
)
_MAY_BE_DONE = (408, 409, 425, 499)  # answers that do not say whether the request was carried out
_OUT_OF_REACH = 8  # failures in a row without ever reaching the service


class LimitMet(Exception):
    """The service does not take a file of this size, or no more for now; `detail` holds its words."""

    def __init__(self, detail: str, status: int | None = None):
        super().__init__(detail)
        self.detail = detail
        self.status = status


class Service:
    """One endpoint's files and batches. Every call blocks on the network.

    Raises:
        JudgeUnavailable: the service answers nothing for longer than the endpoint's patience, or says that it will not.
    """

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self.client = endpoint.client(asynchronous=False)
        self.notice = Notice()
        self.reached = False

    def call(self, action: Callable[[], Any]) -> Any:
        """One call, again while that may help."""
        good_at = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            try:
                found = action()
            except Exception as error:
                failure = self.endpoint.failure(error)
                self._check(failure, error, attempt, good_at)
            else:
                self.reached = True
                self.notice.end()
                return found
            wait = pause_s(attempt, failure.wait_s, _LONGEST_PAUSE_S)
            left = self.endpoint.patience_s - (time.monotonic() - good_at)
            if attempt > 3:
                self.notice.tell(failure.detail, wait, left)
            time.sleep(max(0.0, min(wait, left + 0.1)))

    def _check(self, failure: Failure, error: Exception, attempt: int, good_at: float) -> None:
        """Raise where another attempt is in vain."""
        status = getattr(error, "status_code", None)
        if failure.action == "skip" and (status == 413 or _LOOKS_LIKE_A_LIMIT.search(failure.detail)):
            raise LimitMet(failure.detail, status) from error
        lost = failure.unreached and not self.reached and attempt >= _OUT_OF_REACH
        if failure.action != "retry" or lost or time.monotonic() - good_at > self.endpoint.patience_s:
            raise JudgeUnavailable(f"the batch service does not answer: {failure.detail}") from error

    def batches(self, mark: Mapping[str, str]) -> list[Any]:
        """Batches that carry all of `mark` in their metadata, newest first."""
        found = self.call(lambda: list(self.client.batches.list(limit=100)))
        return [batch for batch in found if mark.items() <= (batch.metadata or {}).items()]

    def upload(self, content: Any) -> str:
        """The id of a new input file."""
        return self.call(lambda: self._upload(content)).id

    def create(self, file_id: str, mark: Mapping[str, str], on_refused: Callable[[], None]) -> Any:
        """Start a batch on an uploaded file, exactly one; `mark` tells it from every other.

        `on_refused` is called before the error where every attempt was refused: then there is certainly no such batch.
        """
        asked = unsure = False

        def start() -> Any:
            nonlocal asked, unsure
            # The reply to an earlier attempt may be lost although the batch was made, and is being paid for.
            if asked and (made := list(self._marked(mark))):
                return made[0]
            asked = True
            try:
                return self.client.batches.create(
                    input_file_id=file_id, endpoint=URL, completion_window="24h", metadata=dict(mark)
                )
            except BaseException as error:
                status = getattr(error, "status_code", None) or 0
                unsure |= not 400 <= status < 500 or status in _MAY_BE_DONE
                raise

        try:
            return self.call(start)
        except (JudgeUnavailable, LimitMet):
            if not unsure:
                on_refused()
            raise

    def _upload(self, content: Any) -> Any:
        content.seek(0)
        return self.client.files.create(file=("requests.jsonl", content), purpose="batch")

    def _marked(self, mark: Mapping[str, str]) -> Iterator[Any]:
        return (b for b in self.client.batches.list(limit=100) if mark.items() <= (b.metadata or {}).items())

    def batch(self, name: str) -> Any:
        """The state of a batch."""
        return self.call(lambda: self.client.batches.retrieve(name))

    def download(self, file_id: str) -> Any:
        """A temporary file with a file's content, at its beginning; None where the service does not have it any more."""

        def fetch() -> Any:
            kept = tempfile.TemporaryFile(prefix="aad-batch-")
            try:
                with self.client.files.with_streaming_response.content(file_id) as reply:
                    for chunk in reply.iter_bytes(1 << 16):
                        kept.write(chunk)
            except BaseException:
                kept.close()
                raise
            kept.seek(0)
            return kept

        try:
            return self.call(fetch)
        except (JudgeUnavailable, LimitMet) as error:
            if getattr(error.__cause__, "status_code", None) in (400, 403, 404, 410):
                return None
            raise


def limit_in(detail: str, most: float) -> int | None:
    """The number a refusal names as its limit, e.g. "Limit: 90,000 enqueued tokens"; None for none below `most`."""
    numbers = [int(found.replace(",", "").replace("_", "")) for found in re.findall(r"\d[\d,_]*", detail)]
    named = re.search(r"(?:limit|maximum|at most|more than|exceeds?)\D{0,40}(\d[\d,_]*)", detail, re.IGNORECASE)
    if named and 0 < (first := int(named[1].replace(",", "").replace("_", ""))) < most:
        return first
    fitting = [number for number in numbers if 9 < number < most and number not in (400, 413, 429)]
    return max(fitting, default=None)


def replies_in(*files: Any) -> Iterator[Reply]:
    """Replies of output and error files, one per request; further ones to it are `Reply.also`, equal ones left out.

    A torn line, or one of no documented shape, is left out, its request then counts as missing.
    """
    first: dict[str, bytes] = {}
    several: dict[str, list[Reply]] = {}
    for reply in _lines(files):
        mark = _mark(reply)
        if first.setdefault(reply.key, mark) != mark:
            several.setdefault(reply.key, [])
    given: set[str] = set()
    for reply in _lines(files):
        if reply.key in several:
            several[reply.key].append(reply)
        elif reply.key not in given:
            given.add(reply.key)
            yield reply
    for replies in several.values():
        # A completion is worth more than an error about the same request.
        replies.sort(key=lambda reply: reply.body is None)
        also = tuple(reply.body for reply in replies[1:] if reply.body is not None)
        yield Reply(replies[0].key, replies[0].body, replies[0].reason, replies[0].detail, also=also)


def _mark(reply: Reply) -> bytes:
    try:
        text = json.dumps((reply.body or {}).get("choices"), sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        text = ""
    return hashlib.sha256(f"{reply.reason} {text}".encode()).digest()


def _lines(files: tuple[Any, ...]) -> Iterator[Reply]:
    for file in files:
        if file is None:
            continue
        file.seek(0)
        for line in file:
            try:
                reply = reply_of_line(json.loads(line))
            except (ValueError, AttributeError, TypeError, RecursionError):
                continue
            yield reply
