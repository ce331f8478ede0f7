"""A judge server on loopback that speaks the OpenAI wire format: chat completions, models, files, batches.

    python -m tests.judges.loopback --judge quality --latency 0.5     prints its port, serves until killed

It counts: ``GET /stats`` tells how often each request body was seen, and which fault it was given last.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.judges.planted import JUDGES, LABELLERS, quality, texts

TRANSIENT = ("429", "429-after", "500", "503", "timeout", "drop", "torn-http")
CONTENT = ("torn-json", "empty", "refusal", "wrong-label", "overlong")


def _text(content: str | list) -> str:
    """A message's text; its parts of other kinds are the test's own affair (`Loopback.pictures`)."""
    return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


@dataclass
class Loopback:
    """Settings and memory of one server."""

    judge: str = "quality"
    latency_s: float = 0.0
    forms: tuple[str, ...] = ("logprobs", "json", "tag")
    fault_share: float = 0.0
    seed: int = 0
    model: str = "planted"
    system_fingerprint: str = "fp-1"
    hang_s: float = 30.0
    text: str | None = None
    yields: bool = False  # a challenged verdict is turned round
    leaves_out: str = ""  # a criterion it never speaks of
    fails: list = field(default_factory=list)  # (status, body[, headers]), once each, first to last
    seen: Counter = field(default_factory=Counter)
    last_fault: dict = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    headers: list = field(default_factory=list)
    batches: Any = None
    pictures: list = field(default_factory=list)  # urls of image parts, one list per request that has any

    def completion(self, body: dict, fault: str | None = None) -> dict:
        """The chat completion of a request body, spoiled by `fault` if one of CONTENT."""
        asked = [_text(one["content"]) for one in body["messages"] if one["role"] == "user"]
        parts = [p for one in body["messages"] if not isinstance(one["content"], str) for p in one["content"]]
        if shown := [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]:
            self.pictures.append(shown)
        message, is_challenged = asked[0], len(asked) > 1
        choice: dict = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}
        if fault in CONTENT:
            _spoil(choice, fault)
        elif self.text is not None:
            choice["message"]["content"] = self.text
        else:
            self._answer(choice, message, body, is_challenged)
        size = sum(len(_text(one["content"])) for one in body["messages"]) // 4
        said = 1 + len(choice["message"]["content"] or "") // 4
        return {
            "id": "x", "object": "chat.completion", "created": 1, "model": f"{self.model}-2026", "choices": [choice],
            "system_fingerprint": self.system_fingerprint,
            "usage": {"prompt_tokens": size, "completion_tokens": said, "total_tokens": size + said},
        }  # fmt: skip

    def _answer(self, choice: dict, message: str, body: dict, is_challenged: bool = False) -> None:
        if self.judge in LABELLERS:
            choice["message"]["content"] = json.dumps({"verdict": LABELLERS[self.judge](message)})
            return
        letters = ("m", "M") if "## OUTPUT m" in message else ("A", "B")
        if names := [name for name in _fields_wanted(body) if name not in ("verdict", "reasons")]:
            said = {name: _by_criterion(message, name) for name in names if name != self.leaves_out}
            choice["message"]["content"] = json.dumps(said)
            return
        p = min(max(JUDGES[self.judge](message), 1e-6), 1 - 1e-6)
        p = 1 - p if is_challenged and self.yields else p
        letter = letters[0] if p >= 0.5 else letters[1]
        if body.get("logprobs"):
            pairs = zip(letters, (p, 1 - p), strict=True)
            tops: list[dict[str, Any]] = [{"token": token, "logprob": math.log(q), "bytes": None} for token, q in pairs]
            tops.sort(key=lambda top: -top["logprob"])
            choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None}
            choice["finish_reason"] = "length"
            choice["message"]["content"] = letter
        elif body.get("response_format"):
            whole = {"verdict": letter, "reasons": "Weighed both."}
            choice["message"]["content"] = json.dumps({name: whole[name] for name in _fields_wanted(body)})
        else:
            choice["message"]["content"] = f"<verdict>{letter}</verdict>"

    def rejected(self, body: dict) -> str | None:
        """Why the server does not take this request, or None."""
        if body.get("logprobs") and "logprobs" not in self.forms:
            return "logprobs are not supported with this model"
        if body.get("response_format") and "json" not in self.forms:
            return "response_format is not supported"
        return None


def _fields_wanted(body: dict) -> list[str]:
    """Fields of the schema that a reply must have, in its order."""
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return list(wanted.get("properties", {}))


def _by_criterion(message: str, name: str) -> str:
    _, first, second = texts(message)
    one, two = quality(f"{name} {first}"), quality(f"{name} {second}")
    return "tie" if abs(one - two) < 0.1 else "A" if one > two else "B"


def _spoil(choice: dict, fault: str) -> None:
    message = choice["message"]
    if fault == "torn-json":
        message["content"], choice["finish_reason"] = '{"verdict": {"letter": "A', "length"
    elif fault == "refusal":
        message["content"] = "I'm sorry, but I can't help with comparing these answers."
    elif fault == "wrong-label":
        message["content"] = "C"
        choice["logprobs"] = {
            "content": [{"token": "C", "logprob": -0.01, "top_logprobs": [{"token": "C", "logprob": -0.01}]}]
        }
    elif fault == "overlong":
        message["content"] = "Both answers have their merits. Answer A is thorough, answer B is brief. " * 20
        choice["finish_reason"] = "length"


def key_of(body: dict) -> str:
    """What the server counts by."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def application(state: Loopback) -> web.Application:
    """The aiohttp application around a `Loopback`."""
    from tests.judges.loopback_batches import Batches

    dice = random.Random(state.seed)

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = key_of(body)
        state.seen[key] += 1
        state.headers.append(dict(request.headers)) if len(state.headers) < 100 else None
        if state.fails:
            status, answer, *headers = state.fails.pop(0)
            return web.json_response(answer, status=status, headers=headers[0] if headers else None)
        if body["model"] != state.model:
            return _error(404, f"The model `{body['model']}` does not exist.", "model_not_found")
        if reason := state.rejected(body):
            return _error(400, reason, "unsupported_parameter")
        fault = dice.choice(TRANSIENT + CONTENT) if dice.random() < state.fault_share else None
        state.last_fault[key] = fault
        state.in_flight += 1
        state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            if state.latency_s:
                await asyncio.sleep(state.latency_s)
            return await _serve(request, state, body, fault)
        finally:
            state.in_flight -= 1

    async def stats(_: web.Request) -> web.Response:
        return web.json_response({"seen": state.seen, "last_fault": state.last_fault, "most": state.most_in_flight})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": state.model, "object": "model"}]})

    app = web.Application(client_max_size=300_000_000)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/stats", stats)
    app.router.add_get("/v1/models", models)
    state.batches = Batches(state)
    state.batches.add_routes(app)
    return app


async def _serve(request: web.Request, state: Loopback, body: dict, fault: str | None) -> web.StreamResponse:
    if fault == "429":
        return _error(429, "Rate limit reached", "rate_limit_exceeded")
    if fault == "429-after":
        return _error(429, "Rate limit reached", "rate_limit_exceeded", {"retry-after": "0.2"})
    if fault in ("500", "503"):
        return _error(int(fault), "server error", None)
    if fault == "timeout":
        await asyncio.sleep(state.hang_s)
    if fault == "drop" and request.transport:
        request.transport.close()
    text = json.dumps(state.completion(body, fault))
    if fault == "torn-http":
        text = text[: len(text) // 2]
    return web.Response(text=text, content_type="application/json")


def _error(status: int, message: str, code: str | None, headers: dict | None = None) -> web.Response:
    error = {"error": {"message": message, "type": "error", "code": code, "param": None}}
    return web.json_response(error, status=status, headers=headers)


@contextmanager
def serving(state: Loopback):
    """Serve in a thread of this process; yields the base URL."""
    loop = asyncio.new_event_loop()
    app = application(state)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    started = threading.Event()
    address = []

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(runner.addresses[0][1])
        started.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--judge", default="quality")
    options.add_argument("--latency", type=float, default=0.0)
    given = options.parse_args()

    async def serve() -> None:
        runner = web.AppRunner(application(Loopback(judge=given.judge, latency_s=given.latency)))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
