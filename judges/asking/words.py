"""A word of a judge's menu in any usual dress: bold, bracketed, dotted, boxed, labelled, out of ten.

What is taken off is dress only; a word that holds anything else is none of the menu's.
"""

from __future__ import annotations

import html
import re

from aad_plugin.judges.asking.folding import folded, plain
from aad_plugin.judges.asking.templates import Template

# Names that stand before a verdict, as judges write them; other languages write theirs although asked in English.
_LABELS = (
    "verdict|answer|choice|decision|judge?ment|conclusion|winner|better|best|preferred|preference|grade|rating|score|mark|"
    "label|category|classification|evaluation|result|better (?:answer|response|one)|best (?:answer|response)|"
    "preferred (?:answer|response)|winning (?:answer|response)|"
    "urteil|antwort|bewertung|note|entscheidung|ergebnis|veredicto|respuesta|puntuación|calificación|verdict final|réponse|"
    "évaluation|décision|verdetto|risposta|voto|veredito|resposta|nota|oordeel|antwoord|werdykt|odpowiedź|ocena|вердикт|"
    "ответ|оценка|решение|判定|裁决|裁定|结论|结果|答案|评分|分数|評価|回答|結論|判断|판정|결론|답변|점수|평가"
)
_OWN = r"(?:(?:so|therefore|thus|hence)[, ]+)?(?:(?:my|the|our|final|overall|mi|el|mon|le|la|mein|das|die)[ \t]+)*"
_LABEL_WORDS = rf"{_OWN}(?:{_LABELS})(?:\s+(?:final|finale))?"
LABEL = re.compile(rf"{_LABEL_WORDS}\s*(?:is|ist|es|est|è|é)?\s*(?:[:=：]|\s[-–—]|->|→)\s*", re.IGNORECASE)
_IS = re.compile(
    rf"(?:{_LABEL_WORDS}\s+(?:is|ist|es|est|è|é)|i\s+(?:choose|pick|prefer))\s+|{_LABEL_WORDS}\s*[是为は는은]\s*",
    re.IGNORECASE,
)
_NOUN = re.compile(
    r"^(?:the\s+)?(?:answer|response|reply|option|assistant|candidate|model|choice|antwort|respuesta|réponse|risposta|"
    r"resposta|antwoord|ответ|回答|答案|选项)\s*[:：]?\s*(?=[AB]\b|[AB]$)",
    re.IGNORECASE,
)
_WINS = re.compile(r"(?<=[AB])\s+(?:is\s+(?:the\s+)?(?:better|best|winner)(?:\s+(?:answer|one|response))?|wins)$", re.I)
_WRAPS = (
    ("```", "```"), ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"),
    ("‘", "’"), ("«", "»"), ("„", "“"), ("(", ")"), ("[", "]"), ("{", "}"), ("【", "】"), ("「", "」"), ("『", "』"),
    ("《", "》"), ("<", ">"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("~~~", "~~~"),
)  # fmt: skip
_COMMAND = re.compile(r"\\(?:d?boxed|fbox|text\w{0,2}|math\w{2,3}|operatorname)\s*\{(.*)\}", re.DOTALL)
_HTML = re.compile(r"<(b|strong|em|i|code|u|mark|span|p|verdict|h[1-6])>(.*)</\1>", re.DOTALL | re.IGNORECASE)
_GRADE = re.compile(
    r"(\d{1,4})(?:[.,]0{1,2})?(?:\s*(?:/|out\s+of|of|von|sur|de|из)\s*(\d{1,4})(?:[.,]0{1,2})?)?"
    r"(?:\s*(?:points?|pts\.?|stars?|punkte|分))?",
    re.IGNORECASE,
)


def choice_of(word: str, template: Template, *, asserted: bool = False) -> str | None:
    """The choice of a template's menu that `word` is, whatever it is dressed in; None for anything else.

    `asserted`: the word stands where a verdict belongs (in a tag, after a label), so "A is better" is one as well.
    """
    menu = {folded(choice): choice for choice in template.choices}
    word = plain(word).strip()
    while len(word) <= 200:
        if (found := _exact(word, menu, template)) is not None:
            return found
        bare = _undressed(word, template, asserted)
        if bare == word:
            return None
        word = bare
    return None


def _exact(word: str, menu: dict[str, str], template: Template) -> str | None:
    if (choice := menu.get(folded(word))) is not None:
        return choice
    if template.grades is None:
        return None
    found = _GRADE.fullmatch(word)
    if found is None or (found[2] is not None and int(found[2]) != template.grades[1]):
        return None
    return menu.get(str(int(found[1])))


def _undressed(word: str, template: Template, asserted: bool) -> str:
    """One layer of dress less, or the word itself."""
    word = word.strip()
    if not word:
        return word
    for pattern, group in ((_COMMAND, 1), (_HTML, 2)):
        if (inner := pattern.fullmatch(word)) is not None:
            return inner[group]
    for before, after in _WRAPS:
        if word.startswith(before) and word.endswith(after) and len(word) > len(before) + len(after):
            return word[len(before) : -len(after)]
    if "&" in word and (unescaped := html.unescape(word)) != word:
        return plain(unescaped)
    # A dot or sign before a number makes it another number, so nothing is taken off its front.
    for dress in (r"[.!,;。!\s]+$", r"^(?:#{1,6}|[*•>-](?=\s+\D))\s+", r"[*_`)\]\"']+$", r"^[*_`(\[\"']+"):
        if (shorter := re.sub(dress, "", word)) != word and shorter:
            return shorter
    for label in (LABEL, _IS):
        if (labelled := label.match(word)) is not None and labelled.end() < len(word):
            return word[labelled.end() :]
    if template.kind == "pairwise":
        for pattern in (_NOUN, _WINS) if asserted else (_NOUN,):
            if (shorter := pattern.sub("", word, count=1)) != word and shorter and not shorter[0].isspace():
                return shorter
    return re.sub(r"^(?:a|an|it'?s a)\s+(?=tie\b)", "", word, flags=re.IGNORECASE)
