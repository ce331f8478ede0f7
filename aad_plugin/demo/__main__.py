"""``make demo``: evaluate the demo pair through lm-eval and show what came out.

Runs ``lm_eval run --model aad --model_args pair=demo,alpha=0.3 --tasks aad_demo --apply_chat_template --batch_size 16
--output_path aad_runs --log_samples``: dialogue, categorization and moderation (with ``dtype=float32`` on processors
without 16-bit products). Alpha was picked on prompts held out of the pair's training. Then prints win rates and shares of
right labels with 95 % intervals, some answers of each group side by side, writes the run as a page and says what to type
next.

Run: python -m aad_plugin.demo [any argument of lm_eval run, for example --limit 4]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

OUTPUT = "aad_runs"
GROUP = "aad_demo"
TASKS = ("aad_demo_dialogue", "aad_demo_categorization", "aad_demo_moderation")
ALPHA = 0.3
"""Of 0.1 and 0.3 the better one on the 62 dialogue prompts held out of training (docs/log.md of the source tree)."""
QUESTION = "How do I keep bread fresh?"
_OWN = ["--model", "aad", "--tasks", GROUP, "--apply_chat_template", "--batch_size", "16", "--log_samples"]


def main(arguments: list[str]) -> None:
    """Evaluate, then show this run and make its page.

    Raises:
        ConfigError: lm-eval refuses the arguments, or left no answers of the group's tasks behind.
    """
    from aad_plugin.cli.eval import run_lm_eval

    output = _output_path(arguments)
    before = _runs(output)
    run_lm_eval([*_OWN, "--model_args", _pair(), "--output_path", str(output), *arguments])
    if os.environ.get("RANK", "0") == "0":  # of several processes the first has judged
        show(_new_runs(output, before))


def show(folders: Sequence[Path]) -> None:
    """Print the figures of one run's tasks and some of their answers, and write the run's page.

    Args:
        folders: one per task, as the run left them: <output>/<pair>/<task>/<time>.
    """
    from rich.console import Console

    from aad_plugin.cli.demo_showing import figures, side_by_side
    from aad_plugin.report.building import build_report, read_runs

    # A file or a pipe has no width of its own: three answers side by side need some.
    console = Console(width=None if sys.stdout.isatty() else 130)
    for part in (*figures(folders), *side_by_side(folders)):
        console.print(part)
    home = folders[0].parent.parent
    page = folders[0] / "report.html"
    build_report(read_runs([str(home)]), page)
    aad = _program()
    print(f"the run as a page, every answer with its verdict: {page.resolve()}")
    print(f"every file of it: {home}")
    print("type next, a question of your own:")
    print(f'  {aad} generate "{QUESTION}" --pair demo --strategies aad,greedy')


def _pair() -> str:
    """The demo pair, in float32 where the processor has no 16-bit products: bfloat16 takes twice as long there."""
    import torch

    wide = torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT")
    pair = f"pair=demo,alpha={ALPHA}"
    return pair if wide else f"{pair},dtype=float32"


def _output_path(arguments: list[str]) -> Path:
    """Where the run goes: --output_path among the arguments, else aad_runs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_path", "-o", default=OUTPUT)
    return Path(parser.parse_known_args(arguments)[0].output_path)


def _runs(output: Path) -> set[Path]:
    root = output.parent if output.suffix == ".json" else output
    return {path.parent for path in root.rglob("answers.jsonl") if path.parent.parent.name in TASKS}


def _new_runs(output: Path, before: set[Path]) -> list[Path]:
    """The newest folder of each task that was not there before, in the order of `TASKS`."""
    from aad_plugin.errors import ConfigError

    new = {folder.parent.name: folder for folder in sorted(_runs(output) - before, key=lambda folder: folder.name)}
    if not new:
        raise ConfigError(
            f"this run left no answers of {GROUP} in {output}: the demo takes --limit, --batch_size and --output_path; for "
            "other tasks and models there is `aad eval`"
        )
    return [new[task] for task in TASKS if task in new]


def _program() -> str:
    """How `aad` is called from here."""
    if shutil.which("aad"):
        return "aad"
    program = Path(sys.executable).with_name("aad")
    if not program.is_file():
        return f"{sys.executable} -m aad_plugin.cli"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


if __name__ == "__main__":
    from aad_plugin.cli.main import plain_errors

    with plain_errors():
        main(sys.argv[1:])
