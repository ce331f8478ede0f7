"""Token ids for models in this process, with judged text spelt out: no control token ever comes out of a text.

``<|im_end|>`` inside an answer is eleven characters somebody wrote. Encoded with the chat template around it, it would
be the token that ends the answer's turn. So what stands between the template's own marks is encoded as text only; the
template's marks, and conversations whose texts hold none, are encoded as ever.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aad_plugin.texts.messages import digest
from aad_plugin.texts.rendering import render_chat

Piece = tuple[str, bool]  # a text, and whether marks in it are text only

_MARKUP = re.compile(r"[<\[|◁].*[>\]|▷]", re.DOTALL)


class Speller:
    """Encodes conversations and plain texts for one tokenizer."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        # Others that were added are words or runs of spaces, which anybody may write.
        marks = {str(token) for token in added if token.special or _MARKUP.fullmatch(str(token))}
        marks |= {str(token) for token in tokenizer.all_special_tokens}
        self.marks = {mark for mark in marks if len(mark) > 1}
        self.controls = set(tokenizer.convert_tokens_to_ids(sorted(self.marks)))
        longest_first = sorted(self.marks, key=len, reverse=True)
        self._mark = re.compile("|".join(re.escape(mark) for mark in longest_first)) if longest_first else None

    def conversation(self, messages: Sequence[Mapping[str, str]], **rendering: Any) -> tuple[Piece, ...]:
        """A conversation in the tokenizer's own chat format, in pieces: (text, whether its marks are text only)."""
        render = functools.partial(self.tokenizer.apply_chat_template, tokenize=False, **rendering)
        texts = [message["content"] for message in messages]
        if self._mark is None or not any(self._mark.search(text) for text in texts):
            return ((render_chat(render, messages, "a prompt of this judge"), False),)
        # A template may read its texts (and cut them at such marks), so it sees a stand-in for each mark.
        stand_in = f"\ue000{digest(texts)[:16]}"
        found: list[str] = []

        def hide(mark: re.Match[str]) -> str:
            found.append(mark[0])
            return f"{stand_in}{len(found) - 1}\ue001"

        hidden = [{**message, "content": self._mark.sub(hide, message["content"])} for message in messages]
        rendered = render_chat(render, hidden, "a prompt of this judge")
        pieces: list[Piece] = []
        for number, part in enumerate(re.split(f"({self._mark.pattern})", rendered)):
            text = re.sub(f"{stand_in}(\\d+)\ue001", lambda shown: found[int(shown[1])], part)
            if text:
                pieces.append((text, number % 2 == 0))
        return tuple(pieces)

    def plain(self, text: str) -> tuple[Piece, ...]:
        """A text that is no conversation, as a piece."""
        return ((text, self._mark is not None and self._mark.search(text) is not None),)

    def defused(self, text: str) -> str:
        """A text without marks, for an encoder that takes whole texts: each has a zero-width space in it."""
        while self._mark is not None and self._mark.search(text):
            text = self._mark.sub(lambda mark: f"{mark[0][0]}\u200b{mark[0][1:]}", text)
        return text

    def ids(self, pieces: Sequence[Piece], limit: int | None = None, *, own_marks: bool = False) -> list[int]:
        """Token ids of pieces; beyond `limit` the beginning is lost. `own_marks`: the tokenizer adds its first and last."""
        ids = [number for text, text_only in pieces for number in self._encode(text, text_only)]
        before, after = self._around() if own_marks else ([], [])
        if limit is not None:
            room = max(0, limit - len(before) - len(after))
            ids = ids[len(ids) - min(room, len(ids)) :]
        return [*before, *ids, *after]

    def padded(self, rows: Sequence[list[int]]) -> Any:
        """A batch of ids as tensors: input_ids and attention_mask, (rows, longest)."""
        return self.tokenizer.pad(
            {"input_ids": [list(row) for row in rows], "attention_mask": [[1] * len(row) for row in rows]},
            return_tensors="pt",
        )

    def _encode(self, text: str, text_only: bool) -> list[int]:
        if not text_only:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not self.controls.intersection(ids):
            return ids
        # Marks that were added without being called special, and tokenizers that cannot split: cut behind the first
        # character, so that no mark is whole.
        cuts = [0, *(mark.start() + 1 for mark in self._overlapping(text)), len(text)]
        parts = [text[start:end] for start, end in itertools.pairwise(cuts)]
        return [number for part in parts if part for number in self._encode(part, False)]

    def _overlapping(self, text: str) -> Iterator[re.Match[str]]:
        at = 0
        while self._mark is not None and (mark := self._mark.search(text, at)) is not None:
            yield mark
            at = mark.start() + 1

    def _around(self) -> tuple[list[int], list[int]]:
        """The ids a tokenizer puts before and after a text."""
        bare = self._encode("a", False)
        whole = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        for at in range(len(whole) - len(bare) + 1):
            if whole[at : at + len(bare)] == bare:
                return whole[:at], whole[at + len(bare) :]
        return [], []
