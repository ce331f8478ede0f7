"""``make demo``: evaluate the demo pair through lm-eval and show what came out.

Runs ``lm_eval run --model aad --model_args pair=demo --tasks aad_demo_dialogue --apply_chat_template --batch_size 16``,
then prints win rates with 95 % intervals, the figures per strategy, and answers side by side.

Run: python -m aad_plugin.demo [any lm_eval argument]
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

OUTPUT = Path("aad_runs")
TASK = "aad_demo_dialogue"
SHOWN = 3


def main(arguments: list[str]) -> None:
    """Evaluate, then show the newest run of the task."""
    from aad_plugin.cli.main import run

    own = [
        "--model",
        "aad",
        "--model_args",
        "pair=demo",
        "--tasks",
        TASK,
        "--apply_chat_template",
        "--batch_size",
        "16",
    ]
    sys.argv = ["aad", "eval", *own, "--output_path", str(OUTPUT / "results"), *arguments]
    run()
    show(max((OUTPUT / TASK).iterdir()))


def show(folder: Path) -> None:
    """Print one run's win rates and its first answers."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        "aad against",
        "win rate",
        "95 % interval",
        "at matched length",
        "n",
        "aad / rival, characters",
        title="Win rates",
    )
    for file in sorted(folder.glob("vs_*/summary.json")):
        table.add_row(file.parent.name.removeprefix("vs_"), *_cells(json.loads(file.read_text(encoding="utf-8"))))
    console.print(table)
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        console.print(_side_by_side(row))
    console.print(f"everything: {folder}")


def _cells(summary: dict[str, Any]) -> list[str]:
    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def interval(values: list[float | None]) -> str:
        return f"[{rate(values[0])}, {rate(values[1])}]"

    matched = f"{rate(summary['lc_win_rate'])} {interval(summary['lc_ci95'])}"
    lengths = f"{summary['candidate_length']:.0f} / {summary['baseline_length']:.0f}"
    return [rate(summary["win_rate"]), interval(summary["ci95"]), matched, str(summary["n"]), lengths]


def _side_by_side(row: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(*row["outputs"], title=textwrap.shorten(row["prompt"], 100), show_lines=True)
    table.add_row(*(text.strip() for text in row["outputs"].values()))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
