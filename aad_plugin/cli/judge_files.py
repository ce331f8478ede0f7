"""What `aad judge` reads before it judges: answers, labels, difficulties; and whether its judges can judge them at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError


def items_of(candidate: str, baseline: str, prompt_field: str | None, allow_unmatched: bool) -> list[Any]:
    """Comparisons of two files, or the answers of one."""
    from aad_plugin.judges.leagues.battles import named_file
    from aad_plugin.judges.pairing import pair_rows, single_rows
    from aad_plugin.texts.answer_files import has_field, read_answers

    candidate, baseline = named_file(candidate)[1], named_file(baseline)[1]
    if not baseline:
        return single_rows(read_answers(candidate, prompt_field, joined=False))
    # A foreign task's field need not stand in the other file; in one of them it must.
    has = [prompt_field is not None and has_field(file, prompt_field) for file in (candidate, baseline)]
    fields = [prompt_field if found or not any(has) else None for found in has]
    return pair_rows(read_answers(candidate, fields[0]), read_answers(baseline, fields[1]), allow_unmatched)


def check_run(items: list[Any], judges: list[Any], repeats: int, transport: str, max_cost: float | None) -> None:
    """Refuse what cannot be judged before any judge is asked, and paid, for it."""
    from aad_plugin.judges import Comparison
    from aad_plugin.judges.sitting.judging import check_terms

    if transport == "file" and sum("file" in one.transports for one in judges) > 1:
        raise ConfigError(
            "by --transport file one judge is asked at a time, since all would write the same requests.jsonl: judge with "
            "each into an --output of its own, or by another transport"
        )
    pairs = isinstance(items[0], Comparison)
    for one in judges:
        check_terms(one, transport_of(transport, one, judges), max_cost)
        if one.kind == "pairwise" and not pairs:
            raise ConfigError(f"{one.name} compares: pass --baseline FILE, or a pointwise --template (grade, refusal)")
        if one.kind == "pointwise" and pairs:
            raise ConfigError(
                f"{one.name} judges answers one by one: leave --baseline out, or choose another --template"
            )
        if one.kind == "pointwise" and len(judges) > 1:
            raise ConfigError(f"a jury is made of pairwise judges, {one.name} judges answers one by one; run it alone")
        if one.kind == "pointwise" and repeats:
            raise ConfigError(f"--repeats measures the noise of win rates, {one.name} gives none: leave it out")


def verdicts_of(path: Path) -> list[Any]:
    """Verdicts of an earlier run, or AlpacaEval's annotations."""
    from aad_plugin.judges.statistics.results import read_verdicts

    summary = _summary_beside(path)
    if "systems" in summary:
        raise ConfigError(
            f"{path} holds verdicts on {len(summary['systems'])} systems, of which one win rate would mean nothing: rank "
            f"them with aad league {path.parent}"
        )
    return read_verdicts(path)


def sides_of(path: Path) -> tuple[str, str]:
    """Whose answers an earlier run compared, as its summary says: candidate and baseline; "" where it does not say."""
    summary = _summary_beside(path)
    return str(summary.get("candidate", "")), str(summary.get("baseline", ""))


def _summary_beside(path: Path) -> dict[str, Any]:
    """The summary of a run's verdicts.jsonl; {} of other files, and where none can be read."""
    try:
        summary = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if path.name == "verdicts.jsonl" and isinstance(summary, dict) else {}


def unjudged(items: list[Any], one: Any) -> list[Any]:
    """Items as verdicts still to come: what files of labels and difficulties are held against."""
    from aad_plugin.judges import Verdict
    from aad_plugin.texts.messages import prompt_hash

    return [Verdict(item.id, prompt_hash(item.prompt), one.name, reason="not_asked") for item in items]


def data_of(
    verdicts: list[Any],
    labels: Path | None,
    difficulties: Path | None,
    gamed: Path | None,
    prompt_field: str | None,
    judge: Any = None,
    items: Sequence[Any] = (),
) -> dict[str, Any]:
    """What the statistics need besides verdicts, read and checked; of `judge` and `items` where there are none yet."""
    from aad_plugin.alpaca.instructions import refuse_other_order
    from aad_plugin.judges.checks.label_files import read_labels
    from aad_plugin.judges.checks.label_menu import menu_of_judge
    from aad_plugin.judges.statistics.official import check_official
    from aad_plugin.judges.statistics.results import read_difficulties
    from aad_plugin.judges.statistics.summary import check_difficulties

    if gamed is not None:
        check_official(len(verdicts), gamed)
    if gamed is not None or difficulties is not None:
        refuse_other_order({verdict.id: verdict.prompt for verdict in verdicts})
    menu = menu_of_judge(judge) if judge else None
    hardness = read_difficulties(difficulties) if difficulties else None
    if hardness is not None:
        check_difficulties(verdicts, hardness)
    return {
        "labels": read_labels(labels, verdicts, prompt_field, menu, items) if labels else None,
        "difficulties": hardness,
        "gamed": gamed,
    }


def transport_of(chosen: str, one: Any, judges: list[Any]) -> str:
    """The transport for one member of a jury: the chosen one, or live where others can use it and this one cannot."""
    if any(chosen in other.transports for other in judges):
        return chosen if chosen in one.transports else "live"
    return chosen
