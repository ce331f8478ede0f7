"""What surrounds an evaluation: which model it is, what is refused or said before it, what is filled in after it.

lm-eval does not tell a task which model it is evaluated with, and any model but this package's would hand ``strategy`` on
to its own generate call. So ``lm_eval.evaluator.evaluate`` is wrapped to note its model while it runs; where somebody
calls a copy of it that was taken before, our models' own announcements decide.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval import evaluator

from aad_plugin.harness import output_folder
from aad_plugin.harness.plain_errors import check_limit

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

_LOADED: weakref.WeakSet[Any] = weakref.WeakSet()
_EVALUATED: contextvars.ContextVar[Any] = contextvars.ContextVar("evaluated", default=None)


def loaded(model: Any) -> None:
    """Announce a model of this package; it is forgotten when it is garbage."""
    _LOADED.add(model)


def takes_strategies(chat_template: Callable[..., Any] | None) -> bool:
    """Whether requests may name strategies.

    Args:
        chat_template: the model's own method where a chat template is applied, which names the model, too.
    """
    model = _EVALUATED.get()
    if model is None:
        model = getattr(chat_template, "__self__", None)
    # lm-eval wraps a model whose answers it caches.
    return bool(_LOADED) if model is None else getattr(model, "lm", model) in _LOADED


def _surround_evaluations() -> None:
    original = evaluator.evaluate
    if getattr(original, "_notes_its_model", False):
        return

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        model = kwargs.get("lm", args[0] if args else None)
        task_dict = kwargs.get("task_dict", args[1] if len(args) > 1 else None)
        check_limit(kwargs.get("limit"))
        if not kwargs.get("apply_chat_template"):
            _say_what_the_template_adds(getattr(model, "lm", model), task_dict)
        token = _EVALUATED.set(model)
        try:
            results = original(*args, **kwargs)
        finally:
            _EVALUATED.reset(token)
            output_folder.forget()
        _fill_in_samples(task_dict, results)
        return results

    evaluate._notes_its_model = True  # type: ignore[attr-defined]
    evaluator.evaluate = evaluate


def _say_what_the_template_adds(model: Any, task_dict: Any) -> None:
    """Warn where a pair has a chat template that this run leaves out and that would change some task's prompts."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    if model not in _LOADED or not getattr(tokenizer, "chat_template", None) or getattr(model, "rank", 0) != 0:
        return

    def rendered(text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    try:
        tasks = [task for _, task in _tasks(task_dict) if hasattr(task, "eval_docs")]
        prompts = [task.doc_to_text(next(iter(task.eval_docs))) for task in tasks]
        if prompts and all(rendered(prompt) == prompt for prompt in prompts):
            return
        shown = repr(rendered("PROMPT"))
    except Exception:  # templates are programs that come with a model; one that takes no such chat shows nothing
        shown = "its own form of a chat"
    logger.warning(
        "this pair has a chat template, which this run does not apply: its models read each prompt as bare text, where "
        "they were tuned on %s. Answers and scores differ from those with the template, which aad generate, aad explain "
        "and aad serve apply. Pass --apply_chat_template unless bare text is meant",
        shown,
    )


def _fill_in_samples(task_dict: Any, results: Any) -> None:
    """Put what a judged run found into lm-eval's samples, which were written down before there was a judge's word."""
    samples = results.get("samples") if isinstance(results, dict) else None
    for name, rows in (samples or {}).items():
        fill_in = getattr(_task(task_dict, name), "fill_in_samples", None)
        if fill_in is not None:
            fill_in(rows)


def _task(tree: Any, name: str) -> Any:
    """The task of a name among lm-eval's nested groups; None where there is none."""
    return next((task for key, task in _tasks(tree) if name in (key, getattr(task, "task_name", None))), None)


def _tasks(tree: Any) -> Iterator[tuple[Any, Any]]:
    """What stands in lm-eval's nested groups, by its key, in their order."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _tasks(value)
        else:
            yield key, value


_surround_evaluations()
