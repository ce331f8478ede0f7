"""``annotations.json``: reading, and the rules for it.

One row per instruction: the reference's output is output_1, the model's output_2, preference runs from 1 (output_1 is
better) to 2 (output_2 is), null where the judge gave none. `annotator` names the judge; its folder bears the same name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.findings import Finding
from aad_plugin.alpaca.instructions import BASELINE, InstructionSet, is_text, text_mark
from aad_plugin.alpaca.outputs import LEAST_ROWS
from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.results import share_of
from aad_plugin.texts.rows import json_rows

OFFICIAL_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
COLUMNS = ("instruction", "annotator", "preference", "generator_1", "generator_2", "output_1", "output_2")
_TEXTS = tuple(name for name in COLUMNS if name != "preference")
_ALLOWED_LOST = 0.02
_REFUSES = re.compile(r"\b(i['’]?m sorry|i (can ?not|can['’]t|won['’]t|am unable|am not able|must decline))\b", re.I)


def read_annotations(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a file, gzipped or not, whose columns can be relied on.

    Raises:
        ConfigError: unreadable, no rows, or a row without one of `COLUMNS` or with another type in it.
    """
    rows = []
    for place, row in json_rows(Path(path)):
        if problem := _wrong_column(row):
            raise ConfigError(f"{place} is no annotation: {problem}")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} holds no annotations")
    return rows


def is_judged(row: Mapping[str, Any]) -> bool:
    """Whether the judge gave a preference; upstream writes null, -1 or NaN where it did not, and 0 for a tie once."""
    return share_of(row["preference"]) is not None


def check_annotations(
    rows: Sequence[Mapping[str, Any]],
    wanted: InstructionSet,
    place: str,
    *,
    name: str,
    annotator: str,
    outputs: Mapping[str, str],
) -> list[Finding]:
    """Hold rows against the rules.

    Args:
        rows: as read. wanted: the instructions. place: the file, for findings.
        name: the model's, as generator_2 must say. annotator: the folder's name, as `annotator` must say.
        outputs: mark of an instruction -> the model's output, as ``model_outputs.json`` has it; empty: not compared.
    """
    for number, row in enumerate(rows, start=1):
        if problem := _wrong_column(row):
            return [Finding("error", "annotation-columns", place, f"row {number}: {problem}")]
    return [
        *_check_names(rows, place, name, annotator),
        *_check_rows(rows, wanted, place),
        *_check_sides(rows, wanted, place, outputs),
        *_check_verdicts(rows, place),
    ]


def _wrong_column(row: Mapping[str, Any]) -> str:
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        return f"expected the columns {', '.join(COLUMNS)}, {', '.join(missing)} missing"
    for column in _TEXTS:
        if not is_text(row[column]):
            return f"{column} must be a text, got {json.dumps(row[column])[:60]}"
    value = row["preference"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and (1 <= value <= 2 or value in (0, -1) or value != value)):
        return ""
    return f"preference must be a number from 1 to 2, or null, got {json.dumps(value)[:60]}"


def _check_names(rows: Sequence[Mapping[str, Any]], place: str, name: str, annotator: str) -> Iterator[Finding]:
    for column, expected, rule in (("generator_2", name, "generator"), ("annotator", annotator, "annotator")):
        for value, times in Counter(row[column] for row in rows).items():
            if value != expected:
                text = f"{column} must be {expected!r} as its folder is, got {value!r} in {times} rows"
                if column == "annotator" and annotator == OFFICIAL_ANNOTATOR:
                    text += "; another judge's verdicts are not the official ones"
                yield Finding("error", rule, place, text)
                break
    references = sorted({row["generator_1"] for row in rows})
    if len(references) > 1:
        text = f"all rows must be held against one reference, got {', '.join(references)}"
        yield Finding("error", "reference", place, text)


def _check_rows(rows: Sequence[Mapping[str, Any]], wanted: InstructionSet, place: str) -> Iterator[Finding]:
    times = Counter(text_mark(row["instruction"]) for row in rows)
    marks = {row.mark for row in wanted.rows}
    if twice := sum(count > 1 for count in times.values()):
        yield Finding("error", "duplicate", place, f"{twice} instructions are annotated more than once")
    if strange := len(times.keys() - marks):
        yield Finding(
            "error", "foreign-instruction", place, f"{strange} instructions are not in the set ({wanted.label})"
        )
    missing = len(marks - times.keys())
    if missing:
        few = wanted.kind == "official" and len(marks) - missing >= LEAST_ROWS
        text = f"{missing} of {len(marks)} instructions were lost on the way to the judge"
        yield Finding("warning" if few else "error", "rows-lost", place, text)
    position = {row.mark: number for number, row in enumerate(wanted.rows)}
    order = [position[mark] for row in rows if (mark := text_mark(row["instruction"])) in position]
    if order != sorted(order):
        text = "rows do not stand in the order of the instructions: a length-controlled win rate goes by position"
        yield Finding("error", "order", place, text)


def _check_sides(
    rows: Sequence[Mapping[str, Any]], wanted: InstructionSet, place: str, outputs: Mapping[str, str]
) -> Iterator[Finding]:
    """output_2 is the model's output; output_1 the reference's, where it is known."""
    references = {row.mark: row.reference for row in wanted.rows}
    known = any(references.values()) and (wanted.kind == "other" or all(r["generator_1"] == BASELINE for r in rows))
    if wanted.kind != "other" and not known:
        text = f"held against {rows[0]['generator_1']!r}: AlpacaEval 2's baseline is {BASELINE!r}"
        yield Finding("warning", "reference", place, text)
    first_wrong = [
        n
        for n, r in enumerate(rows, 1)
        if (m := outputs.get(text_mark(r["instruction"]))) is not None and m != r["output_2"]
    ]
    if first_wrong:
        text = f"output_2 differs from model_outputs.json in {len(first_wrong)} rows, first: row {first_wrong[0]}"
        yield Finding("error", "judged-output", place, text)
    other = [
        number
        for number, row in enumerate(rows, start=1)
        if known and (mark := references.get(text_mark(row["instruction"]))) and mark != text_mark(row["output_1"])
    ]
    if other:
        text = f"output_1 is not the reference's output in {len(other)} rows, first: row {other[0]}"
        yield Finding("error", "reference-output", place, text)


def _check_verdicts(rows: Sequence[Mapping[str, Any]], place: str) -> Iterator[Finding]:
    lost = [number for number, row in enumerate(rows, start=1) if not is_judged(row)]
    if lost:
        refused = sum(_refuses(rows[number - 1].get("raw_completion")) for number in lost)
        text = f"{len(lost)} of {len(rows)} rows have no preference, first: row {lost[0]}"
        text += f"; in {refused} the judge refuses" if refused else ""
        level = "error" if len(lost) > _ALLOWED_LOST * len(rows) else "warning"
        yield Finding(level, "judge-refusal" if refused else "unjudged", place, text)
    values = Counter(1 + share for row in rows if (share := share_of(row["preference"])) is not None)
    if len(rows) > 1 and len(values) == 1:
        (value,) = values
        text = f"every preference is {value}: a judge that always says the same judges nothing"
        yield Finding("error", "constant-preference", place, text)


def _refuses(completion: Any) -> bool:
    return bool(_REFUSES.search(json.dumps(completion, ensure_ascii=False))) if completion else False
