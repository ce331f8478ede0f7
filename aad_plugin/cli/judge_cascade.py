"""`aad judge --cascade`: a cheap judge everywhere, a dear one where it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from aad_plugin.errors import ConfigError


def judge_by_cascade(
    items: list[Any], cheap: list[Any], dear: Any, share: float, seed: int, output: Path, sitting: dict[str, Any]
) -> dict[str, Any]:
    """Judge, write ``cascade.jsonl`` and ``cascade.json``, print the estimate; return the figures.

    Raises:
        ConfigError: several cheap judges, or what `cascading.cascade` refuses.
    """
    from aad_plugin.judges.sitting.cascading import cascade, write_cascade
    from aad_plugin.judges.statistics.cascade import RANDOM_SHARE, chances_of_asking

    if len(cheap) != 1:
        raise ConfigError(f"a cascade has one cheap judge, got {len(cheap)}: pass --judge once")
    if sitting["max_cost"] is not None:
        raise ConfigError("a cascade's cost is set by --dear-share: leave --max-cost out")
    least = min(RANDOM_SHARE, share)
    chances_of_asking([1.0], share, least)  # a wrong share shows before anything is asked
    rows, figures = cascade(items, cheap[0], dear, output, share=share, least=least, seed=seed, **sitting)
    write_cascade(output, rows, figures)
    _print(figures)
    return figures


def _print(figures: dict[str, Any]) -> None:
    low, high = figures["ci95"]
    typer.echo(
        f"win rate {_pct(figures['win_rate'])}, 95 % [{_pct(low)}, {_pct(high)}]\n{figures['source']}\n"
        f"the cheap judge alone says {_pct(figures['cheap_win_rate'])}; the two favour the same side on about "
        f"{_pct(figures['agreement'])} of the items; {figures['n_unjudged']} of {figures['n']} unjudged"
    )
    costs = [figures["cost_cheap"], figures["cost_dear"]]
    if None not in costs:
        typer.echo(f"cost {sum(costs):.4f}: {costs[0]:.4f} for the cheap judge, {costs[1]:.4f} for the dear one")


def _pct(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f} %"
