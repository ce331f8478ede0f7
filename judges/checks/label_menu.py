"""What people may have written as a label: sides of a comparison, a template's or classifier's labels, or grades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.asking.templates import Template, load_template, template_names
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.sitting.judge import Judge

_SIDES = {"candidate": 1.0, "baseline": 0.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class LabelMenu:
    """The labels that can be held against a judge's verdicts.

    `kind` is "side", "word" or "grade"; `words` are a pointwise judge's labels, empty where they are not known.
    """

    kind: str
    words: tuple[str, ...] = ()

    def read(self, label: Any, place: str) -> float | str:
        """A label as written, upper case and spaces aside: p(candidate better), a grade, or a word.

        Raises:
            ConfigError: it is none of the menu; names `place` and the nearest.
        """
        if self.kind == "side":
            return _side(label, place)
        if self.kind == "grade":
            grade = _number(label)
            if not math.isfinite(grade):
                raise ConfigError(f"{place}: a label for a judge that grades is a number, got {label!r}")
            return grade
        known = {word.lower(): word for word in self.words}
        word = str(label).strip()
        if known and word.lower() not in known:
            raise ConfigError(
                f"{place}: a label is one of {', '.join(self.words)}, got {label!r}{nearest(word.lower(), known)}"
            )
        return known.get(word.lower(), word)


def menu_of_judge(judge: Judge) -> LabelMenu:
    """What a judge's verdicts can be held against."""
    if judge.kind == "pairwise":
        return LabelMenu("side")
    return LabelMenu("grade") if judge.grades else LabelMenu("word", judge.choices)


def menu_of_verdicts(verdicts: Sequence[Verdict]) -> LabelMenu:
    """The same from verdicts alone: by the template they name where it is one of this package, or by their scores."""
    for template in map(load_template, template_names()):
        if verdicts and template.hash == verdicts[0].template:
            return _menu_of_template(template)
    if any(v.label is not None for v in verdicts):
        names = {name for v in verdicts for name in v.scores or ()}
        return LabelMenu("word", (*sorted(names), "none") if names else ())
    return LabelMenu("grade" if any(v.grade is not None for v in verdicts) else "side")


def _menu_of_template(template: Template) -> LabelMenu:
    if template.kind == "pairwise":
        return LabelMenu("side")
    return LabelMenu("grade") if template.grades else LabelMenu("word", template.choices)


def _side(label: Any, place: str) -> float:
    word = str(label).strip().lower()
    value = _SIDES.get(word, _number(label))
    if 0 <= value <= 1:
        return value
    raise ConfigError(
        f"{place}: a label is candidate, baseline, tie or a number in 0..1, got {label!r}{nearest(word, _SIDES)}"
    )


def _number(label: Any) -> float:
    """NaN for what is no number; a CSV file holds numbers as text."""
    try:
        return math.nan if isinstance(label, bool) else float(label)
    except (TypeError, ValueError):
        return math.nan
