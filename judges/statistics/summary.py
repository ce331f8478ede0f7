"""The figures of one judged run, computed from its verdicts alone: no texts, no judge, no network."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import BackendMissing, ConfigError, JudgeUnavailable
from aad_plugin.files.whole import without_nan
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.challenge import challenge_figures
from aad_plugin.judges.statistics.criteria import criteria_figures
from aad_plugin.judges.statistics.intervals import INTERVAL_METHOD, mean_with_interval, standard_error
from aad_plugin.judges.statistics.jury import jury_figures
from aad_plugin.judges.statistics.labels import label_figures
from aad_plugin.judges.statistics.length_control import LengthControlled, length_controlled
from aad_plugin.judges.statistics.noise import noise_figures

MAX_UNJUDGED = 0.02
_NAN = float("nan")


@dataclass(frozen=True)
class Summary:
    """Figures of one run; rates lie in 0..1 and are NaN (null in JSON) where nothing was judged.

    Args:
        kind: "pairwise" or "pointwise". judge, judge_fingerprint, template_hash: who judged, and how.
        win_rate: mean of p(candidate better); a tie counts one half. standard_error, ci95: of it, clustered by prompt.
        n_prompts: prompts with a verdict, which is what an interval counts. ci_method: how ci95 was found.
        n: items asked or known, i.e. judged + unjudged. n_unjudged: without verdict; `unjudged` counts them by reason.
        n_not_asked: left out because the run ended before (`partial` is then true); not part of n.
        worst_case, best_case: win rate if every unjudged item were lost, or won.
        wins, losses, ties: p above, below and at one half. ties_by_agreement: both orders say tie, or the texts are
            identical; ties_by_disagreement: the orders contradict each other.
        position_consistency: share of items on which both orders favour the same answer (or neither does).
        first_position_rate: mean p of whatever was shown first; 0.5 is without bias. Both NaN for judges without order.
        lc_win_rate, lc_standard_error, lc_ci95: as if answers were equally long; `lc_method` names method and data.
        candidate_length, baseline_length: mean characters, thinking removed.
        grade, grade_standard_error: mean of pointwise grades. labels: label -> share of judged items;
            label_standard_errors: of it. All errors are clustered by prompt.
        prompt_tokens, completion_tokens, cost: of the judge; cost is None without a price.
        models, system_fingerprints: reply's own name -> items; more than one of either is drift.
        extra: figures of repeats (`noise`), of a jury (`jury`), of a rubric (`criteria`), of challenges (`challenge`), of
            the languages asked in and of human labels (`labels`), where there are any.
    """

    kind: str
    judge: str
    judge_fingerprint: str
    template_hash: str
    win_rate: float
    standard_error: float
    ci95: tuple[float, float]
    n: int
    n_unjudged: int
    n_not_asked: int = 0
    n_prompts: int = 0
    ci_method: str = ""
    unjudged: dict[str, int] = field(default_factory=dict)
    worst_case: float = _NAN
    best_case: float = _NAN
    wins: int = 0
    losses: int = 0
    ties: int = 0
    ties_by_agreement: int = 0
    ties_by_disagreement: int = 0
    position_consistency: float = _NAN
    first_position_rate: float = _NAN
    lc_win_rate: float = _NAN
    lc_standard_error: float = _NAN
    lc_ci95: tuple[float, float] = (_NAN, _NAN)
    lc_method: str = ""
    candidate_length: float = _NAN
    baseline_length: float = _NAN
    grade: float = _NAN
    grade_standard_error: float = _NAN
    labels: dict[str, float] = field(default_factory=dict)
    label_standard_errors: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    models: dict[str, int] = field(default_factory=dict)
    system_fingerprints: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether some items were never asked; they are a random remainder, so the figures stay unbiased."""
        return self.n_not_asked > 0

    @property
    def drift(self) -> bool:
        """Whether the replies of a judge name more than one model or system fingerprint."""
        judges = list(self.extra.get("win_rate_by_judge", ()))
        return any(len(group) > 1 for names in (self.models, self.system_fingerprints) for group in _by(names, judges))

    def too_many_unjudged(self, limit: float = MAX_UNJUDGED) -> bool:
        """Whether the share of unjudged items is above `limit` (0..1), or nothing was judged."""
        return self.n == 0 or self.n_unjudged > limit * self.n or self.n_unjudged == self.n

    def reportable(self, name: str, limit: float = MAX_UNJUDGED) -> float:
        """A figure by its field name, or NaN where too many items are unjudged: what an lm-eval run reports."""
        value = getattr(self, name)
        return _NAN if self.too_many_unjudged(limit) or value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """All figures, ready for `json.dumps`; NaN becomes null."""
        plain = {**dataclasses.asdict(self), "partial": self.partial, "drift": self.drift}
        plain.update(plain.pop("extra"))
        return without_nan(plain)


def summarize(
    verdicts: Sequence[Verdict],
    *,
    difficulties: Mapping[str, float] | None = None,
    labels: Mapping[str, Any] | None = None,
    gamed: str | Path | None = None,
    resamples: int = 9999,
    seed: int = 0,
) -> Summary:
    """Figures of verdicts of one judge.

    Args:
        verdicts: as `compare` or `grade` returned them, or as read from ``verdicts.jsonl``.
        difficulties: item id -> AlpacaEval's instruction difficulty, for the length-controlled rate.
        labels: item id -> human verdict, see `labels.read_labels`.
        gamed: AlpacaEval's df_gamed.csv; the length-controlled rate is then alpaca_eval's own.
        resamples, seed: of the bootstrap of kappa, where there are labels.
    Raises:
        ConfigError: `difficulties` or `gamed` belong to other instructions.
    """
    if difficulties is not None:
        check_difficulties(verdicts, difficulties)
    asked = [v for v in verdicts if v.reason != "not_asked"]
    judged = [v for v in asked if v.judged]
    unjudged = Counter(v.reason or "" for v in asked if not v.judged)
    pairwise = any(v.p is not None or v.orders for v in judged) or not any(
        v.grade is not None or v.label is not None for v in judged
    )
    costs = [v.cost for v in verdicts if v.cost is not None]
    figures: dict[str, Any] = {
        "kind": "pairwise" if pairwise else "pointwise",
        "judge": verdicts[0].judge if verdicts else "",
        "judge_fingerprint": verdicts[0].judge_fingerprint if verdicts else "",
        "template_hash": verdicts[0].template if verdicts else "",
        "n": len(asked),
        "n_unjudged": len(asked) - len(judged),
        "n_prompts": len({v.prompt for v in judged}),
        "n_not_asked": len(verdicts) - len(asked),
        "unjudged": dict(unjudged.most_common()),
        "prompt_tokens": sum(v.prompt_tokens for v in verdicts),
        "completion_tokens": sum(v.completion_tokens for v in verdicts),
        "cost": math.fsum(costs) if costs else None,
        "models": dict(Counter(name for v in verdicts for name in v.models).most_common()),
        "system_fingerprints": dict(Counter(name for v in verdicts for name in v.system_fingerprints).most_common()),
        "candidate_length": _mean([v.candidate_length for v in judged]),
    }
    if pairwise:
        controlled = _official(verdicts, gamed) if gamed is not None else _length_control(judged, difficulties)
        figures |= _pairwise(judged, len(asked), controlled) | _positions(judged)
    else:
        figures |= _pointwise(judged)
    figures["extra"] = noise_figures(verdicts) | jury_figures(verdicts)
    figures["extra"] |= criteria_figures(verdicts) | challenge_figures(verdicts)
    if languages := Counter(v.language for v in verdicts if v.language):
        figures["extra"]["languages"] = dict(languages.most_common())
    if labels is not None:
        figures["extra"] |= label_figures(verdicts, labels, resamples, seed)
    return Summary(**figures)


def _pairwise(judged: Sequence[Verdict], num: int, controlled: LengthControlled) -> dict[str, Any]:
    p = np.array([v.p for v in judged], dtype=float)
    prompts = [v.prompt for v in judged]
    overall = mean_with_interval(p, prompts)
    return {
        "win_rate": overall.value,
        "standard_error": overall.standard_error,
        "ci95": (overall.low, overall.high),
        "ci_method": INTERVAL_METHOD,
        "worst_case": float(p.sum() / num) if num else _NAN,
        "best_case": float((p.sum() + num - len(p)) / num) if num else _NAN,
        "wins": int((p > 0.5).sum()),
        "losses": int((p < 0.5).sum()),
        "ties": int((p == 0.5).sum()),
        "lc_win_rate": controlled.value,
        "lc_standard_error": controlled.standard_error,
        "lc_ci95": (controlled.low, controlled.high),
        "lc_method": controlled.method,
        "baseline_length": _mean([v.baseline_length for v in judged]),
    }


def check_difficulties(verdicts: Sequence[Verdict], difficulties: Mapping[str, float]) -> None:
    """Refuse instruction difficulties of other prompts: they go by row number, so any file's rows would get some.

    Raises:
        ConfigError: the verdicts (of any outcome) are not on just the instructions that have a difficulty.
    """
    matched = sum(v.id in difficulties for v in verdicts)
    if not matched == len(verdicts) == len(difficulties):
        raise ConfigError(
            f"instruction difficulties are those of AlpacaEval's {len(difficulties)} instructions, by row number of the "
            f"baseline's file; expected verdicts on all of them, got {len(verdicts)} of which {matched} are numbered so; "
            "leave the difficulties out for other prompts"
        )


def _official(verdicts: Sequence[Verdict], gamed: str | Path) -> LengthControlled:
    """By AlpacaEval's own package, which leaves rows without a verdict out of the fit; no rate where it fails."""
    from aad_plugin.judges.statistics.official import official_length_control

    rows = sorted(verdicts, key=lambda v: (len(v.id), v.id))  # numbers, as numbers are ordered
    lengths = [v.candidate_length for v in rows], [v.baseline_length for v in rows]
    try:
        return official_length_control([v.p for v in rows], *lengths, gamed)
    except (BackendMissing, JudgeUnavailable) as error:  # the verdicts are paid for, and their other figures stand
        return LengthControlled(_NAN, _NAN, _NAN, _NAN, f"none: {error}")


def _length_control(judged: Sequence[Verdict], difficulties: Mapping[str, float] | None) -> LengthControlled:
    """By our regression."""
    hardness = [difficulties[v.id] for v in judged] if difficulties is not None else None
    lengths = [v.candidate_length for v in judged], [v.baseline_length for v in judged]
    return length_controlled([v.p or 0.0 for v in judged], *lengths, hardness, [v.prompt for v in judged])


def _positions(judged: Sequence[Verdict]) -> dict[str, Any]:
    """How the two orders of an item agree; items without a second order (or without a call) do not count."""
    both = [(v.orders[0], v.orders[1]) for v in judged if len(v.orders) == 2]
    sides = [(np.sign(a - 0.5), np.sign(b - 0.5)) for a, b in both if a is not None and b is not None]
    without_call = sum(not v.orders and v.p == 0.5 for v in judged)
    return {
        "position_consistency": _mean([a == b for a, b in sides]),
        "first_position_rate": _mean([(a + 1 - b) / 2 for a, b in both if a is not None and b is not None]),
        "ties_by_agreement": without_call + int(sum(a == b == 0 for a, b in sides)),
        "ties_by_disagreement": int(sum(a * b < 0 for a, b in sides)),
    }


def _pointwise(judged: Sequence[Verdict]) -> dict[str, Any]:
    graded = [v for v in judged if v.grade is not None]
    labelled = [v for v in judged if v.label is not None]
    grades = [v.grade or 0.0 for v in graded]
    labels = Counter(v.label for v in labelled)
    prompts = [v.prompt for v in labelled]
    errors = {label: standard_error([v.label == label for v in labelled], prompts) for label, _ in labels.most_common()}
    return {
        "win_rate": _NAN,
        "standard_error": _NAN,
        "ci95": (_NAN, _NAN),
        "grade": _mean(grades),
        "grade_standard_error": standard_error(grades, [v.prompt for v in graded]),
        "labels": {label: count / labels.total() for label, count in labels.most_common()},
        "label_standard_errors": errors,
    }


def _by(names: Mapping[str, int], judges: Sequence[str]) -> list[list[str]]:
    """Names of replies judge by judge: a jury's stand behind its judges' names, see `jury`."""
    if not judges:
        return [list(names)]
    return [[name for name in names if name.startswith(f"{judge}: ")] for judge in judges]


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else _NAN
