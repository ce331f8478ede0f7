"""What is judged and what a judge says: plain data, no I/O, no judge.

A `Comparison` (two answers to one prompt) or an `Answer` (one) is asked as one or more `Question`s, each of which gets
one `Ruling`; the rulings of an item are joined into its `Verdict`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from aad_plugin.texts.messages import Messages, Reply


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt; the verdict is about the candidate.

    Args:
        id: unique among the items of one call, e.g. a document's number.
        prompt: the instruction, or chat messages ``[{"role", "content"}, ...]`` ending with the user's turn.
        candidate: the answer whose win rate is wanted, thinking included or not (it is removed). Where each side held a
            conversation of its own, the prompt is the user's turns alone and the answer one reply per turn.
        baseline: the answer that it is compared with.
        pictures: what the prompt shows besides, each a file, a ``data:`` URL or a Pillow image; only a judge that sees is
            asked then.
        own_id: what a file calls it where that is another id: labels by id alone could mean either.
    """

    id: str
    prompt: str | Messages
    candidate: Reply
    baseline: Reply
    pictures: tuple[Any, ...] = field(default=(), kw_only=True)
    own_id: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one prompt, for a pointwise judge (a grade or a label); fields as in `Comparison`."""

    id: str
    prompt: str | Messages
    text: Reply
    pictures: tuple[Any, ...] = field(default=(), kw_only=True)
    own_id: str = field(default="", kw_only=True)


Item = Comparison | Answer


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a judge: one presentation order of a comparison, or one answer.

    `key` identifies judge, parameters, template, prompt and both texts; the store and every transport use it.
    `second` is None for a pointwise question. Replies of a conversation come as a tuple of texts, see `conversation`.
    `pictures`: of the prompt, as in `Comparison`.
    `challenged`: p(the text shown first is better) that the judge has said and is told to be wrong; None asks afresh.
    """

    key: str
    messages: Messages
    first: Reply
    second: Reply | None
    challenged: float | None = None
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruling:
    """A judge's reply to one question: a value, or the reason why there is none.

    Args:
        key: of the question.
        p: p(the text shown first is better), 0..1; pairwise only.
        grade: a number; pointwise only.
        label: one of the template's labels; pointwise only.
        scores: label -> probability, where the judge gives them.
        criteria: for a rubric, p by criterion as far as the reply states them; the ruling has a value (`p`, their mean)
            only where it states all of them.
        reason: why there is no value; see `REASONS` in `replies.py`. None where there is one.
        detail: the reply's or server's own words on that reason, secrets removed.
        reply: the judge's text, unchanged.
        form: how the verdict was read: logprobs, letter, json, tag, score.
        model, system_fingerprint: as the reply names them, not as they were asked for.
        prompt_tokens, completion_tokens: as billed; 0 where nothing is billed. cost: None without a price.
        seconds: between request and reply. created: Unix time of the reply.
        transport: by which it was asked, which shapes its price and nothing else; "" where that is not known.
    """

    key: str
    p: float | None = None
    grade: float | None = None
    label: str | None = None
    scores: dict[str, float] | None = None
    criteria: dict[str, float] | None = None
    reason: str | None = None
    detail: str = ""
    reply: str = ""
    form: str = ""
    model: str = ""
    system_fingerprint: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    created: float = 0.0
    transport: str = ""

    @property
    def judged(self) -> bool:
        """Whether the ruling holds a value."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one item after judging; one line of ``verdicts.jsonl``.

    Args:
        id: of the item. prompt: hash of the user's turns; items that share it are one cluster in statistics.
        judge, judge_fingerprint, template: who judged, with which parameters, by which prompt (hash).
        p: p(candidate better), 0..1, mean over the orders; None where unjudged or pointwise.
        orders: p(candidate better) with the candidate shown first, then second; one entry for a judge without order.
        grade, label, scores: pointwise verdicts.
        reason: None where judged; "not_asked" where the run ended before; otherwise why there is no verdict.
        candidate_length, baseline_length: characters after thinking is removed; 0 for a missing second text.
        repeats: p of every further round over the same item, where rounds were asked for.
        models, system_fingerprints: as the replies named them, without doubles.
        cost: what the replies cost, in the currency of the judge's price; None without a price.
        members: for a jury, p by judge.
        criteria: for a rubric, p(candidate better) per order by criterion; None in the place of what no reply stated. They
            stand here also where the whole is unjudged because one of them is missing.
        challenged: p(candidate better) per order after the judge was told to be wrong, where it was.
        language: of the prompt that the judge was given, if languages are distinguished ("fr, asked in en" for a fallback).
        rulings: keys in ``store.jsonl`` of the rulings it was joined from, first round only; there stand the judge's words.
    """

    id: str
    prompt: str
    judge: str
    judge_fingerprint: str = ""
    template: str = ""
    p: float | None = None
    orders: tuple[float | None, ...] = ()
    grade: float | None = None
    label: str | None = None
    scores: dict[str, float] | None = None
    reason: str | None = None
    detail: str = ""
    candidate_length: int = 0
    baseline_length: int = 0
    repeats: tuple[float, ...] = ()
    models: tuple[str, ...] = ()
    system_fingerprints: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float | None = None
    members: dict[str, float | None] | None = None
    criteria: dict[str, tuple[float | None, ...]] | None = None
    challenged: tuple[float, ...] = ()
    language: str = ""
    rulings: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether the item has a verdict."""
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        """Fields that hold something, ready for `json.dumps`."""
        kept = dataclasses.asdict(self)
        zero_says_something = ("grade", "cost")
        return {
            name: value
            for name, value in kept.items()
            if name == "p" or value not in (None, "", (), 0, {}) or (name in zero_says_something and value is not None)
        }
