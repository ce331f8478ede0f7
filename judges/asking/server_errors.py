"""What a server's error means for a request: ask again, leave it, or stop. One table for every transport."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from aad_plugin.judges.asking.replies import is_content_filter

# Names that servers give in place of a status; looked for in an error's code and type.
_STATUS_OF = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "too_many_requests": 429, "insufficient_quota": 402,
    "invalid_api_key": 401, "authentication_error": 401, "permission_error": 403, "model_not_found": 404,
    "not_found_error": 404, "context_length_exceeded": 400, "invalid_request_error": 400, "badrequesterror": 400,
    "content_filter": 400, "invalid_prompt": 400, "server_error": 500, "internal_server_error": 500, "api_error": 500,
    "overloaded_error": 529, "timeout": 408, "timeout_error": 408,
}  # fmt: skip


class ErrorInBody(Exception):
    """A server answered with status 200 and an error object where a completion belongs."""

    def __init__(self, status: int | None, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(f"the server's reply is an error: {code or status or ''} {message}".strip())
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def sort_error(status: int | None, code: str, message: str) -> tuple[str, str]:
    """(action, reason) for an error; status None where the server gave none that means anything.

    Actions: "retry" (it may pass), "limited" (too many requests: it will pass), "quota", "key" and "missing" (no
    request will be answered), "skip" (this request never will).
    """
    if is_content_filter(code, message):
        return "skip", "content_filter"
    if status == 402 or "insufficient_quota" in code or "insufficient_quota" in message:
        return "quota", "transport"
    if status == 429:
        return "limited", "transport"
    if status in (401, 407):
        return "key", "transport"
    if status == 404:
        return "missing", "transport"
    if status is None or status < 400 or status in (408, 409, 425, 499) or status >= 500:
        return "retry", "transport"
    # 403 too: some providers answer so to a single prompt that their moderation does not like.
    return "skip", "rejected"


def error_in_body(body: Any) -> ErrorInBody | None:
    """The error that a body is instead of a completion; None where it has choices and no error."""
    if not isinstance(body, Mapping):
        return ErrorInBody(None, "", f"no JSON object but {type(body).__name__}")
    error = body.get("error")
    if not error and "choices" in body:
        choices = body["choices"]
        first = choices[0] if isinstance(choices, list) and choices else None
        error = first.get("error") if isinstance(first, Mapping) else None
        if not error:
            return None
    if not error:  # no completion and no error object either: some servers put the error's fields on top
        error = body
    if not isinstance(error, Mapping):
        return ErrorInBody(None, "", str(error))
    names = [str(error.get(name) or "") for name in ("code", "status", "type")]
    status = next((found for name in names if (found := _status(name)) is not None), None)
    return ErrorInBody(status, names[0], str(error.get("message") or error.get("detail") or dict(error)))


def _status(name: str) -> int | None:
    if name.isascii() and name.isdigit() and len(name) == 3 and 400 <= int(name) < 600:
        return int(name)
    return _STATUS_OF.get(name.casefold())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks us to wait, 0 or more; None where it asks for nothing or for no number.

    A date is taken by the server's own clock where it tells the time (its Date header), for ours may be wrong.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            until, now = _moment(value), _moment(headers.get("date", ""))
            seconds = math.nan if until is None else until - (time.time() if now is None else now)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _moment(date: str) -> float | None:
    """Unix time of an HTTP date."""
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
