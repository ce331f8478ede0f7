"""How often each interval contains the truth, and how wide it is: the table behind the method that is used.

python -m tests.judges.coverage_grid [FILE]      resumable: cells in FILE (runs/coverage_grid.jsonl) are not computed again

A cell is a generator of verdicts, a number of prompts and a chance of a win: 2,000 samples, or for hard verdicts every
possible one with its probability. Draws from real verdicts are cells where those files are there; rewards have a table of
their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from aad_plugin.judges.statistics.bounded_mean import mean_bounds, unbounded_mean_bounds
from tests.judges.interval_methods import METHODS, percentile_bootstrap, student_t_uncut
from tests.judges.verdict_generators import GENERATORS, RATES, SIZES, Sample, drawn, real_verdicts, rewards
from tests.public_data import DATA

SAMPLES, _CHUNK = 2000, 50
MODELS = ("Qwen-14B-Chat", "OpenHermes-2.5-Mistral-7B")
DRAWS = (8, 20, 50, 100)
SHAPES = ("normal", "exponential", "lognormal", "heavy-tailed", "two heaps", "mostly 0")
LEAST = 0.93
OURS = "used"
Cell = dict[str, Any]  # generator, num, p, and coverage and width by method


def used(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds that `mean_with_interval` gives, for many samples at once."""
    return _in_chunks(mean_bounds, sums, sizes)


def _in_chunks(bounds: Any, sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What fits into a processor's cache is several times faster."""
    parts = [bounds(sums[i : i + _CHUNK], sizes[i : i + _CHUNK], 0.025) for i in range(0, len(sums), _CHUNK)]
    return np.concatenate([low for low, _ in parts]), np.concatenate([high for _, high in parts])


def samples_of(generator: str, num: int, p: float) -> tuple[Sample, np.ndarray]:
    """The samples of a cell and their weights; those of hard verdicts are all there are."""
    if generator == "hard":
        wins = np.arange(num + 1)
        sums = (np.arange(num) < wins[:, None]).astype(float)
        return (sums, np.ones_like(sums), p), stats.binom.pmf(wins, num, p)
    dice = np.random.default_rng([num, round(100 * p), *generator.encode()])
    kind, _, model = generator.partition(": ")
    if model:
        return drawn(dice, SAMPLES, num, real_verdicts(model), kind == "drawn again"), np.full(SAMPLES, 1 / SAMPLES)
    return GENERATORS[generator](dice, SAMPLES, num, p), np.full(SAMPLES, 1 / SAMPLES)


def cell_of(generator: str, num: int, p: float, names: tuple[str, ...] = (OURS, *METHODS)) -> Cell:
    """Coverage and mean width by method."""
    (sums, sizes, truth), weights = samples_of(generator, num, p)
    cell: Cell = {"generator": generator, "num": num, "p": p, "coverage": {}, "width": {}}
    for name in names:
        with np.errstate(all="ignore"):
            low, high = used(sums, sizes) if name == OURS else METHODS[name](sums, sizes)
        cell["coverage"][name] = float(weights @ ((low <= truth + 1e-12) & (high >= truth - 1e-12)))
        cell["width"][name] = float(weights @ (high - low))
    return cell


def reward_cell(shape: str, num: int) -> Cell:
    """The same for means without bounds; widths are relative to Student's t."""
    values, truth = rewards(np.random.default_rng([num, *shape.encode()]), SAMPLES, num, shape)
    ones = np.ones_like(values)
    low, high = _in_chunks(unbounded_mean_bounds, values, ones)
    none = np.isnan(low)  # all equal: no interval is given, which is no false one
    ours = np.where(none, -np.inf, low), np.where(none, np.inf, high)
    bounds = {OURS: ours, "student_t": student_t_uncut(values, ones), "percentile": percentile_bootstrap(values, ones)}
    cell: Cell = {"generator": f"rewards: {shape}", "num": num, "p": 0.5, "coverage": {}, "width": {}}
    for name, (low, high) in bounds.items():
        finite = np.isfinite(high - low)
        cell["coverage"][name] = float(((low <= truth) & (truth <= high)).mean())
        cell["width"][name] = float((high - low)[finite].mean())
    return cell


def all_cells() -> Iterator[tuple[str, int, float]]:
    """Every cell by name, cheap ones first."""
    for num in SIZES[:-1]:
        yield from ((name, num, p) for name in GENERATORS for p in RATES)
    if DATA.is_dir():
        yield from ((f"{kind}: {m}", num, 0.5) for kind in ("drawn", "drawn again") for m in MODELS for num in DRAWS)
    yield from ((f"rewards: {shape}", num, 0.5) for shape in SHAPES for num in SIZES[:-1])
    yield from ((name, SIZES[-1], p) for name in GENERATORS for p in RATES)
    yield from ((f"rewards: {shape}", SIZES[-1], 0.5) for shape in SHAPES)


def run(path: Path) -> list[Cell]:
    """Compute what is not in the file yet, a line per cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("}\n")]  # a killed run may leave half a line
    path.write_text("".join(whole), encoding="utf-8")
    cells = [json.loads(line) for line in whole]
    there = {(cell["generator"], cell["num"], cell["p"]) for cell in cells}
    for generator, num, p in all_cells():
        if (generator, num, p) in there:
            continue
        kind, _, shape = generator.partition(": ")
        cells.append(reward_cell(shape, num) if kind == "rewards" else cell_of(generator, num, p))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cells[-1]) + "\n")
    return cells


def report(cells: list[Cell]) -> str:
    """Markdown: methods by their worst cell and width, then ours by generator."""
    simulated = [cell for cell in cells if ":" not in cell["generator"]]
    wide = [cell for cell in simulated if cell["num"] >= 50]
    worst = {name: min(cell["coverage"][name] for cell in simulated) for name in simulated[0]["coverage"]}
    widths = {name: np.mean([cell["width"][name] / cell["width"][OURS] for cell in wide]) for name in worst}
    best = min((name for name in worst if worst[name] >= LEAST), key=widths.__getitem__, default=OURS)
    to_best = [cell["width"][OURS] / cell["width"][best] for cell in wide]
    lines = [
        "| method | least coverage | cells below 93 % | width at n ≥ 50, relative to the one used |",
        "|---|---|---|---|",
    ]
    for name in sorted(worst, key=lambda name: (worst[name] < LEAST, widths[name])):
        below = sum(cell["coverage"][name] < LEAST for cell in simulated)
        lines.append(f"| {name} | {worst[name]:.3f} | {below} of {len(simulated)} | {widths[name]:.2f} |")
    lines += [
        "",
        f"Narrowest that covers everywhere: {best}; the one used is at most {max(to_best):.2f} times as wide in a cell.",
    ]
    lines += [
        "",
        "| generator | n | coverage at p = 0.5 / 0.8 / 0.9 / 0.98 | before | width to before |",
        "|---|---|---|---|---|",
    ]
    for generator in dict.fromkeys(cell["generator"] for cell in simulated):
        for num in SIZES:
            own = [cell for cell in simulated if (cell["generator"], cell["num"]) == (generator, num)]
            shown = [" / ".join(f"{cell['coverage'][name]:.3f}" for cell in own) for name in (OURS, "today")]
            ratio = " / ".join(f"{cell['width'][OURS] / max(cell['width']['today'], 1e-12):.3g}" for cell in own)
            lines.append(f"| {generator} | {num} | {shown[0]} | {shown[1]} | {ratio} |")
    lines += ["", "| draws or rewards | n | coverage | of others |", "|---|---|---|---|"]
    for cell in cells:
        if ":" in cell["generator"]:
            names = [name for name in ("today", "student_t", "percentile") if name in cell["coverage"]]
            others = ", ".join(f"{n} {cell['coverage'][n]:.3f} (ours {_times(cell, n)} wide)" for n in names)
            lines.append(f"| {cell['generator']} | {cell['num']} | {cell['coverage'][OURS]:.3f} | {others} |")
    return "\n".join(lines)


def _times(cell: Cell, name: str) -> str:
    return f"{cell['width'][OURS] / max(cell['width'][name], 1e-12):.2f} ×"


if __name__ == "__main__":
    print(report(run(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/coverage_grid.jsonl"))))
