"""A task that answers every document by several strategies of one loaded pair and lets judges compare the answers.

Owns the path from requests to metrics: one request per strategy, figures that need no judge per document, and one
judged run over all documents at aggregation, which lm-eval calls on the first process only. What is judged is handed to
``aad_plugin.judges``; this file knows nothing of judges but their public functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import ConfigurableTask

from aad_plugin.errors import ConfigError
from aad_plugin.harness.answer_log import is_truncated
from aad_plugin.harness.gen_kwargs import split_gen_kwargs
from aad_plugin.harness.judged_run import CANDIDATE, JudgedRun
from aad_plugin.judges.thinking import answer_after_thinking
from aad_plugin.settings import DecodingSettings

__all__ = ["RivalTask", "is_degenerate"]

_NGRAM, _MAX_REPEATS = 4, 3


class RivalTask(ConfigurableTask):
    """A generate_until task whose documents are answered by ``aad`` and by its rivals.

    The YAML's metadata may hold ``rivals`` (list of strategies, default greedy and best_of_2) and ``judge``;
    ``--metadata '{"rivals": […], "judge": "…", "output_dir": "…"}'`` overrides them. Each document needs an ``id`` and
    a ``prompt`` (a string or chat messages).

    Metrics, per strategy s and rival r:
        win_rate_vs_r   mean p(aad's answer is better), in [0, 1]; ties one half; NaN where too few were judged
        reward_s        mean score of a reward judge, no unit; only with a reward judge
        length_s        characters
        truncated_s     share of answers that ran into the token budget; NaN where the backend does not tell
        degenerate_s    share of answers in which some 4-gram of words occurs more than three times
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        plain = dict(config or {})
        plain.pop("class", None)
        metadata = dict(plain.get("metadata") or {})
        self.rivals = _rivals(metadata.get("rivals", ["greedy", "best_of_2"]))
        self.strategies = [CANDIDATE, *self.rivals]
        super().__init__(config=plain)
        self.run = JudgedRun(self.config.task or "task", self.rivals, self.strategies, metadata)
        self._contexts: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        """One request per strategy; lm-eval batches requests with equal gen_kwargs together."""
        template = super().construct_requests(doc, ctx, **kwargs)
        context, gen_kwargs = template.arguments[:2]
        return [
            Instance(
                request_type="generate_until",
                doc=doc,
                arguments=(context, {**gen_kwargs, "strategy": strategy}),
                idx=number,
                metadata=template.metadata,
            )
            for number, strategy in enumerate(self.strategies)
        ]

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Per-document values; every document yields the same keys. Nothing is judged here."""
        if "bypass" in self._metric_fn_list:  # --predict_only
            return {"bypass": 0.0}
        answers = {name: _text(result) for name, result in zip(self.strategies, results, strict=True)}
        truncated = self._truncated(doc)
        item = {"id": str(doc["id"]), "prompt": doc["prompt"], "answers": answers, "truncated": truncated}
        values: dict[str, Any] = {"judged": item, **dict.fromkeys(self.run.judged_metrics(), item["id"])}
        for name, answer in answers.items():
            # What follows a model's thinking; thinking that never ended is a truncated answer.
            visible = answer_after_thinking(answer)
            cut = True if visible is None else truncated[name]
            values[f"length_{name}"] = len(visible or "")
            values[f"truncated_{name}"] = math.nan if cut is None else float(cut)
            values[f"degenerate_{name}"] = float(is_degenerate(visible or ""))
        return values

    def aggregation(self) -> dict[str, Callable[[list[Any]], float]]:
        """``judged`` comes first in every document's values, so the run has been judged when the others are asked."""
        if "bypass" in self._metric_fn_list:
            return super().aggregation()
        found: dict[str, Callable[[list[Any]], float]] = {"judged": self.run.judge}
        found.update(self.run.judged_metrics())
        for name in self.strategies:
            found[f"length_{name}"] = get_aggregation("mean")
            found[f"truncated_{name}"] = get_aggregation("mean")
            found[f"degenerate_{name}"] = get_aggregation("mean")
        return found

    def higher_is_better(self) -> dict[str, bool]:
        """Direction of every metric that has one."""
        if "bypass" in self._metric_fn_list:
            return super().higher_is_better()
        better = {name: True for name in ("judged", *self.run.judged_metrics()) if not name.endswith("_stderr")}
        worse = {f"{kind}_{name}": False for name in self.strategies for kind in ("truncated", "degenerate")}
        return {**better, **worse}

    def _truncated(self, doc: dict[str, Any]) -> dict[str, bool | None]:
        if not self._contexts:
            for instance in self.instances:
                self._contexts.setdefault(str(instance.doc["id"]), []).append(instance.args)
        # Each strategy's settings as the model resolved them, up to model_args, which one run does not vary.
        found = {}
        for name, (context, gen_kwargs) in zip(self.strategies, self._contexts[str(doc["id"])], strict=True):
            settings, _, _ = split_gen_kwargs(gen_kwargs, self.run.model_settings())
            found[name] = is_truncated(context, settings)
        return found


def is_degenerate(text: str) -> bool:
    """Whether some run of four words occurs more than three times."""
    words = text.split()
    grams = Counter(tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1))
    return max(grams.values(), default=0) > _MAX_REPEATS


def _rivals(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(value or [])
    for name in names:
        DecodingSettings(strategy=name)  # an unknown one is refused with the nearest valid name
        if name == CANDIDATE:
            raise ConfigError("rivals are what aad is compared with, got 'aad' itself: leave it out")
    if len(set(names)) < len(names):
        raise ConfigError(f"rivals must differ, got {names}")
    return names


def _text(result: Any) -> str:
    return result[0] if isinstance(result, (list, tuple)) else result
