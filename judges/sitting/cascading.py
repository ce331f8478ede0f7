"""Run a cascade: the cheap judge on every comparison, the dear one where `cascade.choose` says; keep who said what.

``cascade.jsonl`` holds a line per comparison, ``cascade.json`` the figures; the rulings of both judges lie in one store,
so that a run that ends early goes on, and a later run of the dear judge over everything pays only for the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.files.whole import replacing, without_nan
from aad_plugin.judges.items import Comparison, Verdict
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.judging import compare
from aad_plugin.judges.statistics.cascade import RANDOM_SHARE, choose, corrected, is_free
from aad_plugin.judges.statistics.intervals import mean_with_interval


@dataclass(frozen=True, slots=True)
class CascadeRow:
    """What is known of one comparison.

    Args:
        id, prompt: as in `Verdict`. cheap, dear: p by either judge, None where it has none. chance: of being put before the
            dear judge. asked: whether it was. source: name of the judge whose verdict is the best known; "" where unjudged.
        reason: why the judge that was asked last has no verdict; None where it has one. An item that the dear judge left
            unjudged counts by the cheap one's, see `cascade_figures`.
        free: identical answers, a tie that no judge is asked about.
    """

    id: str
    prompt: str
    cheap: float | None
    dear: float | None
    chance: float
    asked: bool
    source: str
    reason: str | None = None
    free: bool = False


def cascade(
    comparisons: Sequence[Comparison],
    cheap: Judge,
    dear: Judge,
    output_dir: str | Path | None = None,
    *,
    share: float = 0.5,
    least: float = RANDOM_SHARE,
    seed: int = 0,
    **run: Any,
) -> tuple[list[CascadeRow], dict[str, Any]]:
    """Judge by a cascade; blocks on both judges.

    Args:
        comparisons: ids unique. cheap, dear: pairwise judges, not the same one. output_dir: of the store.
        share: of the comparisons that the dear judge is asked about. least: lowest chance of that. seed: of draw and order.
        run: further arguments of `compare` (transport, progress, …).
    Returns:
        a row per comparison, and the figures, see `cascade_figures`.
    Raises:
        ConfigError: a pointwise judge, twice the same one, a share out of its range, or a judge whose replies are missing.
        JudgeError: the dear judge has left all of its items unjudged.
    """
    _refuse_twins(cheap, dear)
    first = compare(comparisons, cheap, output_dir, seed=seed, **run)
    _refuse_unfinished(cheap.name, first, ", and the dear judge's are drawn by its verdicts")
    chosen = choose(first, share, least, seed)
    asked = [item for item, is_asked in zip(comparisons, chosen.asked, strict=True) if is_asked]
    second = {verdict.id: verdict for verdict in compare(asked, dear, output_dir, seed=seed, **run)} if asked else {}
    _refuse_twins(cheap, dear)  # two forms of reply may have been found out to be one
    _refuse_unfinished(dear.name, list(second.values()), " that it was asked about")
    rows = [
        _row(verdict, second.get(verdict.id), chance, is_asked)
        for verdict, chance, is_asked in zip(first, chosen.chances, chosen.asked, strict=True)
    ]
    figures = cascade_figures(rows, cheap.name, dear.name)
    costs = [[v.cost for v in verdicts if v.cost is not None] for verdicts in (first, second.values())]
    figures |= {
        name: sum(cost) if cost else None for name, cost in zip(("cost_cheap", "cost_dear"), costs, strict=True)
    }
    return rows, figures | {"share": share, "least_chance": least, "seed": seed}


def _refuse_twins(cheap: Judge, dear: Judge) -> None:
    if cheap.fingerprint == dear.fingerprint:
        raise ConfigError(f"a cascade needs two different judges, got {cheap.name} twice")


def _refuse_unfinished(name: str, verdicts: Sequence[Verdict], why: str) -> None:
    """Raise unless the judge has been asked about everything, and has judged something."""
    if any(verdict.reason == "not_asked" for verdict in verdicts):
        raise ConfigError(
            f"{name} has not judged all {len(verdicts)} items{why}; finish it first (a higher --max-cost, or the missing "
            "replies)"
        )


def _row(first: Verdict, second: Verdict | None, chance: float, asked: bool) -> CascadeRow:
    dear = second.p if second is not None and second.judged else None
    reason = None
    if asked and dear is None and second is not None:
        reason = second.reason
    elif not asked and first.p is None:
        reason = first.reason
    source = "" if reason else second.judge if second is not None else first.judge
    return CascadeRow(first.id, first.prompt, first.p, dear, chance, asked, source, reason, is_free(first))


def cascade_figures(rows: Sequence[CascadeRow], cheap: str, dear: str) -> dict[str, Any]:
    """Figures of a cascade.

    Args:
        rows: of any outcome. cheap, dear: the judges' names.
    Returns:
        win_rate (of the dear judge over all items, cut to 0..1) with standard_error and ci95; cheap_win_rate, which is
        biased by as much as the judges differ, with correction (the difference) and agreement (estimated share of items on
        which both favour the same side); n, n_asked, n_unjudged (by the judge asked last); source, in words.
    Raises:
        JudgeError: the dear judge has left all of its items unjudged.
    """
    counted = [row for row in rows if row.cheap is not None or row.dear is not None]
    put = [row for row in counted if row.asked and row.cheap is not None and not row.free]
    silent = [row for row in put if row.dear is None]
    if put and len(silent) == len(put):
        raise JudgeError(
            f"{dear} has judged none of the {len(put)} items it was asked about ({silent[0].reason}), so nothing corrects "
            f"{cheap}; all replies are kept"
        )
    heard = 1 - len(silent) / max(1, len(put))
    found = corrected(
        [row.cheap for row in counted],
        [row.dear for row in counted],
        [row.chance if row.free or row.cheap is None else row.chance * heard for row in counted],
        [row.prompt for row in counted],
    )
    alone = mean_with_interval([row.cheap for row in counted if row.cheap is not None])
    both = [row for row in counted if row.dear is not None and row.cheap is not None]
    weights = np.array([1 / row.chance for row in both])
    same = [np.sign(row.cheap - 0.5) == np.sign(row.dear - 0.5) for row in both]  # type: ignore[operator]
    asked = sum(row.asked and not row.free for row in counted)
    low, high = (min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return without_nan(
        {
            "kind": "cascade",
            "judge": f"{cheap} → {dear}",
            "win_rate": min(max(found.value, 0.0), 1.0),
            "standard_error": found.standard_error,
            "ci95": [low, high],
            "cheap_win_rate": alone.value,
            "correction": found.value - alone.value,
            "agreement": float(weights @ same / weights.sum()) if both else float("nan"),
            "n": len(rows),
            "n_asked": asked,
            "n_unjudged": sum(row.reason is not None for row in rows),
            "source": (
                f"the win rate that {dear} would give all {len(counted)} items: {cheap} judged all of them, {dear} "
                f"{asked}, drawn with known chances; difference estimator (Cassel, Särndal & Wretman 1976), unbiased "
                f"whatever {cheap} is worth"
                + (
                    f", if {len(silent)} that {dear} left unjudged are like the others it was asked about"
                    if silent
                    else ""
                )
            ),
        }
    )


def write_cascade(folder: str | Path, rows: Sequence[CascadeRow], figures: dict[str, Any]) -> None:
    """Write ``cascade.jsonl`` and ``cascade.json``, each whole or not at all."""
    lines = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    try:
        for name, text in (("cascade.jsonl", lines), ("cascade.json", json.dumps(figures, indent=2) + "\n")):
            with replacing(Path(folder) / name) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write to {folder}: {error.strerror or error}; all rulings are kept") from error
