"""Remove a model's thinking from its answer: judges, labels and lengths see only what follows it."""

from __future__ import annotations

import re

from aad_plugin.texts.messages import Reply, as_text

# Names of the blocks, and the marks of models that write them in brackets or channels.
_NAMES = r"(?:think|thinking|thought|reasoning|seed:think)"
_OPEN = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE)
# A tag inside these is quoted: somebody writes about it.
_INLINE = re.compile(r"`[^`\n]+`|\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”|'</?[^'\n]{1,80}'|‘[^’\n]{1,80}’|«[^»\n]{1,80}»")
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)


def answer_after_thinking(text: str) -> str | None:
    """Return what follows the thinking, the text itself where there is none, None where the thinking never ended.

    Chat templates often open the block themselves, so a closing tag without an opening one ends thinking too, unless
    it is quoted or stands as a word inside a sentence. Otherwise thinking counts only at the start of a text; a tag
    that is written about later, inside an answer, is part of the answer.
    """
    answer, found = text, False
    while opened := _at_start(answer):
        closed = _CLOSE.search(_hidden(answer, fences=False), opened)
        if closed is None:
            return None
        answer, found = answer[closed.end() :], True
    if found:
        return answer.strip()
    end = _bare_close(text)
    return text if end is None else text[end:].strip()


def opening_tag(prompt: str) -> str:
    """Return the tag of thinking that a rendered prompt ends with; "" where it opens none."""
    found = re.search(rf"(?:{_OPEN.pattern})\s*\Z", prompt, re.IGNORECASE)
    return "" if found is None else found[0]


def opened_by(prompt: str, answer: str) -> str:
    """Return the tag of thinking that a rendered prompt ends with, where the answer to it never closes it; else "".

    With it before the answer, a text shows that its thinking never ended. An answer of nothing has none.
    """
    if not answer.strip():
        return ""
    closed = _CLOSE.search(_hidden(answer, fences=False)) is not None
    return "" if closed or _at_start(answer) else opening_tag(prompt)


def as_decoded(prompt: str, answer: str) -> str:
    """Return an answer without the tag that `opened_by` put before it."""
    return answer.removeprefix(opening_tag(prompt))


def shown_text(reply: Reply) -> str:
    """An answer as a judge sees it, in one text: of each reply what follows its thinking, none of one without end."""
    replies = (reply,) if isinstance(reply, str) else reply  # each reply of a conversation has thinking of its own
    return as_text([answer_after_thinking(text) or "" for text in replies])


def open_thinking(text: str) -> tuple[str, bool]:
    """A judge's own reply without the thinking blocks anywhere in it, and whether the last of them never ended."""
    shown = _hidden(text)
    kept, at = [], 0
    while opened := _OPEN.search(shown, at):
        kept.append(text[at : opened.start()])
        closed = _CLOSE.search(shown, opened.end())
        if closed is None:
            return "".join(kept), True
        at = closed.end()
    return "".join([*kept, text[at:]]), False


def _at_start(text: str) -> int:
    """Where the thinking begins that a text starts with; 0 for none."""
    opened = _OPEN.match(text, len(text) - len(text.lstrip("\ufeff \t\r\n")))
    return opened.end() if opened else 0


def _bare_close(text: str) -> int | None:
    """Where the thinking ends that the chat template opened; None for none."""
    shown = _hidden(text)
    for closed in _CLOSE.finditer(shown):
        if _OPEN.search(shown, 0, closed.start()):
            return None
        before, after = shown[: closed.start()], shown[closed.end() :]
        in_a_sentence = re.search(r"\S[ \t]+$", before) and re.match(r"[ \t]+\S|[.,;:!?)]", after)
        if not in_a_sentence:
            return closed.end()
    return None


def _hidden(text: str, fences: bool = True) -> str:
    """The text with quoted parts blanked, every character still in its place."""

    def blank(found: re.Match[str]) -> str:
        return " " * len(found[0])

    return _INLINE.sub(blank, _FENCED.sub(blank, text) if fences else text)
