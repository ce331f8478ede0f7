"""Find the verdict that a reply states: a tag, a JSON object, a labelled line, a box, or the reply as a whole.

A reply may state its verdict more than once, but only one verdict. What it merely talks about (a tag that a judged
answer holds and the judge quotes, or refuses to write) is no statement; where that cannot be told, there is no verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aad_plugin.judges.asking.folding import plain
from aad_plugin.judges.asking.mentions import contradicts, declined, heads, is_mention, leading_cue
from aad_plugin.judges.asking.templates import Template
from aad_plugin.judges.asking.words import LABEL, choice_of

_TAG = re.compile(r"<\s*verdict\s*>((?:(?!<\s*/?\s*verdict\s*>).)*)<\s*/\s*verdict\s*>", re.IGNORECASE | re.DOTALL)
_TAG_OPEN = re.compile(r"<\s*verdict\s*>", re.IGNORECASE)
_TAG_CLOSE = re.compile(r"<\s*/\s*verdict\s*>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}\n]|\{[^{}\n]*\}){1,60})\}|\[\[([^\[\]\n]{1,40})\]\]")
# Almost JSON, as models write it: single quotes, no quotes, a comma too many; one field only.
_LOOSE = re.compile(r"\{\s*(['\"]?)verdict\1\s*:\s*(['\"]?)([^'\"{},:\[\]\n]{1,60})\2\s*,?\s*\}", re.IGNORECASE)
_SAME_AS_VERDICT = {
    "winner", "better", "best", "choice", "preference", "preferred", "answer", "decision", "final_verdict", "result",
    "grade", "score", "rating", "label", "better_answer", "final_answer",
}  # fmt: skip
_END_MARKS = re.compile(
    r"(?:\s*(?:<\|[^|<>\s]{1,30}\|>|</s>|<eos>|<end_of_turn>))+\s*$"
)  # a server's template let them through
_MOST_OBJECTS = 2000
_LETTERS = {"A", "tie", "B"}
_SENTENCE_ENDS = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])")
_REASON_FOLLOWS = re.compile(
    r"(.{1,40}?)(?:[.!]\s+(?=[^\W\d_a-z])|\s+[-–—]\s+(?=[^\W\d])|\s+\((?!or\b)|,?\s+(?:because|since|due to)\b)(.*)"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A place in a reply where a verdict is written: the word, and from where to where."""

    word: str
    start: int
    end: int


def stated_choice(said: str, template: Template) -> tuple[str | None, str]:
    """The choice a reply states, or None and why there is none.

    Args:
        said: the reply without thinking. template: whose menu counts.
    """
    said = _END_MARKS.sub("", plain(said).strip())
    if (whole := choice_of(said, template)) is not None:
        return whole, ""
    marked, broken = _marked(said)
    if broken:
        return None, broken
    stated = [one for one in marked if not is_mention(said, one.start, one.end)]
    quoted = [one for one in marked if one not in stated]
    choices = [choice_of(one.word, template, asserted=True) for one in stated]
    for one, choice in zip(stated, choices, strict=True):
        if choice is None:
            return None, f"{one.word[:80]!r} is none of {', '.join(template.choices)}"
    for box in _boxes(said):
        choice = choice_of(box.word, template, asserted=True)
        if choice is not None and not is_mention(said, box.start, box.end):
            choices.append(choice)
        elif choice is not None and not stated:
            quoted.append(box)  # beside the tag or object that was asked for, it is no second verdict
    choices += _labelled(said, template)
    if not stated:
        choices += _lone_lines(said, template)
    found = set(choices) | _also_said(said, template) if choices else set()
    return _one(found, said, quoted, template)


def _one(found: set[Any], said: str, quoted: list[Statement], template: Template) -> tuple[str | None, str]:
    """The only choice, if the rest of the reply lets it stand."""
    if not found:
        return None, "it writes about a verdict but states none" if quoted else ""
    if len(found) > 1:
        return None, f"it states several verdicts: {', '.join(sorted(found))}"
    (choice,) = found
    for one in quoted:
        other = choice_of(one.word, template, asserted=True)
        if other != choice and not in_quotes(said, one.start, one.end):
            return None, f"it writes both {choice!r} and {one.word[:40]!r} as verdicts"
    if declined(said):
        return None, "it declines to give the verdict it writes"
    if set(template.choices) <= _LETTERS and contradicts(_as_told(said), choice):
        return None, f"it states the verdict {choice!r} and then says otherwise"
    return choice, ""


def _marked(said: str) -> tuple[list[Statement], str]:
    """Verdicts in tags and JSON objects, and what is broken about the tags."""
    tags = [Statement(found[1], found.start(), found.end()) for found in _TAG.finditer(said)]
    rest = _TAG.sub("", said)
    unclosed = len(_TAG_OPEN.findall(rest)) != len(_TAG_CLOSE.findall(rest))
    if unclosed and tags:
        return [], "a verdict tag is opened or closed once too often"
    return [*tags, *_objects(said)], ""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, doubles included."""


def _json_objects(said: str) -> Iterator[tuple[int, int, _Pairs | None]]:
    """From where to where each JSON object in a text reaches, with its fields; None for a brace that opens none."""
    decoder, at = json.JSONDecoder(object_pairs_hook=_Pairs), 0
    for _ in range(_MOST_OBJECTS):
        start = said.find("{", at)
        if start < 0:
            return
        try:
            fields, at = decoder.raw_decode(said, start)
        except (ValueError, RecursionError):
            fields, at = None, start + 1
        yield start, at, fields


def _objects(said: str) -> Iterator[Statement]:
    for start, end, fields in _json_objects(said):
        if fields is None and (loose := _LOOSE.match(said, start)):
            yield Statement(loose[3], start, loose.end())
        for key, content in fields or ():
            if key.strip().casefold() == "verdict":
                yield Statement(word_of(content), start, end)


def _as_told(said: str) -> str:
    """A reply whose JSON objects are told field by field, texts as they read: reasons in a field contradict as any do."""
    told, at = "", 0
    for start, end, fields in _json_objects(said):
        if fields is not None:
            told += said[at:start] + "\n".join(_told(*field) for field in fields) + "\n"
            at = end
    return told + said[at:]


def _told(key: str, content: Any) -> str:
    if key.strip().casefold() == "verdict":
        return f"<verdict>{word_of(content)}</verdict>"
    return content if isinstance(content, str) else ""


def word_of(content: Any) -> str:
    """A field's value as a word; what is no word or number is shown as it stands and matches no menu."""
    while isinstance(content, list) and not isinstance(content, _Pairs) and len(content) == 1:
        (content,) = content
    if isinstance(content, str):
        return content
    if isinstance(content, int | float) and not isinstance(content, bool):
        return repr(content)
    return f"({type(content).__name__})"


def _also_said(said: str, template: Template) -> set[str]:
    """Choices that fields of another usual name hold; they must not contradict the verdict."""
    also = set()
    for found in re.finditer(r"\"(\w+)\"\s*:\s*(\"[^\"\n]{1,40}\"|[0-9.]{1,6})\s*[,}]", said):
        if found[1].casefold() in _SAME_AS_VERDICT and (choice := choice_of(found[2], template)) is not None:
            also.add(choice)
    return also


def _boxes(said: str) -> list[Statement]:
    return [Statement(box[1] or box[2], box.start(), box.end()) for box in _BOX.finditer(said)]


def _labelled(said: str, template: Template) -> list[str]:
    """Choices after a label at the beginning of a line or sentence: ``Verdict: A``, ``Rating: 8/10``."""
    found = []
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.strip().startswith(("```", "~~~"))]
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        if line.startswith(">") or (before.endswith(":") and leading_cue(before)):
            continue  # quoted
        following = lines[number + 1] if number + 1 < len(lines) else ""
        for sentence in _from_each_sentence(line):
            choice = _after_label(sentence, following, template)
            if choice is not None:
                found.append(choice)
    return found


def _from_each_sentence(line: str) -> Iterator[str]:
    """The line from each of its sentences on."""
    yield line
    for end in _SENTENCE_ENDS.finditer(line):
        if end.end() < len(line):
            yield line[end.end() :]


def _after_label(sentence: str, following: str, template: Template) -> str | None:
    bare = re.sub(r"^(?:[#*_`\s•-]|\d+[.)]\s)+", "", sentence)
    bare = re.sub(r"^([^:：]{1,40}?)[*_`]+\s*([:：])|^([^:：]{1,40}[:：])[*_`]+", r"\1\2\3", bare)
    label = LABEL.match(bare)
    if label is None:  # a heading above a lone word
        heading = LABEL.fullmatch(re.sub(r"[#*_\s]+$", "", bare) + ":")
        return choice_of(following, template, asserted=True) if heading else None
    rest = bare[label.end() :]
    if not rest.strip("*_` "):
        return choice_of(following, template, asserted=True)
    if (choice := choice_of(rest, template, asserted=True)) is not None:
        return choice
    reason = _REASON_FOLLOWS.match(rest)
    if reason is None or re.match(r"\W*(?:or|no|not|wait|and|vs)\b", reason[2], re.IGNORECASE):
        return None
    return choice_of(reason[1], template, asserted=True) if choice_of(reason[2], template) is None else None


def _lone_lines(said: str, template: Template) -> list[str]:
    """Choices that are the whole first or last line, where no other line is another choice; a grade must be a paragraph of
    its own. Lines that name one choice after another head a discussion, and so may the first of them alone.
    """
    blocks = [block for block in re.split(r"\n\s*\n" if template.grades else r"\n", said) if block.strip()]
    if len(blocks) < 2 or len({choice for block in blocks if (choice := choice_of(block, template)) is not None}) > 1:
        return []
    found = []
    for number, block in ((0, blocks[0]), (-1, blocks[-1])):
        before = blocks[-2].strip() if number else ""
        quoted = before.endswith((":", "：")) and leading_cue(before)
        if quoted or block.strip().startswith(">") or block.strip().endswith((":", "：")):
            continue
        choice = choice_of(block, template)
        if choice is not None and not (number == 0 and heads(block, said, choice)):
            found.append(choice)
    return found


def in_quotes(said: str, start: int, end: int) -> bool:
    """Whether what stands at said[start:end] stands in quotation marks."""
    return said[max(0, start - 1) : start] in tuple("`\"'“‘«") and said[end : end + 1] != ""
