"""Traces of an lm-eval run: join what was read while decoding with the answers as they arrive.

A batch is decoded by rendered prompt and settings; the answer lm-eval makes of it arrives later, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from aad_plugin.explain.texts import steps_of
from aad_plugin.explain.trace_files import AnswerTrace, TraceWriter, text_hash
from aad_plugin.pair.recorder import Reading
from aad_plugin.settings import DecodingSettings


class RunTracer:
    """The traces of one process of a run.

    Args:
        folder: model_arg ``trace``. model: fingerprint of the model. account: what it stands for. rank: of the process.
    Raises:
        ConfigError: see :class:`TraceWriter`.
    """

    def __init__(self, folder: str, model: str, account: Mapping[str, Any], rank: int) -> None:
        self.writer = TraceWriter(folder, model, account, rank)
        self._asked_by: dict[str, Instance] = {}
        self._readings: dict[str, Reading] = {}

    def expect(self, keys: Sequence[str | None], requests: Sequence[Instance]) -> None:
        """Say for which documents answers will be decoded."""
        self._asked_by = {key: request for key, request in zip(keys, requests, strict=True) if key is not None}

    def has(self, key: str) -> bool:
        """Whether an answer's trace is known, so that a kept answer may stand."""
        return key in self.writer

    def decoded(
        self, contexts: Sequence[str], settings: DecodingSettings, sample: int, readings: Sequence[Reading]
    ) -> None:
        """Take what was read of one batch."""
        for context, reading in zip(contexts, readings, strict=True):
            self._readings[_label(context, settings, sample)] = reading

    def arrived(
        self,
        key: str,
        context: str,
        settings: DecodingSettings,
        sample: int,
        answer: str,
        tokenizer: Any,
        *,
        as_asked: str,
    ) -> None:
        """Keep the trace of an answer; ``as_asked`` is the context as lm-eval's samples have it."""
        reading = self._readings.pop(_label(context, settings, sample), None)
        request = self._asked_by.get(key)
        if reading is None or request is None:
            return  # the same request twice in one batch: its trace stands already
        relevant = {**settings.relevant(), "alpha": settings.alpha}
        trace = AnswerTrace(
            key=key,
            task=str(request.task_name or ""),
            doc_id=-1 if request.doc_id is None else int(request.doc_id),
            strategy=settings.strategy,
            settings=json.dumps(relevant, sort_keys=True),
            prompt_hash=text_hash(as_asked),
            answer_hash=text_hash(answer),
        )
        self.writer.add(trace, steps_of(reading, tokenizer))

    def finish(self) -> None:
        """Write what is still in memory."""
        self._readings.clear()
        self.writer.flush()


def _label(context: str, settings: DecodingSettings, sample: int) -> str:
    return json.dumps([context, settings.relevant(), sample])
