"""Where an answer ends: strings that stop a row by itself, how many tokens an answer has, and who is told of each."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


def cut(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of its stop strings."""
    positions = [text.find(sequence) for sequence in stop if sequence and sequence in text]
    return text[: min(positions)] if positions else text


class BehindThinking:
    """Where an answer ends that follows thinking: at the first stop string behind the last mark that ends thinking, as
    lm-eval cuts a text. Nothing ends thinking that goes on.

    Args:
        mark: a text, or the id of a token. stop: strings. tokenizer: decodes answers.
    """

    def __init__(self, mark: str | int, stop: Sequence[str], tokenizer: Any) -> None:
        self.mark, self.tokenizer = mark, tokenizer
        self.stop = [sequence for sequence in stop if sequence]

    def start(self, answer: list[int]) -> int | None:
        """How many tokens of an answer are thinking, its mark included; None where no mark is there."""
        if isinstance(self.mark, int):
            return len(answer) - answer[::-1].index(self.mark) if self.mark in answer else None
        mark, many = self.mark, self._said(answer).count(self.mark)
        return _first(len(answer), lambda size: self._said(answer[:size]).count(mark) >= many) if many else None

    def length(self, answer: list[int]) -> int | None:
        """How many tokens an answer has when it first holds a stop string behind its thinking; None where it does not."""
        start = self.start(answer)
        if start is None or not self._stops(answer[start:]):
            return None
        own = answer[start:]
        return start + _first(len(own), lambda size: self._stops(own[:size]))

    def shown(self, answer: list[int]) -> str:
        """The text behind the thinking up to its first stop string; all of it where the thinking goes on."""
        start = self.start(answer)
        text = self.tokenizer.decode(answer[start or 0 :], skip_special_tokens=True)
        return text if start is None else cut(text.lstrip(), self.stop)

    def _stops(self, ids: list[int]) -> bool:
        text = self._said(ids).lstrip()  # as lm-eval has it
        return any(sequence in text for sequence in self.stop)

    def _said(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


def _first(most: int, holds: Callable[[int], bool]) -> int:
    """The least size up to ``most``, of which it holds, for which it holds; it goes on to hold of all larger ones."""
    return bisect.bisect_left(range(most + 1), True, key=holds)


class StopSequences(StoppingCriteria):
    """Finish each row by itself when one of several strings appears in its answer.

    Args:
        sequences: stop strings; special tokens are matched too.
        tokenizer: decodes the answer's tail.
        prompt_length: tokens before the answer.
        rows_move: beam search reorders its rows, so what a row held at an earlier step says nothing.
    """

    def __init__(
        self, sequences: Sequence[str], tokenizer: Any, prompt_length: int, *, rows_move: bool = False
    ) -> None:
        self.rows_move = rows_move
        self.sequences = [sequence for sequence in sequences if sequence]
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        encoded = [tokenizer.encode(sequence, add_special_tokens=False) for sequence in self.sequences]
        # Two tokens more than its own encoding: the model may spell a sequence with other tokens.
        self.tail = max(map(len, encoded), default=0) + 2
        self.lengths: Tensor | None = None
        self._seen = 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return (B,) bool, True for rows whose answer holds a stop sequence."""
        if self.lengths is None or self.rows_move:
            self.lengths = torch.full((len(input_ids),), torch.iinfo(torch.int64).max)
        answer = input_ids[:, self.prompt_length :]
        # Several tokens may have come at once, by drafts.
        new, self._seen = max(answer.shape[1] - self._seen, 1), answer.shape[1]
        texts = self.tokenizer.batch_decode(answer[:, -(self.tail + new - 1) :])
        for row, text in enumerate(texts):
            if any(sequence in text for sequence in self.sequences):
                self.lengths[row] = min(int(self.lengths[row]), self._end(answer[row], new))
        return (self.lengths <= answer.shape[1]).to(input_ids.device)

    def _end(self, answer: Tensor, new: int) -> int:
        """How many tokens an answer has when it first holds a stop sequence, which the last ``new`` of them made."""
        for length in range(len(answer) - new + 1, len(answer)):
            text = self.tokenizer.decode(answer[max(0, length - self.tail) : length])
            if any(sequence in text for sequence in self.sequences):
                return length
        return len(answer)


class StepTeller(StoppingCriteria):
    """Tell a caller after each step how many tokens there are; stops nothing."""

    def __init__(self, on_step: Callable[[int], None], prompt_length: int) -> None:
        self.on_step, self.prompt_length = on_step, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return (B,) bool, all False."""
        self.on_step(input_ids.shape[1] - self.prompt_length)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def end_ids(ends: Any) -> list[int]:
    """Return the ids that end an answer, of what transformers calls eos_token_id: one, several or none, which some write
    as −1."""
    return [one for one in ([] if ends is None else [ends] if isinstance(ends, int) else ends) if one >= 0]


def answer_lengths(tokens: Tensor, prompt_length: int, ends: Sequence[int]) -> Tensor:
    """Return (B,) int64 numbers of answer tokens, the end included, of (B, P + new) tokens.

    Args:
        prompt_length: tokens before the answer. ends: ids that end one.
    """
    answer = tokens[:, prompt_length:]
    ended = torch.isin(answer, torch.tensor(ends, device=answer.device, dtype=answer.dtype))
    steps = torch.arange(1, answer.shape[1] + 1, device=answer.device)
    return torch.where(ended, steps, answer.shape[1]).amin(-1).cpu()
