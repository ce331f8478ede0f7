"""``classifier:`` judges: a guard or toxicity classifier that labels answers one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Question, Ruling
from aad_plugin.judges.kinds.local_models import (
    LocalJudge,
    check_model_options,
    made_ready,
    marks_of_model,
    outputs_of,
    weight_options,
)
from aad_plugin.judges.kinds.spelling import Piece, Speller
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.texts.messages import as_text, conversation, digest


class ClassifierJudge(LocalJudge):
    """Pointwise judge made of a sequence-classification model with named labels.

    The label is the most likely one; for a multi-label model (sigmoid outputs) the most likely of those above one half,
    or "none". `Verdict.scores` holds all probabilities. A model whose tokenizer has a chat template (a guard) reads the
    conversation, any other (a toxicity classifier) the answer alone.

    Args:
        name: folder or hub id. device, dtype, batch_size: of the model. use_safetensors: False reads pickles, too, which
            can run code.
    """

    kind = "pointwise"

    def __init__(
        self,
        name: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 16,
        use_safetensors: bool | None = None,
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        check_model_options(device, dtype, batch_size)
        options = weight_options(name, use_safetensors)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, truncation_side="left")
            model = load_whole(AutoModelForSequenceClassification, name, dtype=dtype, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load the classifier {name!r}: {error}") from error
        if model.config.num_labels < 2:
            raise ConfigError(f"{name!r} has one output, so it is a reward model: use reward:{name}")
        self.model = made_ready(model, self.tokenizer, device)
        self.speller = Speller(self.tokenizer)
        self.labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
        self.choices = (*self.labels, "none")
        self.multi_label = model.config.problem_type == "multi_label_classification"
        self.batch_size = batch_size
        self.name = f"classifier:{name}"
        marks = marks_of_model(dtype, name)
        self.fingerprint = digest({"kind": "classifier", "model": name, "labels": self.labels, **marks})

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Label every answer and record the label with all probabilities."""
        questions = iter(questions)
        while batch := list(islice(questions, self.batch_size)):
            started = time.time()
            for question, row in zip(batch, self._probabilities(batch), strict=True):
                common: dict[str, Any] = {
                    "key": question.key, "form": "score", "model": self.name, "created": time.time(),
                    "seconds": (time.time() - started) / len(batch),
                }  # fmt: skip
                if not all(map(math.isfinite, row)):
                    sitting.record(Ruling(**common, reason="unreadable", detail=f"probabilities {row} are not finite"))
                    continue
                scores = dict(zip(self.labels, row, strict=True))
                best = max(scores, key=lambda label: scores[label])
                label = "none" if self.multi_label and scores[best] < 0.5 else best
                sitting.record(Ruling(**common, label=label, scores=scores))

    def _probabilities(self, batch: list[Question]) -> list[list[float]]:
        logits = outputs_of(self.model, self.speller, [self._pieces(question) for question in batch])  # (B, labels)
        return (logits.sigmoid() if self.multi_label else logits.softmax(-1)).tolist()

    def _pieces(self, question: Question) -> tuple[Piece, ...]:
        if not self.tokenizer.chat_template:
            return self.speller.plain(as_text(question.first))
        return self.speller.conversation(conversation(question.messages, question.first))
