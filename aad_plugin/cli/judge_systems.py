"""`aad judge --systems`: many systems against each other; and the table of a league, which `aad league` shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from aad_plugin.errors import ConfigError


def finish_systems(
    meetings: Sequence[Any],
    verdicts: Sequence[Any],
    output: Path,
    clean: Callable[[str], str],
    **league: Any,
) -> Any:
    """Write ``battles.jsonl``, ``verdicts.jsonl`` and ``league.json``, show the table; return the verdicts' `Summary`.

    Args:
        meetings: from `meetings_of`, one per verdict. clean: takes secrets out of a text. league: of `rank`.
    """
    from aad_plugin.judges.leagues.files import battle_row, write_battles
    from aad_plugin.judges.statistics.results import versions, write_results
    from aad_plugin.judges.statistics.summary import summarize

    write_battles(output, (battle_row(v, one.a, one.b, one.styles) for v, one in zip(verdicts, meetings, strict=True)))
    summary = summarize(verdicts)
    # A win rate over pairs of many systems means nothing; how the judge behaved does.
    about = summary.to_json()
    kept = (
        "judge", "judge_fingerprint", "template_hash", "n", "n_unjudged", "n_not_asked", "unjudged", "prompt_tokens",
        "completion_tokens", "cost", "models", "system_fingerprints", "position_consistency", "first_position_rate",
        "ties_by_agreement", "ties_by_disagreement", "drift", "languages", "criteria", "criteria_correlation",
    )  # fmt: skip
    command = clean(" ".join(["aad", *sys.argv[1:]]))
    content = {name: about[name] for name in kept if name in about}
    content |= {"systems": list(dict.fromkeys(name for one in meetings for name in (one.a, one.b)))}
    write_results(output, verdicts, content | {"versions": versions(), "command": command})
    rank([output / "battles.jsonl"], output, command=command, **league)
    return summary


def meetings_of(
    specs: Sequence[str], anchors: Sequence[str], prompt_field: str | None, allow_unmatched: bool
) -> list[Any]:
    """The comparisons of a league: every pair, or every system against each anchor."""
    from aad_plugin.judges.leagues import schedule

    return schedule.meetings_of(schedule.systems_of(specs), anchors, prompt_field, allow_unmatched)


def rank(
    sources: Sequence[Path],
    output: Path | None,
    *,
    anchor: str | None = None,
    style: str = "",
    sides: bool = False,
    elo: bool = False,
    draws: int = 1000,
    seed: int = 0,
    command: str = "",
) -> None:
    """Read battles, estimate the league, print it and, with `output`, write ``league.json``."""
    from aad_plugin.judges.leagues.battles import read_battles
    from aad_plugin.judges.leagues.elo import elo_ratings
    from aad_plugin.judges.leagues.files import league_json, print_league, write_league
    from aad_plugin.judges.leagues.style import chosen_features
    from aad_plugin.judges.leagues.table import league_of
    from aad_plugin.judges.statistics.results import versions

    if draws < 100:
        raise ConfigError(f"intervals need at least 100 draws, got {draws}")
    features = chosen_features(style) if style else ()
    battles = read_battles(sources, sides=sides)
    league = league_of(battles, anchor=anchor, style=features, draws=draws, seed=seed)
    ratings = elo_ratings(battles, draws=draws, seed=seed) if elo else []
    print_league(league, ratings)
    if output is not None:
        about = {"sources": [str(path) for path in sources], "sides": sides, "seed": seed, "versions": versions()}
        write_league(output, league_json(league, ratings) | about | ({"command": command} if command else {}))
        typer.echo(f"written to {output / 'league.json'}")
