"""Read labels out of an answer, strictly: the form that was asked for, and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

_NONE = "none"
_MARKUP = " \t*_`\"'“”.[]<>"


def one_label(answer: str, field: str, labels: Sequence[str]) -> str | None:
    """Return the label named by ``<field>: <label>``, which ends its line or sentence.

    Args:
        answer: thinking removed. field: the word before the colon. labels: the allowed ones.
    Returns:
        the label as written in ``labels``; None for no such words, a name outside the set, or several that disagree.
    """
    names = _values(answer, field, ".;")
    known = {plain(label): label for label in labels}
    found = {known.get(plain(name)) for name in names}
    return found.pop() if len(found) == 1 else None


def set_of_labels(answer: str, field: str, labels: Sequence[str]) -> Mapping[str, int] | None:
    """Return label -> 0 or 1 from ``<field>: a, b`` or ``<field>: none``; None as in `one_label`.

    Semicolons part labels, too, or end them where only words follow: ``a; b`` is both, ``a; since it insults`` one.
    """
    known = {plain(label): label for label in labels}
    readings = {_set_of(value, known) for value in _values(answer, field, ".")}
    reading = readings.pop() if len(readings) == 1 else None
    return None if reading is None else {label: int(label in reading) for label in labels}


def _set_of(value: str, known: Mapping[str, str]) -> frozenset[str] | None:
    """The labels that a value lists; None if it lists anything else, or labels behind words."""
    parts = [
        [plain(name) for name in re.split(r",|\band\b", part) if plain(name)] for part in value.split(";")
    ]  # fmt: skip
    parts = [part for part in parts if part]
    listed = list(takewhile(lambda part: all(name in known or name == _NONE for name in part), parts))
    names = [name for part in listed for name in part]
    if not names or any(name in known for part in parts[len(listed) :] for name in part):
        return None
    if _NONE in names:
        return frozenset() if len(names) == 1 else None
    return frozenset(known[name] for name in names)


def plain(name: str) -> str:
    """Return a label without case, markup, question mark or difference between spaces, dashes and underscores."""
    return re.sub(r"[\s_-]+", "_", name.strip(_MARKUP + "?!").casefold())


def _values(answer: str, field: str, ends: str) -> list[str]:
    """What stands behind each ``<field>:``, up to the end of the line or one of the marks before a space."""
    pattern = rf"\b{re.escape(field)}[*_ \t]*:[*_ \t]*(\S.*?)[ \t]*(?:$|[{ends}](?=\s|$))"
    return re.findall(pattern, "\n".join(answer.splitlines()), flags=re.IGNORECASE | re.MULTILINE)
