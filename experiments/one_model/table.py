"""The rows as one table: every row against the policy's greedy answers, paired over prompts; seeds one by one, and then all
of a training's seeds as one row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.intervals import mean_with_interval, shown, standard_error
from aad_plugin.judges.statistics.length_control import length_controlled
from aad_plugin.training.evaluation import Answers, better
from experiments.one_model.rows import TRAINED

_HEAD = (
    "row", "oracle", "wins against greedy", "at matched length", "characters", "KL", "degenerate", "s/token",
    "AAD's choices", "where AAD leaves greedy",
)  # fmt: skip


def write_table(folder: Path, done: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """Write ``one_model.md`` and ``.json``; returns the first."""
    greedy = done.get("greedy")
    figures = [_figures(str(row["row"]), [row], greedy) for row in done.values()]
    for name in TRAINED:
        seeds = [row for row in done.values() if str(row["row"]).rpartition("-")[0] == name]
        if len(seeds) > 1:
            figures.append(_figures(f"{name}, {len(seeds)} seeds", seeds, greedy))
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


def _figures(name: str, rows: Sequence[Mapping[str, Any]], greedy: Mapping[str, Any] | None) -> dict[str, Any]:
    """Figures of one row, or of several that differ in their seed: means over all answers, whose intervals take prompts as
    what was drawn and the seeds as given."""
    kept = {"row": name, **{key: value for key, value in rows[0].items() if key not in ("row", "texts", "rewards")}}
    if len(rows) > 1:
        kept["note"] = ""
    for measure in ("kl_to_policy", "degenerate", "aad_choices", "aad_departures"):
        found = [row[measure] for row in rows]
        kept[measure] = None if None in found else math.fsum(found) / len(found)
    answers = [Answers(list(row["texts"]), list(row["rewards"])) for row in rows]
    rewards = [reward for one in answers for reward in one.scores]
    prompts = [number for one in answers for number in range(len(one.texts))]
    kept |= {"oracle_mean": math.fsum(rewards) / len(rewards), "oracle_se": standard_error(rewards, prompts),
             "characters": math.fsum(one.characters for one in answers) / len(answers)}  # fmt: skip
    return kept if greedy is None or name == "greedy" else kept | _against(greedy, answers, prompts)


def _against(greedy: Mapping[str, Any], answers: Sequence[Answers], prompts: Sequence[int]) -> dict[str, float | None]:
    base, kept = Answers(list(greedy["texts"]), list(greedy["rewards"])), {}
    p = [value for one in answers for value in better(one, base)]
    lengths = [length for one in answers for length in one.lengths]
    raw = mean_with_interval(p, prompts)
    matched = length_controlled(p, lengths, base.lengths * len(answers), clusters=prompts)
    for key, found in (("win_rate", raw), ("win_rate_at_matched_length", matched)):
        for end, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
            kept[f"{key}{end}"] = None if math.isnan(value) else value  # too few prompts
    return kept


def _cells(one: Mapping[str, Any]) -> list[str]:
    name = f"{one['row']} ({one['note']})" if one["note"] else str(one["row"])
    return [
        name, f"{one['oracle_mean']:.3f} ± {one['oracle_se']:.3f}", _rate(one, "win_rate"),
        _rate(one, "win_rate_at_matched_length"), f"{one['characters']:.0f}",
        _number(one["kl_to_policy"], 3), f"{one['degenerate']:.3f}",
        _number(one.get("seconds_per_token"), 4), f"{one['aad_choices']:.3f}", f"{one['aad_departures']:.3f}",
    ]  # fmt: skip


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _rate(one: Mapping[str, Any], name: str) -> str:
    return shown(*(one.get(f"{name}{end}") for end in ("", "_low", "_high")))
