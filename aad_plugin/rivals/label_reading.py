"""Read labels out of an answer, strictly: the form that was asked for, and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MARKUP = " \t*_`\"'“”.[]<>"


def one_label(answer: str, field: str, labels: Sequence[str]) -> str | None:
    """Return the label named by ``<field>: <label>``, which ends its line or sentence.

    Args:
        answer: thinking removed. field: the word before the colon. labels: the allowed ones.
    Returns:
        the label as written in ``labels``; None for no such words, a name outside the set, or several that disagree.
    """
    names = _values(answer, field)
    known = {plain(label): label for label in labels}
    found = {known.get(plain(name)) for name in names}
    return found.pop() if len(found) == 1 else None


def set_of_labels(answer: str, field: str, labels: Sequence[str]) -> Mapping[str, int] | None:
    """Return label -> 0 or 1 from ``<field>: a, b`` or ``<field>: none``; None as in `one_label`."""
    known = {plain(label): label for label in labels}
    readings = []
    for value in _values(answer, field):
        names = [plain(name) for name in re.split(r"[,;]|\band\b", value) if plain(name)]
        if names == ["none"]:
            readings.append(frozenset[str]())
        elif names and all(name in known for name in names):
            readings.append(frozenset(known[name] for name in names))
        else:
            return None
    if len(set(readings)) != 1:
        return None
    return {label: int(label in readings[0]) for label in labels}


def plain(name: str) -> str:
    """Return a label without case, markup, question mark or difference between spaces, dashes and underscores."""
    return re.sub(r"[\s_-]+", "_", name.strip(_MARKUP + "?!").casefold())


def _values(answer: str, field: str) -> list[str]:
    """What stands behind each ``<field>:``, up to the end of the line or sentence."""
    pattern = rf"\b{re.escape(field)}[*_ \t]*:[*_ \t]*(\S.*?)[ \t]*(?:$|[.;](?=\s|$))"
    return re.findall(pattern, "\n".join(answer.splitlines()), flags=re.IGNORECASE | re.MULTILINE)
