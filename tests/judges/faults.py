"""A judge's server with accidents: 28 kinds of failure that pass, and single faults for single tests.

Speaks raw HTTP over asyncio where a well-behaved server library would not let it: broken bytes, dripping, torn bodies.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from tests.judges.loopback import Loopback

LIMITED = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
BROKEN = {"error": {"message": "server error"}}
# kind -> status, body, headers; the body may be bytes, and "close" ends the connection after it.
KINDS: dict[str, tuple[int, object, dict[str, str]]] = {
    "429": (429, LIMITED, {}),
    "429 after 0": (429, LIMITED, {"Retry-After": "0"}),
    "429 after a past date": (429, LIMITED, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 after NaN": (429, LIMITED, {"Retry-After": "NaN"}),
    "429 after inf": (429, LIMITED, {"Retry-After": "inf"}),
    "429 after nonsense": (429, LIMITED, {"Retry-After": "soon"}),
    "429 after milliseconds": (429, LIMITED, {"retry-after-ms": "20"}),
    "429 after less than nothing": (429, LIMITED, {"Retry-After": "-5"}),
    "408": (408, BROKEN, {}),
    "409": (409, BROKEN, {}),
    "425": (425, BROKEN, {}),
    "500": (500, BROKEN, {}),
    "500 page": (500, b"<html>Internal Server Error</html>", {"Content-Type": "text/html"}),
    "502": (502, b"Bad Gateway", {"Content-Type": "text/plain"}),
    "503 after 0": (503, BROKEN, {"Retry-After": "0"}),
    "504": (504, b"", {}),
    "529": (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, {}),
    "200 error": (200, {"error": {"code": 502, "message": "upstream"}}, {}),
    "200 error in words": (200, {"error": "internal error"}, {}),
    "200 choice with error": (200, {"choices": [{"error": {"code": 502}, "message": {"content": ""}}]}, {}),
    "200 page": (200, b"<html>please wait</html>", {"Content-Type": "text/html"}),
    "200 null": (200, b"null", {}),
    "200 nothing": (200, b"", {}),
    "200 torn": (200, b'{"choices": [{"mess', {}),
    "200 deep": (200, b"[" * 100_000, {}),
    "invalid bytes": (200, b'{"choices": [{"message": {"content": "\xff"}}]}', {}),
    "short body": (200, b'{"choices": []}', {"Content-Length": "5000"}),
    "dropped": (0, b"", {}),
}


@dataclass
class Faulty:
    """A server in front of a `Loopback`: `fault` names a kind of KINDS for a request's number, or None.

    `handler`, if given, answers everything: (number, body) -> (status, body, headers).
    """

    state: Loopback = field(default_factory=Loopback)
    fault: Callable[[int], str | None] = lambda number: None
    handler: Callable[[int, dict], tuple[int, object, dict[str, str]]] | None = None
    drip: bool = False
    number: int = 0
    times: list[float] = field(default_factory=list)
    met: Counter = field(default_factory=Counter)
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = next((int(h.split(":")[1]) for h in head.lower().split("\r\n") if h.startswith("content-length:")), 0)
        body = json.loads(await reader.readexactly(size)) if size else {}
        self.number += 1
        self.times.append(time.monotonic())
        self.heads.append(head)
        kind = self.fault(self.number)
        self.met[kind] += kind is not None
        if self.handler:
            status, answer, headers = self.handler(self.number, body)
        elif kind:
            status, answer, headers = KINDS[kind]
        else:
            status, answer, headers = 200, self.state.completion(body), {}
        if not status:
            return False
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        given = {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Date": formatdate(usegmt=True),
        }
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in {**given, **headers}.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if self.drip:
            for byte in content:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.write(content)
        await writer.drain()
        return int({**given, **headers}["Content-Length"]) == len(content)


@contextmanager
def faulty(server: Faulty) -> Iterator[str]:
    """Serve in a thread of this process; yields the base URL."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    address = []

    def work() -> None:
        asyncio.set_event_loop(loop)
        listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**20))
        address.append(listening.sockets[0].getsockname()[1])
        started.set()
        loop.run_forever()
        listening.close()
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def quarter(seed: int) -> Callable[[int], str | None]:
    """A fault for a quarter of the requests, all kinds alike."""
    dice = random.Random(seed)
    kinds = list(KINDS)
    return lambda _: dice.choice(kinds) if dice.random() < 0.25 else None
