"""When two words count as one: compatibility forms, case, spaces and invisible characters do not tell them apart."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\ufe0e\ufe0f]")


def plain(text: str) -> str:
    """Text with compatibility forms (full-width letters, colons) as plain ones, and without invisible characters."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def folded(word: str) -> str:
    """How words are compared: case and spaces do not matter, nor do spaces around signs (``A >> B``)."""
    return re.sub(r"\s*([<>=≥≤~]+)\s*", r"\1", " ".join(word.split())).casefold()
