"""``model_outputs.json``: reading, writing, and the rules for it.

The file is a JSON list in the order of the instructions, each row with exactly the four texts dataset, instruction,
output and generator; no output is empty.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.findings import Finding
from aad_plugin.alpaca.instructions import FIELDS, NUM_OFFICIAL, InstructionSet, is_text, text_mark
from aad_plugin.errors import ConfigError
from aad_plugin.texts.rows import json_rows

LEAST_ROWS = 800  # upstream means to let five examples be missing
_SHOWN = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,99}")
_CONSTANT_SHARE = 0.05
_LONG = 400  # characters from which an answer that stops in mid-sentence looks cut off
_CUT_SHARE = 0.1


def check_name(name: str) -> str:
    """Return a model's name; it becomes a folder, a YAML key and a row of a table.

    Raises:
        ConfigError: characters that a path, a shell or a table could read as something else.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ConfigError(
            "a name is a folder's and a table row's name: letters, digits and . _ - + = @, at most 100 of them, a letter "
            f"or digit first, no dot last; got {name!r}"
        )
    return name


def read_outputs(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file, or of a folder's ``model_outputs.json``; unchecked, see `check_outputs`."""
    path = Path(path)
    return [row for _, row in json_rows(path / "model_outputs.json" if path.is_dir() else path)]


def check_outputs(
    rows: Sequence[Mapping[str, Any]], wanted: InstructionSet, place: str, name: str | None = None
) -> list[Finding]:
    """Hold rows against the rules.

    Args:
        rows: as read. wanted: the instructions they must answer, in this order.
        place: the file, for findings. name: what `generator` must say; None: what the first row says.
    """
    found = list(_check_fields(rows, place))
    if found:
        return found  # the rules below read these fields
    generators = Counter(row["generator"] for row in rows)
    expected = name if name is not None else next(iter(generators), "")
    if wrong := [generator for generator in generators if generator != expected]:
        text = f"generator must be {expected!r} in every row, got {wrong[0]!r} in {generators[wrong[0]]} of {len(rows)}"
        found.append(Finding("error", "generator", place, text))
    found += _check_instructions(rows, wanted, place)
    found += _check_texts(rows, place)
    return found


def _check_fields(rows: Sequence[Mapping[str, Any]], place: str) -> Iterator[Finding]:
    for number, row in enumerate(rows, start=1):
        if set(row) != set(FIELDS):
            missing, more = [n for n in FIELDS if n not in row], [n for n in row if n not in FIELDS]
            parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"too many: {', '.join(more)}"] * bool(more)
            text = f"row {number} must hold exactly {', '.join(FIELDS)}; {'; '.join(parts)}"
            yield Finding("error", "fields", place, text)
            return
        for field in FIELDS:
            if not is_text(row[field]):
                text = f"row {number}: {field} must be a text, got {json.dumps(row[field])[:_SHOWN]}"
                yield Finding("error", "not-text", place, text)
                return


def _check_instructions(rows: Sequence[Mapping[str, Any]], wanted: InstructionSet, place: str) -> Iterator[Finding]:
    marks = [text_mark(row["instruction"]) for row in rows]
    numbers = {row.mark: number for number, row in enumerate(wanted.rows)}
    twice = [mark for mark, times in Counter(marks).items() if times > 1]
    if twice:
        where = marks.index(twice[0])
        yield _instruction("duplicate", place, rows[where], where, f"{len(twice)} instructions are answered twice")
    strange = [number for number, mark in enumerate(marks) if mark not in numbers]
    if strange:
        text = f"{len(strange)} of {len(rows)} rows answer instructions that are not in the set ({wanted.label})"
        yield _instruction("foreign-instruction", place, rows[strange[0]], strange[0], text)
    missing = len(wanted) - len(set(marks) & numbers.keys())
    if missing:
        few = len(wanted) == NUM_OFFICIAL and len(wanted) - missing >= LEAST_ROWS
        text = f"expected {len(wanted)} instructions, {missing} are missing"
        text += "; upstream lets up to five be missing, a length-controlled win rate does not" if few else ""
        yield Finding("warning" if few else "error", "rows-missing", place, text)
    if strange or twice:
        return
    order = [numbers[mark] for mark in marks]
    if order != sorted(order):
        where = next(n for n in range(1, len(order)) if order[n] < order[n - 1])
        text = "rows must stand in the order of the instructions: AlpacaEval's difficulties go by position"
        yield _instruction("order", place, rows[where], where, text)
    for number, position in enumerate(order):
        if rows[number]["dataset"] != wanted.rows[position].dataset:
            text = f"dataset must be {wanted.rows[position].dataset!r}, got {rows[number]['dataset']!r}"
            yield _instruction("dataset", place, rows[number], number, text)
            return


def _instruction(rule: str, place: str, row: Mapping[str, Any], number: int, text: str) -> Finding:
    shown = json.dumps(row["instruction"], ensure_ascii=False)[:_SHOWN]
    return Finding("error", rule, place, f"{text}; first: row {number + 1}, {shown}")


def _check_texts(rows: Sequence[Mapping[str, Any]], place: str) -> Iterator[Finding]:
    """Outputs that are empty, the same again and again, or that stop in mid-sentence."""
    empty = [number for number, row in enumerate(rows, start=1) if not row["output"].strip()]
    if empty:
        yield Finding("error", "empty-output", place, f"{len(empty)} outputs are empty, first: row {empty[0]}")
    times = Counter(row["output"].strip() for row in rows)
    output, most = max(times.items(), key=lambda item: item[1], default=("", 0))
    if output and most > max(1, _CONSTANT_SHARE * len(rows)):
        text = f"{most} of {len(rows)} outputs are the same text, {json.dumps(output, ensure_ascii=False)[:_SHOWN]}"
        yield Finding("error", "constant-output", place, text)
    cut = [number for number, row in enumerate(rows, start=1) if _looks_cut(row["output"])]
    if len(cut) > _CUT_SHARE * len(rows):
        text = f"{len(cut)} of {len(rows)} outputs stop in mid-sentence, first: row {cut[0]}; raise the token budget"
        yield Finding("warning", "truncated-output", place, text)


def _looks_cut(output: str) -> bool:
    """Whether a long answer ends in a letter, a digit, a comma or the like."""
    end = output.rstrip()[-1:]
    return len(output) >= _LONG and (end.isalnum() or end in ",;:-–(&/")
