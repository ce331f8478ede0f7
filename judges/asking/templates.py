"""Prompt templates: text files beside this module, or anybody's own; filled in so that judged text stays material.

A template is three parts separated by lines of ``---``: a header (``kind: pairwise`` or ``kind: pointwise``, for the
latter ``choices: 1..10`` or ``choices: label, label``), the system message, the user message. Placeholders: $fence,
$conversation, $first, $second (pairwise), $reply (how to reply, see `wording`), $criteria (pairwise, of a rubric). A
pairwise template may have choices of its own, from "first much better" to "second much better"; their p are evenly spaced
from 1 to 0. ``dialogue.de.txt`` is the template ``dialogue`` in German.

All texts are put in at once, so a placeholder inside an answer stays text. The fence is derived from the texts
themselves: a text that contained its own fence would be a fixed point of SHA-256, and it is checked all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template as _Fill

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.asking.folding import folded, plain
from aad_plugin.judges.asking.rubric import Criteria
from aad_plugin.judges.asking.wording import ENGLISH, prompt_path, reply_texts, reply_wording
from aad_plugin.judges.items import Question
from aad_plugin.texts.messages import Reply, digest

_FOLDER = prompt_path("dialogue").parent
_NO_TEMPLATES = ("reply_", "challenge", "rubric")  # the last asks nothing without criteria
_PLACEHOLDERS = ("fence", "conversation", "first", "second", "reply")
_CRITERIA = "criteria"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `hash` covers its text and the reply instructions.

    `grades` is (lowest, highest) for a numeric scale, else None; `choices` are the words a judge may reply with; `values`
    is the p(first better) of each choice, empty for a pointwise template; `soft` says whether log-probabilities of one
    letter can give the verdict. `language` and `reasons` (see `wording`) shape what is asked, `criteria` are those of a
    rubric: then each has a choice of its own.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    grades: tuple[int, int] | None
    values: Mapping[str, float]
    soft: bool
    system: str
    user: str
    hash: str
    language: str = ENGLISH
    reasons: str = "none"
    criteria: Criteria = ()

    def messages(self, question: Question, form: str) -> list[dict[str, str]]:
        """Chat messages that ask a question, the reply wanted in one of `FORMS`."""
        fence = _fence(question)
        names = [name for name, _ in self.criteria]
        asked = reply_wording(form, self.language, self.reasons, self._menu(), names)
        filled = {
            "fence": fence,
            "conversation": _conversation(question, fence),
            "first": _answer(question.first, fence),
            "second": _answer(question.second or "", fence),
            "reply": asked,
            _CRITERIA: "\n".join(f"{name}: {sentence}" for name, sentence in self.criteria),
        }
        return [
            {"role": role, "content": _Fill(text).substitute(filled)}
            for role, text in (("system", self.system), ("user", self.user))
            if text
        ]

    def _menu(self) -> str:
        if self.grades is None:
            return ", ".join(self.choices)
        low, high = self.grades
        ranges = {"de": f"eine ganze Zahl von {low} bis {high}", "zh": f"{low} 到 {high} 的整数"}
        return ranges.get(self.language, f"a whole number from {low} to {high}")


def template_names() -> list[str]:
    """Names of the templates that come with the package."""
    stems = [path.stem for path in _FOLDER.glob("*.txt")]
    return sorted(stem for stem in stems if not stem.startswith(_NO_TEMPLATES) and "." not in stem)


def load_template(name: str, *, language: str = ENGLISH, reasons: str = "none", criteria: Criteria = ()) -> Template:
    """Read a template by its name or from a file.

    Args:
        language: of the template and of how to reply. reasons: where the judge shall write its reasons, see `wording`.
        criteria: of a rubric, for a template that has the placeholder $criteria.
    Raises:
        ConfigError: no such template, the file is not one, two of its choices are read as one, or it has criteria where
            there are none or the other way round.
    """
    name = str(name)
    path = Path(name) if name.endswith(".txt") else prompt_path(name, language)
    if not path.is_file():
        raise ConfigError(
            f"unknown judge template {name!r}{nearest(name, template_names())}; "
            f"pass one of {', '.join(template_names())} or the path of a .txt file"
        )
    try:
        parts = re.split(r"^---$\n?", path.read_text(encoding="utf-8-sig"), flags=re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the judge template {path}: {error}") from error
    if len(parts) != 3:
        raise ConfigError(f"the judge template {path} needs a header, a system and a user part divided by lines of ---")
    header = dict(re.findall(r"^(\w+):\s*(.+?)\s*$", parts[0], flags=re.MULTILINE))
    soft, kind, (choices, grades) = False, header.get("kind", ""), _choices(header.get("choices", ""))
    if kind == "pairwise":
        soft, choices, grades = not choices, choices or ("A", "tie", "B"), None
    _check_placeholders(parts[1] + parts[2], path)
    needed = set(_PLACEHOLDERS) if kind == "pairwise" else set(_PLACEHOLDERS) - {"second"}
    there = set(_Fill(parts[1] + parts[2]).get_identifiers())
    missing = needed - there
    if kind not in ("pairwise", "pointwise") or len(choices) < 2 or missing:
        raise ConfigError(
            f"the judge template {path} needs `kind: pairwise` or `kind: pointwise` with `choices: …`"
            + (f", and the placeholders {', '.join('$' + m for m in sorted(missing))}" if missing else "")
        )
    _check_told_apart(choices, path)
    if (_CRITERIA in there) != bool(criteria) or (criteria and kind != "pairwise"):
        raise ConfigError(
            f"the judge template {path} asks by criteria: pass --rubric FILE with them"
            if _CRITERIA in there and not criteria
            else f"a rubric needs a pairwise template with the placeholder $criteria, e.g. rubric; {path} is none"
        )
    replies = reply_texts(language, reasons, bool(criteria))
    soft = soft and reasons == "none" and not criteria
    values = {word: 1 - rank / (len(choices) - 1) for rank, word in enumerate(choices)} if kind == "pairwise" else {}
    asked = [*parts, *replies, *([list(map(list, criteria))] if criteria else [])]
    system, user = parts[1].strip(), parts[2].strip()
    return Template(
        name, kind, choices, grades, values, soft, system, user, digest(asked)[:16], language, reasons, criteria
    )


def _check_placeholders(text: str, path: Path) -> None:
    for found in _Fill.pattern.finditer(text):
        name = found["named"] or found["braced"]
        if found["invalid"] is not None or (name and name not in (*_PLACEHOLDERS, _CRITERIA)):
            written = text[found.start() : found.start() + 1 + len(name or "?")]
            raise ConfigError(
                f"the judge template {path} holds {written!r}{nearest(name or '', _PLACEHOLDERS)}; its placeholders are "
                f"{', '.join('$' + known for known in _PLACEHOLDERS)}, and a dollar sign is written $$"
            )


def _check_told_apart(choices: tuple[str, ...], path: Path) -> None:
    """Replies are read whatever their case and spaces, so choices that differ in these alone would be one."""
    known: dict[str, str] = {}
    for choice in choices:
        if (same := known.setdefault(folded(plain(choice)), choice)) != choice or choices.count(choice) > 1:
            raise ConfigError(
                f"the judge template {path} has the choices {same!r} and {choice!r}, which no reply tells apart (case and "
                "spaces do not count): name them differently"
            )


def _choices(text: str) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    scale = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if scale:
        lowest, highest = int(scale[1]), int(scale[2])
        return tuple(str(grade) for grade in range(lowest, highest + 1)), (lowest, highest)
    return tuple(word.strip() for word in text.split(",") if word.strip()), None


def _fence(question: Question) -> str:
    answers = [*_texts(question.first), *_texts(question.second or "")]
    texts = [*(turn["content"] for turn in question.messages), *answers]
    fence = digest(texts)[:12]
    while any(fence in text for text in texts):
        fence = digest([fence])[:12]
    return fence


def _texts(reply: Reply) -> list[str]:
    return [reply] if isinstance(reply, str) else list(reply)


def _answer(reply: Reply, fence: str) -> str:
    """An answer as it stands; several replies each between marker lines of their own."""
    if isinstance(reply, str):
        return reply
    shown = []
    for number, text in enumerate(reply, start=1):
        marker = f"REPLY TO USER TURN {number} {fence}"
        shown.append(f"[{marker}]\n{text}\n[END OF {marker}]")
    return "\n\n".join(shown)


def _conversation(question: Question, fence: str) -> str:
    turns = []
    for number, turn in enumerate(question.messages, start=1):
        marker = f"TURN {number}, {turn['role'].upper()} {fence}"
        turns.append(f"[{marker}]\n{turn['content']}\n[END OF {marker}]")
    return "\n\n".join(turns)
