"""What differs between lm-eval's releases for a task and its requests, asked of the installed one.

0.4 has one class for every kind of task and keeps a table of metric functions; 0.5 has a class per kind of request,
scorers in place of that table, and wants the task's name and the document's number in every request.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from lm_eval.api import task as _tasks
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import ConfigurableTask

_Base: Any = getattr(_tasks, "GenerateTask", ConfigurableTask)


class GenerateTask(_Base):
    """lm-eval's task of generated text, whichever release is installed."""

    def aggregate(self, bootstrap_iters: int | None = None) -> tuple[dict[str, Any], int]:
        """Aggregate every metric once (lm-eval 0.5; 0.4 has no such method).

        0.5 itself estimates the error of all but plain means by calling their aggregation thousands of times in forked
        processes. Those of a judged task read or make verdicts, so they are called once, and only means get an error.
        """
        found, size = super().aggregate(0)
        mean = get_aggregation("mean")
        for name, aggregate in self.aggregation().items():
            values = [row[name] for scorer in self.scorers for row in scorer.reduced_docs.values() if name in row]
            if name == "bypass":  # here the task's own function counts, not that of lm-eval's metric of this name
                found[f"bypass,{self.scorers[0].name}"] = aggregate(values)
            elif bootstrap_iters and aggregate is mean and len(values) > 1:
                for scorer in self.scorers:
                    found[f"{name}_stderr,{scorer.name}"] = statistics.stdev(values) / math.sqrt(len(values))
        return found, size


def is_predict_only(task: Any) -> bool:
    """Return whether lm-eval keeps answers and computes no metric (``--predict_only``)."""
    if hasattr(task, "_metric_fn_list"):
        return "bypass" in task._metric_fn_list
    return any(metric.name == "bypass" for scorer in task.scorers for metric in scorer.metrics or [])


def resolve_field(task: Any, doc: dict[str, Any], field: Any) -> Any:
    """Return a configuration's field for one document, its template filled in."""
    resolve = task.resolve_field if hasattr(task, "resolve_field") else task._resolve_field
    return resolve(doc, field)


def fewshot_settings(task: Any) -> Any:
    """Return where a task's few-shot examples come from; its ``split`` may be set."""
    return task.fewshot_cfg if hasattr(task, "fewshot_cfg") else task._fewshot_cfg


def generate_request(
    context: str, gen_kwargs: dict[str, Any], *, doc: Any = None, number: int = 0, like: Any = None
) -> Instance:
    """Return a request for text.

    Args:
        number: of the request within its document. like: a request of the same document, from which the rest is taken
            (lm-eval may hand it out in a list of one), its pictures among it; None for a request that belongs to no task.
    """
    if like is None:
        required = {field.name for field in dataclasses.fields(Instance) if field.default is dataclasses.MISSING}
        nowhere = {name: value for name, value in (("task_name", ""), ("doc_id", 0)) if name in required}
        return Instance(  # type: ignore[call-arg]
            request_type="generate_until", doc=doc or {}, arguments=(context, gen_kwargs), idx=number, **nowhere
        )
    first = like[0] if isinstance(like, list) else like
    arguments = (context, gen_kwargs, *first.arguments[2:])
    return dataclasses.replace(first, arguments=arguments, idx=number, resps=[], filtered_resps={})
