"""How an answer is dressed: length, headers, lists and bold, counted and compared as Arena-Hard does.

Counts: code blocks are left out, then lines that begin with 1 to 6 ``#``, numbered and bulleted list items, and spans in
``**`` or ``__``. Source: lmarena/arena-hard-auto at 196f6b8, utils/add_markdown_info.py and show_result.py (v2.0).
Deviation: where a file does not give an answer's tokens, its length is a quarter of its characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError, nearest

FEATURES = ("length", "headers", "lists", "bold")
_GROUPS = {"all": FEATURES, "markdown": FEATURES[1:], "style": FEATURES}
_CHARACTERS_PER_TOKEN = 4
_CODE = re.compile(r"```([^`]*)```")
_PATTERNS = {
    "headers": [re.compile(r"^#{1,6}\s", re.MULTILINE)],
    "lists": [re.compile(r"^\s*\d+\.\s", re.MULTILINE), re.compile(r"^\s*[-*+]\s", re.MULTILINE)],
    "bold": [re.compile(r"\*\*[^*\n]+\*\*"), re.compile(r"__[^_\n]+__")],
}


@dataclass(frozen=True, slots=True)
class Style:
    """Counts of one answer: `length` in tokens, the others in occurrences outside of code."""

    length: float
    headers: int = 0
    lists: int = 0
    bold: int = 0

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Style:
        """Read our own counts, or Arena-Hard's ``metadata`` (its counts by kind are summed up).

        Raises:
            KeyError, TypeError, ValueError: something is missing or no number.
        """
        if "token_len" not in content:
            return cls(float(content["length"]), *(int(content[name]) for name in FEATURES[1:]))
        counts = [content[name] for name in ("header_count", "list_count", "bold_count")]
        return cls(
            float(content["token_len"]), *(sum(c.values()) if isinstance(c, Mapping) else int(c) for c in counts)
        )


def style_of(text: str, tokens: int | None = None) -> Style:
    """Count one answer; `tokens` where somebody counted them."""
    length = len(text) / _CHARACTERS_PER_TOKEN if tokens is None else tokens
    prose = text
    for block in _CODE.findall(text):
        # Upstream takes the inside of each block out wherever it stands; an empty one would take out nothing.
        prose = prose.replace(block, "") if block else prose
    counts = [sum(len(pattern.findall(prose)) for pattern in _PATTERNS[name]) for name in FEATURES[1:]]
    return Style(length, *counts)


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What tells two answers' dress apart: (N, 4) in -1..1, positive where the first has more.

    Length: difference over sum. The others: counts per token (plus one) d, then (d1 - d2) / (d1 + d2 + 1).

    Args:
        first, second: (N, 4) counts in the order of `FEATURES`.
    """
    lengths = first[:, :1] + second[:, :1]
    by_length = (first[:, :1] - second[:, :1]) / np.where(lengths > 0, lengths, 1)
    one, two = first[:, 1:] / (first[:, :1] + 1), second[:, 1:] / (second[:, :1] + 1)
    return np.column_stack([by_length, (one - two) / (one + two + 1)])


def chosen_features(names: str) -> tuple[str, ...]:
    """Features by name: all, markdown, or any of `FEATURES` divided by commas.

    Raises:
        ConfigError: none of these.
    """
    found: list[str] = []
    for name in (part.strip() for part in names.split(",")):
        if name not in FEATURES and name not in _GROUPS:
            known = [*_GROUPS, *FEATURES]
            raise ConfigError(f"style control takes {', '.join(known)}, got {name!r}{nearest(name, known)}")
        found += _GROUPS.get(name, (name,))
    return tuple(name for name in FEATURES if name in found)
