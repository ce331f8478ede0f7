"""What a run leaves behind: ``verdicts.jsonl``, ``summary.json``, a table; and verdicts read back from files."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.files.whole import replacing
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.summary import Summary
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.rows import json_rows

_TUPLES = ("orders", "repeats", "models", "system_fingerprints", "rulings", "challenged")
_FIELDS = {field.name for field in dataclasses.fields(Verdict)}


def write_results(folder: str | Path, verdicts: Iterable[Verdict], summary: Mapping[str, Any]) -> None:
    """Write ``verdicts.jsonl`` and ``summary.json``, each whole or not at all.

    Raises:
        JudgeError: the disk is full; the store keeps all rulings.
    """
    folder = Path(folder)
    lines = "".join(json.dumps(verdict.to_json()) + "\n" for verdict in verdicts)
    try:
        for name, text in (("verdicts.jsonl", lines), ("summary.json", json.dumps(summary, indent=2) + "\n")):
            with replacing(folder / name) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write to {folder}: {error.strerror or error}; all rulings are kept") from error


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Read ``verdicts.jsonl``, or AlpacaEval's ``annotations.json`` (output_2 is the candidate there).

    Raises:
        ConfigError: no such file, a malformed line, no verdicts in it.
    """
    verdicts = []
    for number, (place, entry) in enumerate(json_rows(Path(path))):
        try:
            verdicts.append(_annotation(entry, number) if "generator_2" in entry else verdict_of(entry))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{place} is no verdict: {type(error).__name__} {error}") from error
    if not verdicts:
        raise ConfigError(f"{path} holds no verdicts")
    return verdicts


def read_difficulties(path: str | Path) -> dict[str, float]:
    """AlpacaEval's instruction difficulties by item id, from a CSV with the columns index and instruction_difficulty.

    index counts rows of the baseline's file from 0, which is how items are numbered.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            return {str(int(row["index"])): float(row["instruction_difficulty"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} must be a CSV with columns index, instruction_difficulty: {error!r}") from error


def versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    found = {"python": platform.python_version()}
    for name in ("aad_plugin", "openai", "alpaca_eval", "torch", "transformers", "numpy", "scipy", "statsmodels"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def print_summary(summary: Summary) -> None:
    """Print the figures as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary.judge} ({summary.kind})", title_justify="left", show_header=False)
    for name, text in _lines(summary):
        table.add_row(name, text)
    Console(markup=False).print(table)


def _lines(summary: Summary) -> Sequence[tuple[str, str]]:
    lines = [
        ("items", f"{summary.n}" + (f", {summary.n_not_asked} more not asked: partial" if summary.partial else ""))
    ]
    if summary.n_unjudged:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.unjudged.items())
        lines.append(("unjudged", f"{summary.n_unjudged} ({reasons})"))
        if summary.kind == "pairwise":
            lines.append(("win rate if all of them", f"lost {_pct(summary.worst_case)}, won {_pct(summary.best_case)}"))
    lines += _pairwise_lines(summary) if summary.kind == "pairwise" else _pointwise_lines(summary)
    if summary.prompt_tokens:
        money = "" if summary.cost is None else f", cost {summary.cost:.4f}"
        lines.append(("judge tokens", f"{summary.prompt_tokens} in, {summary.completion_tokens} out{money}"))
    if summary.drift:
        named = [*summary.models, *summary.system_fingerprints]
        lines.append(("WARNING", f"the judge changed within the run: {', '.join(named)}"))
    return [*lines, *((name, _shown(value)) for name, value in summary.extra.items())]


def _pairwise_lines(summary: Summary) -> list[tuple[str, str]]:
    agree, disagree = summary.ties_by_agreement, summary.ties_by_disagreement
    judged = summary.wins + summary.losses + summary.ties
    if judged and disagree == judged:
        # Every p is one half then; a rate of 50 % within [50 %, 50 %] would look like a sure tie.
        rates = [("win rate", "none: every order contradicts the other, the judge says nothing about the answers")]
    else:
        rates = [
            ("win rate", f"{_pct(summary.win_rate)} ± {_pct(summary.standard_error)}, 95 % {_range(summary.ci95)}"),
            ("", f"{summary.ci_method}, {summary.n_prompts} prompts"),
            ("length-controlled", f"{_pct(summary.lc_win_rate)}, 95 % {_range(summary.lc_ci95)}"),
            ("", summary.lc_method),
        ]
    return [
        *rates,
        ("wins, losses, ties", f"{summary.wins}, {summary.losses}, {summary.ties}"),
        ("orders", f"{agree} ties by agreement, {disagree} contradictions"),
        ("position consistency", _pct(summary.position_consistency)),
        ("first position rate", _pct(summary.first_position_rate)),
        ("mean length", f"{summary.candidate_length:.0f} against {summary.baseline_length:.0f} characters"),
    ]


def _pointwise_lines(summary: Summary) -> list[tuple[str, str]]:
    lines = [(label, _pct(share)) for label, share in summary.labels.items()]
    if not math.isnan(summary.grade):
        lines.append(("grade", f"{summary.grade:.3f} ± {summary.grade_standard_error:.3f}"))
    return [*lines, ("mean length", f"{summary.candidate_length:.0f} characters")]


def _pct(share: float) -> str:
    return "none" if math.isnan(share) else f"{100 * share:.2f} %"


def _range(bounds: Sequence[float]) -> str:
    return f"[{_pct(bounds[0])}, {_pct(bounds[1])}]"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    return ", ".join(_shown(inner) for inner in value) if isinstance(value, list | tuple) else str(value)


def verdict_of(entry: Mapping[str, Any]) -> Verdict:
    """The verdict of one line of ``verdicts.jsonl``.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    known: dict[str, Any] = {
        name: tuple(value) if name in _TUPLES else value for name, value in entry.items() if name in _FIELDS
    }
    if by_name := entry.get("criteria"):
        known["criteria"] = {name: tuple(orders) for name, orders in by_name.items()}
    verdict = Verdict(**known)
    for name, text in (("id", verdict.id), ("prompt", verdict.prompt), ("judge", verdict.judge)):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be a text, got {text!r}")
    by_criterion = [p for orders in (verdict.criteria or {}).values() for p in orders]
    single = (verdict.p, *verdict.orders, *verdict.repeats, *verdict.challenged, *by_criterion)
    for p in (*single, *(verdict.members or {}).values()):
        if p is not None and not (_is_number(p) and 0 <= p <= 1):
            raise ValueError(f"p lies between 0 and 1, got {p!r}")
    if verdict.grade is not None and not _is_number(verdict.grade):
        raise ValueError(f"a grade is a number, got {verdict.grade!r}")
    sizes = (verdict.candidate_length, verdict.baseline_length, verdict.prompt_tokens, verdict.completion_tokens)
    for value in (*sizes, verdict.cost or 0):
        if not (_is_number(value) and value >= 0):
            raise ValueError(f"lengths, tokens and cost are numbers of at least 0, got {value!r}")
    if verdict.judged and verdict.p is None and verdict.grade is None and verdict.label is None:
        raise ValueError("there is neither a p, grade or label, nor a reason why there is none")
    return verdict


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def share_of(preference: Any) -> float | None:
    """AlpacaEval's preference as p(output_2 better): 1 to 2 become 0 to 1, and 0, which upstream once wrote, is a tie.

    Returns:
        None for what upstream writes where it could not read a verdict: null, NaN, -1, or anything else.
    """
    if not _is_number(preference):
        return None
    return 0.5 if preference == 0 else preference - 1 if 1 <= preference <= 2 else None


def _annotation(entry: Mapping[str, Any], number: int) -> Verdict:
    """One row of AlpacaEval's annotations, see `share_of`."""
    p = share_of(entry["preference"])
    return Verdict(
        id=str(number),
        prompt=prompt_hash(entry["instruction"]),
        judge=f"alpaca_eval:{entry['annotator']}",
        judge_fingerprint="",
        p=p,
        reason="unreadable" if p is None else None,
        candidate_length=len(entry["output_2"]),
        baseline_length=len(entry["output_1"]),
    )
