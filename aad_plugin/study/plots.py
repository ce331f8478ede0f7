"""A study's plots, each as SVG (text stays text) and PNG at 300 dpi; bars and bands are 95 % intervals over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.pages.plotting import WIDTH_INCHES, check_plots, figure_style, plain_text, save_figure
from aad_plugin.study.arms import Arm
from aad_plugin.study.best_of_n import CurvePoint
from aad_plugin.study.comparisons import papers_rows
from aad_plugin.study.results import Results
from aad_plugin.study.sweeps import Point

_HEIGHT_INCHES = 4.0
_DASHES = [(0, (1, 1)), (0, (3, 1)), (0, (5, 1, 1, 1)), (0, (6, 2)), "-"]
_MARKERS = "osD^vP*X<>"
_APART = 0.012  # of the axis, between points of equal passes


def write_study_plots(results: Results, folder: Path) -> list[Path]:
    """Write the plots there are figures for; returns the files.

    Raises:
        ConfigError: the disk does not take them. BackendMissing: no matplotlib.
    """
    check_plots(folder)
    drawings: list[tuple[str, Callable[[Any], None]]] = []
    if results.arms:
        drawings.append(("reward_vs_passes", lambda axes: _passes(axes, results.arms)))
    if results.curve:
        drawings.append(("best_of_n", lambda axes: _curve(axes, results.curve, results.on_curve)))
        drawings.append(("best_of_n_vs_passes", lambda axes: _curve_passes(axes, results.curve, results.on_curve)))
    if results.alphas:
        drawings.append(("sweep_alpha", lambda axes: _sweep(axes, results.alphas, "alpha (1 is greedy)", log=True)))
    if results.eft_scales:
        label = "EFT scale (0 is the reference, 1 greedy)"
        drawings.append(("sweep_eft_scale", lambda axes: _sweep(axes, results.eft_scales, label, log=False)))
    if results.expo_scales:
        label = "ExPO scale (0 is greedy)"
        drawings.append(("sweep_expo_scale", lambda axes: _sweep(axes, results.expo_scales, label, log=False)))
    return [path for name, draw in drawings for path in _figure(folder / name, draw)]


def _figure(path: Path, draw: Callable[[Any], None]) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_style():
        canvas = Figure(figsize=(WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        return save_figure(canvas, path)


def _passes(axes: Any, arms: Sequence[Arm]) -> None:
    most = max(_passes_of(arm) for arm in arms)
    for number, arm in enumerate(arms):
        same = [other for other in arms if abs(_passes_of(other) - _passes_of(arm)) < 0.05 * most]
        place = _passes_of(arm) + (same.index(arm) - (len(same) - 1) / 2) * _APART * most
        _point(axes, arm, place, f"{arm.name} (n {arm.prompts})", _MARKERS[number % len(_MARKERS)])
    _label_passes(axes)


def _curve(axes: Any, points: Sequence[CurvePoint], arms: Sequence[Arm]) -> None:
    for own in _by_picker(points):
        numbers = [point.num for point in own]
        axes.plot(numbers, [point.reward.value for point in own], label=plain_text(f"picker {own[0].picker}"))
        band = f"95 % over prompts, picker {own[0].picker}"
        low, high = [p.reward.low for p in own], [p.reward.high for p in own]
        axes.fill_between(numbers, low, high, alpha=0.15, linewidth=0, label=plain_text(band))
    for number, arm in enumerate(papers_rows(arms).values()):
        if not arm.seeds:
            level = {"color": "0.35", "linewidth": 0.9, "linestyle": _DASHES[number % len(_DASHES)]}
            axes.axhline(arm.reward.value, label=plain_text(arm.name), **level)
    _doubling(axes)
    axes.set_xlabel(f"N, answers per prompt that best_of_N picks from ({points[0].n} prompts, one pool)")
    axes.set_ylabel("mean oracle reward")
    _legend(axes)


def _curve_passes(axes: Any, points: Sequence[CurvePoint], arms: Sequence[Arm]) -> None:
    for own in _by_picker(points):
        passes = [point.policy_passes + point.reference_passes for point in own]
        axes.plot(passes, [point.reward.value for point in own], label=plain_text(f"best_of_N, picker {own[0].picker}"))
    for number, arm in enumerate(papers_rows(arms).values()):
        if not arm.seeds:
            _point(axes, arm, _passes_of(arm), arm.name, _MARKERS[number])
    _doubling(axes)
    _label_passes(axes)


def _sweep(axes: Any, points: Sequence[Point], label: str, *, log: bool) -> None:
    values = [point.value for point in points]
    errors = [
        [point.difference.value - point.difference.low for point in points],
        [point.difference.high - point.difference.value for point in points],
    ]
    axes.errorbar(
        values, [p.difference.value for p in points], yerr=errors, fmt="o-", markersize=4, capsize=2, linewidth=1.2
    )
    axes.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(f"{label}, {points[0].n} dev prompts")
    axes.set_ylabel("oracle reward − greedy policy's (bars: 95 % over prompts)")


def _point(axes: Any, arm: Arm, place: float, label: str, marker: str) -> None:
    reward = arm.reward
    errors = [[reward.value - reward.low], [reward.high - reward.value]]
    style = {"fmt": marker, "markersize": 4, "capsize": 2, "linewidth": 1.2, "label": plain_text(label)}
    axes.errorbar([place], [reward.value], yerr=errors, **style)


def _passes_of(arm: Arm) -> float:
    return arm.costs.policy_passes + arm.costs.reference_passes


def _label_passes(axes: Any) -> None:
    axes.set_xlabel("forward passes of policy and reference per answer")
    axes.set_ylabel("mean oracle reward (bars: 95 % over prompts)")
    _legend(axes)


def _doubling(axes: Any) -> None:
    """A logarithmic axis whose ticks double, written as plain numbers."""
    from matplotlib.ticker import ScalarFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _legend(axes: Any) -> None:
    axes.figure.legend(frameon=False, fontsize=7, loc="outside lower center", ncols=2)


def _by_picker(points: Sequence[CurvePoint]) -> list[list[CurvePoint]]:
    return [[p for p in points if p.picker == picker] for picker in dict.fromkeys(point.picker for point in points)]
