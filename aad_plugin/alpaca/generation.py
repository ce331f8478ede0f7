"""Generate ``model_outputs.json``: answer all instructions by one source, and say in ``generation.json`` how.

A folder belongs to one name, one source and one instruction set; run again after any interruption it goes on where it
stopped, and nothing stands in ``model_outputs.json`` before every output is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.findings import refuse_errors
from aad_plugin.alpaca.instructions import InstructionSet
from aad_plugin.alpaca.outputs import check_name, check_outputs
from aad_plugin.alpaca.sources import Answered, Source
from aad_plugin.errors import AADError, ConfigError
from aad_plugin.files import run_folder
from aad_plugin.files.run_folder import refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.texts.thinking import answer_after_thinking

ACCOUNT = "generation.json"
_SHOWN = 60
_CHANGED = {
    "name": "outputs of another name",
    "instructions": "outputs of a changed instruction set",
    "asked": "outputs of another source or setting",
}


@dataclass(frozen=True)
class Generated:
    """What a run has written. truncated: outputs that ran into their token budget. lost: rows left out of a part."""

    outputs: Path
    num: int
    truncated: int
    lost: int


def claim(folder: Path, name: str, instructions: InstructionSet, asked: dict[str, Any]) -> dict[str, Any]:
    """Make the folder this run's, or find that it is; returns its account.

    Raises:
        ConfigError: it holds outputs of another name, source or instruction set; says which, and changes nothing.
    """
    check_name(name)
    mine = {"name": name, "instructions": instructions.digest, "asked": asked}
    path = folder / ACCOUNT
    there = read_account(folder)
    before = there.get("asked")
    if isinstance(before, dict) and before.get("source") == "server" and "url" in asked:
        before.setdefault("url", asked["url"])  # earlier versions did not write it down
    # Of a run that failed before its first answer nothing is left to protect.
    if there.get("complete") or any(folder.glob("answers/*/*.jsonl")):
        refuse_other_run(folder, there, mine, _CHANGED)
        return there
    account: dict[str, Any] = mine | {"set": instructions.label, "kind": instructions.kind, "complete": False}
    write_text(path, json.dumps(account, indent=2, default=str) + "\n")
    return account


def read_account(folder: Path) -> dict[str, Any]:
    """``generation.json`` of a folder; empty where there is none."""
    return run_folder.read_account(folder / ACCOUNT)


def generate(
    folder: Path, name: str, instructions: InstructionSet, source: Source, *, partial: bool = False
) -> Generated:
    """Answer the instructions and write ``model_outputs.json``; blocks on the source.

    Args:
        folder: for outputs, account and kept answers. name: the generator's.
        partial: leave out rows without an answer; the result is then labelled as a part of its set.
    Raises:
        ConfigError: see `claim`; or rows have no usable answer: how many, which first, and why.
    """
    account = claim(folder, name, instructions, source.asked)
    answers = source.answer(instructions.texts)
    outputs = [_usable(answer) for answer in answers]
    lost = [number for number, (text, _) in enumerate(outputs) if text is None]
    if len(lost) == len(outputs) or (lost and not partial):
        raise _lost(instructions, outputs, lost)
    kept = [number for number in range(len(outputs)) if number not in set(lost)]
    rows = [
        {
            "dataset": instructions.rows[number].dataset,
            "instruction": instructions.texts[number],
            "output": outputs[number][0],
            "generator": name,
        }
        for number in kept
    ]
    answered = InstructionSet(
        tuple(instructions.rows[n] for n in kept),
        "partial" if lost and instructions.kind != "other" else instructions.kind,
    )
    refuse_errors(f for f in check_outputs(rows, answered, "model_outputs.json", name) if f.rule != "constant-output")
    path = folder / "model_outputs.json"
    write_text(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    cut = [number + 1 for number in kept if answers[number].truncated]
    account |= {
        "complete": True, "kind": answered.kind, "set": answered.label, "rows": len(rows),
        "truncated": None if all(a.truncated is None for a in answers) else cut, "left_out": [n + 1 for n in lost],
        "prompt": source.prompt, "completions_kwargs": source.completions_kwargs,
    }  # fmt: skip
    write_text(folder / ACCOUNT, json.dumps(account, indent=2, default=str, ensure_ascii=False) + "\n")
    return Generated(path, len(rows), len(cut), len(lost))


def _usable(answer: Answered) -> tuple[str | None, str]:
    """The output as a judge may see it: without thinking, trimmed; or None and why."""
    if answer.reason:
        return None, answer.reason
    text = answer_after_thinking(answer.text)
    if text is None:
        return None, "the answer ends inside its thinking; raise the token budget"
    return (text.strip(), "") if text.strip() else (None, "the answer is empty")


def _lost(instructions: InstructionSet, outputs: Sequence[tuple[str | None, str]], lost: Sequence[int]) -> AADError:
    first = lost[0]
    shown = json.dumps(instructions.texts[first], ensure_ascii=False)[:_SHOWN]
    return ConfigError(
        f"{len(lost)} of {len(outputs)} instructions have no usable answer, first: row {first + 1}, {shown}: "
        f"{outputs[first][1]}. The other answers are kept; run the same command again to ask for these once more, or pass "
        "--partial to leave them out, labelled so"
    )
