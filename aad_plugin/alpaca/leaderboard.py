"""Rows of a leaderboard: figures of annotations, AlpacaEval's CSV files, and tables that never mix judges.

Win rates are in percent, as AlpacaEval writes them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.results import share_of

COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
WEIGHT_COLUMNS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
_COUNTS = ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, fields as in AlpacaEval's CSV; a figure that is not known is NaN, and empty in a file."""

    name: str
    win_rate: float
    standard_error: float
    n_wins: float
    n_wins_base: float
    n_draws: float
    n_total: float
    discrete_win_rate: float
    mode: str
    avg_length: float
    length_controlled_winrate: float = math.nan
    lc_standard_error: float = math.nan

    def values(self) -> list[str]:
        """Cells in the order of `COLUMNS`."""
        return [_cell(name, getattr(self, name)) for name in COLUMNS]


def row_of(annotations: Sequence[Mapping[str, Any]], lengths: Sequence[int] | None = None) -> Row:
    """Figures of one model's annotations, by AlpacaEval's definitions.

    win_rate is the mean of preference - 1, its standard error that of the mean; a draw counts one half in
    discrete_win_rate. Rows without a preference are left out, as upstream does.

    Args:
        annotations: (N,) rows. lengths: characters of all the model's outputs; default those of output_2.
    """
    p = np.array([share for row in annotations if (share := share_of(row["preference"])) is not None], dtype=float)
    lengths = [len(row["output_2"]) for row in annotations] if lengths is None else lengths
    wins, losses, draws = int((p > 0.5).sum()), int((p < 0.5).sum()), int((p == 0.5).sum())
    return Row(
        name=annotations[0]["generator_2"],
        win_rate=float(p.mean()) * 100 if len(p) else math.nan,
        standard_error=float(p.std(ddof=1)) / len(p) ** 0.5 * 100 if len(p) > 1 else math.nan,
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=len(p),
        discrete_win_rate=(wins + draws / 2) / len(p) * 100 if len(p) else math.nan,
        mode="community",
        avg_length=int(np.mean(lengths)),
    )


def is_extreme(win_rate: float, length_controlled: float) -> bool:
    """Whether upstream's CI rejects a length-controlled rate for being so far above the raw one (both in percent)."""
    return length_controlled > max(win_rate + (100 - win_rate) / 4, win_rate + 10)


def read_csv(path: str | Path, columns: Sequence[str] = COLUMNS) -> dict[str, dict[str, str]]:
    """Rows of a leaderboard or of a weights file by name, cells as they stand.

    Raises:
        ConfigError: unreadable, or without a name column or one of `columns`.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in columns if name not in header[1:]]
            if missing:
                raise ConfigError(
                    f"{path} must have the columns {', '.join(columns)} behind names; {missing[0]} is missing"
                )
            return {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in reader if line}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ConfigError(f"cannot read {path} as a CSV of leaderboard rows: {error}") from error


def write_csv(rows: Mapping[str, Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Rows as the text of a CSV, with an unnamed first column of names as pandas writes it."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["", *columns])
    for name, cells in rows.items():
        out.writerow([name, *cells])
    return text.getvalue()


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return str(int(value)) if name in _COUNTS else repr(float(value))
