"""Judge items: ask what the store does not know yet, join rulings into verdicts.

from aad_plugin.judges import Comparison, compare, load_judge, summarize

verdicts = compare([Comparison("0", "2+2?", "4", "5")], load_judge("reward:demo"))
print(summarize(verdicts).win_rate)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Answer, Comparison, Item, Verdict
from aad_plugin.judges.sitting.judge import Judge, completed
from aad_plugin.judges.sitting.plan import Plan, check_sees
from aad_plugin.judges.sitting.progress import Progress
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.judges.sitting.store import Store


def compare(
    comparisons: Sequence[Comparison],
    judge: Judge,
    output_dir: str | Path | None = None,
    *,
    progress: bool = True,
    seed: int = 0,
    repeats: int = 0,
    challenge: bool = False,
    **sitting: Any,
) -> list[Verdict]:
    """Judge comparisons; blocks on the judge (network or device) and, with `output_dir`, on local disk.

    Args:
        comparisons: any number, ids unique. Identical answers are a tie without a call; an answer whose thinking never
            ended is unjudged.
        judge: pairwise, from `load_judge`.
        output_dir: folder of the store; whatever it already holds is not asked again. None keeps nothing.
        progress: draw a bar on stderr.
        seed: of the order in which prompts go out, and of the repeated subset.
        repeats: further rounds over a random subset (a fifth of the items, at least 50), to measure the judge's noise.
        challenge: afterwards tell the judge about such a subset that its verdict is wrong, and ask again: does it flip?
        sitting: transport, max_cost, results, poll_s: see `Sitting`. Verdicts do not depend on the transport.
    Returns:
        one verdict per comparison, in order. A failure is never a score: `reason` says what happened.
    Raises:
        ConfigError: ids repeat, or the judge is pointwise. JudgeUnavailable: the judge cannot be reached; what was
        judged before is kept in `output_dir`, and the same call goes on from there.
    """
    if challenge:
        check_challenge(judge)
    return _judge(comparisons, judge, "pairwise", output_dir, progress, seed, repeats, sitting, challenge)


def grade(
    answers: Sequence[Answer],
    judge: Judge,
    output_dir: str | Path | None = None,
    *,
    progress: bool = True,
    seed: int = 0,
    **sitting: Any,
) -> list[Verdict]:
    """Judge answers one by one with a pointwise judge: `Verdict.grade` (1 to 10) or `.label`. Blocks on the judge.

    Args, Raises: as for :func:`compare`.
    Returns:
        one verdict per answer, in order; one without grade and label says why it is unjudged.
    """
    return _judge(answers, judge, "pointwise", output_dir, progress, seed, 0, sitting)


def _judge(
    items: Sequence[Item],
    judge: Judge,
    kind: str,
    output_dir: str | Path | None,
    progress: bool,
    seed: int,
    repeats: int,
    sitting_options: dict[str, Any],
    challenge: bool = False,
) -> list[Verdict]:
    judge = completed(judge)
    if judge.kind != kind:
        raise ConfigError(f"the judge {judge.name} is {judge.kind}, this call needs a {kind} one; choose its template")
    check_sees(items, judge)
    with Store(output_dir) as store:
        sitting = Sitting(store, **sitting_options)
        check_terms(judge, sitting.transport, sitting.max_cost)
        judge.prepare(sitting)
        sitting.judge_fingerprint = judge.fingerprint
        plan = Plan(items, judge, seed, repeats, challenge=challenge)
        check_batches(plan, sitting)
        with Progress(len(plan.open_keys(store)), judge, shown=progress) as bar:
            sitting.on_ruling = bar.advance
            judge.rule(plan.questions(store), sitting)
            if challenge and not sitting.stopped:
                judge.rule(plan.challenges(store), sitting)
        if sitting.stopped:
            print(sitting.stopped, file=sys.stderr)
        return plan.verdicts(store, sitting.billed)


def check_batches(plan: Plan, sitting: Sitting) -> None:
    """Refuse to ask live, or by file, what a batch of an earlier run holds: it is paid for already.

    Raises:
        ConfigError: says how many requests, and what to do.
    """
    if sitting.transport == "batch" or sitting.leave_batches:
        return
    held = {key for keys in sitting.store.shards_under_way(plan.judge.fingerprint).values() for key in keys}
    wanted = plan.open_keys(sitting.store) | {question.key for question in plan.challenges(sitting.store)}
    if both := held & wanted:
        raise ConfigError(
            f"{len(both)} of {len(wanted)} requests may be in a batch that an earlier run started and did not collect: "
            "run again with --transport batch (--leave-batches asks them by this transport, and may pay twice)"
        )


def check_challenge(judge: Judge) -> None:
    """Refuse to argue with a judge that does not talk.

    Raises:
        ConfigError: it is no chat judge with a pairwise template, or is asked by several criteria.
    """
    if not completed(judge).can_be_challenged:
        raise ConfigError(
            f"only a chat judge that compares by one verdict can be told that it is wrong, {judge.name} is none; leave "
            "--challenge out"
        )


def check_terms(judge: Judge, transport: str, max_cost: float | None) -> None:
    """Refuse a transport the judge has not, and a cost limit where nobody knows what it costs.

    Raises:
        ConfigError: says which; nothing was asked.
    """
    if transport not in judge.transports:
        raise ConfigError(
            f"the judge {judge.name} is asked by the transport {' or '.join(judge.transports)} only, got {transport!r}"
        )
    if max_cost is not None and transport == "file" and not judge.in_process:
        raise ConfigError(
            "a cost limit holds for requests that this package sends, and by the file transport somebody else does: leave "
            "it out (--estimate says what all of them cost)"
        )
    if max_cost is None or judge.price is not None or judge.in_process:
        return
    raise ConfigError(
        f"a cost limit needs the judge's price: money per million tokens in/out, e.g. --price 2.0/8.0; {judge.name} has "
        "none"
    )


def stored_verdicts(
    items: Sequence[Item],
    judge: Judge,
    output_dir: str | Path,
    *,
    seed: int = 0,
    repeats: int = 0,
    challenge: bool = False,
) -> list[Verdict]:
    """Verdicts as far as the store holds them, without asking, waiting or writing; the rest is "not_asked"."""
    store = Store.peek(output_dir)
    judge.prepare(Sitting(store, transport="file"))
    return Plan(items, judge, seed, repeats, challenge=challenge).verdicts(store)
