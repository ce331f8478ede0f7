"""The choice of transport: live, batch or file. Verdicts are the same by each, and shared between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.asking.requests import Budget, Reply, Request
from aad_plugin.judges.sitting.judge import Price
from aad_plugin.judges.sitting.sitting import Sitting


def send(
    requests: Iterable[Request],
    on_reply: Callable[[Reply], None],
    sitting: Sitting,
    endpoint: Endpoint,
    concurrency: int,
    price: Price | None,
) -> None:
    """Send requests by the sitting's transport; raises JudgeUnavailable, see `live.send_live`."""
    if sitting.transport == "live":
        from aad_plugin.judges.asking.live import send_live

        budget = sitting.budget = sitting.budget or Budget(sitting.max_cost, price)
        if not send_live(requests, endpoint, on_reply, concurrency=concurrency, budget=budget):
            sitting.stop(f"the cost limit {sitting.max_cost} is reached")
    elif sitting.transport == "batch":
        from aad_plugin.judges.asking.batch import send_batches

        send_batches(requests, endpoint, on_reply, sitting, price)
    else:
        from aad_plugin.judges.asking.request_file import exchange

        exchange(requests, on_reply, sitting)
