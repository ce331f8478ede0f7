"""Judge items: ask what the store does not know yet, join rulings into verdicts.

from aad_plugin.judges import Comparison, compare, load_judge, summarize

verdicts = compare([Comparison("0", "2+2?", "4", "5")], load_judge("reward:demo"))
print(summarize(verdicts).win_rate)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import (
    Answer,
    Comparison,
    Item,
    Question,
    Ruling,
    Verdict,
    as_messages,
    digest,
    prompt_hash,
)
from aad_plugin.judges.progress import Progress
from aad_plugin.judges.sitting import Judge, Sitting
from aad_plugin.judges.store import Store
from aad_plugin.judges.thinking import answer_after_thinking

__all__ = ["compare", "grade"]


def compare(
    comparisons: Sequence[Comparison],
    judge: Judge,
    output_dir: str | Path | None = None,
    *,
    progress: bool = True,
    seed: int = 0,
    repeats: int = 0,
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
        sitting: transport, max_cost, results, poll_s: see `Sitting`. Verdicts do not depend on the transport.
    Returns:
        one verdict per comparison, in order. A failure is never a score: `reason` says what happened.
    Raises:
        ConfigError: ids repeat, or the judge is pointwise. JudgeUnavailable: the judge cannot be reached; what was
        judged before is kept in `output_dir`, and the same call goes on from there.
    """
    return _judge(comparisons, judge, "pairwise", output_dir, progress, seed, repeats, sitting)


def grade(
    answers: Sequence[Answer],
    judge: Judge,
    output_dir: str | Path | None = None,
    *,
    progress: bool = True,
    seed: int = 0,
    **sitting: Any,
) -> list[Verdict]:
    """Judge answers one by one with a pointwise judge: `Verdict.grade` or `.label`. All else as in `compare`."""
    return _judge(answers, judge, "pointwise", output_dir, progress, seed, 0, sitting)


@dataclass(frozen=True, slots=True)
class _Case:
    """An item as the judge will see it: texts without thinking, and the keys of its questions, round by round."""

    item: Item
    texts: tuple[str | None, str | None]
    keys: tuple[tuple[str, ...], ...]
    reason: str | None


def _judge(
    items: Sequence[Item],
    judge: Judge,
    kind: str,
    output_dir: str | Path | None,
    progress: bool,
    seed: int,
    repeats: int,
    sitting_options: dict[str, Any],
) -> list[Verdict]:
    if judge.kind != kind:
        raise ConfigError(f"the judge {judge.name} is {judge.kind}, this call needs a {kind} one; choose its template")
    _check_ids(items)
    with Store(output_dir) as store:
        sitting = Sitting(store, **sitting_options)
        judge.prepare(sitting)
        cases = _cases(items, judge, _repeated(len(items), repeats, seed))
        open_keys = {key for case in cases for keys in case.keys for key in keys if not _judged(store, key)}
        with Progress(len(open_keys), judge, shown=progress) as bar:
            sitting.on_ruling = bar.advance
            if open_keys:
                judge.rule(_questions(cases, judge, open_keys, seed), sitting)
        return [_verdict(case, judge, store) for case in cases]


def _check_ids(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"ids of items must be unique, got {item.id!r} twice")
        seen.add(item.id)


def _judged(store: Store, key: str) -> bool:
    ruling = store.find(key)
    return ruling is not None and ruling.judged


def _repeated(num: int, repeats: int, seed: int) -> dict[int, int]:
    """Row -> further rounds, for a random fifth of the rows, at least 50."""
    if not repeats:
        return {}
    rows = random.Random(f"repeats {seed}").sample(range(num), min(num, max(50, num // 5)))
    return dict.fromkeys(rows, repeats)


def _cases(items: Sequence[Item], judge: Judge, rounds: dict[int, int]) -> list[_Case]:
    cases = []
    for row, item in enumerate(items):
        first, second = (item.candidate, item.baseline) if isinstance(item, Comparison) else (item.text, None)
        texts = (answer_after_thinking(first), None if second is None else answer_after_thinking(second))
        if texts[0] is None or (second is not None and texts[1] is None):
            cases.append(_Case(item, texts, (), "answer_truncated"))
        elif second is not None and texts[0] == texts[1]:
            cases.append(_Case(item, texts, (), None))
        else:
            keys = tuple(_keys(item, texts, judge, number) for number in range(1 + rounds.get(row, 0)))
            cases.append(_Case(item, texts, keys, None))
    return cases


def _keys(item: Item, texts: tuple[str | None, str | None], judge: Judge, number: int) -> tuple[str, ...]:
    prompt = as_messages(item.prompt)
    orders = [texts, texts[::-1]] if judge.both_orders and texts[1] is not None else [texts]
    again = f"-r{number}" if number else ""
    return tuple(digest([judge.fingerprint, prompt, *order])[:32] + again for order in orders)


def _questions(cases: Sequence[_Case], judge: Judge, open_keys: set[str], seed: int) -> Iterator[Question]:
    """Open questions: prompts in random order, all orders and rounds of one prompt together, nothing twice."""
    rows = list(range(len(cases)))
    random.Random(f"order {seed}").shuffle(rows)
    for row in rows:
        case = cases[row]
        for keys in case.keys:
            for turn, key in enumerate(keys):
                if key in open_keys:
                    open_keys.discard(key)
                    first, second = case.texts if turn == 0 else case.texts[::-1]
                    yield Question(key, as_messages(case.item.prompt), first or "", second)


def _verdict(case: _Case, judge: Judge, store: Store) -> Verdict:
    item, (first, second) = case.item, case.texts
    known = {
        "id": item.id,
        "prompt": prompt_hash(item.prompt),
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "template": judge.template_hash,
        "candidate_length": len(first or ""),
        "baseline_length": len(second or ""),
    }
    if case.reason:
        return Verdict(**known, reason=case.reason, detail="the answer ends inside its thinking")
    if not case.keys:
        return Verdict(**known, p=0.5)
    found = [[store.find(key) for key in keys] for keys in case.keys]
    known |= _provenance([ruling for one_round in found for ruling in one_round if ruling], judge)
    rulings = found[0]
    failed = next((ruling for ruling in rulings if ruling and not ruling.judged), None)
    if failed or None in rulings:
        reason, detail = (failed.reason, failed.detail) if failed else ("not_asked", "")
        return Verdict(**known, reason=reason, detail=detail)
    if not isinstance(item, Comparison):
        (only,) = [ruling for ruling in rulings if ruling]
        return Verdict(**known, grade=only.grade, label=only.label, scores=only.scores)
    orders = _orders(rulings)
    again = [_orders(one) for one in found[1:] if all(ruling and ruling.judged for ruling in one)]
    return Verdict(**known, p=_mean(orders), orders=orders, repeats=tuple(_mean(one) for one in again))


def _orders(rulings: Sequence[Ruling | None]) -> tuple[float, ...]:
    """p(candidate better) per order: in the second order the candidate stood second."""
    values = [ruling.p for ruling in rulings if ruling and ruling.p is not None]
    return tuple(p if turn == 0 else 1 - p for turn, p in enumerate(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _provenance(rulings: Sequence[Ruling], judge: Judge) -> dict:
    return {
        "models": tuple(sorted({ruling.model for ruling in rulings if ruling.model})),
        "system_fingerprints": tuple(sorted({r.system_fingerprint for r in rulings if r.system_fingerprint})),
        "prompt_tokens": sum(ruling.prompt_tokens for ruling in rulings),
        "completion_tokens": sum(ruling.completion_tokens for ruling in rulings),
        "seconds": round(sum(ruling.seconds for ruling in rulings), 4),
        "cost": sum(ruling.cost or 0 for ruling in rulings) if judge.price else None,
    }
