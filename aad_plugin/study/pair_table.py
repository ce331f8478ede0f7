"""Several pairs over one reference in one table: greedy and AAD of each, and how well its implicit reward orders answers
it has not seen. Does a training that makes a better policy make a better advantage?

A pair has a folder of its own with plan and rows like any study's, so a killed run goes on; tables need no model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.intervals import mean_with_interval, shown
from aad_plugin.judges.statistics.length_control import length_controlled
from aad_plugin.study.cells import Cell, Decoding, sweep_cells, table_cells, tuned_cells
from aad_plugin.study.plan import StudyPlan, read_plan
from aad_plugin.study.rewards import Reader
from aad_plugin.study.rows import Rows
from aad_plugin.study.sweeps import best_on_dev
from aad_plugin.study.tables import Table
from aad_plugin.texts.thinking import shown_text

PAIRS, HELD_OUT = "pairs.json", "held_out.json"
_SHOWN = ("greedy", "aad")


@dataclass(frozen=True)
class NamedRow:
    """One pair of the table. name: of its folder in the study. note: said beneath the table, "" for nothing."""

    name: str
    note: str = ""


def pair_cells(plan: StudyPlan) -> list[Cell]:
    """Greedy and AAD on the table's prompts, AAD's alphas on the dev split."""
    cells = [*table_cells(plan), *sweep_cells(plan)]
    return [cell for cell in cells if cell.decoding.settings.strategy in _SHOWN]


def chosen_cells(plan: StudyPlan, rows: Rows) -> list[Cell]:
    """AAD at the alpha that was best on the dev split, where the table does not have it already."""
    return tuned_cells(plan, best_on_dev(plan, rows)[0], None, None)


def keep_pairs(folder: Path, rows: Sequence[NamedRow]) -> None:
    """Write which pairs the table has; ConfigError where the folder's table has others."""
    mine = [dataclasses.asdict(row) for row in rows]
    path = folder / PAIRS
    if path.is_file() and (there := json.loads(path.read_text("utf-8"))) != mine:
        names = [[row["name"] for row in one] for one in (there, mine)]
        raise ConfigError(f"{folder} holds a table of {names[0]}, got {names[1]}: pass another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(mine, indent=1, ensure_ascii=False) + "\n")


def write_pair_table(folder: Path) -> list[Path]:
    """Compute the table from what is on disk and write it; pairs without rows say that they are missing.

    Returns:
        the files: pairs.md, .csv, .tex and pair_table.json.
    Raises:
        ConfigError: the folder holds no table of pairs.
    """
    if not (folder / PAIRS).is_file():
        raise ConfigError(f"{folder} holds no table of pairs: expected {PAIRS} there (aad study --pairs makes one)")
    named = [NamedRow(**row) for row in json.loads((folder / PAIRS).read_text("utf-8"))]
    found = [(row, _figures(folder / row.name)) for row in named]
    table = _table(found)
    figures = {row.name: row_figures for row, row_figures in found}
    texts = {
        "pairs.md": table.markdown(), "pairs.csv": table.csv(), "pairs.tex": table.latex(),
        "pair_table.json": json.dumps(figures, indent=1, ensure_ascii=False) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _figures(folder: Path) -> dict[str, Any] | None:
    """What one pair's rows say, or None where they are not all there."""
    if not (folder / "plan.json").is_file():
        return None
    plan, models = read_plan(folder)
    rows = Rows(folder)
    reader = Reader(plan, rows)

    def finished(cells: Sequence[Cell]) -> bool:
        return all(rows.has(cell.keys()) for cell in cells) and all(
            np.isfinite(reader.rewards(cell.decoding, cell.prompts)).all() for cell in cells
        )

    if not finished(pair_cells(plan)) or not finished(chosen_cells(plan, rows)):
        return None
    ways = {cell.decoding.settings.strategy: cell.decoding for cell in pair_cells(plan) if cell.prompts == plan.table}
    alpha = best_on_dev(plan, rows)[0]
    tuned = [cell.decoding for cell in chosen_cells(plan, rows)]
    held = folder / HELD_OUT
    return {
        "n": len(plan.table),
        "oracle": plan.oracle,
        "weights": models.get("weights"),
        "held_out": json.loads(held.read_text("utf-8")) if held.is_file() else None,
        "greedy": _mean(reader, ways["greedy"], plan),
        "aad": _mean(reader, ways["aad"], plan),
        "win": _won(reader, ways["aad"], ways["greedy"], plan),
        "alpha": plan.alpha,
        "dev_alpha": alpha,
        "dev_win": _won(reader, tuned[0], ways["greedy"], plan) if tuned else None,
    }  # fmt: skip


def _mean(reader: Reader, way: Decoding, plan: StudyPlan) -> float:
    return float(reader.rewards(way, plan.table).mean())


def _won(reader: Reader, one: Decoding, other: Decoding, plan: StudyPlan) -> dict[str, Any]:
    """Win rate of one decoding over another by the oracle, raw and at matched length, with their 95 % intervals."""
    margins = reader.rewards(one, plan.table) - reader.rewards(other, plan.table)
    p = np.where(margins == 0, 0.5, margins > 0).astype(float)
    lengths = [reader.costs(lambda answer: len(shown_text(answer.text)), way, plan.table)[:, 0] for way in (one, other)]
    raw, matched = mean_with_interval(p), length_controlled(p, lengths[0], lengths[1])
    return {
        "raw": [raw.value, raw.low, raw.high],
        "matched": None if np.isnan(matched.value) else [matched.value, matched.low, matched.high],
        "method": matched.method,
        "characters": [float(one.mean()) for one in lengths],
    }


def _table(found: Sequence[tuple[NamedRow, dict[str, Any] | None]]) -> Table:
    head = (
        "pair", "held-out accuracy", "greedy reward", "AAD reward", "AAD over greedy", "at matched length",
        "alpha of the dev split", "AAD over greedy there",
    )  # fmt: skip
    rows = [(row.name, *_cells(figures)) for row, figures in found]
    plain = [{"pair": row.name, **_plain(figures)} for row, figures in found]
    notes = [f"{row.name}: {row.note}" for row, _ in found if row.note]
    if missing := [row.name for row, figures in found if figures is None]:
        notes.append(f"PARTIAL: not finished: {', '.join(missing)}")
    known = [figures for _, figures in found if figures is not None]
    if known:
        notes.append(f"{known[0]['n']} prompts; oracle {known[0]['oracle']}; AAD at alpha {known[0]['alpha']:g}")
    return Table("pairs", "Pairs over one reference", head, rows, plain, tuple(notes))


def _cells(figures: dict[str, Any] | None) -> tuple[str, ...]:
    if figures is None:
        return ("–",) * 7
    held, alpha = figures["held_out"], figures["dev_alpha"]
    accuracy = "–" if held is None else f"{shown(held['accuracy'], held['low'], held['high'])} (n {held['n']})"
    won = figures["win"] if alpha == figures["alpha"] else figures["dev_win"]
    return (
        accuracy, f"{figures['greedy']:.3f}", f"{figures['aad']:.3f}", _rate(figures["win"]["raw"]),
        _rate(figures["win"]["matched"]), "–" if alpha is None else f"{alpha:g}",
        "–" if won is None else _rate(won["raw"]),
    )  # fmt: skip


def _plain(figures: dict[str, Any] | None) -> dict[str, Any]:
    nothing: dict[str, Any] = {"greedy": None, "aad": None, "dev_alpha": None, "held_out": None, "win": None}
    figures = figures or nothing
    held, win = figures["held_out"] or {}, figures["win"] or {"raw": [None] * 3, "matched": None}
    matched = win["matched"] or [None] * 3
    return {
        "accuracy": held.get("accuracy"), "greedy_reward": figures["greedy"], "aad_reward": figures["aad"],
        **dict(zip(("win_rate", "win_rate_low", "win_rate_high"), win["raw"], strict=True)),
        **dict(zip(("matched", "matched_low", "matched_high"), matched, strict=True)),
        "dev_alpha": figures["dev_alpha"],
    }  # fmt: skip


def _rate(values: Sequence[float] | None) -> str:
    return "–" if values is None else shown(*values)
