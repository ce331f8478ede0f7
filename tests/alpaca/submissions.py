"""A good submission on AlpacaEval's own instructions, made of published outputs and verdicts, and ways to spoil it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from aad_plugin.alpaca.export import load_submission, write_submission
from aad_plugin.alpaca.instructions import InstructionSet
from aad_plugin.alpaca.layout import Layout
from tests.alpaca.made import write
from tests.public_data import DATA

NAME = "OpenHermes-again"
JUDGE = "aad_test_judge"


def published(model: str = "OpenHermes-2.5-Mistral-7B") -> list[dict]:
    """Published annotations of a model by the official judge."""
    return json.loads(gzip.decompress((DATA / f"alpaca_eval_annotations_{model}.json.gz").read_bytes()))


def files(folder: Path, annotator: str = JUDGE) -> tuple[Path, Path]:
    """model_outputs.json and annotations.json of a model under a name of its own, by a judge so named."""
    rows = [{**row, "generator_2": NAME, "annotator": annotator} for row in published()]
    outputs = [
        {"dataset": r["dataset"], "instruction": r["instruction"], "output": r["output_2"], "generator": NAME}
        for r in rows
    ]
    return write(folder / "model_outputs.json", outputs), write(folder / "annotations.json", rows)


def good(folder: Path) -> Layout:
    """A submission as `export` writes it."""
    submission = load_submission(*files(folder / "made"), InstructionSet.official())
    write_submission(submission, folder / "pr", pretty_name="Hermes", link="https://example.org")
    return Layout(folder / "pr")


def change_rows(path: Path, change) -> None:
    """Rewrite a JSON list by a function of its rows."""
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(change(rows)))
