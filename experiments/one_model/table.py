"""The rows as one table: every row against the policy's greedy answers, paired over prompts; seeds are told one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.intervals import shown
from aad_plugin.training.evaluation import Answers, Evaluation
from aad_plugin.training.rounds_table import Round, row_of

_HEAD = (
    "row", "oracle", "wins against greedy", "at matched length", "characters", "KL", "degenerate", "s/token",
    "AAD's choices", "where AAD leaves greedy",
)  # fmt: skip


def write_table(folder: Path, done: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """Write ``one_model.md`` and ``.json``; returns the first."""
    greedy = done.get("greedy")
    figures = [_figures(row, greedy) for row in done.values()]
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells(one)) + " |" for one in figures]
    if missing := [name for name in names if name not in done]:
        lines += ["", f"Still missing: {', '.join(missing)}."]
    attempts = folder / "attempts.jsonl"
    if attempts.is_file():
        lines += ["", "Every attempt:", ""]
        lines += [_attempt(one) for one in _attempts(attempts)]
    text = "\n".join(lines) + "\n"
    write_text(folder / "one_model.md", text)
    write_text(folder / "one_model.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return text


def _attempts(file: Path) -> list[dict[str, Any]]:
    """Every attempt in the order of beginning, with its end where one was written."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        found.setdefault((one["began"], one["row"]), {}).update(one)
    return list(found.values())


def _attempt(one: Mapping[str, Any]) -> str:
    ended = f"{one['outcome']}, {one['seconds']:.0f} s" if "outcome" in one else "under way, or killed"
    return f"* {one['began']} {one['row']}: {ended}"


def _figures(row: Mapping[str, Any], greedy: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ("texts", "rewards")}
    own = Answers(list(row["texts"]), list(row["rewards"]))
    kept |= {"oracle_mean": own.mean, "oracle_se": own.standard_error, "characters": own.characters}
    if greedy is None or row["row"] == "greedy":
        return kept
    base = Answers(list(greedy["texts"]), list(greedy["rewards"]))
    rounds = [Round(0, Evaluation(base, base)), Round(1, Evaluation(own, own))]
    found = row_of(rounds, 1)
    return kept | {name: value for name, value in found.items() if name.startswith("win_rate_over_start")}


def _cells(one: Mapping[str, Any]) -> list[str]:
    name = f"{one['row']} ({one['note']})" if one["note"] else str(one["row"])
    return [
        name, f"{one['oracle_mean']:.3f} ± {one['oracle_se']:.3f}", _rate(one, "win_rate_over_start"),
        _rate(one, "win_rate_over_start_at_matched_length"), f"{one['characters']:.0f}",
        _number(one["kl_to_policy"], 3), f"{one['degenerate']:.3f}",
        _number(one.get("seconds_per_token"), 4), f"{one['aad_choices']:.3f}", f"{one['aad_departures']:.3f}",
    ]  # fmt: skip


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _rate(one: Mapping[str, Any], name: str) -> str:
    return shown(*(one.get(f"{name}{end}") for end in ("", "_low", "_high")))
