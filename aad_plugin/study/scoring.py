"""Rewards of a study's answers: each answer is scored once by each reward model, and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aad_plugin.judges.kinds.reward import load_scorer
from aad_plugin.study.prompts import Prompt
from aad_plugin.study.rows import Answer, AnswerKey, Rows, StudyStopped
from aad_plugin.texts.messages import digest


def answer_mark(prompt: str, text: str) -> str:
    """Return 16 hex digits of a prompt's mark and an answer."""
    return digest([prompt, text])[:16]


class Scorer:
    """One reward model.

    Args:
        spec: ``reward:<model>``; loaded here, blocks on disk. device: torch device, None for the default.
    """

    def __init__(self, spec: str, *, device: str | None = None) -> None:
        self.name = spec
        self._model = load_scorer(spec, device)

    def score(self, prompts: Mapping[str, Prompt], keys: Sequence[AnswerKey], rows: Rows) -> None:
        """Score what of these answers has no score yet.

        Args:
            prompts: by mark. keys: of answers in `rows`, which also takes the scores.
        Raises:
            StudyStopped: a score is NaN or infinite, or the disk is full.
        """
        new: dict[str, tuple[Any, Answer]] = {}
        for key in keys:
            mark = answer_mark(key[1], rows.answers[key].text)
            if (self.name, mark) not in rows.scores:
                new.setdefault(mark, (prompts[key[1]], rows.answers[key]))
        if not new:
            return
        started = time.perf_counter()
        values = self._model.score([(prompt, answer.text) for prompt, answer in new.values()])
        for (_, answer), value in zip(new.values(), values, strict=True):
            if not math.isfinite(value):
                raise StudyStopped(f"{self.name} gave {value} for the answer {answer.text[:80]!r}: no usable reward")
        rows.add_scores(self.name, self.name, dict(zip(new, values, strict=True)), time.perf_counter() - started)
