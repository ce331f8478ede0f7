"""What a league leaves on disk and on the screen: ``battles.jsonl``, ``league.json``, a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import JudgeError
from aad_plugin.files.whole import replacing, without_nan
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.leagues.elo import Rating
from aad_plugin.judges.leagues.style import Style
from aad_plugin.judges.leagues.table import League

LEAGUE_FILE = "league.json"
BATTLES_FILE = "battles.jsonl"


def battle_row(verdict: Verdict, a: str, b: str, styles: tuple[Style, Style] | None = None) -> dict[str, Any]:
    """A verdict on two systems as a line of ``battles.jsonl``; `p` and `orders` are for `a`."""
    row: dict[str, Any] = {
        "question_id": verdict.prompt,
        "model_a": a,
        "model_b": b,
        "p": verdict.p,
        "orders": list(verdict.orders),
    }
    if not verdict.judged:
        row["reason"] = verdict.reason
    if styles:
        row |= {name: dataclasses.asdict(style) for name, style in zip(("style_a", "style_b"), styles, strict=True)}
    return row | {"id": verdict.id}


def league_json(league: League, ratings: Sequence[Rating] = ()) -> dict[str, Any]:
    """All figures, ready for `json.dumps`; what is infinite becomes null, and `unbounded` names it."""
    content = dataclasses.asdict(league)
    for standing in content["standings"]:
        standing["unbounded"] = [side for side in ("low", "high") if not math.isfinite(standing[side])]
    if ratings:
        content["sequential_elo"] = [dataclasses.asdict(rating) for rating in ratings]
    return without_nan(content)


def write_league(folder: str | Path, content: Mapping[str, Any]) -> None:
    """Write ``league.json``, whole or not at all."""
    _write(Path(folder) / LEAGUE_FILE, json.dumps(content, indent=2) + "\n")


def write_battles(folder: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``battles.jsonl``, whole or not at all."""
    _write(Path(folder) / BATTLES_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write {path}: {error.strerror or error}") from error


def print_league(league: League, ratings: Sequence[Rating] = ()) -> None:
    """Print the table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{league.model}; score 0 is {league.zero}", title_justify="left")
    sequential = {rating.system: rating for rating in ratings}
    columns = ["rank", "system", "score (log-odds)", "Elo", "win rate", "won / tied / lost", "tied with"]
    for name in [*columns, *(["sequential Elo"] if ratings else [])]:
        table.add_column(name)
    for one in league.standings:
        ranks = f"{one.rank_low}" if one.rank_low == one.rank_high else f"{one.rank_low} to {one.rank_high}"
        row = [
            ranks, one.system, f"{one.score:.2f} {_interval(one.low, one.high, 2)}",
            f"{one.elo:.0f} {_interval(one.elo_low, one.elo_high, 0)}", f"{100 * one.win_rate:.1f} %",
            f"{one.wins:g} / {one.ties:g} / {one.losses:g}", ", ".join(one.tied_with),
        ]  # fmt: skip
        if ratings:
            rating = sequential[one.system]
            row.append(f"{rating.value:.0f} {_interval(rating.low, rating.high, 0)}")
        table.add_row(*row)
    console = Console(markup=False)
    console.print(table)
    for effect in league.effects:
        console.print(
            f"style, {effect.feature}: {effect.value:+.3f} {_interval(effect.low, effect.high, 3)} log-odds per "
            f"{effect.unit:.3g}"
        )
    ties = f", a tie between equals {100 * league.tie_rate:.1f} %" if league.tie_rate else ""
    console.print(f"{league.battles} battles on {league.questions} questions, {league.unjudged} unjudged{ties}")
    for note in league.notes:
        console.print(f"NOTE: {note}")


def _interval(low: float, high: float, digits: int) -> str:
    if math.isinf(low) and math.isinf(high):
        return "(no bounds)"
    if math.isinf(high):
        return f"(at least {low:.{digits}f})"
    if math.isinf(low):
        return f"(at most {high:.{digits}f})"
    return f"[{low:.{digits}f}, {high:.{digits}f}]"
