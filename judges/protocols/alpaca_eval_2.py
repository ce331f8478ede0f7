"""AlpacaEval 2: preferences from 1 (the baseline) to 2 (the model), win rate with and without control for length.

Source: tatsu-lab/alpaca_eval 0.6.6, metrics/winrate.py. Deviation, said in the file: upstream draws one order for each
instruction, here both are asked and their mean is the preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aad_plugin.judges.items import Comparison, Verdict
from aad_plugin.texts.messages import as_messages
from aad_plugin.texts.thinking import shown_text


def annotation_row(
    comparison: Comparison, verdict: Verdict, model: str, baseline: str, template: str
) -> dict[str, Any]:
    """A row of upstream's ``annotations.json``; null is the preference without a verdict; thinking is left out."""
    return {
        "instruction": "\n".join(turn["content"] for turn in as_messages(comparison.prompt) if turn["role"] == "user"),
        "output_1": shown_text(comparison.baseline), "generator_1": baseline,
        "output_2": shown_text(comparison.candidate), "generator_2": model,
        "annotator": f"{verdict.judge}, {template}, both orders",
        "preference": None if verdict.p is None else 1 + verdict.p,
    }  # fmt: skip


def winrate_figures(p: Sequence[float | None]) -> dict[str, Any]:
    """The figures of upstream's leaderboard; rates in percent, NaN without verdicts.

    Args:
        p: p(model better) of each instruction, None without a verdict.
    Returns:
        win_rate (mean preference), standard_error (of that mean), n_wins, n_wins_base, n_draws, n_total, discrete_win_rate
        (a draw is half a win).
    """
    known = np.array([one for one in p if one is not None], dtype=float)
    num = len(known)
    wins, losses, draws = int((known > 0.5).sum()), int((known < 0.5).sum()), int((known == 0.5).sum())
    return {
        "win_rate": float(100 * known.mean()) if num else float("nan"),
        "standard_error": float(100 * known.std(ddof=1) / num**0.5) if num > 1 else float("nan"),
        "n_wins": wins, "n_wins_base": losses, "n_draws": draws, "n_total": num,
        "discrete_win_rate": 100 * (wins + draws / 2) / num if num else float("nan"),
    }  # fmt: skip
