"""A task of drawn pictures, scored by what was drawn: short questions, yes/no probes, descriptions. No judge is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aad_plugin.judges.statistics.intervals import Estimate, mean_with_interval
from aad_plugin.rivals.judged_run import CANDIDATE
from aad_plugin.rivals.label_metrics import mean_of, standard_error_of
from aad_plugin.rivals.rival_task import Figure, RivalTask
from aad_plugin.tasks.vision.demo.scenes import description_values, first_words, read_description, read_yes_no

_BETTER = {
    "question_accuracy": True,
    "probe_accuracy": True,
    "hallucination": False,
    "yes_share": None,
    "recall": True,
    "invented": False,
    "f1": True,
}
_ENDS = ("", "_stderr", "_low", "_high")


class SceneTask(RivalTask):
    """Documents with a picture, and ``kind``, ``about``, ``label`` and ``picture`` (the picture's name).

    A question is right where the answer's first line is the label; a probe where its first word is (without a readable yes
    or no it is wrong); a description is scored by `description_values`. Metrics, per answer s, in [0, 1], with standard
    errors:
        question_accuracy_s, probe_accuracy_s   share of right answers
        hallucination_s    share of probes for absent things that are answered yes
        yes_share_s        share of probes that are answered yes; half of them ask for what is there
        recall_s           share of the things drawn that a description names
        invented_s         share of the things named that were not drawn, miscounted ones among them
        f1_s               of recall and what is not invented
    and for each rival r, over questions and descriptions (``description_…``: over descriptions alone):
        score_win_rate_vs_r    share of documents where aad's answer scores higher (right or wrong, f1), ties one half;
                               score_win_rate_low_vs_r and …_high_… are its 95 % interval, clustered by picture
    """

    judged = False

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Per-document values, and who scored higher."""
        values = super().process_results(doc, results)
        ours = values.get(f"score_{CANDIDATE}")
        for rival in self.answers[1:] if "bypass" not in values else ():
            theirs = values[f"score_{rival}"]
            won = None if ours is None else (doc["picture"], (1 + (ours > theirs) - (ours < theirs)) / 2)
            for end in _ENDS:
                values[_win_rate("score", rival, end)] = won
                values[_win_rate("description_score", rival, end)] = won if doc["kind"] == "description" else None
        for name in self.answers:
            values.pop(f"score_{name}", None)
        return values

    def answer_values(self, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(("score", *_BETTER))
        if doc["kind"] == "description":
            values |= description_values(answer, read_description(doc["label"]))
            values["score"] = values["f1"]
        elif doc["kind"] == "probe":
            said = read_yes_no(answer)
            values["probe_accuracy"] = float(said is not None and said == (doc["label"] == "yes"))
            values["yes_share"] = float(said is True)
            values["hallucination"] = float(said is True) if doc["label"] == "no" else None
        else:
            values["score"] = values["question_accuracy"] = float(first_words(answer) == doc["label"])
        return values | {f"{name}_stderr": values[name] for name in _BETTER}

    def answer_figures(self) -> dict[str, Figure]:
        found = {}
        for name, better in _BETTER.items():
            found[name] = Figure(mean_of, better)
            found[f"{name}_stderr"] = Figure(standard_error_of, None)
        return found

    def _figures(self) -> dict[str, Figure]:
        found = super()._figures()
        for rival in self.answers[1:]:
            for what in ("score", "description_score"):
                for end, read in zip(_ENDS, _READ, strict=True):
                    found[_win_rate(what, rival, end)] = Figure(partial(_estimated, read), True if not end else None)
        return found


def _win_rate(what: str, rival: str, end: str) -> str:
    """A win rate's name; lm-eval looks for its standard error under ``<name>_stderr``."""
    stem = f"{what}_win_rate"
    return f"{stem}_vs_{rival}{end}" if end in ("", "_stderr") else f"{stem}{end}_vs_{rival}"


_READ: tuple[Callable[[Estimate], float], ...] = (
    lambda found: found.value,
    lambda found: found.standard_error,
    lambda found: found.low,
    lambda found: found.high,
)


def _estimated(read: Callable[[Estimate], float], won: Sequence[tuple[str, float] | None]) -> float:
    known = [value for value in won if value is not None]
    return read(mean_with_interval([p for _, p in known], [picture for picture, _ in known]))
