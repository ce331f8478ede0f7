"""A request to a chat judge, a reply, and the budget they come out of: what all transports share.

A request file holds one OpenAI batch line per request, which vLLM's ``run-batch`` reads as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aad_plugin.judges.asking.server_errors import error_in_body, sort_error
from aad_plugin.judges.sitting.judge import Price
from aad_plugin.judges.sitting.pictures import TOKENS, size_of

URL = "/v1/chat/completions"
_BYTES_PER_TOKEN = 4.0
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Request:
    """A question as a chat completion's body; `key` is the question's and serves as custom_id."""

    key: str
    body: dict[str, Any]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat completion as JSON, or None with the reason why there is none; `seconds` from the first attempt on.

    `also`: further completions that came for the same request.
    """

    key: str
    body: dict[str, Any] | None
    reason: str | None = None
    detail: str = ""
    seconds: float = 0.0
    also: tuple[dict[str, Any], ...] = ()


class Budget:
    """What may still be spent; without a limit everything may. Money in the price's currency."""

    def __init__(self, limit: float | None, price: Price | None):
        self.limit = limit
        self.price = price
        self.spent = 0.0
        self.reserved: dict[str, float] = {}

    def reserve(self, request: Request) -> bool:
        """Set aside the most this request can cost; False where that does not fit any more."""
        if self.limit is None or self.price is None:
            return True
        return self.reserve_cost(request.key, most_cost(request, self.price))

    def reserve_cost(self, key: str, most: float) -> bool:
        """Set `most` aside for a request; False where that does not fit any more."""
        if self.limit is None or self.price is None:
            return True
        if key in self.reserved:
            return True
        if self.spent + sum(self.reserved.values()) + most > self.limit:
            return False
        self.reserved[key] = most
        return True

    def settle(self, request: Request, reply: Reply | None) -> None:
        """Replace what was set aside by what the reply cost; by all of it where the reply does not say."""
        self.settle_key(request.key, reply)

    def settle_key(self, key: str, reply: Reply | None) -> None:
        """As `settle`, for a request known by its key."""
        most = self.reserved.pop(key, None)
        if most is None or self.price is None or reply is None or reply.body is None:
            return
        tokens = usage_of(reply.body)
        self.spent += self.price.cost(*tokens) if any(tokens) else most


def most_cost(request: Request, price: Price) -> float:
    """The most a request can cost: half as many bytes per token as usual, for dense scripts, and the longest reply."""
    return price.cost(2 * prompt_tokens_of(request.body), request.max_tokens)


def usage_of(body: Mapping[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens as the reply bills them; 0 where it names none, or no number."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return 0, 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(tokens: Any) -> int:
    try:
        return max(0, int(tokens))
    except (TypeError, ValueError, OverflowError):
        return 0


def prompt_tokens_of(body: Mapping[str, Any]) -> float:
    """Estimated prompt tokens: UTF-8 bytes / 4 plus 4 per message, within about a quarter for English, and `TOKENS` per
    picture, which is much for most models."""
    messages = body["messages"]
    sizes = [size_of(message["content"]) for message in messages]
    told = sum(size for size, _ in sizes) / _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(messages)
    return told + TOKENS * sum(pictures for _, pictures in sizes)


def batch_line(request: Request) -> bytes:
    """The request as a line of a batch input file."""
    line = {"custom_id": request.key, "method": "POST", "url": URL, "body": request.body}
    return json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"


def reply_of_line(line: Mapping[str, Any]) -> Reply:
    """Read a line of a batch output or error file, OpenAI's or vLLM's.

    Errors stand in a file of their own (OpenAI) or among the results (vLLM, error text or object); old vLLM versions
    put the completion where others put the response.
    """
    key = str(line.get("custom_id", ""))
    response = line.get("response") or {}
    status = response.get("status_code")
    body = response.get("body", response if "choices" in response else None)
    said = {"error": line["error"]} if line.get("error") else body
    error = error_in_body({"error": "no reply"} if said is None else said)
    failed = isinstance(status, int) and status >= 400
    if error is None and not failed:
        return Reply(key, body)
    code, message = (error.code, error.message) if error else ("", f"status {status}")
    _, reason = sort_error(status if failed else error.status if error else None, code, message)
    return Reply(key, None, reason, message if reason == "content_filter" else f"{code or status}: {message}")
