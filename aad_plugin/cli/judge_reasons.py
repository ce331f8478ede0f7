"""`aad judge-check --compare-reasons`: no reasons, reasons first or verdict first, measured on the same comparisons."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from aad_plugin.cli.judge_options import JudgeOptions
from aad_plugin.errors import ConfigError, JudgeError


def compare_reasons(judge: str, asked: JudgeOptions, labels: Path | None, output: Path | None) -> None:
    """Measure, print the table and, with `output`, write ``reasons.json``."""
    from aad_plugin.files.whole import without_nan
    from aad_plugin.judges.checks.reasons import measure_reasons

    if asked.reasons is not None:
        raise ConfigError("--compare-reasons tries every place for the reasons: leave --reasons out")
    found = measure_reasons(lambda place: asked.but(reasons=place).load([judge])[0], labels, output)
    _print(judge, found)
    if output is not None:
        text = json.dumps(without_nan([dataclasses.asdict(one) for one in found]), indent=2)
        try:
            (output / "reasons.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise JudgeError(f"cannot write to {output}: {error.strerror or error}; all rulings are kept") from error


def _print(name: str, found: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from aad_plugin.judges.statistics.intervals import shown

    table = Table("reasons", "right [95 %]", "change to none [95 %]", "consistency", "tokens per item", "unjudged")
    for one in found:
        change = shown(one.change.value, one.change.low, one.change.high, sign="+") if one.change else ""
        table.add_row(
            one.reasons, shown(one.right, one.low, one.high), change, f"{one.consistency:.3f}",
            f"{one.tokens:.0f}", f"{one.unjudged} of {one.n + one.unjudged}",
        )  # fmt: skip
    console = Console(markup=False)
    console.print(name.partition(",")[0], table)
