"""The batch transport: OpenAI's Batch API, half the price within a day, over the same requests as live.

1. Batches of this store that an earlier run left behind are found again by their metadata; what they hold is not paid
   for twice. Which requests are in one stands in the store since before it was created.
2. The other requests are cut into files that the service takes (lines, bytes, enqueued tokens) and started; what does
   not fit for now waits until a running batch has ended. A limit that the service shows is remembered.
3. Batches are polled; of each that ends, however it ends, output and error file are merged, by id, in any order.
4. Requests without a reply (expired, cancelled, server error) go out up to twice more, then they are unjudged.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from aad_plugin.errors import JudgeError
from aad_plugin.judges.asking.batch_service import LimitMet, Service, limit_in, replies_in
from aad_plugin.judges.asking.batch_spool import Limits, Spool
from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.asking.requests import Budget, Reply, Request
from aad_plugin.judges.sitting.judge import Price
from aad_plugin.judges.sitting.sitting import Sitting

MAX_LINES = 50_000
MAX_BYTES = 190_000_000  # the limit is 200 MB
_ROUNDS = 3
_ENDED = ("completed", "failed", "expired", "cancelled")
_LIMIT_CODES = ("token_limit_exceeded", "too_many", "limit", "max_lines", "file_too_large", "exceed")


def send_batches(
    requests: Iterable[Request],
    endpoint: Endpoint,
    on_reply: Callable[[Reply], None],
    sitting: Sitting,
    price: Price | None,
) -> None:
    """Judge by batches; blocks until all have ended, hours at worst. A killed run goes on where it was.

    Raises:
        JudgeError: a file was refused (names the first lines and why). JudgeUnavailable: no connection or quota.
    """
    paid = price.by("batch") if price else None
    with Spool(paid) as spool:
        spool.add(requests)
        if spool.entries:
            sitting.budget = sitting.budget or Budget(sitting.max_cost, paid)
            _Batches(endpoint, on_reply, sitting, sitting.budget, spool).send()


class _Batches:
    """One run: `open` are keys without a reply, `queue` those to be sent, `running` the batches with their keys."""

    def __init__(
        self, endpoint: Endpoint, on_reply: Callable[[Reply], None], sitting: Sitting, budget: Budget, spool: Spool
    ):
        self.endpoint = endpoint
        self.on_reply = on_reply
        self.sitting = sitting
        self.budget = budget
        self.spool = spool
        self.service = Service(endpoint)
        self.mark = {"aad_store": sitting.store.id, "aad_judge": sitting.judge_fingerprint}
        self.open = dict.fromkeys(spool.entries)
        self.queue: deque[str] = deque()
        self.running: dict[str, list[str]] = {}
        self.tries: Counter[str] = Counter()
        self.failures: dict[str, Reply] = {}
        self.limits = Limits(MAX_LINES, MAX_BYTES)
        for note in sitting.store.noted("batch_limit"):
            self.limits = Limits(min(MAX_LINES, note["lines"]), min(MAX_BYTES, note["bytes"]), note["tokens"])

    def send(self) -> None:
        self.attach()
        under_way = {key for keys in self.running.values() for key in keys}
        self.queue.extend(key for key in self.open if key not in under_way)
        while self.queue or self.running:
            self.fill()
            if not self.running:
                break
            if not self.poll():
                time.sleep(self.sitting.poll_s)
        self.settle()
        for key, reply in self.failures.items():
            if key in self.open:
                self.on_reply(reply)

    def settle(self) -> None:
        """Note that no shard is under way any more: those without a batch were never started."""
        for shard in self.sitting.store.shards_under_way(self.sitting.judge_fingerprint):
            self.sitting.store.note("batch_collected", batch="", status="none", shard=shard)

    def attach(self) -> None:
        """Take up batches of this store and judge, in any state, whose replies were not collected yet.

        Another judge's replies would be read in this one's form.
        """
        done = {note["batch"] for note in self.sitting.store.noted("batch_collected")}
        planned = {note["shard"]: note["keys"] for note in self.sitting.store.noted("batch_shard")}
        unknown = []
        for batch in self.service.batches(self.mark):
            if batch.id in done:
                continue
            keys = planned.get((batch.metadata or {}).get("aad_shard", ""))
            keys = keys if keys is not None else self.keys_of(batch)
            self.running[batch.id] = keys or []
            if keys is None:
                unknown.append(batch.id)
        # What such a batch holds shows only when it has ended; before, anything sent might be paid for twice.
        while any(name in self.running for name in unknown):
            if not self.poll():
                time.sleep(self.sitting.poll_s)

    def keys_of(self, batch: Any) -> list[str] | None:
        """Which requests a batch holds, from its input file; None where that is gone."""
        file = self.service.download(batch.input_file_id)
        if file is None:
            return None
        with file:
            return [reply.key for reply in replies_in(file)]

    def fill(self) -> None:
        """Start as many shards as the service takes now."""
        while self.queue:
            waiting = self.spool.tokens(key for keys in self.running.values() for key in keys)
            waiting = waiting or float(bool(self.running))
            keys = self.affordable(self.spool.fitting(list(self.queue), self.limits, waiting))
            if not keys:
                return
            for _ in keys:
                self.queue.popleft()
            try:
                self.running[self.start(keys)] = keys
            except LimitMet as met:
                self.queue.extendleft(reversed(keys))
                self.learn(keys, met.detail, met.status)
                if met.status == 429:
                    return

    def affordable(self, keys: list[str]) -> list[str]:
        # The first that does not fit ends it: going on with shorter ones would make a sample of short texts.
        for number, key in enumerate(keys):
            if not self.budget.reserve_cost(key, self.spool.most(key)):
                self.sitting.stop(f"the cost limit {self.budget.limit} is reached")
                self.queue = deque(keys[:number])
                return keys[:number]
        return keys

    def start(self, keys: list[str]) -> str:
        """Upload a shard, write down what it holds and start it; its batch's id."""
        shard = uuid.uuid4().hex
        with self.spool.content(keys) as content:
            file_id = self.service.upload(content)
        self.sitting.store.note("batch_shard", shard=shard, keys=keys, judge=self.sitting.judge_fingerprint)
        return self.service.create(
            file_id,
            {**self.mark, "aad_shard": shard},
            lambda: self.sitting.store.note("batch_collected", batch="", status="none", shard=shard),
        ).id

    def learn(self, keys: list[str], detail: str, status: int | None = None) -> None:
        """Make the limits fit after the service refused `keys` with these words.

        Raises:
            JudgeError: a single request is refused while nothing else waits.
        """
        if len(keys) == 1 and not self.running:
            raise JudgeError(self.endpoint.clean(f"the batch service refuses a single request: {detail}"))
        size = sum(self.spool.entries[key].size for key in keys if key in self.spool.entries)
        limits, said = self.limits, detail.lower()
        if "token" in said or (status == 429 and self.running):
            waiting = self.spool.tokens(key for held in self.running.values() for key in held)
            met = waiting + self.spool.tokens(keys)
            named = limit_in(detail, float("inf"))
            limits.tokens = max(1.0, min(0.7 * met, named if named and named > 99 else met, limits.tokens or met))
        elif status == 413 or "byte" in said or "size" in said or "large" in said:
            limits.num_bytes = max(1, min(size * 6 // 10, limits.num_bytes))
        else:
            named = limit_in(detail, len(keys))
            limits.lines = max(1, min(named or len(keys) // 2, limits.lines))
        self.sitting.store.note("batch_limit", lines=limits.lines, bytes=limits.num_bytes, tokens=limits.tokens)

    def poll(self) -> bool:
        """Look at all running batches once and merge those that have ended; whether any had."""
        ended = False
        for name in list(self.running):
            batch = self.service.batch(name)
            if batch.status in _ENDED:
                ended = True
                self.merge(batch, self.running.pop(name))
                self.collected(batch)
        return ended

    def merge(self, batch: Any, keys: list[str]) -> None:
        if batch.status == "failed":
            self.refused(batch, keys)
            return
        missing = dict.fromkeys(keys)
        files = [self.service.download(name) for name in (batch.output_file_id, batch.error_file_id) if name]
        try:
            for reply in replies_in(*files):
                missing.pop(reply.key, None)
                self.take(reply)
        finally:
            for file in files:
                if file is not None:
                    file.close()
        for key in missing:
            self.take(Reply(key, None, "transport", f"the batch {batch.id} {batch.status} without it"))

    def refused(self, batch: Any, keys: list[str]) -> None:
        """A file that the service would not work on: smaller ones where it met a limit, else the end."""
        # The next run must not find this one again and fail the same way.
        self.collected(batch)
        errors = (batch.errors.data if batch.errors else None) or []
        told = "; ".join(f"line {error.line}: {error.code}: {error.message}" for error in errors[:3])
        said = f"the batch service refused the file of {batch.id} ({len(errors)} errors): {told or 'no reason given'}"
        if not any(name in str(error.code).lower() for error in errors for name in _LIMIT_CODES):
            raise JudgeError(self.endpoint.clean(said))
        again = [key for key in keys if key in self.open]
        if again:
            self.learn(again, told)
            self.queue.extendleft(reversed(again))

    def collected(self, batch: Any) -> None:
        shard = (batch.metadata or {}).get("aad_shard", "")
        self.sitting.store.note("batch_collected", batch=batch.id, status=batch.status, shard=shard)

    def take(self, reply: Reply) -> None:
        key = reply.key
        if key not in self.open:
            self.keep_foreign(reply)
            return
        self.budget.settle_key(key, reply)
        if reply.body is None and reply.reason == "transport":
            self.failures[key] = reply
            self.tries[key] += 1
            if self.tries[key] < _ROUNDS and key not in self.queue:
                self.queue.append(key)
            return
        self.failures.pop(key, None)
        del self.open[key]
        self.on_reply(reply)

    def keep_foreign(self, reply: Reply) -> None:
        """Keep a paid reply to a question that this run does not ask: of other answers, rounds or challenges."""
        held = self.sitting.store.find(reply.key)
        is_new = held is None or not held.judged
        if reply.body is not None and reply.key not in self.spool.entries and is_new:
            self.on_reply(reply)
