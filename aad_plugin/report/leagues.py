"""Leagues of many systems, as ``league.json`` holds them, for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LEAGUE_FILE = "league.json"
_NUMBERS = ("score", "win_rate", "wins", "ties", "losses", "rank_low", "rank_high")


def is_league(folder: Path) -> bool:
    """Whether a folder's verdicts are those of many systems: they are no comparison of two."""
    return (folder / LEAGUE_FILE).is_file() or (folder / "battles.jsonl").is_file()


def read_leagues(files: Iterable[Path], problems: list[str]) -> list[dict[str, Any]]:
    """Read every ``league.json``: its title, standings and effects of style; what cannot be read is said in one line."""
    found = []
    for path in files:
        if path.name != LEAGUE_FILE:
            continue
        try:
            found.append(_league(path, json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path} is no league ({type(error).__name__}: {error}): left out")
    return found


def _league(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    standings = []
    for one in content["standings"]:
        if not all(isinstance(one[name], int | float) and math.isfinite(one[name]) for name in _NUMBERS):
            raise ValueError(f"the standing of {one['system']!r} lacks a number")
        ends = {name: one[name] if isinstance(one[name], int | float) else None for name in ("low", "high", "elo")}
        kept = {name: one[name] for name in ("system", *_NUMBERS)}
        standings.append({**kept, **ends, "tied_with": list(map(str, one["tied_with"])), "note": str(one["note"])})
    effects = [
        {name: one[name] for name in ("feature", "value", "low", "high", "unit")} for one in content.get("effects", [])
    ]
    return {
        "name": path.parent.name,
        "model": str(content["model"]),
        "zero": str(content["zero"]),
        "battles": content["battles"],
        "questions": content["questions"],
        "standings": standings,
        "effects": effects,
    }
