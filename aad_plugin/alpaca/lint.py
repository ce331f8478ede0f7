"""Lint a submission: the rules of upstream's README and CI, those its CI means to check and does not, and doubtful rows.

Works on the folder that `export` writes and on a checkout of alpaca_eval. Needs no network and not the alpaca_eval
package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.annotations import OFFICIAL_ANNOTATOR, check_annotations, is_judged
from aad_plugin.alpaca.findings import Finding
from aad_plugin.alpaca.instructions import InstructionSet, text_mark
from aad_plugin.alpaca.layout import FORBIDDEN, Layout
from aad_plugin.alpaca.leaderboard import COLUMNS, WEIGHT_COLUMNS, is_extreme, read_csv, row_of
from aad_plugin.alpaca.lint_config import lint_config
from aad_plugin.alpaca.outputs import check_name, check_outputs
from aad_plugin.errors import ConfigError
from aad_plugin.texts.rows import json_rows

# Upstream's figures are floating-point means by another library.
_CLOSE = 1e-6


def lint(folder: str | Path, instructions: InstructionSet | None = None, name: str | None = None) -> list[Finding]:
    """Hold a submission against the rules.

    Args:
        folder: holds ``results/`` and ``src/alpaca_eval/``.
        instructions: the set it must answer; None is AlpacaEval's 805.
        name: only this model; None is every folder in ``results/``.
    Returns:
        findings; without one of the level "error" the submission may go out.
    Raises:
        ConfigError: the folder holds no ``results/``, or not the named model.
    """
    layout = Layout(Path(folder))
    if not layout.results.is_dir():
        raise ConfigError(f"{folder} is no submission: expected the folders results/ and src/alpaca_eval/ in it")
    names = sorted(path.name for path in layout.results.iterdir() if path.is_dir())
    if name is not None:
        if name not in names:
            raise ConfigError(f"{layout.results} has no folder {name!r}; there are {', '.join(names[:5]) or 'none'}")
        names = [name]
    found = [] if names else [Finding("error", "missing-file", "results", "expected a folder per model, found none")]
    wanted = instructions or InstructionSet.official()
    for one in names:
        found += _lint_model(layout, one, wanted)
    for path in sorted(layout.results.rglob("*")):
        if path.name in FORBIDDEN and (name is None or name in path.relative_to(layout.results).parts):
            text = "upstream's CI refuses this file; evaluate_from_model leaves it behind: delete it"
            found.append(Finding("error", "forbidden-file", _place(layout, path), text))
    return found


def _lint_model(layout: Layout, name: str, wanted: InstructionSet) -> list[Finding]:
    found: list[Finding] = []
    try:
        check_name(name)
    except ConfigError as error:
        found.append(Finding("error", "name", f"results/{name}", str(error)))
    if wanted.kind == "other":
        text = f"{wanted.label}: a rehearsal, alpaca_eval takes results on its own 805 only"
        found.append(Finding("warning", "other-instructions", f"results/{name}", text))
    if wanted.kind == "partial":
        found.append(Finding("error", "partial", f"results/{name}", f"{wanted.label} is no leaderboard submission"))
    path = layout.outputs(name)
    rows = _rows(layout, path, found)
    checked = check_outputs(rows, wanted, _place(layout, path), name) if rows else []
    found += checked
    texts = {} if any(f.rule in ("fields", "not-text") for f in checked) else {
        text_mark(row["instruction"]): row["output"] for row in rows
    }  # fmt: skip
    found += lint_config(layout, name)
    annotators = sorted(path.parent.name for path in (layout.results / name).glob("*/annotations.json"))
    if not annotators:
        text = "expected a judge's annotations.json in a folder named like the judge, found none"
        found.append(Finding("error", "missing-file", f"results/{name}", text))
    for annotator in annotators:
        found += _lint_annotator(layout, name, annotator, wanted, texts)
    return found


def _lint_annotator(
    layout: Layout, name: str, annotator: str, wanted: InstructionSet, outputs: Mapping[str, str]
) -> list[Finding]:
    found: list[Finding] = []
    path = layout.annotations(name, annotator)
    rows = _rows(layout, path, found)
    if not rows:
        return found
    checked = check_annotations(rows, wanted, _place(layout, path), name=name, annotator=annotator, outputs=outputs)
    found += checked
    if any(finding.rule == "annotation-columns" for finding in checked) or not any(map(is_judged, rows)):
        return found
    lengths = [len(text) for text in outputs.values()] or None
    return [*found, *_lint_leaderboard(layout, name, annotator, rows, lengths, wanted.kind == "official")]


def _lint_leaderboard(
    layout: Layout, name: str, annotator: str, rows: list[dict[str, Any]], lengths: list[int] | None, official_set: bool
) -> Iterator[Finding]:
    path = layout.leaderboard(annotator)
    place = _place(layout, path)
    try:
        cells = read_csv(path).get(name) if path.is_file() else None
    except ConfigError as error:
        yield Finding("error", "leaderboard", place, str(error))
        return
    if cells is None:
        yield Finding("error", "leaderboard", place, f"expected a row {name!r}")
        return
    for column, value in zip(COLUMNS, row_of(rows, lengths).values(), strict=True):
        if column in ("length_controlled_winrate", "lc_standard_error"):
            continue
        if not _equal(cells[column], value):
            text = f"{name}: {column} is {cells[column] or 'empty'}, the annotations give {value}"
            yield Finding("error", "leaderboard", place, text)
    yield from _lint_length_control(layout, name, annotator, cells, rows[0]["generator_1"], official_set)


def _lint_length_control(
    layout: Layout, name: str, annotator: str, cells: Mapping[str, str], baseline: str, official_set: bool
) -> Iterator[Finding]:
    place = _place(layout, layout.leaderboard(annotator))
    path = layout.weights(annotator, baseline)
    controlled, raw = _number(cells["length_controlled_winrate"]), _number(cells["win_rate"])
    if controlled is None:
        if not official_set:
            return
        level = "error" if annotator == OFFICIAL_ANNOTATOR else "warning"
        text = f"{name}: no length-controlled win rate; export with --df-gamed FILE computes it"
        yield Finding(level, "length-control", place, text)
        return
    if raw is not None and is_extreme(raw, controlled):
        text = (
            f"{name}: a length-controlled rate of {controlled:.2f} beside a raw one of {raw:.2f} is more than upstream's "
            "CI accepts, max(raw + (100 - raw) / 4, raw + 10)"
        )
        yield Finding("error", "extreme-length-control", place, text)
    try:
        cells = (read_csv(path, WEIGHT_COLUMNS) if path.is_file() else {}).get(name, {})
    except ConfigError as error:
        yield Finding("error", "weights", _place(layout, path), str(error))
        return
    if not cells:
        yield Finding("error", "weights", _place(layout, path), f"a length-controlled rate needs a row {name!r} here")
    for column in WEIGHT_COLUMNS:
        if cells and _number(cells[column]) is None:
            text = f"{name}: {column} must be a number, got {cells[column]!r}"
            yield Finding("error", "weights", _place(layout, path), text)


def _rows(layout: Layout, path: Path, found: list[Finding]) -> list[dict[str, Any]]:
    """Rows of a JSON file; what is wrong with the file goes to `found`."""
    if not path.is_file():
        found.append(Finding("error", "missing-file", _place(layout, path), "the file is missing"))
        return []
    try:
        rows = [row for _, row in json_rows(path)]
    except ConfigError as error:
        found.append(Finding("error", "json", _place(layout, path), str(error)))
        return []
    if not rows:
        found.append(Finding("error", "rows-missing", _place(layout, path), "the file holds no rows"))
    return rows


def _place(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _equal(cell: str, value: str) -> bool:
    there, ours = _number(cell), _number(value)
    if there is None or ours is None:
        return cell == value or {cell, value} <= {"community", "verified", "minimal"}
    return math.isclose(there, ours, rel_tol=_CLOSE, abs_tol=_CLOSE)
