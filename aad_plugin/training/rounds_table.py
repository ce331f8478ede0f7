"""The table of all rounds: Markdown to read, CSV and JSON to compute with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.intervals import INTERVAL_METHOD, shown
from aad_plugin.judges.statistics.length_control import length_controlled
from aad_plugin.training.evaluation import Answers, Evaluation, better, win_rate


@dataclass(frozen=True)
class Round:
    """One round. Round 0 is the pair as given.

    Args:
        pairs: trained on. dropped: by filter. log: TRL's. stopped: rounds ended here although more were asked.
    """

    number: int
    evaluation: Evaluation
    pairs: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


def row_of(rounds: Sequence[Round], number: int) -> dict[str, Any]:
    """The figures of one round: flat, for CSV and JSON."""
    this, before, first = rounds[number], rounds[max(0, number - 1)], rounds[0]
    held_out, oracle = this.evaluation.held_out, this.evaluation.oracle
    losses = [entry["loss"] for entry in this.log if "loss" in entry]
    accuracies = [entry["rewards/accuracies"] for entry in this.log if "rewards/accuracies" in entry]
    row = {
        "round": number,
        "pairs": this.pairs,
        "dropped": sum(this.dropped.values()),
        "steps": max((entry.get("step", 0) for entry in this.log), default=0),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "last_training_accuracy": accuracies[-1] if accuracies else None,
        "picker_mean": held_out.mean,
        "picker_n": len(held_out.scores),
        "oracle_mean": oracle.mean,
        "oracle_se": oracle.standard_error,
        "oracle_n": len(oracle.scores),
        "characters": oracle.characters,
    }
    for name, other in (("previous", before), ("start", first)):
        row |= _against(f"win_rate_over_{name}", oracle, other.evaluation.oracle, number)
        row |= _at_matched_length(f"win_rate_over_{name}_at_matched_length", oracle, other.evaluation.oracle, number)
        row[f"share_better_than_{name}"] = _share(oracle, other.evaluation.oracle) if number else None
    row |= _against("picker_win_rate_over_previous", held_out, before.evaluation.held_out, number)
    return row


def write_tables(folder: Path, rounds: Sequence[Round], picker: str, oracle: str, best: Round) -> None:
    """Write ``rounds.md``, ``rounds.csv`` and ``rounds.json``."""
    rows = [row_of(rounds, number) for number in range(len(rounds))]
    write_text(folder / "rounds.json", json.dumps({"picker": picker, "oracle": oracle, "picked": best.number,
                                                    "ci_method": INTERVAL_METHOD,
                                                    "rounds": rows}, indent=2) + "\n")  # fmt: skip
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "rounds.csv", table.getvalue())
    write_text(folder / "rounds.md", _markdown(rows, picker, oracle, best, rounds[-1]))


def _against(name: str, new: Answers, old: Answers, number: int) -> dict[str, float | None]:
    if not number:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    found = win_rate(new, old)
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _at_matched_length(name: str, new: Answers, old: Answers, number: int) -> dict[str, float | None]:
    if not number:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    found = length_controlled(better(new, old), new.lengths, old.lengths)
    values = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: None if math.isnan(value) else value for key, value in values.items()}  # too few prompts


def _share(new: Answers, old: Answers) -> float:
    """Share of prompts with the larger score; a tie counts one half."""
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(new.scores, old.scores, strict=True)]
    return sum(wins) / len(wins)


def _markdown(rows: list[dict[str, Any]], picker: str, oracle: str, best: Round, last: Round) -> str:
    same = " (the same model: no independent measure)" if picker == oracle else ""
    lines = [
        f"Greedy decoding of every round's policy. Picker: `{picker}` on {rows[0]['picker_n']} held-out prompts. "
        f"Oracle: `{oracle}`{same} on {rows[0]['oracle_n']} other prompts. Win rates: mean p(better), 95 % "
        f"interval: {INTERVAL_METHOD}.",
        "",
        "| round | pairs (left out) | steps, loss | picker | oracle ± se | over the round before | over round 0 "
        "| at matched length | better than round 0 | characters |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first = row["round"] == 0
        cells = [
            f"{row['round']}" + (" (picked)" if row["round"] == best.number else ""),
            "-" if first else f"{row['pairs']} ({row['dropped']})",
            "-" if first else _training(row),
            f"{row['picker_mean']:.3f}",
            f"{row['oracle_mean']:.3f} ± {row['oracle_se']:.3f}",
            "-" if first else _interval(row, "win_rate_over_previous"),
            "-" if first else _interval(row, "win_rate_over_start"),
            "-" if first else _interval(row, "win_rate_over_start_at_matched_length"),
            "-" if first else f"{row['share_better_than_start']:.3f}",
            f"{row['characters']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row["win_rate_over_start_at_matched_length"] is None for row in rows[1:]):
        lines += ["", "– at matched length: too few prompts to fit the effect of length."]
    if last.stopped:
        lines += [
            "",
            f"Stopped after round {last.number}: on the held-out prompts the picker prefers round {best.number}.",
        ]
    return "\n".join(lines) + "\n"


def _training(row: dict[str, Any]) -> str:
    """Steps and loss; a recipe may log so seldom that a round ends before its first."""
    if row["first_loss"] is None:
        return "no loss logged: lower logging_steps"
    return f"{row['steps']}, {row['first_loss']:.3f} → {row['last_loss']:.3f}"


def _interval(row: dict[str, Any], name: str) -> str:
    return shown(row[name], row[f"{name}_low"], row[f"{name}_high"])
