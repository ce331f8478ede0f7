"""From items to questions and from rulings back to verdicts: everything about a run that needs no judge at work."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Comparison, Item, Question, Ruling, Verdict
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.pictures import marks_of
from aad_plugin.judges.sitting.store import Store
from aad_plugin.texts.messages import Reply, as_messages, digest, shown_hash
from aad_plugin.texts.thinking import answer_after_thinking

_CHALLENGED = "-c"


@dataclass(frozen=True, slots=True)
class _Case:
    """An item as the judge will see it: texts without thinking, marks of its pictures, and the keys of its questions, round
    by round."""

    item: Item
    texts: tuple[Reply | None, Reply | None]
    keys: tuple[tuple[str, ...], ...]
    reason: str | None
    pictures: tuple[str, ...] = ()


class Plan:
    """What one judge is to be asked about items, and how the rulings make verdicts.

    Args:
        items: ids unique, texts raw. judge: prepared, its fingerprint is part of every key.
        seed: of the order of prompts and of the repeated subset.
        repeats: further rounds over a random fifth of the items, at least 50.
        challenge: tell the judge that it is wrong about a random fifth of the items, at least 50.
    Raises:
        ConfigError: an id comes twice, or an item shows pictures and the judge does not see.
    """

    def __init__(
        self, items: Sequence[Item], judge: Judge, seed: int = 0, repeats: int = 0, *, challenge: bool = False
    ):
        _check_ids(items)
        check_sees(items, judge)
        self.judge = judge
        self.seed = seed
        self.challenged = _subset(len(items), f"challenge {seed}") if challenge else set()
        rounds = _repeated(len(items), repeats, seed)
        self.cases = [_case(item, judge, rounds.get(row, 0)) for row, item in enumerate(items)]

    @property
    def num_prompts(self) -> int:
        """Prompts that differ, each with its pictures."""
        return len({shown_hash(case.item.prompt, case.pictures) for case in self.cases})

    def open_keys(self, store: Store) -> set[str]:
        """Keys of questions without a judged ruling."""
        keys = {key for case in self.cases for keys in case.keys for key in keys}
        return {key for key in keys if not ((ruling := store.find(key)) and ruling.judged)}

    def questions(self, store: Store) -> Iterator[Question]:
        """Open questions: prompts in random order, all orders and rounds of one prompt together, nothing twice."""
        open_keys = self.open_keys(store)
        rows = list(range(len(self.cases)))
        random.Random(f"order {self.seed}").shuffle(rows)
        for row in rows:
            case = self.cases[row]
            for keys in case.keys:
                for turn, key in enumerate(keys):
                    if key in open_keys:
                        open_keys.discard(key)
                        first, second = case.texts if turn == 0 else case.texts[::-1]
                        shown = case.item.pictures
                        yield Question(key, as_messages(case.item.prompt), first or "", second, pictures=shown)

    def challenges(self, store: Store, *, planned: bool = False) -> Iterator[Question]:
        """Questions that tell the judge it is wrong, where it has ruled and was not told yet.

        Args:
            planned: also where it has not ruled yet, as if it had found the first text better.
        """
        for row in sorted(self.challenged):
            case = self.cases[row]
            for turn, key in enumerate(case.keys[0] if case.keys else ()):
                ruling, told = store.find(key), store.find(key + _CHALLENGED)
                p = ruling.p if ruling else 1.0 if planned else None
                if p is not None and not (told and told.judged):
                    first, second = case.texts if turn == 0 else case.texts[::-1]
                    asked, shown = as_messages(case.item.prompt), case.item.pictures
                    yield Question(key + _CHALLENGED, asked, first or "", second, p, shown)

    def verdicts(self, store: Store, billed: set[str] | None = None) -> list[Verdict]:
        """One verdict per item, in the order of items, from what the store holds.

        A reply that several items share is on the bill of the first: it was paid once. So are the judge's probes. `billed`
        are keys that are on a bill already; what is billed here is added.
        """
        billed = set() if billed is None else billed
        return [
            _verdict(case, self.judge, store, row in self.challenged, billed) for row, case in enumerate(self.cases)
        ]


def check_sees(items: Sequence[Item], judge: Judge) -> None:
    """Raise ConfigError where items show pictures and the judge reads text alone: it would judge what it has not seen."""
    shown = next((item for item in items if item.pictures), None)
    if shown is not None and not judge.sees:
        raise ConfigError(
            f"item {shown.id!r} shows {len(shown.pictures)} picture{'s' if len(shown.pictures) > 1 else ''}, and the judge "
            f"{judge.name} reads text alone: name one that sees (openai:<model>,sees=true or hf:<model>,sees=true for a "
            "model with image input)"
        )


def _check_ids(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"ids of items must be unique, got {item.id!r} twice")
        seen.add(item.id)


def _repeated(num: int, repeats: int, seed: int) -> dict[int, int]:
    """Row -> further rounds, for a random fifth of the rows, at least 50."""
    if not repeats:
        return {}
    return dict.fromkeys(_subset(num, f"repeats {seed}"), repeats)


def _subset(num: int, seed: str) -> set[int]:
    """A random fifth of the rows, at least 50."""
    return set(random.Random(seed).sample(range(num), min(num, max(50, num // 5))))


def _case(item: Item, judge: Judge, rounds: int) -> _Case:
    first, second = (item.candidate, item.baseline) if isinstance(item, Comparison) else (item.text, None)
    texts = (_visible(first), None if second is None else _visible(second))
    marks = marks_of(item.pictures, f"item {item.id!r}")
    keys: tuple[tuple[str, ...], ...] = ()
    reason = None
    if texts[0] is None or (second is not None and texts[1] is None):
        reason = "answer_truncated"
    elif second is None or texts[0] != texts[1]:
        keys = tuple(_keys(item, texts, judge, number, marks) for number in range(1 + rounds))
    return _Case(item, texts, keys, reason, tuple(marks))


def _visible(reply: Reply) -> Reply | None:
    """The answer without thinking; None where some thinking never ended."""
    if isinstance(reply, str):
        return answer_after_thinking(reply)
    shown = [answer_after_thinking(text) for text in reply]
    return None if None in shown else tuple(text or "" for text in shown)


def _length(reply: Reply | None) -> int:
    """Characters."""
    return len(reply or "") if isinstance(reply, str | None) else sum(map(len, reply))


def _keys(
    item: Item, texts: tuple[Reply | None, Reply | None], judge: Judge, number: int, marks: list[str]
) -> tuple[str, ...]:
    prompt = as_messages(item.prompt)
    orders = [texts, texts[::-1]] if judge.both_orders and texts[1] is not None else [texts]
    again = f"-r{number}" if number else ""
    shown = [{"pictures": marks}] if marks else []
    return tuple(digest([judge.fingerprint, prompt, *order, *shown])[:32] + again for order in orders)


def _verdict(case: _Case, judge: Judge, store: Store, is_challenged: bool, billed: set[str]) -> Verdict:
    item, (first, second) = case.item, case.texts
    known: dict[str, Any] = {
        "id": item.id,
        "prompt": shown_hash(item.prompt, case.pictures),
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "template": judge.template_hash,
        "candidate_length": _length(first),
        "baseline_length": _length(second),
    }
    known["language"] = judge.language_of(first or "", second)
    if case.reason:
        return Verdict(**known, reason=case.reason, detail="the answer ends inside its thinking")
    if not case.keys:
        return Verdict(**known, p=0.5)
    known["rulings"] = case.keys[0]
    found = [[store.find(key) for key in keys] for keys in case.keys]
    known |= _provenance([ruling for one_round in found for ruling in one_round if ruling])
    told = [store.find(key + _CHALLENGED) for key in case.keys[0]] if is_challenged else []
    asked = [key for keys in case.keys for key in keys] + [key + _CHALLENGED for key in case.keys[0] if is_challenged]
    new = [key for key in asked if key not in billed]
    paid = [] if judge.probe in billed else _probes(store, judge)
    billed.update(new, [judge.probe])
    paid += [ruling for key in new for ruling in (*store.superseded(key), store.find(key)) if ruling]
    known |= _bill(paid, judge)
    rulings = found[0]
    known["criteria"] = _criteria(rulings)
    failed = next((ruling for ruling in rulings if ruling and not ruling.judged), None)
    if failed or None in rulings:
        reason, detail = (failed.reason, failed.detail) if failed else ("not_asked", "")
        return Verdict(**known, reason=reason, detail=detail)
    if not isinstance(item, Comparison):
        (only,) = [ruling for ruling in rulings if ruling]
        return Verdict(**known, grade=only.grade, label=only.label, scores=only.scores)
    orders = _orders(rulings)
    again = [_orders(one) for one in found[1:] if all(ruling and ruling.judged for ruling in one)]
    if told and all(ruling and ruling.judged for ruling in told):
        known["challenged"] = _orders(told)
    return Verdict(**known, p=_mean(orders), orders=orders, repeats=tuple(_mean(one) for one in again))


def _criteria(rulings: Sequence[Ruling | None]) -> dict[str, tuple[float | None, ...]] | None:
    """p(candidate better) per order by criterion, None where a reply does not state it; None without a rubric."""
    names = dict.fromkeys(name for ruling in rulings if ruling for name in ruling.criteria or ())
    if not names:
        return None
    told = [(ruling.criteria if ruling else None) or {} for ruling in rulings]
    return {name: tuple(_of_candidate(one.get(name), turn) for turn, one in enumerate(told)) for name in names}


def _of_candidate(p_first: float | None, turn: int) -> float | None:
    """p(candidate better): in the second order the candidate stood second."""
    return p_first if p_first is None or turn == 0 else 1 - p_first


def _orders(rulings: Sequence[Ruling | None]) -> tuple[float, ...]:
    """p(candidate better) per order: in the second order the candidate stood second."""
    values = [ruling.p for ruling in rulings if ruling and ruling.p is not None]
    return tuple(p if turn == 0 else 1 - p for turn, p in enumerate(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _provenance(rulings: Sequence[Ruling]) -> dict:
    return {
        "models": tuple(sorted({ruling.model for ruling in rulings if ruling.model})),
        "system_fingerprints": tuple(sorted({r.system_fingerprint for r in rulings if r.system_fingerprint})),
        "seconds": round(sum(ruling.seconds for ruling in rulings), 4),
    }


def _probes(store: Store, judge: Judge) -> list[Ruling]:
    """Replies that settled how the judge is asked, as far as their notes say what they took."""
    names = ("prompt_tokens", "completion_tokens", "cost")
    return [
        Ruling("probe", **{name: note[name] for name in names if name in note}) for note in store.probes(judge.probe)
    ]


def _bill(rulings: Sequence[Ruling], judge: Judge) -> dict:
    """Tokens and cost of every reply, failed ones included; what was asked before a price was known gets today's, by the
    transport it was asked by."""
    prompt, completion = (sum(getattr(r, name) for r in rulings) for name in ("prompt_tokens", "completion_tokens"))
    cost = None
    if price := judge.price:
        cost = sum(
            price.by(r.transport).cost(r.prompt_tokens, r.completion_tokens) if r.cost is None else r.cost
            for r in rulings
        )
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cost": cost}
