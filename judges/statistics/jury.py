"""A jury: several judges over the same items. Mean and majority of their verdicts, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.cyclic_jury import CYCLIC, cyclic_figures
from aad_plugin.judges.statistics.intervals import mean_with_interval
from aad_plugin.texts.messages import digest


def jury_verdicts(by_judge: Mapping[str, Sequence[Verdict]]) -> list[Verdict]:
    """Join the verdicts of several judges over the same items, in the same order.

    Args:
        by_judge: judge -> its verdicts; pairwise judges only.
    Returns:
        one verdict per item: p, its orders and its further rounds are means over judges, `members` holds each judge's
        p; models and system fingerprints stand behind the name of their judge. An item is unjudged where any judge left
        it unjudged: a jury that changes from item to item could win or lose by who is absent.
    Raises:
        ConfigError: fewer than two judges, or judges that are not pairwise.
    """
    if len(by_judge) < 2:
        raise ConfigError(f"a jury needs at least two different judges, got {', '.join(by_judge) or 'none'}")
    joined = []
    for verdicts in zip(*by_judge.values(), strict=True):
        members = dict(zip(by_judge, (v.p for v in verdicts), strict=True))
        if any(v.judged and v.p is None for v in verdicts):
            raise ConfigError("a jury is made of pairwise judges; give pointwise ones a run of their own")
        failed = next(((name, v) for name, v in zip(by_judge, verdicts, strict=True) if not v.judged), None)
        costs = [v.cost for v in verdicts if v.cost is not None]
        first = verdicts[0]
        joined.append(
            Verdict(
                id=first.id,
                prompt=first.prompt,
                judge=" + ".join(by_judge),
                judge_fingerprint=digest(sorted(v.judge_fingerprint for v in verdicts)),
                template=first.template if len({v.template for v in verdicts}) == 1 else "",
                p=None if failed else float(np.mean([v.p for v in verdicts])),
                reason=failed[1].reason if failed else None,
                detail=f"{failed[0]}: {failed[1].detail}" if failed else "",
                candidate_length=first.candidate_length,
                baseline_length=first.baseline_length,
                orders=() if failed else _orders(verdicts),
                repeats=() if failed else _rounds(verdicts),
                models=_named(by_judge, [v.models for v in verdicts]),
                system_fingerprints=_named(by_judge, [v.system_fingerprints for v in verdicts]),
                prompt_tokens=sum(v.prompt_tokens for v in verdicts),
                completion_tokens=sum(v.completion_tokens for v in verdicts),
                seconds=sum(v.seconds for v in verdicts),
                cost=sum(costs) if costs else None,
                members=members,
                criteria=_criteria(verdicts),
                language=first.language,
                rulings=tuple(key for v in verdicts for key in v.rulings),
            )
        )
    return joined


def _orders(verdicts: Sequence[Verdict]) -> tuple[float, ...]:
    """Mean per order; a judge without order says the same in both."""
    num = max(len(v.orders) for v in verdicts)
    by_judge = [v.orders if len(v.orders) == num else (v.p,) * num for v in verdicts]
    return tuple(float(np.mean(np.array(one, dtype=float))) for one in zip(*by_judge, strict=True))


def _criteria(verdicts: Sequence[Verdict]) -> dict[str, tuple[float | None, ...]] | None:
    """Mean per criterion and order, None where any judge did not state it; None where not all were asked by criteria."""
    if not all(v.criteria for v in verdicts):
        return None
    told = [v.criteria or {} for v in verdicts]
    names = [name for name in told[0] if all(name in one for one in told)]
    return {name: tuple(map(_mean_if_all, *(one[name] for one in told))) for name in names}


def _mean_if_all(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _rounds(verdicts: Sequence[Verdict]) -> tuple[float, ...]:
    """Mean per further round, as far as all judges have it."""
    return tuple(float(np.mean(one)) for one in zip(*(v.repeats for v in verdicts), strict=False))


def _named(judges: Iterable[str], values: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(f"{judge}: {value}" for judge, found in zip(judges, values, strict=True) for value in found)


def jury_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Figures that only a jury has; {} for verdicts of one judge.

    Returns:
        majority_win_rate with majority_ci95 (each item goes to the side most judges favour, ties one half),
        judge_agreement (share of judge pairs that favour the same side, over items), fleiss_kappa (statsmodels),
        win_rate_by_judge.
    """
    judged = [v for v in verdicts if v.judged and v.members]
    if not judged:
        return {}
    if judged[0].judge.startswith(CYCLIC):
        return cyclic_figures(verdicts)
    names = list(judged[0].members or {})
    p = np.array([[(v.members or {})[name] for name in names] for v in judged], dtype=float)
    sides = np.sign(p - 0.5)
    majority = np.sign(sides.sum(axis=1)) / 2 + 0.5
    overall = mean_with_interval(majority, [v.prompt for v in judged])
    pairs = [(sides[:, a] == sides[:, b]).mean() for a, b in combinations(range(len(names)), 2)]
    return {
        "majority_win_rate": overall.value,
        "majority_ci95": [overall.low, overall.high],
        "judge_agreement": float(np.mean(pairs)),
        "fleiss_kappa": _fleiss(sides),
        "win_rate_by_judge": dict(zip(names, p.mean(axis=0).tolist(), strict=True)),
    }


def _fleiss(sides: np.ndarray) -> float:
    from statsmodels.stats.inter_rater import fleiss_kappa

    counts = [[Counter(row.tolist())[side] for side in (-1.0, 0.0, 1.0)] for row in sides]
    if len(np.unique(sides)) == 1:
        return float("nan")
    return float(fleiss_kappa(np.array(counts)))
