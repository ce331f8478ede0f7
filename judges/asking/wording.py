"""How a judge is asked to reply, and how it is challenged: text files by form, language and place of the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template as _Fill

from aad_plugin.errors import ConfigError, nearest

FORMS = ("logprobs", "json", "tag")
REASONS_PLACES = ("none", "before", "after")
"""Where a judge writes its reasons: nowhere, before its verdict, after it."""
ENGLISH = "en"
_FOLDER = Path(__file__).parent / "prompts"


def prompt_path(name: str, language: str = ENGLISH) -> Path:
    """The file of a prompt in a language; it need not be there."""
    return _FOLDER / (f"{name}.txt" if language == ENGLISH else f"{name}.{language}.txt")


def languages_of(name: str) -> list[str]:
    """Languages in which a prompt comes with the package, English first."""
    others = sorted(path.name.split(".")[1] for path in _FOLDER.glob(f"{name}.*.txt"))
    return [ENGLISH, *others]


def reply_texts(language: str, reasons: str, has_criteria: bool) -> list[str]:
    """How to reply in every form, unfilled: what belongs to a template's hash.

    Raises:
        ConfigError: reasons in no known place, or reasons besides criteria.
    """
    if reasons not in REASONS_PLACES:
        raise ConfigError(
            f"reasons must be one of {', '.join(REASONS_PLACES)}, got {reasons!r}{nearest(str(reasons), REASONS_PLACES)}"
        )
    if reasons != "none" and has_criteria:
        raise ConfigError(f"a rubric is answered by verdicts alone, got reasons={reasons}: leave one of them out")
    return [_text(form, language, reasons, has_criteria) for form in FORMS]


def _text(form: str, language: str, reasons: str, has_criteria: bool) -> str:
    kind = "_criteria" if has_criteria else "" if reasons == "none" else f"_{reasons}"
    return prompt_path(f"reply_{form}" + ("" if form == "logprobs" else kind), language).read_text(encoding="utf-8-sig")


def reply_wording(form: str, language: str, reasons: str, choices: str, criteria: Sequence[str] = ()) -> str:
    """How to reply in one form; `choices` as the judge shall read them, `criteria` by name."""
    tags = "\n".join(f"<{name}>…</{name}>" for name in criteria)
    names = ", ".join(f'"{name}"' for name in criteria)
    filled = _Fill(_text(form, language, reasons, bool(criteria))).substitute(choices=choices, names=names, tags=tags)
    return filled.strip()


def challenge_text(language: str) -> str:
    """What a judge is told about a verdict to see whether it stands by it."""
    return prompt_path("challenge", language).read_text(encoding="utf-8-sig").strip()
