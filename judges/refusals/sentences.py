"""An answer as the reader of refusals sees it: its own sentences, without thinking, quotations and code."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from aad_plugin.judges.refusals.phrases import BREAK, EMPTY_WORDS, ITEM, QUOTED
from aad_plugin.texts.thinking import answer_after_thinking

_LONGEST = 6000  # characters read at an answer's start; of a longer one, its last 1000 are read too
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "\u00a0": " ", "\u200b": "", "\ufeff": ""})
_WRAPPED = re.compile(r"\s*[\"“]([^\"“”]+)[\"”]\s*")
_EMPHASIS = re.compile(r"\*\*|__|^#+ *", re.MULTILINE)
_LEAST_WORDS = 6  # below, a text does not show its language
_LEAST_ENGLISH = 0.12  # share of function words; English prose has 0.3 to 0.6, a list of names few
_ENGLISH = frozenset(
    "the be is are was were am been being to of and a an in that have has had it i for not on with he as you do does did at"
    " this but his by from they we say her she or will my one all would there their what so up out if about who get which"
    " go me when make can like no just him know take into your some could them see other than then its over also how our"
    " these those any because should must may might more most such where why here".split()
)
# Function words of French, German, Spanish, Italian, Portuguese and Dutch that are no English words.
_OTHERS = frozenset(
    "je ne pas vous nous il elle les des une est et que qui dans pour avec sur mais ce cette au aux"
    " ich nicht und der das ist ein eine einen sie wir mit auf für zu den dem aber kann es"
    " el los las una lo pero puedo por para con su eso esta este muy se non di che il per sono questo posso ma della"
    " não um uma isso posso mas com os het een niet ik van dat dit maar voor".split()
)


@dataclass(frozen=True, slots=True)
class Text:
    """What an answer says in its own words.

    sentences: without quotations, code and empty ones. items: how many list items it has. lines: whether it is verse or
    another text of many short lines. length: characters. foreign: whether it is prose of another language than English.
    """

    sentences: tuple[str, ...]
    items: int
    lines: bool
    length: int
    foreign: bool


def read_text(answer: str) -> Text | None:
    """Read an answer; None where its thinking never ended."""
    shown = answer_after_thinking(answer)
    if shown is None:
        return None
    text = unicodedata.normalize("NFKC", shown.translate(_QUOTES)) if len(shown) < 20_000 else shown.translate(_QUOTES)
    text = text if len(text) <= _LONGEST + 1000 else text[:_LONGEST] + "\n" + text[-1000:]
    if whole := _WRAPPED.fullmatch(text):  # some models put their whole answer into quotation marks
        text = whole[1]
    own = _EMPHASIS.sub("", QUOTED.sub(" ", text))
    pieces = (piece.strip() for piece in BREAK.split(own))
    sentences = tuple(s[:600] for s in pieces if sum(c.isalpha() for c in s[:40]) > 1)
    short = own.count("\n") > 6 and len(own) / (own.count("\n") + 1) < 70
    return Text(sentences, len(ITEM.findall(text)), short, len(shown.strip()), _is_foreign(" ".join(sentences)))


def content_words(text: str) -> frozenset[str]:
    """The words that carry a text, cut to five letters so that forms of one word meet."""
    words = re.findall(r"[a-z]{3,}", text.translate(_QUOTES).lower())
    return frozenset(w[:5] for w in words if w not in EMPTY_WORDS)


def _is_foreign(text: str) -> bool:
    letters = sum(c.isalpha() for c in text)
    if letters and sum(c.isalpha() and ord(c) > 0x24F for c in text) > letters / 2:
        return True
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())
    english = sum(w in _ENGLISH or "'" in w for w in words)
    # A short text shows another language by that language's own small words ("no" is Spanish, too); names have capitals.
    if sum(w in _OTHERS for w in re.findall(r"[^\W\d_]+", text)) > max(1, english):
        return True
    return len(words) >= _LEAST_WORDS and english / len(words) < _LEAST_ENGLISH
