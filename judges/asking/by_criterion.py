"""What a reply to a rubric states by each criterion: its tags, its JSON field, or lines that begin with its name.

They are statements in the reply as it stands, so what a reply only quotes or refuses to write is none, as for one verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from aad_plugin.judges.asking.folding import plain
from aad_plugin.judges.asking.mentions import declined, is_mention, leading_cue, taken_back
from aad_plugin.judges.asking.statements import Statement, in_quotes, word_of
from aad_plugin.judges.asking.templates import Template
from aad_plugin.judges.asking.words import choice_of

_BETWEEN = re.compile(r"[\s,;*_`•-]*")  # of statements that stand or fall together


def stated_by_criteria(said: str, template: Template) -> dict[str, tuple[str | None, str]]:
    """By criterion the choice a reply states, or None and why there is none; "" as reason where it says nothing.

    Args:
        said: the reply without thinking. template: of a rubric.
    """
    said = plain(said)
    places = {name: places_of(said, name) for name, _ in template.criteria}
    blocks = _blocks(said, [one for found in places.values() for one in found])
    left = ""
    if declined(said, several=True):
        left = "it declines to give the verdicts it writes"
    elif blocks and taken_back(said, max(end for _, end in blocks) - 1):
        left = "it takes its verdicts back"
    names = re.compile(
        rf"(?:[^\w<{{]|\d)*(?:{'|'.join(name.replace('_', '[ _]') for name in places)})\b", re.IGNORECASE
    )
    return {name: _choice(said, found, blocks, template, left, names) for name, found in places.items()}


def places_of(said: str, name: str) -> list[Statement]:
    """Where a reply writes about a criterion."""
    label = name.replace("_", "[ _]")
    tag = rf"(?:\b{label}\W{{0,4}})?<\s*{name}\s*>(.*?)<\s*/\s*{name}\s*>"
    found = [Statement(one[1], one.start(), one.end()) for one in re.finditer(tag, said, re.IGNORECASE | re.DOTALL)]
    found += [Statement(word_of(value), *span) for key, value, span in _fields(said) if key.strip().casefold() == name]
    if not found:
        line = rf"^\W*({label})\W{{0,4}}[:：]\W*(.{{1,40}}?)\W*$"
        lines = re.finditer(line, said, re.IGNORECASE | re.MULTILINE)
        found = [Statement(one[2], one.start(1), one.end()) for one in lines]
    return found


def _choice(
    said: str,
    places: list[Statement],
    blocks: list[tuple[int, int]],
    template: Template,
    left: str,
    names: re.Pattern[str],
) -> tuple[str | None, str]:
    stated: dict[str, None] = {}
    others: set[str | None] = set()
    for one in places:
        choice = choice_of(one.word, template, asserted=True)
        start, end = next(block for block in blocks if block[0] <= one.start < block[1])
        if _is_mention(said, start, end, names):
            others |= set() if in_quotes(said, start, end) else {choice}
        elif choice is None:
            return None, f"{one.word[:80]!r} is none of {', '.join(template.choices)}"
        else:
            stated[choice] = None
    if not stated:
        return None, "it writes about a verdict but states none" if places else ""
    if len(stated) > 1:
        return None, f"it states several verdicts: {', '.join(sorted(stated))}"
    (found,) = stated
    if others - {found}:
        return None, f"it writes {found!r} and another verdict beside it"
    return (None, left) if left else (found, "")


def _is_mention(said: str, start: int, end: int, names: re.Pattern[str]) -> bool:
    """As `mentions.is_mention`; a line that opens with a criterion's name states a verdict, whatever its reasons say,
    unless the line before says that somebody else's follows."""
    begin = said.rfind("\n", 0, start) + 1
    if said[begin:start].lstrip().startswith(">"):  # a blockquote
        return True
    if names.match(said, begin, end) and said[start - 1 : start] not in tuple("`\"“‘«'"):
        led = said[:begin].rstrip().rsplit("\n", 1)[-1]
        return led.endswith((":", "：")) and leading_cue(led)
    return is_mention(said, start, end)


def _blocks(said: str, places: list[Statement]) -> list[tuple[int, int]]:
    """From where to where statements follow each other without a word between; an object is one place of many."""
    blocks: list[tuple[int, int]] = []
    for start, end in sorted({(one.start, one.end) for one in places}):
        if blocks and (start < blocks[-1][1] or _BETWEEN.fullmatch(said, blocks[-1][1], start)):
            blocks[-1] = (blocks[-1][0], max(end, blocks[-1][1]))
        else:
            blocks.append((start, end))
    return blocks


def _fields(said: str) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Every (key, value) of the JSON objects in a text, doubles included, and from where to where its object reaches."""
    found: list[tuple[str, Any]] = []
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: found.extend(pairs))
    at = said.find("{")
    while at >= 0:
        found.clear()
        try:
            _, end = decoder.raw_decode(said, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield from ((key, value, (at, end)) for key, value in found)
        at = said.find("{", end)
