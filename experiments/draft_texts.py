"""What a pair chooses, token by token, as data for drafts: its own answers, and its choices along answers of others.

Everything is appended to one file, so that a run goes on where the last one stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import AlignedPair

TOKENS = 64


@dataclass(frozen=True)
class ChosenText:
    """A prompt, what follows it, and what the pair chooses at each step of that.

    Attributes:
        prompt, answer: token ids. choices: as many ids as the answer has; the answer itself where the pair wrote it.
        held_out: whether no draft may learn from it.
    """

    key: str
    prompt: list[int]
    answer: list[int]
    choices: list[int]
    held_out: bool = False


def load_texts(path: Path) -> list[ChosenText]:
    """Return what a file holds, in the order in which it was written."""
    if not path.exists():
        return []
    return [ChosenText(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def decode_texts(
    pair: AlignedPair, prompts: Sequence[tuple[str, str, bool]], path: Path, until: float, batch: int = 16
) -> bool:
    """Append the pair's own answers.

    Args:
        prompts: (key, text, held out). until: time.monotonic() at which no batch is begun any more.
    Returns:
        whether all prompts are answered.
    """
    known = {text.key for text in load_texts(path)}
    left = [prompt for prompt in prompts if prompt[0] not in known]
    left.sort(key=lambda prompt: len(prompt[1]))
    ends = pair.generation_config.eos_token_id
    for part in _parts(left, batch):
        if time.monotonic() > until:
            return False
        ids, mask = encode_prompts(pair, [text for _, text, _ in part])
        found = pair.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, pad_token_id=ends)[:, ids.shape[1] :]
        for (key, _, held_out), row, own, shown in zip(part, found.tolist(), ids, mask, strict=True):
            answer = row[: row.index(ends) + 1] if ends in row else row
            _append(path, ChosenText(key, own[shown.bool()].tolist(), answer, answer, held_out))
    return True


def choose_along(
    pair: AlignedPair, answers: Sequence[tuple[str, str, str]], path: Path, until: float, batch: int = 8
) -> bool:
    """Append the pair's choices along given answers.

    Args:
        answers: (key, prompt, answer). until: time.monotonic() at which no batch is begun any more.
    Returns:
        whether all are read.
    """
    known = {text.key for text in load_texts(path)}
    left = [answer for answer in answers if answer[0] not in known]
    end = pair.generation_config.eos_token_id
    for part in _parts(left, batch):
        if time.monotonic() > until:
            return False
        prompts = [encode_prompts(pair, [prompt])[0][0].tolist() for _, prompt, _ in part]
        wanted = [[*pair.tokenizer(a, add_special_tokens=False)["input_ids"][:TOKENS], end] for _, _, a in part]
        width, longest = max(map(len, prompts)), max(map(len, wanted))
        ids = torch.full((len(part), width + longest), end)
        mask = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(zip(prompts, wanted, strict=True)):
            ids[row, width - len(prompt) : width + len(answer)] = torch.tensor(prompt + answer)
            mask[row, width - len(prompt) : width + len(answer)] = 1
        chosen = pair.choices(ids, mask, width, pair.settings)
        for (key, _, _), prompt, answer, row in zip(part, prompts, wanted, chosen.tolist(), strict=True):
            _append(path, ChosenText(key, prompt, answer, row[: len(answer)]))
    return True


@torch.no_grad()
def agreements(logits: Tensor, text: ChosenText, ids: Tensor | None = None) -> tuple[list[bool], list[float]]:
    """Return per choice whether a draft's favourite is it, and how probable the draft finds its favourite.

    Args:
        logits: (T, F) of every position of prompt and answer. ids: (F,) tokens of the columns; None for all.
    """
    own = logits[len(text.prompt) - 1 : len(text.prompt) - 1 + len(text.choices)]
    confidence, place = own.float().softmax(-1).max(-1)
    token = place if ids is None else ids[place]
    return (token == torch.tensor(text.choices)).tolist(), confidence.tolist()


def _append(path: Path, text: ChosenText) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(vars(text)) + "\n")


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
