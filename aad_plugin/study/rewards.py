"""Read a study's rows: oracle rewards, picker scores and costs of a cell's answers, as arrays over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aad_plugin.study.cells import Decoding
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.prompts import Prompt, prompt_mark
from aad_plugin.study.rows import Answer, Rows
from aad_plugin.study.scoring import answer_mark


class Reader:
    """A plan with what was found for it.

    Args:
        plan, rows: of one study. What is missing is NaN, so that a study that still runs can be looked at.
    """

    def __init__(self, plan: StudyPlan, rows: Rows) -> None:
        self.plan = plan
        self.rows = rows

    def answers(self, decoding: Decoding, prompts: Sequence[Prompt], number: int = 0) -> list[Answer | None]:
        """Return the answers of one sample number; None where there is none yet."""
        mark = decoding.mark
        return [self.rows.answers.get((mark, prompt_mark(prompt), number)) for prompt in prompts]

    def rewards(self, decoding: Decoding, prompts: Sequence[Prompt], number: int = 0) -> np.ndarray:
        """Return (N,) oracle rewards."""
        return self.scores(self.plan.oracle, decoding, prompts, number)

    def scores(self, scorer: str, decoding: Decoding, prompts: Sequence[Prompt], number: int = 0) -> np.ndarray:
        """Return (N,) scores by a reward model, or by ``implicit``."""
        found = []
        for prompt, answer in zip(prompts, self.answers(decoding, prompts, number), strict=True):
            if answer is None:
                found.append(np.nan)
            elif scorer == "implicit":
                found.append(np.nan if answer.implicit is None else answer.implicit)
            else:
                key = (scorer, answer_mark(prompt_mark(prompt), answer.text))
                found.append(self.rows.scores.get(key, np.nan))
        return np.array(found, dtype=float)

    def pool(self, scorer: str, decoding: Decoding, prompts: Sequence[Prompt], num: int) -> np.ndarray:
        """Return (N, num) scores of samples 0 to num − 1."""
        return np.stack([self.scores(scorer, decoding, prompts, number) for number in range(num)], axis=1)

    def costs(
        self, read: Callable[[Answer], float], decoding: Decoding, prompts: Sequence[Prompt], num: int = 1
    ) -> np.ndarray:
        """Return (N, num) of any field or figure of the answers."""
        columns = [self.answers(decoding, prompts, number) for number in range(num)]
        return np.array([[np.nan if one is None else read(one) for one in column] for column in columns]).T
