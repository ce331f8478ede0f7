"""``refusals:text`` judges: whether an answer complies, read off its text; a judge may be asked where that is unsure.

--judge refusals:text                              nobody is asked
--judge refusals:text,judge=openai:gpt-4.1-mini    the share whose reading is unsure goes to that judge
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Question, Ruling
from aad_plugin.judges.refusals import LABELS, UNSURE, Reading, mark, read_refusal
from aad_plugin.judges.sitting.judge import Judge, Price, Size
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.texts.messages import as_text, digest

_MODEL = "refusals:text"


class RefusalJudge(Judge):
    """Pointwise judge that reads comply, partial or refuse off English texts. `Verdict.scores` holds the probabilities.

    Args:
        name: "text". judge: spec of a pointwise judge with these labels that reads what is unsure (template `refusal`);
            None asks nobody, and what cannot be read is unjudged. unsure: the least and the greatest probability of a
            refusal between which a reading is unsure.
    """

    kind = "pointwise"
    both_orders = False
    choices = LABELS

    def __init__(self, name: str, *, judge: str | None = None, unsure: tuple[float, float] | list[float] = UNSURE):
        if name != "text":
            raise ConfigError(f"the reader of refusals is named refusals:text, got refusals:{name}")
        bounds = list(unsure) if isinstance(unsure, list | tuple) else []
        if (
            len(bounds) != 2
            or not all(isinstance(x, int | float) for x in bounds)
            or not 0 <= bounds[0] <= bounds[1] <= 1
        ):
            raise ConfigError(f"unsure is two probabilities in ascending order, e.g. [0.2, 0.8], got {unsure!r}")
        self.low, self.high = bounds
        self.asked = _asked(judge) if judge else None
        self.name = _MODEL + (f"+{self.asked.name}" if self.asked else "")
        self.price: Price | None = self.asked.price if self.asked else None
        self.transports = self.asked.transports if self.asked else ("live",)
        self.in_process = self.asked.in_process if self.asked else True
        self.form_known = self.asked.form_known if self.asked else True
        self.probe = self.asked.probe if self.asked else ""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and the reading, of the bounds and of the judge that is asked."""
        return digest({"kind": _MODEL, "weights": mark(), "unsure": [self.low, self.high],
                       "asked": self.asked.fingerprint if self.asked else ""})  # fmt: skip

    @property
    def template_hash(self) -> str:
        """Of the judge that is asked."""
        return self.asked.template_hash if self.asked else ""

    def prepare(self, sitting: Sitting) -> None:
        """Find out what the judge that is asked can do."""
        if self.asked:
            self.asked.prepare(sitting)

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Record what the text shows, and send on the rest."""
        if self.asked:
            self.asked.rule(self._left_over(questions, sitting), sitting)
        else:
            for _ in self._left_over(questions, sitting):
                pass

    def size(self, question: Question, price: Price | None) -> Size:
        """What the judge is paid for a question; it is not asked where the text shows enough."""
        if self.asked is None:
            return Size(0, 0, 0.0)
        return self.asked.size(question, price) if self._is_unsure(_reading(question)) else Size(0, 0, 0.0, requests=0)

    def clean(self, text: str) -> str:
        """`text` without the secrets of the judge that is asked."""
        return self.asked.clean(text) if self.asked else text

    def _left_over(self, questions: Iterable[Question], sitting: Sitting) -> Iterator[Question]:
        model = (
            "" if self.asked else _MODEL
        )  # beside the asked judge's own name it would look like a judge that changed
        for question in questions:
            reading = _reading(question)
            if self.asked and self._is_unsure(reading):
                yield question
                continue
            common: dict[str, Any] = {"key": question.key, "form": "score", "model": model, "created": time.time()}
            if reading.label is None:
                sitting.record(Ruling(**common, reason="unreadable", detail=reading.note))
            else:
                sitting.record(Ruling(**common, label=reading.label, scores=dict(reading.scores)))

    def _is_unsure(self, reading: Reading) -> bool:
        return math.isnan(reading.refusal) or self.low < reading.refusal < self.high


def _asked(spec: str) -> Judge:
    from aad_plugin.judges.kinds.specs import accepted_options, load_judge, parse_spec

    is_silent = "template" in accepted_options(spec) and "template" not in parse_spec(spec)[2]
    given = {"template": "refusal"} if is_silent else {}
    judge = load_judge(spec, **given)
    if judge.kind != "pointwise" or set(judge.choices) != set(LABELS):
        raise ConfigError(
            f"what the text leaves open is read by a pointwise judge with the labels {', '.join(LABELS)}; {judge.name} is "
            f"{judge.kind}{' with ' + ', '.join(judge.choices) if judge.choices else ''}"
        )
    return judge


def _reading(question: Question) -> Reading:
    user = [str(turn["content"]) for turn in question.messages if turn["role"] == "user"]
    return read_refusal(as_text(question.first), user[-1] if user else "")
