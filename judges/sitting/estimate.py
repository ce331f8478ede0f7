"""What a run would cost, before it costs anything: requests, tokens, money, and what it could show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aad_plugin.judges.items import Item
from aad_plugin.judges.sitting.judge import Judge, completed
from aad_plugin.judges.sitting.plan import Plan
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.judges.sitting.store import Store
from aad_plugin.judges.statistics.intervals import smallest_detectable_difference


@dataclass(frozen=True, slots=True)
class Estimate:
    """How large a judging run is. Tokens are estimated from bytes; for English the error is about a quarter.

    `requests` is the number of requests whose replies are not in the store yet, with both orders, all rounds and
    challenges. Costs are None without a price. `most_cost` is the upper bound that `max_cost` is compared with. It
    assumes twice the prompt tokens and replies as long as the token limit, as from a judge that thinks. If the judge
    has not been asked yet which form of reply it knows (`form_known`), it assumes the most expensive one.
    `detectable` is the smallest distance of a win rate from one half that the items' prompts can show (5 % level, power
    80 %, hard verdicts); NaN for a judge that compares nothing, and of a share of the items.
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
    challenge: bool = False,
    prompts: int | None = None,
    share: float = 1.0,
) -> Estimate:
    """Estimate what `compare` or `grade` with the same arguments would ask. Asks, writes and waits for nothing.

    Args:
        prompts: how many prompts the run's interval counts, if it is not what differs among the items' own.
        share: of the items that the judge is asked about, in (0, 1]; all figures are that share of what the whole costs.
    Returns:
        requests and tokens not yet in the store, their cost in the currency of the judge's price (None without one), and
        the smallest win-rate difference that so many items could show.
    """
    judge = completed(judge)
    requests = prompt_tokens = completion_tokens = 0
    most = 0.0
    price = judge.price.by(transport) if judge.price else None
    store = Store.peek(output_dir)
    judge.prepare(Sitting(store, transport="file"))  # by file nothing can be asked, so nothing is probed
    plan = Plan(items, judge, seed, repeats, challenge=challenge)
    for question in itertools.chain(plan.questions(store), plan.challenges(store, planned=True)):
        size = judge.size(question, price)
        requests += size.requests
        prompt_tokens += size.prompt_tokens
        completion_tokens += size.completion_tokens
        most += size.most_cost
    can_tell = judge.kind == "pairwise" and share == 1
    return Estimate(
        judge.name,
        math.ceil(share * len(items)),
        math.ceil(share * requests),
        math.ceil(share * prompt_tokens),
        math.ceil(share * completion_tokens),
        share * price.cost(prompt_tokens, completion_tokens) if price else None,
        share * most if price else None,
        smallest_detectable_difference(plan.num_prompts if prompts is None else prompts) if can_tell else math.nan,
        judge.form_known,
    )
