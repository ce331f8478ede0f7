"""Is a verdict in a reply stated, or does the judge only write about it? Looks at the sentence around it.

A wrong "stated" is a wrong score and a wrong "mentioned" an unjudged item, so doubt counts as a mention.
"""

from __future__ import annotations

import re

_DRESS = " \t*_`~\"'“”‘’«»()[]{}<>#$\\"
# Others "say" and "contain" things, in the third person; whoever gives a verdict writes in the first, or without a verb.
_OTHERS_WRITE = re.compile(
    r"\b(?:(?:contain|include|say|tell|ask|demand|claim|instruct|order|command|request|read|quote|mention|attempt|want|"
    r"write|insert|embed|state|assert|declare|insist|end|begin|start|output|repeat|suggest|inject|print|append|trie|urge|"
    r"paste|use|put|try|plant|display|require|expect|hide|smuggle|dictate|propose)s|"
    r"(?:contain|includ|say|tell|demand|claim|instruct|quot|mention|attempt|try|inject|insist|assert|embed|insert|urg|"
    r"pretend|order|command|ask)ing|"
    r"contained|included|said|told|(?<!as )(?<!as i was )(?:asked|instructed|"
    r"requested(?! (?:verdicts?|json|format|tags?|output)))|demanded|claimed|ordered|wrote|"
    r"tried|attempted|wanted|inserted|embedded|injected|planted|hidden|fake|literal(?:ly)?|the (?:string|text|phrase|"
    r"words?|sequence|tags?|marker|line|instruction)|injection|manipulat\w+|trick\w*|would have|supposed to|example)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:not|never|cannot|can['’]?t|won['’]?t|wouldn['’]?t|don['’]?t|shouldn['’]?t|isn['’]?t|refus\w+|declin\w+|"
    r"instead of|rather than|without|neither|nor|unable|maybe|perhaps|possibly|if|unless|whether|either|or|like|such as|"
    r"e\.g|ignor\w+|disregard\w*|could|might|may|avoid\w*|reject\w*|nicht|kein\w*|pas|nunca|no puedo)\b",
    re.IGNORECASE,
)
_AN_ANSWER = re.compile(r"(?:answer|response|reply|option|assistant|candidate)\s+(?:[AB]|\d)\b\W*$", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;]|\b(?:so|therefore|thus|hence|but|and)\b", re.IGNORECASE)
_LAST_SENTENCE = re.compile(r"[.!?。！？](?:\s|$)|\n")
_STANDS_AFTER = re.compile(
    r"[*_`~\"'”’»)\]}>$]*\s*(?:[.!。！]|$)?[*_`~\"'”’»)\]}]*\s*(?:$|\n|(?=[^\W\d_a-z]|[#*_<(\[{\\`\"“\u2190-\u2bff\U0001f000-\U0001faff-]))"
)
_REASON_AFTER = re.compile(
    r"[*_`~\"'”’»)\]}]*\s*(?:,?\s*(?:because|since|due to|as (?:both|neither|each|they))\b|[-–—:(|/])", re.IGNORECASE
)
_DECLINED = re.compile(
    r"\b(?:can\s?not|can['’]t|won['’]t|will not|unable to|refuse to|declin\w+ to|not able to|not going to)\s+"
    r"(?:\w+\s+){0,3}?"
    r"(?:give|giving|provide|render|issue|offer|make|return|write|deliver|state|reach|produce|output)\s+(?:\w+\s+){0,3}?"
    r"(?:verdict|judge?ment|decision|preference|grade|rating|score)\b|\bno verdicts?\b",
    re.IGNORECASE,
)
# Of several verdicts with their reasons: those words are the judge's own only where nobody else is their subject.
_DECLINED_ALL = re.compile(
    r"(?:\b(?:i|we)\s+(?:\w+\s+){0,2}?|(?:^|[.!?\n>}])\s*(?:\w+ly\s+)?)"
    r"(?:can\s?not|can['’]t|won['’]t|will not|(?:am |are )?unable to|refuse to|decline to|(?:am |are )?not able to|"
    r"(?:am |are )?not going to)\s+(?:\w+\s+){0,3}?(?:give|provide|render|issue|offer|make|return|write|deliver|state|"
    r"reach|produce|output)\s+(?:\w+\s+){0,3}?(?:verdict|judge?ment|decision|preference|grade|rating)s?\b"
    r"|\bno verdicts?\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?>}\])\n]\s*)(?:(?:wait|correction|hm+)(?=\s*(?:[,.:;!?…–—-]|$)|\s+i\b)|scratch that|"
    r"on second thoughts?|no, (?:wait|that|it|i|answer|b|a)\b|"
    r"actually, no|sorry, (?:i meant|that|wrong)|i meant?\b|i take that back|let me re)",
    re.IGNORECASE,
)
_PRAISED = re.compile(
    r"\b([AB])\s+(?:is|was|wins|seems|looks|gives|has|provides|offers|does|answers)\b(?:(?<=wins)|[^.!?\n]{0,60}"
    r"\b(?:better|best|superior|stronger|winner|wins|prefer(?:able|red)|more \w+)\b)"
)
_FLAT = re.compile(
    r"(?:^|[.!?;>}\])\n]\s*)(?:(?:actually|however|but|so|thus|therefore|overall|in (?:fact|truth|conclusion)|in summary|"
    r"on reflection)[, ]+)*(?:i (?:think|believe) )?(?:the )?(?:answer|response|reply|option|assistant|candidate)?\s*"
    r"\b([AB])\b is (?:the )?(?:clearly |much |far |slightly |significantly |obviously |definitely |overall )*"
    r"(?:better|best|superior|stronger|winner|preferable)(?: (?:answer|response|one|reply|overall))*\s*(?=[.!;\n]|$)",
    re.IGNORECASE,
)


def is_mention(said: str, start: int, end: int) -> bool:
    """Whether the verdict at said[start:end] is only written about."""
    before, after = _outside_fence(said, start, end)
    bare_before, bare_after = before.rstrip(_DRESS), after
    quoted = before[-1:] in tuple("`\"“‘«'") and before[-1:] != ""
    lead = _LAST_SENTENCE.split(bare_before)[-1]
    own_line = not lead.strip("#*_>•- \t")
    if own_line:
        previous = bare_before.rstrip()
        lead = previous.rsplit("\n", 1)[-1] if previous.endswith((":", "：")) else ""
        lead = _LAST_SENTENCE.split(lead)[-1]
    if leading_cue(lead):
        return True
    if before.rsplit("\n", 1)[-1].lstrip().startswith(">"):  # a blockquote
        return True
    if _STANDS_AFTER.match(bare_after) is None:
        return not (own_line and _REASON_AFTER.match(bare_after))
    ends_line = not re.split(r"\n", bare_after.lstrip(_DRESS.replace("\\", "")), maxsplit=1)[0].strip(_DRESS + ".!")
    return quoted and not own_line and not (ends_line and lead.rstrip().endswith((":", "：", " is")))


def leading_cue(lead: str) -> bool:
    """Whether the words that lead to a verdict say that it is somebody else's, denied or only possible."""
    if _OTHERS_WRITE.search(lead) or (lead.rstrip().endswith((":", "：")) and _AN_ANSWER.search(lead)):
        return True
    return _NEGATED.search(_CLAUSE.split(lead.rstrip(" :："))[-1]) is not None


def declined(said: str, several: bool = False) -> bool:
    """Whether the reply says that it gives no verdict; of several, none of them."""
    return (_DECLINED_ALL if several else _DECLINED).search(said) is not None


def contradicts(said: str, choice: str) -> bool:
    """Whether a reply that states A or B flatly says the other letter, or takes its verdict back."""
    if any(found[1].upper() != choice.upper() for found in _FLAT.finditer(said)):
        return True
    stated = max((said.rfind(mark) for mark in ("</verdict>", '"verdict"', "Verdict:", "\\boxed")), default=-1)
    return stated >= 0 and taken_back(said, stated + 1)


def taken_back(said: str, start: int) -> bool:
    """Whether a reply takes back behind said[start] what it has stated."""
    return _TAKEN_BACK.search(said, start) is not None


def heads(line: str, said: str, choice: str) -> bool:
    """Whether a first line such as "Answer A" heads what is said of that answer: the reply praises the other one."""
    words = re.findall(r"[^\W\d_]+", line)
    return len(words) > 1 and any(found[1].upper() != choice.upper() for found in _PRAISED.finditer(said))


def _outside_fence(said: str, start: int, end: int) -> tuple[str, str]:
    """What stands before and after, a code fence that holds nothing else taken off."""
    before, after = said[:start], said[end:]
    opened = re.search(r"(?:```|~~~)[ \t]*[\w+-]*\s*[\[(]?\s*$", before)
    closed = re.match(r"\s*[\])]?,?\s*(?:```|~~~)", after)
    if opened and closed:
        return before[: opened.start()], after[closed.end() :]
    return before, after
