"""Leaderboard tables: our rows beside published ones, one table per judge, because figures of two judges do not compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.annotations import OFFICIAL_ANNOTATOR, read_annotations
from aad_plugin.alpaca.export import judge_label
from aad_plugin.alpaca.instructions import InstructionSet, text_mark
from aad_plugin.alpaca.leaderboard import COLUMNS, Row, read_csv, row_of
from aad_plugin.alpaca.length_control import length_control
from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.intervals import INTERVAL_METHOD

_SUFFIX = "_leaderboard"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a table.

    Args:
        row: figures. judge: whose. baseline: held against what; "" where a file does not say.
        low, high: 95 % interval of the win rate in percent; NaN where only figures are known.
        method: how the length-controlled rate was found. note: "a part of AlpacaEval: …".
    """

    row: Row
    judge: str
    baseline: str
    low: float = math.nan
    high: float = math.nan
    method: str = ""
    note: str = ""


def entry_of(
    path: Path, *, gamed: Path | None = None, difficulties: Path | None = None, partial: bool = False,
    instructions: Path | None = None,
) -> Entry:  # fmt: skip
    """Figures of a file of annotations.

    Args:
        gamed: AlpacaEval's df_gamed.csv: the length-controlled rate is alpaca_eval's own.
        difficulties: AlpacaEval's instruction difficulties: it is by our own regression. Without either, and on other
            instructions, our regression goes without difficulties; a part of AlpacaEval gets none.
        partial: allow a part of AlpacaEval. instructions: another set.
    Raises:
        ConfigError: unreadable; several models in one file; a part of AlpacaEval without `partial`; a row twice.
    """
    import dataclasses

    from aad_plugin.judges import summarize
    from aad_plugin.judges.statistics.results import read_difficulties, read_verdicts

    annotations = read_annotations(path)
    for column in ("generator_1", "generator_2", "annotator"):
        if len(values := sorted({row[column] for row in annotations})) > 1:
            raise ConfigError(f"{path}: one {column} per file is expected, got {', '.join(values)}")
    wanted = _set_of(path, annotations, partial, instructions)
    hardness = read_difficulties(difficulties) if difficulties and wanted.kind == "official" else None
    summary = summarize(read_verdicts(path), difficulties=hardness)
    row, method = row_of(annotations), ""
    if wanted.kind == "partial" and gamed is None:
        pass
    elif gamed is not None:
        fitted = length_control(annotations, wanted, gamed)
        method = "by the alpaca_eval package"
        row = dataclasses.replace(row, length_controlled_winrate=fitted.value, lc_standard_error=fitted.standard_error)
    else:
        method = summary.lc_method
        row = dataclasses.replace(
            row, length_controlled_winrate=summary.lc_win_rate * 100, lc_standard_error=summary.lc_standard_error * 100
        )
    first, (low, high) = annotations[0], summary.ci95
    note = "" if wanted.kind == "official" else wanted.label
    return Entry(row, first["annotator"], first["generator_1"], low * 100, high * 100, method, note)


def published_entries(path: Path) -> list[Entry]:
    """Rows of a published leaderboard; the judge is named by the file, as upstream names its files."""
    judge = path.stem.removesuffix(_SUFFIX)
    return [
        Entry(
            Row(name, **{c: cells[c] if c == "mode" else _number(cells[c], path, name) for c in COLUMNS}),  # type: ignore[arg-type]
            judge,
            "",
            method="as published",
        )
        for name, cells in read_csv(path).items()
    ]


def print_tables(entries: Sequence[Entry], ours: Sequence[str], top: int | None = None) -> None:
    """Print a table per judge, best first; `ours` are marked, and stay when only the `top` rows are shown."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    judges = list(dict.fromkeys(entry.judge for entry in entries))
    for judge in judges:
        of_judge = sorted((e for e in entries if e.judge == judge), key=_key, reverse=True)
        known = judge == OFFICIAL_ANNOTATOR or any(entry.baseline for entry in of_judge)
        label = judge_label(judge) if known else f"{judge}, as the file of published rows is named"
        table = Table(
            "model", "LC win rate", "win rate", "95 %", "n", "length", title=f"Judge: {label}", title_justify="left"
        )
        for rank, entry in enumerate(of_judge):
            if top is None or rank < top or entry.row.name in ours:
                table.add_row(*_cells(entry, entry.row.name in ours))
        console.print(table)
        for entry in of_judge:
            if entry.row.name in ours:
                lines = [entry.note] * bool(entry.note) + [f"LC: {entry.method or 'none for a part of AlpacaEval'}"]
                console.print(
                    f"{entry.row.name}: {'; '.join(lines)}; against {entry.baseline or 'an unnamed baseline'}"
                )
    if any(not math.isnan(entry.low) for entry in entries):
        console.print(f"95 % intervals: {INTERVAL_METHOD}.")
    if len(judges) > 1:
        console.print("Figures of different judges do not compare; hence a table for each.")


def _set_of(path: Path, annotations: Sequence[dict[str, Any]], partial: bool, own: Path | None) -> InstructionSet:
    from aad_plugin.alpaca.instructions import load_instructions

    marks = [text_mark(row["instruction"]) for row in annotations]
    if len(set(marks)) < len(marks):
        raise ConfigError(f"{path} annotates an instruction more than once")
    found = load_instructions(path, partial=partial)
    if found.kind == "official" and marks != [row.mark for row in found.rows]:
        raise ConfigError(
            f"{path}: rows must stand in the order of AlpacaEval's instructions, whose difficulties go by it"
        )
    if own is not None:
        asked = {row.mark for row in load_instructions(own, partial=True).rows}
        if not set(marks) <= asked or (len(marks) < len(asked) and not partial):
            raise ConfigError(
                f"{path} annotates {len(asked.intersection(marks))} of the {len(asked)} instructions of {own} and "
                f"{len(set(marks) - asked)} others; expected all of them, or a part with --partial"
            )
    return found


def _key(entry: Entry) -> tuple[float, float]:
    controlled = entry.row.length_controlled_winrate
    return (-1 if math.isnan(controlled) else controlled, entry.row.win_rate)


def _cells(entry: Entry, is_ours: bool) -> list[str]:
    row = entry.row
    lc = "" if math.isnan(row.length_controlled_winrate) else f"{row.length_controlled_winrate:.2f}"
    interval = "" if math.isnan(entry.low) else f"[{entry.low:.2f}, {entry.high:.2f}]"
    mark = ("* " if is_ours else "") + row.name + (" (partial)" if entry.note.startswith("a part") else "")
    return [
        mark,
        lc,
        f"{row.win_rate:.2f} ± {row.standard_error:.2f}",
        interval,
        f"{row.n_total:.0f}",
        f"{row.avg_length:.0f}",
    ]


def _number(cell: str, path: Path, name: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError as error:
        raise ConfigError(f"{path}: row {name!r} holds {cell!r} where a number is expected") from error
