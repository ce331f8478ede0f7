"""The files and batches part of the loopback server: OpenAI's wire format, with the accidents that happen there."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tests.judges.loopback import Loopback


@dataclass
class Batches:
    """Files and batches in memory.

    Accidents, each used up by the next batch: "refuse" (validation fails), "expire" (half of the output, status
    expired), "errors" (every third line goes to the error file with a server error), "duplicate" (every line twice).
    "contradict" (every line twice, with the other letter). Output is always in reverse order.

    Limits: `most_lines` and `most_bytes` of a file, `most_tokens` (lines' bytes / 4) waiting at one time; `refused` counts
    how often one was met. `lose_replies`: so many creations are carried out and then the connection breaks. `outage`: so
    many looks at a batch are answered with 503. `refusals`: (status, message) of the next creations.
    """

    state: Loopback
    accidents: list[str] = field(default_factory=list)
    polls: int = 1
    most_lines: int = 50_000
    most_bytes: int = 200_000_000
    most_tokens: float = float("inf")
    refused: int = 0
    lose_replies: int = 0
    outage: int = 0
    refusals: list[tuple[int, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    numbers: itertools.count = field(default_factory=itertools.count)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.content)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.list)
        app.router.add_get("/v1/batches/{id}", self.retrieve)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        uploaded = form["file"]
        assert isinstance(uploaded, web.FileField)
        content = uploaded.file.read()
        if len(content) > self.most_bytes:
            self.refused += 1
            return web.json_response({"error": {"message": "Request Entity Too Large"}}, status=413)
        return web.json_response(self._file(content))

    def _file(self, content: bytes) -> dict:
        name = f"file-{next(self.numbers)}"
        self.files[name] = content
        return {
            "id": name, "object": "file", "bytes": len(content), "created_at": 1, "filename": "requests.jsonl",
            "purpose": "batch", "status": "processed",
        }  # fmt: skip

    async def content(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.files:
            return web.json_response({"error": {"message": "No such File object"}}, status=404)
        return web.Response(body=self.files[request.match_info["id"]])

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["completion_window"] == "24h" and body["endpoint"] == "/v1/chat/completions"
        if self.refusals:
            status, message = self.refusals.pop(0)
            return web.json_response({"error": {"message": message, "code": None}}, status=status)
        num = len(self.files[body["input_file_id"]].splitlines())
        if num > self.most_lines:
            self.refused += 1
            message = f"The batch input file has {num} requests, the maximum is {self.most_lines}."
            return web.json_response({"error": {"message": message, "code": None}}, status=400)
        name = f"batch_{next(self.numbers)}"
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "errors": None, "status": "validating",
            "input_file_id": body["input_file_id"], "completion_window": "24h", "output_file_id": None,
            "error_file_id": None, "created_at": int(time.time()), "metadata": body.get("metadata"), "polls": 0,
            "accident": self.accidents.pop(0) if self.accidents else "",
        }  # fmt: skip
        running = [b for b in self.batches.values() if b["status"] == "validating"]
        if sum(len(self.files.get(b["input_file_id"], b"")) / 4 for b in running) > self.most_tokens:
            self.refused += 1
            told = f"Enqueued token limit reached for planted. Limit: {self.most_tokens:,} enqueued tokens."
            problem = {"code": "token_limit_exceeded", "line": None, "message": told, "param": None}
            self.batches[name] |= {"status": "failed", "errors": {"object": "list", "data": [problem]}}
        if self.lose_replies:
            self.lose_replies -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(self.batches[name])

    async def list(self, request: web.Request) -> web.Response:
        found = list(self.batches.values())[::-1]
        after = request.query.get("after")
        found = found[1 + [batch["id"] for batch in found].index(after) :] if after else found
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def retrieve(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if self.outage:
            self.outage -= 1
            return web.json_response({"error": {"message": "down"}}, status=503)
        batch["polls"] += 1
        if batch["polls"] > self.polls and batch["status"] in ("validating", "in_progress"):
            self.end(batch)
        return web.json_response(batch)

    def end(self, batch: dict) -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        accident = batch["accident"]
        if accident == "refuse":
            problem = {"code": "invalid_json_line", "line": 2, "message": "This line is not parseable", "param": None}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [problem]}}
            return
        done, failed = [], []
        for number, line in enumerate(reversed(lines)):
            reply = {"id": "r", "custom_id": line["custom_id"], "response": None, "error": None}
            if accident == "expire" and number >= len(lines) // 2:
                failed.append(reply | {"error": {"code": "batch_expired", "message": "This request expired."}})
            elif accident == "errors" and number % 3 == 0:
                answer = {"status_code": 500, "request_id": "q", "body": {"error": {"message": "server error"}}}
                failed.append(reply | {"response": answer})
            else:
                answer = {"status_code": 200, "request_id": "q", "body": self.state.completion(line["body"])}
                done += [reply | {"response": answer}] * (2 if accident == "duplicate" else 1)
                if accident == "contradict":
                    text = json.dumps(answer).replace('"A"', '"?"').replace('"B"', '"A"').replace('"?"', '"B"')
                    done.append(reply | {"response": json.loads(text)})
                self.answered.append(line["custom_id"])
        batch["status"] = "expired" if accident == "expire" else "completed"
        for entries, name in ((done, "output_file_id"), (failed, "error_file_id")):
            if entries:
                batch[name] = self._file("".join(json.dumps(entry) + "\n" for entry in entries).encode())["id"]
