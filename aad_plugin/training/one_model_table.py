"""What became of a training that makes one model of a pair: start against trained, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.intervals import shown
from aad_plugin.training.evaluation import Evaluation
from aad_plugin.training.rounds_table import Round, row_of

_LOGGED = ("loss", "reward", "kl", "completions/mean_length", "entropy")


def write_outcome(
    folder: Path,
    name: str,
    start: Evaluation,
    trained: Evaluation,
    log: Sequence[Mapping[str, Any]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write ``<name>.json`` and ``<name>.md``; returns the figures.

    Args:
        start, trained: before and after; picker on the held-out prompts, oracle on the others. log: TRL's.
        about: what was asked and chosen, JSON-able.
    """
    rounds = [Round(0, start), Round(1, trained, log=[dict(one) for one in log])]
    rows = [row_of(rounds, number) for number in (0, 1)]
    kept = [
        {key: one[key] for key in ("step", *_LOGGED) if key in one} for one in log if any(k in one for k in _LOGGED)
    ]
    figures = {"about": about, "start": rows[0], "trained": rows[1], "log": kept}
    write_text(folder / f"{name}.json", json.dumps(figures, indent=1, ensure_ascii=False, default=str) + "\n")
    write_text(folder / f"{name}.md", _markdown(name, figures))
    return figures


def _markdown(name: str, figures: Mapping[str, Any]) -> str:
    start, trained, log = figures["start"], figures["trained"], figures["log"]
    lines = [f"# aad {name}", "", "| | start | trained |", "|---|---|---|"]
    for what, label in (
        ("picker_mean", "picker, held-out prompts"),
        ("oracle_mean", "oracle"),
        ("characters", "characters"),
    ):
        lines.append(f"| {label} | {start[what]:.3f} | {trained[what]:.3f} |")
    for what, label in (
        ("win_rate_over_start", "win rate by the oracle"),
        ("win_rate_over_start_at_matched_length", "at matched length"),
    ):
        rate = shown(*(trained.get(f"{what}{end}") for end in ("", "_low", "_high")))
        lines.append(f"| {label} | – | {rate} |")
    if log:
        columns = [key for key in ("step", *_LOGGED) if any(key in one for one in log)]
        lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        shown_log = log if len(log) <= 20 else [log[i * (len(log) - 1) // 19] for i in range(20)]
        for one in shown_log:
            lines.append("| " + " | ".join(_cell(one.get(key)) for key in columns) + " |")
    lines += [
        "",
        *(f"* {key}: {value}" for key, value in figures["about"].items() if not isinstance(value, dict | list)),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "–" if value is None or value != value else str(value) if isinstance(value, int) else f"{value:.4g}"
