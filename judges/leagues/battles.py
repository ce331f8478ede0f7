"""A battle: what one verdict says of two systems on one question; and battles read from files.

Files in any mixture: ``battles.jsonl`` of `aad judge --systems`, a judged folder or its ``verdicts.jsonl`` (the two
systems are named by ``summary.json``), AlpacaEval's ``annotations.json`` and battles as Arena-Hard and Chatbot Arena
keep them ("question_id", "model_a", "model_b", "winner": model_a, model_b, tie or tie (bothbad)).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.style import Style
from aad_plugin.judges.statistics.results import share_of
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.prompts import prompt_of
from aad_plugin.texts.rows import json_rows

logger = logging.getLogger(__name__)

_WINNERS = {
    "model_a": (1.0, 0.0, 0.0),
    "tie": (0.0, 1.0, 0.0),
    "tie (bothbad)": (0.0, 1.0, 0.0),
    "model_b": (0.0, 0.0, 1.0),
}
_ENDINGS = re.compile(r"(?<=.)(\.(jsonl?|ndjson|gz|zst|bz2|xz))+$")  # not what follows any dot: model-3.1 is no model-3
Shares = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Battle:
    """Two systems on one question.

    Args:
        question: what battles of one question share; they are drawn together.
        a, b: names of the systems.
        shares: how much of the battle `a` won, tied and lost; three numbers that sum to 1. None where it is unjudged.
        style_a, style_b: how the two answers are dressed; None where that is not known.
    """

    question: str
    a: str
    b: str
    shares: Shares | None
    style_a: Style | None = None
    style_b: Style | None = None


def shares_of(p: float | None, orders: Sequence[float | None] = (), *, sides: bool = False) -> Shares | None:
    """Won, tied and lost shares of a verdict.

    Each order counts alike. One half is a tie, 1 a win; p between them is that share of a win and the rest of a loss, for
    log-probabilities state no ties. Orders that contradict each other are half a win and half a loss, no tie.

    Args:
        p: p(first better), 0..1; None where unjudged. orders: p per order, where there are any.
        sides: count every order as a whole win of the side it favours, however slightly.
    """
    if p is None:
        return None
    said = [order for order in orders if order is not None] or [p]
    told = [(0.5 if one == 0.5 else float(one > 0.5)) if sides else one for one in said]
    ties = sum(one == 0.5 for one in told) / len(told)
    wins = sum(one for one in told if one != 0.5) / len(told)
    return wins, ties, max(0.0, 1 - ties - wins)


def read_battles(paths: Iterable[str | Path], *, sides: bool = False) -> list[Battle]:
    """Read battles from any mixture of files and judged folders.

    Args:
        paths: see above. sides: as in `shares_of`.
    Raises:
        ConfigError: no such file, one that is named twice, a line that is no battle, a folder that does not say which
            systems it compares.
    """
    found: list[Battle] = []
    read: set[Path] = set()
    files: dict[str, set[str]] = {}  # by the name of a system, what a judged folder calls its answers
    for path in map(Path, paths):
        if path.is_dir():
            # Of a folder that was judged into both ways the last run counts, which is the one that wrote the summary.
            names_first = (
                ("verdicts.jsonl", "battles.jsonl") if _is_of_two(path) else ("battles.jsonl", "verdicts.jsonl")
            )
            path = next((path / name for name in names_first if (path / name).is_file()), path)
        if path.is_dir():
            raise ConfigError(f"{path} holds neither battles.jsonl nor verdicts.jsonl; pass a folder that was judged")
        if path.resolve() in read:
            raise ConfigError(f"{path} is named twice: its battles would count twice")
        read.add(path.resolve())
        before = len(found)
        names: tuple[str, str] | None = None
        questions = _questions(path)
        for place, row in json_rows(path):
            if "model_a" not in row and "generator_2" not in row:
                if names is None:
                    specs = _compared(path)
                    names = system_name(specs[0]), system_name(specs[1])
                    for name, spec in zip(names, specs, strict=True):
                        of_task = questions and spec == name  # a task's run names its answers by strategy alone
                        files.setdefault(name, set()).add(f"{_answers_of(path)}#{name}" if of_task else spec)
                row = {**row, "prompt": questions.get(str(row.get("prompt")), row.get("prompt"))}
            found.append(_battle(row, place, names, sides))
        if len(found) == before:
            raise ConfigError(f"{path} holds no battles")
    for name, specs_of in files.items():
        if len(specs_of) > 1:
            logger.warning(
                "%r stands for the answers of %s: one system, if these are one model's answers; else judge again and name "
                "them, as in NAME=FILE",
                name,
                ", ".join(sorted(specs_of)),
            )
    return found


def _battle(row: Mapping[str, Any], place: str, names: tuple[str, str] | None, sides: bool) -> Battle:
    try:
        if "generator_2" in row:  # AlpacaEval: a preference of 2 is for output_2
            shares = shares_of(share_of(row["preference"]), sides=sides)
            question = prompt_hash(row["instruction"])  # as ours, so that files of either kind share their questions
            return _checked(Battle(question, row["generator_2"], row["generator_1"], shares), place)
        a, b = names or (row["model_a"], row["model_b"])
        question = str(row["question_id"] if "question_id" in row else row["prompt"])
        if "winner" in row:
            if row["winner"] not in _WINNERS:
                raise ConfigError(f"{place}: winner must be one of {', '.join(_WINNERS)}, got {row['winner']!r}")
            shares = _WINNERS[row["winner"]]
        else:
            shares = shares_of(row.get("p"), row.get("orders") or (), sides=sides)
        styles = [None if row.get(name) is None else Style.of_json(row[name]) for name in ("style_a", "style_b")]
        return _checked(Battle(question, a, b, shares, *styles), place)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{place} is no battle ({type(error).__name__}: {error}); it needs question_id, model_a, model_b and winner, "
            "or the fields of verdicts.jsonl"
        ) from error


def _checked(battle: Battle, place: str) -> Battle:
    if not (isinstance(battle.a, str) and isinstance(battle.b, str) and battle.a and battle.b) or battle.a == battle.b:
        raise ConfigError(f"{place}: a battle needs two different systems, got {battle.a!r} and {battle.b!r}")
    if battle.shares and not (all(math.isfinite(x) and -1e-9 <= x <= 1 + 1e-9 for x in battle.shares)):
        raise ConfigError(f"{place}: p must lie within 0 and 1, got shares {battle.shares}")
    return battle


def _is_of_two(folder: Path) -> bool:
    try:
        content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "systems" not in content and "baseline" in content


def _answers_of(verdicts: Path) -> Path:
    """Where a task's judged run keeps the answers that its verdicts are about."""
    return verdicts.parent.parent / "answers.jsonl"


def _questions(verdicts: Path) -> dict[str, str]:
    """The prompts' hashes by document, of a task's judged folder, whose verdicts name documents; {} of others."""
    answers = _answers_of(verdicts)
    if not (verdicts.parent.name.startswith("vs_") and answers.is_file()):
        return {}
    found = {}
    for place, row in json_rows(answers):
        if "id" in row:
            plain = {name: value for name, value in row.items() if name != "pictures"}
            shown = [str(name) for name in row.get("pictures") or ()]  # named by what they show
            found[str(row["id"])] = " ".join([prompt_hash(prompt_of(plain, place)), *shown])
    return found


def _compared(path: Path) -> tuple[str, str]:
    """What a judged folder's summary calls the answers of its two systems."""
    summary = path.parent / "summary.json"
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        return str(content["candidate"]), str(content["baseline"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} does not say which two systems it compares: {summary} should name candidate and baseline "
            f"({type(error).__name__}: {error})"
        ) from error


def system_name(spec: str) -> str:
    """The name of a system from how its answers are named, see `named_file`."""
    return named_file(spec)[0]


def named_file(spec: str) -> tuple[str, str]:
    """(name, file) of NAME=FILE; without a name it is the strategy of FILE#strategy, else the file's without endings."""
    name, equals, file = spec.partition("=")
    without_strategy, _, strategy = spec.rpartition("#") if "#" in spec else (spec, "", "")
    if equals and name and "/" not in name and not (Path(spec).exists() or Path(without_strategy).exists()):
        return name, file
    return strategy or _ENDINGS.sub("", Path(without_strategy).name) or spec, spec
