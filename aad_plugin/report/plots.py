"""The report's figures for a paper: SVG with text as text, and PNG at 300 dpi."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.pages.plotting import WIDTH_INCHES, check_plots, figure_style, plain_text, save_figure
from aad_plugin.report.figures import Figure, figures_of, win_rates_of
from aad_plugin.report.runs import Run

_Z95 = 1.959964
_Row = tuple[str, str, float, float, float]  # label, run, value, low, high


def write_plots(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write win rates and every metric that varies, each as SVG and PNG.

    Returns:
        the files; bars are 95 % intervals, of metrics ±1.96 standard errors.
    Raises:
        see :func:`check_plots`.
    """
    check_plots(folder)
    plots: dict[str, tuple[str, list[_Row]]] = {}
    wins = [one for one in win_rates_of(runs) if one.rate is not None]
    several = len({one.task for run in runs for one in run.tasks.values()}) > 1
    if wins:
        rows = [
            (_label(one.task if several else "", f"{one.candidate} vs {one.rival}"), one.run, one.rate or 0.0,
             math.nan if one.low is None else one.low, math.nan if one.high is None else one.high)
            for one in wins
        ]  # fmt: skip
        plots["win_rates"] = ("win rate", rows)
    by_metric: dict[str, list[Figure]] = {}
    for figure in figures_of(runs):
        by_metric.setdefault(figure.metric, []).append(figure)
    for metric, figures in by_metric.items():
        if len({round(one.value, 12) for one in figures}) > 1:
            plots[_file_name(metric)] = (metric, [_figure_row(one, several) for one in figures])
    return [path for name, (title, rows) in plots.items() for path in _draw(folder / name, title, rows)]


def _draw(path: Path, title: str, rows: Sequence[_Row]) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    labels = list(dict.fromkeys(label for label, *_ in rows))
    runs = list(dict.fromkeys(run for _, run, *_ in rows))
    with figure_style():
        canvas = Canvas(figsize=(WIDTH_INCHES, 0.9 + 0.3 * len(labels) * max(1, len(runs) * 0.6)), layout="constrained")
        FigureCanvasAgg(canvas)
        axes: Any = canvas.add_subplot()
        if path.name == "win_rates":
            axes.axvline(0.5, color="0.5", linewidth=0.8, linestyle="--")
            axes.set_xlim(0, 1)
        for number, run in enumerate(runs):
            own = [row for row in rows if row[1] == run]
            places = [labels.index(row[0]) + (number - (len(runs) - 1) / 2) * 0.6 / len(runs) for row in own]
            errors = [[row[2] - row[3] for row in own], [row[4] - row[2] for row in own]]
            style = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
            axes.errorbar([row[2] for row in own], places, xerr=errors, label=plain_text(run), **style)
        axes.set_yticks(range(len(labels)), [plain_text(label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlabel(plain_text(title))
        axes.spines[["top", "right"]].set_visible(False)
        if len(runs) > 1:
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return save_figure(canvas, path)


def _figure_row(one: Figure, several: bool) -> _Row:
    error = math.nan if one.error is None else _Z95 * one.error
    label = _label(one.task if several or not one.answer else "", one.answer)
    return label, one.run, one.value, one.value - error, one.value + error


def _label(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _file_name(metric: str) -> str:
    return re.sub(r"\W+", "_", metric).strip("_") or "metric"
