"""The live transport: many requests in flight over one async client, in the order given.

A 429 or an outage holds every worker back, see `patience`; other failures that may pass are tried again with growing,
jittered pauses, until the server has answered nothing for as long as the endpoint's patience. An exhausted quota, a
refused key or a missing model stops the run after the requests in flight have come home, so that nothing paid for is
lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from aad_plugin.errors import JudgeUnavailable
from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.asking.patience import Gate, pause_s
from aad_plugin.judges.asking.requests import Budget, Reply, Request
from aad_plugin.judges.asking.server_errors import error_in_body

ATTEMPTS = 6  # to reach a server that was never reached: its address may be wrong
_ATTEMPTS_AMONG_OTHERS = 12  # for a request that fails while others are answered: the fault may be its own
_LONGEST_PAUSE_S = 30.0
_DEAD_AFTER = 5


def send_live(
    requests: Iterable[Request],
    endpoint: Endpoint,
    on_reply: Callable[[Reply], None],
    *,
    concurrency: int = 16,
    budget: Budget | None = None,
) -> bool:
    """Send requests, calling `on_reply` in this thread as each one ends; blocks on the network.

    Returns:
        True if all were sent, False if the budget ended first.
    Raises:
        JudgeUnavailable: the server answers nothing any more, or says that it will not.
    """
    return run(_Live(iter(requests), endpoint, on_reply, concurrency, budget or Budget(None, None)).send())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also from inside a running event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def ask_once(client: Any, body: dict[str, Any]) -> dict[str, Any]:
    """One chat completion as the server's own JSON; raises the client's exceptions, `ErrorInBody` where it is none."""
    # `chat.completions.create` would check and rebuild every message first, a quarter of the time per call.
    content = await client.post("/chat/completions", body=body, cast_to=dict[str, Any])
    if error := error_in_body(content):
        raise error
    return content


class _Live:
    """The state that workers share, in one event loop; `turn` is held by the one that takes the next request."""

    def __init__(
        self,
        requests: Iterator[Request],
        endpoint: Endpoint,
        on_reply: Callable[[Reply], None],
        concurrency: int,
        budget: Budget,
    ):
        self.requests = requests
        self.endpoint = endpoint
        self.on_reply = on_reply
        self.concurrency = concurrency
        self.budget = budget
        self.gate = Gate(concurrency, endpoint.patience_s)
        self.unreached = 0
        self.stop: str | None = None
        self.out_of_budget = False
        self.turn = asyncio.Lock()

    async def send(self) -> bool:
        async with self.endpoint.client() as client:
            self.client = client
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.concurrency):
                        workers.create_task(self.work())
            except ExceptionGroup as several:
                raise _first(several) from several
        if self.stop:
            raise JudgeUnavailable(self.stop)
        return not self.out_of_budget

    async def work(self) -> None:
        while request := await self.next_request():
            reply = await self.ask(request)
            self.budget.settle(request, reply)
            if reply is not None:
                self.on_reply(reply)

    async def next_request(self) -> Request | None:
        """The next request in order, the most it can cost set aside; None where none is to be sent any more.

        One worker at a time: where a long request has to wait for others in flight to leave enough of the budget, the
        shorter ones behind it must not overtake it, or what was asked in the end would be a sample of short texts.
        """
        async with self.turn:
            if self.stop or self.out_of_budget or (request := next(self.requests, None)) is None:
                return None
            while not self.budget.reserve(request):
                if self.stop or not self.budget.reserved:
                    self.out_of_budget = True
                    return None
                await asyncio.sleep(0.01)
            return request

    async def ask(self, request: Request) -> Reply | None:
        """Ask until there is a reply or no hope; None where the run stops before."""
        started = time.time()
        failed = limited = 0
        answered_before = self.gate.successes
        while True:
            await self.enter()
            if self.stop:
                self.gate.in_flight -= 1
                return None
            sent = time.monotonic()
            try:
                async with asyncio.timeout(self.endpoint.timeout_s):
                    body = await ask_once(self.client, request.body)
            except Exception as error:
                failure = self.endpoint.failure(error)
            else:
                self.gate.succeeded()
                return Reply(request.key, body, seconds=time.time() - started)
            finally:
                self.gate.in_flight -= 1
            if failure.action == "stop":
                self.stop = failure.detail
                return None
            if failure.action == "skip":
                self.gate.succeeded()
                return Reply(request.key, None, failure.reason, failure.detail, time.time() - started)
            self.gate.contacted = self.gate.contacted or not failure.unreached
            self.gate.failed(sent, failure.limited, failure.wait_s, failure.detail, _LONGEST_PAUSE_S)
            failed, limited = (failed, limited + 1) if failure.limited else (failed + 1, limited)
            if self.gate.over:
                self.stop = (
                    f"the judge's server does not answer, last: {failure.detail}; it answered nothing for "
                    f"{self.endpoint.patience_s:g} s (--patience-s)"
                )
                return None
            alone = failed >= _ATTEMPTS_AMONG_OTHERS and self.gate.successes > answered_before
            if alone or (failed >= ATTEMPTS and not self.gate.contacted):
                break
            if not failure.limited:
                await asyncio.sleep(pause_s(failed + limited, failure.wait_s, _LONGEST_PAUSE_S))
        self.unreached += not self.gate.contacted
        if self.unreached >= _DEAD_AFTER:
            self.stop = f"the judge's server does not answer, last: {failure.detail}"
        return Reply(request.key, None, failure.reason, failure.detail, time.time() - started)

    async def enter(self) -> None:
        """Wait for the gate, and go through it."""
        while (wait := self.gate.wait_s()) > 0 and not self.stop:
            await asyncio.sleep(min(wait, 0.5))
        self.gate.in_flight += 1


def _first(group: ExceptionGroup) -> Exception:
    """The first exception in a group of groups."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
