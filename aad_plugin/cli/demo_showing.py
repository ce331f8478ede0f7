"""What the demo prints of a run: win rates, shares of right labels, and some answers side by side. Knows files only."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.texts.rows import json_lines

SHOWN = {"aad_demo_dialogue": 3}
"""How many answers of a task are shown; one of any other."""
_Row = dict[str, Any]


def figures(folders: Sequence[Path]) -> Iterator[Any]:
    """Yield the table of win rates and that of labels, as far as the run has such tasks.

    Args:
        folders: one per task: <output>/<pair>/<task>/<time>.
    """
    judged = [folder for folder in folders if any(folder.glob("vs_*/summary.json"))]
    labelled = {folder.parent.name: rows for folder in folders if (rows := _labelled(folder))}
    if judged:
        yield _win_rates(judged)
    if labelled:
        yield _labels(labelled)


def side_by_side(folders: Sequence[Path]) -> Iterator[Any]:
    """Yield a table per shown document: every answer in a column of its own."""
    from rich.table import Table
    from rich.text import Text

    for folder in folders:
        rows = [row for _, row in json_lines(folder / "answers.jsonl")]
        right = {str(row["doc"]["id"]): row["target"] for row in _labelled(folder)}
        shown = SHOWN.get(folder.parent.name, 1)
        for row in rows[:: max(1, len(rows) // shown)][:shown]:
            title = textwrap.shorten(row["prompt"].partition("\n")[0], 100)
            if row["id"] in right:
                title += f"\nright: {right[row['id']]}"
            table = Table(*row["outputs"], title=Text(title), show_lines=True)
            # As text: square brackets in an answer are no markup.
            table.add_row(*(Text(text.strip()) for text in row["outputs"].values()))
            yield table


def _win_rates(folders: Sequence[Path]) -> Any:
    from rich.table import Table

    table = Table(
        "aad against",
        "win rate",
        "95 % interval",
        "at matched length",
        "n",
        "aad / rival, characters",
        title="Win rates",
    )
    for folder in folders:
        for file in sorted(folder.glob("vs_*/summary.json")):
            summary = json.loads(file.read_text(encoding="utf-8"))
            table.add_row(file.parent.name.removeprefix("vs_"), *_cells(summary))
    return table


def _cells(summary: _Row) -> list[str]:
    from aad_plugin.judges.statistics.intervals import shown

    matched = shown(summary["lc_win_rate"], *summary["lc_ci95"])
    lengths = f"{summary['candidate_length']:.0f} / {summary['baseline_length']:.0f}"
    return [_number(summary["win_rate"]), _interval(*summary["ci95"]), matched, str(summary["n"]), lengths]


def _labels(tasks: dict[str, list[_Row]]) -> Any:
    """Share of documents with exactly the right labels; an answer that breaks the asked form has none."""
    from rich.table import Table

    from aad_plugin.judges.statistics.intervals import mean_with_interval, paired_difference, shown

    table = Table("task", "answers", "right", "95 % interval", "unreadable", "aad - greedy", "n", title="Labels")
    for task, rows in tasks.items():
        ours, theirs = ([_is_right(row, name) for row in rows] for name in ("aad", "greedy"))
        for name, right in (("aad", ours), ("greedy", theirs)):
            estimate = mean_with_interval(right)
            unreadable = sum(row[f"unparsed_{name}"] for row in rows) / len(rows)
            difference = ""
            if name == "aad":
                gap = paired_difference([a - b for a, b in zip(ours, theirs, strict=True)], limit=1)
                difference = shown(gap.value, gap.low, gap.high, sign="+")
            shares = [f"{estimate.value:.3f}", _interval(estimate.low, estimate.high), f"{unreadable:.3f}"]
            table.add_row(task.removeprefix("aad_demo_"), name, *shares, difference, str(len(rows)))
    return table


def _is_right(row: _Row, name: str) -> float:
    if f"accuracy_{name}" in row:
        return float(row[f"accuracy_{name}"])
    # Each flag's figure holds what is true and what was said, which is None for an unreadable answer.
    return float(all(said == true for true, said in (row[f"f1_{flag}_{name}"] for flag in row["doc"]["flags"])))


def _labelled(folder: Path) -> list[_Row]:
    """The samples of a labelling task that lm-eval wrote beside the results; none for other tasks."""
    task = folder.parent.name
    files = sorted(folder.parent.parent.glob(f"samples_{task}_*.jsonl"), key=lambda file: file.stat().st_mtime)
    rows = [row for _, row in json_lines(files[-1])] if files else []
    return [row for row in rows if "unparsed_aad" in row and "unparsed_greedy" in row]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return f"[{_number(low)}, {_number(high)}]"
