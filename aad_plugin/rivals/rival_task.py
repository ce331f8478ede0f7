"""A task that answers every document by several strategies of one loaded pair and lets judges compare the answers.

Owns the path from requests to metrics: one request per strategy, figures that need no judge per document, and one
judged run over all documents at aggregation, which lm-eval calls on the first process only. What is judged is handed to
``aad_plugin.judges``; this file knows nothing of judges but their public functions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_aggregation

from aad_plugin.errors import ConfigError
from aad_plugin.harness.answer_store import is_truncated
from aad_plugin.harness.backends import takes_strategies
from aad_plugin.harness.task_host import (
    GenerateTask,
    fewshot_settings,
    generate_request,
    is_predict_only,
    resolve_field,
)
from aad_plugin.harness.turns import FOLLOW_UPS, replies_of
from aad_plugin.rivals.dialogues import render, turns_of
from aad_plugin.rivals.judged_run import CANDIDATE, JUDGED_FOLDER, JudgedRun
from aad_plugin.rivals.label_metrics import mean_of_all, standard_error_of
from aad_plugin.settings import DecodingSettings
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.saved_answers import check_baseline, earlier_replies, read_baseline, saved_replies
from aad_plugin.texts.thinking import answer_after_thinking

_NGRAM, _MAX_REPEATS = 4, 3
_OTHER_BACKEND = "model"


class Figure(NamedTuple):
    """How a metric comes out of its per-document values, and whether more of it is better (None: neither)."""

    aggregate: Callable[[list[Any]], float]
    higher_is_better: bool | None


class RivalTask(GenerateTask):
    """A generate_until task whose documents are answered by ``aad`` and by its rivals.

    Each document needs an ``id`` and a ``prompt``: a string, or chat messages ending with the user's turn. Optional are
    ``turns`` (the user's turns where the model is to hold a conversation) and ``published`` (another system's answer).
    With a backend of another package the document is answered once, by ``model``.

    The YAML's metadata, overridden by ``--metadata``, may hold
        rivals           strategies aad is compared with (default greedy and best_of_2); [] for none
        baseline         saved answers to compare with: a file as ``aad judge`` reads it, or a folder of such files
        judge            who compares; judge_template: the prompt for judges that have one
        graded           also have every answer graded from 1 to 10 by a chat judge
        output_dir       where answers and verdicts go; default: beside lm-eval's results (``--output_path``)

    Metrics, per answer s (a strategy, or ``model``) and opponent r (a rival, ``baseline`` or ``published``):
        win_rate_vs_r    mean p(the candidate's answer is better), in [0, 1]; ties one half; NaN where too few were judged
        reward_s         mean score of a reward judge, no unit; only with a reward judge
        grade_s          mean grade, 1 to 10; only where ``graded`` and the judge is a chat model
        length_s         characters
        truncated_s      share of answers that ran into the token budget; NaN where the backend does not tell
        degenerate_s     share of answers in which some 4-gram of words occurs more than three times
    """

    judged = True
    """Whether answers go to a judge without being asked for (``judge_reasons`` asks for it)."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        plain = dict(config or {})
        plain.pop("class", None)
        metadata = dict(plain.get("metadata") or {})
        self.rivals = _rivals(metadata.get("rivals", ["greedy", "best_of_2"]))
        self._baseline = read_baseline(metadata["baseline"], str(plain["task"])) if metadata.get("baseline") else {}
        super().__init__(config=plain)
        judged = self.judged or bool(metadata.get("judge_reasons"))
        self.run = JudgedRun(self.config.task or "task", metadata, judged=judged)
        self._answered_by([CANDIDATE, *self.rivals])

    def _answered_by(self, names: Sequence[str]) -> None:
        self.answers = list(names)
        opponents = [*names[1:], *(["baseline"] if self._baseline else [])]
        if "published" in self.eval_docs.column_names:
            opponents.append("published")
        self.run.answered_by(self.answers, opponents, max(map(self._turns_answered, self.eval_docs), default=1))

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Load the documents; lm-eval's own method does the same and warns on every run that options can be passed."""
        load = self.config.custom_dataset
        if not callable(load):
            return super().download(dataset_kwargs, **kwargs)
        self.dataset = load(**(self.config.metadata or {}), **(self.config.dataset_kwargs or {}))

    # ----------------------------------------------------------------- requests

    def build_all_requests(self, **options: Any) -> None:
        """Build requests for the backend at hand: by strategy for this package's, one per document for any other.

        Raises:
            ConfigError: ``--cache_requests``: lm-eval finds a task's requests by its name, whatever strategies, gen_kwargs
                and documents they were made of.
        """
        if options.get("cache_requests"):
            raise ConfigError(
                f"--cache_requests keeps the requests of {self.config.task} by its name alone, and would answer another "
                "call's strategies and documents under the names of this one's: leave it out (answers are kept anyway)"
            )
        ours = takes_strategies(options.get("chat_template"))
        self._answered_by([CANDIDATE, *self.rivals] if ours else [_OTHER_BACKEND])
        self.run.check_folder()
        super().build_all_requests(**options)
        if self._baseline:
            self._refuse_pictures_of_one_prompt()
            docs = [instance.doc for instance in self.instances if instance.idx == 0]
            prompts = [_asked(doc, self._turns_answered(doc)) for doc in docs]
            check_baseline(self._baseline, prompts, self.run.metadata["baseline"])

    def _refuse_pictures_of_one_prompt(self) -> None:
        """Raise ConfigError where saved answers, found by their prompt's text, could be about another picture."""
        if self.config.doc_to_image is None:
            return
        marks = [prompt_hash(_asked(doc, self._turns_answered(doc))) for doc in self.eval_docs]
        if len(set(marks)) < len(marks):
            raise ConfigError(
                f"a baseline's answers are found by their prompt's text, and {len(marks)} documents of {self.config.task} "
                f"share {len(set(marks))} texts over other pictures: leave the baseline out"
            )

    def fewshot_docs(self) -> Any:
        """Few-shot examples come from the training file where it is there, else from the other test documents."""
        shown = fewshot_settings(self)
        others = shown.split is None and not (self.has_training_docs() or self.has_validation_docs())
        if others or shown.split not in (None, *self.dataset):
            shown.split = self.config.test_split  # lm-eval leaves the document itself out of its own split alone
        return super().fewshot_docs()

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, *args: Any, **options: Any) -> Any:
        """Render a prompt that is a dialogue turn by turn; anything else is lm-eval's own."""
        if num_fewshot and not self.config.doc_to_target:
            raise ConfigError(f"the documents of {self.config.task} have no answers to show: num_fewshot must be 0")
        if isinstance(doc["prompt"], str):
            return super().fewshot_context(doc, num_fewshot, *args, **options)
        return render(doc["prompt"], resolve_field(self, doc, self.config.description), *args, **options)

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        """One request per strategy; lm-eval batches requests with equal gen_kwargs together."""
        template = super().construct_requests(doc, ctx, **kwargs)
        context, gen_kwargs = (template[0] if isinstance(template, list) else template).arguments[:2]
        later = {FOLLOW_UPS: list(doc["turns"][1:])} if len(turns_of(doc)) > 1 else {}
        own = [{}] if self.answers == [_OTHER_BACKEND] else [{"strategy": name, **later} for name in self.answers]
        return [
            generate_request(context, {**gen_kwargs, **extra}, number=number, like=template)
            for number, extra in enumerate(own)
        ]

    # ------------------------------------------------------------------ metrics

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Per-document values; every document yields the same keys. Nothing is judged here."""
        turns = self._turns_answered(doc)
        given = {name: _text(result) for name, result in zip(self.answers, results, strict=True)}
        replies = {name: replies_of(text, turns) for name, text in given.items()}
        truncated = {name: is_truncated(text) for name, text in given.items()}
        item = {
            "id": str(doc["id"]),
            "prompt": _asked(doc, turns),
            "answers": {**replies, **self._opponents_answers(doc, turns)},
            "truncated": truncated,
        }
        if self._baseline and (earlier := earlier_replies(self._baseline, item["prompt"], turns)):
            item["earlier"] = {"baseline": earlier}
        if self.run.judged and self.config.doc_to_image:
            item["pictures"] = self.doc_to_image(doc)
        if is_predict_only(self):  # --predict_only: answers are kept, nothing is judged
            return {"bypass": item}
        # Each judged figure is given the answers, so that it does not matter which lm-eval asks for first. What it is of
        # this document `fill_in_samples` writes in their place.
        values: dict[str, Any] = dict.fromkeys(["judged", *self.run.figures()], item)
        for name, texts in replies.items():
            # What follows a model's thinking; thinking that never ended is a truncated answer.
            shown = [answer_after_thinking(text) for text in texts]
            cut = True if None in shown else truncated[name]
            visible = "\n".join(text or "" for text in shown)
            values[f"length_{name}"] = sum(len(text or "") for text in shown)
            values |= dict.fromkeys(
                (f"truncated_{name}", f"truncated_{name}_stderr"), cut if cut is None else float(cut)
            )
            values[f"degenerate_{name}"] = float(is_degenerate(visible))
            values |= {_of(name, metric): value for metric, value in self.answer_values(doc, visible).items()}
        return values

    def answer_values(self, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
        """Per-document values of one answer (thinking removed) where a task has labels; same keys for all documents."""
        return {}

    def answer_figures(self) -> dict[str, Figure]:
        """The metrics made of `answer_values`; one called ``<m>_stderr`` follows ``<m>`` and is its standard error."""
        return {}

    def aggregation(self) -> dict[str, Callable[[list[Any]], float]]:
        """How each metric comes out of its values; the first of the judged ones has all answers judged."""
        if is_predict_only(self):
            return {"bypass": self._kept}
        return {name: figure.aggregate for name, figure in self._figures().items()}

    def higher_is_better(self) -> dict[str, bool]:
        """Direction of every metric that has one."""
        if is_predict_only(self):
            return super().higher_is_better()
        better = {name: figure.higher_is_better for name, figure in self._figures().items()}
        return {name: value for name, value in better.items() if value is not None}

    def _figures(self) -> dict[str, Figure]:
        found = {"judged": Figure(self._judged, True)}
        for name in self.run.figures():
            found[name] = Figure(partial(self._figure, name), None if name.endswith("_stderr") else True)
        mean = get_aggregation("mean")
        for name in self.answers:
            found |= {_of(name, metric): figure for metric, figure in self.answer_figures().items()}
            found[f"length_{name}"] = Figure(mean, None)
            found[f"truncated_{name}"] = Figure(mean_of_all, False)
            found[f"truncated_{name}_stderr"] = Figure(standard_error_of, None)
            found[f"degenerate_{name}"] = Figure(mean, False)
        return found

    def fill_in_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Give every sample its own rewards, grades and win rates; they were not known until the run had been judged."""
        pending = set() if is_predict_only(self) else set(self.run.figures())
        for row in rows:
            own = self.run.values_of(str(row["doc"]["id"]))
            for name in pending & set(row):
                row[name] = own.get(name)
            # The error of one document's value is none; its mean's stands in the results.
            for name in [name for name in pending if name.endswith("_stderr")]:
                row.pop(name, None)
            if isinstance(row.get("metrics"), list):
                row["metrics"] = [name for name in row["metrics"] if name in row]

    def _judged(self, items: list[Any]) -> float:
        share = self.run.judge(items)
        self._tell_folder()
        return share

    def _figure(self, name: str, items: list[Any]) -> float:
        self._judged(items)
        return self.run.figure(name, items)

    def _kept(self, items: list[Any]) -> float:
        share = self.run.keep(items)
        self._tell_folder()
        return share

    def _tell_folder(self) -> None:
        """Let lm-eval's results say where answers, verdicts and rewards are; it writes the config after aggregation."""
        if self.run.folder is not None:
            self.config.metadata = {**(self.config.metadata or {}), JUDGED_FOLDER: str(self.run.folder.resolve())}

    def _turns_answered(self, doc: Mapping[str, Any]) -> int:
        return 1 if self.answers == [_OTHER_BACKEND] else len(turns_of(doc))

    def _opponents_answers(self, doc: Mapping[str, Any], turns: int) -> dict[str, list[str]]:
        found = {}
        if self._baseline:
            found["baseline"] = saved_replies(self._baseline, _asked(doc, turns), turns)
        if doc.get("published"):
            found["published"] = [doc["published"]]
        return found


def is_degenerate(text: str) -> bool:
    """Whether some run of four words occurs more than three times."""
    words = text.split()
    grams = Counter(tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1))
    return max(grams.values(), default=0) > _MAX_REPEATS


def _of(name: str, metric: str) -> str:
    """A metric's full name for one answer; its standard error keeps the ending that lm-eval looks for."""
    stem = metric.removesuffix("_stderr")
    return f"{stem}_{name}" + metric[len(stem) :]


def _asked(doc: Mapping[str, Any], turns: int) -> Any:
    """The prompt as a judge sees it: the user's turns where each side held its own conversation."""
    if turns == 1:
        return doc["turns"][0] if "turns" in doc else doc["prompt"]
    return [{"role": "user", "content": turn} for turn in doc["turns"][:turns]]


def _rivals(value: Any) -> list[str]:
    names = _listed(value)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"rivals are names of strategies, got {name!r}")
        DecodingSettings(strategy=name)  # an unknown one is refused with the nearest valid name
        if name == CANDIDATE:
            raise ConfigError("rivals are what aad is compared with, got 'aad' itself: leave it out")
    if len({repr(DecodingSettings(strategy=name)) for name in names}) < len(names):
        raise ConfigError(f"rivals must differ, got {names}")
    return names


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError as e:
            raise ConfigError(f"rivals must be a list of strategies, got {value!r}") from e
    if value in (None, "", "none"):
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _text(result: Any) -> str:
    return result[0] if isinstance(result, (list, tuple)) else result
