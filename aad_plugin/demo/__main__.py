"""``make demo``: evaluate the demo pair through lm-eval and show what came out.

Runs ``lm_eval run --model aad --model_args pair=demo --tasks aad_demo_dialogue --apply_chat_template --batch_size 16
--output_path aad_runs --log_samples``, then prints win rates with 95 % intervals and three prompts with their answers side
by side, writes the run as a page and says what to type next.

Run: python -m aad_plugin.demo [any argument of lm_eval run, for example --limit 4]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

OUTPUT = "aad_runs"
TASK = "aad_demo_dialogue"
SHOWN = 3
QUESTION = "How do I keep bread fresh?"
_OWN = [
    "--model", "aad", "--model_args", "pair=demo", "--tasks", TASK, "--apply_chat_template", "--batch_size", "16",
    "--log_samples",
]  # fmt: skip


def main(arguments: list[str]) -> None:
    """Evaluate, then show this run and make its page.

    Raises:
        ConfigError: lm-eval refuses the arguments, or left no judged run of the task behind.
    """
    from aad_plugin.cli.eval import run_lm_eval

    output = _output_path(arguments)
    before = _runs(output)
    run_lm_eval([*_OWN, "--output_path", str(output), *arguments])
    if os.environ.get("RANK", "0") == "0":  # of several processes the first has judged
        show(_new_run(output, before))


def show(folder: Path) -> None:
    """Print one judged run's win rates and its first answers, and write the page of the run it belongs to."""
    from rich.console import Console

    from aad_plugin.report.building import build_report, read_runs

    # A file or a pipe has no width of its own: three answers side by side need some.
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(_win_rates(folder))
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        console.print(_side_by_side(row))
    page = folder / "report.html"
    build_report(read_runs([str(folder.parent.parent)]), page)
    aad = _program()
    print(f"the run as a page, every answer with its verdict: {page.resolve()}")
    print(f"every file of it: {folder.parent.parent}")
    print("type next, a question of your own:")
    print(f'  {aad} generate "{QUESTION}" --pair demo --strategy aad --strategy greedy')


def _output_path(arguments: list[str]) -> Path:
    """Where the run goes: --output_path among the arguments, else aad_runs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_path", "-o", default=OUTPUT)
    return Path(parser.parse_known_args(arguments)[0].output_path)


def _runs(output: Path) -> set[Path]:
    root = output.parent if output.suffix == ".json" else output
    return {path.parent for path in root.rglob("answers.jsonl") if path.parent.parent.name == TASK}


def _new_run(output: Path, before: set[Path]) -> Path:
    from aad_plugin.errors import ConfigError

    new = sorted(_runs(output) - before, key=lambda folder: folder.name)
    if not new:
        raise ConfigError(
            f"this run left no answers of {TASK} in {output}: the demo takes --limit, --batch_size and --output_path; for "
            "other tasks and models there is `aad eval`"
        )
    return new[-1]


def _program() -> str:
    """How `aad` is called from here."""
    if shutil.which("aad"):
        return "aad"
    program = Path(sys.executable).with_name("aad")
    if not program.is_file():
        return f"{sys.executable} -m aad_plugin.cli"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def _win_rates(folder: Path) -> Any:
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
    for file in sorted(folder.glob("vs_*/summary.json")):
        table.add_row(file.parent.name.removeprefix("vs_"), *_cells(json.loads(file.read_text(encoding="utf-8"))))
    return table


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
    from rich.text import Text

    table = Table(*row["outputs"], title=Text(textwrap.shorten(row["prompt"], 100)), show_lines=True)
    # As text: square brackets in an answer are no markup.
    table.add_row(*(Text(text.strip()) for text in row["outputs"].values()))
    return table


if __name__ == "__main__":
    from aad_plugin.cli.main import plain_errors

    with plain_errors():
        main(sys.argv[1:])
