"""Who meets whom: systems by name, their answers, and the comparisons of a round robin or against anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.items import Comparison
from aad_plugin.judges.leagues.battles import named_file
from aad_plugin.judges.leagues.style import Style, style_of
from aad_plugin.judges.pairing import pair_rows
from aad_plugin.texts.answer_files import has_field, read_answers
from aad_plugin.texts.messages import Reply
from aad_plugin.texts.thinking import shown_text


@dataclass(frozen=True, slots=True)
class Meeting:
    """One comparison of a league: the systems' names, the comparison (`a` is its candidate), the answers' dress."""

    a: str
    b: str
    comparison: Comparison
    styles: tuple[Style, Style]


def systems_of(specs: Sequence[str]) -> dict[str, str]:
    """Name -> file of answers, from ``FILE``, ``FILE#strategy`` or ``NAME=FILE``.

    Raises:
        ConfigError: fewer than two, or two by one name.
    """
    found: dict[str, str] = {}
    for spec in specs:
        name, file = named_file(spec)
        if name in found:
            raise ConfigError(
                f"the systems {found[name]} and {file} are both named {name!r}; name one as in {name}-2={file}"
            )
        found[name] = file
    if len(found) < 2:
        raise ConfigError(f"a league needs at least two systems, got {', '.join(found) or 'none'}")
    return found


def meetings_of(
    systems: dict[str, str],
    anchors: Sequence[str] = (),
    prompt_field: str | None = None,
    allow_unmatched: bool = False,
) -> list[Meeting]:
    """Comparisons of a round robin, or of every system against each anchor.

    Args:
        systems: from `systems_of`. anchors: names, the baselines of whom they meet; none is a round robin. prompt_field,
            allow_unmatched: as for two files.
    Raises:
        ConfigError: an unknown anchor; answers that cannot be joined; a single question, which has no interval.
    """
    for anchor in anchors:
        if anchor not in systems:
            raise ConfigError(
                f"the anchor {anchor!r} is none of the systems{nearest(anchor, systems)}; there are {', '.join(systems)}"
            )
    has = {name: prompt_field is not None and has_field(file, prompt_field) for name, file in systems.items()}
    fields = {name: prompt_field if found or not any(has.values()) else None for name, found in has.items()}
    rows = {name: read_answers(file, fields[name]) for name, file in systems.items()}
    found = []
    for a, b in combinations(systems, 2):
        if anchors and a not in anchors and b not in anchors:
            continue
        if a in anchors and b not in anchors:
            a, b = b, a
        for comparison in pair_rows(rows[a], rows[b], allow_unmatched):
            named = Comparison(
                f"{a} | {b} | {comparison.id}", comparison.prompt, comparison.candidate, comparison.baseline,
                pictures=comparison.pictures,
            )  # fmt: skip
            found.append(
                Meeting(a, b, named, (style_of_reply(comparison.candidate), style_of_reply(comparison.baseline)))
            )
    if len({str(one.comparison.prompt) for one in found}) < 2:
        raise ConfigError("a league's intervals need at least two questions, got one")
    return found


def style_of_reply(reply: Reply) -> Style:
    """How an answer is dressed, its thinking removed."""
    return style_of(shown_text(reply))
