"""What a run would cost, before it costs anything: requests, tokens, money, and what it could show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aad_plugin.judges.items import Item
from aad_plugin.judges.plan import Plan
from aad_plugin.judges.requests import most_cost, prompt_tokens_of
from aad_plugin.judges.sitting import Judge, Sitting
from aad_plugin.judges.statistics import smallest_detectable_difference
from aad_plugin.judges.store import Store

__all__ = ["Estimate", "estimate"]

_REPLY_TOKENS = 12  # of a JSON object or a tag around one word


_REASONS_TOKENS = 150


def _reply_tokens(judge: Judge) -> int:
    """Of a usual reply: a word per criterion, and the reasons where they are asked for."""
    template = getattr(judge, "template", None)
    words = max(1, len(getattr(template, "criteria", ())))
    return _REPLY_TOKENS * words + (_REASONS_TOKENS if getattr(template, "reasons", "none") != "none" else 0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's size. Tokens are estimated from bytes, within about a quarter for English; cost is None without a price.

    `requests` counts what the store does not hold yet, both orders and rounds included; `most_cost` is what `max_cost`
    reckons with: twice the prompt tokens and replies up to their token limit, as of a judge that thinks, in the dearest
    form of reply while the judge has not been asked which it knows (`form_known`). `detectable` is the smallest distance
    of a win rate from one half that `num_items` prompts show (5 % level, power 80 %, hard verdicts).
    """

    judge: str
    num_items: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    most_cost: float | None
    detectable: float
    form_known: bool = True


def estimate(
    items: Sequence[Item],
    judge: Judge,
    output_dir: str | Path | None = None,
    *,
    transport: str = "live",
    seed: int = 0,
    repeats: int = 0,
) -> Estimate:
    """Estimate what `compare` or `grade` with the same arguments would ask. Asks, writes and waits for nothing."""
    requests = prompt_tokens = completion_tokens = 0
    most = 0.0
    price = judge.price.by(transport) if judge.price else None
    store = Store.peek(output_dir)
    judge.prepare(Sitting(store, transport="file"))  # by file nothing can be asked, so nothing is probed
    form_known = getattr(judge, "form_known", True)
    for question in Plan(items, judge, seed, repeats).questions(store):
        requests += 1
        if hasattr(judge, "request"):
            request = judge.request(question)
            prompt_tokens += round(prompt_tokens_of(request.body))
            completion_tokens += min(_reply_tokens(judge), request.max_tokens)
            if price:
                forms = [request] if form_known else [judge.request(question, form) for form in judge.forms]
                most += max(most_cost(one, price) for one in forms)
    return Estimate(
        judge.name,
        len(items),
        requests,
        prompt_tokens,
        completion_tokens,
        price.cost(prompt_tokens, completion_tokens) if price else None,
        most if price else None,
        smallest_detectable_difference(len(items)),
        form_known,
    )
