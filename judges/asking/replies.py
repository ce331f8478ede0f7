"""Read a verdict out of a judge's reply, or say why there is none. Knows the OpenAI reply format, no network.

The order matters: what the server says about the reply (refusal, content filter, cut off) comes before its text,
because a cut-off or refused reply may well contain something that looks like a verdict.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.judges.asking.by_criterion import stated_by_criteria
from aad_plugin.judges.asking.folding import plain
from aad_plugin.judges.asking.statements import stated_choice
from aad_plugin.judges.asking.templates import Template
from aad_plugin.texts.thinking import answer_after_thinking, open_thinking

REASONS = {
    "unreadable": "the reply holds no verdict, or more than one",
    "empty": "the reply is empty",
    "refusal": "the judge declined to judge",
    "truncated": "the reply was cut off at its token limit",
    "content_filter": "the provider's content filter stopped the reply",
    "rejected": "the server does not accept this request",
    "transport": "no reply after all attempts",
    "incomplete": "the reply states no verdict by some of the criteria",
    "answer_truncated": "the judged answer ends inside its thinking",
    "not_asked": "the run ended before",
}
# Where the reply's own token is no letter, the two letters must together be at least this likely; below, the judge was
# about to say something else (a refusal, a preamble) and the rest of its distribution says nothing about the answers.
LEAST_MASS = 0.5
_MOST_MASS = 1.02  # servers round
_ROUNDING = 1e-4
CONFLICT = "several replies to one request with different verdicts"
# Why a reply ended, in the words of several servers.
_FILTERED = {
    "content_filter",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "refusal",
    "guardrail",
}
_CUT_OFF = {"length", "max_tokens", "max_length", "model_length", "max_output_tokens", "max_completion_tokens"}
_BROKEN_OFF = {"error", "abort", "aborted", "cancelled", "canceled", "timeout", "insufficient_system_resource"}
_LETTERS = {"A": 1.0, "B": 0.0}
_DECLINES = re.compile(
    r"\W*(i['’]?m (very |so )?sorry|sorry|i (can ?not|can['’]t|won['’]t|am unable|am not able|must decline))", re.I
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says: a value by the template's kind, or a reason; fields as in `items.Ruling`."""

    p: float | None = None
    grade: float | None = None
    label: str | None = None
    reason: str | None = None
    detail: str = ""
    form: str = ""
    text: str = ""
    criteria: dict[str, float] | None = None


def read_reply(body: Mapping[str, Any], template: Template, form: str) -> Reading:
    """Read one chat completion.

    Args:
        body: the completion as JSON. template: what was asked. form: how the reply was asked for, one of `FORMS`.
    Returns:
        a value with the form it was found in ("letter" is a hard verdict where log-probabilities were asked for but
        not given for both letters), or a reason from `REASONS` with the reply's own words.
    """
    try:
        readings = [_read(choice, template, form) for choice in _choices(body)]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        # Servers that only resemble OpenAI's send all sorts of shapes; none of them is a verdict.
        why = f"the reply is no chat completion ({type(error).__name__}: {error}): {_shown(body)}"
        return Reading(reason="unreadable", detail=why[:300])
    return merged(readings)


def merged(readings: Sequence[Reading]) -> Reading:
    """The reading that several replies to one request share; unreadable where two of them hold different verdicts."""
    judged = [reading for reading in readings if reading.reason is None]
    if len({(one.p, one.grade, one.label, str(sorted((one.criteria or {}).items()))) for one in judged}) > 1:
        texts = "; ".join(repr(reading.text[:60]) for reading in judged[:3])
        detail = f"{CONFLICT}: {texts}"
        return Reading(reason="unreadable", detail=detail, text=judged[0].text)
    return judged[0] if judged else readings[0]


def _choices(body: Mapping[str, Any]) -> list[Any]:
    found = body["choices"]
    if not isinstance(found, list):
        raise TypeError(f"expected a list of choices, got {type(found).__name__}")
    return found or [found[0]]


def _shown(body: Any) -> str:
    try:
        return json.dumps(body, default=str)
    except (ValueError, TypeError, RecursionError):
        return type(body).__name__


def _read(choice: Any, template: Template, form: str) -> Reading:
    message = choice["message"]
    text, declined = _text(message.get("content"))
    finish = str(choice.get("finish_reason") or "").casefold()
    if refusal := message.get("refusal") or declined:
        return Reading(reason="refusal", detail=str(refusal)[:200], text=text)
    if finish in _FILTERED:
        return Reading(reason="content_filter", detail=text[:200], text=text)
    if finish in _BROKEN_OFF or choice.get("error"):
        return Reading(
            reason="transport", detail=f"the server broke off ({finish or 'error'}): {text[-80:]!r}", text=text
        )
    cut_off = finish in _CUT_OFF
    # One token is all that is asked for with log-probabilities, so "length" is how such a reply ends.
    if cut_off and form != "logprobs":
        return Reading(reason="truncated", detail=f"cut off after {text[-80:]!r}; raise max_tokens", text=text)
    if form == "logprobs":
        return _read_letter(text, choice.get("logprobs"), template, cut_off)
    return _read_text(text, template, form)


def _read_text(text: str, template: Template, form: str) -> Reading:
    """The verdict a reply's text states after its thinking."""
    said, unfinished = open_thinking(answer_after_thinking(text) or "")
    if unfinished or answer_after_thinking(text) is None:
        return Reading(reason="truncated", detail="the judge's thinking never ended", text=text)
    if not plain(said).strip():
        return Reading(reason="empty", text=text)
    if template.criteria:
        return _read_criteria(said, text, template, form)
    choice, why = stated_choice(said, template)
    if choice is None:
        if why:
            return Reading(reason="unreadable", detail=f"{why}; reply {said[:160]!r}"[:300], text=text)
        return _no_word(said, text)
    if template.kind == "pairwise":
        return Reading(p=template.values[choice], form=form, text=text)
    if template.grades:
        return Reading(grade=float(choice), form=form, text=text)
    return Reading(label=choice, form=form, text=text)


def _read_criteria(said: str, text: str, template: Template, form: str) -> Reading:
    """The verdict by each criterion of a rubric; one that is missing or contradicts itself leaves the others alone."""
    found: dict[str, float] = {}
    missing, told = [], ""
    for name, (choice, why) in stated_by_criteria(said, template).items():
        if choice is None:
            missing.append(f"{name} ({why})" if why else name)
            told = told or why
        else:
            found[name] = template.values[choice]
    if not found:
        if told:
            return Reading(reason="unreadable", detail=f"{told}; reply {said[:160]!r}"[:300], text=text)
        return _no_word(said, text)
    if missing:
        detail = f"no verdict by {', '.join(missing)}"[:300]
        return Reading(reason="incomplete", detail=detail, form=form, text=text, criteria=found)
    return Reading(p=sum(found.values()) / len(found), form=form, text=text, criteria=found)


def _text(content: Any) -> tuple[str, str]:
    """The text of a message, and a refusal among its parts; some servers send it as a list of parts."""
    if isinstance(content, str | None):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(f"expected text as the message's content, got {type(content).__name__}")
    said, declined = [], ""
    for part in content:
        if isinstance(part, str):
            said.append(part)
        elif part.get("type") in (None, "text", "output_text"):
            said.append(part.get("text") or "")
        elif part["type"] == "refusal":
            declined = str(part.get("refusal") or "refused")
    return "".join(said), declined


def is_content_filter(code: str, message: str) -> bool:
    """Whether a server's error says that its content filter stopped the request."""
    return "content_filter" in code or "content management policy" in message or "content_policy" in code


def _read_letter(text: str, logprobs: Any, template: Template, cut_off: bool) -> Reading:
    """Soft verdict p(A) / (p(A) + p(B)) of the letter's token; a hard one where the two are not both given."""
    if cut_off and len(text.split()) > 1:  # far more than the one token asked for
        return Reading(reason="truncated", detail=f"reply {text[:160]!r}", text=text)
    hard = _read_text(text, template, "letter") if text.strip() else Reading(reason="empty", text=text)
    tokens = (logprobs or {}).get("content") or []
    at = _letter_token(tokens) if hard.p in (0.0, 1.0) else 0
    if not tokens or hard.reason not in (None, "unreadable", "empty") or hard.p == 0.5:
        return hard
    mass = _letter_masses(tokens[at or 0])
    if at is None:
        return hard
    said = _word(tokens[at])
    if hard.p is not None and said != ("A" if hard.p else "B"):
        return Reading(reason="unreadable", detail=f"reply {text[:80]!r}, but its token is {said!r}", text=text)
    total = sum(mass.values())
    if hard.p is None and (total < LEAST_MASS or len(mass) < 2):
        detail = f"p(A) + p(B) = {total:.2g}, reply {text[:80]!r}"
        return Reading(reason=_no_word(text, text).reason, detail=detail, text=text)
    if len(mass) < 2 or total == 0:
        return hard
    return Reading(p=mass["A"] / total, form="logprobs", text=text)


def _letter_token(tokens: Sequence[Any]) -> int | None:
    """Which token of a plain verdict is its letter; None where the letter shares a token with its dress."""
    return next((at for at, token in enumerate(tokens[:40]) if _word(token) in _LETTERS), None)


def _word(token: Mapping[str, Any]) -> str:
    return str(token.get("token", "")).replace("Ġ", " ").replace("▁", " ").strip()


def _letter_masses(token: Mapping[str, Any]) -> dict[str, float]:
    """p(A) and p(B) as far as the server states them.

    Raises:
        ValueError: what stands there are no log-probabilities: above 0, more than 1 in sum, or two for one token.
    """
    listed = token.get("top_logprobs") or [token]
    seen: dict[Any, float] = {}  # by id, where a server tells it: two tokens may have one text
    mass: dict[str, float] = {}
    total = 0.0
    for entry in listed:
        name, word, p = str(entry.get("token", "")), _word(entry), _probability(entry["logprob"])
        key = entry.get("id", name)
        if word in _LETTERS and seen.get(key, p) != p:
            raise ValueError(f"two log-probabilities for the token {name!r}")
        if word in _LETTERS and key not in seen:
            mass[word] = mass.get(word, 0.0) + p
        total += p if seen.get(key) != p else 0.0
        seen[key] = p
    if total > _MOST_MASS:
        raise ValueError(f"expected log-probabilities, got probabilities that sum to {total:.3g}")
    return mass


def _probability(logprob: Any) -> float:
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise TypeError(f"expected a number as logprob, got {logprob!r:.40}")
    if not logprob <= _ROUNDING:  # NaN is not
        raise ValueError(f"expected a logprob of at most 0, got {logprob}")
    return math.exp(min(0.0, logprob))


def _no_word(said: str, text: str) -> Reading:
    if not said.strip():
        return Reading(reason="empty", text=text)
    reason = "refusal" if _DECLINES.match(said) else "unreadable"
    return Reading(reason=reason, detail=f"reply {said[:160]!r}", text=text)
