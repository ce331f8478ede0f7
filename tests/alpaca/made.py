"""Made-up instructions, outputs and verdicts: no text of AlpacaEval's own, whose licence keeps it out of the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.public_data import DATA

BASELINE = DATA / "alpaca_eval_gpt4_1106_preview_model_outputs.json"
NUM = 12


def instruction(number: int) -> str:
    """An instruction of one's own."""
    return f"Explain thing number {number} to a friend."


def references(num: int = NUM) -> list[dict[str, str]]:
    """Rows of a reference's outputs."""
    return [
        {"dataset": "own", "instruction": instruction(n), "output": f"Thing {n} is a thing.", "generator": "plain"}
        for n in range(num)
    ]


def write(path: Path, content: Any) -> Path:
    """Write JSON; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def outputs(name: str, rows: list[dict[str, str]] | None = None) -> list[dict[str, str]]:
    """Rows of a model's outputs, all different, of uneven length."""
    return [
        {**row, "output": f"A good answer, number {n}. " + "It is a good one. " * (n % 7), "generator": name}
        for n, row in enumerate(rows if rows is not None else references())
    ]
